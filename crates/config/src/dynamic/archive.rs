//! The archive: which repositories, and in which form objects lie there.

pub(super) mod durability;
mod store;

pub use durability::Durability;
pub use store::ServerSideEncryption;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::dumps::{self, Dumps};
use crate::check::join;
use crate::cron::{Cron, Zone};
use crate::nearest::nearest;
use crate::problem::Problems;
use crate::schema::{Key, Kind, Rule, absolute_path, key, one_line, refused};
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

const CLONE_MAX_AGE: u64 = 8 * 86_400;

fn clone_max_age() -> Duration {
    Duration::from_secs(CLONE_MAX_AGE)
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

/// Where a repository lies, as people write it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum ArchiveLocation {
    /// A directory on every host: a mounted file system.
    Directory(PathBuf),
    /// `s3://bucket/prefix`.
    S3 {
        /// The bucket.
        bucket: String,
        /// Path below it, may be empty.
        prefix: String,
    },
    /// `gs://bucket/prefix`.
    Gcs {
        /// The bucket.
        bucket: String,
        /// Path below it, may be empty.
        prefix: String,
    },
    /// `azure://account/container/prefix`.
    Azure {
        /// Storage account.
        account: String,
        /// The container.
        container: String,
        /// Path below it, may be empty.
        prefix: String,
    },
}

/// How objects are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Compression {
    /// Not at all.
    None,
    /// LZ4.
    Lz4,
    /// Zstandard of a level, 1 to 19.
    Zstd(i32),
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

pub(crate) const ARCHIVE: &[Key] = &[
    key(
        "repositories",
        Kind::Records { keys: REPOSITORY },
        "One or more. WAL counts as archived when every one of them holds it.",
    )
    .required(),
    key(
        "compression",
        Kind::Text { what: "a compression", check: compression },
        "`zstd`, `zstd:LEVEL` (1 to 19), `lz4` or `none`. Objects that are there stay as they are.",
    )
    .default("\"zstd:3\""),
    key("encryption", Kind::Section { keys: ENCRYPTION, rule: None }, "Who can read what is archived."),
    key(
        "tail",
        Kind::Seconds { min: 0.0, max: 60.0 },
        "How long WAL that has not filled a segment yet may wait before the primary's agent archives it, so that the loss of the \
         whole cluster costs so much and not a segment. One small object each time that something was written. 0: not at all.",
    )
    .default("1"),
    key(
        "durability",
        Kind::Choice(&["none", "preferred", "required"]),
        "Whether a commit waits until every repository holds it, beside the voters that `synchronous_mode` asks for, so that the loss of the whole \
         cluster loses nothing that was acknowledged. It costs each commit a write to the store. `none`: the tail follows within `tail`. `preferred`: commits \
         wait, but for a repository that has not answered for `durability_timeout` no longer, until it has caught up; members and metrics say so. \
         `required`: commits wait as long as it takes, also after a start and a takeover until the tail is there.",
    )
    .default("\"none\""),
    key(
        "durability_timeout",
        Kind::Seconds { min: 0.2, max: 3600.0 },
        "With `durability: preferred`: how long a repository that does not answer, or an agent that is started anew, may hold up commits.",
    )
    .default("3"),
    refused("repository", "there may be several, so it is a list", "write `repositories: [{location: …}]`", &[]),
    key(
        "schedule",
        Kind::Section { keys: SCHEDULE, rule: None },
        "When the agents take a backup by themselves: one of them, a replica that is near the primary if there is one. After each, \
         `retention` is applied. Left out: never.",
    )
    .default("null"),
    key(
        "retention",
        Kind::Section { keys: RETENTION, rule: None },
        "Which backups are kept, after a scheduled backup and by `matriarch backup expire`: what either key asks for, what is \
         held, and what those build upon. WAL that no backup needs goes with them. Left out: every backup is kept.",
    ),
    key(
        "dumps",
        Kind::Section { keys: dumps::DUMPS, rule: Some(dumps::rule as Rule) },
        "When the agents dump databases, roles and tablespaces by themselves (pg_dump, pg_dumpall): one of them, a replica that is \
         near the primary if there is one. Left out: never.",
    )
    .default("null"),
    key(
        "clone",
        Kind::Choice(&["never", "when_possible"]),
        "Where the data of a new, rebuilt or reinitialized member comes from. `never`: from the leader, or from a member tagged `clonefrom`, by \
         pg_basebackup. `when_possible`: from the newest backup in a repository, and the WAL after it up to where the leader can \
         stream, so that the leader's disks and network are spared; from the leader when the archive does not serve (the log says why). \
         With `encryption.recipients` that needs `encryption.identity_file` on the new member's host.",
    )
    .default("\"never\""),
    key(
        "clone_max_age",
        Kind::Seconds { min: 60.0, max: LONGEST_WINDOW },
        "With `clone: when_possible`: a backup that ended longer ago is not used, since there is much WAL to replay after it.",
    )
    .default("\"8d\""),
];

