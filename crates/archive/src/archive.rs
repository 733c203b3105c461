//! One incarnation of a cluster in a repository: objects by kind and name, sealed and opened.

use bytes::Bytes;
use jiff::Timestamp;
use matriarch_core::{Lsn, Timeline};
use serde::{Deserialize, Serialize};

use crate::format::{self, FormatError, Identities, Kind, Style};
use crate::layout::{BadName, Place};
use crate::repository::{PutNew, Repository, RepositoryError};

/// What an incarnation is; written once, when it begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incarnation {
    /// Version of this record, 1.
    pub format: u32,
    /// The database system identifier of all its WAL, decimal.
    pub system_identifier: String,
    /// Major version of PostgreSQL.
    pub major: u32,
    /// Bytes of a WAL segment.
    pub segment_size: u64,
    /// When it began.
    pub created: Timestamp,
    /// Where its history came from, for one that began as a restore.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<Parent>,
}

/// The incarnation that another one branched off.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parent {
    /// Name of the incarnation, of the same cluster.
    pub incarnation: String,
    /// Timeline that was left.
    pub timeline: Timeline,
    /// Where it was left.
    pub lsn: Lsn,
}

/// An incarnation that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The repository.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    /// A name.
    #[error(transparent)]
    Name(#[from] BadName),
    /// It is there, as the incarnation of another database.
    #[error("{name} in {repository} belongs to another database: {why}; open an incarnation of its own")]
    Foreign {
        /// Name of the incarnation's record.
        name: String,
        /// The repository.
        repository: String,
        /// What differs.
        why: String,
    },
}

/// One incarnation, open for reading and writing.
#[derive(Clone, Debug)]
pub struct Archive {
    repository: Repository,
    place: Place,
    incarnation: Incarnation,
    style: Style,
    identities: Identities,
}

impl Archive {
    /// Begins an incarnation, or finds it begun with the same identity.
    pub async fn begin(
        repository: &Repository,
        place: Place,
        incarnation: Incarnation,
        style: Style,
        identities: Identities,
    ) -> Result<Archive, ArchiveError> {
        let name = place.record();
        let json =
            serde_json::to_vec_pretty(&incarnation).map_err(|error| repository.corrupt(&name, error.to_string()))?;
        let who = |bytes: &[u8]| -> Result<String, String> {
            let found: Incarnation = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
            Ok(found.identity())
        };
        match repository.put_new(&name, Bytes::from(json), who).await {
            Ok(_) => Archive::open(repository, place, style, identities).await,
            Err(RepositoryError::Conflict { kept, .. }) => {
                // Two databases under one name are a mistake in somebody's settings, not two histories of one.
                repository.delete(&kept).await?;
                let found = read_record(repository, &place).await?;
                let why = format!("it is {}, and we are {}", found.identity(), incarnation.identity());
                Err(ArchiveError::Foreign { name, repository: repository.name().to_owned(), why })
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Opens an incarnation.
    pub async fn open(
        repository: &Repository,
        place: Place,
        style: Style,
        identities: Identities,
    ) -> Result<Archive, ArchiveError> {
        let incarnation = read_record(repository, &place).await?;
        Ok(Archive { repository: repository.clone(), place, incarnation, style, identities })
    }

    /// The repository below.
    pub fn repository(&self) -> &Repository {
        &self.repository
    }

    /// Where its objects lie.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// What it is.
    pub fn incarnation(&self) -> &Incarnation {
        &self.incarnation
    }

    /// How objects are written.
    pub fn style(&self) -> &Style {
        &self.style
    }

    pub(crate) fn identities(&self) -> &Identities {
        &self.identities
    }

    /// The incarnation that this one branched off, if any.
    pub async fn parent(&self) -> Result<Option<Archive>, ArchiveError> {
        let Some(parent) = &self.incarnation.parent else { return Ok(None) };
        let place = self.place.sibling(&parent.incarnation)?;
        Archive::open(&self.repository, place, self.style.clone(), self.identities.clone()).await.map(Some)
    }

    /// Creates an object of this content, never over another one. Equal content is success, whoever wrote it.
    pub async fn put_new(&self, kind: Kind, name: &str, content: Bytes) -> Result<PutNew, RepositoryError> {
        let (style, sealed_name) = (self.style.clone(), name.to_owned());
        let sealed = tokio::task::spawn_blocking(move || format::seal(&style, kind, &sealed_name, &content)).await;
        let sealed = sealed.map_err(|error| self.repository.corrupt(name, error.to_string()))?;
        let sealed = sealed.map_err(|error| self.error(name, error))?;
        self.repository.put_new(name, Bytes::from(sealed), format::identity_of).await
    }

    /// The content of an object, verified.
    pub async fn get(&self, kind: Kind, name: &str) -> Result<Vec<u8>, RepositoryError> {
        let object = self.repository.get(name).await?;
        let (identities, opened_name) = (self.identities.clone(), name.to_owned());
        let opened = tokio::task::spawn_blocking(move || format::open(&object, kind, &opened_name, &identities)).await;
        let opened = opened.map_err(|error| self.repository.corrupt(name, error.to_string()))?;
        opened.map_err(|error| self.error(name, error))
    }

    pub(crate) fn error(&self, name: &str, error: FormatError) -> RepositoryError {
        let (object, repository, why) = (name.to_owned(), self.repository.name().to_owned(), error.to_string());
        match error {
            FormatError::NoKey(_) => RepositoryError::NoKey { object, repository, why },
            FormatError::Unwritable(_) => RepositoryError::Settings { repository, why: format!("{object}: {why}") },
            _ => RepositoryError::Corrupt { object, repository, why },
        }
    }
}

impl Incarnation {
    fn identity(&self) -> String {
        let Incarnation { system_identifier, major, segment_size, .. } = self;
        format!("system {system_identifier} of PostgreSQL {major} with segments of {segment_size} bytes")
    }
}

async fn read_record(repository: &Repository, place: &Place) -> Result<Incarnation, RepositoryError> {
    let name = place.record();
    let bytes = repository.get(&name).await?;
    let found: Incarnation = serde_json::from_slice(&bytes)
        .map_err(|error| repository.corrupt(&name, format!("it cannot be read: {error}")))?;
    match found.format {
        1 => Ok(found),
        newer => Err(repository.corrupt(&name, FormatError::Newer(newer).to_string())),
    }
}
