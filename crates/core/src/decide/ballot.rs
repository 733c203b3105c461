//! What the pledges against an epoch prove: whether enough are in, and who holds everything that was acknowledged.

use std::collections::{BTreeMap, BTreeSet};

use crate::decide::ClusterView;
use crate::lsn::{Lsn, Timeline};
use crate::name::MemberName;
use crate::record::{Pledge, PreviousRule, SyncRecord};
use crate::rule::Rule;

/// The pledges against one epoch, and what they prove.
pub(super) struct Ballot<'a> {
    view: &'a ClusterView,
    sync: &'a SyncRecord,
    /// Pledges against this epoch.
    pledges: BTreeMap<&'a MemberName, &'a Pledge>,
    /// Under the empty rule: the least position a new leader must have.
    least: Lsn,
    alive: &'a BTreeSet<MemberName>,
}

type Position = (Timeline, Lsn);

impl<'a> Ballot<'a> {
    pub fn new(view: &'a ClusterView, sync: &'a SyncRecord, max_lag: u64, alive: &'a BTreeSet<MemberName>) -> Self {
        let pledges = view
            .pledges
            .iter()
            .filter(|(_, pledge)| pledge.value.epoch == sync.epoch)
            .map(|(name, pledge)| (name, &pledge.value))
            .collect();
        Ballot { view, sync, pledges, least: Lsn(view.optime.0.saturating_sub(max_lag)), alive }
    }

    pub fn everybody_pledged(&self, alive: &BTreeSet<MemberName>) -> bool {
        alive.iter().all(|name| self.pledges.contains_key(name))
    }

    pub fn counted(&self) -> Vec<MemberName> {
        self.pledges.keys().map(|name| (*name).clone()).collect()
    }

    pub fn fence_pledges(&self) -> usize {
        self.pledges.iter().filter(|(name, pledge)| self.sync.rule.has(name, &pledge.incarnation)).count()
    }

    /// Who is to take over, best first; each of them holds everything acknowledged if those before it are ignored.
    pub fn ranking(&self) -> Vec<MemberName> {
        let mut ignored = BTreeSet::new();
        let mut ranking = Vec::new();
        while let Some(best) = self.best(&ignored) {
            ignored.insert(best);
            ranking.push(best.clone());
        }
        ranking
    }

    fn best(&self, ignored: &BTreeSet<&MemberName>) -> Option<&'a MemberName> {
        let pledges: BTreeMap<&'a MemberName, &'a Pledge> =
            self.pledges.iter().filter(|(name, _)| !ignored.contains(*name)).map(|(name, p)| (*name, *p)).collect();
        let least = self.least_position(&pledges)?;
        pledges
            .iter()
            .filter(|(name, pledge)| {
                (pledge.timeline, pledge.lsn) >= least
                    && self.alive.contains(**name)
                    && self.view.members.get(**name).is_some_and(|member| member.may_lead())
            })
            .max_by_key(|(name, pledge)| {
                let priority = self.view.members.get(**name).map_or(0, |member| member.failover_priority());
                let wanted = self.sync.released.as_ref().and_then(|release| release.candidate.as_ref()) == Some(**name);
                // Among equals the first name wins, so that everybody ranks alike.
                (wanted, (pledge.timeline, pledge.lsn), priority, std::cmp::Reverse(**name))
            })
            .map(|(name, _)| *name)
    }

    /// The least position that certainly holds everything acknowledged, if these pledges prove any.
    fn least_position(&self, pledges: &BTreeMap<&MemberName, &Pledge>) -> Option<Position> {
        let position = |pledge: &Pledge| (pledge.timeline, pledge.lsn);
        // The leader of the epoch itself holds everything.
        if let Some(pledge) = pledges.get(&self.sync.leader).filter(|p| p.incarnation == self.sync.incarnation) {
            return Some(position(pledge));
        }
        // So does whoever flushed the shutdown checkpoint of a leader that stopped cleanly.
        if let Some(release) = &self.sync.released
            && let Some(checkpoint) = release.shutdown_checkpoint
        {
            let beyond = (release.timeline, Lsn(checkpoint.0 + 1));
            if pledges.values().any(|pledge| position(pledge) >= beyond) {
                return Some(beyond);
            }
        }
        let mut least = self.quorum_position(&self.sync.rule, None, pledges)?;
        if !self.sync.established {
            for previous in &self.sync.previous {
                least = least.max(self.quorum_position(&previous.rule, Some(previous), pledges)?);
            }
        }
        Some(least)
    }

    /// Greatest position among the pledged voters of a rule, if enough of them pledged. For an earlier epoch its leader
    /// alone is enough.
    fn quorum_position(
        &self,
        rule: &Rule,
        earlier: Option<&PreviousRule>,
        pledges: &BTreeMap<&MemberName, &Pledge>,
    ) -> Option<Position> {
        let earlier_leader = earlier.and_then(|previous| {
            pledges.get(&previous.leader).filter(|pledge| pledge.incarnation == previous.incarnation)
        });
        if let Some((timeline, checkpoint)) = earlier.and_then(|previous| previous.shutdown) {
            let beyond = (timeline, Lsn(checkpoint.0 + 1));
            if pledges.values().any(|pledge| (pledge.timeline, pledge.lsn) >= beyond) {
                return Some(beyond);
            }
        }
        if rule.is_empty() {
            // Asynchronous: nothing was promised beyond the lag limit.
            return Some(if earlier.is_some() { (0, Lsn::ZERO) } else { (0, self.least) });
        }
        let voters: Vec<Position> = pledges
            .iter()
            .filter(|(name, pledge)| rule.has(name, &pledge.incarnation))
            .map(|(_, pledge)| (pledge.timeline, pledge.lsn))
            .collect();
        let enough = voters.len() >= rule.fence() || earlier_leader.is_some();
        let best = voters.into_iter().chain(earlier_leader.map(|pledge| (pledge.timeline, pledge.lsn))).max();
        best.filter(|_| enough)
    }
}
