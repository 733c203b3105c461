//! The leader keeps the durability rule in step with the members that stream from it.
//!
//! The published rule must always let every takeover quorum meet every acknowledgement quorum that PostgreSQL may be
//! using. So what makes takeovers stricter (a voter more, one fewer needed) is published first; what makes them easier
//! (a voter fewer, one more needed) is enforced first, proved by a barrier, and published last.

use std::collections::BTreeMap;

use crate::decide::candidates::{self, may_vote};
use crate::decide::turn::Turn;
use crate::decide::{Barrier, ClusterView, Millis, Proposed, Purpose, Running, Settings, Why};
use crate::lsn::Lsn;
use crate::name::{Incarnation, MemberName};
use crate::record::{MemberRecord, PreviousRule, SyncRecord, Versioned};
use crate::rule::{Rule, application_name};
use crate::transaction::Txn;

/// Walsenders and the checkpointer load settings one by one, and each acknowledges by what it has loaded: a commit may
/// still be acknowledged under the old names so long after a session has seen the new ones.
pub(super) const RELOAD_MARGIN: Millis = 100;

/// The next step from the published rule towards the wanted one.
enum Step {
    /// Nothing to change.
    Keep,
    /// Publish, and enforce once published.
    PublishFirst(Rule),
    /// Enforce, prove by a barrier, publish.
    EnforceFirst(Rule),
    /// Make it impossible that a rule sent for publication earlier still lands.
    Withdraw,
}

