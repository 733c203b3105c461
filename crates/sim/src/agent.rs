//! The shell around `decide`: it looks, decides, and does what the decision says, as the real agent would.

use std::collections::BTreeMap;
use std::rc::Rc;

use matriarch_core::decide::{
    Action, ClusterView, Finished, Job, JobFailure, Lease, Millis, Observation, Purpose, Server, Settings, decide,
};
use matriarch_core::record::{HistoryEntry, MemberRecord, Role, key};
use matriarch_core::transaction::Txn;

use crate::event::{AgentEvent, Ask, PgEvent};
use crate::node::{Agent, HeldLease, NodeId, Pending, Process, Snapshot};
use crate::store::{Leases, View};
use crate::world::World;

/// An answer that has not come by then counts as lost.
pub(crate) const ANSWER_LIMIT: Millis = 1000;
/// Life of a member lease.
pub(crate) const MEMBER_TTL: Millis = 10_000;

impl World {
    pub(crate) fn agent_event(&mut self, node: NodeId, event: AgentEvent) {
        match event {
            AgentEvent::Probe => {
                if self.nodes[node].agent.probe_at.is_none_or(|at| at > self.now) {
                    return;
                }
                self.nodes[node].agent.probe_at = None;
                if std::mem::replace(&mut self.nodes[node].agent.deciding, true) {
                    // One look at a time: look again once this one has been decided on.
                    self.nodes[node].agent.look_again = true;
                    return;
                }
                let snapshot = Box::new(self.nodes[node].look());
                let delay = self.random(1, 12);
                self.agent_after(node, delay, AgentEvent::Decide(snapshot));
            }
            AgentEvent::Decide(snapshot) => self.decide(node, *snapshot),
            AgentEvent::Work(id) => self.work_done(node, id),
            AgentEvent::JobEnd(id, failure) => self.job_end(node, id, failure),
            AgentEvent::Answer(request, applied, view) => self.answered(node, request, applied, view),
            AgentEvent::Renewed(request, alive) => self.renewed(node, request, alive),
            AgentEvent::Announced(request) => self.told(node, request),
            AgentEvent::Timeout(request) => self.timed_out(node, request),
            AgentEvent::View(view) => {
                self.take_view(node, view);
                self.poke(node, 1);
            }
            AgentEvent::Read => {
                if self.reaches_store(node) {
                    let view = self.store.view();
                    let delay = self.random(1, 10);
                    self.agent_after(node, delay, AgentEvent::View(view));
                } else {
                    self.agent_after(node, 300, AgentEvent::Read);
                }
            }
            AgentEvent::Housekeeping => self.housekeeping(node),
        }
    }

    /// Starts an agent process.
    pub(crate) fn start_agent(&mut self, node: NodeId) {
        let this = &mut self.nodes[node];
        if this.agent.alive || !this.powered {
            return;
        }
        let generation = this.agent.generation + 1;
        this.agent = Agent { generation, alive: true, ..Agent::default() };
        self.note(|| format!("{node}: agent starts"));
        self.agent_after(node, 5, AgentEvent::Read);
        let delay = self.random(1000, 2000);
        self.agent_after(node, delay, AgentEvent::Housekeeping);
        self.poke(node, 10);
    }

    /// The agent process is gone, with the jobs it did itself.
    pub(crate) fn kill_agent(&mut self, node: NodeId) {
        // A clone is made beside the old data, which stays until it is complete.
        if let Some((_, Job::Initdb | Job::Rewind)) = self.nodes[node].agent.job {
            self.nodes[node].disk = crate::node::Disk::Unfinished;
        }
        let agent = &mut self.nodes[node].agent;
        agent.alive = false;
        agent.generation += 1;
        self.nodes[node].agent_frozen = false;
        self.note(|| format!("{node}: agent is gone"));
    }

    /// Has the agent look again soon.
    pub(crate) fn poke(&mut self, node: NodeId, delay: Millis) {
        let at = self.now + delay;
        let agent = &mut self.nodes[node].agent;
        if agent.alive && agent.probe_at.is_none_or(|planned| planned > at) {
            agent.probe_at = Some(at);
            self.agent_after(node, delay, AgentEvent::Probe);
        }
    }

