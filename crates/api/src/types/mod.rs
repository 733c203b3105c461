//! The JSON shapes of the interface.
//!
//! Field names and units at the top level of `/patroni` and `/cluster` are Patroni's, because dashboards and scripts
//! read them; ours are under `matriarch` or stand beside them.

mod archive;
mod backups;
mod cluster;
mod drill;
mod dumps;
mod member;
mod page;
mod request;

pub use archive::{
    ArchiveCheckRow, ArchiveDurability, ArchiveEnding, ArchiveFailure, ArchiveRepositoryRow, ArchiveStatus,
    ArchiveTail, ArchivedFile,
};
pub use backups::{BackupFailure, BackupLog, BackupRun, ScheduledBackup, ScheduledBackups};
pub use cluster::{
    ClusterDetail, ClusterStatus, HistoryLine, KnownRow, Lag, MemberRow, PreviousRuleView, RouterRow, RuleView,
    ScheduledSwitchover, StoreView, Unknown,
};
pub use drill::{Blow, BlowBody, DrillKind, DrillLog, DrillRecord, DrillResult, RestoreFigures, RestoreSeconds};
pub use dumps::{ScheduledDump, ScheduledDumps};
pub use member::{
    CertificateRow, Identity, MemberDetail, MemberStatus, PendingChange, ReplicationRow, ScheduledRestart, SlotRow,
    Xlog,
};
pub use page::{ErrorBody, PendingRestartRow, StatusPage};
pub use request::{FailoverBody, ReinitializeBody, RestartBody, RestartRequest, SwitchoverBody};

/// For `skip_serializing_if`: Patroni leaves out what is not so.
fn no(flag: &bool) -> bool {
    !*flag
}
