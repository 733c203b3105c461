//! The invariants, checked at every step they could break at.

use std::collections::BTreeSet;

use matriarch_core::MemberName;
use matriarch_core::decide::{Millis, Zones};
use matriarch_core::record::SyncRecord;

use crate::node::{Node, NodeId};
use crate::server::{Names, Sender, Waiting};
use crate::wal::Wal;
use crate::world::World;

/// Two primaries that both move may not last longer than this.
const TWO_PRIMARIES: Millis = 300;
/// What a machine that stood still may do before its guard is awake; the manual says so.
const WAKING: Millis = 100;

/// One acknowledged commit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Acknowledged {
    pub(crate) uid: u64,
    pub(crate) index: usize,
    node: NodeId,
    epoch: u64,
    at: Millis,
    /// Nothing that the design covers may lose it.
    pub(crate) covered: bool,
}

/// What has been seen so far.
#[derive(Debug, Default)]
pub struct Checker {
    /// The first thing found wrong.
    pub violation: Option<String>,
    /// How many commits were acknowledged.
    pub acknowledged: u64,
    pub(crate) ledger: Vec<Acknowledged>,
    /// The newest `sync` record.
    sync: Option<SyncRecord>,
    /// Epochs whose newest rule is the empty one.
    pub(crate) asynchronous: BTreeSet<u64>,
    /// The member on which a person has accepted loss.
    pub loss_accepted_on: Option<MemberName>,
    /// When a person last asked for another primary.
    pub wished: Option<Millis>,
    /// What members had before it was replaced behind their backs.
    pub lost: Vec<(NodeId, Wal)>,
    /// The newest epoch whose leader runs as a primary, and who that is.
    promoted: Option<(u64, NodeId)>,
    two_since: Option<Millis>,
    /// The record that an older backup of the store brought back.
    pub went_back: Option<SyncRecord>,
    /// The store went back in time, and what it had lost has not been written anew yet.
    pub overtaken: bool,
    /// A leader acted on that which could not know it: whatever comes of it, nobody is to blame, and the run ends.
    pub undecided: bool,
    /// When the newest epoch began.
    newest_since: Millis,
    /// Since when a primary of an older epoch has outlived what it may rest on.
    overdue: Option<(NodeId, Millis)>,
}

impl World {
    /// There is a verdict, or there will be none.
    pub(crate) fn ended(&self) -> bool {
        self.checker.violation.is_some() || self.checker.undecided
    }

    /// Notes that an invariant is broken; only the first counts.
    pub(crate) fn violate(&mut self, text: String) {
        self.note(|| format!("VIOLATION: {text}"));
        self.checker.violation.get_or_insert(format!("at {} ms: {text}", self.now));
    }

    /// A member's data is about to be replaced behind its back.
    pub(crate) fn note_loss(&mut self, node: NodeId) {
        let wal = self.nodes[node].wal().cloned();
        self.checker.lost.extend(wal.map(|wal| (node, wal)));
    }

    /// A client is told that its commit is done.
    pub(crate) fn acknowledge(&mut self, node: NodeId, commit: Waiting, names: &Names) {
        let epoch = self.nodes[node].led_epoch;
        self.checker.acknowledged += 1;
        if epoch == 0 {
            self.acknowledge_outside(node, commit.index, commit.uid);
        }
        let covered = epoch > 0 && !self.checker.asynchronous.contains(&epoch);
        if covered && names.is_empty() {
            self.violate(format!("{node} of epoch {epoch} acknowledges without a voter under a published rule"));
        }
        if covered {
            self.check_quorum(node, commit, names);
        }
        let Waiting { uid, index, .. } = commit;
        // What an older leader acknowledges after the newest was promoted was confirmed before, or it is lost: unless whoever
        // led asynchronously in between took it over and lost it, as it may.
        let mut kept = covered;
        if covered
            && let Some((newest, leader)) = self.checker.promoted
            && newest > epoch
            && !self.has_had(leader, |wal| wal.holds(index, uid))
        {
            kept = !(epoch + 1..newest).any(|between| self.checker.asynchronous.contains(&between));
            if kept {
                self.violate(format!("{node} of epoch {epoch} acknowledges what the leader of epoch {newest} lacks"));
            }
        }
        if !covered {
            self.check_lease_fence(node, epoch);
        }
        self.checker.ledger.push(Acknowledged { uid, index, node, epoch, at: self.now, covered: kept });
        if covered && self.checker.sync.as_ref().is_some_and(|sync| sync.epoch == epoch) {
            self.check_takeovers(index, uid);
        }
    }

