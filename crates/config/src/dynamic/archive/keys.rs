//! The keys of the section `archive`, and what their values have to look like.

use super::{ArchiveLocation, Compression};
use crate::cron::{Cron, Zone};
use crate::dynamic::dumps;
use crate::schema::{Key, Kind, Rule, absolute_path, key, one_line, refused};

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
pub(in crate::dynamic) const LONGEST_WINDOW: f64 = 100.0 * 366.0 * 86_400.0;

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
        "`https://host:port` of a store that is not the cloud's own: an S3-compatible one, a private or another national endpoint of Google or \
         Azure, an emulator. Azure: with the account in its host name or, as an emulator has it, as its path (`http://127.0.0.1:10000/account`), which \
         is added where the host is an address. Left out: the cloud's own.",
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
         as in ~/.aws/credentials (the first profile counts). Google: the JSON file of a service account, or of a user (`gcloud auth \
         application-default login`), or of a workload identity (`external_account`). Azure: an access key of the account, a shared access signature (`sv=…&sig=…`) that allows to read, add, create, \
         write, delete and list (`racwdl`), or a connection string with one of them. With a file, nothing of the environment counts. \
         Left out: the agent's environment, and what the cloud gives to the host (operations.md).",
    ),
    key(
        "ca",
        Kind::Text { what: "an absolute path", check: absolute_path },
        "PEM file on every host with the CA that signed the endpoint's certificate, where the system does not know it.",
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
        Kind::Text { what: "a class of storage", check: super::store::storage_class },
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

pub(crate) fn location(text: &str) -> Result<(), String> {
    text.parse::<ArchiveLocation>().map(drop)
}

pub(in crate::dynamic) fn cron(text: &str) -> Result<(), String> {
    text.parse::<Cron>().map(drop)
}

pub(in crate::dynamic) fn zone(text: &str) -> Result<(), String> {
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
