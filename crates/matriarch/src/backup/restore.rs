//! `restore`: into an empty directory. In place of a running cluster's data: `in_place.rs`.

pub mod door;

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, ValueEnum};
use jiff::Timestamp;
use matriarch_archive::archive::Archive;
use matriarch_archive::base::{SOURCE, Summary};
use matriarch_archive::configured::ORIGIN;
use matriarch_archive::progress::Progress;
use matriarch_archive::restore::{self, AtTarget, Options, Plan, RestoreError, Target, Wanted, Window};
use matriarch_cli::{Failure, Grid, Part, Tone, Ui, code, units};
use matriarch_postgres::{Owner, owner};
use serde::Serialize;

use super::archives::{Found, WhereArgs, find};
use super::fail::{Code, failed};
use super::fetch::{Source, command};
use super::in_place;
use super::list::seconds;
use super::meter::{Meter, interrupted};
use crate::cluster::Which;

/// How far, and from which backup.
#[derive(Args, Clone, Debug)]
pub struct GoalArgs {
    /// How far: `latest`, `immediate` (the end of the backup), a time with its zone, a position (0/3000148), `xid=NUMBER` or
    /// `name=RESTORE_POINT`
    #[arg(long, value_name = "TARGET", default_value = "latest")]
    to: Target,
    /// Timeline to follow; the newest one that has a backup unless given
    #[arg(long, value_name = "NUMBER")]
    timeline: Option<u32>,
    /// Backup to begin with; the one nearest to the target unless given
    #[arg(long, value_name = "BACKUP")]
    backup: Option<String>,
    /// End with the last complete segment, without what only the tail has
    #[arg(long)]
    no_tail: bool,
}

impl GoalArgs {
    /// For the plan.
    pub fn wanted(&self) -> Wanted {
        let GoalArgs { to, timeline, backup, no_tail } = self.clone();
        Wanted { target: to, timeline, backup, tail: !no_tail }
    }
}

/// `restore`.
#[derive(Args, Clone, Debug)]
pub struct RestoreArgs {
    /// The new data directory: absent or empty, or what an unfinished restore of the same backup has left, which goes on then
    #[arg(value_name = "DIRECTORY", required_unless_present_any = ["in_place", "confirm", "undo"])]
    data: Option<PathBuf>,
    #[command(flatten)]
    pub(super) running: RunningArgs,
    #[command(flatten)]
    pub(super) goal: GoalArgs,
    /// Another place for a tablespace; the one it had unless given
    #[arg(long, value_name = "NAME=DIRECTORY", value_parser = place)]
    pub(super) tablespace: Vec<(String, PathBuf)>,
    /// What PostgreSQL does when the target is reached
    #[arg(long, value_enum, default_value_t)]
    at_target: Action,
    /// Put all WAL into pg_wal now: then the start needs neither this program nor keys nor the network, but space for all of it
    #[arg(long)]
    place_wal: bool,
    /// User that the files belong to, when root restores; postgres unless given
    #[arg(long, value_name = "USER")]
    owner: Option<String>,
    /// Packs that are read at a time
    #[arg(long, value_name = "COUNT", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    jobs: u16,
    /// Say which backup and which WAL would be used, and what can be reached; write nothing
    #[arg(long)]
    pub(super) dry_run: bool,
    #[command(flatten)]
    pub(super) place: WhereArgs,
    #[command(flatten)]
    from: door::FromArgs,
}

/// Of a cluster that runs.
#[derive(Args, Clone, Debug)]
pub struct RunningArgs {
    /// Take the running cluster itself back; its present data is kept aside until --confirm or --undo
    #[arg(long, conflicts_with_all = ["data", "at_target", "place_wal", "owner"], help_heading = "A running cluster")]
    pub in_place: bool,
    /// Remove the data that the last restore in place has kept aside
    #[arg(long, conflicts_with_all = ["data", "in_place", "undo"], help_heading = "A running cluster")]
    pub confirm: bool,
    /// Put the data that the last restore in place has kept aside back; what was written since is kept aside instead
    #[arg(long, conflicts_with_all = ["data", "in_place"], help_heading = "A running cluster")]
    pub undo: bool,
    /// Do not ask
    #[arg(long, help_heading = "A running cluster")]
    pub yes: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Action {
    /// Takes writes, on a new timeline.
    #[default]
    Promote,
    /// Waits, read-only, for pg_wal_replay_resume().
    Pause,
    /// Stops.
    Shutdown,
}

impl From<Action> for AtTarget {
    fn from(action: Action) -> AtTarget {
        match action {
            Action::Promote => AtTarget::Promote,
            Action::Pause => AtTarget::Pause,
            Action::Shutdown => AtTarget::Shutdown,
        }
    }
}

fn place(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, path)) if !name.is_empty() && path.starts_with('/') => Ok((name.to_owned(), path.into())),
        _ => Err("expected NAME=DIRECTORY with an absolute path".to_owned()),
    }
}

