//! A new cluster from a backup.

use std::path::PathBuf;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::dynamic::archive::{self, Archive, ArchiveLocation, ArchiveRepository};
use crate::problem::Problems;
use crate::schema::{Effect, Key, Kind, Rule, absolute_path, key, one_line};
use crate::target::RestoreTarget;

use super::keys::checks::scope_name;

/// From which backup a new cluster is made, and how far. The names are those of `matriarch restore`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct BootstrapRestore {
    /// How far.
    pub to: RestoreTarget,
    /// Timeline to follow.
    pub timeline: Option<u32>,
    /// Backup to begin with.
    pub backup: Option<String>,
    /// End with the last complete segment.
    pub no_tail: bool,
    /// Other places of tablespaces, `NAME=DIRECTORY` each.
    pub tablespace: Vec<String>,
    /// Name of the cluster whose backup it is; this one's unless given.
    pub scope: Option<String>,
    /// Only this incarnation of it.
    pub incarnation: Option<String>,
    /// File of private keys, instead of the archive's.
    pub identity: Option<PathBuf>,
    /// The archive; `bootstrap.dcs.archive` unless given.
    pub archive: Option<Archive>,
    /// Another tool's repository instead.
    pub from: Option<RestoreFrom>,
}

/// Another tool's repository. The names are those of `matriarch restore`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct RestoreFrom {
    /// Who made it.
    pub tool: String,
    /// Where it lies.
    pub location: ArchiveLocation,
    /// Which stanza or server of it.
    pub stanza: Option<String>,
    /// File with a passphrase or a key.
    pub key_file: Option<PathBuf>,
    endpoint: Option<String>,
    allow_http: bool,
    region: Option<String>,
    path_style: bool,
    credentials: Option<PathBuf>,
    ca: Option<PathBuf>,
}

impl RestoreFrom {
    /// As a repository.
    pub fn repository(&self) -> ArchiveRepository {
        let RestoreFrom { location, endpoint, allow_http, region, path_style, credentials, ca, .. } = self.clone();
        let place = ArchiveRepository::at(location);
        ArchiveRepository { endpoint, allow_http, region, path_style, credentials, ca, ..place }
    }
}

pub(super) const SCOPE: Key = key(
    "scope",
    Kind::Text { what: "a cluster name", check: scope_name },
    "Name of the cluster whose archive is read, as it was when that was written; this one's unless given.",
)
.effect(Effect::Bootstrap);

pub(super) const INCARNATION: Key = key(
    "incarnation",
    Kind::Text { what: "the name of an incarnation", check: one_line },
    "Only this incarnation of it, as `matriarch backup list` and `matriarch dump list` show it.",
)
.effect(Effect::Bootstrap);

pub(super) const IDENTITY: Key = key(
    "identity",
    Kind::Text { what: "an absolute path", check: absolute_path },
    "File of private keys (age), instead of `archive.encryption.identity_file`.",
)
.effect(Effect::Bootstrap);

pub(super) const RESTORE: &[Key] = &[
    key(
        "to",
        Kind::Text { what: "a target", check: target },
        "How far: `latest`, `immediate` (the end of the backup), a time with its zone (`2026-12-24T03:00:00+01:00`), a position \
         (`0/3000148`), `xid=NUMBER` or `name=RESTORE_POINT`.",
    )
    .default("\"latest\"")
    .effect(Effect::Bootstrap),
    key(
        "timeline",
        Kind::Integer { min: 1, max: 0xFFFF_FFFF },
        "Timeline to follow; the newest one that has a backup unless given.",
    )
    .effect(Effect::Bootstrap),
    key(
        "backup",
        Kind::Text { what: "the name of a backup", check: one_line },
        "Backup to begin with; the one nearest to the target unless given.",
    )
    .effect(Effect::Bootstrap),
    key("no_tail", Kind::Bool, "End with the last complete segment, without what only the tail has.")
        .default("false")
        .effect(Effect::Bootstrap),
    key(
        "tablespace",
        Kind::Lines { what: "NAME=DIRECTORY", check: place },
        "Another place for a tablespace, absent or empty; the one it had unless given.",
    )
    .default("[]")
    .effect(Effect::Bootstrap),
    SCOPE,
    INCARNATION,
    IDENTITY,
    key(
        "archive",
        Kind::Other { what: "the section `archive` of a dynamic configuration", read: archive_section },
        "The archive that is read, as its cluster's dynamic configuration has it (`repositories` and `encryption` count, the rest \
         may be there). Left out: `bootstrap.dcs.archive`. Nothing is ever written to it by this.",
    )
    .effect(Effect::Bootstrap),
    key(
        "from",
        Kind::Section { keys: FROM, rule: None },
        "Instead of an archive a repository that another tool has made. Nothing is ever written to it.",
    )
    .default("null")
    .effect(Effect::Bootstrap),
];

