//! What can go wrong with a restore.

use std::io;
use std::path::{Path, PathBuf};

use super::BadHistory;
use crate::archive::ArchiveError;
use crate::repository::RepositoryError;
use crate::tail::TailError;

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
    #[error("could not write {path}: {source}{remedy}", path = path.display(), remedy = remedy(source))]
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
    pub(super) fn write(path: &Path) -> impl FnOnce(io::Error) -> RestoreError {
        let path = path.to_owned();
        move |source| RestoreError::Write { path, source }
    }

    /// Whether there is no room any more where it is restored to.
    pub fn is_full(&self) -> bool {
        matches!(self, RestoreError::Write { source, .. } if is_full(source))
    }

    /// Whether the same may go on later: nothing is wrong with what there is of it.
    pub fn is_passing(&self) -> bool {
        self.is_full() || matches!(self, RestoreError::Archive(_) | RestoreError::Busy { .. })
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn remedy(error: &io::Error) -> &'static str {
    if is_full(error) { "; that file system is full: free some of it" } else { "" }
}
