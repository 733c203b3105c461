//! Dumps by a schedule: when, of what, and which of them are kept.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::archive::{LONGEST_WINDOW, cron, zone};
use crate::check::join;
use crate::cron::{Cron, Zone};
use crate::problem::Problems;
use crate::schema::{Key, Kind, absolute_path, key, one_line, refused};
use crate::units::as_seconds;

/// When databases are dumped, how, and which dumps are kept: what either of `keep` and `keep_for` asks for; without both, every one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dumps {
    /// When.
    pub schedule: Cron,
    /// By the clocks of this zone.
    pub time_zone: Zone,
    /// Which databases; none named: all.
    pub databases: Vec<String>,
    /// How they lie in the archive.
    pub format: DumpFormat,
    /// Sessions side by side for each database.
    pub jobs: u16,
    /// Directory with room for a database; the system's temporary directory without it.
    pub scratch: Option<PathBuf>,
    /// So many of the newest.
    pub keep: Option<u32>,
    /// Those that are so old at most.
    #[serde(with = "as_seconds::option")]
    pub keep_for: Option<Duration>,
}

/// pg_dump's formats that can be restored in parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DumpFormat {
    /// A stream.
    Custom,
    /// A folder that several sessions write.
    Directory,
}

impl Dumps {
    /// When the next dump is due after a moment.
    pub fn next(&self, after: jiff::Timestamp) -> Option<jiff::Timestamp> {
        self.schedule.next(after, &self.time_zone)
    }
}

impl fmt::Display for Dumps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.schedule, self.time_zone)
    }
}

pub(crate) const DUMPS: &[Key] = &[
    key(
        "schedule",
        Kind::Text { what: "a schedule", check: cron },
        "When a dump is due, as in `archive.schedule.full`.",
    )
    .required(),
    key(
        "time_zone",
        Kind::Text { what: "a time zone", check: zone },
        "By whose clocks: a name of the tz database (`Europe/Berlin`).",
    )
    .default("\"UTC\""),
    key(
        "databases",
        Kind::Lines { what: "the name of a database", check: one_line },
        "Databases to dump. None: all that take connections, but for the templates `template0` and `template1`.",
    )
    .default("[]"),
    key(
        "format",
        Kind::Choice(&["custom", "directory"]),
        "pg_dump's format: `custom` goes into the archive as it comes; `directory` is written to `scratch` first, by several \
         sessions side by side. Either way it is compressed and encrypted as `archive` says.",
    )
    .default("\"custom\""),
    key(
        "jobs",
        Kind::Integer { min: 1, max: 64 },
        "Sessions side by side for each database; more than one only with `format: directory`.",
    )
    .default("1"),
    key(
        "scratch",
        Kind::Text { what: "an absolute path", check: absolute_path },
        "For `format: directory`: a directory on every host with room for the largest database, not compressed. Left out: the \
         system's temporary directory.",
    ),
    key(
        "keep",
        Kind::Integer { min: 1, max: u32::MAX as i64 },
        "So many of the newest dumps by the schedule are kept. Dumps that people have taken stay, and do not count.",
    ),
    key(
        "keep_for",
        Kind::Seconds { min: 1.0, max: LONGEST_WINDOW },
        "Dumps by the schedule are kept for so long (`14d`, `4w`). What either this or `keep` asks for is kept; without both, \
         every dump.",
    ),
    refused("full", "a dump is always a whole one", "rename it to `schedule`", &[]),
    refused("cron", "it is called schedule", "rename it", &[]),
    refused("retention", "it is said here", "write `keep` and `keep_for`", &[]),
];

/// Only a folder can be written by several.
pub(crate) fn rule(dumps: &Map<String, Value>, path: &str, problems: &mut Problems) {
    let several = dumps.get("jobs").and_then(Value::as_u64).is_some_and(|jobs| jobs > 1);
    if several && dumps.get("format").and_then(Value::as_str) == Some("custom") {
        let text = "several sessions write the directory format alone";
        problems.add(join(path, "jobs"), text, "add `format: directory`, or remove `jobs`");
    }
}
