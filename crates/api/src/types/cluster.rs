//! The whole cluster as one member last read it: `/cluster` and `/history`.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, Schema, SchemaType};
use utoipa::{PartialSchema, ToSchema};

use super::{PendingChange, ScheduledRestart, no};

/// The body of `/cluster`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct ClusterStatus {
    /// Members, sorted by name.
    pub members: Vec<MemberRow>,
    /// The cluster is paused.
    #[serde(skip_serializing_if = "no")]
    pub pause: bool,
    /// A switchover that was asked for a later time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheduled_switchover: Option<ScheduledSwitchover>,
    /// Name of the cluster.
    pub scope: String,
    /// What Matriarch adds.
    pub matriarch: ClusterDetail,
}

/// One member as the others see it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct MemberRow {
    /// Name of the member.
    pub name: String,
    /// `leader`, `standby_leader`, `sync_standby`, `quorum_standby` or `replica`.
    pub role: String,
    /// `running`, `streaming`, `in archive recovery`, `stopped`, …
    pub state: String,
    /// `http://host:port/patroni`.
    pub api_url: String,
    /// Host of its PostgreSQL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Port of its PostgreSQL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Timeline of its PostgreSQL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeline: Option<u32>,
    /// A parameter waits for a restart.
    #[serde(skip_serializing_if = "no")]
    pub pending_restart: bool,
    /// Which parameters wait for a restart.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub pending_restart_reason: BTreeMap<String, PendingChange>,
    /// A restart that was asked for a later time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheduled_restart: Option<ScheduledRestart>,
    /// Tags of its configuration.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, Value>,
    /// Position received (`0/3000148`, or `unknown`); not of the leader. So are the next five.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub receive_lsn: Option<String>,
    /// Bytes that it has not received.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub receive_lag: Option<Lag>,
    /// Position replayed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replay_lsn: Option<String>,
    /// Bytes that it has not replayed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replay_lag: Option<Lag>,
    /// The newer of both positions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lsn: Option<String>,
    /// Bytes that it is behind by that position.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lag: Option<Lag>,
    /// Where the member is (ours).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Member that it streams from, when known (ours).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream: Option<String>,
    /// Its record in the store has expired: its agent is away (ours).
    #[serde(skip_serializing_if = "no")]
    pub expired: bool,
    /// What stands in its way, in words (ours).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

impl MemberRow {
    /// It runs as a replica and gets WAL: it streams, or is tagged `nostream` and restores from the archive.
    pub fn follows(&self) -> bool {
        matches!(self.state.as_str(), "streaming" | "in archive recovery")
    }

    /// Its PostgreSQL runs.
    pub fn runs(&self) -> bool {
        self.state == "running" || self.follows()
    }
}

/// Bytes, or the word `unknown`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum Lag {
    /// Bytes behind.
    Bytes(u64),
    /// Not known.
    Unknown(Unknown),
}

/// The word that Patroni writes where a number is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Unknown {
    /// Not known.
    Unknown,
}

impl Lag {
    /// Not known.
    pub const UNKNOWN: Lag = Lag::Unknown(Unknown::Unknown);

    /// The number, when known.
    pub fn bytes(self) -> Option<u64> {
        match self {
            Lag::Bytes(bytes) => Some(bytes),
            Lag::Unknown(_) => None,
        }
    }
}

impl fmt::Display for Lag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Lag::Bytes(bytes) => write!(f, "{bytes}"),
            Lag::Unknown(_) => f.write_str("unknown"),
        }
    }
}

/// A switchover that was asked for a later time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct ScheduledSwitchover {
    /// When (RFC 3339).
    pub at: String,
    /// The leader to move away from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The member to move to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
}

/// What Matriarch knows about the cluster beyond Patroni's fields.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct ClusterDetail {
    /// The member that holds the leader record.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leader: Option<String>,
    /// Store revision at which the lead was last taken.
    pub epoch: u64,
    /// The durability rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<RuleView>,
    /// How far each member was when a leader last heard of it: all that is known of those that are gone.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub known: Vec<KnownRow>,
    /// A planned switchover is under way: routers hold new work.
    #[serde(skip_serializing_if = "no")]
    pub handover: bool,
    /// Proxies and poolers that are alive.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub routers: Vec<RouterRow>,
    /// A restore in place that is under way, or the data that one has put aside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restore: Option<String>,
    /// PostgreSQL's system identifier.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system_identifier: Option<String>,
    /// Where the cluster's records are kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store: Option<StoreView>,
    /// The member that answers.
    pub seen_by: String,
    /// When it read the store (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seen_at: Option<String>,
}

/// One proxy or pooler.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct RouterRow {
    /// Its name in the store.
    pub id: String,
    /// `proxy` or `pooler`.
    pub kind: String,
    /// Where clients reach it: `host:port`.
    pub address: String,
    /// It holds new work for the switchover under way.
    pub holds: bool,
    /// What keeps it from doing its work.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// How far a member was, when.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct KnownRow {
    /// Which member.
    pub member: String,
    /// Timeline of the leader then.
    pub timeline: u32,
    /// End of its durable write-ahead log, in bytes.
    pub lsn: u64,
    /// When the leader heard that (RFC 3339).
    pub at: String,
}

/// The durability rule: a commit is acknowledged once `needed` of `voters` have flushed it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct RuleView {
    /// Members that count.
    pub voters: Vec<String>,
    /// How many of them must have flushed; 0 is asynchronous.
    pub needed: u32,
    /// Something written under it has been acknowledged under it.
    pub established: bool,
    /// The rule before the takeover, until this one is established.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub previous: Option<PreviousRuleView>,
}

/// The rule of the epoch before.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct PreviousRuleView {
    /// Leader of that epoch.
    pub leader: String,
    /// Members that counted.
    pub voters: Vec<String>,
    /// How many of them must have flushed.
    pub needed: u32,
}

impl RuleView {
    /// In words: `any 1 of b, c`, or `asynchronous`.
    pub fn describe(&self) -> String {
        if self.needed == 0 || self.voters.is_empty() {
            return "asynchronous".to_owned();
        }
        format!("any {} of {}", self.needed, self.voters.join(", "))
    }
}

/// Where the cluster's records are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct StoreView {
    /// `sqlite`, `etcd`, …
    pub engine: String,
    /// File or address.
    pub address: String,
    /// The last read succeeded.
    pub reachable: bool,
    /// Revision of the last read.
    pub revision: u64,
    /// Why it cannot be read, or takes no changes, when that is so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// One line of `/history`: `[timeline, lsn, reason, timestamp, new_leader]`, the timeline that ended and where.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryLine(
    pub u32,
    pub u64,
    #[serde(default)] pub String,
    #[serde(default)] pub String,
    #[serde(default)] pub String,
);

// The derive knows no tuples of mixed types.
impl PartialSchema for HistoryLine {
    fn schema() -> RefOr<Schema> {
        let example =
            serde_json::json!([1, 50331976, "no recovery target specified", "2026-11-21T10:00:00+00:00", "a"]);
        ArrayBuilder::new()
            .items(ObjectBuilder::new().schema_type(SchemaType::AnyValue))
            .description(Some("[timeline, lsn, reason, timestamp, new_leader]: the timeline that ended, and where"))
            .min_items(Some(5))
            .max_items(Some(5))
            .examples([example])
            .into()
    }
}

impl ToSchema for HistoryLine {}