    fn take_view(&mut self, node: NodeId, view: Rc<View>) {
        let agent = &mut self.nodes[node].agent;
        if agent.view.as_ref().is_some_and(|seen| seen.cluster.revision > view.cluster.revision) {
            return;
        }
        // A takeover whose answer is late or lost shows in the store.
        let offered = agent.pending.and_then(|pending| pending.lease).or(agent.maybe);
        if let Some(lease) = offered.filter(|lease| view.leader_lease == Some(lease.id)) {
            agent.maybe = None;
            agent.pending = None;
            agent.lease = Some(lease);
            self.arm_guard(node);
        }
        if let Some(dir) = self.nodes[node].disk.dir_mut()
            && view.cluster.initialize.as_ref().is_some_and(|system| system.value == dir.system)
        {
            dir.unclaimed = false;
        }
        self.nodes[node].agent.view = Some(view);
    }

    pub(crate) fn observation(&self, node: NodeId, snapshot: Snapshot) -> Observation {
        let agent = &self.nodes[node].agent;
        let ttl = self.setup.ttl;
        let store: Option<ClusterView> = agent.view.as_ref().map(|view| {
            let mut cluster = view.cluster.clone();
            if let Some(leader) = &mut cluster.leader {
                leader.held = agent.lease.is_some_and(|lease| view.leader_lease == Some(lease.id));
            }
            cluster
        });
        Observation {
            now: self.now,
            alive: store.as_ref().map(|view| view.members.keys().cloned().collect()).unwrap_or_default(),
            store,
            lease: agent.lease.map(|lease| Lease { renewed: lease.renewed, until: lease.renewed + ttl }),
            data: snapshot.data,
            server: snapshot.server,
            busy: snapshot.busy,
            finished: snapshot.finished,
            stopping: agent.stopping,
            reinit: agent.reinit,
        }
    }

    fn decide(&mut self, node: NodeId, snapshot: Snapshot) {
        self.nodes[node].agent.deciding = false;
        if self.nodes[node].pg.writable() {
            // The API refuses to make a leader anew, so the wish does not outlive a promotion.
            self.nodes[node].agent.reinit = false;
        }
        let mut observation = self.observation(node, snapshot);
        self.mutate_observation(node, &mut observation);
        let policy = self.policy(node);
        let mut decision = decide(&policy, &self.nodes[node].agent.memory, &observation);
        self.mutate_decision(&mut decision);
        let again = decision.next_wake.saturating_sub(self.now).max(1);
        let changed = self.nodes[node].agent.why.as_ref() != Some(&decision.why);
        if changed {
            let (code, text) = (decision.why.code, decision.why.text.clone());
            self.note(|| format!("{node}: [{code}] {text}"));
        }
        let agent = &mut self.nodes[node].agent;
        agent.memory = decision.memory;
        agent.why = Some(decision.why);
        agent.problem = decision.problem;
        for action in decision.actions {
            self.act(node, action);
        }
        self.publish_history(node, &observation);
        self.announce(node, &observation);
        self.disarm_guard(node);
        self.exit_when_stopped(node, &observation);
        if std::mem::take(&mut self.nodes[node].agent.look_again) {
            self.poke(node, 1);
        }
        self.poke(node, again);
    }

    fn act(&mut self, node: NodeId, action: Action) {
        match action {
            Action::RenewLease => self.renew_lease(node),
            Action::Commit(change) => self.commit(node, change.purpose, change.txn),
            Action::Run(job) => self.run_job(node, job),
            Action::Configure(settings) => self.configure(node, settings),
            Action::DropLease => {
                if let Some(lease) = self.nodes[node].agent.lease.take() {
                    self.request(node, Ask::Revoke(lease.id));
                }
            }
        }
    }