    /// Under the empty rule the lease alone keeps an older leader from acknowledging beside the newest one.
    fn check_lease_fence(&mut self, node: NodeId, epoch: u64) {
        let Some((newest, leader)) = self.checker.promoted.filter(|(newest, _)| *newest > epoch) else { return };
        let this = &self.nodes[node];
        let wakes = this.thawed.is_some_and(|at| self.now <= at + WAKING);
        // A watchdog has reset a machine that stood still for so long.
        let waking = this.unfenced || wakes && !self.setup.watchdogs;
        let outside = self.nodes[node].pg.by_others && epoch == 0;
        if leader != node && !waking && !outside && self.nodes[leader].pg.writable() {
            self.violate(format!("{node} of epoch {epoch} acknowledges beside the leader of epoch {newest}"));
        }
    }

    /// A commit acknowledged under a rule is flushed by the leader and by as many voters as the rule needs.
    fn check_quorum(&mut self, node: NodeId, commit: Waiting, names: &Names) {
        if !self.has_flushed(node, commit) && self.nodes[node].disk.dir().is_some() {
            self.violate(format!("{node} acknowledges what it has not flushed"));
        }
        // A walsender that has not loaded the newest rule yet counts by its own.
        let flushed =
            self.nodes[node].pg.senders.values().filter(|sender| self.has_flushed(sender.node, commit)).count();
        if flushed < names.needed {
            self.violate(format!("{node} acknowledges with {flushed} of {} voters", names.needed));
        }
        let zones = &self.setup.zones;
        let elsewhere = |sender: &Sender| zones[sender.node] != zones[node] && self.has_flushed(sender.node, commit);
        let insists = self.setup.synchronous.zones == Zones::Require && !zones.is_empty();
        if insists && !self.nodes[node].pg.senders.values().any(elsewhere) {
            self.violate(format!("{node} acknowledges what nobody outside its zone has flushed"));
        }
    }

    /// A confirmation may be older than the loss of what it confirmed, much older when it waited on a frozen machine.
    fn has_flushed(&self, node: NodeId, Waiting { index, uid, .. }: Waiting) -> bool {
        self.has_had(node, |wal| wal.holds(index, uid) && wal.flushed > index)
    }

    /// Whether it is true of what a member has, or had until it was taken from it.
    fn has_had(&self, node: NodeId, what: impl Fn(&Wal) -> bool) -> bool {
        let lost = self.checker.lost.iter().filter(|(owner, _)| *owner == node).map(|(_, wal)| wal);
        self.nodes[node].wal().into_iter().chain(lost).any(what)
    }

    /// The published rule lets no takeover happen without this commit, as far as voters alone decide.
    fn check_takeovers(&mut self, index: usize, uid: u64) {
        let Some(sync) = self.checker.sync.as_ref().filter(|sync| !sync.rule.is_empty() && sync.established) else {
            return;
        };
        let without = sync
            .rule
            .voters
            .iter()
            .filter(|(name, incarnation)| {
                let node = self.nodes.iter().find(|node| node.name == **name);
                node.and_then(|node| node.disk.dir())
                    .is_some_and(|dir| dir.incarnation.as_ref() == Some(*incarnation) && !dir.wal.holds(index, uid))
            })
            .count();
        if without >= sync.rule.fence() {
            let rule = sync.rule.clone();
            self.violate(format!(
                "{without} voters of '{rule}' lack an acknowledged commit, and {} may elect a leader without it",
                rule.fence()
            ));
        }
    }

