//! What a dump consists of: the object that makes it one.

use jiff::Timestamp;
use matriarch_postgres::dump::Database;
use serde::{Deserialize, Serialize};

use crate::format::{DumpOutline, Header, Kind};
use crate::manifest::{self, First};

/// In which of pg_dump's formats each database lies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// One file.
    #[default]
    Custom,
    /// A folder with a file for each table, written by several sessions side by side.
    Directory,
}

/// What is known of a dump without its list of files: the first line of its manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Version of the manifest, 1.
    pub version: u32,
    /// Name of the dump.
    pub dump: String,
    /// The database system identifier, decimal.
    pub system_identifier: String,
    /// Major version of PostgreSQL.
    pub major: u32,
    /// When it began, by the clock of the host that took it.
    pub began: Timestamp,
    /// When everything was stored, by the same clock.
    pub ended: Timestamp,
    /// Whether it was taken from a standby.
    pub from_standby: bool,
    /// Whether it was taken by the schedule.
    pub scheduled: bool,
    /// How the databases lie there.
    pub format: Format,
    /// Whether `globals.sql` is there: roles and tablespaces.
    pub globals: bool,
    /// The databases, each with a snapshot of its own.
    pub databases: Vec<Dumped>,
    /// Bytes of all files.
    pub size: u64,
    /// Bytes of all packs.
    pub stored: u64,
    /// Number of packs; they are `0` to `packs - 1`.
    pub packs: u32,
}

/// One database of a dump.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dumped {
    /// What it is made of.
    #[serde(flatten)]
    pub database: Database,
    /// Its file, or its folder.
    pub path: String,
    /// Bytes of its files.
    pub size: u64,
}

/// One file or folder, or where content lies; as in the manifest of a base backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Line {
    /// `{"folder": [path, mode]}`
    Folder(String, u32),
    /// `{"file": [path, size, mode]}`; frames name it by its place among the files, from 0.
    File(String, u64, u32),
    /// `{"frame": [pack, index, at, length, sha256, [[file, offset, length]]]}`
    Frame(u32, u32, u64, u64, String, Vec<(u32, u64, u64)>),
}

/// A whole manifest.
pub type Manifest = manifest::Manifest<Summary, Line>;

/// The file of roles and tablespaces.
pub const GLOBALS: &str = "globals.sql";

impl Manifest {
    /// Every file by its number: path and size.
    pub fn files(&self) -> Vec<(&str, u64)> {
        let files = self.lines.iter().filter_map(|line| match line {
            Line::File(path, size, _) => Some((path.as_str(), *size)),
            Line::Folder(..) | Line::Frame(..) => None,
        });
        files.collect()
    }
}

impl Summary {
    /// What the header repeats in the clear.
    pub(crate) fn outline(&self) -> DumpOutline {
        DumpOutline { began: self.began, ended: self.ended, scheduled: self.scheduled }
    }

    /// A database by its name.
    pub fn database(&self, name: &str) -> Option<&Dumped> {
        self.databases.iter().find(|one| one.database.name == name)
    }
}

impl First for Summary {
    const WHAT: &'static str = "dump";
    const KIND: Kind = Kind::Dump;
    type Outline = DumpOutline;

    fn outlined(header: Header) -> Option<DumpOutline> {
        header.dump
    }

    fn version(&self) -> u32 {
        self.version
    }

    fn place(&self) -> (Timestamp, &str) {
        (self.ended, &self.dump)
    }
}
