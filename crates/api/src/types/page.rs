//! `/status`: one page about everything, and the shape of errors.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{ClusterStatus, MemberStatus, PendingChange};

/// The body of `/status`. Replication, slots and certificates are those of the member that answers: ask the leader for
/// the ones that matter.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct StatusPage {
    /// The cluster as this member last read it.
    pub cluster: ClusterStatus,
    /// This member: replication, slots, certificates.
    pub member: MemberStatus,
    /// Milliseconds until the guard would stop PostgreSQL; only on the leader.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease_remaining_ms: Option<u64>,
    /// Every member with configuration that waits for a restart.
    pub pending_restarts: Vec<PendingRestartRow>,
}

/// A member with configuration that waits for a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct PendingRestartRow {
    /// Name of the member.
    pub member: String,
    /// Parameters and their values before and after.
    pub parameters: BTreeMap<String, PendingChange>,
}

impl StatusPage {
    /// Puts the page together.
    pub fn new(cluster: ClusterStatus, member: MemberStatus, lease_remaining_ms: Option<u64>) -> Self {
        let pending_restarts = cluster
            .members
            .iter()
            .filter(|row| row.pending_restart)
            .map(|row| PendingRestartRow { member: row.name.clone(), parameters: row.pending_restart_reason.clone() })
            .collect();
        StatusPage { cluster, member, lease_remaining_ms, pending_restarts }
    }
}

/// The body of an error that is not Patroni's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct ErrorBody {
    /// What is wrong, and where.
    pub error: String,
    /// What to do next.
    pub remedy: String,
}
