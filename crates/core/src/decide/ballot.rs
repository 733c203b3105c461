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
    /// Under the empty rule: by how many bytes a new leader may lag behind what was last told of the old one.
    max_lag: u64,
    alive: &'a BTreeSet<MemberName>,
    /// The member that people want to lead, if it may.
    wanted: Option<&'a MemberName>,
}

type Position = (Timeline, Lsn);

/// What a proof asks of a new leader.
#[derive(Clone, Copy, Default)]
struct Demand {
    /// It holds this much.
    position: Position,
    /// It is within the lag limit.
    within_lag: bool,
}

impl Demand {
    fn and(self, other: Demand) -> Demand {
        Demand { position: self.position.max(other.position), within_lag: self.within_lag || other.within_lag }
    }
}

impl From<Position> for Demand {
    fn from(position: Position) -> Self {
        Demand { position, ..Demand::default() }
    }
}

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
        Ballot { view, sync, pledges, max_lag, alive, wanted: requested.or(candidate) }
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

    /// Why nobody is known to hold everything acknowledged, in words.
    pub fn shortage(&self) -> String {
        if self.sync.rule.is_empty() && !self.sync.asks_those_before() {
            let limit = self.max_lag;
            let reasons = self.pledges.iter().map(|(name, pledge)| match self.lag(pledge) {
                lag if lag > limit => format!("{name} lags by {lag}, beyond maximum_lag_on_failover ({limit} bytes)"),
                _ => format!("{name} may not lead, or is away by now"),
            });
            return reasons.chain([self.missing()]).filter(|text| !text.is_empty()).collect::<Vec<_>>().join(", ");
        }
        format!(
            "{} of {} pledges needed to be sure that nothing acknowledged is lost; {}",
            self.fence_pledges(),
            self.sync.rule.fence(),
            self.missing()
        )
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
        let proofs = self.proofs(&pledges);
        pledges
            .iter()
            .filter(|(name, pledge)| {
                proofs.iter().any(|demand| self.meets(pledge, *demand))
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

    fn meets(&self, pledge: &Pledge, demand: Demand) -> bool {
        (pledge.timeline, pledge.lsn) >= demand.position && (!demand.within_lag || self.lag(pledge) <= self.max_lag)
    }

    /// By how many bytes a member is behind what was last told of the leader.
    fn lag(&self, pledge: &Pledge) -> u64 {
        let told = self.view.optime_timeline;
        if told != 0 && pledge.timeline > told {
            // The position is of a time before this timeline; it may even lie ahead, after a restore in place.
            return 0;
        }
        // What a member has of a timeline that was left behind only counts up to where it was left.
        let forks = self.view.history.iter().map(|entry| entry.fork());
        let left = forks.filter(|(timeline, _)| (pledge.timeline..told).contains(timeline)).map(|(_, fork)| fork).min();
        self.view.optime.0.saturating_sub(left.map_or(pledge.lsn, |fork| fork.min(pledge.lsn)).0)
    }

    /// What these pledges prove: whoever meets one of the demands certainly holds everything acknowledged.
    fn proofs(&self, pledges: &BTreeMap<&MemberName, &Pledge>) -> Vec<Demand> {
        let position = |pledge: &Pledge| (pledge.timeline, pledge.lsn);
        // Each proof stands alone: what the leader of the epoch itself holds is enough,
        let leader = pledges.get(&self.sync.leader).filter(|pledge| pledge.incarnation == self.sync.incarnation);
        // so is the shutdown checkpoint of a leader that stopped cleanly,
        let release = self.sync.released.as_ref();
        let shutdown = release.and_then(|release| Some(beyond(release.timeline, release.shutdown_checkpoint?)));
        // and so is what the voters hold, if enough of them pledged.
        let quorum = || {
            let mut demand = match self.sync.asks_those_before() {
                true => Demand::default(),
                false => self.quorum_demand(&self.sync.rule, None, pledges)?,
            };
            if !self.sync.established {
                for previous in &self.sync.previous {
                    demand = demand.and(self.quorum_demand(&previous.rule, Some(previous), pledges)?);
                }
            }
            Some(demand)
        };
        let single = leader.map(|pledge| position(pledge)).into_iter().chain(shutdown).map(Demand::from);
        single.chain(quorum()).collect()
    }

    /// Greatest position among the pledged voters of a rule, if enough of them pledged. For an earlier rule its leader
    /// alone is enough, and so is the position that says when it ended.
    fn quorum_demand(
        &self,
        rule: &Rule,
        earlier: Option<&PreviousRule>,
        pledges: &BTreeMap<&MemberName, &Pledge>,
    ) -> Option<Demand> {
        let earlier_leader = earlier.and_then(|previous| {
            pledges.get(&previous.leader).filter(|pledge| pledge.incarnation == previous.incarnation)
        });
        if rule.is_empty() {
            // Asynchronous: nothing was promised beyond the lag limit.
            return Some(Demand { within_lag: earlier.is_none(), ..Demand::default() });
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
        best.filter(|_| enough).into_iter().chain(shutdown).chain(held).min().map(Demand::from)
    }
}

/// The least position that includes the record at `checkpoint`.
fn beyond(timeline: Timeline, checkpoint: Lsn) -> Position {
    (timeline, Lsn(checkpoint.0 + 1))
}
