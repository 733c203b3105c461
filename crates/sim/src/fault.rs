//! Everything that can go wrong, how it begins and how it ends.

use matriarch_core::decide::{Ailment, Millis};
use matriarch_core::record::{FailoverRequest, RouterKind, RouterRecord, key};

use crate::disk::Disk;
use crate::event::{AgentEvent, Event};
use crate::mutation::Mutation;
use crate::node::NodeId;
use crate::others::Act;
use crate::store::Backup;
use crate::store::ROUTER;
use crate::world::World;

/// What volumes are called here.
const DATA: &str = "its data directory";

/// A fault or an act of a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The postmaster is killed.
    KillPostmaster(NodeId),
    /// The agent is killed; healed by a new one.
    KillAgent(NodeId),
    /// Agent and PostgreSQL are killed.
    KillNode(NodeId),
    /// The machine loses power, and what was not flushed.
    PowerCut(NodeId),
    /// The whole machine stands still.
    Freeze(NodeId),
    /// Only the agent stands still.
    FreezeAgent(NodeId),
    /// The data directory is deleted.
    Wipe(NodeId),
    /// The data directory is filled with garbage.
    Garbage(NodeId),
    /// The data directory is replaced by an older copy made by others: agent and PostgreSQL stopped meanwhile.
    Restore(NodeId),
    /// The store answers nobody.
    StoreDown,
    /// The store loses everything.
    WipeStore,
    /// The store is replaced by a backup of at least so many milliseconds ago.
    RestoreStore(Millis),
    /// One member cannot reach the store.
    CutOff(NodeId),
    /// What the store sends one member does not arrive; the other way it does.
    StoreUnheard(NodeId),
    /// Answers of the store get lost.
    LostAnswers,
    /// Requests to the store are held up.
    DelayedRequests,
    /// Most of them are.
    LateStore,
    /// Flushing takes long: so many milliseconds.
    SlowDisk(NodeId, Millis),
    /// Settings take long to be written: about so many milliseconds.
    SlowSettings(NodeId, Millis),
    /// PostgreSQL neither starts, held up before there is a process, nor comes to the end of a promotion.
    HoldStarts(NodeId),
    /// Jobs fail often.
    Flaky,
    /// A person asks for another primary.
    Switchover(Option<NodeId>),
    /// A person gives up what only those that are gone have, and names the member to go on with.
    AcceptLoss(NodeId),
    /// Two members cannot replicate.
    Cut(NodeId, NodeId),
    /// What one member's agent sends another's does not arrive; the other way it does.
    Silence(NodeId, NodeId),
    /// What agents send each other gets lost, delayed and doubled.
    UnsteadyBeats,
    /// A volume swallows writes: they neither end nor fail.
    StallDisk(NodeId),
    /// A volume has no room left.
    FillDisk(NodeId),
    /// A volume fails every write: what was not flushed is gone, and PostgreSQL gives up.
    FailDisk(NodeId),
    /// Another process has the watchdog.
    TakeWatchdog(NodeId),
    /// The postmaster lets nobody in, while its processes go on.
    HangPostmaster(NodeId),
    /// The startup process of a standby stands still.
    StopReplay(NodeId),
    /// One member hears and reaches no other.
    CutFromMembers(NodeId),
    /// One member hears and reaches nobody, the store included.
    CutFromAll(NodeId),
    /// A person asks for a member to be made anew.
    Reinit(NodeId),
    /// A person stops an agent and starts it again.
    RestartAgent(NodeId),
    /// A person stops every agent and starts them again.
    StopAll,
    /// Every machine loses power.
    PowerCutAll,
    /// A person pauses the cluster.
    Pause,
    /// A member has the directory of another cluster in the place of its own, until a person moves that away.
    Foreign(NodeId),
    /// `sync` is deleted while a member and its PostgreSQL are stopped, which starts anew with no memory of it.
    LoseRecord(NodeId),
    /// What the program does that keeps the cluster before ours, or a person beside it.
    Others(Act),
    /// A router announces itself, and answers when it is to hold, or never does; healed, it is gone.
    Router(bool),
}

impl Fault {
    /// Whose data directory it takes away.
    pub fn loses_data_of(&self) -> Option<NodeId> {
        match *self {
            Fault::Wipe(node)
            | Fault::Garbage(node)
            | Fault::Restore(node)
            | Fault::Reinit(node)
            | Fault::Foreign(node) => Some(node),
            _ => None,
        }
    }
}

