//! Taking the lead in a new epoch.

use std::collections::BTreeMap;

use crate::decide::candidates;
use crate::decide::turn::Turn;
use crate::decide::vacancy::Vacancy;
use crate::decide::{ClusterView, Job, Purpose, Settings, Why};
use crate::name::MemberName;
use crate::record::{MemberRecord, PreviousRule, SyncRecord, Versioned, key};
use crate::rule::Rule;
use crate::transaction::{Life, Txn};

impl Turn<'_> {
    /// One compare-and-set on everything the claim rests on. `resume`: the last leader goes on with its own data, on
    /// its own timeline and rule.
    pub(super) fn take_over(
        &mut self,
        view: &ClusterView,
        sync: &Versioned<SyncRecord>,
        vacancy: Vacancy<'_>,
        counted: Vec<MemberName>,
        resume: bool,
    ) -> Why {
        if let Some(why) = self.bound_by_empty_rule(&sync.value).or_else(|| self.unwatched()) {
            return why;
        }
        let Some(incarnation) = self.obs.incarnation().cloned() else {
            return Why::new("no_incarnation", "waiting for the data directory to get its identity");
        };
        let old = &sync.value;
        let mut next = old.clone();
        next.leader = self.policy.me.clone();
        next.incarnation = incarnation;
        next.epoch += 1;
        next.released = None;
        next.handover = false;
        if !resume {
            next.rule = self.rule_after(view, old);
            if !old.asks_those_before() {
                next.previous.push(self.rule_before(old));
            }
            next.established = false;
            let own = self.obs.running().map_or(0, |running| running.timeline);
            next.timeline = next.timeline.max(own) + 1;
        }
        // By the time that this is in the store PostgreSQL has loaded them, or nearly.
        if !resume {
            self.prepare_to_lead(view, &next.rule);
        }
        let epoch = next.epoch;
        let mut txn = Txn::new().as_seen(key::LEADER, vacancy.suspect.map(|(leader, _)| leader.revision));
        for name in &counted {
            if let Some(pledge) = view.pledges.get(name) {
                txn = txn.unchanged(&key::pledge(name), pledge.revision);
            }
        }
        // A takeover answers a request that is due, whoever it is: nobody expects another move afterwards.
        if let Some(request) = view.failover.as_ref().filter(|_| view.failover_due) {
            txn = txn.unchanged(key::FAILOVER, request.revision).delete(key::FAILOVER);
        }
        let txn = txn.put_text(key::LEADER, self.policy.me.to_string(), Life::LeaderLease).rewrite_sync(sync, next);
        self.commit(Purpose::Takeover, txn);
        let what = if resume { "resuming the lead" } else { "taking over" };
        Why::new("takeover", format!("{what} in epoch {epoch}"))
    }

    /// What the leader so far was bound by.
    fn rule_before(&self, old: &SyncRecord) -> PreviousRule {
        let checkpoint = old.released.as_ref().and_then(|it| Some((it.timeline, it.shutdown_checkpoint?)));
        PreviousRule {
            leader: old.leader.clone(),
            incarnation: old.incarnation.clone(),
            rule: old.rule.clone(),
            shutdown: checkpoint,
            held: self.obs.running().map(|running| (running.timeline, running.lsn)),
        }
    }

    /// The last leader stopped in our favour: we stop receiving, and load what we are to lead with by the same.
    pub(super) fn expect_lead(&mut self, view: &ClusterView, old: &SyncRecord) {
        let rule = self.rule_after(view, old);
        match rule.is_empty() {
            true => self.configure_standby(old, None),
            false => self.prepare_to_lead(view, &rule),
        }
    }

    /// A standby takes no notice of these names before its promotion.
    fn prepare_to_lead(&mut self, view: &ClusterView, rule: &Rule) {
        if !rule.is_empty() {
            let synchronous_standby_names = self.names_for(view, rule);
            self.configure(Settings { upstream: None, synchronous_standby_names });
        }
    }

    /// Our PostgreSQL is being promoted, and the lead has gone by now. (A promotion that an earlier process began comes out
    /// with the names of a rule in force: see [`Turn::configure_standby`].)
    pub(super) fn end_promotion(&mut self) -> Option<Why> {
        let promoting = self.obs.running()?.in_recovery && self.obs.busy == Some(Job::Promote);
        promoting.then(|| {
            let why = Why::new("promotion_void", "the lead has gone to another: ending the promotion");
            self.run(Job::StopImmediate, why)
        })
    }

    /// A member whose host must have a watchdog does not lead without one. While paused nothing is guarded.
    pub(super) fn unwatched(&mut self) -> Option<Why> {
        let failure = self.obs.watchdog.as_ref().filter(|_| !self.policy.paused)?;
        let text =
            format!("the watchdog (watchdog.mode: required) does not work, so this member may not lead: {failure}");
        Some(self.trouble("watchdog_failed", text))
    }

    /// Under the empty rule nothing but its lease and our promise keeps a leader that was not released from going on beside
    /// us; and it asks members only, so nobody else may take over.
    fn bound_by_empty_rule(&mut self, sync: &SyncRecord) -> Option<Why> {
        if !sync.rule.is_empty() || sync.released.is_some() || sync.leader == self.policy.me {
            return None;
        }
        if !sync.membership.contains(&self.policy.me) {
            return Some(self.trouble("not_a_member", "nobody leads: this member had not been counted as one yet"));
        }
        let until = self.obs.promised_until;
        if self.obs.now < until {
            self.wake_at(until);
            return Some(Why::new(
                "promised",
                format!("nobody leads: we promised {} not to take over yet", sync.leader),
            ));
        }
        None
    }

    /// The rule of the new epoch: the voters so far and the members that pledged. Who is away leaves it after the usual
    /// delay, as from any rule; else the first commits might be on our disk alone.
    fn rule_after(&self, view: &ClusterView, old: &SyncRecord) -> Rule {
        let wanted = self.policy.synchronous;
        if wanted.needed == 0 || old.membership.len() < wanted.from_members {
            return Rule::default();
        }
        let pledged = view.pledges.iter().filter(|(_, pledge)| pledge.value.counts_against(old.epoch));
        let pledged = pledged.map(|(name, pledge)| (name, &pledge.value.incarnation));
        let mut voters: BTreeMap<_, _> = old
            .rule
            .voters
            .iter()
            .chain(pledged)
            .filter(|(name, incarnation)| {
                // The record of a member may be gone for a moment, as after an outage of the store, or be one of before its
                // data was made anew that landed late: a voter that has lost its data is dropped by the new leader.
                let record = view.members.get(*name);
                let known = record.is_some_and(|member| member.incarnation.as_ref() == Some(*incarnation));
                let fit = (known || old.rule.has(name, incarnation)) && record.is_none_or(MemberRecord::may_vote);
                **name != self.policy.me && fit
            })
            .map(|(name, incarnation)| (name.clone(), incarnation.clone()))
            .collect();
        if wanted.strict && (voters.len() as u32) < wanted.needed {
            // The last leader, too: it holds what was acknowledged so far, and nothing more is before that many are there.
            let leader = Some((&old.leader, &old.incarnation)).filter(|(name, incarnation)| {
                view.members.get(*name).is_none_or(|member| candidates::may_vote(member, incarnation))
            });
            let missing = old.rule.voters.iter().chain(leader).filter(|(name, _)| **name != self.policy.me);
            for (name, incarnation) in missing {
                voters.entry(name.clone()).or_insert_with(|| incarnation.clone());
            }
        }
        let needed = if wanted.strict { wanted.needed } else { wanted.needed.min(voters.len() as u32) };
        let rule = Rule { voters, needed, ..Rule::default() };
        if needed == 0 { Rule::default() } else { candidates::in_order(self.policy, view, rule) }
    }
}
