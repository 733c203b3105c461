//! Taking a base backup of a server on this machine.

use std::time::Duration;

use clap::{Args, ValueEnum};
use matriarch_archive::archive::Archive;
use matriarch_archive::base::{self, Summary};
use matriarch_archive::configured::Own;
use matriarch_archive::progress::Progress;
use matriarch_archive::repository::Repository;
use matriarch_archive::retention::{self, Policy};
use matriarch_cli::{Failure, Part, Tone, Ui, code, exit_code, units};

use super::archives::Found;
use super::fail::failed;
use super::list::Line;
use super::meter::{Meter, interrupted};
use super::server::{Server, ServerArgs, connect};
use super::span;
use crate::cluster::Which;

/// What a backup is taken of, and how.
#[derive(Args, Clone, Debug)]
pub struct TakeArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// Store everything, whatever earlier backups hold: what is done without --incremental as well
    #[arg(long, conflicts_with = "incremental")]
    full: bool,
    /// Store only what has changed since the newest backup, and refer to that one and those before it for the rest. A full one is
    /// taken, and the reason told, where there is none to build upon
    #[arg(long)]
    incremental: bool,
    /// What the checkpoint at the beginning does: `fast` is done at once, `spread` spares the disks for some minutes
    #[arg(long, value_enum, default_value_t)]
    checkpoint: Checkpoint,
    /// Threads that read, compress and encrypt; as many as there are processors, up to 4, unless given
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=64))]
    jobs: Option<u16>,
    /// How long to wait for WAL that another server must archive
    #[arg(long, value_name = "TIME", default_value = "10min", value_parser = span)]
    wal_timeout: Duration,
    /// As the agents begin it: only if one is due by the schedule and nobody takes it yet
    #[arg(long, hide = true, conflicts_with_all = ["dsn", "member"])]
    pub scheduled: bool,
}