impl World {
    fn ail(&mut self, node: NodeId, ailment: Ailment) {
        self.nodes[node].ailment = Some(ailment);
        self.poke(node, 1);
    }

    /// A fault begins.
    pub fn inject(&mut self, fault: Fault) {
        self.note(|| format!("FAULT {fault:?}"));
        match fault {
            Fault::KillPostmaster(node) => self.kill_postgres(node),
            Fault::KillAgent(node) => self.kill_agent(node),
            Fault::KillNode(node) => {
                self.kill_agent(node);
                self.kill_postgres(node);
            }
            Fault::PowerCut(node) => self.power_cut(node),
            Fault::Freeze(node) => {
                self.nodes[node].frozen = true;
                self.nodes[node].frozen_at = self.now;
            }
            Fault::FreezeAgent(node) => self.nodes[node].agent_frozen = true,
            Fault::Wipe(node) => self.replace_disk(node, Disk::Missing),
            Fault::Garbage(node) => self.replace_disk(node, Disk::Garbage),
            Fault::Restore(node) => self.restore(node),
            Fault::StoreDown => self.store_down = true,
            Fault::WipeStore => self.replace_store(Backup::default()),
            Fault::RestoreStore(age) => {
                let oldest = self.backups.front();
                let backup = self.backups.iter().rfind(|(at, _)| at + age <= self.now).or(oldest);
                if let Some((_, backup)) = backup.cloned() {
                    self.replace_store(backup);
                }
            }
            Fault::CutOff(node) => self.nodes[node].cut_off = true,
            Fault::StoreUnheard(node) => self.nodes[node].store_unheard = true,
            Fault::LostAnswers => self.lost_answers = 30,
            Fault::DelayedRequests => self.delayed_requests = 30,
            Fault::LateStore => self.delayed_requests = 80,
            Fault::SlowDisk(node, time) => self.nodes[node].slow_disk = Some(time),
            Fault::StallDisk(node) => {
                self.ail(node, Ailment::Stalled { since: self.clock(node), place: DATA.to_owned() })
            }
            Fault::FillDisk(node) => self.ail(node, Ailment::Full { place: DATA.to_owned(), free: 0 }),
            Fault::StopReplay(node) => self.ail(node, Ailment::ReplayStill { since: self.clock(node) }),
            Fault::FailDisk(node) => self.nodes[node].failing = true,
            Fault::TakeWatchdog(node) => {
                self.nodes[node].watchdog.taken = true;
                self.poke(node, 1);
            }
            Fault::HangPostmaster(node) => self.ail(node, Ailment::Deaf { since: self.clock(node) }),
            Fault::SlowSettings(node, time) => self.nodes[node].slow_settings = Some(time),
            Fault::HoldStarts(node) => self.nodes[node].holds_starts = true,
            Fault::Flaky => self.setup.flaky = 40,
            Fault::Switchover(candidate) => self.ask_for_switchover(candidate),
            Fault::AcceptLoss(node) => self.accept_loss(node),
            Fault::Cut(a, b) => {
                self.cuts.insert((a.min(b), a.max(b)));
            }
            Fault::Silence(from, to) => drop(self.silenced.insert((from, to))),
            Fault::UnsteadyBeats => self.unsteady_beats = true,
            Fault::CutFromMembers(node) => self.cut_from_members(node),
            Fault::CutFromAll(node) => {
                self.nodes[node].cut_off = true;
                self.cut_from_members(node);
            }
            Fault::Reinit(node) => {
                self.nodes[node].agent.reinit = true;
                self.poke(node, 1);
            }
            Fault::RestartAgent(node) => self.stop_agent(node),
            Fault::StopAll => (0..self.nodes.len()).for_each(|node| self.stop_agent(node)),
            Fault::PowerCutAll => (0..self.nodes.len()).for_each(|node| self.power_cut(node)),
            Fault::Pause => self.set_paused(true),
            Fault::Foreign(node) => self.bring_stray(node),
            Fault::LoseRecord(node) => self.lose_record(node),
            Fault::Others(act) => self.act_of_others(&act),
            Fault::Router(answers) => self.announce_router(answers),
        }
    }

