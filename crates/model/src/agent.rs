//! The shell around the real `decide`: it looks, decides, and does what the decision says.
//!
//! Time is left out: a moment that `decide` remembers is either now or long ago, and any timer may end at any step
//! ([`Scene::wait`]). So no rule may rest on one thing taking longer than another, but for the few assumptions that are
//! steps of their own (the barrier's margin, and the lease where ticks are counted).

use std::sync::Arc;

use matriarch_core::decide::{
    Decision, Evidence, Finished, Job, JobFailure, Lease, Memory, Millis, Observation, Pulse,
};

use matriarch_core::record::SyncRecord;

use crate::decided::Act;
use crate::lease::at_tick;
use crate::mutation::Mutation;
use crate::scene::Scene;
use crate::state::{Conf, Ended, Held, Id, Process, Timed, name};

/// The only moment there is.
pub const NOW: Millis = 1_000_000_000;
/// A moment all waits since which are over.
pub const LONG_AGO: Millis = NOW - 100_000_000;
/// Life of the lease.
pub const TTL: Millis = 5000;
/// The same in ticks, where time is counted.
pub const TICKS: u8 = 3;

/// How a turn of the agent goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum How {
    /// It reads the store, and what it does takes effect at once.
    Prompt,
    /// What it sends to the store is still under way afterwards.
    Late,
    /// It decides by what it read earlier.
    Stale,
    /// PostgreSQL has not loaded the new settings yet.
    Lagging,
}

