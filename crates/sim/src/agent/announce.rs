//! What a member tells the others: its record, the leader's position, and where timelines forked.

use matriarch_core::decide::{Ailment, Job, Millis, Observation, Purpose, Server, Why};
use matriarch_core::record::{HistoryEntry, Role, key};
use matriarch_core::transaction::Txn;
use matriarch_core::{Incarnation, Timeline};
use serde_json::json;

use crate::event::{AgentEvent, Ask};
use crate::node::NodeId;
use crate::store::OURS;
use crate::world::World;

/// Life of a member lease.
pub(crate) const MEMBER_TTL: Millis = 10_000;

/// What changes in a member's record.
#[derive(Debug, PartialEq, Eq)]
pub struct Facts {
    state: &'static str,
    role: Role,
    streaming: bool,
    timeline: Option<Timeline>,
    incarnation: Option<Incarnation>,
    epoch: u64,
    disk_full: bool,
    replay_still: bool,
    leaves_rule: bool,
}

impl World {
    /// After a promotion the leader publishes where timelines forked.
    pub(super) fn publish_history(&mut self, node: NodeId, observation: &Observation) {
        let Some(view) = &observation.store else { return };
        let leads = view.leader.as_ref().is_some_and(|leader| leader.held && leader.name == self.nodes[node].name);
        let (true, Some(Server::Running(running)), Some(wal)) =
            (leads, Some(&observation.server), self.nodes[node].wal())
        else {
            return;
        };
        let forks = wal.history();
        let published: Vec<_> = view.history.iter().map(HistoryEntry::fork).collect();
        if running.in_recovery || forks == published {
            return;
        }
        let entries: Vec<HistoryEntry> = forks
            .into_iter()
            .map(|(timeline, lsn)| HistoryEntry(timeline, lsn.0, "promoted".to_owned(), String::new(), String::new()))
            .collect();
        let txn = Txn::new().as_seen(key::HISTORY, view.history_revision).put(key::HISTORY, &entries);
        self.commit(node, Purpose::History, txn);
    }

    /// Writes the member record when it has changed.
    pub(super) fn announce(&mut self, node: NodeId, observation: &Observation) {
        let Some(view) = &observation.store else { return };
        // Ours would hide that the other program still runs here.
        if view.sync.is_none() && view.strangers.contains_key(self.nodes[node].name.as_str()) {
            return;
        }
        let facts = self.member_facts(node, observation);
        let agent = &mut self.nodes[node].agent;
        if agent.announced.is_some() && agent.facts.as_ref() == Some(&facts) {
            return;
        }
        // One at a time, so that an older record does not overtake a newer one.
        if agent.announcing.is_some() {
            agent.announce_again = true;
            return;
        }
        let text = self.member_record(node, &facts);
        self.nodes[node].agent.facts = Some(facts);
        self.send_record(node, Some(text));
    }

    pub(super) fn told(&mut self, node: NodeId, request: u64) {
        let agent = &mut self.nodes[node].agent;
        if agent.announcing.take_if(|id| *id == request).is_some() && std::mem::take(&mut agent.announce_again) {
            self.poke(node, 1);
        }
    }

    pub(crate) fn send_record(&mut self, node: NodeId, text: Option<String>) {
        let lease = match self.nodes[node].agent.member_lease {
            Some(lease) => lease,
            None => self.unique(),
        };
        self.nodes[node].agent.member_lease = Some(lease);
        let leads = self.nodes[node].pg.writable() && self.nodes[node].agent.lease.is_some();
        let wal = self.nodes[node].wal().filter(|_| leads);
        let position = wal.map(|wal| (wal.timeline(wal.flushed), wal.end(wal.flushed)));
        if text.is_some() {
            self.nodes[node].agent.announced = text;
        }
        let key = key::member(&self.nodes[node].name);
        let record = self.nodes[node].agent.announced.clone().map(|text| (key, text));
        let request = self.request(node, Ask::Announce { lease, record, position });
        self.nodes[node].agent.announcing = Some(request);
    }

    fn member_facts(&self, node: NodeId, observation: &Observation) -> Facts {
        let running = observation.running();
        let state = match (&observation.server, observation.busy.as_ref()) {
            (Server::Running(_), _) => "running",
            (Server::Unready, _) => "starting",
            (Server::Stopped, Some(Job::Clone | Job::Rewind)) => "creating replica",
            (Server::Stopped, _) => "stopped",
        };
        let role = match running {
            Some(running) if running.in_recovery => Role::Replica,
            Some(_) => Role::Primary,
            None => Role::Uninitialized,
        };
        let view = observation.store.as_ref();
        let name = &self.nodes[node].name;
        let leads =
            view.and_then(|view| view.leader.as_ref()).is_some_and(|leader| leader.held && leader.name == *name);
        let sync = view.and_then(|view| view.sync.as_ref()).map(|sync| &sync.value);
        Facts {
            state,
            role,
            streaming: running.is_some_and(|running| running.streaming),
            timeline: running.map(|running| running.timeline),
            incarnation: observation.incarnation().cloned(),
            epoch: sync.filter(|sync| leads && role == Role::Primary && sync.leader == *name).map_or(0, |s| s.epoch),
            disk_full: matches!(self.nodes[node].ailment, Some(Ailment::Full { .. })),
            replay_still: self.nodes[node].replay_is_still(),
            leaves_rule: self.nodes[node].agent.why.as_ref().is_some_and(|why| why.code == Why::STILL_A_VOTER),
        }
    }

    /// Only what decisions look at; the store reads it back as a `MemberRecord`.
    fn member_record(&self, node: NodeId, facts: &Facts) -> String {
        let name = &self.nodes[node].name;
        let mut tags = if self.nodes[node].nofailover { json!({ "nofailover": true }) } else { json!({}) };
        if let Some(zone) = self.setup.zones.get(node) {
            tags["zone"] = json!(zone);
        }
        json!({
            "conn_url": format!("postgres://{name}:5432/postgres"),
            "api_url": format!("http://{name}:8008/patroni"),
            "state": facts.state,
            "role": facts.role,
            "version": format!("4.0.0{OURS}0"),
            "replication_state": facts.streaming.then_some("streaming"),
            "timeline": facts.timeline,
            "tags": tags,
            "incarnation": facts.incarnation,
            "epoch": facts.epoch,
            "disk_full": facts.disk_full,
            "replay_still": facts.replay_still,
            "leaves_rule": facts.leaves_rule,
        })
        .to_string()
    }

    pub(super) fn housekeeping(&mut self, node: NodeId) {
        let agent = &self.nodes[node].agent;
        if agent.announced.is_some() && agent.announcing.is_none() {
            self.send_record(node, None);
        }
        let delay = self.random(2000, 3000);
        self.agent_after(node, delay, AgentEvent::Housekeeping);
    }
}