const SCHEDULE: &[Key] = &[
    key(
        "full",
        Kind::Text { what: "a schedule", check: cron },
        "When a full backup is due: minute, hour, day of month, month, day of week, as in cron, and if need be a second before \
         them (`30 2 * * *`: half past two every day; `0 */6 * * mon-fri`; `@daily`). Where both fields of the day are given, either counts. A \
         time that clocks leave out in spring counts as the moment when they are changed, one that comes twice in autumn counts once. \
         What was missed is made up for once; what falls into a backup is left out.",
    )
    .required(),
    key(
        "incremental",
        Kind::Text { what: "a schedule", check: cron },
        "When an incremental backup is due, which stores what has changed since the one before it. A full one that is due at the same \
         time counts for both. With `encryption.recipients`, it needs `encryption.identity_file` on every member, since it reads the manifest of the backup \
         before it. Left out: never.",
    ),
    key(
        "time_zone",
        Kind::Text { what: "a time zone", check: zone },
        "By whose clocks: a name of the tz database (`Europe/Berlin`), as this version of Matriarch has it.",
    )
    .default("\"UTC\""),
    refused("cron", "it says when, and not what is taken", "rename it to `full`", &[]),
];

/// As long as `backup expire --window` takes.
pub(super) const LONGEST_WINDOW: f64 = 100.0 * 366.0 * 86_400.0;

const RETENTION: &[Key] = &[
    key(
        "keep",
        Kind::Integer { min: 1, max: u32::MAX as i64 },
        "So many of the newest backups, full and incremental ones alike.",
    ),
    key(
        "window",
        Kind::Seconds { min: 1.0, max: LONGEST_WINDOW },
        "Every moment of so long ago until now can be restored (`14d`, `4w`): the backups of that time, and the one before them.",
    ),
    refused("count", "it is called keep", "rename it", &[]),
];

