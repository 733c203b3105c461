//! One member: `/patroni`, and the top of `/status`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::no;

/// What a member says about itself: the body of `/patroni` and of every health check.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct MemberStatus {
    /// `running`, `starting`, `stopped`, `creating replica`, … as in Patroni.
    pub state: String,
    /// When the postmaster started, as PostgreSQL prints it (`2026-11-21 10:00:00.000000+00:00`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub postmaster_start_time: Option<String>,
    /// `primary`, `replica`, `standby_leader` or `uninitialized`: what PostgreSQL does, whoever holds the lead.
    pub role: String,
    /// PostgreSQL's version as a number (`150020`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_version: Option<u32>,
    /// Positions in the write-ahead log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub xlog: Option<Xlog>,
    /// Timeline of the primary that it is or follows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeline: Option<u32>,
    /// `streaming` or `in archive recovery`; only on replicas.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replication_state: Option<String>,
    /// Who streams from this member.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub replication: Vec<ReplicationRow>,
    /// It is a synchronous standby (`synchronous_mode: on`).
    #[serde(skip_serializing_if = "no")]
    pub sync_standby: bool,
    /// It is a voter of the rule (`synchronous_mode: quorum`).
    #[serde(skip_serializing_if = "no")]
    pub quorum_standby: bool,
    /// The cluster is paused: nothing is done automatically.
    #[serde(skip_serializing_if = "no")]
    pub pause: bool,
    /// Nobody holds the lead.
    #[serde(skip_serializing_if = "no")]
    pub cluster_unlocked: bool,
    /// The store is away and the primary goes on with the consent of the others.
    #[serde(skip_serializing_if = "no")]
    pub failsafe_mode_is_active: bool,
    /// When the store was last read, in seconds since 1970.
    pub dcs_last_seen: i64,
    /// Tags of the local configuration.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, Value>,
    /// PostgreSQL's system identifier.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub database_system_identifier: String,
    /// A parameter waits for a restart.
    #[serde(skip_serializing_if = "no")]
    pub pending_restart: bool,
    /// Which parameters wait for a restart.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub pending_restart_reason: BTreeMap<String, PendingChange>,
    /// A restart that was asked for a later time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheduled_restart: Option<ScheduledRestart>,
    /// The watchdog is configured and does not work.
    #[serde(skip_serializing_if = "no")]
    pub watchdog_failed: bool,
    /// Who answers. The key is Patroni's.
    pub patroni: Identity,
    /// What Matriarch adds.
    pub matriarch: MemberDetail,
}

/// Positions in the write-ahead log, in bytes. A primary has `location`, a replica the others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Xlog {
    /// Flushed position of a primary.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub location: Option<u64>,
    /// Position that a replica has received.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub received_location: Option<u64>,
    /// Position that a replica has replayed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replayed_location: Option<u64>,
    /// Commit time of the newest replayed transaction.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replayed_timestamp: Option<String>,
    /// Replay is paused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paused: Option<bool>,
}

/// One row of `pg_stat_replication`; the first six fields are Patroni's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct ReplicationRow {
    /// Role that the follower logged in as.
    pub usename: String,
    /// Name of the follower; of a voter with the identity of its data (`b:1a2b3c4d`).
    pub application_name: String,
    /// Address that the follower connects from; none for a Unix socket.
    pub client_addr: Option<String>,
    /// `streaming`, `catchup`, …
    pub state: String,
    /// `async`, `sync`, `quorum` or `potential`.
    pub sync_state: String,
    /// Priority in `synchronous_standby_names`, 0 when asynchronous.
    pub sync_priority: i64,
    /// Position sent to it (`0/3000148`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sent_lsn: Option<String>,
    /// Position it has flushed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flush_lsn: Option<String>,
    /// Position it has replayed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replay_lsn: Option<String>,
    /// Bytes it has not flushed yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flush_lag: Option<u64>,
    /// Bytes it has not replayed yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replay_lag: Option<u64>,
    /// Milliseconds from a flush here to the news of its replay there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replay_lag_ms: Option<u64>,
}

/// One replication slot of a member.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct SlotRow {
    /// Name of the slot.
    pub name: String,
    /// `physical` or `logical`.
    pub kind: String,
    /// Somebody streams from it.
    pub active: bool,
    /// Oldest position it keeps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restart_lsn: Option<String>,
    /// Bytes of WAL it keeps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retained: Option<u64>,
    /// `reserved`, `extended`, `unreserved` or `lost`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wal_status: Option<String>,
}

/// A certificate in use and when it ends.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct CertificateRow {
    /// What it is for: `server`, `ca`, `replication`, …
    pub purpose: String,
    /// The file.
    pub path: String,
    /// Distinguished name of the holder.
    pub subject: String,
    /// End of validity (RFC 3339).
    pub not_after: String,
    /// Whole days left; negative once expired.
    pub days_left: i64,
}

/// A parameter whose new value waits for a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct PendingChange {
    /// The value in force.
    pub old_value: String,
    /// The value after the restart.
    pub new_value: String,
}

/// A restart that was asked for a later time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct ScheduledRestart {
    /// When (RFC 3339).
    pub schedule: String,
    /// Only when the member has this role then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// Only when PostgreSQL is older than this then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub postgres_version: Option<String>,
    /// Only when a parameter waits for a restart then.
    #[serde(skip_serializing_if = "no")]
    pub restart_pending: bool,
}

/// Who answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Identity {
    /// Version that Patroni's tools parse; at least 4.0.0.
    pub version: String,
    /// Name of the cluster.
    pub scope: String,
    /// Name of the member.
    pub name: String,
}

/// What Matriarch knows about a member beyond Patroni's fields.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct MemberDetail {
    /// Version of the agent.
    pub version: String,
    /// It holds the leader record. Health checks also ask whether its authority still runs.
    pub leader: bool,
    /// The cluster as a whole follows another one.
    #[serde(skip_serializing_if = "no")]
    pub standby_cluster: bool,
    /// The last read of the store succeeded.
    pub store_reachable: bool,
    /// Failsafe mode is configured.
    #[serde(skip_serializing_if = "no")]
    pub failsafe_mode: bool,
    /// The newest epoch it acts in.
    pub epoch: u64,
    /// Identity of its data directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub incarnation: Option<String>,
    /// Length of the leader's lease in milliseconds.
    pub ttl_ms: u64,
    /// The newest position of the leader that this member knows of, in bytes (the store's, or its walreceiver's when
    /// that is newer). Lag in health checks counts from here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leader_lsn: Option<u64>,
    /// `maximum_lag_on_failover` in bytes: the default limit of `/readiness`.
    pub maximum_lag_on_failover: u64,
    /// Where the member is, for zone-aware choices.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// What stands in the member's way, in words, when something does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// Reason of the newest decision.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Decisions since the agent started, by reason.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub decisions: BTreeMap<String, u64>,
    /// Changes of role since the agent started.
    pub role_changes: u64,
    /// How long the last takeover by this member took, from when it saw that nobody leads to the end of its promotion,
    /// in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_failover_ms: Option<u64>,
    /// Replication slots of its PostgreSQL.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub slots: Vec<SlotRow>,
    /// Certificates it uses.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub certificates: Vec<CertificateRow>,
}