    /// A fault ends.
    pub fn heal(&mut self, fault: &Fault) {
        self.note(|| format!("HEALED {fault:?}"));
        match *fault {
            Fault::KillAgent(node) | Fault::KillNode(node) | Fault::Restore(node) | Fault::LoseRecord(node) => {
                self.start_agent(node);
            }
            Fault::PowerCut(node) => self.power_on(node),
            Fault::Freeze(node) => {
                let this = &mut self.nodes[node];
                if this.frozen && self.setup.mutation == Some(Mutation::ClockStopsAsleep) {
                    this.clock.stood += self.now - this.frozen_at;
                }
                this.frozen = false;
                this.thawed = Some(self.now);
                self.release_deferred(node);
            }
            Fault::FreezeAgent(node) => {
                self.nodes[node].agent_frozen = false;
                self.nodes[node].agent_thawed = self.now;
                self.release_deferred(node);
            }
            Fault::StoreDown => {
                self.store_down = false;
                self.store_reachable_again();
            }
            Fault::CutOff(node) => {
                self.nodes[node].cut_off = false;
                self.store_reachable_again();
            }
            Fault::StoreUnheard(node) => {
                self.nodes[node].store_unheard = false;
                self.store_reachable_again();
            }
            Fault::LostAnswers => self.lost_answers = 0,
            Fault::DelayedRequests | Fault::LateStore => self.delayed_requests = 0,
            Fault::SlowDisk(node, _) => self.nodes[node].slow_disk = None,
            Fault::StallDisk(node) | Fault::FillDisk(node) | Fault::HangPostmaster(node) => {
                self.nodes[node].ailment = None;
                self.poke(node, 1);
            }
            Fault::StopReplay(node) => self.replay_again(node),
            Fault::FailDisk(node) => self.nodes[node].failing = false,
            Fault::TakeWatchdog(node) => {
                self.nodes[node].watchdog.taken = false;
                self.poke(node, 1);
            }
            Fault::SlowSettings(node, _) => self.nodes[node].slow_settings = None,
            Fault::HoldStarts(node) => {
                self.nodes[node].holds_starts = false;
                if let Some(job) = self.nodes[node].held_start {
                    self.agent_after(node, 0, AgentEvent::StartHeld(job));
                }
            }
            Fault::Flaky => self.setup.flaky = 0,
            Fault::Cut(a, b) => {
                self.cuts.remove(&(a.min(b), a.max(b)));
            }
            Fault::Silence(from, to) => drop(self.silenced.remove(&(from, to))),
            Fault::UnsteadyBeats => self.unsteady_beats = false,
            Fault::CutFromMembers(node) => self.join_members(node),
            Fault::CutFromAll(node) => {
                self.join_members(node);
                self.heal(&Fault::CutOff(node));
            }
            Fault::RestartAgent(node) => self.start_again(node),
            Fault::StopAll => (0..self.nodes.len()).for_each(|node| self.start_again(node)),
            Fault::PowerCutAll => (0..self.nodes.len()).for_each(|node| {
                let delay = self.random(0, 3000);
                self.after(delay, Event::Heal(Fault::PowerCut(node)));
            }),
            Fault::Pause => self.set_paused(false),
            Fault::Foreign(node) => self.move_stray_away(node),
            Fault::Router(_) => {
                self.router = None;
                self.store.remove(&key::router(ROUTER));
                self.store_changed();
            }
            Fault::KillPostmaster(_)
            | Fault::Wipe(_)
            | Fault::Garbage(_)
            | Fault::Switchover(_)
            | Fault::AcceptLoss(_)
            | Fault::WipeStore
            | Fault::RestoreStore(_)
            | Fault::Others(_)
            | Fault::Reinit(_) => {}
        }
    }

    fn cut_from_members(&mut self, node: NodeId) {
        for other in (0..self.nodes.len()).filter(|other| *other != node) {
            self.cuts.insert((node.min(other), node.max(other)));
            self.silenced.extend([(node, other), (other, node)]);
        }
    }

    fn join_members(&mut self, node: NodeId) {
        self.cuts.retain(|(a, b)| *a != node && *b != node);
        self.silenced.retain(|(from, to)| *from != node && *to != node);
    }

    pub(crate) fn power_cut(&mut self, node: NodeId) {
        self.kill_agent(node);
        if let Some(dir) = self.nodes[node].disk.dir_mut() {
            let flushed = dir.wal.flushed;
            dir.wal.truncate(flushed);
        }
        self.server_gone(node, false);
        let this = &mut self.nodes[node];
        this.powered = false;
        this.frozen = false;
        this.deferred.clear();
        this.deadline = None;
        this.fired = false;
        this.watchdog.kicked = None;
    }

