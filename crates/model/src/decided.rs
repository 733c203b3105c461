//! Decisions are pure, so each situation of a member is put to `decide` once: few of them differ among millions of states.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use matriarch_core::Timeline;
use matriarch_core::decide::{Action, Decision, Job, Memory, Purpose, decide};

use crate::scene::Scene;
use crate::shared::Shared;
use crate::state::{Conf, Effect, Id, Key, Member, Names, Process, Records, id};
use crate::store::{compare, effect};
use crate::timers;

/// What a member decided, ready to be done.
#[derive(Debug)]
pub struct Decided {
    /// The decision itself.
    pub decision: Decision,
    /// What is to be remembered, without what does not matter.
    pub memory: Arc<Memory>,
    /// Its actions.
    pub acts: Vec<Act>,
}

/// An action in the terms of the model.
#[derive(Debug)]
pub enum Act {
    /// Renew the lease.
    Renew,
    /// Send a transaction.
    Send(Sent),
    /// Begin a job.
    Run(Job),
    /// Write settings.
    Configure(Conf),
    /// Give the lease back.
    DropLease,
}

/// A transaction.
#[derive(Debug)]
pub struct Sent {
    /// What for.
    pub purpose: Purpose,
    /// Revision of each key, none where it must be absent.
    pub compares: Vec<(Key, Option<u64>)>,
    /// Effects.
    pub writes: Vec<Effect>,
    /// It comes with a lease.
    pub leased: bool,
}

/// All that a decision depends on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Situation {
    me: Id,
    /// Timers that are over.
    over: u8,
    member: Shared<Member>,
    view: Shared<Records>,
    /// What the records of all members tell.
    told: Vec<Told>,
}

/// Process, timeline and incarnation of the data, and epoch.
type Told = (Process, Option<(Timeline, u8)>, u64);

/// Decisions of one search. A copy of a search begins with none, since its policy may be another.
#[derive(Default)]
pub struct Decisions(Mutex<HashMap<Situation, Arc<Decided>>>);

/// Kept at most.
const KEPT: usize = 300_000;

impl Clone for Decisions {
    fn clone(&self) -> Decisions {
        Decisions::default()
    }
}

impl fmt::Debug for Decisions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Decisions")
    }
}

impl Scene<'_> {
    /// What a member decides now.
    pub fn decided(&self, me: Id, over: u8) -> Arc<Decided> {
        let told = |member: &Shared<Member>| {
            let dir = member.dir.as_ref().map(|dir| (dir.timeline(), dir.incarnation));
            (member.pg.process, dir, member.pg.led)
        };
        let (mut member, mut view) = (self.state.members[me as usize].clone(), self.state.view(me).clone());
        member.seal();
        view.seal();
        let situation = Situation { me, over, member, view, told: self.state.members.iter().map(told).collect() };
        let kept = || self.setup.decisions.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = kept().get(&situation) {
            return known.clone();
        }
        let decided = Arc::new(self.decide_anew(me, over));
        let mut kept = kept();
        if kept.len() >= KEPT {
            kept.clear();
        }
        kept.insert(situation, decided.clone());
        decided
    }

    fn decide_anew(&self, me: Id, over: u8) -> Decided {
        let mut observation = self.observe(me);
        let mut memory = Memory::clone(&self.state.at(me).memory);
        timers::end(self.state.at(me), me, self.state.view(me), over, &mut memory);
        if let Some(mutation) = self.setup.mutation {
            self.mutate_observation(mutation, me, &mut observation);
            self.mutate_memory(mutation, me, &mut memory, &observation);
        }
        let mut decision = decide(&self.setup.policy(me), &memory, &observation);
        if let Some(mutation) = self.setup.mutation {
            mutation.mutate_decision(&mut decision, self.state.view(me).leads() == Some(me));
        }
        let memory = Arc::new(timers::forget(std::mem::take(&mut decision.memory)));
        Decided { memory, acts: decision.actions.iter().filter_map(act).collect(), decision }
    }
}

fn act(action: &Action) -> Option<Act> {
    Some(match action {
        Action::RenewLease => Act::Renew,
        Action::Commit(change) => Act::Send(Sent {
            purpose: change.purpose,
            compares: change.txn.compares.iter().map(compare).collect(),
            writes: change.txn.writes.iter().filter_map(effect).collect(),
            leased: change.txn.needs_leader_lease(),
        }),
        Action::Run(job) => Act::Run(job.clone()),
        Action::Configure(settings) => Act::Configure(Conf {
            upstream: settings.upstream.as_ref().map(|upstream| id(upstream.as_str())),
            names: Arc::new(Names::parse(&settings.synchronous_standby_names)),
        }),
        Action::DropLease => Act::DropLease,
        // Nobody asks for one here.
        Action::RefuseRestart(_) => return None,
    })
}
