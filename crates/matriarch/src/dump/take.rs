//! Taking a dump of a server that can be connected to.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use matriarch_archive::archive::Archive;
use matriarch_archive::dump::{self, DumpError, Format, Options, Policy};
use matriarch_archive::progress::Progress;
use matriarch_cli::{Failure, Part, Tone, Ui, code, units};

use super::list::Line;
use super::server::{self, ServerArgs};
use crate::backup::archives::Found;
use crate::backup::fail::failed;
use crate::backup::meter::{Meter, interrupted};
use crate::backup::server::Side;
use crate::backup::several::Each;
use crate::backup::take::{Missing, new_name};
use crate::cluster::Which;
use crate::drill::place::{self, Place};

/// What is dumped, and how.
#[derive(Args, Clone, Debug, Default)]
pub struct TakeArgs {
    #[command(flatten)]
    pub server: ServerArgs,
    /// The primary, or the first by name of the standbys that are not tagged `nobackup`
    #[arg(long, value_name = "ROLE", value_enum, conflicts_with_all = ["dsn", "member"], help_heading = "Which server")]
    pub from: Option<Side>,
    /// Only this database; may be given several times
    #[arg(long = "database", value_name = "NAME")]
    pub databases: Vec<String>,
    /// How databases lie in the dump: `custom` streams, `directory` is written by several sessions (--jobs) to --scratch first
    #[arg(long, value_enum, default_value_t)]
    pub format: Form,
    /// Sessions side by side for each database
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub jobs: u16,
    /// Leave out roles and tablespaces
    #[arg(long)]
    pub no_globals: bool,
    /// Directory with room for a database in the directory format; the system's temporary directory unless given
    #[arg(long, value_name = "DIR")]
    pub scratch: Option<PathBuf>,
    /// As the agents begin it: only if one is due by the schedule and nobody takes it yet
    #[arg(long, hide = true, conflicts_with_all = ["dsn", "member"])]
    pub scheduled: bool,
}

/// pg_dump's formats that can be restored in parts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Form {
    #[default]
    Custom,
    Directory,
}

/// A dump that was taken.
pub struct Taken {
    pub name: String,
    /// One for each repository that has it.
    pub lines: Vec<Line>,
    /// Where it is not, and why.
    pub missing: Option<Missing>,
}

/// `dump`.
pub async fn take(args: TakeArgs, which: &Which, found: &Found, ui: &mut Ui) -> anyhow::Result<()> {
    let Some(Taken { name, lines, missing }) = into_all(&args, which, found, interrupted()?).await? else {
        return Err(Failure::new(code::TEMPORARY, "interrupted: there is no dump").into());
    };
    ui.show(&lines, || {
        let stored = lines.iter().map(|line| format!("{} stored in {}", units::bytes(line.stored), line.repository));
        let (size, count) = lines.first().map_or((0, 0), |line| (line.size, line.databases.len()));
        let stored = stored.collect::<Vec<_>>().join(", ");
        let text = format!(
            "Dump {name}: {count} {}, {}, {stored}",
            if count == 1 { "database" } else { "databases" },
            units::bytes(size)
        );
        vec![Part::Line(Tone::Strong, text)]
    })?;
    match missing {
        Some(Missing { code, text }) => Err(Failure::new(code, text).into()),
        None => Ok(()),
    }
}

/// Takes one dump into all repositories that are meant and answer. None: `stop` ended first.
pub async fn into_all(
    args: &TakeArgs,
    which: &Which,
    found: &Found,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<Option<Taken>> {
    if args.jobs > 1 && args.format == Form::Custom {
        let text = "several sessions (--jobs) write the directory format alone: add --format directory";
        return Err(Failure::new(code::USAGE, text).into());
    }
    let access = args.server.find(args.from, which).await?;
    let own = server::own(&access).await?;
    let begun = found.each(async |repository| found.configured.begin(&repository, &own).await.map_err(failed)).await?;
    let Each { done: archives, failed: away } = begun;
    let place = (args.format == Form::Directory).then(|| scratch(args.scratch.clone())).transpose()?;
    let options = Options {
        databases: args.databases.clone(),
        format: if args.format == Form::Custom { Format::Custom } else { Format::Directory },
        jobs: args.jobs,
        globals: !args.no_globals,
        scheduled: args.scheduled,
        scratch: place.as_ref().map(Place::data).unwrap_or_default(),
        progress: Progress::default(),
    };
    let name = new_name();
    // Nobody looks, and it would fill the agent's log.
    let meter = (!args.scheduled).then(|| Meter::start("dump", &options.progress));
    let taken = tokio::select! {
        taken = dump::take(&archives, &access, &name, &options) => Some(taken),
        () = stop => None,
    };
    drop(meter);
    match taken {
        Some(Ok(summary)) => {
            let lines = archives.iter().map(|archive| Line::new(archive, &summary)).collect();
            Ok(Some(Taken { missing: Missing::of("dump", &name, &away), name, lines }))
        }
        Some(Err(error)) => {
            clear_away(&archives, &name).await;
            Err(failed(error))
        }
        None => {
            clear_away(&archives, &name).await;
            Ok(None)
        }
    }
}

/// A folder of ours for what must be put down; what killed ones have left there goes.
pub fn scratch(within: Option<PathBuf>) -> anyhow::Result<Place> {
    let within = within.unwrap_or_else(std::env::temp_dir);
    place::sweep(&within);
    Place::make(&within, None)
}

/// What has been written is of no use to anybody; if it cannot be removed now, 'dump expire' does it later.
async fn clear_away(archives: &[Archive], name: &str) {
    let policy = Policy { grace: Duration::ZERO, ..Policy::new(None, None) };
    let clear = async {
        for archive in archives {
            let plan = dump::plan(archive, &policy, Some(name), jiff::Timestamp::now()).await?;
            dump::run(archive, &plan).await?;
        }
        Ok::<_, DumpError>(())
    };
    let _ = tokio::time::timeout(Duration::from_secs(20), clear).await;
}
