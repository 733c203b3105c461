//! `drill`: moves of the primary, which are another crate's, and restores, which need the archive.

mod check;
mod course;
pub mod place;
mod reading;
mod shown;

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use jiff::Zoned;
use matriarch_api::{DrillKind, DrillLog, DrillResult};
use matriarch_cli::{Failure, Target, Ui, code};
use matriarch_config::LocalConfig;
use matriarch_drill::{Attempt, DrillVerb, Interrupt, Practice, WhenArgs};

use crate::backup::{FromArgs, GoalArgs, WhereArgs, archives};
use crate::cluster::{self, Which};
use course::{Course, Drilled, Whence};

/// What to practise.
#[derive(Debug, Subcommand)]
pub enum Drill {
    #[command(flatten)]
    Move(DrillVerb),
    /// Restore the newest backup beside everything else, start it, and read it
    #[command(
        long_about = "Restores a backup and its WAL into a temporary directory, starts PostgreSQL on it, counts databases and \
        relations, asks your own queries, and removes it all. That server has a private socket and nothing else: no port, no \
        archiving, no replication, no background workers, no commands of the restored settings. A query that fails, or answers \
        with a single false, fails the drill. It tells how long each step took; the cluster itself is not touched.",
        after_long_help = "Examples:\n  matriarch drill restore\n  matriarch drill restore --database shop --query 'select \
        max(at) > now() - interval $$1 hour$$ from orders'\n  matriarch drill restore --scratch /srv/scratch --every 1d --between \
        02:00-04:00\n  matriarch drill restore --to '2026-11-22 06:00:00+01:00' --dry-run\n  matriarch drill restore --from \
        pgbackrest:/var/lib/pgbackrest"
    )]
    Restore(Box<RestoreArgs>),
}

/// `drill restore`.
#[derive(Args, Clone, Debug)]
pub struct RestoreArgs {
    #[command(flatten)]
    goal: GoalArgs,
    /// Asked of the restored server, and its answer shown; may be given several times
    #[arg(long, value_name = "SQL", help_heading = "Reading")]
    query: Vec<String>,
    /// Database that queries are asked in
    #[arg(long, value_name = "NAME", default_value = "postgres", help_heading = "Reading")]
    database: String,
    /// Superuser of the restored server; the cluster's unless given, else postgres
    #[arg(long, value_name = "NAME", help_heading = "Reading")]
    username: Option<String>,
    /// Whether relations (pg_amcheck) and page checksums (pg_checksums) are looked through: `auto` up to 1 GB, and where they are
    /// installed
    #[arg(long, value_enum, default_value_t, help_heading = "Reading")]
    check: Check,
    /// Where the temporary directory is made; this machine's temporary folder unless given
    #[arg(long, value_name = "DIR", help_heading = "Place")]
    scratch: Option<PathBuf>,
    /// Directory of PostgreSQL's programs, of the major version of the backup; looked for unless given
    #[arg(long, value_name = "DIR", help_heading = "Place")]
    bin_dir: Option<PathBuf>,
    /// User that PostgreSQL runs as when root practises; postgres unless given
    #[arg(long, value_name = "USER", help_heading = "Place")]
    owner: Option<String>,
    /// Packs that are read at a time
    #[arg(long, value_name = "COUNT", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64), help_heading = "Place")]
    jobs: u16,
    #[command(flatten)]
    when: WhenArgs,
    #[command(flatten)]
    place: WhereArgs,
    #[command(flatten)]
    from: FromArgs,
}

/// Whether the data is checked beyond being read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Check {
    /// When the programs are there and the data is small.
    #[default]
    Auto,
    /// Whatever it takes.
    Always,
    /// Not at all.
    Never,
}

/// Does what the verb says.
pub async fn run(drill: Drill, which: &Which, ui: &mut Ui) -> anyhow::Result<()> {
    match drill {
        Drill::Move(verb) => {
            let target = cluster::find(which).await?.target();
            matriarch_drill::run(verb, &target, ui).await
        }
        Drill::Restore(args) => restore(&args, which, ui).await,
    }
}

