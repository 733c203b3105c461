//! Repositories to test against: a directory, and a bucket of a real S3 server; and servers that archive into them.
#![allow(dead_code, clippy::unwrap_used, reason = "each test program uses its part; helpers of tests may panic")]

pub mod database;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use matriarch_archive::archive::{Archive, Incarnation};
use matriarch_archive::format::{Codec, Identities, Recipients, Style};
use matriarch_archive::layout::Place;
use matriarch_archive::repository::{CreateBy, Location, Repository, S3, Settings, digest_name};
use matriarch_testkit::dir::TestDir;
use matriarch_testkit::s3::{BUCKET, KEYS, S3Server};
use matriarch_testkit::user;
use serde::{Deserialize, Serialize};

/// Patience where the store is up: generous.
pub const PATIENT: Duration = Duration::from_secs(60);

pub fn directory(dir: &TestDir, name: &str) -> Settings {
    Settings { location: Location::Directory(dir.create(name)), patience: PATIENT }
}

pub fn bucket(server: &S3Server, prefix: &str) -> Settings {
    Settings { location: Location::S3(Box::new(s3(server, prefix))), patience: PATIENT }
}

pub fn s3(server: &S3Server, prefix: &str) -> S3 {
    s3_at(&server.endpoint(), prefix)
}

fn s3_at(endpoint: &str, prefix: &str) -> S3 {
    S3 {
        bucket: BUCKET.to_owned(),
        prefix: prefix.to_owned(),
        endpoint: Some(endpoint.to_owned()),
        region: Some("us-east-1".to_owned()),
        keys: Some((KEYS.0.to_owned(), KEYS.1.to_owned())),
        ..S3::default()
    }
}

pub async fn init(settings: &Settings) -> Repository {
    Repository::init(settings, CreateBy::Condition).await.unwrap()
}

/// An archive as the helper process that PostgreSQL starts finds it again.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Described {
    /// A directory, or the endpoint of an S3 server.
    pub directory: Option<String>,
    pub endpoint: Option<String>,
    pub codec: String,
    pub recipient: Option<String>,
    pub identity: Option<String>,
    pub patience_ms: u64,
}

impl Described {
    pub fn in_directory(dir: &TestDir, name: &str, codec: &str, encrypted: bool) -> Described {
        Described::new(Some(dir.create(name).display().to_string()), None, codec, encrypted)
    }

    pub fn in_bucket(server: &S3Server, codec: &str, encrypted: bool) -> Described {
        Described::new(None, Some(server.endpoint()), codec, encrypted)
    }

    /// The same repository by another address, with little patience.
    pub fn by_way_of(&self, endpoint: &str) -> Described {
        Described { endpoint: Some(endpoint.to_owned()), patience_ms: 10_000, ..self.clone() }
    }

    fn new(directory: Option<String>, endpoint: Option<String>, codec: &str, encrypted: bool) -> Described {
        let (identity, recipient) = encrypted.then(Identities::generate).unzip();
        Described { directory, endpoint, codec: codec.to_owned(), recipient, identity, patience_ms: 60_000 }
    }

    pub fn settings(&self) -> Settings {
        let location = match (&self.directory, &self.endpoint) {
            (Some(path), _) => Location::Directory(path.into()),
            (None, Some(endpoint)) => Location::S3(Box::new(s3_at(endpoint, "archive"))),
            (None, None) => unreachable!("one of both is set"),
        };
        Settings { location, patience: Duration::from_millis(self.patience_ms) }
    }

    pub fn style(&self) -> Style {
        let codec = match self.codec.as_str() {
            "zstd" => Codec::Zstd(3),
            "lz4" => Codec::Lz4,
            _ => Codec::None,
        };
        Style { codec, recipients: Recipients::parse(self.recipient.as_deref()).unwrap() }
    }

    pub fn identities(&self) -> Identities {
        Identities::parse(self.identity.as_deref().unwrap_or_default()).unwrap()
    }

    pub fn place() -> Place {
        Place::new("main", "first").unwrap()
    }

    /// Makes the repository and begins the incarnation.
    pub async fn begin(&self, incarnation: Incarnation) -> Archive {
        let repository = init(&self.settings()).await;
        let archive = Archive::begin(&repository, Described::place(), incarnation, self.style(), self.identities());
        let archive = archive.await.unwrap();
        if let Some(directory) = &self.directory {
            // Both the tests (maybe root) and PostgreSQL's user write here.
            for timeline in 1..4 {
                let folder = archive.place().wal_of(timeline);
                std::fs::create_dir_all(Path::new(directory).join(folder)).unwrap();
            }
            give_all(Path::new(directory));
        }
        archive
    }

    pub async fn open(&self) -> Archive {
        let repository = Repository::open(&self.settings()).await.unwrap();
        Archive::open(&repository, Described::place(), self.style(), self.identities()).await.unwrap()
    }

    /// Leaves the description where the helper reads it.
    pub fn save(&self, path: &Path) {
        std::fs::write(path, serde_json::to_vec(self).unwrap()).unwrap();
        user::give(path).unwrap();
    }
}

/// Digests of all files but WAL.
pub fn tree(dir: &Path) -> BTreeMap<String, String> {
    let (mut found, mut folders) = (BTreeMap::new(), vec![dir.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap().flatten() {
            let path = entry.path();
            let name = path.strip_prefix(dir).unwrap().display().to_string();
            match path.is_dir() {
                true if name == "pg_wal" => {}
                true => folders.push(path),
                false => drop(found.insert(name, digest_name(&std::fs::read(&path).unwrap()))),
            }
        }
    }
    found
}

fn give_all(path: &Path) {
    user::give(path).unwrap();
    if path.is_dir() {
        for entry in std::fs::read_dir(path).unwrap() {
            give_all(&entry.unwrap().path());
        }
    }
}
