//! What can happen, and to whom.

use std::rc::Rc;

use matriarch_core::decide::{JobFailure, Purpose};
use matriarch_core::lsn::{Lsn, Timeline};
use matriarch_core::transaction::Txn;

use crate::agent::Snapshot;
use crate::fault::Fault;
use crate::node::NodeId;
use crate::store::{LeaseId, Leases, View};
use crate::wal::Record;

/// One thing that happens at one moment.
#[derive(Clone, Debug)]
pub enum Event {
    /// To an agent process; void when that process is gone.
    Agent(NodeId, u64, AgentEvent),
    /// To a server process; void when that process is gone.
    Pg(NodeId, u64, PgEvent),
    /// The guard looks at the clock.
    Guard(NodeId),
    /// A watchdog has counted to its end since this kick.
    WatchdogEnds(NodeId, u64),
    /// A request reaches the store.
    Request(Box<Request>),
    /// A lease may have ended.
    LeaseEnd(LeaseId),
    /// The router has heard of a change of the store.
    Router,
    /// The program that kept the cluster looks at everything.
    Others,
    /// A client writes.
    Client(usize),
    /// A fault ends.
    Heal(Fault),
    /// A fault begins.
    Inject(Fault),
    /// The checker looks at everything.
    Check,
}

/// See [`Event::Agent`].
#[derive(Clone, Debug)]
pub enum AgentEvent {
    /// It looks at PostgreSQL.
    Probe,
    /// It decides on what it saw.
    Decide(Box<Snapshot>),
    /// It has written settings and told PostgreSQL to load them.
    Configured,
    /// A job that it does itself has got this far.
    Work(u64),
    /// The start of PostgreSQL that a job is about is held up no longer.
    StartHeld(u64),
    /// A job has ended.
    JobEnd(u64, Option<JobFailure>),
    /// The store answered a change: whether it was applied, and the store after it.
    Answer(u64, bool, Rc<View>),
    /// The store answered a renewal: whether the lease lives.
    Renewed(u64, bool),
    /// The store answered that the member record is written.
    Announced(u64),
    /// No answer came.
    Timeout(u64),
    /// The watch brings news.
    View(Rc<View>),
    /// It reads the store, until that works.
    Read,
    /// It renews its member lease and writes the status.
    Housekeeping,
    /// It tells the other agents where it stands, and takes in what they told.
    Beat,
    /// Its connections to a member were reset, and that one refuses new ones.
    Reset(NodeId),
}

/// See [`Event::Pg`].
#[derive(Clone, Debug)]
pub enum PgEvent {
    /// Recovery has reached consistency.
    Started,
    /// Local WAL has been replayed.
    Replayed(usize),
    /// The settings file is loaded.
    Reload,
    /// The agent's session has loaded the settings.
    SessionReload,
    /// One walsender has loaded the settings.
    SenderReload(u64),
    /// The checkpointer has loaded the settings.
    CheckpointerReload,
    /// A promotion ends.
    Promoted,
    /// A checkpoint ends.
    Checkpointed,
    /// The shutdown checkpoint is written.
    ShutdownCheckpoint,
    /// A shutdown waits no longer.
    ShutdownDeadline,
    /// A standby has shut down, or a primary has sent everything.
    Ended,
    /// A standby tries to connect.
    Connect,
    /// A walreceiver has ended.
    ReceiverEnd(u64),
    /// A walsender notices that the other side is gone.
    SenderEnd(u64),
    /// WAL arrives: connection, index of the first record, records.
    Data(u64, usize, Vec<Record>),
    /// A standby has flushed.
    StandbyFlushed(u64, usize),
    /// A confirmation arrives.
    Confirm(u64, usize),
    /// A primary has flushed.
    Flushed(usize),
    /// Both ends of streams look for silence.
    Timeouts,
    /// PostgreSQL notices that its files are gone.
    Panic,
}

/// A request under way to the store.
#[derive(Clone, Debug)]
pub struct Request {
    /// Its number.
    pub id: u64,
    /// Who asks.
    pub node: NodeId,
    /// Which process of it.
    pub generation: u64,
    /// What.
    pub ask: Ask,
    /// The answer gets lost.
    pub unanswered: bool,
    /// The life of the store it was sent to.
    pub life: u64,
}

/// What a request asks for.
#[derive(Clone, Debug)]
pub enum Ask {
    /// Grant a lease first when one is named, then apply.
    Commit {
        /// Why.
        purpose: Purpose,
        /// What.
        txn: Txn,
        /// A new leader lease.
        grant: Option<LeaseId>,
        /// Leases it binds to.
        leases: Leases,
    },
    /// Renew the leader lease.
    Renew(LeaseId),
    /// Renew the member lease, granting it when needed, and write the record when it changed.
    Announce {
        /// The lease.
        lease: LeaseId,
        /// Key and value of the record.
        record: Option<(String, String)>,
        /// Position to note as the leader's.
        position: Option<(Timeline, Lsn)>,
    },
    /// End a lease.
    Revoke(LeaseId),
}
