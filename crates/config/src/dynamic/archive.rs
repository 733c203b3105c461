//! The archive: which repositories, and in which form objects lie there.

pub(super) mod durability;
mod keys;
mod location;
mod store;

pub use durability::Durability;
pub(crate) use keys::{ARCHIVE, endpoint, location};
pub(super) use keys::{LONGEST_WINDOW, cron, zone};
pub use location::{ArchiveLocation, Compression};
pub use store::ServerSideEncryption;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::dumps::Dumps;
use crate::check::join;
use crate::cron::{Cron, Zone};
use crate::problem::Problems;
use crate::units::as_seconds;

/// Where WAL and backups go. Every repository holds all of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Archive {
    /// At least one.
    pub repositories: Vec<ArchiveRepository>,
    /// How objects are compressed.
    pub compression: Compression,
    /// Who can read them.
    pub encryption: Encryption,
    /// How long WAL that fills no segment yet may wait; zero: until it does.
    #[serde(with = "as_seconds")]
    pub tail: Duration,
    /// Whether commits wait for the tail.
    #[serde(default)]
    pub durability: Durability,
    /// How long a repository may hold up commits where that is not required.
    #[serde(default = "durability::timeout", with = "as_seconds")]
    pub durability_timeout: Duration,
    /// When backups are taken; never without it.
    pub schedule: Option<Schedule>,
    /// What is kept of them.
    pub retention: Retention,
    /// When databases are dumped; never without it.
    pub dumps: Option<Dumps>,
    /// Whether members are made from a backup.
    #[serde(default)]
    pub clone: CloneMembers,
    /// An older backup is none for that.
    #[serde(default = "clone_max_age", with = "as_seconds")]
    pub clone_max_age: Duration,
}

/// Whether a member's data comes from the archive or from another member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CloneMembers {
    /// From another member.
    #[default]
    Never,
    /// From the newest backup that serves; from another member when none does.
    WhenPossible,
}

fn clone_max_age() -> Duration {
    Duration::from_secs(8 * 86_400)
}

/// When backups are taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schedule {
    /// Full ones.
    pub full: Cron,
    /// Incremental ones; never without it.
    pub incremental: Option<Cron>,
    /// By the clocks of this zone.
    pub time_zone: Zone,
}

impl Schedule {
    /// When the next full backup is due after a moment.
    pub fn next_full(&self, after: jiff::Timestamp) -> Option<jiff::Timestamp> {
        self.full.next(after, &self.time_zone)
    }

    /// When the next incremental backup is due after a moment.
    pub fn next_incremental(&self, after: jiff::Timestamp) -> Option<jiff::Timestamp> {
        self.incremental.as_ref()?.next(after, &self.time_zone)
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let incremental = self.incremental.as_ref().map(|cron| format!("incremental {cron} ")).unwrap_or_default();
        write!(f, "full {} {incremental}{}", self.full, self.time_zone)
    }
}

/// Which backups are kept: what either asks for; without both, every one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retention {
    /// So many of the newest.
    pub keep: Option<u32>,
    /// Every moment of so long ago until now stays within reach.
    #[serde(with = "as_seconds::option")]
    pub window: Option<Duration>,
}

/// One repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveRepository {
    /// Where it lies.
    pub location: ArchiveLocation,
    /// `https://host:port` of a store that is not the cloud's own.
    pub endpoint: Option<String>,
    /// The endpoint may be `http://`.
    pub allow_http: bool,
    /// Region of a bucket.
    pub region: Option<String>,
    /// The bucket stands in the path of a request, not in its host name.
    pub path_style: bool,
    /// File with the credentials, on every host; without it the environment and the cloud's own chain.
    pub credentials: Option<PathBuf>,
    /// PEM file with the CA of the endpoint, on every host.
    pub ca: Option<PathBuf>,
    /// How objects are created only if they are absent.
    pub create_by: CreateBy,
    /// Class of storage that objects are written to; the bucket's own unless given.
    #[serde(default)]
    pub storage_class: Option<String>,
    /// What S3 encrypts objects with.
    #[serde(default)]
    pub server_side_encryption: Option<ServerSideEncryption>,
    /// The key of `SseKms` and `DsseKms`; the account's own unless given.
    #[serde(default)]
    pub kms_key: Option<String>,
    /// File with the key of `SseC`, on every host.
    #[serde(default)]
    pub customer_key: Option<PathBuf>,
    /// Bytes a second that one process sends at most.
    #[serde(default)]
    pub upload_limit: Option<u64>,
    /// Bytes a second that one process fetches at most.
    #[serde(default)]
    pub download_limit: Option<u64>,
    /// How long a connection may take to come about.
    #[serde(default, with = "as_seconds::option")]
    pub connect_timeout: Option<Duration>,
    /// How long a request may move nothing.
    #[serde(default, with = "as_seconds::option")]
    pub request_timeout: Option<Duration>,
    /// How long a call is repeated while the store does not answer.
    #[serde(default, with = "as_seconds::option")]
    pub retry_for: Option<Duration>,
}

