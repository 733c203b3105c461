//! The archive as one member sees it: `/archive`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{ScheduledBackups, ScheduledDumps};

/// How a member stands to the archive. `archived` and `failures` count from the start of its agent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct ArchiveStatus {
    /// There is a section `archive` in the configuration.
    pub configured: bool,
    /// Name of the data's incarnation in every repository.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub incarnation: Option<String>,
    /// The repositories, in the order of the configuration.
    pub repositories: Vec<ArchiveRepositoryRow>,
    /// PostgreSQL hands its WAL over: `archive_mode` is in force.
    pub archiving: bool,
    /// Files that every repository has confirmed.
    pub archived: u64,
    /// The last of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_archived: Option<ArchivedFile>,
    /// Attempts that failed.
    pub failures: u64,
    /// The last of them, until a file was archived after it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<ArchiveFailure>,
    /// Files that are to be archived and are not yet.
    pub waiting: u64,
    /// The one that has waited longest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oldest_waiting: Option<ArchivedFile>,
    /// Of those that wait: kept beside the data when a rewind or a copy replaced it.
    pub kept: u64,
    /// What stands in the way, and what to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// Whether commits wait for the archive; only of a primary whose configuration asks for that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub durability: Option<ArchiveDurability>,
    /// Scheduled backups, of all members; only with a schedule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backups: Option<ScheduledBackups>,
    /// Scheduled dumps, of all members; only with a schedule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dumps: Option<ScheduledDumps>,
}

/// One repository.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct ArchiveRepositoryRow {
    /// Where it lies (`s3://bucket/prefix`).
    pub name: String,
    /// It was opened.
    pub open: bool,
    /// Why it was not, or why a file could not be archived there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// The WAL that fills no segment yet; only of a primary.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tail: Option<ArchiveTail>,
    /// What this host needs to use it and what ends by itself: credentials, authorities of certificates.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ends: Vec<ArchiveEnding>,
}

/// Something without which a repository cannot be used, and that ends by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct ArchiveEnding {
    /// When (RFC 3339).
    pub at: String,
    /// It is time to replace it: in its last week, or in the last fifth of its life where that is shorter.
    pub soon: bool,
    /// What it is, where, when it ends, and what to do.
    pub text: String,
}

/// WAL below a segment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct ArchiveTail {
    /// The timeline that is streamed, 0 before the first connection.
    pub timeline: u32,
    /// Everything before this position is in the repository (`0/3000148`).
    pub stored: String,
    /// Bytes that the primary has flushed since.
    pub behind: u64,
    /// Commits wait until it is stored.
    pub awaited: bool,
    /// Why nothing is stored at the moment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// Commits that wait for the archive.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct ArchiveDurability {
    /// `preferred` or `required`.
    pub mode: String,
    /// Nothing is acknowledged at the moment before every repository holds it.
    pub holds: bool,
    /// Why that is not so, or why commits wait.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// A file and a time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct ArchivedFile {
    /// Name of the file in `pg_wal`.
    pub file: String,
    /// When (RFC 3339): archived, or marked as ready.
    pub at: String,
}

/// An attempt that failed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct ArchiveFailure {
    /// Name of the file.
    pub file: String,
    /// Why.
    pub why: String,
    /// When (RFC 3339).
    pub at: String,
}

/// The result of `/archive/check` and `/archive/init` for one repository.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct ArchiveCheckRow {
    /// Where it lies.
    pub name: String,
    /// It does all that is asked of it.
    pub ok: bool,
    /// Milliseconds of the round trip: create, refuse a second create, read, list, delete.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub took_ms: Option<u64>,
    /// The newest backup of the cluster there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub newest_backup: Option<String>,
    /// To how many keys that is encrypted; 0: to none, it is in the clear.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recipients: Option<u32>,
    /// Whether the private keys of this host open it; absent where it has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub opens: Option<bool>,
    /// What it does not do, and what to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// What the leader's host needs to use it and what ends by itself.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ends: Vec<ArchiveEnding>,
}
