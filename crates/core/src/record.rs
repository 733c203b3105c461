//! What members write into the store, key by key.
//!
//! The layout under `/service/<scope>/` is Patroni's, so that its tools and everyone's scripts can read it; fields of
//! our own stand beside Patroni's. Source of the layout: Patroni's documentation of its DCS keys.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::lsn::{Lsn, Timeline};
use crate::name::{Incarnation, MemberName};
use crate::rule::Rule;

/// Keys relative to `/service/<scope>/`.
pub mod key {
    use crate::name::MemberName;

    /// The system identifier of the cluster; empty while a member runs initdb.
    pub const INITIALIZE: &str = "initialize";
    /// Dynamic configuration (JSON).
    pub const CONFIG: &str = "config";
    /// Name of the leader; leased.
    pub const LEADER: &str = "leader";
    /// The epoch, its leader and the durability rule: [`super::SyncRecord`].
    pub const SYNC: &str = "sync";
    /// A wish to move the primary: [`super::FailoverRequest`].
    pub const FAILOVER: &str = "failover";
    /// Past timelines: a list of [`super::HistoryEntry`].
    pub const HISTORY: &str = "history";
    /// Drills that were done, and how they ended (ours).
    pub const DRILLS: &str = "drills";
    /// Scheduled backups: until when they are done, the last one, failures (ours).
    pub const BACKUPS: &str = "backups";
    /// The scheduled backup under way; leased (ours).
    pub const BACKUP: &str = "backup";
    /// The leader's last known position: [`super::StatusRecord`].
    pub const STATUS: &str = "status";

    /// Key of a member's own record.
    pub fn member(name: &MemberName) -> String {
        format!("members/{name}")
    }

    /// Key of a member's pledge.
    pub fn pledge(name: &MemberName) -> String {
        format!("pledges/{name}")
    }

    /// What the keys of routers begin with.
    pub const ROUTERS: &str = "routers/";

    /// Key of a router's record.
    pub fn router(id: &str) -> String {
        format!("{ROUTERS}{id}")
    }
}

/// The tag of a member that streams from nobody.
pub const NOSTREAM: &str = "nostream";
/// What such a replica says instead of `streaming`, as in Patroni.
pub const IN_ARCHIVE_RECOVERY: &str = "in archive recovery";

/// A value and the store revision at which it was last written: what a compare-and-set compares.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Versioned<T> {
    /// Store revision of the last write.
    pub revision: u64,
    /// The value.
    pub value: T,
}

/// What a member's PostgreSQL does, as shown to people (`state` of Patroni's member record).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Accepts writes.
    Primary,
    /// Follows.
    Replica,
    /// Not running, or not known.
    Uninitialized,
}

/// `members/<name>`: one member as it describes itself; leased.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberRecord {
    /// `postgres://host:port/postgres`.
    pub conn_url: String,
    /// `http://host:port/patroni`.
    pub api_url: String,
    /// `running`, `starting`, `stopped`, `creating replica`, …
    pub state: String,
    /// Role of its PostgreSQL.
    pub role: Role,
    /// Version of the agent (at least 4.0.0, since Patroni parses it).
    pub version: String,
    /// Flushed position: of the primary, or received and replayed of a replica (bytes).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub xlog_location: Option<u64>,
    /// Position received and flushed by a replica.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receive_lsn: Option<u64>,
    /// Position replayed by a replica.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replay_lsn: Option<u64>,
    /// `streaming` when the replica streams, [`IN_ARCHIVE_RECOVERY`] when it is not to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replication_state: Option<String>,
    /// The member that it streams from (ours).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream: Option<MemberName>,
    /// Timeline of its PostgreSQL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeline: Option<Timeline>,
    /// Tags of the local configuration.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, Value>,
    /// A parameter waits for a restart.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pending_restart: bool,
    /// Which parameters wait for a restart: name to old and new value.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub pending_restart_reason: BTreeMap<String, Value>,
    /// A restart that was asked for a later time: `{"schedule": RFC 3339, …}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduled_restart: Option<Value>,
    /// The member has seen that the cluster is paused.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pause: bool,
    /// Identity of its data directory (ours).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incarnation: Option<Incarnation>,
    /// The newest epoch it acts in (ours).
    #[serde(default)]
    pub epoch: u64,
    /// Full path of the Unix socket, when a proxy on the same host may use it (ours).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unix_socket: Option<String>,
    /// Identity of the host that the socket belongs to (ours).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_id: Option<String>,
    /// PostgreSQL accepts TLS (ours).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tls: bool,
    /// A volume of its PostgreSQL has no room (ours).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub disk_full: bool,
    /// It receives WAL and has not replayed any for seconds (ours).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub replay_still: bool,
    /// It has to change its data, and waits until no rule counts on what it has (ours).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub leaves_rule: bool,
    /// What stands in the member's way, in words, when something does (ours).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

