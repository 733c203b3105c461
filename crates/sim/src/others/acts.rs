//! What happens to the program that kept the cluster, and what people do beside it.

use matriarch_core::decide::Settings;
use matriarch_core::record::key;

use crate::disk::{Dir, Disk};
use crate::event::Event;
use crate::fault::Fault;
use crate::node::NodeId;
use crate::server::Process;
use crate::world::World;

/// What it does, and what people do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// It keeps the cluster, before anything of ours runs: the first member is the primary.
    Keep,
    /// It is stopped on a member: while the cluster is paused PostgreSQL runs on and its keys end by themselves, else both go.
    Stop(NodeId),
    /// It dies on a member; PostgreSQL runs on.
    Die(NodeId),
    /// It is started again on a member, instead of our agent, and leads from there, if nobody leads yet.
    Return(NodeId),
    /// Where it next makes a primary it dies, before it has told the store of that.
    Doom,
    /// A person makes a replica a primary by hand.
    Promote(NodeId),
    /// A person does what refusals ask for: stops the primary that is none, starts the one that crashed, and moves a directory
    /// of another cluster away.
    Amend,
}

impl World {
    /// It takes no part on a member, whose PostgreSQL is not there.
    pub(crate) fn leave_out(&mut self, node: NodeId, disk: Disk) {
        self.kill_postgres(node);
        self.nodes[node].disk = disk;
        self.nodes[node].settings = Settings::default();
        if let Some(lease) = self.others.as_mut().and_then(|others| others.runs.remove(&node)) {
            self.store.revoke(lease);
            self.store_changed();
        }
    }

    /// It does not tell how far its primary is.
    pub(crate) fn keep_no_status(&mut self) {
        if let Some(others) = &mut self.others {
            others.keeps_status = false;
        }
        self.store.remove(key::STATUS);
        self.store_changed();
    }

    /// PostgreSQL has become a primary; perhaps it was that program that has asked for it. What its primary before had and this
    /// one has not, that program has lost, not we.
    pub(crate) fn promoted_by_others(&mut self, node: NodeId) {
        let Some(wal) = self.nodes[node].wal() else { return };
        let Some(others) = self.others.as_mut().filter(|others| others.promotes == Some(node)) else { return };
        others.promotes = None;
        others.primary = node;
        others.acknowledged.retain(|(index, uid)| wal.holds(*index, *uid));
        if std::mem::take(&mut others.doomed) {
            others.runs.clear();
            self.succeed_doomed(node);
        }
    }

    /// That program is gone before it has told of its newest primary. The agent there, or of a replica that follows it by now, runs
    /// before the leader key has ended, since nothing else tells of that primary; those that do not run yet come later.
    fn succeed_doomed(&mut self, primary: NodeId) {
        let follows = |node: &NodeId| {
            let (mine, theirs) = (self.nodes[*node].wal(), self.nodes[primary].wal());
            let begins = mine.zip(theirs).is_some_and(|(mine, theirs)| theirs.begins_with(mine));
            *node != primary && self.nodes[*node].pg.standby() && begins
        };
        let replica = (0..self.nodes.len()).find(follows);
        let first = if self.chance(50) { replica.unwrap_or(primary) } else { primary };
        if let Some(replica) = replica {
            self.point_by_others(replica, primary);
        }
        for node in 0..self.nodes.len() {
            let delay = if node == first { self.random(3200, 4800) } else { self.random(6500, 9000) };
            self.after(delay, Event::Heal(Fault::KillAgent(node)));
        }
    }

    /// It does something, or a person does.
    pub(crate) fn act_of_others(&mut self, act: &Act) {
        if *act == Act::Keep {
            return self.keep_by_others();
        }
        let Some(others) = &self.others else { return };
        let untold = !others.doomed && (others.promotes.is_some() || !others.told);
        match *act {
            // Whoever ends it then has to see to the newest primary himself: no record tells of that one.
            Act::Stop(_) | Act::Die(_) if untold => self.after(300, Event::Inject(Fault::Others(act.clone()))),
            Act::Stop(node) => self.stop_others(node),
            Act::Die(node) => drop(self.others.as_mut().and_then(|others| others.runs.remove(&node))),
            Act::Return(node) => self.return_others(node),
            Act::Keep => {}
            Act::Doom => self.others.iter_mut().for_each(|others| others.doomed = true),
            Act::Promote(node) => drop(self.promote_postgres(node)),
            Act::Amend => (0..self.nodes.len()).for_each(|node| self.amend(node)),
        }
    }

    fn stop_others(&mut self, node: NodeId) {
        let paused = self.paused_in_store();
        let Some(others) = &mut self.others else { return };
        let lead = others.lead.filter(|(leader, _)| *leader == node).map(|(_, lease)| lease);
        let Some(record) = others.runs.remove(&node).filter(|_| !paused) else { return };
        self.stop_fast(node);
        for lease in [Some(record), lead].into_iter().flatten() {
            self.store.revoke(lease);
        }
        self.store_changed();
    }

    fn return_others(&mut self, node: NodeId) {
        let view = self.store.view();
        if view.cluster.leader.is_some() || view.cluster.sync.is_some() {
            return;
        }
        let Some(mut others) = self.others.take() else { return };
        self.kill_agent(node);
        let lease = self.unique();
        others.runs.insert(node, lease);
        self.lead_by_others(&mut others, node);
        let ticks = others.ticks;
        self.others = Some(others);
        if !ticks {
            self.others_tick();
        }
        self.store_changed();
    }

    fn amend(&mut self, node: NodeId) {
        if self.nodes[node].disk.dir().is_some_and(Dir::is_stray) {
            return self.move_stray_away(node);
        }
        if self.store.view().cluster.sync.is_some() {
            return;
        }
        let crashed = self.nodes[node].disk.dir().is_some_and(|dir| !dir.clean);
        let primary = self.primary_of_others() == Some(node);
        match self.nodes[node].pg.process {
            Process::Running { recovery: false } if !primary => self.stop_fast(node),
            Process::Stopped if primary && crashed && self.nodes[node].powered => self.start_by_others(node, None),
            _ => {}
        }
    }
}
