//! Restoring a base backup and its WAL into an empty directory.
//!
//! [`plan`] looks before anything is written: which backup, which WAL, whether the target can be reached. [`restore`] does
//! it; `pg_control` is written last, so that what was cut off cannot be started; it is gone on with by the next restore of the same
//! backup into that directory. Recovery itself is PostgreSQL's, by the settings that are left for it.

mod begun;
mod chain;
mod choose;
mod error;
mod history;
mod holder;
mod plan;
mod settings;
mod there;
mod write;
pub(crate) mod written;

pub(crate) use begun::RECORD;
pub use begun::{begun, is_unfinished};
pub(crate) use chain::from_tail;
pub use choose::{choose, furthest};
pub use error::RestoreError;
pub use history::{BadHistory, History, Switch};
pub use holder::{Held, Holder};
pub use plan::{FromTail, Plan, Wanted, Window, plan, window};
pub use settings::{AtTarget, without_ours};
pub(crate) use there::NOTES;
pub(crate) use write::Tree;
pub(crate) use written::WRITTEN;

pub use matriarch_config::{RestoreTarget as Target, moment};

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use matriarch_core::{Lsn, Timeline};

use crate::archive::Archive;
use crate::base::{self, Manifest, NOWHERE};
use crate::door::Stock;
use crate::format::{self, HEADER, hex, sha256};
use crate::packs;
use crate::progress::Progress;
use crate::repository::RepositoryError;
use crate::wal::{Segment, WalName};
use begun::Record;
use there::Notes;
use written::Written;

/// What a file is called until it is whole.
const PARTLY: &str = ".restoring";

/// Where a restore goes, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// The new data directory: absent, empty, or what an unfinished restore of the same backup has left.
    pub data: PathBuf,
    /// New places of tablespaces, by their object identifier. Others go where they were.
    pub tablespaces: BTreeMap<u32, PathBuf>,
    /// `restore_command` for the settings: what fetches WAL from the same archive, with `%f` and `%p`.
    pub restore_command: String,
    /// Whether all WAL is put in place, so that recovery needs nothing else. Then the command is not used.
    pub place_wal: bool,
    /// Further files for the top of the new directory: name and content.
    pub files: Vec<(String, String)>,
    /// What PostgreSQL does when the target is reached.
    pub at_target: AtTarget,
    /// User and group that files are given to, when the caller may.
    pub owner: Option<(u32, u32)>,
    /// Packs that are read at a time.
    pub workers: usize,
    /// Counts the bytes that were written.
    pub progress: Progress,
}

/// How long the parts of a restore took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Took {
    /// Files, until all are on disk.
    pub files: Duration,
    /// WAL that was put in place.
    pub wal: Duration,
    /// Bytes that an earlier try had restored already.
    pub there: u64,
    /// Bytes that were fetched, as they are in the files.
    pub fetched: u64,
}

/// Restores what was planned. Dropped or failed, it leaves a directory without `pg_control`, which PostgreSQL refuses; called again
/// with the same backup and places it goes on.
pub async fn restore(archive: &Archive, plan: &Plan, options: &Options) -> Result<Took, RestoreError> {
    let begun = Instant::now();
    let name = archive.place().manifest(&plan.summary.backup);
    let manifest = check(archive, plan).await?;
    let broken = |why: String| RestoreError::from(archive.repository().corrupt(&name, why));
    let control = STANDARD.decode(&manifest.summary.control).map_err(|error| broken(error.to_string()))?;
    let tree = Arc::new(Tree::new(&manifest, options).map_err(broken)?);
    let record = Record::new(archive.into(), &manifest.summary, tree.tablespaces().clone());
    let (beginning, data) = (Arc::clone(&tree), options.data.clone());
    let begin = move || Ok((beginning.begin(&record)?, Arc::new(Notes::open(&data)?)));
    let (goes_on, notes) = blocking(begin).await?;
    options.progress.expect(manifest.summary.size);
    let mut packs = packs::by_pack(archive, &manifest)?;
    if goes_on {
        let how = (options.workers, &options.progress);
        packs = there::missing(packs, &manifest.lines, &tree, &notes, how).await?;
        tidy(plan, options, &tree).await?;
    }
    let sink =
        Arc::new(Files { tree: Arc::clone(&tree), notes: Arc::clone(&notes), progress: options.progress.clone() });
    packs::read(archive, packs, options.workers, &sink).await?;
    let last = Last { label: manifest.summary.backup_label.clone(), control };
    complete(archive.into(), plan, options, (tree, notes), last, begun).await
}

