//! Whose data it is: what was acknowledged while another program kept the cluster, directories of another cluster, and a cluster
//! of ours that could be taken for another program's.

use std::rc::Rc;

use matriarch_core::decide::{Job, Settings};
use matriarch_core::record::{SyncRecord, key};

use crate::disk::{Dir, Disk};
use crate::event::Event;
use crate::fault::Fault;
use crate::node::NodeId;
use crate::store::View;
use crate::wal::Wal;
use crate::world::World;

/// What another cluster calls itself.
const STRAY: &str = "1234567890";

impl Dir {
    /// It belongs to another cluster.
    pub(crate) fn is_stray(&self) -> bool {
        self.system == STRAY
    }
}

impl World {
    /// A directory of another cluster, which has come further than this one.
    pub(crate) fn stray(&mut self, standby: bool) -> Disk {
        let mut wal = Wal::default();
        for timeline in 1..=5 {
            let uid = self.unique();
            wal.append(timeline, 1 << 24, uid);
        }
        wal.flushed = wal.len();
        let (system, checkpoint) = (STRAY.to_owned(), (5, wal.end(wal.len())));
        let incarnation = Some(self.incarnation());
        let dir = Dir { system, incarnation, wal, opened: 0, checkpoint, clean: true, standby, unclaimed: false };
        Disk::Ready(Box::new(dir))
    }

    /// A mistake in a configuration, or of a person, brings a member the directory of another cluster.
    pub(crate) fn bring_stray(&mut self, node: NodeId) {
        self.kill_agent(node);
        self.kill_postgres(node);
        self.note_loss(node);
        let standby = self.chance(50);
        self.nodes[node].disk = self.stray(standby);
        self.nodes[node].settings = Settings::default();
        let delay = self.random(1, 500);
        self.after(delay, Event::Heal(Fault::KillAgent(node)));
    }

    /// A person moves it away.
    pub(crate) fn move_stray_away(&mut self, node: NodeId) {
        if self.nodes[node].disk.dir().is_some_and(Dir::is_stray) {
            self.kill_postgres(node);
            self.nodes[node].disk = Disk::Missing;
            self.poke(node, 1);
        }
    }

    /// The record that makes the cluster ours is deleted, and what a member remembers of it stays behind where its data was.
    pub(crate) fn lose_record(&mut self, node: NodeId) {
        self.kill_agent(node);
        self.stop_fast(node);
        self.nodes[node].newest = None;
        self.store.remove(key::SYNC);
        self.store_changed();
    }

    /// Whoever founds over the records of another program holds all that its primary had acknowledged.
    pub(crate) fn check_founding(&mut self, sync: &SyncRecord) {
        let Some(founder) = self.find(&sync.leader) else { return };
        let lacks = self.lacks_of_others(founder);
        if lacks > 0 {
            let text =
                format!("{} takes the cluster over from another program, and lacks {lacks} commits", sync.leader);
            self.violate(format!("{text} that were acknowledged there"));
        }
    }

    /// A commit is acknowledged by a server that leads in no epoch of ours.
    pub(crate) fn acknowledge_outside(&mut self, node: NodeId, index: usize, uid: u64) {
        if self.primary_of_others() != Some(node) {
            return;
        }
        let Some(leader) = self.newest_leader() else { return self.acknowledged_under_others(index, uid) };
        let name = &self.nodes[node].name;
        let text = format!("{name}, the other program's primary, acknowledges though {leader} has founded the cluster");
        self.violate(text);
    }

    /// PostgreSQL as another program has left it, beside a cluster of ours that its agent cannot have heard of, or may not end; or
    /// that of another cluster.
    pub(crate) fn is_left_over(&self, node: NodeId) -> bool {
        let this = &self.nodes[node];
        let stray = this.disk.dir().is_some_and(Dir::is_stray);
        let heard = |view: &Rc<View>| view.cluster.sync.is_some() && !view.paused;
        let unheard = !this.agent.alive || !this.agent.view.as_ref().is_some_and(heard);
        this.pg.by_others && this.led_epoch == 0 && (stray || unheard)
    }

    /// Data of another cluster founds, leads, votes and pledges nothing here.
    pub(crate) fn check_strays(&mut self) {
        let strays = self.nodes.iter().filter_map(|node| Some((node, node.disk.dir().filter(|dir| dir.is_stray())?)));
        let strays: Vec<_> =
            strays.filter_map(|(node, dir)| Some((node.name.clone(), dir.incarnation.clone()?))).collect();
        if strays.is_empty() {
            return;
        }
        let view = self.store.view();
        let Some(sync) = view.cluster.sync.as_ref().map(|sync| &sync.value) else { return };
        for (name, data) in strays {
            let pledged = view.cluster.pledges.get(&name).map(|pledge| &pledge.value);
            let pledged = pledged.is_some_and(|pledge| pledge.incarnation == data && !pledge.withdrawn);
            if sync.incarnation == data || sync.rule.has(&name, &data) || pledged {
                self.violate(format!("{name} leads, votes or pledges with the data of another cluster"));
            }
        }
    }

    /// Nor is it touched.
    pub(crate) fn check_untouched(&mut self, node: NodeId, job: &Job) {
        let stops = matches!(job, Job::StopFast | Job::StopImmediate);
        if !stops && self.nodes[node].disk.dir().is_some_and(Dir::is_stray) {
            self.violate(format!("{node} begins {job:?} on the data of another cluster"));
        }
    }
}
