//! The world: its clock, its queue of events, and who handles which.

use std::cmp::Ordering;
use std::collections::{BTreeSet, BinaryHeap, VecDeque};
use std::rc::Rc;

use matriarch_core::decide::{CrashPolicy, Millis, Policy, Synchronous};
use matriarch_core::{Incarnation, MemberName};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::check::Checker;
use crate::clock::Clock;
use crate::event::{AgentEvent, Event, PgEvent};
use crate::mutation::Mutation;
use crate::node::{Node, NodeId};
use crate::others::Others;
use crate::store::{Backup, Store};
use crate::trap::Trap;

/// How a cluster is set up.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Names of the members.
    pub members: Vec<String>,
    /// Those that are never to lead.
    pub nofailover: BTreeSet<String>,
    /// Life of the leader lease.
    pub ttl: Millis,
    /// How acknowledgements wait.
    pub synchronous: Synchronous,
    /// Zone of each member; none without it.
    pub zones: Vec<String>,
    /// Boot clock of each member; all show the time of the world without it.
    pub clocks: Vec<Clock>,
    /// See [`Policy::shrink_delay`].
    pub shrink_delay: Millis,
    /// See [`Policy::crash`].
    pub crash: CrashPolicy,
    /// See [`Policy::use_rewind`].
    pub use_rewind: bool,
    /// See [`Policy::maximum_lag_on_failover`].
    pub max_lag: u64,
    /// Seconds of silence after which either end of a stream gives it up.
    pub stream_timeout: u32,
    /// Clients that write.
    pub clients: usize,
    /// No guard ever stops a server.
    pub unguarded: bool,
    /// Every machine must have a watchdog to lead.
    pub watchdogs: bool,
    /// Jobs of a hundred that fail.
    pub flaky: u32,
    /// A bug to be put in.
    pub mutation: Option<Mutation>,
}

impl Default for Setup {
    fn default() -> Self {
        Setup {
            members: ["a", "b", "c"].map(str::to_owned).to_vec(),
            nofailover: BTreeSet::new(),
            ttl: 5000,
            synchronous: Synchronous { needed: 1, from_members: 3, ..Synchronous::default() },
            zones: Vec::new(),
            clocks: Vec::new(),
            shrink_delay: 2000,
            crash: CrashPolicy::Failover,
            use_rewind: true,
            max_lag: 1 << 20,
            stream_timeout: 5,
            clients: 2,
            unguarded: false,
            watchdogs: false,
            flaky: 0,
            mutation: None,
        }
    }
}

#[derive(Debug)]
struct Scheduled {
    at: Millis,
    order: u64,
    event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}
impl Eq for Scheduled {}
impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

/// What happened, for people, with a fingerprint of all of it.
#[derive(Debug, Default)]
pub struct Trace {
    /// Lines are kept.
    pub enabled: bool,
    /// The lines.
    pub lines: Vec<String>,
    /// Fingerprint of every line so far.
    pub hash: u64,
}

/// Everything there is.
#[derive(Debug)]
pub struct World {
    /// Milliseconds since the beginning.
    pub now: Millis,
    /// How it was set up.
    pub setup: Setup,
    /// The store.
    pub store: Store,
    /// The store answers nobody.
    pub store_down: bool,
    /// Answers of the store of a hundred that get lost.
    pub lost_answers: u32,
    /// Requests of a hundred that are held up for seconds.
    pub delayed_requests: u32,
    /// The members.
    pub nodes: Vec<Node>,
    /// The program that kept the cluster before ours.
    pub others: Option<Others>,
    /// A router that has announced itself: whether it ever says that it holds.
    pub router: Option<bool>,
    /// Pairs of members that cannot replicate.
    pub cuts: BTreeSet<(NodeId, NodeId)>,
    /// Members whose frames do not reach another: from, to.
    pub silenced: BTreeSet<(NodeId, NodeId)>,
    /// Frames get lost, delayed and doubled.
    pub unsteady_beats: bool,
    /// Backups of the store, one a second, oldest first.
    pub backups: VecDeque<(Millis, Backup)>,
    /// A fault that waits for a step.
    pub trap: Option<Trap>,
    /// When the fault of the newest trap ends.
    pub trapped_until: Millis,
    /// Watches over the invariants.
    pub checker: Checker,
    /// What happened.
    pub trace: Trace,
    rng: SmallRng,
    queue: BinaryHeap<Scheduled>,
    order: u64,
}

