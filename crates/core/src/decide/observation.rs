//! Everything a decision may depend on, frozen at one moment.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::lsn::{Lsn, Timeline};
use crate::name::{Incarnation, MemberName};
use crate::record::{FailoverRequest, HistoryEntry, MemberRecord, Pledge, RouterRecord, SyncRecord, Versioned};

/// Milliseconds on the boot clock (it counts while the host is suspended).
pub type Millis = u64;

/// What the people who run the cluster want; from the local and the dynamic configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// This member.
    pub me: MemberName,
    /// Life of the leader lease.
    pub ttl: Millis,
    /// Nobody starts, stops or promotes anything.
    pub paused: bool,
    /// What a leader does when its PostgreSQL dies.
    pub crash: CrashPolicy,
    /// How acknowledgements wait.
    pub synchronous: Synchronous,
    /// How long a voter may be away before the rule shrinks without it.
    pub shrink_delay: Millis,
    /// Under the empty rule: how far behind the leader's last known position a new leader may be, in bytes.
    pub maximum_lag_on_failover: u64,
    /// How long a leader's PostgreSQL may take to answer before somebody who can take over does.
    pub start_timeout: Millis,
    /// How long a write on the leader's volumes may take before it gives up the lead; never when none.
    pub stall_limit: Option<Millis>,
    /// May `pg_rewind` be used?
    pub use_rewind: bool,
    /// May a member be cloned again when `pg_rewind` has failed on it, or has left it unusable?
    pub clone_after_rewind: bool,
    /// May a diverged member be cloned again when `pg_rewind` may not be used?
    pub clone_diverged: bool,
    /// This member may become leader.
    pub may_lead: bool,
    /// It streams from nobody: its WAL comes through `restore_command` alone.
    pub from_archive: bool,
    /// The failure domain this member is in.
    pub zone: Option<String>,
    /// How long a planned switchover waits for routers to hold new work, and then for transactions to end.
    pub hold_timeout: Millis,
    /// Dynamic configuration that a founder writes into the store.
    pub bootstrap_config: Option<String>,
}

/// What a leader does when its PostgreSQL dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CrashPolicy {
    /// Gives up the lead at once when a voter can take over, restarts in place otherwise.
    Failover,
    /// Restarts in place.
    Restart,
}

/// How acknowledgements wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Synchronous {
    /// Voters needed; 0 is asynchronous.
    pub needed: u32,
    /// Rather block writes than go below `needed`.
    pub strict: bool,
    /// How many members the cluster must have had before the rule is used at all: 3 by default, since a pair can be
    /// safe or always writable, not both; 0 when a person asked for it.
    pub from_members: usize,
    /// The voters' order counts: always the first ones that connect.
    pub first: bool,
    /// What zones mean for the choice of voters.
    pub zones: Zones,
    /// Bytes that a voter may be behind; no limit when none.
    pub max_lag: Option<u64>,
}

/// What failure domains mean for the choice of voters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Zones {
    /// Nothing.
    Ignore,
    /// Voters outside the leader's zone, as long as there are any.
    #[default]
    Prefer,
    /// Rather block writes than acknowledge one within the leader's zone only.
    Require,
}

/// The store as last read, at one revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterView {
    /// Revision of the read.
    pub revision: u64,
    /// `initialize`.
    pub initialize: Option<Versioned<String>>,
    /// `leader`.
    pub leader: Option<LeaderKey>,
    /// `sync`.
    pub sync: Option<Versioned<SyncRecord>>,
    /// Revision of `sync` as another program keeps it: no record of ours.
    pub sync_of_others: Option<u64>,
    /// `members/*`.
    pub members: BTreeMap<MemberName, MemberRecord>,
    /// Members that another program runs, each with its version; none of them is in `members`.
    pub strangers: BTreeMap<String, String>,
    /// `pledges/*`.
    pub pledges: BTreeMap<MemberName, Versioned<Pledge>>,
    /// `failover`; `due` is false while its time has not come.
    pub failover: Option<Versioned<FailoverRequest>>,
    /// The request in `failover` is due.
    pub failover_due: bool,
    /// `history`.
    pub history: Vec<HistoryEntry>,
    /// Revision of `history`.
    pub history_revision: Option<u64>,
    /// `status`: the leader's last known position.
    pub optime: Lsn,
    /// `status`: the timeline of that position; 0 when it is not told.
    pub optime_timeline: Timeline,
    /// Revision of `config`.
    pub config_revision: Option<u64>,
    /// `routers/*`: those that are alive.
    pub routers: BTreeMap<String, RouterRecord>,
}

