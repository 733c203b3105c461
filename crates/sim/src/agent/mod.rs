//! The shell around `decide`: it looks, decides, and does what the decision says, as the real agent would.

mod announce;
mod lease;
mod state;

use std::rc::Rc;

use matriarch_core::decide::{
    Action, ClusterView, Finished, Job, JobFailure, Lease, Millis, Observation, Server, Settings, decide,
};

pub(crate) use announce::MEMBER_TTL;
pub(crate) use lease::ANSWER_LIMIT;
pub use state::{Agent, HeldLease, Pending, Snapshot};

use crate::disk::Disk;
use crate::event::{AgentEvent, Ask, Event, PgEvent};
use crate::mutation::Mutation;
use crate::node::NodeId;
use crate::server::Process;
use crate::store::View;
use crate::world::World;

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
                let snapshot = Box::new(self.nodes[node].look(self.clock(node)));
                let delay = self.random(1, 12);
                self.agent_after(node, delay, AgentEvent::Decide(snapshot));
            }
            AgentEvent::Decide(snapshot) => self.decide(node, *snapshot),
            AgentEvent::Configured => self.configured(node),
            AgentEvent::Work(id) => self.work_done(node, id),
            AgentEvent::StartHeld(id) => self.start_held(node, id),
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
                if self.hears_store(node) {
                    let view = self.store.view();
                    let delay = self.random(1, 10);
                    self.agent_after(node, delay, AgentEvent::View(view));
                } else {
                    self.agent_after(node, 300, AgentEvent::Read);
                }
            }
            AgentEvent::Housekeeping => self.housekeeping(node),
            AgentEvent::Beat => self.beat(node),
            AgentEvent::Reset(peer) => self.reset(node, peer),
        }
    }

    /// Starts an agent process.
    pub(crate) fn start_agent(&mut self, node: NodeId) {
        let this = &mut self.nodes[node];
        if this.agent.alive || !this.powered {
            return;
        }
        let generation = this.agent.generation + 1;
        if this.disk.dir().is_some_and(|dir| dir.incarnation.is_none()) {
            let identity = self.incarnation();
            if let Some(dir) = self.nodes[node].disk.dir_mut() {
                dir.incarnation = Some(identity);
            }
        }
        let this = &mut self.nodes[node];
        if self.setup.mutation == Some(Mutation::PromiseForgotten) {
            this.promised_until = 0;
        }
        this.agent = Agent { generation, alive: true, ..Agent::default() };
        self.note(|| format!("{node}: agent starts"));
        self.agent_after(node, 5, AgentEvent::Read);
        let delay = self.random(1000, 2000);
        self.agent_after(node, delay, AgentEvent::Housekeeping);
        let delay = self.random(1, 200);
        self.agent_after(node, delay, AgentEvent::Beat);
        self.poke(node, 10);
    }

    /// The agent process is gone, with the jobs it did itself.
    pub(crate) fn kill_agent(&mut self, node: NodeId) {
        // A clone is made beside the old data, which stays until it is complete.
        if let (Some((_, Job::Initdb | Job::Rewind)), false) =
            (&self.nodes[node].agent.job, self.nodes[node].agent.work_done)
        {
            self.nodes[node].disk = Disk::Unfinished;
        }
        let agent = &mut self.nodes[node].agent;
        agent.alive = false;
        agent.generation += 1;
        self.nodes[node].held_start = None;
        self.nodes[node].agent_frozen = false;
        self.note(|| format!("{node}: agent is gone"));
        self.connections_reset(node);
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
        let stale = |seen: &Rc<View>| (seen.life, seen.cluster.revision) > (view.life, view.cluster.revision);
        if agent.view.as_ref().is_some_and(stale) {
            return;
        }
        if let Some(sync) = view.cluster.sync.as_ref().map(|sync| &sync.value) {
            let newest = &mut self.nodes[node].newest;
            if newest.as_ref().is_none_or(|newest| (newest.epoch, newest.serial) < (sync.epoch, sync.serial)) {
                *newest = Some(sync.clone());
            }
            if self.setup.mutation == Some(Mutation::NewestForgotten) {
                let known = self.nodes[node].agent.newest.take();
                let newer = known.filter(|known| (known.epoch, known.serial) > (sync.epoch, sync.serial));
                self.nodes[node].agent.newest = newer.or_else(|| Some(sync.clone()));
            }
        }
        let agent = &mut self.nodes[node].agent;
        // A takeover whose answer is late or lost shows in the store.
        let offered = agent.pending.and_then(|pending| pending.lease).or(agent.maybe);
        if let Some(lease) = offered.filter(|lease| view.leader_lease == Some(lease.id)) {
            agent.maybe = None;
            agent.pending = None;
            agent.lease = Some(lease);
            self.arm_guard(node, lease.renewed + self.lease_time());
        }
        if self.setup.mutation == Some(Mutation::LeaseByWatch) {
            self.trust_reading(node, &view);
        }
        if let Some(dir) = self.nodes[node].disk.dir_mut()
            && view.cluster.initialize.as_ref().is_some_and(|system| system.value == dir.system)
        {
            dir.unclaimed = false;
        }
        self.nodes[node].agent.view = Some(view);
    }

    fn observation(&mut self, node: NodeId, snapshot: Snapshot) -> Observation {
        let (ttl, now) = (self.lease_time(), self.clock(node));
        let agent = &mut self.nodes[node].agent;
        let mut server = snapshot.server;
        if let Server::Running(running) = &mut server {
            agent.settling.seen(snapshot.begun);
            let forgotten = self.setup.mutation == Some(Mutation::UpstreamUnderWay);
            running.receiving |= running.in_recovery && !agent.settling.is_settled() && !forgotten;
        }
        let store: Option<ClusterView> = agent.view.as_ref().map(|view| {
            // Copying it is half the work of a decision, and most follow each other on one reading.
            let shown = agent.shown.take_if(|(seen, _)| Rc::ptr_eq(seen, view));
            let mut cluster = shown.map_or_else(|| view.cluster.clone(), |(_, cluster)| cluster);
            if let Some(leader) = &mut cluster.leader {
                leader.held = agent.lease.is_some_and(|lease| view.leader_lease == Some(lease.id));
            }
            cluster
        });
        let (pulse, support) = self.heard(node);
        let agent = &self.nodes[node].agent;
        Observation {
            now,
            alive: store.as_ref().map(|view| view.members.keys().cloned().collect()).unwrap_or_default(),
            store,
            lease: agent.lease.map(|lease| Lease { renewed: lease.renewed, until: lease.renewed + ttl }),
            data: snapshot.data,
            server,
            busy: snapshot.busy,
            finished: snapshot.finished,
            stopping: agent.stopping,
            reinit: agent.reinit,
            ailment: self.nodes[node].ailment.clone().filter(|_| self.nodes[node].pg.process != Process::Stopped),
            woke: self.woke(node),
            pulse,
            restart: false,
            support,
            newest: match self.setup.mutation {
                Some(Mutation::NewestForgotten) => agent.newest.clone(),
                _ => self.nodes[node].newest.clone(),
            },
            config: None,
            guarded_until: self.nodes[node].deadline,
            promised_until: self.nodes[node].promised_until,
            watchdog: self.lacks_watchdog(node),
        }
    }

    fn decide(&mut self, node: NodeId, snapshot: Snapshot) {
        self.nodes[node].agent.deciding = false;
        if self.nodes[node].pg.writable() {
            // The API refuses to make a leader anew, so the wish does not outlive a promotion.
            self.nodes[node].agent.reinit = false;
        }
        self.listen(node);
        let seen = self.nodes[node].agent.view.clone();
        let mut observation = self.observation(node, snapshot);
        self.mutate_observation(node, &mut observation);
        let policy = self.policy(node);
        self.mutate_memory(node, &observation);
        let mut decision = decide(&policy, &self.nodes[node].agent.memory, &observation);
        self.mutate_decision(node, &observation, &mut decision);
        let now = self.clock(node);
        let again = decision.next_wake.saturating_sub(now).max(1);
        let changed = self.nodes[node].agent.why.as_ref() != Some(&decision.why);
        if changed {
            let (code, text) = (decision.why.code, decision.why.text.clone());
            self.note(|| format!("{node}: [{code}] {text}"));
        }
        let agent = &mut self.nodes[node].agent;
        agent.memory = decision.memory;
        agent.why = Some(decision.why);
        agent.problem = decision.problem;
        agent.stance = decision.stance;
        agent.asks_promise = decision.asks_promise;
        if let Some(until) = decision.authority {
            if self.nodes[node].deadline.take_if(|deadline| *deadline > until).is_some() && until <= now {
                self.nodes[node].deadline = Some(now);
                self.after(0, Event::Guard(node));
            }
            self.arm_guard(node, until);
        }
        for action in decision.actions {
            self.act(node, action);
        }
        self.publish_history(node, &observation);
        self.announce(node, &observation);
        self.disarm_guard(node);
        self.exit_when_stopped(node, &observation);
        if self.setup.mutation.is_none() {
            let agent = &mut self.nodes[node].agent;
            agent.shown = seen.zip(observation.store);
        }
        if std::mem::take(&mut self.nodes[node].agent.look_again) {
            self.poke(node, 1);
        }
        self.poke(node, again);
    }

    fn act(&mut self, node: NodeId, action: Action) {
        match action {
            Action::RenewLease => self.renew_lease(node),
            Action::Commit(change) => self.commit(node, change.purpose, change.txn),
            // What is under way might come into force in the middle of it.
            Action::Run(Job::Promote) if self.nodes[node].agent.configuring.is_some() => {}
            Action::Run(job) => {
                self.run_job(node, job);
                self.step_taken(node);
            }
            Action::Configure(settings) => self.configure(node, settings),
            Action::DropLease => {
                if let Some(lease) = self.nodes[node].agent.lease.take() {
                    self.request(node, Ask::Revoke(lease.id));
                }
            }
            // Nobody asks for one here.
            Action::RefuseRestart(_) => {}
        }
    }

    fn configure(&mut self, node: NodeId, settings: Settings) {
        let this = &mut self.nodes[node];
        if this.agent.configuring.is_some() || this.disk.dir().is_none() {
            return;
        }
        let asked = Some(&settings) == this.agent.configured.as_ref();
        match this.pg.process {
            Process::Running { .. } if this.agent.job.is_none() && !asked => {
                this.agent.settling.asked(settings.upstream.is_some());
                this.agent.configuring = Some(settings.clone());
                let delay = match self.nodes[node].slow_settings {
                    Some(time) => self.random(time / 2, time * 3 / 2),
                    None => self.random(1, 12),
                };
                self.agent_after(node, delay, AgentEvent::Configured);
            }
            // The next start takes them along.
            Process::Stopped if this.settings != settings => this.settings = settings.clone(),
            _ => return,
        }
        self.note(|| format!("{node}: settings {settings:?}"));
        self.nodes[node].agent.configured = Some(settings);
        self.step_taken(node);
    }

    /// The files are written; PostgreSQL is told, and loads them in its own time.
    fn configured(&mut self, node: NodeId) {
        let now = self.clock(node);
        let this = &mut self.nodes[node];
        let Some(settings) = this.agent.configuring.take() else { return };
        if this.disk.dir().is_none() {
            return;
        }
        this.agent.settling.loaded(settings.upstream.is_some(), now);
        this.settings = settings;
        if matches!(this.pg.process, Process::Running { .. }) {
            let delay = self.random(0, 8);
            self.pg_after(node, delay, PgEvent::Reload);
        }
        self.poke(node, 1);
    }

    fn job_end(&mut self, node: NodeId, id: u64, failure: Option<JobFailure>) {
        let agent = &mut self.nodes[node].agent;
        let Some((_, job)) = agent.job.take_if(|(running, _)| *running == id) else { return };
        if failure.is_none() && job == Job::Clone {
            agent.reinit = false;
        }
        if matches!(job, Job::StartPrimary | Job::StartStandby | Job::Restart) {
            agent.configured = None;
            if failure.is_none() {
                agent.settling.started();
            }
        }
        let at = self.clock(node);
        self.note(|| match &failure {
            Some(failure) => format!("{node}: {job:?} failed: {}", failure.message),
            None => format!("{node}: {job:?} done"),
        });
        self.nodes[node].agent.finished = Some(Finished { job, at, failure });
        self.poke(node, 1);
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
        // As long as the cluster is another program's, PostgreSQL is left as it is.
        let guest = |view: &ClusterView| view.initialize.as_ref().is_some_and(|system| !system.value.is_empty());
        let guest = self.nodes[node].newest.is_none() && observation.store.as_ref().is_some_and(guest);
        if self.nodes[node].pg.process == Process::Stopped || guest {
            if let Some(lease) = agent.member_lease {
                self.request(node, Ask::Revoke(lease));
            }
            self.kill_agent(node);
        }
    }
}
