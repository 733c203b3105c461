//! One state of the modelled cluster: small, hashable, without any clock.

use std::sync::Arc;

use matriarch_core::Timeline;
use matriarch_core::decide::{Job, Memory, Purpose, Stance};
use matriarch_core::record::{FailoverRequest, Pledge, SyncRecord, Versioned};

use crate::check::{Ledger, Violation};
use crate::setup::Budget;
use crate::shared::Shared;

/// A member, by number; its name is [`name`].
pub type Id = u8;

/// Members are called a, b, c, …
pub fn name(id: Id) -> &'static str {
    ["a", "b", "c", "d", "e"][id as usize]
}

/// The number of a name.
pub fn id(name: &str) -> Id {
    name.bytes().next().expect("names are letters") - b'a'
}

/// Everything there is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// The store.
    pub records: Shared<Records>,
    /// An older content of the store, which may come back.
    pub saved: Option<Shared<Records>>,
    /// Members by number.
    pub members: Vec<Shared<Member>>,
    /// Requests on their way to the store; they land in any order, late, or never.
    pub flight: Vec<Arc<Request>>,
    /// What clients were told.
    pub ledger: Ledger,
    /// Faults and other costly steps that may still happen.
    pub left: Budget,
    /// The next data directory's identity.
    pub incarnations: u8,
    /// What went wrong.
    pub violation: Option<Violation>,
}

/// What the store holds. Revisions count per key and are renumbered, since only their order and equality matter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Records {
    /// `initialize` holds the cluster's identity; its revision.
    pub initialize: Option<u64>,
    /// `leader`.
    pub leader: Option<Leader>,
    /// `sync`.
    pub sync: Option<Versioned<Arc<SyncRecord>>>,
    /// `pledges/*`.
    pub pledges: Vec<Option<Versioned<Pledge>>>,
    /// `failover`.
    pub failover: Option<Versioned<Arc<FailoverRequest>>>,
    /// `history`: timelines that ended, and where.
    pub history: Vec<(Timeline, u64)>,
}

/// The `leader` key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Leader {
    /// Who.
    pub name: Id,
    /// Revision.
    pub revision: u64,
    /// The lease it is bound to.
    pub lease: u64,
    /// Ticks until the lease ends, where time is counted at all.
    pub left: u8,
}

/// A key that transactions compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// `initialize`.
    Initialize,
    /// `leader`.
    Leader,
    /// `sync`.
    Sync,
    /// `failover`.
    Failover,
    /// `pledges/<name>`.
    Pledge(Id),
    /// No key: leases are numbered with the same care.
    Lease,
}

/// What a transaction writes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// `initialize`.
    Initialize,
    /// `leader`, bound to the request's lease.
    Leader(Id),
    /// `leader` is deleted.
    NoLeader,
    /// `sync`.
    Sync(Arc<SyncRecord>),
    /// A pledge.
    Pledge(Id, Pledge),
    /// `failover` is deleted.
    NoFailover,
}

/// A transaction on its way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Request {
    /// The sender.
    pub from: Id,
    /// The sender still waits for the answer.
    pub awaited: bool,
    /// What for.
    pub purpose: Purpose,
    /// Revision of each key, none where it must be absent.
    pub compares: Vec<(Key, Option<u64>)>,
    /// Effects.
    pub writes: Vec<Effect>,
    /// The lease that comes with it.
    pub lease: Option<u64>,
    /// Ticks since it was sent, where time is counted at all.
    pub age: u8,
    /// A renewal has reached the store, and its answer is on the way back.
    pub answered: bool,
}

