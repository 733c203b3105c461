//! What a base backup consists of: the object that makes it one.

use jiff::Timestamp;
use matriarch_core::{Lsn, Timeline};
use serde::{Deserialize, Serialize};

use crate::format::{Header, Kind, Outline};
use crate::manifest::{self, First};

/// What is known of a backup without its list of files: the first line of its manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Version of the manifest, 1.
    pub version: u32,
    /// Name of the backup.
    pub backup: String,
    /// The database system identifier, decimal.
    pub system_identifier: String,
    /// Major version of PostgreSQL.
    pub major: u32,
    /// Timeline of start and stop.
    pub timeline: Timeline,
    /// Where recovery begins.
    pub start_lsn: Lsn,
    /// Where the copy is consistent.
    pub stop_lsn: Lsn,
    /// By the server's clock.
    pub start_time: Timestamp,
    /// By the server's clock; no earlier time can be restored from this backup.
    pub stop_time: Timestamp,
    /// Whether it was taken from a standby.
    pub from_standby: bool,
    /// Whether pages had checksums, which were then verified.
    pub data_checksums: bool,
    /// Bytes of all files.
    pub size: u64,
    /// Bytes of all packs.
    pub stored: u64,
    /// Number of packs; they are `0` to `packs - 1`.
    pub packs: u32,
    /// `backup_label` for the restored directory.
    pub backup_label: String,
    /// The content of `global/pg_control` (base64), written last.
    pub control: String,
    /// Tablespaces outside the data directory.
    pub tablespaces: Vec<Tablespace>,
    /// Pages whose checksum is wrong and that recovery will not mend.
    pub damaged: Vec<DamagedPage>,
    /// Of an incremental backup: what it builds upon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub increment: Option<Increment>,
    /// Why it is a full one although an incremental one was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fallback: Option<String>,
}

/// What an incremental backup builds upon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Increment {
    /// The backup that it was compared with.
    pub parent: String,
    /// The earlier backups whose packs its frames lie in.
    pub needs: Vec<String>,
    /// How it was found out what has changed.
    pub found_by: FoundBy,
    /// Why not by summaries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub because: Option<String>,
    /// Bytes of files whose content lies in packs of earlier backups.
    pub reused: u64,
}

/// How it was found out what has changed since the parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FoundBy {
    /// The server's WAL summaries name the blocks of relations; everything else was read and compared.
    Summaries,
    /// Everything was read and compared.
    Digests,
}

/// A tablespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tablespace {
    /// Its object identifier: the name in `pg_tblspc`.
    pub oid: u32,
    /// Its name.
    pub name: String,
    /// Where it lay.
    pub path: String,
}

/// A page with a wrong checksum.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DamagedPage {
    /// The file, below the data directory.
    pub path: String,
    /// Number of the block in the relation.
    pub block: u32,
}

/// One file or folder, a line of the manifest each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Line {
    /// `{"folder": [path, mode]}`
    Folder(String, u32),
    /// `{"file": [path, size, mode]}`; frames name it by its place among the files, from 0.
    File(String, u64, u32),
    /// `{"frame": [pack, index, at, length, sha256, [[file, offset, length], …]]}`: where a frame lies in a pack, the
    /// digest of its content, and to which parts of which files the content belongs, in this order.
    Frame(u32, u32, u64, u64, String, Vec<(u32, u64, u64)>),
    /// `{"earlier": [backup, pack, index, at, length, sha256, [[file, offset, length], …]]}`: the same of a frame in a pack of an
    /// earlier backup, which is named by its place among those that the increment needs.
    Earlier(u32, u32, u32, u64, u64, String, Vec<(u32, u64, u64)>),
}

/// In a part of a frame, in place of a file: these bytes of its content belong nowhere any more.
pub const NOWHERE: u32 = u32::MAX;

/// A whole manifest.
pub type Manifest = manifest::Manifest<Summary, Line>;

impl Summary {
    /// What the header repeats in the clear.
    pub(crate) fn outline(&self) -> Outline {
        let Summary { timeline, start_lsn, stop_lsn, start_time, stop_time, .. } = *self;
        let needs = self.needs().to_vec();
        Outline { timeline, start_lsn, stop_lsn, start_time, stop_time, needs }
    }

    /// The earlier backups without which it cannot be restored.
    pub fn needs(&self) -> &[String] {
        self.increment.as_ref().map(|increment| increment.needs.as_slice()).unwrap_or_default()
    }
}

impl First for Summary {
    const WHAT: &'static str = "backup";
    const KIND: Kind = Kind::Manifest;
    type Outline = Outline;

    fn outlined(header: Header) -> Option<Outline> {
        header.backup
    }

    fn version(&self) -> u32 {
        self.version
    }

    fn place(&self) -> (Timestamp, &str) {
        (self.stop_time, &self.backup)
    }
}