    fn configure(&mut self, node: NodeId, settings: Settings) {
        let this = &mut self.nodes[node];
        if this.settings == settings || this.disk.dir().is_none() {
            return;
        }
        self.note(|| format!("{node}: settings {settings:?}"));
        self.nodes[node].settings = settings;
        if matches!(self.nodes[node].pg.process, Process::Running { .. }) {
            let delay = self.random(1, 20);
            self.pg_after(node, delay, PgEvent::Reload);
        }
    }

    fn commit(&mut self, node: NodeId, purpose: Purpose, txn: Txn) {
        if self.nodes[node].agent.pending.is_some() {
            return;
        }
        let grant = txn.needs_leader_lease().then(|| self.unique());
        let lease = grant.map(|id| HeldLease { id, renewed: self.now });
        let leases = Leases { leader: grant, member: self.nodes[node].agent.member_lease };
        self.note(|| format!("{node}: commits {purpose:?}"));
        let request = self.request(node, Ask::Commit { purpose, txn, grant, leases });
        self.nodes[node].agent.pending = Some(Pending { request, lease });
    }

    fn answered(&mut self, node: NodeId, request: u64, applied: bool, view: Rc<View>) {
        let agent = &mut self.nodes[node].agent;
        let Some(pending) = agent.pending.take_if(|pending| pending.request == request) else {
            self.take_view(node, view);
            return self.poke(node, 1);
        };
        if let Some(lease) = pending.lease {
            if applied {
                agent.lease = Some(lease);
                self.arm_guard(node);
            } else {
                self.request(node, Ask::Revoke(lease.id));
            }
        }
        self.take_view(node, view);
        self.poke(node, 1);
    }

