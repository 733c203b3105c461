//! The shell around the real `decide`: it looks, decides, and does what the decision says.
//!
//! Time is left out: a moment that `decide` remembers is either now or long ago, and any timer may end at any step
//! ([`Scene::wait`]). So no rule may rest on one thing taking longer than another, but for the few assumptions that are
//! steps of their own (the barrier's margin, and the lease where ticks are counted).

use std::sync::Arc;

use matriarch_core::decide::{
    Action, Decision, Evidence, Finished, Job, JobFailure, Lease, Memory, Millis, Observation, Pulse, Settings, decide,
};

use crate::lease::at_tick;
use crate::mutation::Mutation;
use crate::scene::Scene;
use crate::state::{Conf, Ended, Held, Id, Names, Process, Timed, id, name};

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
    pub fn turn(&mut self, me: Id, how: How) -> bool {
        let stale = self.state.at(me).away || how == How::Stale;
        if how == How::Stale && (self.state.at(me).view == self.state.records || self.state.at(me).away) {
            return false;
        }
        if !stale {
            self.read_store(me);
        }
        if self.setup.mutation == Some(Mutation::LeaseByWatch) {
            self.trust_watch(me);
        }
        let mut observation = self.observe(me);
        let policy = self.setup.policy(me);
        let mut memory = Memory::clone(&self.state.at(me).memory);
        if let Some(mutation) = self.setup.mutation {
            self.mutate_observation(mutation, me, &mut observation);
            self.mutate_memory(mutation, me, &mut memory, &observation);
        }
        let mut decision = decide(&policy, &memory, &observation);
        if let Some(mutation) = self.setup.mutation {
            let leads = self.state.at(me).view.leader.as_ref().is_some_and(|leader| leader.name == me);
            mutation.mutate_decision(&mut decision, leads);
        }
        self.speak(me, &decision);
        self.note(|| format!("{}: [{}] {}", name(me), decision.why.code, decision.why.text));
        let member = self.state.member(me);
        member.finished = None;
        let remembered = without_time(std::mem::take(&mut decision.memory));
        if *member.memory != remembered {
            member.memory = Arc::new(remembered);
        }
        self.perform(me, how, decision)
    }

    fn perform(&mut self, me: Id, how: How, decision: Decision) -> bool {
        let (mut sent, mut lagged) = (false, false);
        for action in decision.actions {
            match action {
                Action::RenewLease => sent |= self.renew_lease(me, how),
                Action::Commit(change) => sent |= self.commit(me, how, &change),
                Action::Run(job) => self.begin(me, job),
                Action::Configure(settings) => lagged |= self.configure(me, how, &settings),
                Action::DropLease => self.drop_lease(me),
                // Nobody asks for one here.
                Action::RefuseRestart(_) => {}
            }
        }
        self.exit_when_stopped(me);
        match how {
            How::Prompt | How::Stale => true,
            How::Late => sent,
            How::Lagging => lagged,
        }
    }

    /// The view is that of now; a lead whose answer was lost shows in it.
    pub fn read_store(&mut self, me: Id) {
        let records = self.state.records.clone();
        let member = self.state.member(me);
        if let Some(leader) = records.leader.as_ref().filter(|leader| member.maybe == Some(leader.lease)) {
            member.maybe = None;
            member.lease = Some(Held { id: leader.lease, left: leader.left.min(1) });
        }
        if let Some(sync) = &records.sync {
            let age = |epoch, serial| (epoch, serial);
            let newer = member
                .newest
                .as_ref()
                .is_none_or(|newest| age(newest.epoch, newest.serial) < age(sync.value.epoch, sync.value.serial));
            if newer {
                member.newest = Some(sync.value.clone());
            }
        }
        let leader_before = member.view.leader.as_ref().map(|leader| leader.name);
        if records.leader.as_ref().map(|leader| leader.name) != leader_before {
            member.suspects = false;
        }
        member.view = records;
    }

    /// A watch that shows our key is taken as proof that the lease lives.
    fn trust_watch(&mut self, me: Id) {
        let member = self.state.member(me);
        let shown = member.view.leader.as_ref().map(|leader| leader.lease);
        if let Some(held) = &mut member.lease
            && Some(held.id) == shown
        {
            held.left = TICKS;
        }
    }

    fn observe(&self, me: Id) -> Observation {
        let member = self.state.at(me);
        let store = self.cluster_view(member);
        let lease = member.lease.map(|held| {
            let until = at_tick(held.left);
            Lease { renewed: until - TTL, until }
        });
        let leader = member.view.leader.as_ref().map(|leader| leader.name).filter(|leader| *leader != me);
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

    fn configure(&mut self, me: Id, how: How, settings: &Settings) -> bool {
        let member = self.state.member(me);
        let same = member.file.names.text == settings.synchronous_standby_names;
        let names =
            if same { member.file.names.clone() } else { Arc::new(Names::parse(&settings.synchronous_standby_names)) };
        let conf = Conf { upstream: settings.upstream.as_ref().map(|upstream| id(upstream.as_str())), names };
        // The shell sends one set of settings at a time, and has to know that what it sent may yet come true.
        let under_way = self.setup.mutation == Some(Mutation::UpstreamUnderWay)
            && member.pg.process != Process::Stopped
            && member.file != member.pg.loaded;
        if member.file == conf || member.dir.is_none() || under_way {
            return false;
        }
        member.file = conf;
        self.note(|| format!("{}: writes {settings:?}", name(me)));
        if how != How::Lagging {
            self.reload(me, true);
        }
        true
    }

    fn begin(&mut self, me: Id, job: Job) {
        self.note(|| format!("{}: {job:?} begins", name(me)));
        self.state.member(me).busy = Some(job.clone());
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

    /// Every timer of this agent that runs has ended, but for the barrier's margin.
    pub fn wait(&mut self, me: Id) -> bool {
        let memory = &self.state.at(me).memory;
        let mut waited = Memory::clone(memory);
        each_timer(&mut waited, &mut |timer| *timer = LONG_AGO);
        if waited == **memory {
            return false;
        }
        self.note(|| format!("{}: time passes", name(me)));
        self.state.member(me).memory = Arc::new(waited);
        true
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
        member.memory = Arc::new(Memory { started: Some(NOW), ..Memory::default() });
        member.lease = None;
        member.timed = Timed { guarded: member.timed.guarded, promised: member.timed.promised, ..Timed::default() };
        member.maybe = None;
        member.busy = None;
        member.finished = None;
        member.suspects = false;
        member.stopping = false;
        member.away = false;
        self.read_store(me);
    }
}

fn finished(ended: &Ended) -> Finished {
    let failure = ended.failed.then(|| JobFailure { message: String::new(), hopeless: false });
    Finished { job: ended.job.clone(), at: NOW, failure }
}

fn each_timer(memory: &mut Memory, change: &mut impl FnMut(&mut Millis)) {
    let timers = [
        &mut memory.started,
        &mut memory.leaderless_since,
        &mut memory.outranked_since,
        &mut memory.not_streaming_since,
        &mut memory.history_awaited,
        &mut memory.unready_since,
    ];
    timers.into_iter().flatten().for_each(&mut *change);
    memory.missing_since.values_mut().for_each(&mut *change);
    if let Some(switching) = &mut memory.switching {
        change(&mut switching.since);
    }
    if let Some(failures) = &mut memory.failures {
        change(&mut failures.last);
    }
}

/// What matters of the memory: moments are now or long ago, and counters that only space out retries are dropped.
fn without_time(mut memory: Memory) -> Memory {
    memory.accounted = None;
    memory.starts = 0;
    each_timer(&mut memory, &mut |timer| *timer = if *timer == NOW { NOW } else { LONG_AGO });
    memory
}
