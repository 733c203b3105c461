//! Doors in: repositories that other tools have made, read where they lie.
//!
//! A [`Foreign`] says where one is; [`Door::open`] opens it for WAL, which is all that a `restore_command` needs, and
//! [`Door::survey`] looks at its backups, so that [`crate::restore::plan`] can choose and [`crate::restore::restore_from`]
//! restore. Only [`crate::export`] writes there. Each tool has a folder of its own; what they share is how objects are streamed
//! and unpacked.

mod barman;
mod codec;
mod pgbackrest;
mod shelf;
mod stock;
mod stream;
pub(crate) mod tar;
mod tars;
mod walg;

pub use stock::Stock;

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use matriarch_config::ArchiveRepository;
use matriarch_core::Timeline;
use serde::{Deserialize, Serialize};

use crate::configured::{self, ConfiguredError};
use crate::repository::{Repository, RepositoryError, Settings};
use crate::restore::RestoreError;
use crate::wal::{self, FetchError, Segment, WalName};
use barman::Server;
pub(crate) use barman::{Info, Outlet};
#[cfg(test)]
pub(crate) use codec::Codec;
use pgbackrest::Stanza;
use shelf::Shelf;
use walg::Storage;

/// A tool whose repositories are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tool {
    /// pgBackRest.
    PgBackRest,
    /// WAL-G.
    WalG,
    /// Barman's cloud scripts, and what writes as they do (CloudNativePG).
    Barman,
}

impl fmt::Display for Tool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Tool::PgBackRest => "pgbackrest",
            Tool::WalG => "walg",
            Tool::Barman => "barman",
        })
    }
}

impl FromStr for Tool {
    type Err = String;

    fn from_str(text: &str) -> Result<Tool, String> {
        match text {
            "pgbackrest" => Ok(Tool::PgBackRest),
            "walg" | "wal-g" => Ok(Tool::WalG),
            "barman" => Ok(Tool::Barman),
            other => Err(format!("repositories of '{other}' cannot be read; those of pgbackrest, walg and barman can")),
        }
    }
}

impl Tool {
    /// The variable that holds the passphrase or key where no file does: the tool's own.
    pub fn variable(self) -> Option<&'static str> {
        match self {
            Tool::PgBackRest => Some("PGBACKREST_REPO1_CIPHER_PASS"),
            Tool::WalG => Some("WALG_LIBSODIUM_KEY"),
            Tool::Barman => None,
        }
    }
}

/// Where another tool's repository is. Secrets are in the files that it names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Foreign {
    /// Who made it.
    pub tool: Tool,
    /// Where it lies.
    pub repository: ArchiveRepository,
    /// Which of several in it: a stanza, or Barman's name of a server. The only one unless given.
    pub name: Option<String>,
    /// What was found out when a backup was chosen; nothing unless given.
    #[serde(default)]
    pub chosen: Chosen,
    /// File with the passphrase or the key; the tool's environment variable unless given.
    pub key_file: Option<PathBuf>,
}

/// What was restored, for those who fetch the WAL that follows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chosen {
    /// The backup: by it the repository proves that it is there.
    pub backup: Option<String>,
    /// The database system identifier of the WAL.
    pub system_identifier: Option<u64>,
    /// Which of a stanza's databases, where an upgrade has left several.
    pub database: Option<u32>,
}

impl Foreign {
    fn connect(&self, patience: Duration) -> Result<Repository, RepositoryError> {
        let location = configured::location(&self.repository, 0).map_err(|error| match error {
            ConfiguredError::File { path, why, .. } => self.unusable(format!("{}: {why}", path.display())),
            error => self.unusable(error.to_string()),
        })?;
        Repository::foreign(&Settings { location, patience })
    }

    fn unusable(&self, why: String) -> RepositoryError {
        RepositoryError::Settings { repository: self.repository.location.to_string(), why }
    }

    /// The passphrase or key, if there is one.
    fn secret(&self) -> Result<Option<String>, RepositoryError> {
        let Some(path) = &self.key_file else {
            let set = self.tool.variable().and_then(|name| std::env::var(name).ok());
            return Ok(set.filter(|text| !text.is_empty()));
        };
        let named = |why: String| self.unusable(format!("the key file {}: {why}", path.display()));
        let text = std::fs::read_to_string(path).map_err(|error| named(error.to_string()))?;
        match text.trim_end_matches(['\r', '\n']) {
            "" => Err(named("it is empty".to_owned())),
            key => Ok(Some(key.to_owned())),
        }
    }
}

/// Another tool's repository, open for reading.
#[derive(Debug)]
pub struct Door {
    foreign: Foreign,
    shelf: Box<dyn Shelf>,
}

impl Door {
    /// Opens it for WAL. `patience`: how long a call is repeated while the store does not answer.
    pub async fn open(foreign: &Foreign, patience: Duration) -> Result<Door, RepositoryError> {
        let repository = foreign.connect(patience)?;
        let shelf: Box<dyn Shelf> = match foreign.tool {
            Tool::PgBackRest => Box::new(Stanza::open(repository, foreign).await?),
            Tool::WalG => Box::new(Storage::open(repository, foreign).await?),
            Tool::Barman => Box::new(Server::open(repository, foreign).await?),
        };
        Ok(Door { foreign: foreign.clone(), shelf })
    }

    /// Looks at its backups. One that is named decides where there is something to decide, such as which database is meant.
    pub async fn survey(mut self, backup: Option<&str>) -> Result<Stock, RestoreError> {
        let known = self.shelf.survey(backup).await?;
        Stock::of(self, known).await
    }

    /// Which of several it is: `stanza main`.
    pub fn name(&self) -> String {
        self.shelf.name()
    }