    pub(crate) fn power_on(&mut self, node: NodeId) {
        self.boot_clock_begins(node);
        self.nodes[node].powered = true;
        self.start_agent(node);
    }

    /// A boot clock begins anew with the machine, so what was promised by the old one counts in full again.
    fn boot_clock_begins(&mut self, node: NodeId) {
        if self.nodes[node].powered || self.setup.clocks.is_empty() {
            return;
        }
        self.nodes[node].clock.ahead = self.random(1_000, 1_000_000);
        let forgets = self.setup.mutation == Some(Mutation::PromiseEndsWithBoot);
        let until = self.clock(node) + self.setup.ttl;
        let this = &mut self.nodes[node];
        this.promised_until = if this.promised_until > 0 && !forgets { until } else { 0 };
    }

    /// Asks an agent to stop.
    pub(crate) fn stop_agent(&mut self, node: NodeId) {
        self.nodes[node].agent.stopping = true;
        self.poke(node, 1);
    }

    /// Starts an agent that was asked to stop; one that has not come to an end by now is killed first.
    fn start_again(&mut self, node: NodeId) {
        if self.nodes[node].agent.alive && self.nodes[node].agent.stopping {
            self.kill_agent(node);
        }
        self.start_agent(node);
    }

    /// An older copy of the data, made by a tool of others, so without our identity in it.
    fn restore(&mut self, node: NodeId) {
        self.kill_agent(node);
        self.kill_postgres(node);
        let incarnation = self.incarnation();
        let back = self.random(10, 60) as usize;
        self.note_loss(node);
        if let Some(dir) = self.nodes[node].disk.dir_mut() {
            let kept = dir.wal.len().saturating_sub(back).max(1);
            dir.wal.truncate(kept);
            dir.incarnation = Some(incarnation);
            dir.clean = false;
            dir.checkpoint = (dir.wal.timeline(kept), dir.wal.end(kept));
        }
    }

    fn ask_for_switchover(&mut self, candidate: Option<NodeId>) {
        self.checker.wished = Some(self.now);
        let member = candidate.map(|node| self.nodes[node].name.clone());
        let leader = self.store.view().cluster.leader.as_ref().map(|leader| leader.name.clone());
        let request = FailoverRequest { leader, member, ..FailoverRequest::default() };
        let text = serde_json::to_string(&request).expect("a request is plain data");
        self.store.put(key::FAILOVER, text, None);
        self.store_changed();
    }

    fn accept_loss(&mut self, node: NodeId) {
        self.checker.wished = Some(self.now);
        let member = Some(self.nodes[node].name.clone());
        self.checker.loss_accepted_on = member.clone();
        let request = FailoverRequest { member, accept_data_loss: true, ..FailoverRequest::default() };
        let text = serde_json::to_string(&request).expect("a request is plain data");
        self.store.put(key::FAILOVER, text, None);
        self.store_changed();
    }

    fn announce_router(&mut self, answers: bool) {
        self.router = Some(answers);
        self.put_router(None);
    }

    /// The router holds what it is to hold, says the store; it tells so, unless it has.
    pub(crate) fn router_answers(&mut self) {
        let view = self.store.view();
        let holds = view.cluster.sync.as_ref().filter(|sync| sync.value.handover).map(|sync| sync.revision);
        let told = view.cluster.routers.get(ROUTER).map(|router| router.holds);
        if self.router == Some(true) && !self.store_down && told != Some(holds) {
            self.put_router(holds);
        }
    }

    fn put_router(&mut self, holds: Option<u64>) {
        let record = RouterRecord {
            kind: RouterKind::Pooler,
            address: "127.0.0.1:6432".to_owned(),
            network: None,
            holds,
            problem: None,
        };
        let text = serde_json::to_string(&record).expect("a record is plain data");
        self.store.put(&key::router(ROUTER), text, None);
        self.store_changed();
    }

    /// Pauses or resumes the cluster.
    pub(crate) fn set_paused(&mut self, paused: bool) {
        self.store.put(key::CONFIG, if paused { "paused" } else { "" }.to_owned(), None);
        self.store_changed();
    }
}
