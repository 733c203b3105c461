//! Changes of the store, the leader lease, and the guard that watches over it.

use std::rc::Rc;

use matriarch_core::decide::{Millis, Purpose, WAKING};
use matriarch_core::transaction::Txn;

use crate::agent::state::{HeldLease, Pending};
use crate::event::{AgentEvent, Ask, Event};
use crate::mutation::Mutation;
use crate::node::NodeId;
use crate::server::Process;
use crate::store::{Leases, View};
use crate::world::World;

/// A guard wakes within this time from when its node goes on.
const LATE: Millis = 100;
/// An answer that has not come by then counts as lost.
pub(crate) const ANSWER_LIMIT: Millis = 1000;

impl World {
    pub(super) fn commit(&mut self, node: NodeId, purpose: Purpose, txn: Txn) {
        if self.nodes[node].agent.pending.is_some() {
            return;
        }
        if purpose == Purpose::Takeover {
            self.nodes[node].claimed_on = self.nodes[node].agent.view.clone();
        }
        let grant = txn.needs_leader_lease().then(|| self.unique());
        let lease = grant.map(|id| HeldLease { id, renewed: self.clock(node) });
        let leases = Leases { leader: grant, member: self.nodes[node].agent.member_lease };
        self.note(|| format!("{node}: commits {purpose:?}"));
        let request = self.request(node, Ask::Commit { purpose, txn, grant, leases });
        self.nodes[node].agent.pending = Some(Pending { request, lease });
        self.step_taken(node);
    }

    pub(super) fn answered(&mut self, node: NodeId, request: u64, applied: bool, view: Rc<View>) {
        let answered = self.counts_from_answer(node);
        let agent = &mut self.nodes[node].agent;
        let Some(pending) = agent.pending.take_if(|pending| pending.request == request) else {
            self.take_view(node, view);
            return self.poke(node, 1);
        };
        if let Some(mut lease) = pending.lease {
            if applied {
                lease.renewed = answered.unwrap_or(lease.renewed);
                agent.lease = Some(lease);
                self.arm_guard(node, lease.renewed + self.lease_time());
            } else {
                self.request(node, Ask::Revoke(lease.id));
            }
        }
        self.take_view(node, view);
        self.poke(node, 1);
    }

    pub(super) fn timed_out(&mut self, node: NodeId, request: u64) {
        let agent = &mut self.nodes[node].agent;
        if agent.renewing.is_some_and(|(id, _)| id == request) {
            agent.renewing = None;
        }
        if agent.announcing.take_if(|id| *id == request).is_some() {
            // It may have been written or not.
            agent.announced = None;
            self.poke(node, 1);
        }
        let agent = &mut self.nodes[node].agent;
        if let Some(pending) = agent.pending.take_if(|pending| pending.request == request) {
            agent.maybe = pending.lease;
            self.note(|| format!("{node}: no answer from the store"));
            self.agent_after(node, 0, AgentEvent::Read);
        }
    }

    pub(super) fn renew_lease(&mut self, node: NodeId) {
        let agent = &self.nodes[node].agent;
        let (Some(lease), None) = (agent.lease, agent.renewing) else { return };
        let request = self.request(node, Ask::Renew(lease.id));
        self.nodes[node].agent.renewing = Some((request, self.clock(node)));
    }

    pub(super) fn renewed(&mut self, node: NodeId, request: u64, alive: bool) {
        let answered = self.counts_from_answer(node);
        let agent = &mut self.nodes[node].agent;
        let Some((_, sent)) = agent.renewing.take_if(|(id, _)| *id == request) else { return };
        match (&mut agent.lease, alive) {
            (Some(lease), true) => {
                lease.renewed = lease.renewed.max(answered.unwrap_or(sent));
                let until = lease.renewed + self.lease_time();
                self.arm_guard(node, until);
            }
            (lease, _) => *lease = None,
        }
        self.poke(node, 1);
    }

    /// How long a lease is taken to last from when its renewal was sent.
    pub(super) fn lease_time(&self) -> Millis {
        let twice = self.setup.mutation == Some(Mutation::LeaseOfTwiceTheTtl);
        self.setup.ttl * if twice { 2 } else { 1 }
    }

    /// The time of an answer, for a mutation that counts from it.
    fn counts_from_answer(&self, node: NodeId) -> Option<Millis> {
        (self.setup.mutation == Some(Mutation::LeaseFromAnswer)).then(|| self.clock(node))
    }