/// What a restore does or has done, as `-o json` shows it. Units: bytes.
#[derive(Clone, Debug, Serialize)]
struct Page {
    directory: PathBuf,
    target: String,
    backup: String,
    repository: String,
    incarnation: String,
    /// The one that begins with this restore.
    new_incarnation: String,
    timeline: u32,
    /// When the backup ended; nothing before can be reached with it.
    backup_ended: Timestamp,
    /// Bytes of all files.
    size: u64,
    /// Bytes of them in the repository.
    stored: u64,
    /// Complete segments that recovery replays, at most.
    segments: usize,
    /// Segments of which only the tail has a part.
    tail_segments: usize,
    /// Bytes of all these segments, uncompressed.
    wal: u64,
    /// Where the WAL ends.
    reach: String,
    window: Reach,
    /// Bytes that an earlier try had restored there.
    there_already: u64,
    dry_run: bool,
}

/// What can be reached on this timeline.
#[derive(Clone, Debug, Serialize)]
struct Reach {
    /// The end of the oldest backup.
    from: Timestamp,
    /// The end of the last transaction, if there is one since the newest backup.
    to: Option<Timestamp>,
    /// The end of the WAL.
    to_lsn: String,
    /// The segment at which what follows the oldest backup ends before the newest one.
    missing: Option<String>,
}

impl Reach {
    fn of(plan: &Plan, window: Option<Window>) -> Reach {
        Reach {
            from: window.as_ref().map_or(plan.summary.stop_time, |window| window.oldest.stop_time),
            to: window.as_ref().and_then(|window| window.last_transaction),
            to_lsn: window.as_ref().map_or(plan.reach, |window| window.reach).to_string(),
            missing: window.and_then(|window| window.missing).map(|segment| segment.to_string()),
        }
    }

    fn shown(&self) -> String {
        let until = self.to.map_or_else(String::new, |to| format!("{} ", seconds(to)));
        format!("{} to {until}({})", seconds(self.from), self.to_lsn)
    }

    fn gap(&self) -> Option<Part> {
        let missing = self.missing.as_ref()?;
        let text =
            format!("There is a gap: {missing} is missing, and what follows it is reached from later backups only");
        Some(Part::Line(Tone::Warn, text))
    }
}

/// Restores, or says what it would do.
pub async fn restore(args: RestoreArgs, which: &Which, ui: &mut Ui) -> anyhow::Result<()> {
    if let Some(foreign) = args.from.foreign()? {
        let text = "--from restores into a directory: name one; a running cluster goes back by its own archive";
        let data = args.data.as_ref().ok_or_else(|| Failure::new(code::USAGE, text))?;
        return door::restore(&args, data, &foreign, ui).await;
    }
    let Some(data) = &args.data else { return in_place::run(args, which, ui).await };
    let found = find(which, &args.place).await?;
    let data = std::path::absolute(data)?;
    let (archive, plan) = choose(&found, &args.goal.wanted(), ui).await?;
    let window = restore::window(&archive, Some(plan.history.timeline)).await.map_err(failed)?;
    let now = Timestamp::now();
    let name = format!("{}-{}", plan.summary.system_identifier, now.strftime("%Y%m%dT%H%M%SZ"));
    let options = options(&args, &found, &archive, &plan, &data, &name)?;
    let mut page = page(&args, &archive, &plan, window, data, name);
    if args.dry_run {
        restore::check(&archive, &plan).await.map_err(failed)?;
        return ui.show(&page, || parts(&page));
    }
    let remedy = again(&page.backup);
    page.there_already = follow(&options, restore::restore(&archive, &plan, &options), &remedy).await?.there;
    ui.show(&page, || parts(&page))
}

