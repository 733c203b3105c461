//! Where a search begins, and what may happen in it.

use std::sync::Arc;

use matriarch_core::decide::{CrashPolicy, Memory, Policy, Synchronous};
use matriarch_core::record::{Pledge, SyncRecord, Versioned};
use matriarch_core::rule::Rule;
use matriarch_core::{Incarnation, Lsn, MemberName};

use crate::agent::{LONG_AGO, TTL};
use crate::check::Ledger;
use crate::decided::Decisions;
use crate::mutation::Mutation;
use crate::shared::Shared;
use crate::state::{
    Conf, Dir, Held, Id, Leader, Member, Names, Pg, Process, Record, Records, Sender, State, Timed, name,
};

/// How often each kind of fault may still happen. What costs nothing may happen at any time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Budget {
    /// Commits of clients.
    pub writes: u8,
    /// The store ends the leader's lease.
    pub expiries: u8,
    /// Something that is usually prompt comes late: a request, an answer, a reload, a confirmation, a watch.
    pub delays: u8,
    /// A renewal of the lease, or its answer, is under way for long, where time is counted.
    pub renewals: u8,
    /// PostgreSQL dies.
    pub crashes: u8,
    /// The agent process ends and starts again.
    pub restarts: u8,
    /// A data directory is lost.
    pub wipes: u8,
    /// A data directory is replaced by a backup from before the first commit.
    pub backups: u8,
    /// A data directory is copied from the leader, or rewound.
    pub copies: u8,
    /// A stream breaks.
    pub cuts: u8,
    /// A suspicion is raised.
    pub suspicions: u8,
    /// An agent is asked to stop.
    pub stops: u8,
    /// The store comes back with an older content.
    pub restores: u8,
    /// The store does not answer the leader for a while.
    pub outages: u8,
    /// A person accepts that acknowledged commits are lost.
    pub overrides: u8,
    /// A watch goes back: a member is shown the store older than it has seen it already.
    pub relapses: u8,
}

/// One search.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Members, of which the first leads.
    pub members: u8,
    /// Voters of the rule in force at the start.
    pub voters: Vec<Id>,
    /// Voters needed by the rule that people want; 0 is asynchronous.
    pub needed: u32,
    /// Voters needed by the rule in force at the start.
    pub needed_at_first: u32,
    /// Rather block than go below that.
    pub strict: bool,
    /// What a leader does when its PostgreSQL dies.
    pub crash: CrashPolicy,
    /// Only the leader is counted as a member at the start.
    pub lone: bool,
    /// Time passes in ticks and leases mean something; else the store may end a lease whenever it likes.
    pub clocked: bool,
    /// What may happen.
    pub budget: Budget,
    /// A rule taken away.
    pub mutation: Option<Mutation>,
    /// What was decided in this search.
    pub decisions: Decisions,
}

impl Setup {
    /// Three members under `ANY 1 (b, c)`.
    pub fn three(budget: Budget) -> Setup {
        Setup::quorum(3, budget)
    }

    /// A pair under the empty rule, where only leases keep two leaders apart.
    pub fn asynchronous(budget: Budget) -> Setup {
        let voters = Vec::new();
        Setup { voters, needed: 0, needed_at_first: 0, clocked: true, ..Setup::quorum(2, budget) }
    }

    /// A cluster of `members` under `ANY 1` of all its standbys.
    pub fn quorum(members: u8, budget: Budget) -> Setup {
        Setup {
            members,
            voters: (1..members).collect(),
            needed: 1,
            needed_at_first: 1,
            strict: false,
            crash: CrashPolicy::Failover,
            lone: false,
            clocked: false,
            budget,
            mutation: None,
            decisions: Decisions::default(),
        }
    }

    /// The policy of a member.
    pub fn policy(&self, me: Id) -> Policy {
        Policy {
            me: member_name(me),
            ttl: TTL,
            paused: false,
            crash: self.crash,
            synchronous: Synchronous { needed: self.needed, strict: self.strict, ..Synchronous::default() },
            shrink_delay: 2000,
            maximum_lag_on_failover: 1 << 20,
            start_timeout: 300_000,
            stall_limit: None,
            use_rewind: true,
            clone_after_rewind: true,
            clone_diverged: true,
            may_lead: true,
            from_archive: false,
            bootstrap_config: None,
            zone: None,
            hold_timeout: 30_000,
        }
    }