impl MemberRecord {
    /// Whether a boolean tag is set.
    pub fn tag(&self, name: &str) -> bool {
        match self.tags.get(name) {
            Some(Value::Bool(set)) => *set,
            Some(Value::String(text)) => matches!(text.as_str(), "true" | "on" | "yes"),
            _ => false,
        }
    }

    /// May this member become leader: not tagged `nofailover`, and `failover_priority` is not 0.
    pub fn may_lead(&self) -> bool {
        !self.tag("nofailover") && self.failover_priority() > 0
    }

    /// `failover_priority`, 1 unless set; among equals the highest wins.
    pub fn failover_priority(&self) -> i64 {
        self.tags.get("failover_priority").and_then(Value::as_i64).unwrap_or(1)
    }

    /// May its flushes acknowledge commits: not tagged `nosync` or `nostream`, `sync_priority` is not 0, and it may lead,
    /// since the voters are who takes over.
    pub fn may_vote(&self) -> bool {
        self.may_lead() && !self.tag("nosync") && !self.tag(NOSTREAM) && self.sync_priority() > 0
    }

    /// `sync_priority`, 1 unless set; the highest is asked first.
    pub fn sync_priority(&self) -> i64 {
        self.tags.get("sync_priority").and_then(Value::as_i64).unwrap_or(1)
    }

    /// Its failure domain: what dies together (a rack, a site).
    pub fn zone(&self) -> Option<&str> {
        self.tags.get("zone").and_then(Value::as_str)
    }

    /// A replica that runs and gets WAL in the way that it is to: others may read and stream from it.
    pub fn follows(&self) -> bool {
        let state = self.replication_state.as_deref();
        let well = state == Some("streaming") || self.tag(NOSTREAM) && state == Some(IN_ARCHIVE_RECOVERY);
        self.role == Role::Replica && self.state == "running" && well
    }

    /// `host:port` out of `conn_url`.
    pub fn address(&self) -> Option<&str> {
        self.conn_url.strip_prefix("postgres://")?.split('/').next()
    }
}

/// Why and how a leader gave up the lead.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Release {
    /// The cause.
    pub reason: ReleaseReason,
    /// Timeline of the leader at that moment.
    pub timeline: Timeline,
    /// Start of the shutdown checkpoint when PostgreSQL stopped cleanly: whoever flushed beyond it holds everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shutdown_checkpoint: Option<Lsn>,
    /// Who is to take over, when somebody asked for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub candidate: Option<MemberName>,
}

/// The cause of a release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReleaseReason {
    /// PostgreSQL died; its whole process tree was confirmed dead.
    Crash,
    /// The agent was asked to stop and stopped PostgreSQL.
    Stop,
    /// A person asked for another primary.
    Switchover,
    /// The data directory is gone or unusable.
    DataLost,
    /// A volume takes no writes any more; PostgreSQL may still be there.
    Stalled,
}

/// `sync`: the epoch, its leader and its rule. Never leased: it outlives the leader and is what a takeover compares.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SyncRecord {
    /// Leader of this epoch.
    pub leader: MemberName,
    /// Voters, comma separated and sorted, as Patroni's tools read them.
    pub sync_standby: Option<String>,
    /// Patroni's reading of the rule: how many voters may be missing from a vote, |S| - k.
    pub quorum: u32,
    /// Counts takeovers; a fencing token.
    pub epoch: u64,
    /// Counts the writes of this record, over all epochs: with the epoch it tells which of two records is the newer one,
    /// also in a store that went back in time.
    #[serde(default)]
    pub serial: u64,
    /// Identity of the leader's data.
    pub incarnation: Incarnation,
    /// The rule in force.
    pub rule: Rule,
    /// Whether a WAL record written under the rule has been acknowledged under it: never under a rule of nobody that was made
    /// of another one.
    pub established: bool,
    /// The rules of earlier epochs, and of this one before its voters left, that still count because none since was
    /// established; oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub previous: Vec<PreviousRule>,
    /// The timeline reserved for this epoch: a promotion in it must come out with this number. Two members that never
    /// saw each other's history would else both open the same one, and PostgreSQL tells timelines apart by number only.
    #[serde(default)]
    pub timeline: Timeline,
    /// Set when the leader gave up the lead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub released: Option<Release>,
    /// A planned switchover is under way: routers hold new work.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub handover: bool,
    /// Every member that ever joined and was not removed.
    #[serde(default)]
    pub membership: BTreeSet<MemberName>,
    /// The newest takeover for which a person accepted the loss of acknowledged commits; kept for the history.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted_loss: Option<AcceptedLoss>,
}

/// A takeover that may have lost acknowledged commits, because a person accepted that.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct AcceptedLoss {
    /// The timeline that it opened.
    pub timeline: Timeline,
    /// What was known, in words.
    pub text: String,
}

