//! Archiving one file, as PostgreSQL's `archive_command` asks for it.

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures_util::future::join_all;

use super::header::{self, BadSegment};
use super::name::{BadWalName, WalName};
use crate::archive::Archive;
use crate::format::Kind;
use crate::repository::{PutNew, RepositoryError};

/// No history or label is longer than this.
const LONGEST_TEXT: u64 = 1 << 20;

/// A file that is not in every archive yet.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// Its name.
    #[error(transparent)]
    Name(#[from] BadWalName),
    /// It could not be read.
    #[error("could not read {path}: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is not what its name says.
    #[error("{path} is not archived as {name}: {why}", path = path.display())]
    NotThatSegment {
        /// The file.
        path: PathBuf,
        /// Its name.
        name: WalName,
        /// What is wrong.
        why: BadSegment,
    },
    /// A text file that no history or label can be.
    #[error("{path} is not archived: it has {length} bytes, too many for a text file of PostgreSQL", path = path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// Its bytes.
        length: u64,
    },
    /// A repository did not take it, or was not asked because there is none.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    /// Archiving to nowhere would lose the file.
    #[error("there is no repository to archive to")]
    NoRepository,
}

/// Archives a file under the name that PostgreSQL gives it (`%f`), in all archives at once; returns when each has
/// confirmed it. The same file again is success; another content under the same name is a
/// [`RepositoryError::Conflict`], and both are kept.
pub async fn push(archives: &[Archive], path: &Path, name: &WalName) -> Result<(), PushError> {
    if archives.is_empty() {
        return Err(PushError::NoRepository);
    }
    let content = read(path, name).await?;
    if let WalName::Segment(segment) | WalName::Partial(segment) = name {
        for archive in archives {
            let incarnation = archive.incarnation();
            // A record that holds no number matches no system.
            let system = incarnation.system_identifier.parse().unwrap_or_default();
            header::check(&content, *segment, system, incarnation.segment_size)
                .map_err(|why| PushError::NotThatSegment { path: path.to_owned(), name: name.clone(), why })?;
        }
    }
    let puts = archives.iter().map(|archive| {
        let content = content.clone();
        async move { archive.put_new(Kind::Wal, &archive.place().wal(name), content).await }
    });
    for outcome in join_all(puts).await {
        match outcome {
            Ok(PutNew::Created | PutNew::Same) => {}
            Err(error) => {
                if let RepositoryError::Conflict { .. } = &error {
                    tracing::error!(file = %name, %error, "two servers wrote the same part of the log: split brain");
                }
                return Err(error.into());
            }
        }
    }
    Ok(())
}

async fn read(path: &Path, name: &WalName) -> Result<Bytes, PushError> {
    let read_error = |source| PushError::Read { path: path.to_owned(), source };
    if let WalName::History(_) | WalName::Backup(..) = name {
        let length = tokio::fs::metadata(path).await.map_err(read_error)?.len();
        if length > LONGEST_TEXT {
            return Err(PushError::TooLong { path: path.to_owned(), length });
        }
    }
    tokio::fs::read(path).await.map(Bytes::from).map_err(read_error)
}