    fn timed_out(&mut self, node: NodeId, request: u64) {
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

    fn renew_lease(&mut self, node: NodeId) {
        let agent = &self.nodes[node].agent;
        let (Some(lease), None) = (agent.lease, agent.renewing) else { return };
        let request = self.request(node, Ask::Renew(lease.id));
        self.nodes[node].agent.renewing = Some((request, self.now));
    }

    fn renewed(&mut self, node: NodeId, request: u64, alive: bool) {
        let agent = &mut self.nodes[node].agent;
        let Some((_, sent)) = agent.renewing.take_if(|(id, _)| *id == request) else { return };
        match (&mut agent.lease, alive) {
            (Some(lease), true) => {
                lease.renewed = lease.renewed.max(sent);
                self.arm_guard(node);
            }
            (lease, _) => *lease = None,
        }
        self.poke(node, 1);
    }

    /// The guard learns how long the lease lasts.
    fn arm_guard(&mut self, node: NodeId) {
        let Some(lease) = self.nodes[node].agent.lease else { return };
        let deadline = lease.renewed + self.setup.ttl;
        self.nodes[node].deadline = Some(deadline);
        let delay = deadline.saturating_sub(self.now);
        self.after(delay, crate::event::Event::Guard(node));
    }

    /// A PostgreSQL that cannot write needs no guard.
    fn disarm_guard(&mut self, node: NodeId) {
        let this = &self.nodes[node];
        let idle = matches!(this.pg.process, Process::Stopped | Process::Running { recovery: true });
        if this.agent.lease.is_none() && idle && !this.pg.promoting {
            self.nodes[node].deadline = None;
        }
    }

    pub(crate) fn guard(&mut self, node: NodeId) {
        if self.nodes[node].deadline.is_none_or(|deadline| deadline > self.now) {
            return;
        }
        // Nobody takes over while the cluster is paused, so PostgreSQL may outlive its lease.
        let paused = self.nodes[node].agent.view.as_ref().is_some_and(|view| view.paused);
        if paused || self.mutes_guard() {
            return;
        }
        self.nodes[node].deadline = None;
        if self.nodes[node].pg.process != Process::Stopped {
            self.note(|| format!("{node}: the guard kills PostgreSQL"));
            self.kill_postgres(node);
        }
    }

    fn job_end(&mut self, node: NodeId, id: u64, failure: Option<JobFailure>) {
        let agent = &mut self.nodes[node].agent;
        let Some((_, job)) = agent.job.take_if(|(running, _)| *running == id) else { return };
        if failure.is_none() && job == Job::Clone {
            agent.reinit = false;
        }
        let at = self.now;
        self.note(|| match &failure {
            Some(failure) => format!("{node}: {job:?} failed: {}", failure.message),
            None => format!("{node}: {job:?} done"),
        });
        self.nodes[node].agent.finished = Some(Finished { job, at, failure });
        self.poke(node, 1);
    }

    /// After a promotion the leader publishes where timelines forked.
    fn publish_history(&mut self, node: NodeId, observation: &Observation) {
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
    fn announce(&mut self, node: NodeId, observation: &Observation) {
        if observation.store.is_none() {
            return;
        }
        let text = serde_json::to_string(&self.member_record(node, observation)).expect("records are plain data");
        let agent = &mut self.nodes[node].agent;
        if agent.announced.as_ref() == Some(&text) {
            return;
        }
        // One at a time, so that an older record does not overtake a newer one.
        if agent.announcing.is_some() {
            agent.announce_again = true;
            return;
        }
        self.send_record(node, Some(text));
    }

    fn told(&mut self, node: NodeId, request: u64) {
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
        let optime = self.nodes[node].pg.writable().then(|| self.nodes[node].wal().map(|wal| wal.end(wal.flushed).0));
        let optime = optime.flatten().filter(|_| self.nodes[node].agent.lease.is_some());
        if text.is_some() {
            self.nodes[node].agent.announced = text;
        }
        let key = key::member(&self.nodes[node].name);
        let record = self.nodes[node].agent.announced.clone().map(|text| (key, text));
        let request = self.request(node, Ask::Announce { lease, record, optime });
        self.nodes[node].agent.announcing = Some(request);
    }

    fn member_record(&self, node: NodeId, observation: &Observation) -> MemberRecord {
        let running = observation.running();
        let busy = observation.busy.as_ref();
        let state = match (&observation.server, busy) {
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
        let epoch = sync.filter(|sync| leads && role == Role::Primary && sync.leader == *name).map_or(0, |s| s.epoch);
        let nofailover = self.nodes[node].nofailover;
        let tags = if nofailover { BTreeMap::from([("nofailover".to_owned(), true.into())]) } else { BTreeMap::new() };
        MemberRecord {
            conn_url: format!("postgres://{name}:5432/postgres"),
            api_url: format!("http://{name}:8008/patroni"),
            state: state.to_owned(),
            role,
            version: "4.0.0".to_owned(),
            xlog_location: None,
            receive_lsn: None,
            replay_lsn: None,
            replication_state: running.filter(|r| r.streaming).map(|_| "streaming".to_owned()),
            timeline: running.map(|running| running.timeline),
            tags,
            pending_restart: false,
            pending_restart_reason: BTreeMap::new(),
            pause: false,
            incarnation: observation.incarnation().cloned(),
            epoch,
            unix_socket: None,
            host_id: None,
            tls: false,
            problem: None,
        }
    }

    fn housekeeping(&mut self, node: NodeId) {
        let agent = &self.nodes[node].agent;
        if agent.announced.is_some() && agent.announcing.is_none() {
            self.send_record(node, None);
        }
        let delay = self.random(2000, 3000);
        self.agent_after(node, delay, AgentEvent::Housekeeping);
    }

    /// An agent that was asked to stop goes once PostgreSQL is down and the lead is given up.
    fn exit_when_stopped(&mut self, node: NodeId, observation: &Observation) {
        let agent = &self.nodes[node].agent;
        let leads = observation
            .store
            .as_ref()
            .and_then(|view| view.leader.as_ref())
            .is_some_and(|leader| leader.held && leader.name == self.nodes[node].name);
        if !agent.stopping || leads || agent.pending.is_some() || agent.job.is_some() {
            return;
        }
        if self.nodes[node].pg.process == Process::Stopped {
            if let Some(lease) = agent.member_lease {
                self.request(node, Ask::Revoke(lease));
            }
            self.kill_agent(node);
        }
    }
}
