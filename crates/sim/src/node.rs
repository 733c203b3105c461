//! One machine of the cluster: its disk, its PostgreSQL, its agent and its guard.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use matriarch_core::decide::{Data, DataFacts, Finished, Job, Memory, Millis, Running, Server, Settings, Why};
use matriarch_core::rule::application_name;
use matriarch_core::{Incarnation, Lsn, MemberName, Timeline};

use crate::event::Event;
use crate::store::{LeaseId, View};
use crate::wal::Wal;

/// A member's place in the world's list.
pub type NodeId = usize;

/// A data directory.
#[derive(Clone, Debug)]
pub struct Dir {
    /// PostgreSQL's identity of the cluster.
    pub system: String,
    /// Identity of this copy.
    pub incarnation: Option<Incarnation>,
    /// Its log.
    pub wal: Wal,
    /// Timeline and start of the last checkpoint.
    pub checkpoint: (Timeline, Lsn),
    /// Shut down cleanly.
    pub clean: bool,
    /// Last ran as a standby.
    pub standby: bool,
    /// Made by our initdb and not announced yet.
    pub unclaimed: bool,
}

/// What is where the data directory should be.
#[derive(Clone, Debug)]
pub enum Disk {
    /// Nothing.
    Missing,
    /// Something that PostgreSQL cannot use.
    Garbage,
    /// The remains of a job of ours.
    Unfinished,
    /// A data directory.
    Ready(Box<Dir>),
}

impl Disk {
    /// The data directory, when there is a good one.
    pub fn dir(&self) -> Option<&Dir> {
        match self {
            Disk::Ready(dir) => Some(dir),
            _ => None,
        }
    }

    /// The data directory, to be changed.
    pub fn dir_mut(&mut self) -> Option<&mut Dir> {
        match self {
            Disk::Ready(dir) => Some(dir),
            _ => None,
        }
    }

    fn observe(&self) -> Data {
        match self {
            Disk::Missing => Data::Missing,
            Disk::Garbage => Data::Unusable("PG_VERSION is missing".to_owned()),
            Disk::Unfinished => Data::Unfinished,
            Disk::Ready(dir) => Data::Ready(DataFacts {
                system_identifier: dir.system.clone(),
                incarnation: dir.incarnation.clone(),
                timeline: dir.checkpoint.0,
                checkpoint: dir.checkpoint.1,
                clean: dir.clean,
                standby: dir.standby,
                unclaimed: dir.unclaimed,
            }),
        }
    }
}

/// `synchronous_standby_names`, parsed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// How many are needed.
    pub needed: usize,
    /// Application names.
    pub apps: BTreeSet<String>,
}

impl Names {
    /// Reads `ANY k ("name:inc", …)`; the empty text is asynchronous.
    pub fn parse(text: &str) -> Names {
        let Some((count, list)) = text.strip_prefix("ANY ").and_then(|rest| rest.split_once('(')) else {
            assert!(text.is_empty(), "PostgreSQL would refuse synchronous_standby_names = '{text}'");
            return Names::default();
        };
        let apps = list.trim_end_matches(')').split(',').map(|name| name.trim().trim_matches('"').to_owned()).collect();
        Names { needed: count.trim().parse().expect("a number follows ANY"), apps }
    }

    /// Nobody is waited for.
    pub fn is_empty(&self) -> bool {
        self.needed == 0
    }
}

/// The life of the server process.
///
/// ```text
/// Stopped -> Starting -> Running -> Stopping -> Stopped
///    ^----------- killed at any point ---------/
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Process {
    /// No process.
    Stopped,
    /// Recovering.
    Starting {
        /// As a primary.
        primary: bool,
    },
    /// Answering.
    Running {
        /// As a standby.
        recovery: bool,
    },
    /// Shutting down; a primary waits for its standbys once the shutdown checkpoint is written.
    Stopping {
        /// It was a standby.
        recovery: bool,
        /// Records a standby must have flushed before a primary may end.
        target: Option<usize>,
    },
}

/// A walreceiver.
#[derive(Clone, Debug)]
pub struct Receiver {
    /// Identity of the connection.
    pub conn: u64,
    /// Where it streams from.
    pub upstream: NodeId,
    /// It was told to end and will soon.
    pub ending: bool,
    /// Checks in a row that found the other side silent.
    pub silent: u32,
}

/// A walsender.
#[derive(Clone, Debug)]
pub struct Sender {
    /// Identity of the connection.
    pub conn: u64,
    /// Where it streams to.
    pub node: NodeId,
    /// Records sent.
    pub sent: usize,
    /// Records the standby has confirmed as flushed.
    pub flushed: usize,
    /// `synchronous_standby_names` that this process has loaded.
    pub names: Rc<Names>,
    /// When the newest of what was sent arrives.
    pub arrives: Millis,
    /// Checks in a row that found the other side silent.
    pub silent: u32,
}

/// A commit that waits for its acknowledgement.
#[derive(Clone, Copy, Debug)]
pub struct Waiting {
    /// Its client.
    pub client: usize,
    /// Identity of the record.
    pub uid: u64,
    /// Place of the record.
    pub index: usize,
    /// It waits for voters.
    pub synchronous: bool,
}

/// The server.
#[derive(Clone, Debug)]
pub struct Pg {
    /// New with each life of the process.
    pub generation: u64,
    /// What it does.
    pub process: Process,
    /// Settings in force.
    pub loaded: Settings,
    /// Records replayed.
    pub replayed: usize,
    /// Its walreceiver.
    pub receiver: Option<Receiver>,
    /// Its walsenders, by application name.
    pub senders: BTreeMap<String, Sender>,
    /// New backends wait for voters (the checkpointer has loaded a rule).
    pub waits: bool,
    /// Commits not yet acknowledged.
    pub waiting: Vec<Waiting>,
    /// A flush of the local log is under way up to here.
    pub flushing: usize,
    /// Promotion is under way.
    pub promoting: bool,
    /// The log that was deleted under the running server.
    pub open_files: Option<Wal>,
}