    /// The first member leads, the others stream from it and hold all it has.
    pub fn start(&self) -> State {
        let rule = Rule {
            voters: self.voters.iter().map(|id| (member_name(*id), incarnation(*id))).collect(),
            needed: self.needed_at_first.min(self.voters.len() as u32),
            ..Rule::default()
        };
        let names = Arc::new(Names::parse(&rule.synchronous_standby_names()));
        let sync = Arc::new(
            SyncRecord {
                leader: member_name(0),
                sync_standby: None,
                quorum: 0,
                epoch: 1,
                serial: 0,
                incarnation: incarnation(0),
                established: true,
                previous: Vec::new(),
                timeline: 1,
                released: None,
                handover: false,
                accepted_loss: None,
                membership: (0..if self.lone { 1 } else { self.members }).map(member_name).collect(),
                rule,
            }
            .with_patroni_fields(),
        );
        let records = Shared::new(Records {
            initialize: Some(1),
            leader: Some(Leader { name: 0, revision: 1, lease: 1, left: crate::agent::TICKS }),
            sync: Some(Versioned { revision: 1, value: sync.clone() }),
            pledges: (0..self.members).map(pledge_of_before).collect(),
            failover: None,
            history: Vec::new(),
        });
        let mut members: Vec<Shared<Member>> =
            (0..self.members).map(|id| Shared::new(follower(id, &sync, &names))).collect();
        let leader = members[0].edit();
        leader.lease = Some(Held { id: 1, left: crate::agent::TICKS });
        leader.timed.guarded = if self.clocked { crate::agent::TICKS } else { 0 };
        leader.pg = Pg {
            process: Process::Primary,
            loaded: leader.file.clone(),
            led: 1,
            senders: (1..self.members)
                .map(|to| Sender { to, incarnation: to, confirmed: 1, under_way: 1, names: names.clone(), alive: true })
                .collect(),
            ..Pg::default()
        };
        if let Some(dir) = &mut leader.dir {
            dir.standby = false;
        }
        State {
            records,
            saved: None,
            members,
            flight: Vec::new(),
            ledger: Ledger::new(self.needed_at_first == 0 || self.voters.is_empty()),
            left: self.budget,
            incarnations: self.members,
            violation: None,
        }
    }
}

/// Everybody pledged against the epoch before.
fn pledge_of_before(id: Id) -> Option<Versioned<Pledge>> {
    let value = Pledge { epoch: 0, incarnation: incarnation(id), timeline: 1, lsn: Lsn(1), withdrawn: false };
    Some(Versioned { revision: 1, value })
}

fn follower(id: Id, sync: &Arc<SyncRecord>, names: &Arc<Names>) -> Member {
    let file = Conf { upstream: (id != 0).then_some(0), names: names.clone() };
    Member {
        memory: Arc::new(Memory { started: Some(LONG_AGO), ..Memory::default() }),
        view: None,
        lease: None,
        maybe: None,
        busy: None,
        finished: None,
        suspects: false,
        stopping: false,
        away: false,
        relapse: None,
        source: None,
        timed: Timed::default(),
        newest: Some(sync.clone()),
        dir: Some(Dir {
            incarnation: id,
            wal: vec![Record { timeline: 1, author: 0, commit: 0 }],
            checkpoint: (1, 0),
            clean: false,
            standby: true,
        }),
        pg: Pg { process: Process::Standby, loaded: file.clone(), receiver: (id != 0).then_some(0), ..Pg::default() },
        file,
    }
}

/// The name of a member as decisions know it.
pub fn member_name(id: Id) -> MemberName {
    name(id).parse().expect("letters are names")
}

/// The identity of a data directory as decisions know it; the first eight digits differ.
pub fn incarnation(number: u8) -> Incarnation {
    Incarnation::from_bits((u64::from(number) + 1) << 32)
}