impl TakeArgs {
    /// The same, of everything or of what has changed.
    pub fn of_kind(&self, full: bool) -> TakeArgs {
        TakeArgs { full, incremental: !full, ..self.clone() }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Checkpoint {
    #[default]
    Fast,
    Spread,
}

/// A backup that was taken.
pub struct Taken {
    pub name: String,
    /// One for each repository that has it.
    pub lines: Vec<Line>,
    /// Where it is not, and why.
    pub missing: Option<Missing>,
    /// Which pages of the server were damaged, and what to do.
    pub damage: Option<String>,
}

/// That something is in some repositories and not in all of them.
pub struct Missing {
    /// Of sysexits(3).
    pub code: u8,
    pub text: String,
}

impl Missing {
    /// What became of the others; the first counts for the code.
    pub fn of(what: &str, name: &str, failed: &[(String, anyhow::Error)]) -> Option<Missing> {
        let (place, first) = failed.first()?;
        // As the option takes it.
        let place = place.strip_prefix("directory ").unwrap_or(place);
        let told: Vec<String> = failed.iter().map(|(place, why)| format!("{place}: {why:#}")).collect();
        let text = format!(
            "{what} {name} is not in every repository: {}; what is in the others is whole, and 'matriarch {what} --repository \
             {place}' takes one there",
            told.join("; ")
        );
        Some(Missing { code: exit_code(first), text })
    }
}

/// `backup`.
pub async fn take(args: TakeArgs, which: &Which, found: &Found, ui: &mut Ui) -> anyhow::Result<()> {
    let Some(Taken { name, lines, missing, damage }) = into_all(&args, which, found, interrupted()?).await? else {
        return Err(Failure::new(code::TEMPORARY, "interrupted: there is no backup").into());
    };
    for line in &lines {
        ui.note(&format!("backup {name} is in {}", line.repository));
        if let Some(why) = &line.fallback {
            ui.note(&format!("it is a full one: {why}"));
        }
    }
    if let Some(text) = damage {
        return Err(Failure::new(code::DATA, text).into());
    }
    ui.show(&lines, || {
        let stored = lines.iter().map(|line| format!("{} stored in {}", units::bytes(line.stored), line.repository));
        let size = lines.first().map_or(0, |line| line.size);
        let kind = lines.first().map_or("", |line| line.kind);
        let text = format!("Backup {name} ({kind}): {}, {}", units::bytes(size), stored.collect::<Vec<_>>().join(", "));
        vec![Part::Line(Tone::Strong, text)]
    })?;
    match missing {
        Some(Missing { code, text }) => Err(Failure::new(code, text).into()),
        None => Ok(()),
    }
}

/// Takes a backup into every repository that is meant, one after the other; one that fails keeps it from none of the others.
/// None: `stop` ended first.
pub async fn into_all(
    args: &TakeArgs,
    which: &Which,
    found: &Found,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<Option<Taken>> {
    let server = Server::find(&args.server, which).await?;
    let own = Own::of(&server.data, server.identity).map_err(failed)?;
    let mut taken = Taken { name: new_name(), lines: Vec::new(), missing: None, damage: None };
    let mut failed = Vec::new();
    tokio::pin!(stop);
    for (place, opened) in found.opened().await {
        let (archive, summary) = match into_one(args, &server, (found, &own), opened, &taken.name, stop.as_mut()).await
        {
            Ok(Some(stored)) => stored,
            Ok(None) if taken.lines.is_empty() || args.scheduled => return Ok(None),
            Ok(None) => {
                let text = format!("interrupted: backup {} is complete, and not in {place}", taken.name);
                return Err(Failure::new(code::TEMPORARY, text).into());
            }
            Err(error) => {
                failed.push((place, error));
                continue;
            }
        };
        taken.lines.push(Line::new(&archive, &summary, None, Default::default()));
        if !summary.damaged.is_empty() {
            taken.damage = Some(damage(&summary));
        }
    }
    if taken.lines.is_empty() {
        let none = || Failure::new(code::CONFIG, "the archive has no repository").into();
        return Err(failed.into_iter().next().map_or_else(none, |(_, first)| first));
    }
    taken.missing = Missing::of("backup", &taken.name, &failed);
    Ok(Some(taken))
}

async fn into_one(
    args: &TakeArgs,
    server: &Server,
    (found, own): (&Found, &Own),
    repository: anyhow::Result<Repository>,
    name: &str,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<Option<(Archive, Summary)>> {
    let archive = found.configured.begin(&repository?, own).await.map_err(failed)?;
    let summary = one(args, server, &archive, name, stop).await?;
    Ok(summary.map(|summary| (archive, summary)))
}

fn damage(summary: &Summary) -> String {
    let first = summary.damaged.iter().take(10).map(|page| format!("{} block {}", page.path, page.block));
    format!(
        "backup {} is complete, but {} pages of the server were damaged before it began, which no restore mends: {}; look at \
         the disk, and restore these relations from an older backup",
        summary.backup,
        summary.damaged.len(),
        first.collect::<Vec<_>>().join(", ")
    )
}

async fn one(
    args: &TakeArgs,
    server: &Server,
    archive: &Archive,
    name: &str,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<Option<Summary>> {
    let processors = std::thread::available_parallelism().map_or(1, usize::from).min(4);
    let options = base::Options {
        data: server.data.clone(),
        incremental: args.incremental && !args.full,
        workers: args.jobs.map_or(processors, usize::from),
        fast: args.checkpoint == Checkpoint::Fast,
        wal_patience: args.wal_timeout,
        progress: Progress::default(),
    };
    // Nobody looks, and it would fill the agent's log.
    let meter = (!args.scheduled).then(|| Meter::start("backup", &options.progress));
    // A session of its own: when it ends, so does backup mode.
    let client = connect(&server.config).await?;
    let taken = tokio::select! {
        taken = base::backup(archive, &client, name, &options) => Some(taken),
        () = stop => None,
    };
    drop(meter);
    match taken {
        Some(Ok(summary)) => Ok(Some(summary)),
        Some(Err(error)) => {
            clear_away(archive, name).await;
            Err(failed(error))
        }
        None => {
            drop(client);
            clear_away(archive, name).await;
            Ok(None)
        }
    }
}

/// What has been written is of no use to anybody; if it cannot be removed now, 'backup expire' does it later.
async fn clear_away(archive: &Archive, name: &str) {
    let policy = Policy { grace: Duration::ZERO, ..Policy::new(None, None) };
    let clear = async {
        let plan = retention::plan(archive, &policy, Some(name), jiff::Timestamp::now()).await?;
        retention::run(archive, &plan, |_| {}).await
    };
    let _ = tokio::time::timeout(Duration::from_secs(20), clear).await;
}

/// By the time it began, so that people can tell them apart; nothing is ever decided by it.
pub fn new_name() -> String {
    let suffix: u16 = rand::random();
    format!("{}-{suffix:04x}", jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ"))
}
