//! Nobody leads: stop receiving, pledge, and take over if we hold everything that was acknowledged.

use std::collections::BTreeMap;

use crate::decide::ballot::Ballot;
use crate::decide::candidates;
use crate::decide::turn::Turn;
use crate::decide::{ClusterView, Job, Millis, Purpose, Running, Server, Why};
use crate::name::MemberName;
use crate::record::{Pledge, PreviousRule, ReleaseReason, SyncRecord, Versioned, key};
use crate::rule::Rule;
use crate::transaction::{Life, Txn};

/// How long the better placed member is given before the next one acts in its stead.
const TURN: Millis = 2_000;
/// How long a leader that stopped cleanly and is back is waited for.
const CLEAN_LEADER_PATIENCE: Millis = 10_000;
/// How long a member that has just started waits for the last leader to show up.
const START_PATIENCE: Millis = 2_000;
/// When too few pledges are more than the usual moment.
const MISSING_FOR: Millis = 10_000;
/// Under the empty rule: how long to wait for members that have not pledged.
const SETTLE: Millis = 500;

impl Turn<'_> {
    pub(super) fn elect(&mut self, view: &ClusterView, sync: &Versioned<SyncRecord>) -> Why {
        self.memory.switching = None;
        self.memory.barrier = None;
        self.memory.missing_since.clear();
        self.answers();
        let since = *self.memory.leaderless_since.get_or_insert(self.obs.now);
        self.drop_lease();
        // Whoever leads again tries again to start.
        self.memory.failures.take_if(|failures| failures.job == Job::StartPrimary);
        match &self.obs.server {
            Server::Running(running) if !running.in_recovery => {
                if self.policy.paused && self.was_leader(&sync.value) {
                    return self.take_over(view, sync, Vec::new(), true);
                }
                self.stop_writable(Why::new("lead_lost", "we lead no more: stopping PostgreSQL"))
            }
            _ if self.obs.stopping => self.stop_replica(),
            _ if self.runs_without_data() => self.stop_without_data(),
            Server::Unready => Why::new("unready", "PostgreSQL does not answer yet"),
            Server::Stopped => self.elect_stopped(view, sync, since),
            Server::Running(running) => self.elect_running(view, sync, running, since),
        }
    }

    pub(super) fn stop_replica(&mut self) -> Why {
        if self.obs.server == Server::Stopped {
            return Why::new("stopped", "stopped");
        }
        self.run(Job::StopFast, Why::new("stopping", "stopping PostgreSQL"))
    }

    /// Our data is that of the leader of the newest epoch: it holds everything acknowledged in it.
    fn was_leader(&self, sync: &SyncRecord) -> bool {
        sync.leader == self.policy.me && Some(&sync.incarnation) == self.obs.incarnation()
    }

    fn elect_stopped(&mut self, view: &ClusterView, sync: &Versioned<SyncRecord>, since: Millis) -> Why {
        let Some(facts) = self.obs.facts() else {
            return self.trouble("no_leader_to_clone_from", "waiting for a leader to clone from");
        };
        let was_leader = self.was_leader(&sync.value);
        let others = self.obs.alive.iter().any(|name| *name != self.policy.me);
        // It handed over, or could not start: another one is to lead.
        let reason = sync.value.released.as_ref().map(|release| release.reason);
        let moving = matches!(reason, Some(ReleaseReason::Switchover | ReleaseReason::Crash));
        if was_leader && !facts.standby && (facts.clean || !others || sync.value.rule.is_empty()) {
            let wait = if moving && others { since + 3 * TURN } else { since };
            if self.obs.now >= wait {
                return self.take_over(view, sync, Vec::new(), true);
            }
            self.wake_at(wait);
            if moving {
                return Why::new("handed_over", "handed over: waiting for the new leader");
            }
        }
        // A primary of an older epoch is rewound once somebody leads; if that takes long, its vote may be what is missing.
        let late = since + 2 * TURN;
        if facts.standby || was_leader || self.obs.now >= late {
            self.configure_standby(&sync.value, None);
            return self.run(Job::StartStandby, Why::new("start_to_elect", "starting as a replica of nobody, to vote"));
        }
        self.wake_at(late);
        Why::new("wait_for_leader", "this was a primary of an older epoch: waiting for a leader to rewind to")
    }

    fn elect_running(
        &mut self,
        view: &ClusterView,
        sync: &Versioned<SyncRecord>,
        running: &Running,
        since: Millis,
    ) -> Why {
        if self.handed_to_us(&sync.value, running) {
            return self.take_over(view, sync, Vec::new(), false);
        }
        self.configure_standby(&sync.value, None);
        if running.upstream.is_some() || running.receiving {
            self.wake_at(self.obs.now + 20);
            return Why::new("election_stop_receiving", "nobody leads: ending the stream from the last leader");
        }
        if !running.caught_up {
            self.wake_at(self.obs.now + 20);
            return Why::new("election_replay", "nobody leads: replaying the rest of the local WAL");
        }
        let Some(incarnation) = self.obs.incarnation().cloned() else {
            return Why::new("no_incarnation", "waiting for the data directory to get its identity");
        };
        let mine = Pledge {
            epoch: sync.value.epoch,
            incarnation,
            timeline: running.timeline,
            lsn: running.lsn,
            withdrawn: false,
        };
        if view.pledges.get(&self.policy.me).map(|pledge| &pledge.value) != Some(&mine) {
            let txn = Txn::new()
                .absent(key::LEADER)
                .unchanged(key::SYNC, sync.revision)
                .put(&key::pledge(&self.policy.me), &mine);
            self.commit(Purpose::Pledge, txn);
            return Why::new("pledge", format!("nobody leads: pledging at {}/{}", mine.timeline, mine.lsn));
        }
        self.judge(view, sync, since)
    }

    /// The leader stopped cleanly in our favour and we hold its last record: no pledge could add anything.
    fn handed_to_us(&self, sync: &SyncRecord, running: &Running) -> bool {
        sync.released.as_ref().is_some_and(|release| {
            release.candidate.as_ref() == Some(&self.policy.me)
                && running.timeline == release.timeline
                && release.shutdown_checkpoint.is_some_and(|checkpoint| running.lsn > checkpoint)
        })
    }

    fn judge(&mut self, view: &ClusterView, sync: &Versioned<SyncRecord>, since: Millis) -> Why {
        let requested = requested(view);
        let paused_for_all = self.policy.paused
            && requested != Some(&self.policy.me)
            && sync.value.released.as_ref().is_none_or(|release| release.reason != ReleaseReason::Switchover);
        if paused_for_all {
            return Why::new("paused", "nobody leads, and the cluster is paused");
        }
        if let Some((until, whom)) = self.patience(&sync.value, requested, since)
            && self.obs.now < until
        {
            self.wake_at(until);
            return Why::new("election_waits", format!("nobody leads: giving {whom} a moment"));
        }
        let ballot = Ballot::new(view, &sync.value, self.policy.maximum_lag_on_failover, &self.obs.alive, requested);
        let settled = self.obs.now >= since + SETTLE;
        if sync.value.rule.is_empty() && !ballot.everybody_pledged(&self.obs.alive) && !settled {
            self.wake_at(since + SETTLE);
            return Why::new("election_settles", "nobody leads: waiting for the other members' positions");
        }
        let ranking = ballot.ranking();
        let Some(rank) = ranking.iter().position(|name| *name == self.policy.me) else {
            self.memory.outranked_since = None;
            if let Some(best) = ranking.first() {
                return Why::new("election_not_ours", format!("nobody leads: {best} is to take over"));
            }
            if let Some(why) = self.accept_loss(view, sync, &ballot.missing()) {
                return why;
            }
            let text = format!(
                "nobody leads: {} of {} pledges needed to be sure that nothing acknowledged is lost; {}",
                ballot.fence_pledges(),
                sync.value.rule.fence(),
                ballot.missing()
            );
            if self.obs.now >= since + MISSING_FOR {
                return self.trouble("election_short", text);
            }
            self.wake_at(since + MISSING_FOR);
            return Why::new("election_short", text);
        };
        // Counted from when it is known who is better placed: that may be long after the leader has gone.
        let turn = if rank == 0 {
            self.memory.outranked_since = None;
            since
        } else {
            *self.memory.outranked_since.get_or_insert(self.obs.now) + rank as Millis * TURN
        };
        if !self.policy.may_lead {
            return self.trouble("may_not_lead", "this member holds everything but is tagged as never to be leader");
        }
        if self.obs.now < turn {
            self.wake_at(turn);
            return Why::new("election_not_our_turn", format!("nobody leads: {} is to take over", ranking[0]));
        }
        let counted = ballot.counted();
        self.take_over(view, sync, counted, false)
    }

    /// Somebody better suited who deserves a moment: the chosen candidate, or a leader that stopped cleanly and is back.
    fn patience(
        &self,
        sync: &SyncRecord,
        requested: Option<&MemberName>,
        since: Millis,
    ) -> Option<(Millis, MemberName)> {
        let me = &self.policy.me;
        if let Some(requested) = requested.filter(|name| self.obs.alive.contains(*name)) {
            return (requested != me).then(|| (since + TURN, requested.clone()));
        }
        if let Some(release) = &sync.released {
            if let Some(candidate) = release.candidate.as_ref().filter(|name| self.obs.alive.contains(*name)) {
                return (candidate != me).then(|| (since + TURN, candidate.clone()));
            }
            let back = release.reason == ReleaseReason::Stop && self.obs.alive.contains(&sync.leader);
            return (back && sync.leader != *me).then(|| (since + CLEAN_LEADER_PATIENCE, sync.leader.clone()));
        }
        let fresh = self.memory.started.unwrap_or_default() + START_PATIENCE;
        (sync.leader != *me && since < fresh).then(|| (fresh, sync.leader.clone()))
    }

    /// One compare-and-set on everything the claim rests on. `resume`: the last leader goes on with its own data, on
    /// its own timeline and rule.
    pub(super) fn take_over(
        &mut self,
        view: &ClusterView,
        sync: &Versioned<SyncRecord>,
        counted: Vec<MemberName>,
        resume: bool,
    ) -> Why {
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
            next.previous.push(PreviousRule {
                leader: old.leader.clone(),
                incarnation: old.incarnation.clone(),
                rule: old.rule.clone(),
                shutdown: old
                    .released
                    .as_ref()
                    .and_then(|release| Some((release.timeline, release.shutdown_checkpoint?))),
            });
            next.established = false;
            let own = self.obs.running().map_or(0, |running| running.timeline);
            next.timeline = next.timeline.max(own) + 1;
        }
        let epoch = next.epoch;
        let mut txn = Txn::new().absent(key::LEADER).unchanged(key::SYNC, sync.revision);
        for name in &counted {
            if let Some(pledge) = view.pledges.get(name) {
                txn = txn.unchanged(&key::pledge(name), pledge.revision);
            }
        }
        // A takeover answers a request that is due, whoever it is: nobody expects another move afterwards.
        if let Some(request) = view.failover.as_ref().filter(|_| view.failover_due) {
            txn = txn.unchanged(key::FAILOVER, request.revision).delete(key::FAILOVER);
        }
        let txn = txn
            .put_text(key::LEADER, self.policy.me.to_string(), Life::LeaderLease)
            .put(key::SYNC, &next.with_patroni_fields());
        self.commit(Purpose::Takeover, txn);
        let what = if resume { "resuming the lead" } else { "taking over" };
        Why::new("takeover", format!("{what} in epoch {epoch}"))
    }

    /// The rule of the new epoch: the voters so far and the members that pledged. Who is away leaves it after the usual
    /// delay, as from any rule; else the first commits might be on our disk alone.
    fn rule_after(&self, view: &ClusterView, old: &SyncRecord) -> Rule {
        let wanted = self.policy.synchronous;
        if wanted.needed == 0 || old.membership.len() < wanted.from_members {
            return Rule::default();
        }
        let pledged = view.pledges.iter().filter(|(_, pledge)| pledge.value.epoch == old.epoch);
        let pledged = pledged.map(|(name, pledge)| (name, &pledge.value.incarnation));
        let mut voters: BTreeMap<_, _> = old
            .rule
            .voters
            .iter()
            .chain(pledged)
            .filter(|(name, incarnation)| {
                // The record of a member may be gone for a moment, as after an outage of the store.
                let fit = match view.members.get(*name) {
                    Some(member) => candidates::may_vote(member, incarnation),
                    None => old.rule.has(name, incarnation),
                };
                **name != self.policy.me && fit
            })
            .map(|(name, incarnation)| (name.clone(), incarnation.clone()))
            .collect();
        if wanted.strict && (voters.len() as u32) < wanted.needed {
            let missing = old.rule.voters.iter().filter(|(name, _)| **name != self.policy.me);
            for (name, incarnation) in missing {
                voters.entry(name.clone()).or_insert_with(|| incarnation.clone());
            }
        }
        let needed = if wanted.strict { wanted.needed } else { wanted.needed.min(voters.len() as u32) };
        let rule = Rule { voters, needed, ..Rule::default() };
        if needed == 0 { Rule::default() } else { candidates::in_order(self.policy, view, rule) }
    }
}

/// The member that a person wants to lead, now.
pub(super) fn requested(view: &ClusterView) -> Option<&MemberName> {
    view.failover.as_ref().filter(|_| view.failover_due)?.value.member.as_ref()
}