    /// Who made it.
    pub fn tool(&self) -> Tool {
        self.foreign.tool
    }

    /// Whether reading it needs a passphrase or a key.
    pub fn is_encrypted(&self) -> bool {
        self.shelf.is_encrypted()
    }

    /// An object below the repository that whoever fetches WAL must be able to read.
    pub fn proof(&self) -> Option<String> {
        self.shelf.proof()
    }

    /// The repository below.
    pub fn repository(&self) -> &Repository {
        self.shelf.repository()
    }

    /// A file of the WAL, verified as far as the tool's format allows.
    pub async fn wal(&self, name: &WalName) -> Result<Vec<u8>, RepositoryError> {
        let content = self.shelf.wal(name).await?;
        if let (WalName::Segment(segment), Some(system)) = (name, self.shelf.system_identifier()) {
            let checked = wal::check_segment(&content, *segment, system, content.len() as u64);
            checked.map_err(|error| self.repository().corrupt(&name.to_string(), error.to_string()))?;
        }
        Ok(content)
    }

    /// Writes a file of the WAL to `to`, whole or not at all: what a `restore_command` does.
    pub async fn fetch(&self, name: &WalName, to: &Path) -> Result<(), FetchError> {
        match self.wal(name).await {
            Ok(content) => wal::write(to, content).await,
            Err(error) if error.is_absent() => Err(FetchError::Absent(name.clone())),
            Err(error) => Err(error.into()),
        }
    }

    pub(crate) async fn timelines(&self) -> Result<BTreeSet<Timeline>, RepositoryError> {
        self.shelf.timelines().await
    }

    /// The segments of a timeline from one on, as they are listed.
    pub(crate) async fn listed(&self, from: Segment) -> Result<BTreeSet<Segment>, RepositoryError> {
        self.shelf.listed(from).await
    }

    pub(crate) async fn has(&self, segment: Segment) -> Result<bool, RepositoryError> {
        match self.shelf.find(segment).await {
            Ok(()) => Ok(true),
            Err(error) if error.is_absent() => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// The file without which PostgreSQL takes a backup for a server that crashed.
pub(crate) const LABEL: &str = "backup_label";

/// Files that must not be restored, whatever a tool has kept: those of the process that ran, and what would decide about
/// recovery or put the links of tablespaces where they were.
pub(crate) fn is_left_out(path: &str) -> bool {
    const LEFT_OUT: [&str; 8] = [
        "backup_label.old",
        "postmaster.opts",
        "postmaster.pid",
        "recovery.conf",
        "recovery.signal",
        "standby.signal",
        "tablespace_map",
        "tablespace_map.old",
    ];
    LEFT_OUT.contains(&path)
}

/// What came out of an object cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unfit {
    /// It is not what it must be.
    #[error("{0}")]
    Content(String),
    /// It is encrypted, and there is no key or another one.
    #[error("{0}")]
    Sealed(String),
    /// It cannot be written.
    #[error(transparent)]
    Restore(RestoreError),
}

impl Unfit {
    /// What a restore is told about an object.
    pub fn about(self, repository: &Repository, object: &str) -> RestoreError {
        match self {
            Unfit::Restore(error) => error,
            Unfit::Content(why) => repository.corrupt(object, why).into(),
            Unfit::Sealed(why) => {
                let (object, repository) = (object.to_owned(), repository.name().to_owned());
                RepositoryError::NoKey { object, repository, why }.into()
            }
        }
    }
}

impl From<io::Error> for Unfit {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::PermissionDenied => Unfit::Sealed(error.to_string()),
            _ => Unfit::Content(error.to_string()),
        }
    }
}

impl From<RestoreError> for Unfit {
    fn from(error: RestoreError) -> Self {
        Unfit::Restore(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn foreign(location: &str) -> Foreign {
        let repository = ArchiveRepository::at(location.parse().unwrap());
        Foreign { tool: Tool::PgBackRest, repository, name: None, chosen: Chosen::default(), key_file: None }
    }

    #[tokio::test]
    async fn what_is_no_repository_is_told_with_what_is_missing() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().display().to_string();
        let open = async |foreign: &Foreign| Door::open(foreign, Duration::ZERO).await.unwrap_err().to_string();
        let error = open(&foreign(&at)).await;
        assert!(error.contains("no stanza") && error.contains(&at), "{error}");
        std::fs::create_dir_all(folder.path().join("archive/main")).unwrap();
        let error = open(&foreign(&at)).await;
        assert!(error.contains("archive/main/archive.info"), "{error}");
        let named = Foreign { name: Some("other".into()), ..foreign(&at) };
        let error = open(&named).await;
        assert!(error.contains("no stanza 'other'") && error.contains("main"), "{error}");
        std::fs::write(folder.path().join("archive/main/archive.info"), "[backrest]\nbackrest-format=6\n").unwrap();
        let error = open(&foreign(&at)).await;
        assert!(error.contains("format 6"), "{error}");
        std::fs::write(folder.path().join("archive/main/archive.info"), "Salted__whatever").unwrap();
        let error = open(&foreign(&at)).await;
        assert!(error.contains("encrypted") && error.contains("PGBACKREST_REPO1_CIPHER_PASS"), "{error}");
        let key = folder.path().join("key");
        std::fs::write(&key, "\n").unwrap();
        let error = open(&Foreign { key_file: Some(key), ..foreign(&at) }).await;
        assert!(error.contains("key") && error.contains("it is empty"), "{error}");
        let error = open(&foreign("/nonexistent/place")).await;
        assert!(error.contains("/nonexistent/place is not a directory"), "{error}");
    }
}
