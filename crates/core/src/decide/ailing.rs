//! PostgreSQL runs and is not well: a volume that swallows writes, one that is full, a postmaster that lets nobody in.
//!
//! A leader that keeps its lease while nobody can work with it is worse than one that is dead. Under a rule it gives up the
//! lead when somebody else can take it: also without having stopped PostgreSQL, since a process that waits for a wedged volume
//! cannot be ended, and the fence takes the voters away from it all the same.

use crate::decide::turn::Turn;
use crate::decide::{Ailment, ClusterView, Job, LeaderKey, Millis, Purpose, Running, Server, Why};
use crate::name::MemberName;
use crate::record::{FailoverRequest, ReleaseReason, SyncRecord, Versioned, key};
use crate::transaction::Txn;

/// A postmaster that has answered no new connection for so long hangs.
const DEAF_LIMIT: Millis = 4_000;
/// A server that answered before and has not for so long hangs, or recovers from a crash that will come again.
const HANG_LIMIT: Millis = 3_000;
/// Pause between two attempts to move a primary off a full volume.
const MOVE_AGAIN: Millis = 60_000;

impl Turn<'_> {
    /// Tells people of a volume without room, whoever leads.
    pub(super) fn tell_of_full_volume(&mut self) {
        if let Some(Ailment::Full { place, free }) = &self.obs.ailment {
            self.problem = Some(format!(
                "the volume of {place} is full ({} MiB left): enlarge it, or delete what is not PostgreSQL's (old logs, dumps, \
                 core files); never delete files in pg_wal",
                free >> 20
            ));
        }
    }

    /// Tells people of a replica that falls behind without end.
    pub(super) fn tell_of_still_replay(&mut self) {
        if let Some(Ailment::ReplayStill { since }) = self.obs.ailment {
            self.problem = Some(format!(
                "nothing has been replayed for {} s, though WAL was received: a query that conflicts with it, a paused replay \
                 (pg_wal_replay_resume() ends that), or a startup process that hangs",
                self.obs.now.saturating_sub(since) / 1000
            ));
        }
    }

    /// In an election: a startup process that does not move neither ends the stream nor lets a promotion end. A start
    /// anew does both, and loses nothing.
    pub(super) fn start_replay_anew(&mut self, what: &str) -> Option<Why> {
        let Some(Ailment::ReplayStill { since }) = self.obs.ailment else { return None };
        if self.policy.paused || self.obs.busy.is_some() {
            return None;
        }
        let lasted = self.obs.now.saturating_sub(since) / 1000;
        let text = format!("nothing has been replayed for {lasted} s: ending PostgreSQL {what}");
        Some(self.run(Job::StopImmediate, Why::new("replay_hangs", text)))
    }

    /// What a leader does about it; nothing while there is nothing to do, or nobody who could take over.
    pub(super) fn ailing(
        &mut self,
        view: &ClusterView,
        sync: &Versioned<SyncRecord>,
        leader: &LeaderKey,
    ) -> Option<Why> {
        if self.policy.paused || self.obs.stopping {
            return None;
        }
        match self.obs.ailment.clone()? {
            Ailment::Stalled { since, place } => {
                let limit = self.policy.stall_limit?;
                if !self.has_lasted(since, limit) {
                    return None;
                }
                let text = format!("a write in {place} has not ended for {} s", (self.obs.now - since) / 1000);
                if !self.somebody_can_take_over(view, &sync.value) {
                    self.problem = Some(format!("{text}, and nobody can take over: look at that volume"));
                    return None;
                }
                let why = self.release(sync, leader, ReleaseReason::Stalled, None, "the volume hangs");
                self.problem = Some(text.clone());
                Some(Why::new(why.code, format!("{text}: giving up the lead")))
            }
            Ailment::Deaf { since } => self.deaf(since),
            Ailment::Full { .. } | Ailment::ReplayStill { .. } => None,
        }
    }

    /// A postmaster that lets nobody in is ended: as a leader's it is then given up or started again, like one that died.
    pub(super) fn deaf(&mut self, since: Millis) -> Option<Why> {
        if !matches!(self.obs.server, Server::Running(_)) || !self.has_lasted(since, DEAF_LIMIT) {
            return None;
        }
        let text = format!("the postmaster has let nobody in for {} s: ending it", (self.obs.now - since) / 1000);
        Some(self.run(Job::StopImmediate, Why::new("postmaster_hangs", text)))
    }

    /// It answered before, and does not now, although nothing of ours is under way.
    pub(super) fn hangs(&mut self, view: &ClusterView, sync: &SyncRecord) -> Option<Why> {
        let since = self.memory.unready_since.filter(|_| self.memory.answered && self.obs.busy.is_none())?;
        let acts = self.has_lasted(since, HANG_LIMIT) && !self.policy.paused && !self.obs.stopping;
        if !acts || !self.somebody_can_take_over(view, sync) {
            return None;
        }
        let text = format!("PostgreSQL has stopped answering {} s ago: ending it", (self.obs.now - since) / 1000);
        Some(self.run(Job::StopImmediate, Why::new("stopped_answering", text)))
    }

    /// Moves the primary to a member that has room, as a person would.
    pub(super) fn leave_full_volume(&mut self, view: &ClusterView, running: &Running) -> Option<Why> {
        let full = matches!(self.obs.ailment, Some(Ailment::Full { .. }));
        // Counted from when it is seen in the store: what is asked for here may not get there.
        let asked =
            view.failover.as_ref().is_some_and(|request| request.value.leader.as_ref() == Some(&self.policy.me));
        if full && asked {
            self.memory.moved_off = Some(self.obs.now);
        }
        let waits = self.memory.moved_off.is_some_and(|at| self.obs.now < at + MOVE_AGAIN);
        if !full || waits || self.policy.paused || view.failover.is_some() || self.memory.switching.is_some() {
            return None;
        }
        let member = self.roomy(view, running)?;
        let request = FailoverRequest {
            leader: Some(self.policy.me.clone()),
            member: Some(member.clone()),
            ..Default::default()
        };
        self.commit(Purpose::Handover, Txn::new().absent(key::FAILOVER).put(key::FAILOVER, &request));
        Some(Why::new("volume_full", format!("the volume is full: switching over to {member}, which has room")))
    }

    /// The streaming member with the least lag that has room and may lead.
    fn roomy(&self, view: &ClusterView, running: &Running) -> Option<MemberName> {
        let candidates = view.members.iter().filter(|(name, member)| {
            **name != self.policy.me
                && member.may_lead()
                && !member.disk_full
                && !member.replay_still
                && member.state == "running"
        });
        let placed = candidates.filter_map(|(name, member)| {
            let app = crate::rule::application_name(name, member.incarnation.as_ref()?);
            Some((*running.replicas.get(&app)?, member.failover_priority(), name))
        });
        placed.max().map(|(_, _, name)| name.clone())
    }

    fn has_lasted(&mut self, since: Millis, limit: Millis) -> bool {
        let due = since.saturating_add(limit);
        if self.obs.now < due {
            self.wake_at(due);
        }
        self.obs.now >= due
    }
}