impl Scene<'_> {
    /// One look, one decision, and what follows; false when nothing would change.
    pub fn turn(&mut self, me: Id, how: How, over: u8) -> bool {
        if how == How::Stale {
            let member = self.state.member(me);
            member.view = member.relapse.take().or(member.view.take());
        } else {
            self.read_store(me);
        }
        if self.setup.mutation == Some(Mutation::LeaseByWatch) {
            self.trust_watch(me);
        }
        let decided = self.decided(me, over);
        let decision = &decided.decision;
        self.speak(me, decision);
        self.note(|| format!("{}: [{}] {}", name(me), decision.why.code, decision.why.text));
        if self.state.at(me).finished.is_some() {
            self.state.member(me).finished = None;
        }
        if self.state.at(me).memory != decided.memory {
            self.state.member(me).memory = decided.memory.clone();
        }
        let done = self.perform(me, how, decision, &decided.acts);
        if self.state.at(me).view.is_some() && !self.state.at(me).away {
            let records = self.state.records.clone();
            self.state.member(me).look(&records);
        }
        done
    }

    fn perform(&mut self, me: Id, how: How, decision: &Decision, acts: &[Act]) -> bool {
        let (mut sent, mut lagged) = (false, false);
        for act in acts {
            match act {
                Act::Renew => sent |= self.renew_lease(me, how),
                Act::Send(txn) => sent |= self.send(me, how, txn),
                Act::Run(job) if !self.guard_allows(me, job) => {
                    self.note(|| format!("{}: {job:?} waits for the guard", name(me)));
                }
                Act::Run(job) => self.begin(me, job.clone()),
                Act::Configure(conf) => lagged |= self.configure(me, how, conf),
                Act::DropLease => self.drop_lease(me),
            }
        }
        self.exit_when_stopped(me);
        self.release_guard(me, decision);
        match how {
            How::Prompt | How::Stale => true,
            How::Late => sent,
            How::Lagging => lagged,
        }
    }

    /// The view is that of now; a lead whose answer was lost shows in it.
    pub fn read_store(&mut self, me: Id) {
        let (records, member) = (self.state.records.clone(), self.state.at(me));
        let lead = records.leader.as_ref().filter(|leader| member.maybe == Some(leader.lease));
        let age = |sync: &SyncRecord| (sync.epoch, sync.serial);
        let older = |seen: &SyncRecord| records.sync.as_ref().is_some_and(|sync| age(seen) < age(&sync.value));
        let outdated = member.newest.as_ref().is_some_and(|newest| older(newest));
        if lead.is_none() && !outdated && member.view.is_none() {
            return;
        }
        let member = self.state.member(me);
        if let Some(leader) = lead {
            member.maybe = None;
            member.lease = Some(Held { id: leader.lease, left: leader.left.min(1) });
        }
        if outdated {
            member.newest = records.sync.as_ref().map(|sync| sync.value.clone());
        }
        member.look(&records);
    }

    /// A watch that shows our key is taken as proof that the lease lives.
    fn trust_watch(&mut self, me: Id) {
        let shown = self.state.view(me).leader.as_ref().map(|leader| leader.lease);
        let member = self.state.member(me);
        if let Some(held) = &mut member.lease
            && Some(held.id) == shown
        {
            held.left = TICKS;
        }
    }

    pub fn observe(&self, me: Id) -> Observation {
        let member = self.state.at(me);
        let store = self.cluster_view(me);
        let lease = member.lease.map(|held| {
            let until = at_tick(held.left);
            Lease { renewed: until - TTL, until }
        });
        let leader = self.state.view(me).leads().filter(|leader| *leader != me);
        let pulse = match leader {
            None => Pulse::Unknown,
            Some(_) if member.suspects => Pulse::Suspected { since: NOW, evidence: Evidence::Silent },
            Some(leader) => Pulse::Alive { epoch: self.state.at(leader).pg.led },
        };
        Observation {
            now: NOW,
            alive: store.members.keys().cloned().collect(),
            store: Some(store),
            lease,
            data: self.data(me),
            server: self.server(me),
            busy: member.busy.clone(),
            finished: member.finished.as_ref().map(finished),
            stopping: member.stopping,
            reinit: false,
            ailment: None,
            woke: None,
            pulse,
            restart: false,
            support: self.support(me),
            newest: member.newest.as_deref().cloned(),
            config: None,
            guarded_until: if self.setup.clocked {
                Some(at_tick(member.timed.guarded))
            } else {
                lease.map(|lease| lease.until)
            },
            promised_until: if member.timed.promised > 0 { at_tick(member.timed.promised) } else { 0 },
            watchdog: None,
        }
    }

    fn configure(&mut self, me: Id, how: How, conf: &Conf) -> bool {
        let member = self.state.member(me);
        // The shell sends one set of settings at a time, and has to know that what it sent may yet come true.
        let under_way = self.setup.mutation == Some(Mutation::UpstreamUnderWay)
            && member.pg.process != Process::Stopped
            && member.file != member.pg.loaded;
        if member.file == *conf || member.dir.is_none() || under_way {
            return false;
        }
        member.file = conf.clone();
        self.note(|| format!("{}: follows {:?} and waits by '{}'", name(me), conf.upstream.map(name), conf.names.text));
        if how != How::Lagging {
            self.reload(me, true);
        }
        true
    }

    fn begin(&mut self, me: Id, job: Job) {
        self.note(|| format!("{}: {job:?} begins", name(me)));
        let copies = matches!(job, Job::Clone | Job::Rewind);
        let source = self.state.view(me).leads().filter(|_| copies);
        let member = self.state.member(me);
        member.busy = Some(job.clone());
        member.source = source;
        if job == Job::Promote {
            self.begin_promotion(me);
        }
    }

    /// An agent that was asked to stop goes once PostgreSQL is down and the lead given up; another one starts.
    fn exit_when_stopped(&mut self, me: Id) {
        let leads = self.state.records.leader.as_ref().is_some_and(|leader| leader.name == me);
        let awaits = self.state.flight.iter().any(|request| request.from == me && request.awaited);
        let member = self.state.at(me);
        if member.stopping && !leads && !awaits && member.pg.process == Process::Stopped {
            self.state.member(me).stopping = false;
        }
    }

    /// The barrier's margin is over: by then every process of PostgreSQL has loaded the names.
    pub fn margin(&mut self, me: Id) -> bool {
        let member = self.state.member(me);
        if member.memory.barrier.as_ref().is_none_or(|barrier| barrier.since != NOW) {
            return false;
        }
        if let Some(barrier) = &mut Arc::make_mut(&mut member.memory).barrier {
            barrier.since = LONG_AGO;
        }
        let names = member.pg.loaded.names.clone();
        member.pg.senders.iter_mut().for_each(|sender| sender.names = names.clone());
        self.note(|| format!("{}: the barrier's margin is over", name(me)));
        true
    }

    /// The agent process ends and a new one starts: all it remembered is gone, what it sent is still under way.
    pub fn restart_agent(&mut self, me: Id) {
        self.note(|| format!("{}: its agent ends and starts again", name(me)));
        for request in &mut self.state.flight {
            if request.from == me && request.awaited {
                Arc::make_mut(request).awaited = false;
            }
        }
        let member = self.state.member(me);
        member.memory = Arc::new(Memory { started: Some(LONG_AGO), ..Memory::default() });
        member.lease = None;
        let Timed { guarded, fired, promised, .. } = member.timed;
        member.timed = Timed { guarded, fired, promised, ..Timed::default() };
        member.maybe = None;
        member.busy = None;
        member.finished = None;
        member.suspects = false;
        member.stopping = false;
        member.away = false;
        member.relapse = None;
        member.source = None;
        self.read_store(me);
    }
}

fn finished(ended: &Ended) -> Finished {
    let failure = ended.failed.then(|| JobFailure { message: String::new(), hopeless: false });
    Finished { job: ended.job.clone(), at: NOW, failure }
}