impl Turn<'_> {
    pub(super) fn keep_rule(&mut self, view: &ClusterView, sync: &Versioned<SyncRecord>, running: &Running) -> Why {
        let record = &sync.value;
        let newcomers = self.obs.alive.iter().any(|name| !record.membership.contains(name));
        let able = self.able(view, running);
        let enforced = self.enforced_rule(sync);
        let step = match self.next_step(view, record, &able) {
            Step::Keep if enforced != record.rule => Step::Withdraw,
            Step::EnforceFirst(rule) if enforced != record.rule && enforced != rule => Step::Withdraw,
            step => step,
        };
        // The guard must not let PostgreSQL outlive the lease once the lease is all that fences it.
        let unfenced = matches!(&step, Step::PublishFirst(rule) if rule.is_empty()) && !self.rests_on_lease();
        if unfenced {
            self.memory.announced = Some(Proposed { revision: sync.revision, rule: Rule::default() });
            self.wake_at(self.obs.now + 20);
        }
        let step = if unfenced { Step::Keep } else { step };
        let enforced = match &step {
            Step::EnforceFirst(rule) => rule,
            _ => &enforced,
        };
        let names = self.names_for(view, enforced);
        self.configure(Settings { upstream: None, synchronous_standby_names: names.clone() });

        // Who becomes a member under the empty rule has promised nothing, and may take over once the lease has ended.
        let joined = newcomers && (!record.rule.is_empty() || self.rests_on_lease());
        let provable = !record.established && !record.rule.is_of_nobody();
        let mut next = record.clone();
        if joined {
            next.membership.extend(self.obs.alive.iter().cloned());
        }
        let why = match step {
            Step::PublishFirst(rule) => {
                let why = Why::new("rule_publish", format!("rule: from {} to {rule}, published first", record.rule));
                self.memory.announced = Some(Proposed { revision: sync.revision, rule: rule.clone() });
                next.rule = rule;
                why
            }
            Step::EnforceFirst(rule) if self.passed(&rule, &names, running) => {
                let why = Why::new("rule_publish", format!("rule: from {} to {rule}, proved", record.rule));
                self.memory.proposed = Some(Proposed { revision: sync.revision, rule: rule.clone() });
                next.established = !rule.is_of_nobody();
                if next.established {
                    next.previous.clear();
                } else {
                    // Nothing is acknowledged from here on, so whoever reaches as far holds everything.
                    let reached = self.memory.barrier.as_ref().and_then(|barrier| barrier.lsn);
                    let last = PreviousRule {
                        leader: record.leader.clone(),
                        incarnation: record.incarnation.clone(),
                        rule: record.rule.clone(),
                        shutdown: None,
                        held: reached.map(|lsn| (running.timeline, lsn)),
                    };
                    // It may have been so before.
                    next.previous.retain(|before| before.key() != last.key());
                    next.previous.push(last);
                }
                next.rule = rule;
                why
            }
            Step::Withdraw => {
                self.wake_at(self.obs.now + 50);
                Why::new(
                    "rule_withdraw",
                    format!("rule: stays {}, a change that was never answered is void", record.rule),
                )
            }
            Step::EnforceFirst(rule) => {
                self.wake_at(self.obs.now + 50);
                if joined {
                    self.publish(sync, next);
                }
                return Why::new("rule_barrier", format!("rule: to {rule}, waiting until it is proved"));
            }
            Step::Keep if provable && self.passed(&record.rule, &names, running) => {
                next.established = true;
                next.previous.clear();
                Why::new("rule_established", format!("rule: {} is established", record.rule))
            }
            Step::Keep if joined => Why::new("membership", "a member joined the cluster"),
            Step::Keep => {
                if provable || newcomers {
                    self.wake_at(self.obs.now + 50);
                }
                return Why::new("leading", format!("leading in epoch {}, {}", record.epoch, record.rule));
            }
        };
        self.publish(sync, next);
        why
    }

    /// What PostgreSQL is to enforce at least: the published rule, or a stricter one that was sent for publication. Its
    /// answer may be lost and it may still land, until another write of the record makes its compare fail.
    pub(super) fn enforced_rule(&self, sync: &Versioned<SyncRecord>) -> Rule {
        let proposed = self.memory.proposed.as_ref().filter(|proposed| proposed.revision == sync.revision);
        proposed.map_or_else(|| sync.value.rule.clone(), |proposed| proposed.rule.clone())
    }

    fn publish(&mut self, sync: &Versioned<SyncRecord>, next: SyncRecord) {
        let purpose = if next.rule == sync.value.rule && next.established == sync.value.established {
            Purpose::Membership
        } else {
            Purpose::Rule
        };
        let txn = Txn::new().rewrite_sync(sync, next);
        self.commit(purpose, txn);
    }

    /// Living members that stream from us with the data they announced, may vote, and are not too far behind.
    fn able(&self, view: &ClusterView, running: &Running) -> BTreeMap<MemberName, Incarnation> {
        let keeps_up = |flushed: &Lsn| {
            let lag = running.lsn.0.saturating_sub(flushed.0);
            self.policy.synchronous.max_lag.is_none_or(|limit| lag <= limit)
        };
        view.members
            .iter()
            .filter(|(name, _)| **name != self.policy.me)
            .filter_map(|(name, member)| {
                let incarnation = member.incarnation.clone().filter(|incarnation| may_vote(member, incarnation))?;
                let flushed = running.replicas.get(&application_name(name, &incarnation))?;
                keeps_up(flushed).then(|| (name.clone(), incarnation))
            })
            .collect()
    }

    /// A voter counts as gone when it has not been able to vote for `shrink_delay`.
    fn gone(&mut self, view: &ClusterView, rule: &Rule, able: &BTreeMap<MemberName, Incarnation>) -> Vec<MemberName> {
        let now = self.obs.now;
        let streams = |name: &MemberName, incarnation: &Incarnation| able.get(name) == Some(incarnation);
        self.memory
            .missing_since
            .retain(|name, _| rule.voters.get(name).is_some_and(|incarnation| !streams(name, incarnation)));
        let mut gone = Vec::new();
        for (name, incarnation) in &rule.voters {
            if streams(name, incarnation) {
                continue;
            }
            let since = *self.memory.missing_since.entry(name.clone()).or_insert(now);
            // One whose own record says so will not be back with that data.
            let given_up = view.members.get(name).is_some_and(|member| gives_up(member, incarnation));
            let due = if given_up { now } else { since + self.policy.shrink_delay };
            if now >= due {
                gone.push(name.clone());
            } else {
                self.wake_at(due);
            }
        }
        gone
    }

    fn next_step(&mut self, view: &ClusterView, record: &SyncRecord, able: &BTreeMap<MemberName, Incarnation>) -> Step {
        let published = &record.rule;
        let wanted = self.policy.synchronous;
        let members = record.membership.union(&self.obs.alive).count();
        let needed = if members >= wanted.from_members { wanted.needed } else { 0 };
        if needed == 0 {
            return if published.is_empty() { Step::Keep } else { Step::PublishFirst(Rule::default()) };
        }
        let mut gone = self.gone(view, published, able);
        // Who is away for a moment keeps its place in the choice.
        let staying = published.voters.keys().filter(|name| !gone.contains(name));
        let chosen = candidates::choose(self.policy, view, &able.keys().chain(staying).cloned().collect());
        let present: BTreeMap<_, _> = able
            .iter()
            .filter(|(name, _)| chosen.contains(*name))
            .map(|(name, own)| (name.clone(), own.clone()))
            .collect();

        if published.is_empty() {
            let needed = if wanted.strict { needed } else { needed.min(present.len() as u32) };
            if needed == 0 || present.is_empty() {
                return Step::Keep;
            }
            let rule = Rule { voters: present, needed, ..Rule::default() };
            return Step::EnforceFirst(candidates::in_order(self.policy, view, rule));
        }
        // A voter that came back with other data is a voter gone and a voter new; the old one leaves first.
        let new: BTreeMap<_, _> =
            present.into_iter().filter(|(name, _)| !published.voters.contains_key(name)).collect();
        let waits = |name: &MemberName| {
            let member = view.members.get(name).zip(published.voters.get(name));
            member.is_some_and(|(member, incarnation)| gives_up(member, incarnation))
        };
        let drop_from = |names: &[MemberName]| Step::EnforceFirst(published.only(|name, _| !names.contains(name)));
        // A voter more makes takeovers stricter only where there were enough voters before. With fewer than a strict rule
        // needs, each of them could take over alone: a new one has to be proved first to hold everything. And until that is
        // published nothing may be acknowledged without those published, so no more come in at once than are needed.
        let short = (published.needed as usize).saturating_sub(published.voters.len());
        if short > 0 && gone.iter().any(waits) {
            return drop_from(&gone);
        }
        if !new.is_empty() {
            let mut rule = published.clone();
            rule.voters.extend(new.into_iter().take(if short > 0 { short } else { usize::MAX }));
            // Nor is that needed where the record says how far they must reach to take over.
            let proved_first = short > 0 && !record.asks_those_before();
            return if proved_first { Step::EnforceFirst(rule) } else { Step::PublishFirst(rule) };
        }
        // One that is not wanted any more leaves as soon as enough others are there.
        let unwanted: Vec<_> = published.voters.keys().filter(|name| !chosen.contains(*name)).cloned().collect();
        let rest = published.voters.keys().filter(|name| chosen.contains(*name) && !gone.contains(name)).count();
        if rest >= published.needed as usize {
            gone.extend(unwanted.into_iter().filter(|name| !gone.contains(name)).collect::<Vec<_>>());
        }
        let left = (published.voters.len() - gone.len()) as u32;
        let floor = if wanted.strict { needed } else { needed.min(left) };
        if published.needed > floor {
            let mut rule = published.clone();
            rule.needed = floor;
            return Step::PublishFirst(if floor == 0 { Rule::default() } else { rule });
        }
        if left >= published.needed && !gone.is_empty() {
            return drop_from(&gone[..1]);
        }
        // A strict rule gains nothing by dropping who is merely away, and whoever is dropped may not take over later. But
        // a member that has to touch its data, or has already lost it, waits to be dropped: its own record tells. Those
        // who are away go with it, since they could not confirm the barrier.
        if gone.iter().any(waits) {
            return drop_from(&gone);
        }
        if published.needed < needed.min(left) {
            let mut rule = published.clone();
            rule.needed += 1;
            return Step::EnforceFirst(rule);
        }
        let ordered = candidates::in_order(self.policy, view, published.clone());
        if ordered != *published {
            return Step::PublishFirst(ordered);
        }
        Step::Keep
    }

    /// Whether everything written before `names` came into force has been flushed by the voters `rule` needs.
    fn passed(&mut self, rule: &Rule, names: &str, running: &Running) -> bool {
        if rule.is_empty() {
            return true;
        }
        if running.synchronous_standby_names != names {
            self.memory.barrier = None;
            return false;
        }
        let now = self.obs.now;
        let fresh = Barrier { names: names.to_owned(), since: now, settled: false, lsn: None };
        let barrier = self.memory.barrier.take_if(|barrier| barrier.names == names).unwrap_or(fresh);
        // The position counts only if PostgreSQL was asked for it after the margin: this observation may be older.
        let lsn = barrier.lsn.or(barrier.settled.then_some(running.lsn));
        let settled = now >= barrier.since + RELOAD_MARGIN;
        self.memory.barrier = Some(Barrier { settled, lsn, ..barrier });
        let Some(barrier) = lsn else {
            self.wake_at(now + 50);
            return false;
        };
        let flushed = rule
            .voters
            .iter()
            .filter(|(name, incarnation)| {
                running.replicas.get(&application_name(name, incarnation)).is_some_and(|lsn| *lsn >= barrier)
            })
            .count();
        flushed >= (rule.needed as usize).min(rule.voters.len())
    }
}

/// The voter has other data by now, or waits to be dropped before it changes what it has, as by a rewind or a copy.
fn gives_up(member: &MemberRecord, incarnation: &Incarnation) -> bool {
    member.leaves_rule || member.incarnation.as_ref() != Some(incarnation)
}