/// What to do about a restore that is cut off.
fn again(backup: &str) -> String {
    format!("the same with --backup {backup} goes on, or remove it")
}

/// Does it, and tells how far it is, until it is done or somebody wants an end of it: then, what to do about it.
async fn follow(
    options: &Options,
    work: impl Future<Output = Result<restore::Took, RestoreError>>,
    remedy: &str,
) -> anyhow::Result<restore::Took> {
    let _meter = Meter::start("restore", &options.progress);
    tokio::select! {
        restored = work => restored.map_err(|error| cut_off(error, &options.data, remedy)),
        () = interrupted()? => {
            let data = options.data.display();
            let text = format!("interrupted: {data} is not complete and cannot be started; {remedy}");
            Err(Failure::new(code::TEMPORARY, text).into())
        }
    }
}

/// What went wrong, and how it goes on if that was in the middle of it.
fn cut_off(error: RestoreError, data: &Path, remedy: &str) -> anyhow::Error {
    let midway = matches!(error, RestoreError::Archive(_) | RestoreError::Write { .. } | RestoreError::Worker(_));
    if !(midway && restore::is_unfinished(data)) {
        return failed(error);
    }
    Failure::new(error.code(), format!("{error}; {} is not complete: {remedy}", data.display())).into()
}

/// The incarnation and the plan that serve the target: of the newest incarnation that does, in the repository that leads
/// furthest. Why a repository does not serve it is told.
pub async fn choose(found: &Found, wanted: &Wanted, ui: &mut Ui) -> anyhow::Result<(Archive, Plan)> {
    let each = found.each(async |repository| {
        if let Some(name) = &wanted.backup {
            // Tells what there is instead.
            found.one::<Summary>(&repository, Some(name)).await?;
        }
        let chosen = restore::choose(found.incarnations(&repository).await?, wanted).await.map_err(failed)?;
        if found.section.repositories.len() > 1 {
            // Another one may be whole.
            restore::check(&chosen.0, &chosen.1).await.map_err(failed)?;
        }
        Ok(chosen)
    });
    let best = restore::furthest(each.await?.noted(ui), &wanted.target);
    best.ok_or_else(|| Failure::new(code::DATA, "there is no backup").into())
}

fn options(
    args: &RestoreArgs,
    found: &Found,
    archive: &Archive,
    plan: &Plan,
    data: &std::path::Path,
    name: &str,
) -> anyhow::Result<Options> {
    let owner = Owner::choose(args.owner.as_deref())?;
    if let (Some(owner), Some(parent)) = (&owner, data.parent())
        && parent.exists()
    {
        owner::check_reachable(parent, owner)?;
    }
    if let (Some(owner), false) = (&owner, args.place_wal) {
        let section = &found.section;
        let credentials = section.repositories.iter().flat_map(|one| one.credentials.iter().chain(&one.ca));
        readable(section.encryption.identity_file.iter().chain(credentials).map(PathBuf::as_path), owner)?;
    }
    let program = std::env::current_exe().context("cannot find our own program, which fetches the WAL")?;
    let mut section = found.section.clone();
    // Only the repository that the plan is of; the files that it names are read again at the start.
    let mut names = found.configured.names();
    section.repositories.retain(|_| names.next().is_some_and(|name| name == archive.repository().name()));
    drop(names);
    let source = Source {
        format: 1,
        cluster: found.scope.clone(),
        incarnation: archive.place().incarnation().to_owned(),
        archive: section,
    };
    let origin = plan.origin(archive, name);
    Ok(Options {
        data: data.to_owned(),
        tablespaces: tablespaces(&args.tablespace, &plan.summary)?,
        restore_command: command(&program, &data.join(SOURCE)),
        place_wal: args.place_wal,
        files: vec![
            (SOURCE.to_owned(), serde_json::to_string_pretty(&source)?),
            (ORIGIN.to_owned(), serde_json::to_string_pretty(&origin)?),
        ],
        at_target: args.at_target.into(),
        owner: owner.map(|owner| (owner.uid, owner.gid)),
        workers: args.jobs.into(),
        progress: Progress::default(),
    })
}