    /// For a mutation: a key of ours in the store renews its lease.
    pub(super) fn trust_reading(&mut self, node: NodeId, view: &View) {
        let now = self.clock(node);
        let Some(lease) = &mut self.nodes[node].agent.lease else { return };
        if view.leader_lease == Some(lease.id) {
            lease.renewed = now;
            let until = now + self.lease_time();
            self.arm_guard(node, until);
        }
    }

    /// The guard learns how long PostgreSQL may be writable.
    pub(super) fn arm_guard(&mut self, node: NodeId, deadline: Millis) {
        if deadline <= self.clock(node) || self.nodes[node].deadline.is_some_and(|armed| armed >= deadline) {
            return;
        }
        // One that has fired before its deadline is told of a later one only.
        if self.setup.watchdogs
            && self.nodes[node].fired
            && deadline < self.nodes[node].watchdog.ended + self.setup.ttl / 8
        {
            return;
        }
        self.nodes[node].deadline = Some(deadline);
        self.nodes[node].pg.held = false;
        self.nodes[node].unfenced = false;
        self.nodes[node].fired = false;
        self.watch_deadline(node);
        self.keep_watchdog(node);
    }

    /// The guard sleeps until its deadline.
    fn watch_deadline(&mut self, node: NodeId) {
        let Some(deadline) = self.nodes[node].deadline else { return };
        let left = deadline.saturating_sub(self.clock(node));
        let delay = self.nodes[node].clock.wait(left);
        self.after(delay, Event::Guard(node));
    }

    /// A PostgreSQL that cannot write needs no guard.
    pub(super) fn disarm_guard(&mut self, node: NodeId) {
        let this = &self.nodes[node];
        let idle = matches!(this.pg.process, Process::Stopped | Process::Running { recovery: true });
        let under_way = this.pg.promoting.is_some() || this.held_start.is_some();
        let looks_away = !under_way || self.setup.mutation == Some(Mutation::GuardLetGo);
        if this.agent.lease.is_none() && idle && looks_away {
            self.nodes[node].deadline = None;
            self.nodes[node].pg.held = false;
            self.nodes[node].fired = false;
            self.keep_watchdog(node);
        }
    }

    pub(crate) fn guard(&mut self, node: NodeId) {
        let now = self.clock(node);
        let Some(deadline) = self.nodes[node].deadline else { return };
        self.keep_watchdog(node);
        if self.ends_by(node, deadline) > now {
            // Its clock stood still, or a later deadline has its own alarm.
            if self.setup.mutation == Some(Mutation::ClockStopsAsleep) {
                self.watch_deadline(node);
            }
            return;
        }
        // Nobody takes over while the cluster is paused, so PostgreSQL may outlive its lease.
        let paused = self.nodes[node].agent.view.as_ref().is_some_and(|view| view.paused);
        if paused || self.setup.unguarded {
            self.nodes[node].unfenced = true;
            return;
        }
        if self.mutes_guard() {
            return;
        }
        if self.holds_first(node) {
            return;
        }
        self.nodes[node].deadline = None;
        self.nodes[node].fired = true;
        self.nodes[node].watchdog.ended = deadline;
        self.keep_watchdog(node);
        if self.nodes[node].pg.process != Process::Stopped {
            self.note(|| format!("{node}: the guard kills PostgreSQL"));
            self.kill_postgres(node);
        }
    }

    /// A guard that stood still itself first holds PostgreSQL for a moment, in which the agent asks the store.
    fn holds_first(&mut self, node: NodeId) -> bool {
        let this = &self.nodes[node];
        let Some(thawed) = this.thawed.filter(|_| !self.setup.watchdogs) else { return false };
        match this.held_after {
            Some((after, until)) if after == thawed => self.now < until,
            _ if self.now > thawed + LATE => false,
            _ => {
                self.nodes[node].held_after = Some((thawed, self.now + WAKING));
                self.nodes[node].pg.held = self.setup.mutation != Some(Mutation::WakesUnheld);
                self.after(WAKING, Event::Guard(node));
                self.note(|| format!("{node}: the guard holds PostgreSQL"));
                true
            }
        }
    }

    /// When the agent of a node that stood still ran again, by its clock.
    pub(super) fn woke(&self, node: NodeId) -> Option<Millis> {
        let this = &self.nodes[node];
        let thawed = this.thawed.max(Some(this.agent_thawed).filter(|at| *at > 0))?;
        Some(self.clock(node).saturating_sub(self.now.saturating_sub(thawed)))
    }
}