/// An earlier rule, with the leader that held everything acknowledged under it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PreviousRule {
    /// Leader of that epoch.
    pub leader: MemberName,
    /// Identity of that leader's data.
    pub incarnation: Incarnation,
    /// Its rule.
    pub rule: Rule,
    /// Timeline and start of its shutdown checkpoint when it stopped cleanly: whoever flushed beyond it holds everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shutdown: Option<(Timeline, Lsn)>,
    /// Where the next leader stood when it took over, or this one when it went on without voters: whoever flushed as much holds
    /// everything, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<(Timeline, Lsn)>,
}

impl PreviousRule {
    /// Who was bound by what.
    pub fn key(&self) -> (&MemberName, &Incarnation, &Rule) {
        (&self.leader, &self.incarnation, &self.rule)
    }
}

impl SyncRecord {
    /// Of a cluster that is founded: its leader is the only member, and nobody else must have flushed a commit.
    pub fn first(leader: MemberName, incarnation: Incarnation, timeline: Timeline) -> SyncRecord {
        SyncRecord {
            membership: [leader.clone()].into(),
            leader,
            sync_standby: None,
            quorum: 0,
            epoch: 1,
            serial: 1,
            incarnation,
            rule: Rule::default(),
            established: true,
            previous: Vec::new(),
            timeline,
            released: None,
            handover: false,
            accepted_loss: None,
        }
    }

    /// Nothing is acknowledged under a rule of nobody, so whoever holds what was acknowledged under the rules before it holds
    /// everything.
    pub fn asks_those_before(&self) -> bool {
        self.rule.is_of_nobody() && !self.established && !self.previous.is_empty()
    }

    /// Fills the fields that Patroni's tools read from the rule.
    pub fn with_patroni_fields(mut self) -> Self {
        let voters: Vec<&str> = self.rule.voters.keys().map(MemberName::as_str).collect();
        self.sync_standby = (!voters.is_empty()).then(|| voters.join(","));
        self.quorum = (self.rule.voters.len() as u32).saturating_sub(self.rule.needed);
        self
    }
}

/// `pledges/<name>`: this member has durably stopped receiving WAL of that epoch.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Pledge {
    /// The epoch pledged against.
    pub epoch: u64,
    /// Identity of the pledger's data.
    pub incarnation: Incarnation,
    /// Timeline of its last position.
    pub timeline: Timeline,
    /// End of the WAL it has flushed.
    pub lsn: Lsn,
    /// It counts no more. The record stays, so that a pledge still under way to the store finds it changed and fails.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub withdrawn: bool,
}

impl Pledge {
    /// It stands, against this epoch.
    pub fn counts_against(&self, epoch: u64) -> bool {
        self.epoch == epoch && !self.withdrawn
    }
}

/// `routers/<id>`: something that sends sessions to the primary, as it describes itself; leased.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouterRecord {
    /// What it is.
    pub kind: RouterKind,
    /// Where clients reach it: `host:port`.
    pub address: String,
    /// Identity of the network it is in: within it, an address of the loopback interface means the same to all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// It lets no new work through for the switchover that this revision of `sync` announced. A pooler says so once the
    /// work that it let through before has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holds: Option<u64>,
    /// What keeps it from doing its work, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// Kinds of routers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RouterKind {
    /// Matriarch's own proxy.
    Proxy,
    /// A PgBouncer.
    Pooler,
}

impl std::fmt::Display for RouterKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            RouterKind::Proxy => "proxy",
            RouterKind::Pooler => "pooler",
        })
    }
}

/// `failover`: a wish to move the primary. With `leader` it is a switchover, without a failover.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FailoverRequest {
    /// The leader to move away from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<MemberName>,
    /// The member to move to; any suitable one when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member: Option<MemberName>,
    /// When to do it (RFC 3339); at once when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduled_at: Option<String>,
    /// A person gives up what the members that are gone alone had acknowledged (ours). Honoured only while nobody leads.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub accept_data_loss: bool,
}

/// `status`: the leader's position when it last wrote it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusRecord {
    /// Position of the leader, in bytes.
    pub optime: u64,
    /// Timeline of that position (ours); 0 when whoever wrote it did not tell.
    #[serde(default, skip_serializing_if = "is_unknown")]
    pub timeline: Timeline,
    /// How far each member was when the leader last heard of it (ours). Members' own records end with their agents.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub known: BTreeMap<MemberName, KnownPosition>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks with a reference")]
fn is_unknown(timeline: &Timeline) -> bool {
    *timeline == 0
}

/// How far a member was, when.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownPosition {
    /// Timeline of the leader then.
    pub timeline: Timeline,
    /// End of its durable WAL, in bytes.
    pub lsn: u64,
    /// When that was (RFC 3339).
    pub at: String,
}

/// One line of `history`: `[timeline, lsn, reason, timestamp, new_leader]`, the timeline that ended and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryEntry(pub Timeline, pub u64, pub String, #[serde(default)] pub String, #[serde(default)] pub String);

impl HistoryEntry {
    /// The timeline that ended and the position at which the next one forked off.
    pub fn fork(&self) -> (Timeline, Lsn) {
        (self.0, Lsn(self.1))
    }
}
