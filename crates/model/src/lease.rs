//! The leader lease, where time is counted: in ticks, of which the lease lasts a few.

use std::sync::Arc;

use matriarch_core::decide::Purpose;

use crate::agent::{How, TICKS};
use crate::mutation::Mutation;
use crate::scene::Scene;
use crate::state::{Held, Id, Process, Request, name};

impl Scene<'_> {
    /// Renews the leader lease; the answer counts from the moment of sending.
    pub fn renew_lease(&mut self, me: Id, how: How) -> bool {
        let Some(held) = self.state.at(me).lease.filter(|_| self.setup.clocked) else { return false };
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
        }
    }

    /// Time passes: leases grow old on both sides, and a guard whose deadline has come ends PostgreSQL.
    pub fn tick(&mut self) -> bool {
        let before = self.state.clone();
        let mutation = self.setup.mutation;
        for me in self.state.ids() {
            let member = self.state.member(me);
            let Some(held) = &mut member.lease else { continue };
            if me != 0 || mutation != Some(Mutation::ClockStopsAsleep) {
                held.left = held.left.saturating_sub(1);
            }
            if held.left == 0
                && mutation != Some(Mutation::GuardMissing)
                && matches!(member.pg.process, Process::Primary | Process::Stopping)
            {
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