/// The `leader` key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaderKey {
    /// Who.
    pub name: MemberName,
    /// Store revision of its last write.
    pub revision: u64,
    /// It is bound to the lease that this very process renews.
    pub held: bool,
}

/// The lease of this agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// When the newest successful renewal was *sent*.
    pub renewed: Millis,
    /// When it ends: `renewed` plus the time to live.
    pub until: Millis,
}

/// The data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    /// Not looked at yet.
    Unknown,
    /// Missing or empty.
    Missing,
    /// Not a data directory PostgreSQL could start; why.
    Unusable(String),
    /// Left behind by an initdb or a clone of ours that did not finish.
    Unfinished,
    /// Good.
    Ready(DataFacts),
}

/// What `pg_control` and our own files say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataFacts {
    /// PostgreSQL's identity of the cluster.
    pub system_identifier: String,
    /// Identity of this copy; none when the directory was made by others.
    pub incarnation: Option<Incarnation>,
    /// Timeline of the last checkpoint.
    pub timeline: Timeline,
    /// Start of the last checkpoint.
    pub checkpoint: Lsn,
    /// It was shut down cleanly.
    pub clean: bool,
    /// It last ran as a standby.
    pub standby: bool,
    /// Made by our initdb, not yet announced in the store.
    pub unclaimed: bool,
}

/// PostgreSQL's process tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Server {
    /// Every process of it is confirmed gone.
    Stopped,
    /// Processes exist, it does not answer (starting, stopping, recovering).
    Unready,
    /// It answers.
    Running(Running),
}

/// What a running PostgreSQL says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Running {
    /// It is a standby.
    pub in_recovery: bool,
    /// Its timeline.
    pub timeline: Timeline,
    /// Primary: end of the WAL flushed. Standby: end of the WAL flushed, exact once `receiving` is false and
    /// `caught_up` is true.
    pub lsn: Lsn,
    /// Standby: a walreceiver process exists.
    pub receiving: bool,
    /// Standby: the walreceiver streams.
    pub streaming: bool,
    /// Standby: everything in local WAL has been replayed.
    pub caught_up: bool,
    /// Standby: the member that our settings make it follow; what PostgreSQL has loaded, not what was only written.
    pub upstream: Option<MemberName>,
    /// `synchronous_standby_names` in force.
    pub synchronous_standby_names: String,
    /// Primary: those who stream from it, by application name, with the position each has flushed.
    pub replicas: BTreeMap<String, Lsn>,
}

/// A job of the shell that takes time; one at a time.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Job {
    /// Make a new cluster's data directory.
    Initdb,
    /// Start as a primary.
    StartPrimary,
    /// Start as a standby of a member, or of nobody.
    StartStandby,
    /// Checkpoint, then stop; forced after a deadline.
    StopFast,
    /// Stop at once, without a checkpoint.
    StopImmediate,
    /// Become a primary on a new timeline.
    Promote,
    /// Replace the data directory with a copy of the leader's.
    Clone,
    /// Undo what the leader does not have.
    Rewind,
    /// Stop and start in the same role.
    Restart,
    /// Checkpoint, so that a stop is short.
    Checkpoint,
    /// Wait until no client is in a transaction; fails when the time for that is over.
    Settle,
}

/// How the newest job ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finished {
    /// Which.
    pub job: Job,
    /// When.
    pub at: Millis,
    /// In words, when it failed.
    pub failure: Option<JobFailure>,
}

/// Why a job failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobFailure {
    /// In words.
    pub message: String,
    /// Trying the same again cannot help (a rewind without a common ancestor): take the next remedy.
    pub hopeless: bool,
}

