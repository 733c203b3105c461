//! Another member leads: stream from it, and do what it takes to be able to.

use crate::decide::turn::Turn;
use crate::decide::{
    Ailment, ClusterView, Data, DataFacts, Job, LeaderKey, Millis, Remedy, Running, Server, Stance, Why,
};
use crate::name::MemberName;
use crate::record::{MemberRecord, Role, SyncRecord, Versioned};

/// Starts as a replica without ever streaming after which the data is held to be broken.
const START_LIMIT: u32 = 3;
/// A replica that has not streamed for so long from a leader that is ready needs a remedy.
const STREAM_LIMIT: Millis = 15_000;
/// How long a new leader that is ready may take to write where the last timeline ended.
const HISTORY_LIMIT: Millis = 5_000;

impl Turn<'_> {
    pub(super) fn follow(&mut self, view: &ClusterView, sync: &Versioned<SyncRecord>, leader: &LeaderKey) -> Why {
        self.memory.leaderless_since = None;
        self.memory.outranked_since = None;
        self.memory.switching = None;
        self.memory.barrier = None;
        self.memory.missing_since.clear();
        self.answers();
        self.drop_lease();
        if let Server::Running(running) = &self.obs.server
            && !running.in_recovery
        {
            return self.stop_writable(Why::new("deposed", format!("{} leads: stopping PostgreSQL", leader.name)));
        }
        if let Some(why) = self.end_promotion() {
            return why;
        }
        if self.obs.stopping {
            return self.stop_replica();
        }
        if self.runs_without_data() {
            return self.stop_without_data();
        }
        let ready = view.members.get(&leader.name).filter(|member| {
            member.role == Role::Primary && member.state == "running" && member.epoch == sync.value.epoch
        });
        if self.clear_of_pledges() {
            self.stance = Stance::Follows { epoch: sync.value.epoch };
        }
        match &self.obs.server {
            Server::Unready => Why::new("unready", "PostgreSQL does not answer yet"),
            Server::Stopped => self.rejoin(view, sync, &leader.name, ready),
            Server::Running(running) => self.stream(view, sync, running, &leader.name, ready),
        }
    }

    fn stream(
        &mut self,
        view: &ClusterView,
        sync: &Versioned<SyncRecord>,
        running: &Running,
        leader: &MemberName,
        ready: Option<&MemberRecord>,
    ) -> Why {
        if self.obs.reinit {
            return self.run(Job::StopImmediate, Why::new("reinit", "to be made anew: stopping PostgreSQL"));
        }
        if let Some(Ailment::Deaf { since }) = self.obs.ailment
            && let Some(why) = self.deaf(since)
        {
            return why;
        }
        if let Some(text) = diverged(view, running, ready) {
            self.memory.remedy = self.memory.remedy.max(Remedy::Rewind);
            self.memory.rewound = None;
            return self.run(Job::StopFast, Why::new("diverged", text));
        }
        if let Some(why) = self.withdraw(view, sync) {
            return why;
        }
        self.configure_standby(&sync.value, self.upstream(leader));
        if self.policy.from_archive {
            return self.follow_archive(running, leader, ready);
        }
        if running.streaming && running.upstream.as_ref() == Some(leader) {
            self.memory.not_streaming_since = None;
            self.memory.remedy = Remedy::None;
            self.memory.failures = None;
            self.memory.history_awaited = None;
            self.memory.starts = 0;
            return Why::new("following", format!("following {leader}"));
        }
        if ready.is_none() {
            self.memory.not_streaming_since = None;
            return Why::new("leader_not_ready", format!("{leader} leads but is not ready yet"));
        }
        let since = *self.memory.not_streaming_since.get_or_insert(self.obs.now);
        if self.obs.now < since + STREAM_LIMIT {
            self.wake_at(self.obs.now + 100);
            return Why::new("connecting", format!("waiting for the stream from {leader}"));
        }
        self.memory.not_streaming_since = None;
        self.memory.rewound = None;
        self.memory.remedy = if self.memory.remedy == Remedy::None { Remedy::Rewind } else { Remedy::Clone };
        let text = format!("no stream from {leader} for {} s: stopping for a remedy", STREAM_LIMIT / 1000);
        self.run(Job::StopFast, Why::new("cannot_stream", text))
    }

    /// Whom to stream from.
    fn upstream(&self, leader: &MemberName) -> Option<MemberName> {
        (!self.policy.from_archive).then(|| leader.clone())
    }

    /// Nothing tells that the archive has all that is missing, so no time is too long: how far it is behind is shown.
    fn follow_archive(&mut self, running: &Running, leader: &MemberName, ready: Option<&MemberRecord>) -> Why {
        self.memory.not_streaming_since = None;
        if ready.is_some_and(|leader| leader.timeline == Some(running.timeline)) {
            self.memory.remedy = Remedy::None;
            self.memory.failures = None;
            self.memory.starts = 0;
        }
        Why::new("following_archive", format!("following {leader} through restore_command (tags.nostream)"))
    }

    fn rejoin(
        &mut self,
        view: &ClusterView,
        seen: &Versioned<SyncRecord>,
        leader: &MemberName,
        ready: Option<&MemberRecord>,
    ) -> Why {
        let sync = &seen.value;
        self.memory.not_streaming_since = None;
        if let Some(busy) = &self.obs.busy {
            return Why::new("busy", format!("{busy:?} is under way"));
        }
        if let Some(why) = self.left_for_a_person() {
            return why;
        }
        let facts = match &self.obs.data {
            Data::Ready(facts) if !self.obs.reinit && !facts.unclaimed && self.memory.remedy != Remedy::Clone => facts,
            _ => return self.clone_leader(sync, leader, ready),
        };
        let primary_before =
            !facts.standby && self.memory.rewound != Some(sync.epoch) && !stopped_before_fork(view, facts);
        if primary_before && let Some(why) = self.await_history(view, leader, facts, ready) {
            return why;
        }
        if primary_before || self.memory.remedy == Remedy::Rewind {
            if !self.policy.use_rewind && !self.policy.clone_diverged {
                return self.trouble(
                    "left_diverged",
                    "this member has left the leader's history, pg_rewind may not be used \
                     (postgresql.use_pg_rewind) and its data may not be replaced \
                     (postgresql.remove_data_directory_on_diverged_timelines): look at it, then reinitialize it",
                );
            }
            if !self.policy.use_rewind {
                self.memory.remedy = Remedy::Clone;
                return self.clone_leader(sync, leader, ready);
            }
            return match self.still_a_voter(sync).or_else(|| leader_unready(leader, ready)) {
                Some(why) => why,
                None => self.run(Job::Rewind, Why::new("rewind", format!("rewinding to the history of {leader}"))),
            };
        }
        if self.keeps_dying() {
            self.memory.starts = 0;
            self.memory.failures = None;
            self.memory.remedy = Remedy::Clone;
            return self.clone_leader(sync, leader, ready);
        }
        if let Some(why) = self.withdraw(view, seen) {
            return why;
        }
        self.configure_standby(sync, self.upstream(leader));
        let before = self.actions.len();
        let why = self.run(Job::StartStandby, Why::new("start_standby", format!("starting as a replica of {leader}")));
        if self.actions.len() > before {
            self.memory.starts += 1;
        }
        why
    }

    /// A new leader says that it is ready before it has written where our timeline ended. After a clean stop that decides
    /// whether there is anything to undo.
    fn await_history(
        &mut self,
        view: &ClusterView,
        leader: &MemberName,
        facts: &DataFacts,
        ready: Option<&MemberRecord>,
    ) -> Option<Why> {
        let forked = view.history.iter().any(|entry| entry.fork().0 == facts.timeline);
        let behind = ready?.timeline.is_some_and(|timeline| timeline > facts.timeline);
        if !facts.clean || !behind || forked || self.memory.remedy != Remedy::None {
            return None;
        }
        let until = *self.memory.history_awaited.get_or_insert(self.obs.now) + HISTORY_LIMIT;
        if self.obs.now >= until {
            return None;
        }
        self.wake_at(until);
        Some(Why::new("await_history", format!("waiting until {leader} tells where timeline {} ended", facts.timeline)))
    }

    /// A rewind that failed, or that left a directory nobody can start, where people want to look at it themselves.
    fn left_for_a_person(&mut self) -> Option<Why> {
        if self.policy.clone_after_rewind || self.obs.reinit {
            return None;
        }
        let reason = match (&self.obs.data, &self.memory.failures) {
            (Data::Unusable(reason), _) => reason.clone(),
            (_, Some(failures)) if failures.job == Job::Rewind && self.memory.remedy == Remedy::Clone => {
                failures.message.clone()
            }
            _ => return None,
        };
        let text = format!(
            "its data is kept as it is (postgresql.remove_data_directory_on_rewind_failure is off): {reason}; look at \
             it, then reinitialize this member"
        );
        Some(self.trouble("left_after_rewind", text))
    }

    /// Starting it has failed, or it died again, so often that its data must be at fault. A port in use or a full disk
    /// is not the data's fault, and copying it again would not help.
    fn keeps_dying(&self) -> bool {
        let innocent = self.memory.failures.as_ref().is_some_and(|f| f.job == Job::StartStandby && !f.hopeless);
        self.memory.starts >= START_LIMIT && !innocent
    }

    fn clone_leader(&mut self, sync: &SyncRecord, leader: &MemberName, ready: Option<&MemberRecord>) -> Why {
        match self.still_a_voter(sync).or_else(|| leader_unready(leader, ready)) {
            Some(why) => why,
            None => self.run(Job::Clone, Why::new("clone", format!("copying the data of {leader}"))),
        }
    }

    /// Data that a rule counts on is not touched before the leader has dropped it from the rule.
    fn still_a_voter(&self, sync: &SyncRecord) -> Option<Why> {
        let incarnation = self.obs.incarnation()?;
        let voter = !sync.rule.is_empty() && sync.rule.has(&self.policy.me, incarnation);
        voter.then(|| Why::new(Why::STILL_A_VOTER, "waiting to be dropped from the rule before touching the data"))
    }
}

