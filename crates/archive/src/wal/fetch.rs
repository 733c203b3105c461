//! Giving one file back, as PostgreSQL's `restore_command` asks for it.

use std::io;
use std::path::{Path, PathBuf};

use super::name::WalName;
use crate::archive::{Archive, ArchiveError};
use crate::format::Kind;
use crate::place_file;
use crate::repository::RepositoryError;

/// A file that was not given.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Proven: no archive has it. The only answer that may end a recovery.
    #[error("no archive holds {0}")]
    Absent(WalName),
    /// A repository did not answer, or what it gave is damaged.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// It could not be written.
    #[error("could not write {path}: {source}", path = path.display())]
    Write {
        /// Where to.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Nothing can be proven without one.
    #[error("there is no repository to fetch from")]
    NoRepository,
}

impl From<RepositoryError> for FetchError {
    fn from(error: RepositoryError) -> Self {
        FetchError::Archive(error.into())
    }
}

impl FetchError {
    /// What a `restore_command` must exit with: PostgreSQL takes 1 to 125 for "there is no such file", ends recovery and
    /// may promote; above, it stops instead.
    pub fn exit_code(&self) -> u8 {
        match self {
            FetchError::Absent(_) => 1,
            _ => 126,
        }
    }
}

/// Writes a file of the archive to `to` (whole or not at all, synced); see [`content`].
pub async fn fetch(archives: &[Archive], name: &WalName, to: &Path) -> Result<(), FetchError> {
    write(to, content(archives, name).await?).await
}

/// A file of the archive, verified. It is taken from the first archive that has it; it is absent only if every archive
/// proves so.
pub async fn content(archives: &[Archive], name: &WalName) -> Result<Vec<u8>, FetchError> {
    if archives.is_empty() {
        return Err(FetchError::NoRepository);
    }
    let mut failed = None;
    for archive in archives {
        match read(archive, name).await {
            Ok(content) => return Ok(content),
            Err(error) if is_absent(&error) => {}
            Err(error) => {
                tracing::warn!(file = %name, repository = archive.repository().name(), %error, "not fetched from here");
                failed = failed.or(Some(error));
            }
        }
    }
    Err(failed.map_or_else(|| FetchError::Absent(name.clone()), FetchError::from))
}

/// From the incarnation, or from those it came from, of which it only has what lies before the branch.
pub(crate) async fn read(archive: &Archive, name: &WalName) -> Result<Vec<u8>, ArchiveError> {
    let mut archive = archive.clone();
    loop {
        match archive.get(Kind::Wal, &archive.place().wal(name)).await {
            Err(error) if error.is_absent() => {
                let inherited = archive.incarnation().parent.as_ref().is_some_and(|parent| match name {
                    WalName::Segment(segment) => {
                        let end =
                            segment.start(archive.incarnation().segment_size).0 + archive.incarnation().segment_size;
                        segment.timeline <= parent.timeline && end <= parent.lsn.0
                    }
                    WalName::History(timeline) => *timeline <= parent.timeline,
                    WalName::Partial(_) | WalName::Backup(..) => false,
                });
                match archive.parent().await? {
                    Some(parent) if inherited => archive = parent,
                    _ => return Err(error.into()),
                }
            }
            answer => return Ok(answer?),
        }
    }
}

fn is_absent(error: &ArchiveError) -> bool {
    matches!(error, ArchiveError::Repository(error) if error.is_absent())
}

/// Whole or not at all, and synced.
pub(crate) async fn write(to: &Path, content: Vec<u8>) -> Result<(), FetchError> {
    let path = to.to_owned();
    let written = tokio::task::spawn_blocking(move || place_file::place(&path, &content)).await;
    written
        .unwrap_or_else(|error| Err(io::Error::other(error)))
        .map_err(|source| FetchError::Write { path: to.to_owned(), source })
}
