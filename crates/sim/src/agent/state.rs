//! What an agent process knows: gone with it.

use std::collections::BTreeMap;
use std::rc::Rc;

use matriarch_core::decide::{
    Barrier, ClusterView, Data, Finished, Job, Memory, Millis, Server, Settings, Stance, Why,
};
use matriarch_core::record::SyncRecord;
use matriarch_core::settling::Settling;

use super::announce::Facts;
use crate::heartbeat::Ear;
use crate::store::{LeaseId, View};

/// The lease as the agent knows it.
#[derive(Clone, Copy, Debug)]
pub struct HeldLease {
    /// Its identity in the store.
    pub id: LeaseId,
    /// When the newest successful renewal was sent.
    pub renewed: Millis,
}

/// A change of the store that has been sent.
#[derive(Clone, Copy, Debug)]
pub struct Pending {
    /// Which request.
    pub request: u64,
    /// The lease it brings if it succeeds.
    pub lease: Option<HeldLease>,
}

/// What the agent saw when it looked at PostgreSQL.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// When it looked.
    pub begun: Millis,
    /// The server.
    pub server: Server,
    /// The data directory.
    pub data: Data,
    /// The job under way.
    pub busy: Option<Job>,
    /// The newest job that ended.
    pub finished: Option<Finished>,
}

/// The agent process.
#[derive(Debug, Default)]
pub struct Agent {
    /// New with each process.
    pub generation: u64,
    /// There is a process.
    pub alive: bool,
    /// What `decide` remembers.
    pub memory: Memory,
    /// For a mutation: the barriers that were passed.
    pub barriers: BTreeMap<String, Barrier>,
    /// For a mutation: the newest `sync` record that this very process has seen.
    pub newest: Option<SyncRecord>,
    /// The store as last read.
    pub view: Option<Rc<View>>,
    /// The leader lease.
    pub lease: Option<HeldLease>,
    /// A lease whose transaction was never answered.
    pub maybe: Option<HeldLease>,
    /// The change under way.
    pub pending: Option<Pending>,
    /// The renewal under way: its request, and when it was sent.
    pub renewing: Option<(u64, Millis)>,
    /// The job under way.
    pub job: Option<(u64, Job)>,
    /// The job's work on the data directory is complete, though it has not been told so.
    pub work_done: bool,
    /// The newest job that ended.
    pub finished: Option<Finished>,
    /// Settings on their way to a running server; others have to wait.
    pub configuring: Option<Settings>,
    /// Settings that it asked for last.
    pub configured: Option<Settings>,
    /// Whether what it sees of the upstream is all there is.
    pub settling: Settling,
    /// It was asked to stop.
    pub stopping: bool,
    /// Its data is to be made anew.
    pub reinit: bool,
    /// It has looked and is about to decide.
    pub deciding: bool,
    /// Something happened meanwhile.
    pub look_again: bool,
    /// What it was last shown of the store, and by which reading, unless something else was put in its place.
    pub(super) shown: Option<(Rc<View>, ClusterView)>,
    /// When it looks next.
    pub probe_at: Option<Millis>,
    /// Its member record as last sent.
    pub announced: Option<String>,
    /// What it was made of.
    pub facts: Option<Facts>,
    /// The write of the member record under way.
    pub announcing: Option<u64>,
    /// The record has changed since it was sent.
    pub announce_again: bool,
    /// The member lease.
    pub member_lease: Option<LeaseId>,
    /// Why it did what it did last.
    pub why: Option<Why>,
    /// What stands in its way.
    pub problem: Option<String>,
    /// What it tells the others.
    pub stance: Stance,
    /// It asks the others to promise not to take over.
    pub asks_promise: bool,
    /// What the others told it.
    pub ear: Ear,
}
