//! What must hold of a takeover while the cluster is paused, and when a person gives up acknowledged commits.

use matriarch_core::decide::Millis;
use matriarch_core::record::{MemberRecord, Pledge, SyncRecord, key};
use matriarch_core::{Incarnation, MemberName};

use crate::node::NodeId;
use crate::world::World;

/// What a person asks for is done, or has been called off, by then.
const WISH: Millis = 60_000;

impl World {
    /// While the cluster is paused no guard ends a leader, so nobody takes over from it unless a person asks for that.
    pub(crate) fn check_paused(&mut self, before: &SyncRecord, sync: &SyncRecord) {
        let Some(leader) = self.find(&sync.leader).filter(|_| before.leader != sync.leader) else { return };
        let knew = self.nodes[leader].claimed_on.as_ref().is_some_and(|view| view.paused);
        if knew && self.checker.wished.is_none_or(|wished| self.now > wished + WISH) {
            self.violate(format!("{} takes over from {} while the cluster is paused", sync.leader, before.leader));
        }
    }

    /// Loss is accepted by a person alone, and on the member that was named; what the new leader lacks is given up then.
    pub(crate) fn check_accepted_loss(&mut self, before: &SyncRecord, sync: &SyncRecord) {
        if before.accepted_loss == sync.accepted_loss {
            return;
        }
        if self.checker.loss_accepted_on.take().as_ref() != Some(&sync.leader) {
            self.violate(format!("{} gives up acknowledged commits, and nobody has accepted that", sync.leader));
        }
        // Leaders of earlier epochs may go on somewhere; nothing they acknowledge is covered any more.
        self.checker.asynchronous.extend(0..sync.epoch);
        let Some(leader) = self.find(&sync.leader) else { return };
        self.check_loss_needed(leader, before);
        let Some(wal) = self.nodes[leader].wal() else { return };
        for commit in &mut self.checker.ledger {
            commit.covered &= wal.holds(commit.index, commit.uid);
        }
    }

    /// What those hold who led or vote, are there, and have not said how far they reach, need not be given up.
    fn check_loss_needed(&mut self, leader: NodeId, before: &SyncRecord) {
        let Some(wal) = self.nodes[leader].wal() else { return };
        let lost = self.checker.ledger.iter().filter(|commit| commit.covered && !wal.holds(commit.index, commit.uid));
        let lost: Vec<(usize, u64)> = lost.map(|commit| (commit.index, commit.uid)).collect();
        let led = std::iter::once((&before.leader, &before.incarnation));
        let silent = before.rule.voters.iter().filter(|(name, data)| !self.has_pledged(name, data, before.epoch));
        let holds = |name: &MemberName| {
            let wal = self.find(name).and_then(|node| self.nodes[node].wal());
            wal.is_some_and(|wal| lost.iter().any(|(index, uid)| wal.holds(*index, *uid)))
        };
        let others = led.chain(silent).filter(|(name, _)| **name != self.nodes[leader].name);
        let holder = others.filter(|(name, data)| self.is_there(name, data)).find(|(name, _)| holds(name));
        if let Some((holder, _)) = holder {
            let text =
                format!("{} gives up acknowledged commits that {holder} holds, which is there", before.epoch + 1);
            self.violate(format!("the leader of epoch {text}"));
        }
    }

    fn has_pledged(&self, name: &MemberName, data: &Incarnation, epoch: u64) -> bool {
        let pledge = self.store.value(&key::pledge(name));
        let pledge = pledge.and_then(|text| serde_json::from_str::<Pledge>(text).ok());
        pledge.is_some_and(|pledge| pledge.counts_against(epoch) && pledge.incarnation == *data)
    }

    /// By its record in the store when the lead was given, and still with that data.
    fn is_there(&self, name: &MemberName, data: &Incarnation) -> bool {
        let record = self.store.value(&key::member(name));
        let record = record.and_then(|text| serde_json::from_str::<MemberRecord>(text).ok());
        let now = self.find(name).and_then(|node| self.nodes[node].disk.dir()).and_then(|dir| dir.incarnation.as_ref());
        record.is_some_and(|record| record.incarnation.as_ref() == Some(data)) && now == Some(data)
    }

    /// Whoever takes over under the empty rule lacks no more of what its predecessor had told than the limit allows.
    pub(crate) fn check_lag(&mut self, before: &SyncRecord, sync: &SyncRecord) {
        let moved = before.epoch != sync.epoch && before.leader != sync.leader;
        if !moved || !before.rule.is_empty() || before.accepted_loss != sync.accepted_loss {
            return;
        }
        let (Some(old), Some(new)) = (self.find(&before.leader), self.find(&sync.leader)) else { return };
        let (Some(view), Some(wal)) = (&self.nodes[new].claimed_on, self.nodes[new].wal()) else { return };
        let (timeline, told) = (view.cluster.optime_timeline, view.cluster.optime);
        // A position on an earlier timeline says nothing about those who are on a later one.
        if wal.timeline(wal.len()) > timeline {
            return;
        }
        let logs = self.checker.lost.iter().filter(|(owner, _)| *owner == old).map(|(_, wal)| wal);
        let logs = self.nodes[old].wal().into_iter().chain(logs).filter(|log| log.reaches(timeline, told));
        let lacks = logs.map(|log| told.0.saturating_sub(log.end(log.shared(wal)).0)).min();
        if let Some(lacks) = lacks.filter(|lacks| *lacks > self.setup.max_lag) {
            let text =
                format!("{} takes over though it lacks {lacks} bytes that {} had told", sync.leader, before.leader);
            self.violate(text);
        }
    }
}