/// PostgreSQL's user fetches the WAL, so it must be able to read what that needs.
fn readable<'a>(paths: impl Iterator<Item = &'a Path>, owner: &Owner) -> anyhow::Result<()> {
    for path in paths {
        let Ok(meta) = std::fs::metadata(path) else { continue };
        let bit = match (meta.uid() == owner.uid, meta.gid() == owner.gid) {
            (true, _) => 0o400,
            (false, true) => 0o040,
            (false, false) => 0o004,
        };
        if meta.mode() & bit == 0 {
            let text = format!(
                "user {} cannot read {}, which fetching WAL needs when PostgreSQL starts: give the file to that user, or restore \
                 with --place-wal",
                owner.name,
                path.display()
            );
            return Err(Failure::new(code::PERMISSION, text).into());
        }
        if let Some(parent) = path.parent() {
            owner::check_reachable(parent, owner)?;
        }
    }
    Ok(())
}

fn tablespaces(asked: &[(String, PathBuf)], summary: &Summary) -> anyhow::Result<BTreeMap<u32, PathBuf>> {
    let mut places = BTreeMap::new();
    for (name, path) in asked {
        let known = summary.tablespaces.iter().find(|space| space.name == *name || space.oid.to_string() == *name);
        let Some(space) = known else {
            let names: Vec<&str> = summary.tablespaces.iter().map(|space| space.name.as_str()).collect();
            let known = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            let text = format!("backup {} has no tablespace '{name}'; it has {known}", summary.backup);
            return Err(Failure::new(code::USAGE, text).into());
        };
        places.insert(space.oid, path.clone());
    }
    Ok(places)
}

fn page(
    args: &RestoreArgs,
    archive: &Archive,
    plan: &Plan,
    window: Option<Window>,
    directory: PathBuf,
    new_incarnation: String,
) -> Page {
    let summary = &plan.summary;
    let segments = plan.complete.len() + plan.tail.len();
    Page {
        directory,
        target: plan.target.to_string(),
        backup: summary.backup.clone(),
        repository: archive.repository().name().to_owned(),
        incarnation: archive.place().incarnation().to_owned(),
        new_incarnation,
        timeline: plan.history.timeline,
        backup_ended: summary.stop_time,
        size: summary.size,
        stored: summary.stored,
        segments: plan.complete.len(),
        tail_segments: plan.tail.len(),
        wal: segments as u64 * archive.incarnation().segment_size,
        reach: plan.reach.to_string(),
        window: Reach::of(plan, window),
        there_already: 0,
        dry_run: args.dry_run,
    }
}

fn parts(page: &Page) -> Vec<Part> {
    let title = match page.dry_run {
        true => format!("{} would be restored to {}", page.directory.display(), page.target),
        false => format!("{} is restored; it replays to {} when it is started", page.directory.display(), page.target),
    };
    let rows = [
        ("Backup", format!("{}, ended {}", page.backup, seconds(page.backup_ended))),
        ("Repository", format!("{}, incarnation {}", page.repository, page.incarnation)),
        ("Timeline", page.timeline.to_string()),
        ("Files", format!("{}, {} in the repository", units::bytes(page.size), units::bytes(page.stored))),
        (
            "WAL",
            format!(
                "{} segments at most, {} of them from the tail: {}",
                page.segments + page.tail_segments,
                page.tail_segments,
                units::bytes(page.wal)
            ),
        ),
        ("Reachable", page.window.shown()),
        ("New incarnation", page.new_incarnation.clone()),
    ];
    let mut grid = Grid::new(&["What", "Is"]);
    for (what, is) in rows {
        grid.row(Tone::Plain, vec![what.to_owned(), is]);
    }
    let mut parts = vec![Part::Line(Tone::Strong, title), Part::Grid(grid)];
    parts.extend(page.window.gap());
    parts.extend(earlier(page.there_already));
    if !page.dry_run {
        let text = format!("Start it with: pg_ctl -D {} start", page.directory.display());
        parts.push(Part::Line(Tone::Plain, text));
    }
    parts
}

fn earlier(there: u64) -> Option<Part> {
    let text = format!("An earlier try had restored {} of it", units::bytes(there));
    (there > 0).then_some(Part::Line(Tone::Plain, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read() {
        assert!(place("space=/srv/space").is_ok());
        assert!(place("space=srv").is_err());
    }
}
