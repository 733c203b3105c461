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
    /// The member that people want to lead, if it may.
    wanted: Option<&'a MemberName>,
}

type Position = (Timeline, Lsn);

impl<'a> Ballot<'a> {
    pub fn new(
        view: &'a ClusterView,
        sync: &'a SyncRecord,
        max_lag: u64,
        alive: &'a BTreeSet<MemberName>,
        requested: Option<&'a MemberName>,
    ) -> Self {
        let candidate = sync.released.as_ref().and_then(|release| release.candidate.as_ref());
        let pledges = view
            .pledges
            .iter()
            .filter(|(_, pledge)| pledge.value.counts_against(sync.epoch))
            .map(|(name, pledge)| (name, &pledge.value))
            .collect();
        Ballot {
            view,
            sync,
            pledges,
            least: Lsn(view.optime.0.saturating_sub(max_lag)),
            alive,
            wanted: requested.or(candidate),
        }
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

    /// Whose data would help, in words.
    pub fn missing(&self) -> String {
        let leader = (&self.sync.leader, &self.sync.incarnation);
        let before = self.sync.previous.last().filter(|_| self.sync.asks_those_before());
        let before = before.into_iter().flat_map(|previous| &previous.rule.voters);
        let wanted = self.sync.rule.voters.iter().chain(before).chain(std::iter::once(leader));
        let missing = wanted.filter(|(name, incarnation)| {
            self.pledges.get(*name).is_none_or(|pledge| pledge.incarnation != **incarnation)
        });
        let missing = missing.map(|(name, incarnation)| match self.view.members.get(name) {
            None => format!("{name} is away"),
            Some(member) if member.incarnation.as_ref() == Some(incarnation) => format!("{name} has not pledged yet"),
            Some(_) => format!("{name} no longer has the data that counts"),
        });
        missing.collect::<Vec<_>>().join(", ")
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
                let wanted = self.wanted == Some(**name);
                // Its promotion would wait. Under the empty rule who has more loses less, at any price.
                let moves = self.sync.rule.is_empty()
                    || self.view.members.get(**name).is_none_or(|member| !member.replay_still);
                // Among equals the first name wins, so that everybody ranks alike.
                (wanted, moves, (pledge.timeline, pledge.lsn), priority, std::cmp::Reverse(**name))
            })
            .map(|(name, _)| *name)
    }

    /// The least position that certainly holds everything acknowledged, if these pledges prove any.
    fn least_position(&self, pledges: &BTreeMap<&MemberName, &Pledge>) -> Option<Position> {
        let position = |pledge: &Pledge| (pledge.timeline, pledge.lsn);
        // Each proof stands alone, so the least demanding one counts: what the leader of the epoch itself holds is enough,
        let leader = pledges.get(&self.sync.leader).filter(|pledge| pledge.incarnation == self.sync.incarnation);
        // so is the shutdown checkpoint of a leader that stopped cleanly,
        let release = self.sync.released.as_ref();
        let shutdown = release.and_then(|release| Some(beyond(release.timeline, release.shutdown_checkpoint?)));
        // and so is what the voters hold, if enough of them pledged.
        let quorum = || {
            let mut least = match self.sync.asks_those_before() {
                true => (0, Lsn::ZERO),
                false => self.quorum_position(&self.sync.rule, None, pledges)?,
            };
            if !self.sync.established {
                for previous in &self.sync.previous {
                    least = least.max(self.quorum_position(&previous.rule, Some(previous), pledges)?);
                }
            }
            Some(least)
        };
        leader.map(|pledge| position(pledge)).into_iter().chain(shutdown).chain(quorum()).min()
    }

    /// Greatest position among the pledged voters of a rule, if enough of them pledged. For an earlier rule its leader
    /// alone is enough, and so is the position that says when it ended.
    fn quorum_position(
        &self,
        rule: &Rule,
        earlier: Option<&PreviousRule>,
        pledges: &BTreeMap<&MemberName, &Pledge>,
    ) -> Option<Position> {
        let earlier_leader = earlier.and_then(|previous| {
            pledges.get(&previous.leader).filter(|pledge| pledge.incarnation == previous.incarnation)
        });
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
        let shutdown =
            earlier.and_then(|previous| previous.shutdown).map(|(timeline, checkpoint)| beyond(timeline, checkpoint));
        let held = earlier.and_then(|previous| previous.held);
        best.filter(|_| enough).into_iter().chain(shutdown).chain(held).min()
    }
}

/// The least position that includes the record at `checkpoint`.
fn beyond(timeline: Timeline, checkpoint: Lsn) -> Position {
    (timeline, Lsn(checkpoint.0 + 1))
}