impl World {
    /// A world where nothing runs yet.
    pub fn new(seed: u64, setup: Setup, trace: bool) -> World {
        let names: Vec<MemberName> =
            setup.members.iter().map(|name| name.parse().expect("setups name members well")).collect();
        let mut nodes: Vec<Node> = names.into_iter().map(Node::new).collect();
        for (place, node) in nodes.iter_mut().enumerate() {
            node.clock = setup.clocks.get(place).copied().unwrap_or_default();
            node.nofailover = setup.nofailover.contains(node.name.as_str());
        }
        // Those bugs show only where requests are lost or late, and then seldom.
        let requests_late = if setup.mutation == Some(Mutation::ProposalForgotten) { 30 } else { 0 };
        let mut world = World {
            now: 0,
            store: Store::default(),
            store_down: false,
            lost_answers: requests_late,
            delayed_requests: requests_late,
            nodes,
            others: None,
            router: None,
            cuts: BTreeSet::new(),
            silenced: BTreeSet::new(),
            unsteady_beats: false,
            backups: VecDeque::new(),
            trap: None,
            trapped_until: 0,
            checker: Checker::default(),
            trace: Trace { enabled: trace, ..Trace::default() },
            rng: SmallRng::seed_from_u64(seed),
            queue: BinaryHeap::new(),
            order: 0,
            setup,
        };
        for client in 0..world.setup.clients {
            world.after(50, Event::Client(client));
        }
        world.after(100, Event::Check);
        world
    }

    /// A number in `low..=high`.
    pub fn random(&mut self, low: u64, high: u64) -> u64 {
        self.rng.random_range(low..=high)
    }

    /// True `percent` times in a hundred.
    pub fn chance(&mut self, percent: u32) -> bool {
        percent > 0 && self.rng.random_range(0..100) < percent
    }

    /// A number never given before.
    pub fn unique(&mut self) -> u64 {
        self.order += 1;
        self.order
    }

    /// A new identity for a data directory.
    pub fn incarnation(&mut self) -> Incarnation {
        Incarnation::from_bits(self.rng.random())
    }

    /// Makes something happen after so many milliseconds.
    pub fn after(&mut self, delay: Millis, event: Event) {
        self.order += 1;
        self.queue.push(Scheduled { at: self.now + delay, order: self.order, event });
    }

    /// Makes something happen to the agent process that now runs on a node.
    pub fn agent_after(&mut self, node: NodeId, delay: Millis, event: AgentEvent) {
        let generation = self.nodes[node].agent.generation;
        self.after(delay, Event::Agent(node, generation, event));
    }

    /// Makes something happen to the server process that now runs on a node.
    pub fn pg_after(&mut self, node: NodeId, delay: Millis, event: PgEvent) {
        let generation = self.nodes[node].pg.generation;
        self.after(delay, Event::Pg(node, generation, event));
    }

