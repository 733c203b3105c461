//! The leader lease, where time is counted: in ticks, of which the lease lasts a few.

use std::collections::BTreeMap;
use std::sync::Arc;

use matriarch_core::MemberName;
use matriarch_core::decide::{Action, Decision, Job, Millis, Purpose, Stance, Support};

use crate::agent::{How, LONG_AGO, NOW, TICKS, TTL};
use crate::mutation::Mutation;
use crate::scene::Scene;
use crate::setup::{incarnation, member_name};
use crate::state::{Held, Id, Process, Request, name};

/// One tick.
const TICK: Millis = TTL / TICKS as Millis;

/// The moment in so many ticks.
pub fn at_tick(left: u8) -> Millis {
    NOW + TICK * Millis::from(left)
}

/// Whole ticks until a moment.
fn in_ticks(until: Millis) -> u8 {
    (until.saturating_sub(NOW) / TICK) as u8
}

impl Scene<'_> {
    /// Renews the leader lease; the answer counts from the moment of sending.
    pub fn renew_lease(&mut self, me: Id, how: How) -> bool {
        let member = self.state.at(me);
        let Some(held) = member.lease.filter(|_| self.setup.clocked && !member.away) else { return false };
        let request = Request {
            from: me,
            awaited: false,
            purpose: Purpose::Reclaim,
            compares: Vec::new(),
            writes: Vec::new(),
            lease: Some(held.id),
            age: 0,
            answered: false,
        };
        if how == How::Late {
            self.state.flight.push(Arc::new(request));
        } else {
            self.renew(request.clone());
            self.renewed(&request);
        }
        true
    }

    /// How long the holder of a lease counts on it that it asked for so many ticks ago.
    pub fn lease_left(&self, age: u8) -> u8 {
        match self.setup.mutation {
            Some(Mutation::LeaseFromAnswer) => TICKS,
            Some(Mutation::LeaseOfTwiceTheTtl) => 2 * TICKS - age,
            _ => TICKS.saturating_sub(age),
        }
    }

    /// A renewal reaches the store; its answer is under way.
    pub fn renew(&mut self, request: Request) {
        let leader = self.state.store().leader.as_mut();
        if let Some(leader) = leader.filter(|leader| Some(leader.lease) == request.lease) {
            leader.left = TICKS;
            self.note(|| format!("store: renews the lease of {}", name(request.from)));
            self.state.flight.push(Arc::new(Request { answered: true, ..request }));
        }
    }

    /// The answer reaches the holder.
    pub fn renewed(&mut self, request: &Request) {
        self.state.flight.retain(|other| !(other.answered && other.lease == request.lease));
        let left = self.lease_left(request.age);
        self.note(|| format!("{}: hears that its lease is renewed", name(request.from)));
        let member = self.state.member(request.from);
        if let Some(held) = &mut member.lease
            && Some(held.id) == request.lease
        {
            *held = Held { id: held.id, left: held.left.max(left) };
            self.guard_until(request.from, left);
        }
    }

    /// The guard's deadline is put off, never brought forward.
    pub fn guard_until(&mut self, me: Id, left: u8) {
        if self.setup.clocked {
            let timed = &mut self.state.member(me).timed;
            timed.guarded = timed.guarded.max(left);
            timed.fired &= timed.guarded == 0;
        }
    }

    /// After a turn: a guard without a deadline to come is let go when PostgreSQL is not writable, and no job may make it so.
    pub fn release_guard(&mut self, me: Id, decision: &Decision) {
        let member = self.state.at(me);
        let job = matches!(member.busy, Some(Job::StartPrimary | Job::Promote | Job::Restart));
        let idle = matches!(member.pg.process, Process::Stopped | Process::Standby) && !job;
        let ahead = |until: Millis| until > NOW;
        let needed = member.lease.is_some_and(|held| held.left > 0) || decision.authority.is_some_and(ahead);
        if self.setup.clocked && idle && !needed && (member.timed.guarded > 0 || member.timed.fired) {
            self.note(|| format!("{}: disarms its guard", name(me)));
            let timed = &mut self.state.member(me).timed;
            (timed.guarded, timed.fired) = (0, false);
        }
    }

    /// Whether a job may begin as far as the guard is concerned: nothing may come to write without a deadline to come, and
    /// nothing is begun that a guard which has fired would end.
    pub fn guard_allows(&self, me: Id, job: &Job) -> bool {
        let timed = &self.state.at(me).timed;
        match job {
            _ if !self.setup.clocked => true,
            Job::StartPrimary | Job::Promote => timed.guarded > 0,
            Job::StartStandby | Job::Clone | Job::Rewind | Job::Initdb => !timed.fired,
            _ => true,
        }
    }

    /// A primary that starts behind a guard which has fired: the guard looks more often than it takes PostgreSQL to let
    /// anybody in. The agent's own look is left out: that of the guard has to do.
    pub fn starts_in_vain(&self, me: Id) -> bool {
        let once = [Some(Mutation::GuardMissing), Some(Mutation::GuardFiresOnce)].contains(&self.setup.mutation);
        self.setup.clocked && self.state.at(me).timed.fired && !once
    }

    /// What a decision says beside its actions: until when PostgreSQL may be writable, where this member stands, and
    /// whether it asks for promises.
    pub fn speak(&mut self, me: Id, decision: &Decision) {
        if !self.setup.clocked {
            return;
        }
        let leaves = |action: &Action| {
            let purposes = [Purpose::Pledge, Purpose::Takeover, Purpose::Release];
            matches!(action, Action::Commit(change) if purposes.contains(&change.purpose))
        };
        let timed = &mut self.state.member(me).timed;
        timed.stance = if decision.actions.iter().any(leaves) { Stance::Neutral } else { decision.stance };
        timed.asks = decision.asks_promise;
        if let Some(until) = decision.authority {
            self.guard_until(me, in_ticks(until));
        }
    }

    /// A follower of a leader that asks promises it not to take over for the life of a lease, and the leader hears of it.
    pub fn promise(&mut self, me: Id) -> bool {
        let Stance::Follows { epoch } = self.state.at(me).timed.stance else { return false };
        let asks = |id: &Id| {
            let timed = &self.state.at(*id).timed;
            timed.asks && timed.stance == Stance::Leads { epoch }
        };
        let waits = self.state.flight.iter().any(|request| request.from == me && request.awaited);
        let Some(leader) = self.state.ids().find(asks).filter(|leader| *leader != me && !waits) else { return false };
        let members = self.state.members.len();
        self.state.member(me).timed.promised = TICKS;
        let promises = &mut self.state.member(leader).timed.promises;
        promises.resize(members, 0);
        promises[me as usize] = TICKS;
        self.note(|| format!("{}: promises {} not to take over", name(me), name(leader)));
        true
    }

    /// What the others have promised this member.
    pub fn support(&self, me: Id) -> BTreeMap<MemberName, Support> {
        let promises = self.state.at(me).timed.promises.iter().zip(0..).filter(|(left, _)| **left > 0);
        let support = promises.filter_map(|(left, giver): (&u8, Id)| {
            let incarnation = incarnation(self.state.at(giver).dir.as_ref()?.incarnation);
            let promised_until = Some(at_tick(*left));
            Some((member_name(giver), Support { incarnation, epoch: 0, heard: LONG_AGO, promised_until }))
        });
        support.collect()
    }

    /// Time passes: leases grow old on both sides, and a guard whose deadline has come ends PostgreSQL.
    pub fn tick(&mut self) -> bool {
        let before = self.state.clone();
        let mutation = self.setup.mutation;
        for me in self.state.ids() {
            let member = self.state.member(me);
            if member.memory.given_up.is_some() {
                let given_up = &mut Arc::make_mut(&mut member.memory).given_up;
                *given_up = given_up.map(|until| until - TICK).filter(|until| *until > NOW);
            }
            let timed = &mut member.timed;
            let armed = timed.guarded > 0;
            if me != 0 || mutation != Some(Mutation::ClockStopsAsleep) {
                let lease = member.lease.as_mut().map(|held| &mut held.left);
                let others = [&mut timed.guarded, &mut timed.promised];
                lease
                    .into_iter()
                    .chain(others)
                    .chain(&mut timed.promises)
                    .for_each(|left| *left = left.saturating_sub(1));
            }
            if timed.promises.iter().all(|left| *left == 0) {
                timed.promises.clear();
            }
            let due = armed && timed.guarded == 0;
            timed.fired |= due;
            let acts = if mutation == Some(Mutation::GuardFiresOnce) { due } else { timed.fired };
            let writes =
                matches!(member.pg.process, Process::Primary | Process::Stopping) || member.pg.promoting.is_some();
            if acts && mutation != Some(Mutation::GuardMissing) && writes {
                self.note(|| format!("{}: the guard ends PostgreSQL", name(me)));
                self.kill_postgres(me);
            }
        }
        if let Some(leader) = &mut self.state.store().leader {
            leader.left = leader.left.saturating_sub(1);
        }
        for request in &mut self.state.flight {
            let request = Arc::make_mut(request);
            request.age = (request.age + 1).min(TICKS);
        }
        self.note(|| "time: one tick passes".to_owned());
        self.state != before
    }
}
