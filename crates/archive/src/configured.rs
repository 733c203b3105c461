//! From the configuration of a cluster to its archive: the one place where keys become repositories.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use matriarch_config::{self as config, Compression};
use serde::{Deserialize, Serialize};

use crate::archive::{Archive, ArchiveError, Incarnation, Parent};
use crate::format::{BadKey, Codec, Identities, Recipients, Style};
use crate::layout::{BadName, Place};
use crate::repository::{Repository, RepositoryError};

mod azure;
mod google;
mod place;
mod wanted;

pub(crate) use place::location;
pub use wanted::Ending;
use wanted::Wanted;

/// What the section `archive` of a cluster's configuration means on this host.
#[derive(Clone, Debug)]
pub struct Configured {
    cluster: String,
    repositories: Vec<Wanted>,
    style: Style,
    identities: Identities,
}

/// A section `archive` that cannot be used on this host.
#[derive(Debug, thiserror::Error)]
pub enum ConfiguredError {
    /// A file that it names.
    #[error("archive.{key}: {path}: {why}", path = path.display())]
    File {
        /// The key.
        key: String,
        /// The file.
        path: PathBuf,
        /// What is wrong, and what would be right.
        why: String,
    },
    /// A recipient or an identity.
    #[error("archive.encryption: {0}")]
    Key(#[from] BadKey),
    /// The name of the cluster or of an incarnation.
    #[error(transparent)]
    Name(#[from] BadName),
    /// A repository.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The data directory's own record.
    #[error("{path}: {source}", path = path.display())]
    Origin {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl From<RepositoryError> for ConfiguredError {
    fn from(error: RepositoryError) -> Self {
        ConfiguredError::Archive(error.into())
    }
}

impl Configured {
    /// Reads the files that the section names. What is wrong with a repository's own files is told when that one is opened, and is
    /// nothing to the others. `cluster` is the scope; `patience`: how long a call is repeated while a store does not answer.
    pub fn new(
        section: &config::Archive,
        cluster: &str,
        patience: Duration,
    ) -> Result<Configured, Box<ConfiguredError>> {
        read(section, cluster, patience).map_err(Box::new)
    }

    /// The cluster's name in every repository.
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// Each repository as people write it, in the order of the configuration.
    pub fn names(&self) -> impl Iterator<Item = String> {
        self.repositories.iter().map(|wanted| wanted.name().to_owned())
    }

    /// When the credentials of each repository end, as far as they say so, in the order of the configuration.
    pub fn endings(&self) -> Vec<Option<Ending>> {
        self.repositories.iter().map(Wanted::ending).collect()
    }

    /// How objects are written.
    pub fn style(&self) -> &Style {
        &self.style
    }

    /// Whether this host can read what it archives: nothing is encrypted, or there is a private key.
    pub fn is_readable(&self) -> bool {
        self.style.recipients.is_empty() || !self.identities.is_empty()
    }

    /// The private keys.
    pub fn identities(&self) -> &Identities {
        &self.identities
    }

    /// The same with other private keys, and with no others.
    pub fn with_identities(self, identities: Identities) -> Configured {
        Configured { identities, ..self }
    }

    /// Opens every repository that was initialised; each has its own outcome, in the order of the configuration.
    pub async fn repositories(&self) -> Vec<Result<Repository, RepositoryError>> {
        let mut opened = Vec::new();
        for wanted in &self.repositories {
            opened.push(wanted.open().await);
        }
        opened
    }

    /// Makes repositories of places that are none yet; each has its own outcome.
    pub async fn init(&self) -> Vec<Result<Repository, RepositoryError>> {
        let mut opened = Vec::new();
        for wanted in &self.repositories {
            opened.push(wanted.init().await);
        }
        opened
    }

    /// One incarnation in one repository, which must have begun.
    pub async fn open(&self, repository: &Repository, incarnation: &str) -> Result<Archive, ArchiveError> {
        let place = Place::new(&self.cluster, incarnation)?;
        Archive::open(repository, place, self.style.clone(), self.identities.clone()).await
    }

    /// All incarnations of the cluster in one repository, by the time they began.
    pub async fn incarnations(&self, repository: &Repository) -> Result<Vec<Archive>, ArchiveError> {
        let mut found = Vec::new();
        for name in repository.folders(&self.cluster).await? {
            match self.open(repository, &name).await {
                Ok(archive) => found.push(archive),
                // What somebody else put there.
                Err(ArchiveError::Repository(error)) if error.is_absent() => {}
                Err(ArchiveError::Name(_)) => {}
                Err(error) => return Err(error),
            }
        }
        found.sort_by_key(|archive| archive.incarnation().created);
        Ok(found)
    }

    /// One incarnation in one repository; begins it if nobody has.
    pub async fn begin(&self, repository: &Repository, own: &Own) -> Result<Archive, ArchiveError> {
        let place = Place::new(&self.cluster, &own.name)?;
        Archive::begin(repository, place, own.record.clone(), self.style.clone(), self.identities.clone()).await
    }

    /// One incarnation in every repository.
    ///
    /// # Errors
    /// When one of them cannot be opened.
    pub async fn open_all(&self, incarnation: &str) -> Result<Vec<Archive>, Box<ConfiguredError>> {
        let mut archives = Vec::new();
        for repository in self.repositories().await {
            let repository = repository.map_err(|error| Box::new(error.into()))?;
            let opened = self.open(&repository, incarnation).await;
            archives.push(opened.map_err(|error| Box::new(error.into()))?);
        }
        Ok(archives)
    }
}

/// The incarnation that a data directory belongs to: its name in a repository, and its record there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Own {
    /// Name of the incarnation.
    pub name: String,
    /// What it is.
    pub record: Incarnation,
}

/// Beside the data, so that copies and rewinds carry it along: a restore that went its own way is an incarnation of its
/// own, although its database has the system identifier of the one it came from.
pub const ORIGIN: &str = "matriarch_archive.json";

/// The content of [`ORIGIN`]. A restore that opens a new incarnation writes it into the data directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Name of the incarnation.
    pub incarnation: String,
    /// What it came from.
    pub parent: Option<Parent>,
}

impl Own {
    /// Of a data directory: what its [`Origin`] says; without one it is the first incarnation of its database, and named
    /// by the system identifier.
    pub fn of(data_dir: &Path, identity: Identity) -> Result<Own, Box<ConfiguredError>> {
        let path = data_dir.join(ORIGIN);
        let failed = |source| Box::new(ConfiguredError::Origin { path: path.clone(), source });
        let origin = match std::fs::read(&path) {
            Ok(text) => Some(serde_json::from_slice::<Origin>(&text).map_err(|error| failed(error.into()))?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(failed(error)),
        };
        Ok(Own::begun(origin, identity))
    }

    /// The same of the content of that file, as a server tells it.
    pub fn told(origin: Option<&str>, identity: Identity) -> Result<Own, Box<ConfiguredError>> {
        let failed = |error: serde_json::Error| {
            Box::new(ConfiguredError::Origin { path: PathBuf::from(ORIGIN), source: error.into() })
        };
        let origin = origin.map(serde_json::from_str::<Origin>).transpose().map_err(failed)?;
        Ok(Own::begun(origin, identity))
    }

    fn begun(origin: Option<Origin>, identity: Identity) -> Own {
        let system = identity.system_identifier.to_string();
        let (name, parent) = origin.map_or((system.clone(), None), |origin| (origin.incarnation, origin.parent));
        let record = Incarnation {
            format: 1,
            system_identifier: system,
            major: identity.major,
            segment_size: identity.segment_size,
            created: jiff::Timestamp::now(),
            parent,
        };
        Own { name, record }
    }
}

/// Which database a data directory holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The database system identifier.
    pub system_identifier: u64,
    /// Major version of PostgreSQL.
    pub major: u32,
    /// Bytes of a WAL segment.
    pub segment_size: u64,
}

fn read(section: &config::Archive, cluster: &str, patience: Duration) -> Result<Configured, ConfiguredError> {
    // Refused here and not by each call later.
    Place::new(cluster, "x")?;
    let repositories = section.repositories.iter().enumerate();
    let codec = match section.compression {
        Compression::None => Codec::None,
        Compression::Lz4 => Codec::Lz4,
        Compression::Zstd(level) => Codec::Zstd(level),
    };
    let recipients = Recipients::parse(section.encryption.recipients.iter().map(String::as_str))?;
    let identities = match &section.encryption.identity_file {
        Some(path) => match std::fs::read_to_string(path) {
            Ok(text) => Identities::parse(&text)?,
            // A host that only writes has none.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Identities::default(),
            Err(error) => {
                let key = "encryption.identity_file".to_owned();
                return Err(ConfiguredError::File { key, path: path.clone(), why: error.to_string() });
            }
        },
        None => Identities::default(),
    };
    Ok(Configured {
        cluster: cluster.to_owned(),
        repositories: repositories.map(|(index, repository)| Wanted::new(repository, index, patience)).collect(),
        style: Style { codec, recipients },
        identities,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(json: serde_json::Value) -> config::Archive {
        let config = config::DynamicConfig::from_json(&serde_json::json!({ "archive": json })).unwrap();
        config.archive.unwrap()
    }

    #[tokio::test]
    async fn a_bad_file_of_one_repository_is_named_and_is_nothing_to_the_others() {
        let folder = tempfile::tempdir().unwrap();
        let (place, garbled) = (folder.path().join("archive"), folder.path().join("garbled"));
        std::fs::create_dir(&place).unwrap();
        std::fs::write(&garbled, "{").unwrap();
        let section = section(serde_json::json!({ "repositories": [
            { "location": place }, { "location": "s3://b/c", "credentials": "/nonexistent/keys" },
            { "location": "gs://b/c", "credentials": garbled }, { "location": "azure://a/b/c", "credentials": garbled },
            { "location": "s3://b/d", "server_side_encryption": "sse-c", "customer_key": garbled },
        ] }));
        let configured = Configured::new(&section, "main", Duration::ZERO).unwrap();
        let names: Vec<String> = configured.names().collect();
        assert_eq!(names[1..], ["s3://b/c", "gs://b/c", "azure://a/b/c", "s3://b/d"]);
        let (made, opened) = (configured.init().await, configured.repositories().await);
        let garbled = garbled.display().to_string();
        for (made, file) in [(made, &garbled), (opened, &garbled)] {
            let mut outcomes = made.into_iter();
            assert_eq!(outcomes.next().unwrap().unwrap().name(), names[0]);
            let told: Vec<String> = outcomes.map(|outcome| outcome.unwrap_err().to_string()).collect();
            assert!(
                told[0]
                    .starts_with("s3://b/c cannot be opened: archive.repositories[1].credentials: /nonexistent/keys: "),
                "{told:?}"
            );
            for (told, (name, key)) in told[1..].iter().zip([
                ("gs://b/c", "repositories[2].credentials"),
                ("azure://a/b/c", "repositories[3].credentials"),
                ("s3://b/d", "repositories[4].customer_key"),
            ]) {
                assert!(told.starts_with(&format!("{name} cannot be opened: archive.{key}: {file}: ")), "{told}");
            }
        }
    }

    #[tokio::test]
    async fn an_incarnation_is_named_by_its_database_until_a_restore_says_otherwise() {
        let folder = tempfile::tempdir().unwrap();
        let (data, place) = (folder.path().join("data"), folder.path().join("archive"));
        std::fs::create_dir(&data).unwrap();
        std::fs::create_dir(&place).unwrap();
        let section = section(serde_json::json!({ "repositories": [{ "location": place }], "compression": "zstd:9" }));
        let configured = Configured::new(&section, "main", Duration::ZERO).unwrap();
        assert_eq!(configured.style().codec, Codec::Zstd(9));
        assert!(configured.repositories().await[0].is_err(), "nobody has initialised it");
        let repository = configured.init().await.remove(0).unwrap();
        let identity = Identity { system_identifier: 77, major: 16, segment_size: 16 << 20 };
        let own = Own::of(&data, identity).unwrap();
        assert_eq!(own.name, "77");
        configured.begin(&repository, &own).await.unwrap();
        let parent = Parent { incarnation: "77".into(), timeline: 3, lsn: matriarch_core::Lsn(0x500_0000) };
        let origin = Origin { incarnation: "77-20261122T0500".into(), parent: Some(parent.clone()) };
        std::fs::write(data.join(ORIGIN), serde_json::to_vec(&origin).unwrap()).unwrap();
        let own = Own::of(&data, identity).unwrap();
        configured.begin(&repository, &own).await.unwrap();
        let opened = configured.open_all("77-20261122T0500").await.unwrap();
        assert_eq!(opened[0].incarnation().parent, Some(parent));
        std::fs::write(data.join(ORIGIN), "{").unwrap();
        assert!(Own::of(&data, identity).unwrap_err().to_string().contains(ORIGIN));
    }
}