impl ArchiveRepository {
    /// One at a place, everything else as it is unless given.
    pub fn at(location: ArchiveLocation) -> ArchiveRepository {
        ArchiveRepository {
            location,
            endpoint: None,
            allow_http: false,
            region: None,
            path_style: true,
            credentials: None,
            ca: None,
            create_by: CreateBy::Condition,
            storage_class: None,
            server_side_encryption: None,
            kms_key: None,
            customer_key: None,
            upload_limit: None,
            download_limit: None,
            connect_timeout: None,
            request_timeout: None,
            retry_for: None,
        }
    }
}

/// How objects are created only if they are absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CreateBy {
    /// By the store's own condition.
    Condition,
    /// By markers.
    Claims,
}

/// Who can read what is archived.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Encryption {
    /// Public age keys; none: nothing is encrypted.
    pub recipients: Vec<String>,
    /// File with private age keys, on hosts that may read.
    pub identity_file: Option<PathBuf>,
}

/// Parameters of PostgreSQL by which it archives.
pub(crate) const ARCHIVING: [&str; 3] = ["archive_mode", "archive_command", "archive_library"];

/// Across keys of the section, whose keys are right by themselves.
pub(crate) fn rule(section: &Map<String, Value>, path: &str, problems: &mut Problems) {
    let path_of_section = path;
    let path = join(path, "repositories");
    let repositories = section.get("repositories").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    if repositories.is_empty() {
        problems.add(&path, "an archive without a repository keeps nothing", "name one, or remove `archive`");
    }
    readable(section, path_of_section, problems);
    durability::rule(section, path_of_section, problems);
    let mut seen = Vec::new();
    for (index, repository) in repositories.iter().enumerate() {
        let path = format!("{path}[{index}]");
        let Some(text) = repository.get("location").and_then(Value::as_str) else { continue };
        if seen.contains(&text) {
            problems.add(join(&path, "location"), format!("'{text}' is named twice"), "keep one of them");
        }
        seen.push(text);
        if let Ok(location) = text.parse::<ArchiveLocation>() {
            fitting(&location, repository, &path, problems);
        }
    }
}

/// An incremental backup that cannot read the one before it would be a full one each time.
fn readable(section: &Map<String, Value>, path: &str, problems: &mut Problems) {
    let given =
        |name: &str, key: &str| section.get(name).and_then(|inner| inner.get(key)).filter(|value| !value.is_null());
    let is_encrypted = given("encryption", "recipients").and_then(Value::as_array).is_some_and(|all| !all.is_empty());
    if given("schedule", "incremental").is_some() && is_encrypted && given("encryption", "identity_file").is_none() {
        problems.add(
            join(&join(path, "schedule"), "incremental"),
            "it needs the manifest of the backup before it, which is encrypted",
            "name `encryption.identity_file`, a file on every member, or remove it",
        );
    }
}

/// Keys that a repository of this kind has no use for, and an endpoint in the clear.
pub(crate) fn fitting(location: &ArchiveLocation, repository: &Value, path: &str, problems: &mut Problems) {
    let given = |key: &str| repository.get(key).is_some_and(|value| !value.is_null());
    let useless: &[&str] = match location {
        ArchiveLocation::Directory(_) => &["endpoint", "region", "credentials", "ca", "storage_class"],
        ArchiveLocation::S3 { .. } => &[],
        ArchiveLocation::Gcs { .. } | ArchiveLocation::Azure { .. } => &["region"],
    };
    let sealing: &[&str] = match location {
        ArchiveLocation::S3 { .. } => &[],
        _ => &["server_side_encryption", "kms_key", "customer_key"],
    };
    let calls: &[&str] = match location {
        ArchiveLocation::Directory(_) => &["connect_timeout", "request_timeout", "retry_for"],
        _ => &[],
    };
    for key in useless.iter().chain(sealing).chain(calls).filter(|key| given(key)) {
        problems.add(join(path, key), format!("it means nothing for {location}"), "remove it");
    }
    store::rule(repository, path, problems);
    let is_clear = repository.get("endpoint").and_then(Value::as_str).is_some_and(|url| url.starts_with("http://"));
    if is_clear && repository.get("allow_http") != Some(&Value::Bool(true)) {
        problems.add(
            join(path, "endpoint"),
            "it is not encrypted on its way",
            "use https://, or set `allow_http: true` for a store on this host or in a network of its own",
        );
    }
}

/// With an archive of ours, PostgreSQL archives by our command alone.
pub(super) fn parameters_rule(config: &Map<String, Value>, path: &str, problems: &mut Problems) {
    if config.get("archive").is_none_or(Value::is_null) {
        return;
    }
    let parameters = config.get("postgresql").and_then(|postgresql| postgresql.get("parameters"));
    for name in parameters.and_then(Value::as_object).into_iter().flat_map(Map::keys) {
        if ARCHIVING.contains(&name.to_ascii_lowercase().as_str()) {
            problems.add(
                join(&join(&join(path, "postgresql"), "parameters"), name),
                "with `archive`, PostgreSQL archives through Matriarch, which sets this parameter",
                "remove it, or remove `archive`",
            );
        }
    }
}
