//! Restoring a base backup and its WAL into an empty directory.
//!
//! [`plan`] looks before anything is written: which backup, which WAL, whether the target can be reached. [`restore`] does
//! it; `pg_control` is written last, so that what was cut off cannot be started; it is gone on with by the next restore of the same
//! backup into that directory. Recovery itself is PostgreSQL's, by the settings that are left for it.

mod begun;
mod chain;
mod choose;
mod history;
mod holder;
mod plan;
mod settings;
mod there;
mod write;

pub(crate) use begun::RECORD;
pub use begun::is_unfinished;
pub(crate) use chain::from_tail;
pub use choose::{choose, furthest};
pub use history::{BadHistory, History, Switch};
pub use holder::{Held, Holder};
pub use plan::{FromTail, Plan, Wanted, Window, plan, window};
pub use settings::{AtTarget, without_ours};
pub(crate) use there::NOTES;
pub(crate) use write::Tree;

pub use matriarch_config::{RestoreTarget as Target, moment};

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use matriarch_core::{Lsn, Timeline};

use crate::archive::{Archive, ArchiveError};
use crate::base::{self, Manifest, NOWHERE};
use crate::door::Stock;
use crate::format::{self, HEADER, hex, sha256};
use crate::packs;
use crate::progress::Progress;
use crate::repository::RepositoryError;
use crate::tail::TailError;
use crate::wal::{Segment, WalName};
use begun::Record;
use there::Notes;

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

/// A restore that was not begun, or not finished.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// No backup serves the target.
    #[error("{0}")]
    NoBackup(String),
    /// The archive does not reach the target.
    #[error("the archive does not reach {target}: {why}")]
    OutOfReach {
        /// As it was asked for.
        target: String,
        /// How far the archive goes.
        why: String,
    },
    /// WAL without which recovery would end early.
    #[error("the archive has a gap: it lacks {segment} of the WAL between backup {backup} and {target}")]
    Gap {
        /// The backup.
        backup: String,
        /// As it was asked for.
        target: String,
        /// Name of the segment.
        segment: String,
    },
    /// A pack that the backup consists of, or an earlier backup that it builds upon, is not whole.
    #[error(
        "backup {backup} cannot be restored: {source}; 'matriarch backup list' shows others, and --backup chooses one"
    )]
    Incomplete {
        /// The backup.
        backup: String,
        /// What is not whole.
        #[source]
        source: Box<RepositoryError>,
    },
    /// A directory that holds something.
    #[error("{path} is not empty; a restore goes into an empty directory or a new one", path = path.display())]
    NotEmpty {
        /// Which.
        path: PathBuf,
    },
    /// What was cut off there is another restore.
    #[error(
        "{path} holds an unfinished restore of backup {left}, and this one is of {wanted}: go on with that one ({options}), or \
         empty {path} and the places of its tablespaces first", path = path.display()
    )]
    OtherBackup {
        /// The directory.
        path: PathBuf,
        /// What is there.
        left: String,
        /// What was to be restored.
        wanted: String,
        /// By which the one that is there goes on.
        options: String,
    },
    /// Something lies where a restore is to go on.
    #[error(
        "{data} holds an unfinished restore, and {path} is not of it: move that away and the restore goes on, or restore into \
         another directory", path = path.display(), data = data.display()
    )]
    Stranger {
        /// What does not belong there.
        path: PathBuf,
        /// The directory.
        data: PathBuf,
    },
    /// Two restores into one directory.
    #[error("another process restores into {path}; wait for it, or end it", path = path.display())]
    Busy {
        /// The directory.
        path: PathBuf,
    },
    /// Two things would lie in one place.
    #[error("{0}")]
    Place(String),
    /// A file of the new directory.
    #[error("could not write {path}: {source}", path = path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A history file.
    #[error(transparent)]
    History(#[from] BadHistory),
    /// The archive.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The tail.
    #[error(
        "the tail of the WAL cannot be used: {0}; a restore without it (--no-tail) ends with the last complete segment"
    )]
    Tail(Box<TailError>),
    /// A thread ended by itself.
    #[error("a worker of the restore failed: {0}")]
    Worker(String),
}

impl From<RepositoryError> for RestoreError {
    fn from(error: RepositoryError) -> Self {
        RestoreError::Archive(error.into())
    }
}

impl RestoreError {
    fn write(path: &Path) -> impl FnOnce(io::Error) -> RestoreError {
        let path = path.to_owned();
        move |source| RestoreError::Write { path, source }
    }
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
    let record = Record::new(archive, &manifest.summary, tree.tablespaces().clone());
    let (beginning, data) = (Arc::clone(&tree), options.data.clone());
    let begin = move || Ok((beginning.begin(&record)?, Arc::new(Notes::open(&data)?)));
    let (goes_on, notes) = blocking(begin).await?;
    options.progress.expect(manifest.summary.size);
    let mut packs = packs::by_pack(archive, &manifest)?;
    if goes_on {
        let how = (options.workers, &options.progress);
        packs = there::missing(packs, &manifest.lines, &tree, &notes, how).await?;
        let needed = plan.complete.iter().filter(|_| options.place_wal);
        let (keep, tidying) = (needed.map(Segment::to_string).collect::<BTreeSet<_>>(), Arc::clone(&tree));
        blocking(move || tidying.keep_wal(&keep)).await?;
    }
    let sink = Arc::new(Files { tree: Arc::clone(&tree), notes, progress: options.progress.clone() });
    packs::read(archive, packs, options.workers, &sink).await?;
    let last = Last { label: manifest.summary.backup_label.clone(), control };
    complete(archive.into(), plan, options, tree, last, begun).await
}

/// The same from another tool's repository.
pub async fn restore_from(stock: &Stock, plan: &Plan, options: &Options) -> Result<Took, RestoreError> {
    let begun = Instant::now();
    let tree = Arc::new(Tree::bare(&plan.summary.tablespaces, options));
    let prepared = Arc::clone(&tree);
    blocking(move || prepared.prepare()).await?;
    options.progress.expect(plan.summary.size);
    let last = stock.unpack(&plan.summary, &tree, options.workers, &options.progress).await?;
    let silenced = Arc::clone(&tree);
    blocking(move || silenced.silence()).await?;
    complete(stock.into(), plan, options, tree, last, begun).await
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
    tree: Arc<Tree>,
    last: Last,
    begun: Instant,
) -> Result<Took, RestoreError> {
    let settings = settings::lines(plan, options);
    let placing = Instant::now();
    place_wal(holder, plan, options, &tree).await?;
    let wal = placing.elapsed();
    let files = options.files.clone();
    blocking(move || {
        tree.finish()?;
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
    Ok(Took { files: begun.elapsed().saturating_sub(wal), wal, there: options.progress.there() })
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
async fn place_wal(holder: Holder<'_>, plan: &Plan, options: &Options, tree: &Arc<Tree>) -> Result<(), RestoreError> {
    let place = |name: String, content: Vec<u8>| {
        let tree = Arc::clone(tree);
        blocking(move || tree.segment(&format!("pg_wal/{name}"), &content))
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
            if is_placed(holder, *segment, tree).await? {
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

/// Whether an earlier try has put this very segment in place: its object says which content it has.
async fn is_placed(holder: Holder<'_>, segment: Segment, tree: &Arc<Tree>) -> Result<bool, RestoreError> {
    let looked = Arc::clone(tree);
    let digest = move || Ok(looked.placed(&segment.to_string()).map(|content| hex(&sha256(&content))));
    let (Some(archive), Some(digest)) = (holder.archive(), blocking(digest).await?) else { return Ok(false) };
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