async fn tidy(plan: &Plan, options: &Options, tree: &Arc<Tree>) -> Result<(), RestoreError> {
    let needed = plan.complete.iter().filter(|_| options.place_wal);
    let (keep, tidying) = (needed.map(Segment::to_string).collect::<BTreeSet<_>>(), Arc::clone(tree));
    blocking(move || tidying.tidy(&keep)).await
}

/// The same from another tool's repository.
pub async fn restore_from(stock: &Stock, plan: &Plan, options: &Options) -> Result<Took, RestoreError> {
    let begun = Instant::now();
    let tree = Arc::new(Tree::bare(&plan.summary.tablespaces, options));
    let record = Record::new(stock.into(), &plan.summary, tree.tablespaces().clone());
    let (beginning, data) = (Arc::clone(&tree), options.data.clone());
    let begin = move || {
        let goes_on = beginning.begin(&record)?;
        Ok((goes_on, Arc::new(Notes::open(&data)?), Arc::new(Written::open(&data)?)))
    };
    let (goes_on, notes, written) = blocking(begin).await?;
    if goes_on {
        tidy(plan, options, &tree).await?;
    }
    options.progress.expect(plan.summary.size);
    let (workers, progress) = (options.workers, options.progress.clone());
    let onto = Onto { tree: Arc::clone(&tree), written, goes_on, workers, progress };
    let last = stock.unpack(&plan.summary, &onto).await?;
    if goes_on {
        let learned = Arc::clone(&tree);
        blocking(move || learned.no_more_than_learned()).await?;
    }
    complete(stock.into(), plan, options, (tree, notes), last, begun).await
}

/// Where another tool's backup is unpacked to.
#[derive(Clone, Debug)]
pub(crate) struct Onto {
    pub tree: Arc<Tree>,
    /// What was written of tars.
    pub written: Arc<Written>,
    /// An earlier try has left something.
    pub goes_on: bool,
    pub workers: usize,
    pub progress: Progress,
}

/// The files that are written when all others are there.
#[derive(Debug)]
pub(crate) struct Last {
    pub label: String,
    pub control: Vec<u8>,
}

async fn complete(
    holder: Holder<'_>,
    plan: &Plan,
    options: &Options,
    (tree, notes): (Arc<Tree>, Arc<Notes>),
    last: Last,
    begun: Instant,
) -> Result<Took, RestoreError> {
    let settings = settings::lines(plan, options);
    let placing = Instant::now();
    place_wal(holder, plan, options, (&tree, &notes)).await?;
    let wal = placing.elapsed();
    let (files, is_foreign) = (options.files.clone(), holder.archive().is_none());
    blocking(move || {
        tree.finish()?;
        if is_foreign {
            tree.silence()?;
        }
        for (name, content) in &files {
            tree.text(name, content)?;
        }
        tree.text("backup_label", &last.label)?;
        tree.settings(&settings)?;
        tree.unbind()?;
        tree.text("recovery.signal", "")?;
        tree.control(&last.control)?;
        tree.done()
    })
    .await?;
    let there = options.progress.there();
    let fetched = options.progress.done().saturating_sub(there);
    Ok(Took { files: begun.elapsed().saturating_sub(wal), wal, there, fetched })
}

/// Looks whether everything is there that the backup consists of, also in earlier backups, and returns its manifest.
///
/// # Errors
/// [`RestoreError::Incomplete`] names the pack that is missing or too short. Other damage shows when it is read.
pub async fn check(archive: &Archive, plan: &Plan) -> Result<Manifest, RestoreError> {
    let backup = &plan.summary.backup;
    let manifest = base::manifest(archive, backup).await?;
    match packs::check(archive, &manifest).await {
        Ok(()) => Ok(manifest),
        Err(source @ (RepositoryError::Absent { .. } | RepositoryError::Corrupt { .. })) => {
            Err(RestoreError::Incomplete { backup: backup.clone(), source: Box::new(source) })
        }
        Err(error) => Err(error.into()),
    }
}

