//! Base backups: a copy of the files of a running server that becomes consistent when its WAL is replayed.
//!
//! The order is what makes it safe: backup mode, files, `pg_control`, end of backup mode, all WAL between the two in the
//! archive, and only then the manifest, which makes it a backup. Start at [`backup`].
//!
//! An incremental backup names in its manifest also the frames of earlier backups that are as they were, so that a restore
//! needs nothing but this manifest and the packs. What has changed is found out in `increment`, `summaries` and `compare`.

mod changes;
mod commit;
mod compare;
mod copy;
mod increment;
mod list;
mod manifest;
mod marker;
mod notes;
pub(crate) mod page;
mod scan;
mod session;
mod summaries;
mod task;

use list::is_abandoned;
pub(crate) use list::{Found, outline};
pub use list::{is_known, list, manifest};
pub use manifest::{DamagedPage, FoundBy, Increment, Line, Manifest, NOWHERE, Summary, Tablespace};
pub use marker::{GRACE, RENEWAL};
pub(crate) use marker::{Marker, UnderWay, keep_up};
pub use notes::{Hold, Notes, annotate, hold, hold_of, notes_of, release};
pub use scan::{CONTROL, SOURCE};

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use matriarch_core::{Lsn, Timeline};
use tokio_postgres::Client;

use self::commit::{Taken, commit};
use self::compare::Work;
use self::increment::Basis;
use crate::archive::Archive;
use crate::progress::Progress;
use crate::repository::RepositoryError;
use crate::restore::RestoreError;
use crate::tail::{self, TailError};
use crate::wal::{self, PushError, Segment, WalName};

/// What is to be backed up, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// The data directory of the server; the caller can read it.
    pub data: PathBuf,
    /// Whether only what has changed since an earlier backup is stored, if there is one that can be built upon.
    pub incremental: bool,
    /// Threads that read, compress and seal.
    pub workers: usize,
    /// Whether the checkpoint at the beginning is done at once instead of sparing the disks.
    pub fast: bool,
    /// How long to wait for WAL that others must archive: on a standby, what its primary has not archived yet.
    pub wal_patience: Duration,
    /// Counts the bytes that were read.
    pub progress: Progress,
}

/// A backup that did not come about. What it left in the repository is named by no manifest.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The session.
    #[error("the server refused: {}", crate::repository::chain(.0))]
    Sql(#[from] tokio_postgres::Error),
    /// The server or its answer is not what we can back up.
    #[error("this server cannot be backed up: {0}")]
    Unsupported(String),
    /// The server is not the one whose archive this is.
    #[error("the server has {found}, and the archive is of {expected}; open an incarnation of its own")]
    Foreign {
        /// Of the server.
        found: String,
        /// Of the archive.
        expected: String,
    },
    /// The primary failed over meanwhile.
    #[error("the timeline changed from {from} to {to} while the backup was taken; take it again")]
    TimelineChanged {
        /// At its start.
        from: Timeline,
        /// At its end.
        to: Timeline,
    },
    /// A file or folder of the data directory.
    #[error("could not read {path}: {source}", path = path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The folders of the data directory.
    #[error(transparent)]
    Scan(#[from] scan::ScanError),
    /// The repository.
    #[error(transparent)]
    Repository(RepositoryError),
    /// WAL of the time of the backup.
    #[error(transparent)]
    Push(#[from] PushError),
    /// WAL without which the backup is of no use.
    #[error(
        "the backup needs {segment}, and nobody archived it within {waited:?}; look at the archiver of the primary \
         (pg_stat_archiver), or end the segment there: select pg_switch_wal()"
    )]
    WalMissing {
        /// The first segment that is missing.
        segment: Segment,
        /// How long it was waited for.
        waited: Duration,
    },
    /// The part of that WAL that only the tail has.
    #[error(transparent)]
    Tail(Box<TailError>),
    /// A thread ended by itself.
    #[error("a worker of the backup failed: {0}")]
    Worker(String),
    /// The repository was away for so long that retention may have taken the backup for one that was given up.
    #[error(
        "the repository could not be told for {silent:?} that this backup is under way; it may have been cleared away as one \
         that was cut off, so it is given up: take it again"
    )]
    Forgotten {
        /// Since when nothing was told.
        silent: Duration,
    },
    /// Retention took it for cut off, and said so before it removed what there was of it.
    #[error(
        "backup {backup} was cleared away meanwhile as one that was cut off, since the repository had heard nothing of it for too \
         long; take it again (what failed first: {why})"
    )]
    ClearedAway {
        /// Its name.
        backup: String,
        /// What could not be written.
        why: Box<BackupError>,
    },
    /// Somebody removed what it builds upon.
    #[error("backup {backup}, which this one builds upon, was removed meanwhile; take it again")]
    ParentGone {
        /// Its name.
        backup: String,
    },
    /// How the server's timeline came to be.
    #[error(transparent)]
    History(Box<RestoreError>),
    /// The upload of a pack ended early; its own error says why.
    #[error("the upload of a pack ended early")]
    UploadEnded,
}