const REPOSITORY: &[Key] = &[
    key(
        "location",
        Kind::Text { what: "the location of a repository", check: location },
        "A directory that exists on every host (`/srv/archive`, a mounted file system), `s3://bucket/prefix`, \
         `gs://bucket/prefix` or `azure://account/container/prefix`. The prefix may be left out. `matriarch archive init` \
         makes a repository of it.",
    )
    .required(),
    key(
        "endpoint",
        Kind::Text { what: "the URL of a store", check: endpoint },
        "`https://host:port` of an S3-compatible store, or of Azure's emulator. Left out: the cloud's own.",
    ),
    key(
        "allow_http",
        Kind::Bool,
        "The endpoint may begin with `http://`: whoever is on the way can read everything that is not encrypted.",
    )
    .default("false"),
    key("region", Kind::Text { what: "a region", check: one_line }, "Region of an S3 bucket; compatible stores take any."),
    key(
        "path_style",
        Kind::Bool,
        "S3: the bucket stands in the path of a request. Off: in its host name (`bucket.host`).",
    )
    .default("true"),
    key(
        "credentials",
        Kind::Text { what: "an absolute path", check: absolute_path },
        "A file on every host. S3: `aws_access_key_id = …` and `aws_secret_access_key = …`, if need be `aws_session_token = …`, \
         as in ~/.aws/credentials (the first profile counts). Google: the JSON file of a service account. Azure: the access key \
         alone. Left out: the agent's environment, and what the cloud gives to the host.",
    ),
    key(
        "ca",
        Kind::Text { what: "an absolute path", check: absolute_path },
        "S3: PEM file on every host with the CA that signed the endpoint's certificate, where the system does not know it.",
    ),
    key(
        "create_by",
        Kind::Choice(&["condition", "claims"]),
        "What keeps two servers from overwriting each other's WAL; counts when the repository is initialised. `condition`: the \
         store creates an object only if its name is free, which is tried out. `claims`: for stores that cannot; slower.",
    )
    .default("\"condition\""),
    refused("bucket", "it belongs to the location", "write `location: s3://BUCKET/PREFIX`", &[]),
    refused("prefix", "it belongs to the location", "write `location: s3://BUCKET/PREFIX`", &[]),
    refused("path", "it is called location", "rename it", &[]),
    refused("url", "it is called location", "rename it", &[]),
    refused(
        "access_key",
        "secrets do not belong in the store",
        "put them in a file on every host and name it as `credentials`, or into the agent's environment",
        &[],
    ),
    key(
        "storage_class",
        Kind::Text { what: "a class of storage", check: store::storage_class },
        "Class that objects are written to (`STANDARD_IA`, `INTELLIGENT_TIERING`; Google `NEARLINE`; Azure `Cool`). It must be one that \
         can be read at once, and the tail writes and removes many small objects, which some classes charge for. Left out: the bucket's own.",
    ),
    key(
        "server_side_encryption",
        Kind::Choice(&["sse-s3", "sse-kms", "dsse-kms", "sse-c"]),
        "S3: what the store encrypts objects with where they rest, beside `encryption`, which the store cannot undo. `sse-s3`: its own \
         keys. `sse-kms`, `dsse-kms`: a key of its key service. `sse-c`: the key in `customer_key`, which comes with each request and is needed to \
         read; only for a repository that begins with it. Left out: what the bucket does by itself.",
    ),
    key(
        "kms_key",
        Kind::Text { what: "the name of a key", check: one_line },
        "With `sse-kms` or `dsse-kms`: name (ARN) of the key. Left out: the account's own.",
    ),
    key(
        "customer_key",
        Kind::Text { what: "an absolute path", check: absolute_path },
        "With `sse-c`: a file on every host with 32 random bytes in base64 (`openssl rand -base64 32`). Without it nothing can be read.",
    ),
    key(
        "upload_limit",
        Kind::Bytes { min: SLOWEST, max: FASTEST },
        "Bytes that each process (an agent, a backup) sends in a second at most, on average. Below what the database writes as WAL it \
         piles up. Left out: no limit.",
    ),
    key(
        "download_limit",
        Kind::Bytes { min: SLOWEST, max: FASTEST },
        "Bytes that each process (a restore, a drill, an agent that fetches WAL) fetches in a second at most, on average. Left out: no limit.",
    ),
    key(
        "connect_timeout",
        Kind::Seconds { min: 0.1, max: 300.0 },
        "How long a connection to the store may take to come about. Left out: 5 s.",
    ),
    key(
        "request_timeout",
        Kind::Seconds { min: 1.0, max: 3600.0 },
        "How long a request may move nothing before it is given up and made again; one that is only slow is not. Left out: 30 s.",
    ),
    key(
        "retry_for",
        Kind::Seconds { min: 0.0, max: 86_400.0 },
        "How long one call is repeated, at growing distances, while the store does not answer. What failed then is tried again by \
         whoever needs it. Left out: 3 s for WAL and its tail, 60 s for backups and restores.",
    ),
];

/// Slower than this nothing would ever end.
const SLOWEST: u64 = 64 << 10;
const FASTEST: u64 = 1 << 40;

const ENCRYPTION: &[Key] = &[
    key(
        "recipients",
        Kind::Lines { what: "the public half of an age key", check: recipient },
        "Public keys (`age1…`, as age-keygen prints them). Each alone opens what is archived from then on. None: nothing is \
         encrypted.",
    )
    .default("[]"),
    key(
        "identity_file",
        Kind::Text { what: "an absolute path", check: absolute_path },
        "A file of private keys, as age-keygen writes it, on hosts that are to read the archive. Archiving does without.",
    ),
];

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
        ArchiveLocation::Gcs { .. } => &["endpoint", "region", "ca"],
        ArchiveLocation::Azure { .. } => &["region", "ca"],
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

pub(crate) fn location(text: &str) -> Result<(), String> {
    text.parse::<ArchiveLocation>().map(drop)
}

pub(super) fn cron(text: &str) -> Result<(), String> {
    text.parse::<Cron>().map(drop)
}