/// One member: agent, data directory, PostgreSQL.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Member {
    /// What `decide` remembers, with times that are either now or long ago.
    pub memory: Arc<Memory>,
    /// The store as last read while it does not answer, or while the watch is late; else it is read as it is.
    pub view: Option<Shared<Records>>,
    /// The leader lease, as this process believes.
    pub lease: Option<Held>,
    /// A lease whose transaction was never answered.
    pub maybe: Option<u64>,
    /// The job under way.
    pub busy: Option<Job>,
    /// The job that has just ended.
    pub finished: Option<Ended>,
    /// What is heard of the leader.
    pub suspects: bool,
    /// The agent was asked to stop.
    pub stopping: bool,
    /// The store does not answer this member.
    pub away: bool,
    /// What it saw earlier, should its watch go back.
    pub relapse: Option<Shared<Records>>,
    /// Whom a copy or a rewind under way reads from.
    pub source: Option<Id>,
    /// What only counts where time is counted.
    pub timed: Timed,
    /// The newest `sync` record it ever saw; on its disk.
    pub newest: Option<Arc<SyncRecord>>,
    /// The data directory.
    pub dir: Option<Dir>,
    /// Settings as written.
    pub file: Conf,
    /// PostgreSQL.
    pub pg: Pg,
}

/// Deadlines of a member in ticks, and what its agent says to the others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Timed {
    /// Until the guard, which outlives the agent, ends PostgreSQL.
    pub guarded: u8,
    /// The guard has fired: it ends whatever starts, until it has a deadline to come or is disarmed.
    pub fired: bool,
    /// Until it may take over from a leader that it promised not to; on its disk.
    pub promised: u8,
    /// Promises that this process was given, by member.
    pub promises: Vec<u8>,
    /// Where its agent stands.
    pub stance: Stance,
    /// Its agent asks for promises.
    pub asks: bool,
}

/// A job that has ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Ended {
    /// Which.
    pub job: Job,
    /// It was given up on, or refused.
    pub failed: bool,
}

/// A lease as its holder knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Held {
    /// Its identity.
    pub id: u64,
    /// Ticks until its holder holds it to be over, where time is counted at all.
    pub left: u8,
}

/// One WAL record; never written twice by honest members.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Record {
    /// Timeline.
    pub timeline: Timeline,
    /// Who wrote it.
    pub author: Id,
    /// 0 for a promotion or a checkpoint, else the number of a commit.
    pub commit: u8,
}

/// A data directory. Everything in its WAL is flushed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Dir {
    /// Identity of this copy.
    pub incarnation: u8,
    /// Its WAL.
    pub wal: Vec<Record>,
    /// The last checkpoint: timeline, and records before it.
    pub checkpoint: (Timeline, u64),
    /// Shut down cleanly.
    pub clean: bool,
    /// Last ran as a standby.
    pub standby: bool,
}

/// Settings that decisions own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Conf {
    /// `primary_conninfo`.
    pub upstream: Option<Id>,
    /// `synchronous_standby_names`.
    pub names: Arc<Names>,
}

/// `synchronous_standby_names`, as text and understood.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Names {
    /// As written.
    pub text: String,
    /// How many must have flushed.
    pub needed: usize,
    /// Who counts.
    pub apps: Vec<String>,
}

/// The life of PostgreSQL.
///
/// ```text
/// Stopped -> Standby -> Primary -> Stopping (shutdown checkpoint written) -> Stopped
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Process {
    /// No process.
    #[default]
    Stopped,
    /// Follows, or follows nobody.
    Standby,
    /// Accepts writes.
    Primary,
    /// Has written its shutdown checkpoint and waits for standbys.
    Stopping,
}

/// PostgreSQL's processes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Pg {
    /// Its life.
    pub process: Process,
    /// Settings in force.
    pub loaded: Conf,
    /// A promotion is under way, to this timeline: history files keep all numbers below it from being taken.
    pub promoting: Option<Timeline>,
    /// The walreceiver: from whom.
    pub receiver: Option<Id>,
    /// The walsenders.
    pub senders: Vec<Sender>,
    /// Commits whose sessions wait, as bits.
    pub waiting: u16,
    /// The epoch that it was made primary in.
    pub led: u64,
}