/// Takes a backup under a new name, over a session of its own (`client`) with the rights of `pg_backup_start`.
///
/// Dropping the future is safe at any moment: without a manifest there is no backup. The caller should close the session
/// then, which ends backup mode.
pub async fn backup(archive: &Archive, client: &Client, name: &str, options: &Options) -> Result<Summary, BackupError> {
    match take(archive, client, name, options).await {
        Err(error @ (BackupError::Repository(_) | BackupError::UploadEnded)) => {
            // Whatever fails when its files are removed beneath it: there is one reason for that.
            match is_abandoned(archive, name).await {
                true => Err(BackupError::ClearedAway { backup: name.to_owned(), why: Box::new(error) }),
                false => Err(error),
            }
        }
        other => other,
    }
}

async fn take(archive: &Archive, client: &Client, name: &str, options: &Options) -> Result<Summary, BackupError> {
    let server = session::look(client).await?;
    check_identity(archive, &server)?;
    // Before the first byte, so that retention sees it and keeps the WAL that it will need.
    let marker = Marker::new(session::floor(client).await?);
    let under_way = marker::begin(archive, name, &marker).await?;
    let started = session::start(client, &server, &format!("matriarch {name}"), options.fast).await?;
    let site = increment::Site { archive, client, server: &server, data: &options.data, started: &started };
    let basis = match options.incremental {
        true => Some(increment::find(&site, &under_way, marker).await?),
        false => None,
    };
    let (basis, fallback) = match basis {
        Some(Ok(basis)) => (Some(basis), None),
        Some(Err(why)) => (None, Some(why)),
        None => (None, None),
    };
    let data = options.data.clone();
    let scan = blocking(move || Ok(scan::scan(&data)?)).await?;
    let (basis, work) = compared(basis, &scan.files, server.pages_per_file).await?;
    options.progress.expect(work.bytes());
    let request = copy::Request {
        data: options.data.clone(),
        files: scan.files.clone(),
        work,
        backup: name.to_owned(),
        checksums: server.data_checksums.then_some(started.lsn),
        pages_per_file: server.pages_per_file,
        workers: options.workers,
        progress: options.progress.clone(),
    };
    let copied = copy::copy(archive, request).await?;
    let control = options.data.join(CONTROL);
    let control = blocking(move || read_control(&control)).await?;
    let stopped = session::stop(client, &server).await?;
    archive_wal(archive, &server, &options.data, started.lsn, &stopped, options.wal_patience).await?;
    let taken = Taken { name, server, started, stopped, control, basis, fallback };
    let manifest = taken.manifest(scan, copied);
    under_way.check()?;
    increment::still_there(archive, manifest.summary.needs()).await?;
    commit(archive, &manifest).await?;
    under_way.end().await;
    Ok(manifest.summary)
}

