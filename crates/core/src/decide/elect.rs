//! Nobody leads, or the leader is held to be gone: stop receiving, pledge, and take over if we hold everything that was
//! acknowledged.

use crate::decide::ballot::Ballot;
use crate::decide::turn::{SOON, Turn};
use crate::decide::vacancy::Vacancy;
use crate::decide::{ClusterView, Job, Millis, Running, Server, Why};
use crate::name::MemberName;
use crate::record::{ReleaseReason, SyncRecord, Versioned};

/// How long the better placed member is given before the next one acts in its stead.
const TURN: Millis = 2_000;
/// How long a leader that stopped cleanly and is back is waited for.
const CLEAN_LEADER_PATIENCE: Millis = 10_000;
/// How long a member that has just started waits for the last leader to show up.
const START_PATIENCE: Millis = 2_000;
/// How long whoever the leader stopped in favour of has to take over before others pledge.
const HANDED: Millis = 300;
/// When too few pledges are more than the usual moment.
const MISSING_FOR: Millis = 10_000;
/// Under the empty rule: how long to wait for members that have not pledged.
const SETTLE: Millis = 500;

impl Turn<'_> {
    pub(super) fn elect(&mut self, view: &ClusterView, sync: &Versioned<SyncRecord>) -> Why {
        self.stand_for_election();
        let since = *self.memory.leaderless_since.get_or_insert(self.obs.now);
        let vacancy = Vacancy { suspect: None, since };
        self.drop_lease();
        // Whoever leads again tries again to start.
        self.memory.failures.take_if(|failures| failures.job == Job::StartPrimary);
        match &self.obs.server {
            Server::Running(running) if !running.in_recovery => {
                if self.policy.paused && self.was_leader(&sync.value) {
                    return self.take_over(view, sync, vacancy, Vec::new(), true);
                }
                let backed = self.authority.is_some_and(|until| until > self.obs.now);
                if self.epoch_is_ours(&sync.value) && backed || self.may_lead_still(sync) {
                    return self.return_to_key(sync);
                }
                self.stop_writable(Why::new("lead_lost", "we lead no more: stopping PostgreSQL"))
            }
            _ if self.obs.stopping => self.stop_replica(),
            _ if self.runs_without_data() => self.stop_without_data(),
            server => match self.leader_returns(&sync.value, since) {
                Some(why) => why,
                None => match server {
                    Server::Unready => Why::new("unready", "PostgreSQL does not answer yet"),
                    Server::Stopped => self.elect_stopped(view, sync, vacancy),
                    Server::Running(running) => self.elect_running(view, sync, running, vacancy),
                },
            },
        }
    }

    /// The leader that still has its key is held to be gone.
    pub(super) fn fence(&mut self, view: &ClusterView, sync: &Versioned<SyncRecord>, vacancy: Vacancy<'_>) -> Why {
        self.stand_for_election();
        let since = *self.memory.leaderless_since.get_or_insert(vacancy.since);
        let vacancy = Vacancy { since, ..vacancy };
        match &self.obs.server {
            Server::Running(running) => self.elect_running(view, sync, running, vacancy),
            _ => self.elect_stopped(view, sync, vacancy),
        }
    }

    fn stand_for_election(&mut self) {
        self.memory.switching = None;
        self.memory.barrier = None;
        self.memory.missing_since.clear();
        self.answers();
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

    fn elect_stopped(&mut self, view: &ClusterView, sync: &Versioned<SyncRecord>, vacancy: Vacancy<'_>) -> Why {
        let since = vacancy.since;
        let Some(facts) = self.obs.facts() else {
            return self.trouble("no_leader_to_clone_from", "waiting for a leader to clone from");
        };
        let was_leader = self.was_leader(&sync.value);
        let others = self.obs.alive.iter().any(|name| *name != self.policy.me);
        // It handed over, or could not start: another one is to lead.
        let reason = sync.value.released.as_ref().map(|release| release.reason);
        let moving = matches!(reason, Some(ReleaseReason::Switchover | ReleaseReason::Crash | ReleaseReason::Stalled));
        // On a store that went back a person's word is all that there is to act on: see `accept_loss`.
        let overtaken = self.overtakes(&sync.value).is_some();
        if !overtaken && was_leader && !facts.standby && (facts.clean || !others || sync.value.rule.is_empty()) {
            let wait = if moving && others { since + 3 * TURN } else { since };
            if self.obs.now >= wait {
                return self.take_over(view, sync, vacancy, Vec::new(), true);
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
        vacancy: Vacancy<'_>,
    ) -> Why {
        if let Some(why) = self.end_promotion() {
            return why;
        }
        if self.handed_to_us(&sync.value, running) {
            return self.take_over(view, sync, vacancy, Vec::new(), false);
        }
        match self.stopped_for(&sync.value) {
            Some(candidate) if *candidate == self.policy.me => self.expect_lead(view, &sync.value),
            _ => self.configure_standby(&sync.value, None),
        }
        if running.upstream.is_some() || running.receiving {
            if let Some(why) = self.start_replay_anew("so that its stream ends") {
                return why;
            }
            self.wake_at(self.obs.now + SOON);
            return Why::new("election_stop_receiving", format!("{vacancy}: ending the stream from the leader"));
        }
        if !running.caught_up {
            if let Some(why) = self.start_replay_anew("so that it can vote") {
                return why;
            }
            self.wake_at(self.obs.now + SOON);
            return Why::new("election_replay", format!("{vacancy}: replaying the rest of the local WAL"));
        }
        if let Some(whom) = self.handed_to_another(view, &sync.value)
            && self.obs.now < vacancy.since + HANDED
        {
            self.wake_at(vacancy.since + HANDED);
            return Why::new("handed_to_another", format!("{vacancy}: {whom} is to take over"));
        }
        if !self.pledge_stands(view, &sync.value, running) {
            let why = Why::new("pledge", format!("{vacancy}: pledging at {}/{}", running.timeline, running.lsn));
            return self.pledge(view, sync, running, why);
        }
        self.judge(view, sync, vacancy)
    }

    /// Whom the leader stopped cleanly in favour of.
    fn stopped_for<'a>(&self, sync: &'a SyncRecord) -> Option<&'a MemberName> {
        let release = sync.released.as_ref().filter(|release| release.shutdown_checkpoint.is_some())?;
        release.candidate.as_ref()
    }

    /// That member, when it is another and there. It needs no pledge, and one would change the record that it is about to
    /// take over.
    fn handed_to_another<'a>(&self, view: &ClusterView, sync: &'a SyncRecord) -> Option<&'a MemberName> {
        let candidate = self.stopped_for(sync).filter(|name| **name != self.policy.me)?;
        view.members.contains_key(candidate).then_some(candidate)
    }

    /// The leader stopped cleanly in our favour and we hold its last record: no pledge could add anything.
    fn handed_to_us(&self, sync: &SyncRecord, running: &Running) -> bool {
        self.overtakes(sync).is_none()
            && sync.released.as_ref().is_some_and(|release| {
                self.policy.may_lead
                    && release.candidate.as_ref() == Some(&self.policy.me)
                    && running.timeline == release.timeline
                    && release.shutdown_checkpoint.is_some_and(|checkpoint| running.lsn > checkpoint)
            })
    }

    fn judge(&mut self, view: &ClusterView, sync: &Versioned<SyncRecord>, vacancy: Vacancy<'_>) -> Why {
        let since = vacancy.since;
        let requested = requested(view);
        let paused_for_all = self.policy.paused
            && requested != Some(&self.policy.me)
            && sync.value.released.as_ref().is_none_or(|release| release.reason != ReleaseReason::Switchover);
        if paused_for_all {
            return Why::new("paused", format!("{vacancy}, and the cluster is paused"));
        }
        if let Some((until, whom)) = self.patience(&sync.value, requested, vacancy)
            && self.obs.now < until
        {
            self.wake_at(until);
            return Why::new("election_waits", format!("{vacancy}: giving {whom} a moment"));
        }
        let ballot = Ballot::new(view, &sync.value, self.policy.maximum_lag_on_failover, &self.obs.alive, requested);
        let settled = self.obs.now >= since + SETTLE;
        if sync.value.rule.is_empty() && !ballot.everybody_pledged(&self.obs.alive) && !settled {
            self.wake_at(since + SETTLE);
            return Why::new("election_settles", format!("{vacancy}: waiting for the other members' positions"));
        }
        // Where the store went back, nothing that it shows proves anything: a person accepts the loss.
        let ranking = if self.overtakes(&sync.value).is_some() { Vec::new() } else { ballot.ranking() };
        let Some(rank) = ranking.iter().position(|name| *name == self.policy.me) else {
            self.memory.outranked_since = None;
            if let Some(best) = ranking.first() {
                return Why::new("election_not_ours", format!("{vacancy}: {best} is to take over"));
            }
            if let Some(why) = self.accept_loss(view, sync, &ballot.missing()) {
                return why;
            }
            let text = format!("{vacancy}: {}", ballot.shortage());
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
            return Why::new("election_not_our_turn", format!("{vacancy}: {} is to take over", ranking[0]));
        }
        if let Some(why) = self.start_replay_anew("before it takes over") {
            return why;
        }
        let counted = ballot.counted();
        self.take_over(view, sync, vacancy, counted, false)
    }

    /// Somebody better suited who deserves a moment: the chosen candidate, or a leader that stopped cleanly and is back.
    fn patience(
        &self,
        sync: &SyncRecord,
        requested: Option<&MemberName>,
        vacancy: Vacancy<'_>,
    ) -> Option<(Millis, MemberName)> {
        let (me, since) = (&self.policy.me, vacancy.since);
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
        // A leader that is suspected was there a moment ago.
        (sync.leader != *me && since < fresh && vacancy.suspect.is_none()).then(|| (fresh, sync.leader.clone()))
    }
}

/// The member that a person wants to lead, now.
pub(super) fn requested(view: &ClusterView) -> Option<&MemberName> {
    view.failover.as_ref().filter(|_| view.failover_due)?.value.member.as_ref()
}