async fn restore(args: &RestoreArgs, which: &Which, ui: &mut Ui) -> anyhow::Result<()> {
    let what = match (&args.place.archive, args.from.foreign()?) {
        (_, Some(_)) => Some("the repository is another tool's"),
        (Some(_), None) => Some("the archive is named by a file"),
        (None, None) => None,
    };
    let target = match what {
        None => Some(cluster::find(which).await?.target()),
        Some(what) => {
            ui.note(&format!("{what}: no cluster is asked, and the result is shown here only"));
            None
        }
    };
    let mut practice = Restores { args, which, target, own: DrillLog::default(), last: None };
    if args.when.dry_run {
        return practice.rehearse(ui).await;
    }
    let stop = Interrupt::listen()?;
    if let Some(every) = args.when.every {
        return matriarch_drill::keep_on(&mut practice, ui, every, stop).await;
    }
    match practice.attempt(ui, &stop).await? {
        Attempt::Refused(reasons) => return Err(matriarch_drill::refusal(&reasons)),
        Attempt::Done(_) => {}
    }
    let Some(drilled) = practice.last else { return Ok(()) };
    let shown = [shown::Shown { record: &drilled.record, answers: &drilled.answers }];
    ui.show(&shown, || shown::parts(&drilled.record, &drilled.answers))?;
    match drilled.record.result {
        DrillResult::Passed => Ok(()),
        _ => {
            let text = format!("the drill has not passed: {}", drilled.record.note);
            Err(Failure::new(code::SOFTWARE, text).into())
        }
    }
}

/// Restore drills of one cluster.
struct Restores<'a> {
    args: &'a RestoreArgs,
    which: &'a Which,
    /// Where results are kept; none when the archive alone is known.
    target: Option<Target>,
    /// What was done here, where nobody else keeps it.
    own: DrillLog,
    /// The newest one, with what its queries answered.
    last: Option<Drilled>,
}

impl Restores<'_> {
    fn superuser(&self) -> String {
        let configured = || {
            let config = LocalConfig::load(self.which.config.as_ref()?).ok()?;
            Some(config.postgresql.authentication.superuser.username)
        };
        let known = || self.target.as_ref().map(|target| target.connection.superuser.clone());
        let named = self.args.username.clone().or_else(configured).or_else(known);
        named.filter(|name| !name.is_empty()).unwrap_or_else(|| "postgres".to_owned())
    }

    async fn whence(&self) -> anyhow::Result<Whence> {
        Ok(match self.args.from.foreign()? {
            Some(foreign) => Whence::Theirs(Box::new(foreign)),
            None => Whence::Ours(Box::new(archives::find(self.which, &self.args.place).await?)),
        })
    }

    async fn untimely(&mut self) -> anyhow::Result<Vec<String>> {
        let log = self.log().await?;
        Ok(matriarch_drill::untimely(&self.args.when, DrillKind::Restore, &log, &Zoned::now()))
    }

    async fn rehearse(&mut self, ui: &mut Ui) -> anyhow::Result<()> {
        let mut reasons = self.untimely().await?;
        let whence = self.whence().await?;
        let course = Course { args: self.args, whence: &whence, superuser: self.superuser() };
        let plan = course.rehearse(&mut reasons, ui).await;
        let data = shown::Rehearsal { plan, possible: reasons.is_empty(), refused_because: reasons };
        ui.show(&data, || data.parts())?;
        if data.possible { Ok(()) } else { Err(matriarch_drill::refusal(&data.refused_because)) }
    }
}

impl Practice for Restores<'_> {
    fn kind(&self) -> DrillKind {
        DrillKind::Restore
    }

    async fn log(&mut self) -> anyhow::Result<DrillLog> {
        match &self.target {
            Some(target) => matriarch_drill::look(target).await.map(|(_, log)| log),
            None => Ok(self.own.clone()),
        }
    }

    async fn attempt(&mut self, ui: &mut Ui, stop: &Interrupt) -> anyhow::Result<Attempt> {
        let reasons = self.untimely().await?;
        if !reasons.is_empty() {
            return Ok(Attempt::Refused(reasons));
        }
        let whence = self.whence().await?;
        let course = Course { args: self.args, whence: &whence, superuser: self.superuser() };
        let drilled = match course.run(ui, stop).await? {
            Ok(drilled) => drilled,
            Err(reasons) => return Ok(Attempt::Refused(reasons)),
        };
        match &self.target {
            Some(target) => matriarch_drill::keep(target, &drilled.record).await?,
            None => self.own.add(drilled.record.clone()),
        }
        let records = vec![drilled.record.clone()];
        self.last = Some(drilled);
        Ok(Attempt::Done(records))
    }
}
