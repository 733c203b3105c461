//! The way to the store and back: delays, losses, and what the store does with a request.

use std::rc::Rc;

use crate::agent::{ANSWER_LIMIT, MEMBER_TTL};
use crate::event::{AgentEvent, Ask, Event, Request};
use crate::node::NodeId;
use crate::store::{Backup, LeaseId};
use crate::world::World;
use matriarch_core::lsn::{Lsn, Timeline};
use matriarch_core::record::{StatusRecord, key};

impl World {
    /// Sends a request; its number.
    pub(crate) fn request(&mut self, node: NodeId, ask: Ask) -> u64 {
        let id = self.unique();
        let generation = self.nodes[node].agent.generation;
        let unanswered = self.chance(self.lost_answers);
        let delay = if self.chance(self.delayed_requests) { self.random(500, 6000) } else { self.random(1, 8) };
        self.after(
            delay,
            Event::Request(Box::new(Request { id, node, generation, ask, unanswered, life: self.store.life })),
        );
        self.agent_after(node, ANSWER_LIMIT, AgentEvent::Timeout(id));
        id
    }

    /// A request reaches the store, or not.
    pub(crate) fn store_request(&mut self, request: Request) {
        let Request { id, node, generation, ask, unanswered, life } = request;
        if !self.reaches_store(node) || life != self.store.life {
            return;
        }
        let before = self.store.revision();
        let answer = match ask {
            Ask::Commit { purpose, txn, grant, leases } => {
                if let Some(lease) = grant {
                    self.store.grant(lease, self.setup.ttl, self.now);
                    self.watch_lease(lease);
                }
                let applied = self.store.apply(&txn, leases);
                self.note(|| format!("store: {purpose:?} of {node} {}", if applied { "applied" } else { "refused" }));
                Some(AgentEvent::Answer(id, applied, self.store.view()))
            }
            Ask::Renew(lease) => Some(AgentEvent::Renewed(id, self.store.renew(lease, self.now))),
            Ask::Announce { lease, record, position } => {
                self.announced(lease, record, position);
                Some(AgentEvent::Announced(id))
            }
            Ask::Revoke(lease) => {
                self.store.revoke(lease);
                None
            }
        };
        if before != self.store.revision() {
            self.store_changed();
        }
        if let Some(event) = answer.filter(|_| !unanswered && !self.nodes[node].store_unheard) {
            let delay = self.random(1, 8);
            self.after(delay, Event::Agent(node, generation, event));
        }
    }

    fn announced(&mut self, lease: LeaseId, record: Option<(String, String)>, position: Option<(Timeline, Lsn)>) {
        if !self.store.renew(lease, self.now) {
            self.store.grant(lease, MEMBER_TTL, self.now);
            self.watch_lease(lease);
        }
        if let Some((key, value)) = record
            && self.store.value(&key) != Some(&value)
        {
            self.store.put(&key, value, Some(lease));
        }
        if let Some((timeline, position)) = position {
            let status = StatusRecord { optime: position.0, timeline, ..StatusRecord::default() };
            let text = serde_json::to_string(&status).expect("numbers are plain data");
            if self.store.value(key::STATUS) != Some(&text) {
                self.store.put(key::STATUS, text, None);
            }
        }
    }

    pub(crate) fn watch_lease(&mut self, lease: LeaseId) {
        if let Some(deadline) = self.store.deadline(lease) {
            self.after(deadline - self.now, Event::LeaseEnd(lease));
        }
    }

    /// The store starts again with other content.
    pub(crate) fn replace_store(&mut self, backup: Backup) {
        for lease in self.store.restore(backup, self.now) {
            self.watch_lease(lease);
        }
        let shown = self.store.view();
        self.checker.went_back = shown.cluster.sync.as_ref().map(|sync| sync.value.clone());
        self.checker.overtaken = true;
        self.backups.clear();
        self.announce_change();
    }

    pub(crate) fn lease_end(&mut self, lease: LeaseId) {
        match self.store.deadline(lease) {
            Some(deadline) if deadline > self.now => self.watch_lease(lease),
            Some(_) => {
                let before = self.store.revision();
                self.store.revoke(lease);
                if before != self.store.revision() {
                    self.note(|| "store: a lease has ended".to_owned());
                    self.store_changed();
                }
            }
            None => {}
        }
    }

    /// After any change: the checker looks, and the watches are told.
    pub(crate) fn store_changed(&mut self) {
        self.check_store();
        self.announce_change();
        if self.router == Some(true) {
            let delay = self.random(1, 30);
            self.after(delay, Event::Router);
        }
    }

    /// Agents that can reach the store again read it.
    pub(crate) fn store_reachable_again(&mut self) {
        let view = self.store.view();
        for node in 0..self.nodes.len() {
            if self.nodes[node].agent.alive && self.hears_store(node) {
                let delay = self.random(5, 100);
                self.agent_after(node, delay, AgentEvent::View(Rc::clone(&view)));
            }
        }
    }
}
