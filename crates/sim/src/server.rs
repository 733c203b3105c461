//! The state of a simulated server: its process, both ends of its streams, and the commits that wait.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use matriarch_core::decide::{Millis, Settings};
use matriarch_core::{MemberName, Timeline};

use crate::node::NodeId;
use crate::wal::Wal;

/// `synchronous_standby_names`, parsed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// How many are needed.
    pub needed: usize,
    /// Application names.
    pub apps: BTreeSet<String>,
}

impl Names {
    /// Reads `ANY k ("name:inc", …)`, or `FIRST`; the empty text is asynchronous. `FIRST` counts as `ANY` here, which
    /// acknowledges whatever it would, and sooner.
    pub fn parse(text: &str) -> Names {
        let method = text.strip_prefix("ANY ").or_else(|| text.strip_prefix("FIRST "));
        let Some((count, list)) = method.and_then(|rest| rest.split_once('(')) else {
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
    /// The guard has stopped it where it is.
    pub held: bool,
    /// Another program, or a person, has started it, or pointed it last: nothing of ours is in its settings.
    pub by_others: bool,
    /// Settings in force.
    pub loaded: Settings,
    /// The upstream as the agent's session has loaded it, which may be before or after those whom it concerns.
    pub shown: Option<MemberName>,
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
    /// It has streamed from somebody since it started.
    pub received: bool,
    /// A flush of the local log is under way up to here.
    pub flushing: usize,
    /// Promotion is under way, to this timeline.
    pub promoting: Option<Timeline>,
    /// When it opens that: its history is written, and nothing else yet.
    pub opens: Millis,
    /// The log that was deleted under the running server.
    pub open_files: Option<Wal>,
}

impl Pg {
    /// No process.
    pub(crate) fn new() -> Pg {
        Pg {
            generation: 0,
            process: Process::Stopped,
            held: false,
            by_others: false,
            loaded: Settings::default(),
            shown: None,
            replayed: 0,
            receiver: None,
            senders: BTreeMap::new(),
            waits: false,
            waiting: Vec::new(),
            received: false,
            flushing: 0,
            promoting: None,
            opens: 0,
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
        self.process == Process::Running { recovery: false } && !self.held
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