/// A walsender.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Sender {
    /// To whom.
    pub to: Id,
    /// Identity of the data there when it connected.
    pub incarnation: u8,
    /// Records that the standby has confirmed.
    pub confirmed: usize,
    /// What its newest confirmation, still under way, says.
    pub under_way: usize,
    /// `synchronous_standby_names` that this process has loaded.
    pub names: Arc<Names>,
    /// The walreceiver at the other end lives.
    pub alive: bool,
}

impl Dir {
    /// Timeline at the end of the WAL.
    pub fn timeline(&self) -> Timeline {
        self.wal.last().map_or(1, |record| record.timeline)
    }

    /// Past timelines and where each ended.
    pub fn history(&self) -> Vec<(Timeline, u64)> {
        let mut forks = Vec::new();
        for (place, pair) in self.wal.windows(2).enumerate() {
            if pair[0].timeline != pair[1].timeline {
                forks.push((pair[0].timeline, place as u64 + 1));
            }
        }
        forks
    }

    /// The WAL holds this commit.
    pub fn holds(&self, commit: u8) -> bool {
        self.wal.iter().any(|record| record.commit == commit)
    }

    /// Whether a server with this WAL streams to one that stands at the end of `other`, judged as PostgreSQL does: by
    /// numbers, not by content.
    pub fn serves(&self, other: &Dir) -> bool {
        let timeline = other.timeline();
        let end = self.wal.iter().rposition(|record| record.timeline == timeline).map(|last| last + 1);
        end.is_some_and(|end| other.wal.len() <= end) || (other.wal.is_empty() && timeline == 1)
    }
}

impl Names {
    /// Reads `ANY k ("name:inc", …)`.
    pub fn parse(text: &str) -> Names {
        let Some((count, list)) = text.strip_prefix("ANY ").and_then(|rest| rest.split_once('(')) else {
            assert!(text.is_empty(), "PostgreSQL would refuse synchronous_standby_names = '{text}'");
            return Names::default();
        };
        let apps = list.trim_end_matches(')').split(',').map(|name| name.trim().trim_matches('"').to_owned()).collect();
        Names { text: text.to_owned(), needed: count.trim().parse().expect("a number follows ANY"), apps }
    }
}

impl Records {
    /// Who leads.
    pub fn leads(&self) -> Option<Id> {
        self.leader.as_ref().map(|leader| leader.name)
    }
}

impl Member {
    /// Looks at the store again: whoever was suspected leads no more.
    pub fn look(&mut self, records: &Records) {
        if let Some(view) = self.view.take()
            && view.leads() != records.leads()
        {
            self.suspects = false;
        }
    }
}

impl State {
    /// A member, to be changed.
    pub fn member(&mut self, id: Id) -> &mut Member {
        self.members[id as usize].edit()
    }

    /// The store as this member reads it.
    pub fn view(&self, id: Id) -> &Shared<Records> {
        self.at(id).view.as_ref().unwrap_or(&self.records)
    }

    /// A member.
    pub fn at(&self, id: Id) -> &Member {
        &self.members[id as usize]
    }

    /// The store, to be changed.
    pub fn store(&mut self) -> &mut Records {
        self.records.edit()
    }

    /// The newest `sync` record.
    pub fn sync(&self) -> Option<&SyncRecord> {
        self.records.sync.as_ref().map(|sync| sync.value.as_ref())
    }

    /// Nothing more is changed in it.
    pub fn seal(&mut self) {
        self.records.seal();
        self.saved.iter_mut().for_each(Shared::seal);
        for member in &mut self.members {
            let views = [&member.view, &member.relapse];
            if views.into_iter().flatten().any(|view| !view.sealed()) {
                let member = member.edit();
                member.view.iter_mut().chain(&mut member.relapse).for_each(Shared::seal);
            }
            member.seal();
        }
    }

    /// Every member.
    pub fn ids(&self) -> std::ops::Range<Id> {
        0..self.members.len() as Id
    }
}