    /// Looks at the store after a change.
    pub(crate) fn check_store(&mut self) {
        self.check_strays();
        let view = self.store.view();
        let Some(sync) = view.cluster.sync.as_ref().map(|sync| sync.value.clone()) else { return };
        if let Some(leader) = &view.cluster.leader
            && leader.name != sync.leader
        {
            self.violate(format!("{} holds the leader key in an epoch of {}", leader.name, sync.leader));
        }
        if self.checker.sync.as_ref() == Some(&sync) || self.checker.went_back.as_ref() == Some(&sync) {
            return;
        }
        // What a leader had not seen of what the store has lost, it cannot count on from.
        let lost = self.checker.went_back.is_some() && self.has_not_seen(&sync, self.checker.sync.as_ref());
        if let Some(old) = self.checker.went_back.take() {
            // A member that had not seen what came after the backup may pledge on it; that alone decides nothing.
            if (SyncRecord { serial: sync.serial, ..old }) == sync {
                self.checker.went_back = Some(sync);
                return;
            }
        }
        if self.checker.overtaken && self.writes_unaware(&sync) {
            self.note(|| {
                "ends without a verdict: a leader that could not know of the newest epoch wrote its own".to_owned()
            });
            self.checker.undecided = true;
            return;
        }
        self.checker.overtaken = false;
        if sync.rule.is_empty() {
            self.checker.asynchronous.insert(sync.epoch);
            // It promises nothing of what was acknowledged in its epoch; what earlier ones acknowledged counts until it is established.
            let ledger = self.checker.ledger.iter_mut().filter(|commit| commit.epoch == sync.epoch);
            ledger.for_each(|commit| commit.covered = false);
        } else {
            self.checker.asynchronous.remove(&sync.epoch);
        }
        let before = self.checker.sync.replace(sync.clone());
        if before.is_none() {
            self.check_founding(&sync);
        }
        if let Some(before) = &before {
            if before.epoch > sync.epoch {
                self.violate(format!("epoch went from {} back to {}", before.epoch, sync.epoch));
            }
            if before.serial >= sync.serial && !lost {
                self.violate(format!("serial of 'sync' went from {} to {}", before.serial, sync.serial));
            }
            self.check_voters_kept(before, &sync);
            self.check_paused(before, &sync);
            self.check_lag(before, &sync);
            self.check_accepted_loss(before, &sync);
            let strictly = self.setup.synchronous.needed * u32::from(self.setup.synchronous.strict);
            if before.rule.needed >= strictly && sync.rule.needed < strictly {
                self.violate(format!(
                    "the rule of a strict cluster asks for {} instead of {strictly}",
                    sync.rule.needed
                ));
            }
            if before.epoch == sync.epoch && (&before.leader, &before.incarnation) != (&sync.leader, &sync.incarnation)
            {
                self.violate(format!("epoch {} has two leaders: {} and {}", sync.epoch, before.leader, sync.leader));
            }
        }
        if before.as_ref().is_none_or(|before| before.epoch != sync.epoch)
            && let Some(node) = self.find(&sync.leader)
        {
            self.nodes[node].led_epoch = sync.epoch;
            self.checker.newest_since = self.now;
            if self.nodes[node].pg.writable() {
                self.check_new_primary(node);
            }
        }
        if sync.established {
            self.cover(&sync);
        }
    }

    /// A leader that has not heard of the newest epoch cannot know that the store has lost it, and writes its own anew.
    fn writes_unaware(&self, sync: &SyncRecord) -> bool {
        let newest = self.checker.sync.as_ref().map_or(0, |newest| newest.epoch);
        let seen = self.find(&sync.leader).and_then(|leader| self.nodes[leader].newest.as_ref());
        sync.epoch < newest && seen.is_some_and(|seen| seen.epoch < newest)
    }

    /// The leader that has written this record has seen no record as new as `before`.
    fn has_not_seen(&self, sync: &SyncRecord, before: Option<&SyncRecord>) -> bool {
        let seen = self.find(&sync.leader).and_then(|leader| self.nodes[leader].newest.as_ref());
        let age = |record: &SyncRecord| (record.epoch, record.serial);
        seen.map(age) < before.map(age)
    }

    /// A takeover does not leave all the voters that still have their data out of its rule.
    fn check_voters_kept(&mut self, before: &SyncRecord, sync: &SyncRecord) {
        if before.epoch == sync.epoch
            || before.accepted_loss != sync.accepted_loss
            || before.rule.is_empty()
            || !sync.rule.is_empty()
        {
            return;
        }
        let view = self.store.view();
        let kept = before.rule.voters.iter().find(|(name, incarnation)| {
            let record = view.cluster.members.get(*name);
            **name != sync.leader && record.is_some_and(|member| member.incarnation.as_ref() == Some(*incarnation))
        });
        if let Some((name, _)) = kept {
            self.violate(format!("epoch {} is asynchronous though {name} was a voter until then", sync.epoch));
        }
    }

