//! Whether the cluster is as it should be once nothing is wrong with the world around it.

use std::collections::BTreeMap;

use matriarch_core::decide::Zones;
use matriarch_core::{Incarnation, MemberName};

use crate::node::{Node, NodeId};
use crate::world::World;

impl World {
    /// The member that leads and accepts writes.
    pub fn primary(&mut self) -> Option<NodeId> {
        let view = self.store.view();
        let leader = self.find(&view.cluster.leader.as_ref()?.name)?;
        let node = &self.nodes[leader];
        let sync = &view.cluster.sync.as_ref()?.value;
        (node.moves() && node.pg.writable() && sync.leader == node.name && node.led_epoch == sync.epoch)
            .then_some(leader)
    }

    /// The store has lost the newest epoch, and no primary of it runs that could write it anew.
    pub fn waits_for_a_person(&mut self) -> bool {
        // Those who will find out in a moment count.
        let shown = self.store.view().cluster.sync.as_ref().map(|sync| (sync.value.epoch, sync.value.serial));
        let lost = |node: &Node| node.newest.as_ref().map(|newest| (newest.epoch, newest.serial)) > shown;
        !self.nodes.iter().any(|node| node.pg.writable()) && self.nodes.iter().any(lost)
    }

    /// No data directory is left that PostgreSQL could use.
    pub fn nobody_has_data(&self) -> bool {
        self.nodes.iter().all(|node| node.disk.dir().is_none())
    }

    /// Why a member is not healthy, if it is not.
    pub fn ailment(&mut self, node: NodeId) -> Option<String> {
        let primary = self.primary();
        let this = &self.nodes[node];
        let ail = |text: &str| Some(format!("{}: {text}", this.name));
        if !this.moves() || !this.agent.alive || this.agent_frozen {
            return ail("its agent does not run");
        }
        let Some(primary) = primary else { return ail("there is no primary") };
        if this.disk.dir().is_none() {
            return ail("its data directory is gone");
        }
        if this.agent.problem.is_some() {
            return ail(&format!("{:?}", this.agent.problem));
        }
        if node == primary {
            return None;
        }
        let streams = this.pg.standby()
            && this.pg.receiver.as_ref().is_some_and(|receiver| {
                receiver.upstream == primary
                    && self.nodes[primary].pg.senders.values().any(|sender| sender.conn == receiver.conn)
            });
        (!streams).then(|| format!("{}: does not stream from the primary", this.name))
    }

    /// Who is to vote once everybody is well.
    fn wanted_voters(&self, leader: &MemberName) -> BTreeMap<MemberName, Incarnation> {
        let zone_of = |name: &MemberName| self.find(name).and_then(|node| self.setup.zones.get(node));
        let others = || self.nodes.iter().filter(|node| node.name != *leader && !node.nofailover);
        let ignored = self.setup.synchronous.zones == Zones::Ignore;
        let elsewhere = |node: &&Node| ignored || zone_of(leader).is_none() || zone_of(&node.name) != zone_of(leader);
        let outside = others().filter(elsewhere).count();
        let needed = self.setup.synchronous.needed as usize;
        let inside = if outside == 0 { usize::MAX } else { needed.saturating_sub(outside) };
        let neighbours = others().filter(|node| !elsewhere(node)).take(inside);
        others()
            .filter(elsewhere)
            .chain(neighbours)
            .filter_map(|node| Some((node.name.clone(), node.disk.dir()?.incarnation.clone()?)))
            .collect()
    }

    /// Why the cluster is not as it should be, if it is not.
    pub fn trouble(&mut self) -> Option<String> {
        for node in 0..self.nodes.len() {
            if let Some(ailment) = self.ailment(node) {
                return Some(ailment);
            }
        }
        let view = self.store.view();
        let Some(sync) = view.cluster.sync.as_ref().map(|sync| &sync.value) else {
            return Some("there is no epoch".to_owned());
        };
        let wanted = self.setup.synchronous;
        let voters = self.wanted_voters(&sync.leader);
        let needed = if self.nodes.len() >= wanted.from_members { wanted.needed } else { 0 };
        let needed = if wanted.strict && !voters.is_empty() { needed } else { needed.min(voters.len() as u32) };
        if needed > 0 && (sync.rule.voters != voters || sync.rule.needed != needed) {
            return Some(format!("the rule is '{}', needing {needed} of {} voters is wanted", sync.rule, voters.len()));
        }
        if !sync.established {
            return Some("the rule is not established".to_owned());
        }
        if sync.handover || view.cluster.failover.is_some() || sync.released.is_some() {
            return Some("a switchover is still under way".to_owned());
        }
        None
    }
}
