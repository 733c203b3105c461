//! How long a leader's PostgreSQL may be writable: for its lease, and beyond it while nobody can take over without members
//! that stand by it.
//!
//! Under a rule a takeover needs so many voters that with k of them standing by there is none; the lease then guards
//! nothing that matters. Under the empty rule a takeover needs nobody's leave, so the leader needs everybody's promise.

use crate::decide::turn::Turn;
use crate::decide::{ClusterView, Millis};
use crate::record::{SyncRecord, Versioned};
use crate::rule::Rule;

impl Turn<'_> {
    /// The record names us, with the data we have, and we have not given up the lead.
    pub(super) fn epoch_is_ours(&self, sync: &SyncRecord) -> bool {
        sync.leader == self.policy.me && Some(&sync.incarnation) == self.obs.incarnation() && sync.released.is_none()
    }

    pub(super) fn weigh_authority(&mut self, view: &ClusterView, sync: &Versioned<SyncRecord>) {
        let another = view.leader.as_ref().is_some_and(|leader| leader.name != self.policy.me);
        if !another && self.epoch_is_ours(&sync.value) {
            self.weigh(sync);
        }
    }

    /// The epoch is ours: adds to the lease what the others give us.
    pub(super) fn weigh(&mut self, sync: &Versioned<SyncRecord>) {
        let rules = self.rules_in_force(sync);
        let renewed = self.obs.lease.map_or(0, |lease| lease.renewed);
        self.asks_promise =
            rules.iter().any(Rule::is_empty) && self.obs.now > renewed.saturating_add(self.policy.ttl / 2);
        let backed = rules.iter().map(|rule| self.backed_until(rule, &sync.value)).min().flatten();
        self.authority = self.authority.max(backed);
    }

    /// What may be in force in the store or in PostgreSQL: the published rule, one that PostgreSQL enforces already, and
    /// one that was sent and whose answer got lost.
    pub(super) fn rules_in_force(&self, sync: &Versioned<SyncRecord>) -> [Rule; 3] {
        let published = sync.value.rule.clone();
        let announced =
            self.memory.announced.as_ref().map_or_else(|| published.clone(), |announced| announced.rule.clone());
        [published, self.enforced_rule(sync), announced]
    }

    /// Neither we nor the guard would let PostgreSQL outlive its lease.
    pub(super) fn rests_on_lease(&self) -> bool {
        let lease = self.obs.lease.map(|lease| lease.until);
        self.authority <= lease && self.obs.guarded_until <= lease
    }

    /// Until when nobody can take over under this rule, as far as the others have told us.
    fn backed_until(&self, rule: &Rule, sync: &SyncRecord) -> Option<Millis> {
        if rule.is_empty() {
            return self.promised_until(sync);
        }
        let needed = (rule.needed as usize).min(rule.voters.len());
        let Some(last) = needed.checked_sub(1) else {
            // Nobody can take over from a rule of nobody, unless whoever holds what the rules before it asked for may: then none
            // of them has to stop standing by us first. The record of one that is only sent yet may say that.
            let is_open = *rule != sync.rule || sync.asks_those_before();
            return (!is_open).then_some(self.obs.now + self.policy.ttl);
        };
        let support = self.obs.support.iter();
        let mut heard: Vec<Millis> = support
            .filter(|(name, support)| support.epoch == sync.epoch && rule.has(name, &support.incarnation))
            .map(|(_, support)| support.heard)
            .collect();
        heard.sort_unstable_by(|a, b| b.cmp(a));
        heard.get(last).map(|heard| heard + self.policy.ttl)
    }

    /// Until when every other member has promised not to take over; only members can, and who is about to be one.
    fn promised_until(&self, sync: &SyncRecord) -> Option<Millis> {
        let others = sync.membership.union(&self.obs.alive).filter(|name| **name != self.policy.me);
        let promises = others.map(|name| self.obs.support.get(name)?.promised_until);
        promises.min().unwrap_or(Some(self.obs.now + self.policy.ttl))
    }
}
