//! This member holds the leader key: keep the lease, keep the rule, promote, restart, release.

use crate::decide::elect::requested;
use crate::decide::turn::{SOON, Turn};
use crate::decide::{
    Action, ClusterView, CrashPolicy, Data, DataFacts, Job, LeaderKey, Purpose, Running, Server, Settings, Stance, Why,
};
use crate::name::MemberName;
use crate::record::{MemberRecord, Release, ReleaseReason, SyncRecord, Versioned, key};
use crate::transaction::{Life, Txn};

impl Turn<'_> {
    pub(super) fn lead(&mut self, view: &ClusterView, sync: &Versioned<SyncRecord>, leader: &LeaderKey) -> Why {
        self.memory.leaderless_since = None;
        self.memory.outranked_since = None;
        self.memory.not_streaming_since = None;
        let now = self.obs.now;
        if !leader.held {
            return self.reclaim(sync, leader);
        }
        let Some(authority) = self.authority.filter(|until| *until > now) else {
            if self.may_lead_still(sync) {
                return self.wake_as_leader();
            }
            self.drop_lease();
            let text = "our lease has ended and too few members stand by us: stopping PostgreSQL";
            return self.stop_writable(Why::new("lease_lost", text));
        };
        self.wake_at(authority);
        self.keep_lease();

        if sync.value.leader != self.policy.me || sync.value.released.is_some() {
            return self.stop_writable(Why::new("not_this_epoch", "the newest epoch is not ours"));
        }
        self.stance = Stance::Leads { epoch: sync.value.epoch };
        if matches!(self.obs.server, Server::Running(_)) {
            self.answers();
            self.memory.answered = true;
        }
        if self.runs_without_data() {
            return self.stop_without_data();
        }
        if let Some(why) = self.ailing(view, sync, leader) {
            return why;
        }
        match &self.obs.server {
            Server::Unready => self
                .start_overdue(view, &sync.value)
                .or_else(|| self.hangs(view, &sync.value))
                .unwrap_or_else(|| Why::new("leader_unready", "PostgreSQL does not answer yet")),
            Server::Stopped => self.lead_stopped(view, sync, leader),
            Server::Running(running) if running.in_recovery => self.promote(view, sync, leader, running),
            Server::Running(running) => self.lead_running(view, sync, running),
        }
    }

    pub(super) fn keep_lease(&mut self) {
        let Some(lease) = self.obs.lease else { return };
        let (now, renew) = (self.obs.now, lease.renewed + self.policy.ttl / 3);
        if now >= renew {
            self.actions.push(Action::RenewLease);
        }
        self.wake_at(if now >= renew { now + self.policy.ttl / 6 } else { renew });
    }

    /// The key is ours by name, but the lease belongs to an agent process that is gone.
    fn reclaim(&mut self, sync: &Versioned<SyncRecord>, leader: &LeaderKey) -> Why {
        if sync.value.leader != self.policy.me || Some(&sync.value.incarnation) != self.obs.incarnation() {
            return self.stop_writable(Why::new(
                "leader_key_of_other_data",
                "the leader key is ours but was taken with other data: waiting for it to expire",
            ));
        }
        // Its own lease may have ended in the store, too, while members stood by it: then they are to go on doing so.
        let runs = self.obs.running().is_some_and(|running| !running.in_recovery);
        if runs && self.authority.is_some_and(|until| until > self.obs.now) && self.epoch_is_ours(&sync.value) {
            self.stance = Stance::Leads { epoch: sync.value.epoch };
        }
        self.bind_key(sync, Some(leader.revision));
        Why::new("reclaim", "an earlier process of this agent led: taking its lead over")
    }

    /// The key has expired while the store was away, and nobody has taken over.
    pub(super) fn return_to_key(&mut self, sync: &Versioned<SyncRecord>) -> Why {
        self.stance = Stance::Leads { epoch: sync.value.epoch };
        self.bind_key(sync, None);
        Why::new("lead_again", "the store is back, and nobody has taken over meanwhile: taking the leader key again")
    }

    /// Binds the leader key to the lease of this process, in the same epoch.
    fn bind_key(&mut self, sync: &Versioned<SyncRecord>, seen: Option<u64>) {
        // Writing the record anew voids what an earlier process, or we ourselves, sent and what has not landed yet.
        let txn = Txn::new()
            .as_seen(key::LEADER, seen)
            .put_text(key::LEADER, self.policy.me.to_string(), Life::LeaderLease)
            .rewrite_sync(sync, sync.value.clone());
        self.commit(Purpose::Reclaim, txn);
    }

    fn promote(
        &mut self,
        view: &ClusterView,
        sync: &Versioned<SyncRecord>,
        leader: &LeaderKey,
        running: &Running,
    ) -> Why {
        if Some(&sync.value.incarnation) != self.obs.incarnation() {
            return self.release(sync, leader, ReleaseReason::DataLost, None, "the data we led with is gone");
        }
        if let Some(why) = self.give_up_unwatched(view, sync, leader, None) {
            return why;
        }
        let used = running.timeline.max(self.memory.timeline_used);
        if used >= sync.value.timeline {
            // A promotion that was cut short has used up the number: the next one is reserved before it is opened.
            let mut record = sync.value.clone();
            record.timeline = used + 1;
            let text = format!("about to promote: reserving timeline {}", record.timeline);
            self.commit(Purpose::Rule, Txn::new().rewrite_sync(sync, record));
            return Why::new("promote_reserve", text);
        }
        let names = self.names_for(view, &sync.value.rule);
        // The rule must be in force before the first commit.
        let ready = running.upstream.is_none() && running.synchronous_standby_names == names;
        self.configure(Settings { upstream: None, synchronous_standby_names: names });
        if !ready {
            self.wake_at(self.obs.now + SOON);
            return Why::new("promote_prepare", "about to promote: the rule is not in force yet");
        }
        self.run(Job::Promote, Why::new("promote", format!("promoting in epoch {}", sync.value.epoch)))
    }

    fn lead_stopped(&mut self, view: &ClusterView, sync: &Versioned<SyncRecord>, leader: &LeaderKey) -> Why {
        self.memory.answered = false;
        if let Some(busy) = &self.obs.busy {
            let overdue = if *busy == Job::StartPrimary { self.start_overdue(view, &sync.value) } else { None };
            return overdue.unwrap_or_else(|| Why::new("busy", format!("{busy:?} is under way")));
        }
        let facts = match &self.obs.data {
            Data::Ready(facts) if facts.incarnation.as_ref() == Some(&sync.value.incarnation) => facts,
            _ => return self.release(sync, leader, ReleaseReason::DataLost, None, "our data directory is gone"),
        };
        let shutdown = facts.clean.then_some(facts);
        if self.memory.switching.is_some() && !self.obs.stopping {
            return self.release(
                sync,
                leader,
                ReleaseReason::Switchover,
                shutdown,
                "PostgreSQL has stopped: handing over",
            );
        }
        if self.obs.stopping {
            let reason = if facts.clean { ReleaseReason::Stop } else { ReleaseReason::Crash };
            return self.release(sync, leader, reason, shutdown, "stopping: giving up the lead");
        }
        if self.another_is_wanted(view) && self.somebody_can_take_over(view, &sync.value) {
            let text = "PostgreSQL does not run, and another primary is asked for: giving up the lead";
            return self.release(sync, leader, ReleaseReason::Switchover, shutdown, text);
        }
        if facts.standby || facts.timeline.max(self.memory.timeline_used) > sync.value.timeline {
            // It stopped between the takeover and the promotion, or came out of that on a timeline nobody reserved.
            self.configure_standby(&sync.value, None);
            return self.run(Job::StartStandby, Why::new("start_to_promote", "starting as a replica, to be promoted"));
        }
        let hopeless = self.failures_of(&Job::StartPrimary) >= 3;
        // While the store is away nobody could take over from us.
        let heard = self.obs.lease.is_some_and(|lease| lease.until > self.obs.now);
        let crashed = !facts.clean && self.policy.crash == CrashPolicy::Failover && heard;
        let overdue = self.memory.start_overdue;
        if (crashed || hopeless || overdue) && self.somebody_can_take_over(view, &sync.value) && !self.policy.paused {
            return self.release(sync, leader, ReleaseReason::Crash, shutdown, "PostgreSQL died: giving up the lead");
        }
        if let Some(why) = self.give_up_unwatched(view, sync, leader, shutdown) {
            return why;
        }
        self.configure(Settings {
            upstream: None,
            synchronous_standby_names: self.names_for(view, &self.enforced_rule(sync)),
        });
        self.run(Job::StartPrimary, Why::new("start_primary", "starting PostgreSQL as the primary"))
    }

    /// Nothing is made writable without the watchdog that must be there: somebody else leads, if anybody can.
    fn give_up_unwatched(
        &mut self,
        view: &ClusterView,
        sync: &Versioned<SyncRecord>,
        leader: &LeaderKey,
        shutdown: Option<&DataFacts>,
    ) -> Option<Why> {
        let why = self.unwatched()?;
        if !self.somebody_can_take_over(view, &sync.value) {
            return Some(why);
        }
        Some(self.release(sync, leader, ReleaseReason::Crash, shutdown, &why.text))
    }

    /// Also while paused: a person asks for it.
    fn another_is_wanted(&self, view: &ClusterView) -> bool {
        let request = view.failover.as_ref().filter(|_| view.failover_due).map(|request| &request.value);
        request.is_some_and(|request| {
            request.leader.as_ref().is_none_or(|leader| *leader == self.policy.me)
                && request.member.as_ref() != Some(&self.policy.me)
        })
    }

    /// PostgreSQL answers, or is no leader's any more.
    pub(super) fn answers(&mut self) {
        self.memory.unready_since = None;
        self.memory.start_overdue = false;
    }

    /// It has not answered for longer than it may, and somebody else can take over.
    fn start_overdue(&mut self, view: &ClusterView, sync: &SyncRecord) -> Option<Why> {
        let since = *self.memory.unready_since.get_or_insert(self.obs.now);
        let due = since.saturating_add(self.policy.start_timeout);
        if self.obs.now < due {
            self.wake_at(due);
            return None;
        }
        if self.policy.paused || self.obs.stopping || !self.somebody_can_take_over(view, sync) {
            return None;
        }
        self.memory.start_overdue = true;
        let text = format!("PostgreSQL has not answered for {} s: giving up the lead", (self.obs.now - since) / 1000);
        Some(self.run(Job::StopImmediate, Why::new("start_overdue", text)))
    }

    /// A voter is alive that would be allowed to lead. With an empty rule nobody is known to be level.
    pub(super) fn somebody_can_take_over(&self, view: &ClusterView, sync: &SyncRecord) -> bool {
        let alive = sync
            .rule
            .voters
            .iter()
            .filter(|(name, incarnation)| {
                view.members.get(*name).is_some_and(|member| {
                    member.incarnation.as_ref() == Some(*incarnation) && member.state == "running" && member.may_lead()
                })
            })
            .count();
        !sync.rule.is_empty() && alive >= sync.rule.fence()
    }

    pub(super) fn release(
        &mut self,
        sync: &Versioned<SyncRecord>,
        leader: &LeaderKey,
        reason: ReleaseReason,
        shutdown: Option<&DataFacts>,
        text: &str,
    ) -> Why {
        let switching = self.memory.switching.as_ref().map(|switching| switching.candidate.clone());
        let asked = self.obs.store.as_ref().and_then(|view| {
            let fits = |name: &&MemberName| view.members.get(*name).is_some_and(MemberRecord::may_lead);
            requested(view).filter(|name| **name != self.policy.me).filter(fits).cloned()
        });
        let mut record = sync.value.clone();
        record.released = Some(Release {
            reason,
            timeline: self.obs.facts().map_or(0, |facts| facts.timeline),
            shutdown_checkpoint: shutdown.map(|facts| facts.checkpoint),
            candidate: switching.or(asked),
        });
        let txn = Txn::new()
            .unchanged(key::LEADER, leader.revision)
            .delete(key::LEADER)
            .delete(key::FAILOVER)
            .rewrite_sync(sync, record);
        self.commit(Purpose::Release, txn);
        Why::new("release", text)
    }

    fn lead_running(&mut self, view: &ClusterView, sync: &Versioned<SyncRecord>, running: &Running) -> Why {
        if Some(&sync.value.incarnation) != self.obs.incarnation() && self.obs.facts().is_some() {
            return self.stop_writable(Why::new("other_data", "PostgreSQL runs on data we do not lead with"));
        }
        if running.timeline > sync.value.timeline {
            // Another member may have opened it too, and PostgreSQL tells timelines apart by their number only.
            self.memory.timeline_used = running.timeline;
            let text = format!("timeline {} was not reserved: stopping, to open another", running.timeline);
            return self.stop_writable(Why::new("unreserved_timeline", text));
        }
        if self.obs.reinit {
            self.problem = Some("a leader cannot be reinitialized; switch over first".to_owned());
        }
        if self.obs.stopping {
            return self.run(Job::StopFast, Why::new("stopping", "stopping PostgreSQL before giving up the lead"));
        }
        if let Some(why) = self.switch_over(view, sync, running) {
            return why;
        }
        if let Some(why) = self.leave_full_volume(view, running) {
            return why;
        }
        self.keep_rule(view, sync, running)
    }
}