/// Recovery asks the archive first and then looks here: for what only the tail has, and for all if that is wanted.
async fn place_wal(
    holder: Holder<'_>,
    plan: &Plan,
    options: &Options,
    (tree, notes): (&Arc<Tree>, &Arc<Notes>),
) -> Result<(), RestoreError> {
    let place = |name: String, content: Vec<u8>| {
        let (tree, notes) = (Arc::clone(tree), Arc::clone(notes));
        let is_ours = holder.archive().is_some();
        blocking(move || {
            tree.segment(&format!("pg_wal/{name}"), &content)?;
            if is_ours { Ok(()) } else { notes.add_wal(&name, &content) }
        })
    };
    if options.place_wal {
        let size = holder.segment_size();
        options.progress.expect(size * plan.complete.len() as u64);
        if plan.history.timeline > 1 {
            let name = WalName::History(plan.history.timeline);
            if let Some(content) = holder.find(&name).await? {
                place(name.to_string(), content).await?;
            }
        }
        for segment in &plan.complete {
            if is_placed(holder, *segment, (tree, notes)).await? {
                options.progress.found(size);
                continue;
            }
            let content = holder.wal(&WalName::Segment(*segment)).await?;
            place(segment.to_string(), content).await?;
            options.progress.add(size);
        }
    }
    for tail in &plan.tail {
        if let Some(archive) = holder.archive() {
            place(tail.segment.to_string(), chain::from_tail(archive, tail).await?).await?;
        }
    }
    Ok(())
}

/// Whether an earlier try has put this very segment in place: its object says which content it has, and where it is another
/// tool's our note does.
async fn is_placed(
    holder: Holder<'_>,
    segment: Segment,
    (tree, notes): (&Arc<Tree>, &Arc<Notes>),
) -> Result<bool, RestoreError> {
    let (tree, notes, name) = (Arc::clone(tree), Arc::clone(notes), segment.to_string());
    let looked = move || {
        let content = tree.placed(&name)?;
        Some((notes.has_wal(&name, &content), hex(&sha256(&content))))
    };
    let Some((noted, digest)) = blocking(move || Ok(looked())).await? else { return Ok(false) };
    let Some(archive) = holder.archive() else { return Ok(noted) };
    let name = archive.place().wal(&WalName::Segment(segment));
    let size = match archive.repository().size(&name).await {
        // It may be in the incarnation that this one came from: it is fetched again from wherever it is.
        Err(error) if error.is_absent() => return Ok(false),
        size => size?,
    };
    let header = archive.repository().range(&name, 0..size.min(HEADER)).await?;
    Ok(format::identity_of(&header).is_ok_and(|found| found == digest))
}

/// What the frames hold goes into the files.
struct Files {
    tree: Arc<Tree>,
    notes: Arc<Notes>,
    progress: Progress,
}

impl packs::Sink for Files {
    type Error = RestoreError;

    fn content(&self, frame: &packs::Frame, content: &[u8]) -> Result<(), RestoreError> {
        let mut rest = content;
        for (file, offset, length) in &frame.parts {
            let (part, after) = rest.split_at((*length as usize).min(rest.len()));
            if *file != NOWHERE {
                self.tree.write_at(*file, *offset, part)?;
            }
            rest = after;
        }
        self.notes.add(frame, content)?;
        self.progress.add(frame.used());
        Ok(())
    }

    fn lost(&self, _: &[packs::Frame], error: RepositoryError) -> Result<(), RestoreError> {
        Err(error.into())
    }

    fn worker(why: String) -> RestoreError {
        RestoreError::Worker(why)
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RestoreError> + Send + 'static,
) -> Result<T, RestoreError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| RestoreError::Worker(error.to_string()))?
}

/// Position and timeline, as errors and settings name them.
fn at(timeline: Timeline, lsn: Lsn) -> String {
    format!("{lsn} on timeline {timeline}")
}