pub(super) fn zone(text: &str) -> Result<(), String> {
    text.parse::<Zone>().map(drop)
}

fn compression(text: &str) -> Result<(), String> {
    text.parse::<Compression>().map(drop)
}

pub(crate) fn endpoint(text: &str) -> Result<(), String> {
    one_line(text)?;
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    match host {
        None => Err("it must begin with https:// or http://".to_owned()),
        Some(host) if host.is_empty() || host.starts_with(['/', ':']) => Err("it names no host".to_owned()),
        Some(host) if host.contains('@') => Err("credentials do not belong here; see `credentials`".to_owned()),
        Some(_) => Ok(()),
    }
}

fn recipient(text: &str) -> Result<(), String> {
    if text.starts_with("AGE-SECRET-KEY-") {
        return Err("this is a private key, which must not be in the store; write its public half (age1…)".to_owned());
    }
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    match text.strip_prefix("age1") {
        Some(rest) if rest.len() == 58 && rest.bytes().all(fits) => Ok(()),
        _ => Err("it must be 62 letters and digits that begin with age1, as age-keygen prints it".to_owned()),
    }
}

impl FromStr for ArchiveLocation {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        one_line(text)?;
        if text.starts_with('/') {
            return Ok(ArchiveLocation::Directory(text.into()));
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err("it must begin with '/', s3://, gs:// or azure://".to_owned());
        };
        let rest = rest.trim_end_matches('/');
        let (first, below) = rest.split_once('/').unwrap_or((rest, ""));
        let is_bad = |part: &str| part.is_empty() || part == "." || part == "..";
        if first.is_empty() || !below.is_empty() && below.split('/').any(is_bad) {
            return Err("a part of its path is empty, '.' or '..'".to_owned());
        }
        let (first, below) = (first.to_owned(), below.to_owned());
        match scheme {
            "s3" => Ok(ArchiveLocation::S3 { bucket: first, prefix: below }),
            "gs" => Ok(ArchiveLocation::Gcs { bucket: first, prefix: below }),
            "azure" if below.is_empty() => Err("it needs a container, as in azure://account/container".to_owned()),
            "azure" => {
                let (container, prefix) = below.split_once('/').unwrap_or((&below, ""));
                Ok(ArchiveLocation::Azure {
                    account: first,
                    container: container.to_owned(),
                    prefix: prefix.to_owned(),
                })
            }
            other => match nearest(other, ["s3", "gs", "azure"]) {
                Some(near) => Err(format!("there is no {other}://; did you mean {near}://?")),
                None => Err(format!("there is no {other}://; known are s3://, gs:// and azure://, or a path")),
            },
        }
    }
}

impl fmt::Display for ArchiveLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let below = |prefix: &str| if prefix.is_empty() { String::new() } else { format!("/{prefix}") };
        match self {
            ArchiveLocation::Directory(path) => write!(f, "{}", path.display()),
            ArchiveLocation::S3 { bucket, prefix } => write!(f, "s3://{bucket}{}", below(prefix)),
            ArchiveLocation::Gcs { bucket, prefix } => write!(f, "gs://{bucket}{}", below(prefix)),
            ArchiveLocation::Azure { account, container, prefix } => {
                write!(f, "azure://{account}/{container}{}", below(prefix))
            }
        }
    }
}

impl FromStr for Compression {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let level = match text {
            "none" => return Ok(Compression::None),
            "lz4" => return Ok(Compression::Lz4),
            "zstd" => Some(3),
            other => other.strip_prefix("zstd:").and_then(|level| level.parse().ok()),
        };
        let level = level.filter(|level| (1..=19).contains(level));
        level.map(Compression::Zstd).ok_or_else(|| "known are zstd, zstd:1 to zstd:19, lz4 and none".to_owned())
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Compression::None => f.write_str("none"),
            Compression::Lz4 => f.write_str("lz4"),
            Compression::Zstd(level) => write!(f, "zstd:{level}"),
        }
    }
}

macro_rules! as_text {
    ($name:ident) => {
        impl TryFrom<String> for $name {
            type Error = String;

            fn try_from(text: String) -> Result<Self, String> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> String {
                value.to_string()
            }
        }
    };
}

as_text!(ArchiveLocation);
as_text!(Compression);
