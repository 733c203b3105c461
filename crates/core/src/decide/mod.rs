//! The decision: one frozen observation in; actions, memory, the next wake-up and a reason out.
//!
//! ```text
//! who leads, says the store?
//!   another program   -> adopt       (wait until it is gone, found over its records)
//!   nobody ever       -> bootstrap   (claim, initdb, found)
//!   I                 -> lead        (lease, rule, switchover, crash)
//!   another           -> follow      (start, stream, rewind, clone)
//!   another, suspect  -> elect       (under a rule: the fence needs no lease to have ended)
//!   nobody now        -> elect       (stop receiving, pledge, take over)
//! ```
//!
//! A host that stood still leaves things as it found them for a moment (`waking`).

mod action;
mod adopt;
mod ailing;
mod authority;
mod ballot;
mod bootstrap;
mod candidates;
mod elect;
mod follow;
mod lead;
mod loss;
mod observation;
mod pledge;
mod regress;
mod restart;
mod switchover;
mod takeover;
mod turn;
mod vacancy;
mod voters;
mod waking;
mod zones;

use std::collections::BTreeMap;

pub use action::{Action, Change, Decision, Purpose, Settings, Stance, Why};
pub use observation::{
    Ailment, ClusterView, CrashPolicy, Data, DataFacts, Evidence, Finished, Job, JobFailure, LeaderKey, Lease, Millis,
    Observation, Policy, Pulse, Running, Server, Support, Synchronous, Zones,
};
pub use turn::{RETRY_STEPS, TICK};
pub use waking::WAKING;

use crate::lsn::{Lsn, Timeline};
use crate::name::MemberName;
use crate::rule::Rule;
use turn::Turn;

/// What one call wants the next one to know. Losing it (an agent restart) costs time, never safety.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Memory {
    /// When this agent first decided.
    pub started: Option<Millis>,
    /// Since when nobody leads.
    pub leaderless_since: Option<Millis>,
    /// Since when we could take over, but others are better placed.
    pub outranked_since: Option<Millis>,
    /// Since when we do not stream although a leader is ready.
    pub not_streaming_since: Option<Millis>,
    /// Since when a ready leader has owed the end of our timeline.
    pub history_awaited: Option<Millis>,
    /// Position that voters must reach before a rule counts as enforced.
    pub barrier: Option<Barrier>,
    /// A rule that was sent for publication after PostgreSQL had begun to enforce it.
    pub proposed: Option<Proposed>,
    /// Since when a voter does not stream.
    pub missing_since: BTreeMap<MemberName, Millis>,
    /// The planned switchover under way.
    pub switching: Option<Switching>,
    /// The restart under way for which routers hold new work.
    pub restarting: Option<Restarting>,
    /// The last remedy that was found necessary to follow the leader.
    pub remedy: Remedy,
    /// The epoch for which a rewind was done (or found unnecessary).
    pub rewound: Option<u64>,
    /// Failures of one job in a row.
    pub failures: Option<Failures>,
    /// How often PostgreSQL was started as a replica since it last streamed.
    pub starts: u32,
    /// Since when PostgreSQL of this leader does not answer.
    pub unready_since: Option<Millis>,
    /// PostgreSQL of this leader has answered since it was last started.
    pub answered: bool,
    /// When a move off a full volume was last asked for.
    pub moved_off: Option<Millis>,
    /// It took too long: the lead is given up once it is stopped.
    pub start_overdue: bool,
    /// `finished.at` of the newest job already taken into account.
    pub accounted: Option<Millis>,
    /// The newest timeline that a promotion of ours may have opened without success: no other may open it.
    pub timeline_used: Timeline,
    /// What is known of pledges of ours that may still be under way.
    pub pledging: Pledging,
    /// A rule that was sent for publication and is enforced once published; it may have landed without our knowing.
    pub announced: Option<Proposed>,
    /// When the lease would have ended that was given up to write the records of a store anew that went back in time; none
    /// once they are there.
    pub given_up: Option<Millis>,
    /// The names of our primary, where the loss of a zone must lose nothing.
    pub names: Option<Names>,
}

/// See [`Memory::names`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Names {
    /// `synchronous_standby_names` in force.
    pub loaded: String,
    /// Those that PostgreSQL was last told of.
    pub asked: String,
    /// When either of them last changed.
    pub since: Millis,
}

/// See [`Memory::pledging`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Pledging {
    /// The newest epoch seen.
    pub epoch: Option<u64>,
    /// Pledges of ours against it.
    pub doubt: Doubt,
}

/// Whether pledges of ours stand, or may be under way to the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Doubt {
    /// An earlier process of this agent may have sent one.
    #[default]
    Unknown,
    /// The newest that we sent, pledge or withdrawal, compared our key at this revision (it was absent when none). Once
    /// the key shows another, nothing sent before can land any more.
    Sent(Option<u64>),
    /// There is none.
    Clear,
}

/// See [`Memory::barrier`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Barrier {
    /// `synchronous_standby_names` it was taken under.
    pub names: String,
    /// Since when they are in force.
    pub since: Millis,
    /// They have been in force for long enough that every process of PostgreSQL has loaded them.
    pub settled: bool,
    /// The position, taken after that.
    pub lsn: Option<Lsn>,
}

/// See [`Memory::proposed`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Proposed {
    /// Revision of `sync` that it compares: once that has changed it has landed, or never will.
    pub revision: u64,
    /// The rule.
    pub rule: Rule,
}

/// A planned switchover, seen from the leader.
///
/// ```text
/// Checkpointing -> Holding -> Settling -> Stopping -> released in the store
///        \            |           |
///         \-----> called off <----/
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Switching {
    /// Since when.
    pub since: Millis,
    /// To whom.
    pub candidate: MemberName,
    /// How far.
    pub phase: Phase,
    /// Since when this phase lasts.
    pub phase_since: Millis,
}

/// The restart of a leader's PostgreSQL, with the phases of a switchover; its PostgreSQL starts again after it has stopped.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Restarting {
    /// How far.
    pub phase: Phase,
    /// Since when this phase lasts.
    pub phase_since: Millis,
}

/// See [`Switching`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// A checkpoint makes the stop short.
    Checkpointing,
    /// Routers are told to hold new work, and say that they do.
    Holding,
    /// The transactions that routers do not know of end.
    Settling,
    /// PostgreSQL stops.
    Stopping,
}

/// What a member that cannot follow does about it, mildest first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Remedy {
    /// Nothing is wrong.
    #[default]
    None,
    /// Undo what the leader does not have.
    Rewind,
    /// Copy everything again.
    Clone,
}

/// Failures of one job in a row.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Failures {
    /// Which job.
    pub job: Job,
    /// How many.
    pub count: u32,
    /// The newest one.
    pub last: Millis,
    /// What it said.
    pub message: String,
    /// Trying the same again cannot help.
    pub hopeless: bool,
}

/// Decides what this member does now. Pure: the same arguments always give the same decision.
pub fn decide(policy: &Policy, memory: &Memory, observation: &Observation) -> Decision {
    let mut turn = Turn::new(policy, memory, observation);
    let why = turn.decide();
    turn.finish(why)
}