    /// Notes what happened.
    pub fn note(&mut self, line: impl FnOnce() -> String) {
        if !self.trace.enabled {
            return;
        }
        let line = format!("{:>9.3} {}", self.now as f64 / 1000.0, line());
        for byte in line.bytes() {
            self.trace.hash = (self.trace.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        self.trace.lines.push(line);
    }

    /// What a member is configured to do.
    pub fn policy(&self, node: NodeId) -> Policy {
        let paused = self.nodes[node].agent.view.as_ref().is_some_and(|view| view.paused);
        Policy {
            me: self.nodes[node].name.clone(),
            ttl: self.setup.ttl,
            paused: paused && self.setup.mutation != Some(Mutation::PauseIgnored),
            crash: self.setup.crash,
            synchronous: self.mutated(self.setup.synchronous),
            shrink_delay: self.setup.shrink_delay,
            maximum_lag_on_failover: match self.setup.mutation {
                Some(Mutation::LagIgnored) => u64::MAX,
                _ => self.setup.max_lag,
            },
            start_timeout: 300_000,
            stall_limit: Some(3000),
            use_rewind: self.setup.use_rewind,
            clone_after_rewind: true,
            clone_diverged: true,
            may_lead: !self.nodes[node].nofailover || self.setup.mutation == Some(Mutation::TagIgnored),
            from_archive: false,
            zone: self.setup.zones.get(node).cloned(),
            hold_timeout: 5_000,
            bootstrap_config: None,
        }
    }

    /// What a member's boot clock shows.
    pub fn clock(&self, node: NodeId) -> Millis {
        self.nodes[node].clock.read(self.now)
    }

    /// The member of this name.
    pub fn find(&self, name: &MemberName) -> Option<NodeId> {
        self.nodes.iter().position(|node| node.name == *name)
    }

    /// Whether two members can replicate.
    pub fn connected(&self, a: NodeId, b: NodeId) -> bool {
        !self.cuts.contains(&(a.min(b), a.max(b)))
    }

    /// Whether a member can reach the store.
    pub fn reaches_store(&self, node: NodeId) -> bool {
        !self.store_down && !self.nodes[node].cut_off
    }

    /// Whether a member can hear what the store answers.
    pub fn hears_store(&self, node: NodeId) -> bool {
        self.reaches_store(node) && !self.nodes[node].store_unheard
    }

    /// Lets one event happen; false after a violation.
    pub fn step(&mut self) -> bool {
        let Some(Scheduled { at, event, .. }) = self.queue.pop() else { return false };
        self.now = at;
        self.handle(event);
        !self.ended()
    }

    /// Lets time pass; false after a violation.
    pub fn run_for(&mut self, time: Millis) -> bool {
        self.run_until(time, |_| false);
        !self.ended()
    }

    /// Lets time pass until something holds (looked at every 50 ms); whether it came to hold.
    pub fn run_until(&mut self, limit: Millis, mut holds: impl FnMut(&mut World) -> bool) -> bool {
        let end = self.now + limit;
        loop {
            if holds(self) {
                return true;
            }
            if self.now >= end {
                return false;
            }
            let next = (self.now + 50).min(end);
            while self.queue.peek().is_some_and(|scheduled| scheduled.at <= next) {
                if !self.step() {
                    return false;
                }
            }
            self.now = next;
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Agent(node, generation, event) => {
                let agent = &self.nodes[node].agent;
                if !agent.alive || agent.generation != generation {
                    return;
                }
                if self.nodes[node].frozen || self.nodes[node].agent_frozen {
                    self.nodes[node].deferred.push(Event::Agent(node, generation, event));
                    return;
                }
                self.agent_event(node, event);
            }
            Event::Pg(node, generation, event) => {
                if self.nodes[node].pg.generation != generation {
                    return;
                }
                if self.nodes[node].frozen {
                    self.nodes[node].deferred.push(Event::Pg(node, generation, event));
                    return;
                }
                self.pg_event(node, event);
            }
            Event::Guard(node) if self.nodes[node].frozen => self.nodes[node].deferred.push(Event::Guard(node)),
            Event::Guard(node) => self.guard(node),
            Event::WatchdogEnds(node, kicks) => self.watchdog_ends(node, kicks),
            Event::Request(request) => self.store_request(*request),
            Event::LeaseEnd(id) => self.lease_end(id),
            Event::Client(client) => self.client(client),
            Event::Inject(fault) => self.inject(fault),
            Event::Heal(fault) => self.heal(&fault),
            Event::Router => self.router_answers(),
            Event::Others => self.others_tick(),
            Event::Check => {
                self.check_regularly();
                self.back_up();
                self.after(100, Event::Check);
            }
        }
    }

    fn back_up(&mut self) {
        if self.backups.back().is_none_or(|(at, _)| self.now >= at + 1000) {
            self.backups.push_back((self.now, self.store.backup()));
            if self.backups.len() > 30 {
                self.backups.pop_front();
            }
        }
    }

    /// Lets what waited on a frozen node happen now, in order, with small delays.
    pub fn release_deferred(&mut self, node: NodeId) {
        let mut delay = 0;
        for event in std::mem::take(&mut self.nodes[node].deferred) {
            // The guard is as slow to wake as anything else.
            delay = if matches!(event, Event::Guard(_)) { self.random(0, 30) } else { delay + self.random(0, 3) };
            self.after(delay.min(60), event);
        }
    }

    /// Tells every agent that can hear it that the store has changed.
    pub fn announce_change(&mut self) {
        let view = self.store.view();
        for node in 0..self.nodes.len() {
            if self.nodes[node].agent.alive && self.hears_store(node) {
                let delay = self.random(1, 15);
                self.agent_after(node, delay, AgentEvent::View(Rc::clone(&view)));
            }
        }
    }
}
