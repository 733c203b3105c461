//! Scheduled backups: what the store keeps of them, and how `/archive` shows it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How scheduled backups stand, as the store keeps it (`backups`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct BackupLog {
    /// The schedule that this is about (`full 30 2 * * * Europe/Berlin`). Another one counts from its own beginning.
    pub schedule: String,
    /// What was due until then is done or left out (RFC 3339).
    pub since: String,
    /// The same of full ones, where incremental ones were taken since (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub full_since: Option<String>,
    /// The last one that was taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<ScheduledBackup>,
    /// Attempts that failed since then.
    pub failures: u32,
    /// The last of them, or what failed after the last backup.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<BackupFailure>,
    /// When it is tried again (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry: Option<String>,
}

/// A backup that was taken.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct ScheduledBackup {
    /// Its name.
    pub backup: String,
    /// The member that took it.
    pub member: String,
    /// When it began (RFC 3339).
    pub began: String,
    /// When it was complete in every repository (RFC 3339).
    pub ended: String,
    /// It was taken of a replica.
    pub from_standby: bool,
    /// It stores only what has changed since the one before it.
    pub incremental: bool,
    /// Bytes of all files.
    pub size: u64,
    /// Bytes in the first repository.
    pub stored: u64,
    /// Backups that the retention removed afterwards, of all repositories.
    pub expired: u64,
}

/// An attempt that failed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct BackupFailure {
    /// The member that tried.
    pub member: String,
    /// When (RFC 3339).
    pub at: String,
    /// Why.
    pub why: String,
}

/// The scheduled backup under way, as the store keeps it for as long as its process lives (`backup`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct BackupRun {
    /// The member that takes it.
    pub member: String,
    /// When it was due (RFC 3339).
    pub due: String,
    /// Since when (RFC 3339).
    pub since: String,
}

/// Scheduled backups in `/archive`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct ScheduledBackups {
    /// What is configured, in one line.
    pub schedule: String,
    /// When the next one is due, or is tried again (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// Why no member may take it, while that is so: tags, or how far behind they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blocked: Option<String>,
    /// The one under way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub running: Option<BackupRun>,
    /// The last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<ScheduledBackup>,
    /// Attempts that failed since then.
    pub failures: u32,
    /// The last of them, or what failed after the last backup.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<BackupFailure>,
}