const FROM: &[Key] = &[
    key("tool", Kind::Choice(&["pgbackrest", "walg", "barman"]), "Who made it.").required().effect(Effect::Bootstrap),
    key(
        "location",
        Kind::Text { what: "the location of a repository", check: archive::location },
        "A directory, `s3://bucket/path`, `gs://bucket/path` or `azure://account/container/path`.",
    )
    .required()
    .effect(Effect::Bootstrap),
    key(
        "stanza",
        Kind::Text { what: "a name", check: one_line },
        "pgBackRest's stanza, or Barman's name of the server; the only one unless given.",
    )
    .effect(Effect::Bootstrap),
    key(
        "key_file",
        Kind::Text { what: "an absolute path", check: absolute_path },
        "File with pgBackRest's passphrase or WAL-G's key of libsodium; `PGBACKREST_REPO1_CIPHER_PASS` or `WALG_LIBSODIUM_KEY` in \
         the agent's environment unless given.",
    )
    .effect(Effect::Bootstrap),
    key(
        "endpoint",
        Kind::Text { what: "the URL of a store", check: archive::endpoint },
        "As in `archive.repositories`.",
    )
    .effect(Effect::Bootstrap),
    key("allow_http", Kind::Bool, "The endpoint may begin with `http://`.").default("false").effect(Effect::Bootstrap),
    key("region", Kind::Text { what: "a region", check: one_line }, "Region of the bucket.").effect(Effect::Bootstrap),
    key("path_style", Kind::Bool, "S3: the bucket stands in the path of a request.")
        .default("true")
        .effect(Effect::Bootstrap),
    key(
        "credentials",
        Kind::Text { what: "an absolute path", check: absolute_path },
        "File with the store's credentials, as in `archive.repositories`.",
    )
    .effect(Effect::Bootstrap),
    key("ca", Kind::Text { what: "an absolute path", check: absolute_path }, "PEM file with the CA of the endpoint.")
        .effect(Effect::Bootstrap),
];

const ARCHIVE: Kind = Kind::Section { keys: archive::ARCHIVE, rule: Some(archive::rule as Rule) };

pub(super) fn archive_section(value: &Value, path: &str, problems: &mut Problems) -> Value {
    crate::check::one(&ARCHIVE, value, path, problems)
}

fn target(text: &str) -> Result<(), String> {
    text.parse::<RestoreTarget>().map(drop)
}

fn place(text: &str) -> Result<(), String> {
    match text.split_once('=') {
        Some((name, path)) if !name.is_empty() => absolute_path(path),
        _ => Err("write the tablespace's name, '=', and an absolute path".to_owned()),
    }
}

/// There must be something to restore from, and one thing.
pub(super) fn rule(bootstrap: &Map<String, Value>, path: &str, problems: &mut Problems) {
    let given = |key: &str| bootstrap.get(key).filter(|section| section.is_object());
    let path_of = |key: &str| crate::check::join(&crate::check::join(path, "restore"), key);
    let from = given("restore").and_then(|restore| restore.get("from")).filter(|from| from.is_object());
    if let (Some(restore), Some(from)) = (given("restore"), from) {
        let location = from.get("location").and_then(Value::as_str).and_then(|text| text.parse().ok());
        if let Some(location) = location {
            archive::fitting(&location, from, &path_of("from"), problems);
        }
        for key in ["archive", "scope", "incarnation", "identity"] {
            if restore.get(key).is_some_and(|value| !value.is_null()) {
                problems.add(path_of(key), "it says nothing about another tool's repository", "remove it, or `from`");
            }
        }
    }
    let own = bootstrap.get("dcs").and_then(|dcs| dcs.get("archive")).is_some_and(Value::is_object);
    for key in ["restore", "dump"] {
        let is = |inner: &str| given(key).is_some_and(|section| section.get(inner).is_some_and(Value::is_object));
        let named = is("archive") || key == "restore" && is("from");
        if given(key).is_some() && !named && !own {
            problems.add(
                crate::check::join(path, key),
                "it names no archive",
                "add `archive: {repositories: [{location: …}]}` here or under `bootstrap.dcs`",
            );
        }
    }
    if given("restore").is_some() && given("dump").is_some() {
        let text = "a cluster is made from a backup or from a dump";
        problems.add(crate::check::join(path, "dump"), text, "remove it, or remove `restore`");
    }
}