impl Pg {
    fn new() -> Pg {
        Pg {
            generation: 0,
            process: Process::Stopped,
            loaded: Settings::default(),
            replayed: 0,
            receiver: None,
            senders: BTreeMap::new(),
            waits: false,
            waiting: Vec::new(),
            flushing: 0,
            promoting: false,
            open_files: None,
        }
    }

    /// Ends the process, however.
    pub fn end(&mut self) {
        let generation = self.generation + 1;
        *self = Pg { generation, ..Pg::new() };
    }

    /// It accepts writes.
    pub fn writable(&self) -> bool {
        self.process == Process::Running { recovery: false }
    }

    /// It can send WAL to others.
    pub fn sends(&self) -> bool {
        matches!(self.process, Process::Running { .. } | Process::Stopping { recovery: false, .. })
    }

    /// It is a running standby.
    pub fn standby(&self) -> bool {
        self.process == Process::Running { recovery: true }
    }

    /// `k`-th greatest confirmed position among those who count.
    pub fn quorum(&self, needed: usize) -> Option<usize> {
        let mut flushed: Vec<usize> = self
            .senders
            .iter()
            .filter(|(app, sender)| sender.names.apps.contains(*app))
            .map(|(_, sender)| sender.flushed)
            .collect();
        flushed.sort_unstable_by(|a, b| b.cmp(a));
        flushed.get(needed.checked_sub(1)?).copied()
    }
}

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
    /// The newest job that ended.
    pub finished: Option<Finished>,
    /// It was asked to stop.
    pub stopping: bool,
    /// Its data is to be made anew.
    pub reinit: bool,
    /// It has looked and is about to decide.
    pub deciding: bool,
    /// Something happened meanwhile.
    pub look_again: bool,
    /// When it looks next.
    pub probe_at: Option<Millis>,
    /// Its member record as last sent.
    pub announced: Option<String>,
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
}

/// One member.
#[derive(Debug)]
pub struct Node {
    /// Its name.
    pub name: MemberName,
    /// Its data.
    pub disk: Disk,
    /// Settings in the include file.
    pub settings: Settings,
    /// Its server.
    pub pg: Pg,
    /// Its agent.
    pub agent: Agent,
    /// When the guard kills PostgreSQL.
    pub deadline: Option<Millis>,
    /// The machine runs.
    pub powered: bool,
    /// The whole machine stands still.
    pub frozen: bool,
    /// Only the agent stands still.
    pub agent_frozen: bool,
    /// What happens once it moves again.
    pub deferred: Vec<Event>,
    /// It cannot reach the store.
    pub cut_off: bool,
    /// How long a flush takes at least.
    pub slow_disk: Option<Millis>,
    /// The newest epoch in which it was made leader.
    pub led_epoch: u64,
    /// Never to be leader.
    pub nofailover: bool,
}

impl Node {
    /// A machine with nothing on it.
    pub fn new(name: MemberName) -> Node {
        Node {
            name,
            disk: Disk::Missing,
            settings: Settings::default(),
            pg: Pg::new(),
            agent: Agent::default(),
            deadline: None,
            powered: true,
            frozen: false,
            agent_frozen: false,
            deferred: Vec::new(),
            cut_off: false,
            slow_disk: None,
            led_epoch: 0,
            nofailover: false,
        }
    }

    /// It runs and is not frozen.
    pub fn moves(&self) -> bool {
        self.powered && !self.frozen
    }

    /// What it calls itself when it streams.
    pub fn app(&self) -> Option<String> {
        Some(application_name(&self.name, self.disk.dir()?.incarnation.as_ref()?))
    }

    /// Its log, when it has data.
    pub fn wal(&self) -> Option<&Wal> {
        self.disk.dir().map(|dir| &dir.wal)
    }

    /// What the agent sees when it looks now.
    pub fn look(&self) -> Snapshot {
        Snapshot {
            server: self.server(),
            data: self.disk.observe(),
            busy: self.agent.job.as_ref().map(|(_, job)| job.clone()),
            finished: self.agent.finished.clone(),
        }
    }

    fn server(&self) -> Server {
        let recovery = match self.pg.process {
            Process::Stopped => return Server::Stopped,
            Process::Starting { .. } | Process::Stopping { .. } => return Server::Unready,
            Process::Running { recovery } => recovery,
        };
        // A server whose files were deleted goes on for a while with those it has open.
        let empty = Wal::default();
        let wal = self.wal().or(self.pg.open_files.as_ref()).unwrap_or(&empty);
        let receiver = self.pg.receiver.as_ref();
        let replicas =
            self.pg.senders.iter().map(|(app, sender)| (app.clone(), wal.end(sender.flushed.min(wal.len()))));
        Server::Running(Running {
            in_recovery: recovery,
            timeline: wal.timeline(if recovery { wal.flushed } else { wal.len() }),
            lsn: wal.end(if recovery { wal.flushed } else { wal.len() }),
            receiving: receiver.is_some(),
            streaming: receiver.is_some_and(|receiver| !receiver.ending),
            caught_up: self.pg.replayed >= wal.len(),
            upstream: self.pg.loaded.upstream.clone(),
            synchronous_standby_names: self.pg.loaded.synchronous_standby_names.clone(),
            replicas: if recovery { BTreeMap::new() } else { replicas.collect() },
        })
    }
}