    /// An established rule covers all that its leader acknowledged before; the empty rule covers nothing.
    fn cover(&mut self, sync: &SyncRecord) {
        let Some(leader) = self.find(&sync.leader) else { return };
        if sync.rule.is_empty() {
            for commit in &mut self.checker.ledger {
                commit.covered = false;
            }
            return;
        }
        let Some(wal) = self.nodes[leader].wal() else { return };
        let mut newest: Option<(usize, u64)> = None;
        for commit in &mut self.checker.ledger {
            commit.covered |= wal.holds(commit.index, commit.uid);
            if commit.covered && commit.epoch <= sync.epoch {
                newest = newest.max(Some((commit.index, commit.uid)));
            }
        }
        if let Some((index, uid)) = newest {
            self.check_takeovers(index, uid);
        }
    }

    /// A server has begun to accept writes: it must hold everything covered.
    pub(crate) fn check_new_primary(&mut self, node: NodeId) {
        let epoch = self.nodes[node].led_epoch;
        let newest = self.checker.sync.as_ref().is_some_and(|sync| sync.epoch == epoch);
        if !newest || self.checker.sync.as_ref().and_then(|sync| self.find(&sync.leader)) != Some(node) {
            return;
        }
        self.checker.promoted = Some((epoch, node));
        if self.nodes[node].nofailover {
            self.violate(format!("{} leads though it is tagged as never to", self.nodes[node].name));
        }
        let Some(wal) = self.nodes[node].wal() else { return };
        let lost: Vec<&Acknowledged> = self
            .checker
            .ledger
            .iter()
            .filter(|commit| commit.covered && !wal.holds(commit.index, commit.uid))
            .collect();
        if let Some(first) = lost.first() {
            let text = format!(
                "{} of epoch {epoch} lacks {} acknowledged commits; the first was acknowledged by {} of epoch {} at {} ms",
                self.nodes[node].name,
                lost.len(),
                self.nodes[first.node].name,
                first.epoch,
                first.at
            );
            self.violate(text);
        }
    }

    /// The leader of the newest epoch, once there was one.
    pub(crate) fn newest_leader(&self) -> Option<&MemberName> {
        self.checker.sync.as_ref().map(|sync| &sync.leader)
    }

    /// Looks at what may only last for a while.
    pub(crate) fn check_regularly(&mut self) {
        self.check_outlived();
        let newest = self.checker.sync.as_ref().map_or(0, |sync| sync.epoch);
        if newest == 0 && self.others.is_some() {
            return;
        }
        // An older primary under a rule has been fenced by its voters: it can acknowledge nothing (see `acknowledge`).
        let fenced = |node: &Node| {
            let epoch = node.led_epoch;
            epoch > 0 && epoch < newest && !self.checker.asynchronous.contains(&epoch)
        };
        let primary = |node: &Node| node.moves() && node.pg.writable() && !node.unfenced && !fenced(node);
        let primaries = (0..self.nodes.len()).filter(|node| primary(&self.nodes[*node]) && !self.is_left_over(*node));
        let primaries = primaries.count();
        if primaries < 2 {
            self.checker.two_since = None;
            return;
        }
        let since = *self.checker.two_since.get_or_insert(self.now);
        if self.now > since + TWO_PRIMARIES {
            self.violate(format!("two primaries for more than {TWO_PRIMARIES} ms"));
        }
    }

    /// A leader may go on for the life of a lease after its voters have left it, not longer: they answer it no more.
    fn check_outlived(&mut self) {
        let newest = self.checker.sync.as_ref().map_or(0, |sync| sync.epoch);
        let outlived = self.nodes.iter().position(|node| {
            // An agent that wakes renews its lease once more before it hears that another leads.
            let late = self.now > self.checker.newest_since.max(node.agent_thawed) + self.setup.ttl;
            // A pause whose end it has not heard of keeps its guard from acting.
            let paused = node.agent.view.as_ref().is_some_and(|view| view.paused);
            let old = node.led_epoch > 0 && node.led_epoch < newest;
            late && old && node.moves() && node.pg.writable() && !node.unfenced && !paused
        });
        self.checker.overdue = match (outlived, self.checker.overdue) {
            (Some(node), Some((before, since))) if node == before => Some((node, since)),
            (Some(node), _) => Some((node, self.now)),
            (None, _) => None,
        };
        if let Some((node, _)) = self.checker.overdue.filter(|(_, since)| self.now > since + TWO_PRIMARIES) {
            self.violate(format!("{node} still accepts writes though another has led for longer than a lease lasts"));
        }
    }
}