/// A primary that stopped cleanly and whose last record is in the leader's history has nothing to undo.
fn stopped_before_fork(view: &ClusterView, facts: &DataFacts) -> bool {
    let forks = view.history.iter().map(|entry| entry.fork());
    facts.clean && forks.into_iter().any(|(timeline, fork)| timeline == facts.timeline && fork > facts.checkpoint)
}

fn leader_unready(leader: &MemberName, ready: Option<&MemberRecord>) -> Option<Why> {
    ready.is_none().then(|| Why::new("leader_not_ready", format!("{leader} leads but is not ready yet")))
}

/// Why our WAL is not part of the leader's history, if it is not.
fn diverged(view: &ClusterView, running: &Running, ready: Option<&MemberRecord>) -> Option<String> {
    let leader_timeline = ready?.timeline?;
    if running.timeline > leader_timeline {
        return Some(format!("timeline {} is not in the history of timeline {leader_timeline}", running.timeline));
    }
    if running.timeline == leader_timeline {
        return None;
    }
    let fork = view.history.iter().map(|entry| entry.fork()).find(|(timeline, _)| *timeline == running.timeline)?.1;
    (running.lsn > fork).then(|| {
        format!(
            "diverged: timeline {} ends at {fork} in the leader's history, we are at {}",
            running.timeline, running.lsn
        )
    })
}