/// What this member hears of the leader that the store names, from agent to agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Pulse {
    /// Nothing is known: there is no other leader, or it has not been listened to for long enough.
    #[default]
    Unknown,
    /// Its agent answers, and says that it leads in this epoch.
    Alive {
        /// The epoch it says it leads in.
        epoch: u64,
    },
    /// It is held to be gone. That starts pledges and never authorises anything.
    Suspected {
        /// Since when.
        since: Millis,
        /// On what grounds.
        evidence: Evidence,
    },
}

/// Grounds for a suspicion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Evidence {
    /// The ports of both its agent and its PostgreSQL refuse or reset connections.
    Refused,
    /// Its agent was heard before and has been silent for longer than it may.
    Silent,
}

/// What another member told this one directly, when this one leads.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Support {
    /// Identity of its data.
    pub incarnation: Incarnation,
    /// It follows the leader of this epoch, and has not pledged against it.
    pub epoch: u64,
    /// What it said was said after this moment of our clock: it answers a message that we sent then.
    pub heard: Millis,
    /// It will not take over before this moment of our clock, whatever the store says (asked for under the empty rule).
    pub promised_until: Option<Millis>,
}

/// What is wrong with a PostgreSQL that runs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Ailment {
    /// A write on one of its volumes has not ended.
    Stalled {
        /// When it began.
        since: Millis,
        /// In which directory.
        place: String,
    },
    /// There is no room on one of its volumes.
    Full {
        /// In which directory.
        place: String,
        /// Bytes left.
        free: u64,
    },
    /// The postmaster answers no new connection.
    Deaf {
        /// Since when it has owed an answer.
        since: Millis,
    },
    /// A standby has received WAL and has not replayed any of it for seconds: its startup process hangs, waits for a
    /// query, or was paused. It may not see a change of its settings either, and so stream on.
    ReplayStill {
        /// Since when.
        since: Millis,
    },
}

/// One frozen look at everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observation {
    /// Boot clock.
    pub now: Millis,
    /// The store as last read; none before the first read.
    pub store: Option<ClusterView>,
    /// Our leader lease.
    pub lease: Option<Lease>,
    /// The data directory.
    pub data: Data,
    /// PostgreSQL.
    pub server: Server,
    /// The job under way.
    pub busy: Option<Job>,
    /// The newest job that ended.
    pub finished: Option<Finished>,
    /// The agent was asked to stop.
    pub stopping: bool,
    /// A person asked for this member's data to be made anew.
    pub reinit: bool,
    /// A person asked for a restart of this leader's PostgreSQL, and there are routers to hold new work meanwhile.
    pub restart: bool,
    /// Members whose record is alive.
    pub alive: BTreeSet<MemberName>,
    /// What is wrong with PostgreSQL although it runs.
    pub ailment: Option<Ailment>,
    /// When this process ran again after it, or its whole host, had stood still for longer than a moment; the newest time.
    pub woke: Option<Millis>,
    /// What is heard of the leader that the store names.
    pub pulse: Pulse,
    /// What the other members told us directly, newest word of each; empty unless we lead.
    pub support: BTreeMap<MemberName, Support>,
    /// The newest `sync` record this member ever saw, kept on its disk: a store that shows an older one went back in time.
    pub newest: Option<SyncRecord>,
    /// The dynamic configuration as this process last saw it.
    pub config: Option<String>,
    /// The deadline that the guard has confirmed; none when it guards nothing.
    pub guarded_until: Option<Millis>,
    /// We promised a leader under the empty rule not to take over before then; kept on disk.
    pub promised_until: Millis,
    /// Why the watchdog does not work that this host must have while its member leads; none when it works or is not needed.
    pub watchdog: Option<String>,
}

impl Observation {
    /// PostgreSQL runs and answers.
    pub fn running(&self) -> Option<&Running> {
        match &self.server {
            Server::Running(running) => Some(running),
            _ => None,
        }
    }

    /// The data directory is usable.
    pub fn facts(&self) -> Option<&DataFacts> {
        match &self.data {
            Data::Ready(facts) => Some(facts),
            _ => None,
        }
    }

    /// Identity of our data.
    pub fn incarnation(&self) -> Option<&Incarnation> {
        self.facts()?.incarnation.as_ref()
    }
}
