//! A new cluster from a dump.

use std::path::PathBuf;

use serde::Deserialize;

use crate::dynamic::archive::Archive;
use crate::schema::{Effect, Key, Kind, key, one_line};

use super::restore::{IDENTITY, INCARNATION, SCOPE, archive_section};

/// From which dump a new cluster is made. The names are those of `matriarch dump restore`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct BootstrapDump {
    /// Name of the dump.
    pub name: Option<String>,
    /// Only these databases of it.
    pub databases: Vec<String>,
    /// Make no tablespaces.
    pub no_tablespaces: bool,
    /// Sessions side by side for each database.
    pub jobs: u16,
    /// Name of the cluster whose dump it is; this one's unless given.
    pub scope: Option<String>,
    /// Only this incarnation of it.
    pub incarnation: Option<String>,
    /// File of private keys, instead of the archive's.
    pub identity: Option<PathBuf>,
    /// The archive; `bootstrap.dcs.archive` unless given.
    pub archive: Option<Archive>,
}

pub(super) const DUMP: &[Key] = &[
    key("name", Kind::Text { what: "the name of a dump", check: one_line }, "Name of the dump; the newest one unless given.")
        .effect(Effect::Bootstrap),
    key(
        "databases",
        Kind::Lines { what: "the name of a database", check: one_line },
        "Only these databases of it. None: all.",
    )
    .default("[]")
    .effect(Effect::Bootstrap),
    key(
        "no_tablespaces",
        Kind::Bool,
        "Make no tablespaces. Else those of the dump are made where they were, in directories that must be there, on every host.",
    )
    .default("false")
    .effect(Effect::Bootstrap),
    key(
        "jobs",
        Kind::Integer { min: 1, max: 64 },
        "Sessions that restore side by side. More than one, and a dump in the directory format, need room for the largest database's \
         dump beside the data for a while.",
    )
    .default("1")
    .effect(Effect::Bootstrap),
    SCOPE,
    INCARNATION,
    IDENTITY,
    key(
        "archive",
        Kind::Other { what: "the section `archive` of a dynamic configuration", read: archive_section },
        "The archive that is read, as in `bootstrap.restore.archive`.",
    )
    .effect(Effect::Bootstrap),
];
