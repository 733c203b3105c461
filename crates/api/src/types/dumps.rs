//! Scheduled dumps, as `/archive` shows them. The store keeps a log (`dumps`) of the same form as that of backups.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{BackupFailure, BackupRun, ScheduledBackup};

/// A dump that was taken.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct ScheduledDump {
    /// Its name.
    pub dump: String,
    /// The member that took it.
    pub member: String,
    /// When it began (RFC 3339).
    pub began: String,
    /// When it was complete in every repository (RFC 3339).
    pub ended: String,
    /// It was taken of a replica.
    pub from_standby: bool,
    /// Bytes as PostgreSQL has written them.
    pub size: u64,
    /// Bytes in each repository.
    pub stored: u64,
    /// Dumps that were removed afterwards because nobody keeps them, of all repositories.
    pub expired: u64,
}

impl From<ScheduledBackup> for ScheduledDump {
    fn from(log: ScheduledBackup) -> ScheduledDump {
        let ScheduledBackup { backup, member, began, ended, from_standby, size, stored, expired, .. } = log;
        ScheduledDump { dump: backup, member, began, ended, from_standby, size, stored, expired }
    }
}

/// Scheduled dumps in `/archive`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct ScheduledDumps {
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
    pub last: Option<ScheduledDump>,
    /// Attempts that failed since then.
    pub failures: u32,
    /// The last of them, or what failed after the last dump.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<BackupFailure>,
}