/// What is to be read, which takes a moment to find out of a large manifest.
async fn compared(
    basis: Option<Basis>,
    files: &[scan::Found],
    pages_per_file: u32,
) -> Result<(Option<Basis>, Work), BackupError> {
    let files = files.to_vec();
    let work = move || match basis {
        None => (None, Work::full(&files)),
        Some(mut basis) => {
            let work = compare::compare(&basis.parent, &files, basis.changes.as_ref().ok(), pages_per_file);
            // Of a large database it is large.
            basis.parent.lines = Vec::new();
            (Some(basis), work)
        }
    };
    blocking(move || Ok(work())).await
}

impl BackupError {
    fn tail(error: TailError) -> BackupError {
        match error {
            TailError::Repository(error) => BackupError::Repository(error),
            error => BackupError::Tail(Box::new(error)),
        }
    }
}

fn check_identity(archive: &Archive, server: &session::Server) -> Result<(), BackupError> {
    let incarnation = archive.incarnation();
    let text = |system: &str, major: u32, segment: u64| {
        format!("the system identifier {system}, PostgreSQL {major} and WAL segments of {segment} bytes")
    };
    let found = text(&server.system_identifier.to_string(), server.version / 10_000, server.segment_size);
    let expected = text(&incarnation.system_identifier, incarnation.major, incarnation.segment_size);
    if found == expected { Ok(()) } else { Err(BackupError::Foreign { found, expected }) }
}

/// The server may be writing it: what was read twice in a row alike is whole.
fn read_control(path: &Path) -> Result<Vec<u8>, BackupError> {
    let read = || std::fs::read(path).map_err(|source| BackupError::Read { path: path.to_owned(), source });
    let mut last = read()?;
    loop {
        let next = read()?;
        if next == last {
            return Ok(next);
        }
        last = next;
    }
}

/// Sees to it that every segment from start to stop is in the archive. A primary has them all: what its archiver has not
/// come to is pushed here. A standby's last one may be incomplete, so there its primary is waited for.
async fn archive_wal(
    archive: &Archive,
    server: &session::Server,
    data: &Path,
    start: Lsn,
    stopped: &session::Stopped,
    patience: Duration,
) -> Result<(), BackupError> {
    let size = server.segment_size;
    // Without its history no recovery follows a timeline, and an archive that began late may lack it.
    let history = WalName::History(stopped.timeline);
    let path = data.join("pg_wal").join(history.to_string());
    if path.exists() {
        wal::push(std::slice::from_ref(archive), &path, &history).await?;
    }
    let last = Segment::before(stopped.timeline, stopped.lsn, size);
    let mut segment = Segment::at(stopped.timeline, start, size);
    let deadline = Instant::now() + patience;
    while segment <= last {
        let name = WalName::Segment(segment);
        match archive.repository().size(&archive.place().wal(&name)).await {
            Ok(_) => {
                segment = segment.next(size);
                continue;
            }
            Err(error) if error.is_absent() => {}
            Err(error) => return Err(error.into()),
        }
        let path = data.join("pg_wal").join(segment.to_string());
        if !server.is_standby && path.exists() {
            match wal::push(std::slice::from_ref(archive), &path, &name).await {
                // Recycled under our hands, which happens only once it was archived.
                Ok(()) => continue,
                Err(PushError::NotThatSegment { .. } | PushError::Read { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        // A standby's primary may be far from the end of the segment that the backup ends in.
        let until = stopped.lsn.min(Lsn(segment.start(size).0 + size));
        let joiner = tail::Joiner::new(archive).map_err(BackupError::tail)?;
        if server.is_standby && joiner.covers(segment, until).await.map_err(BackupError::tail)? {
            segment = segment.next(size);
            continue;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
        if Instant::now() > deadline {
            return Err(BackupError::WalMissing { segment, waited: patience });
        }
    }
    Ok(())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BackupError> + Send + 'static,
) -> Result<T, BackupError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| BackupError::Worker(error.to_string()))?
}
