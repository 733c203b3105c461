//! A planned switchover, seen from the leader that is left.

use crate::decide::turn::Turn;
use crate::decide::{ClusterView, Job, Millis, Phase, Purpose, Running, Settings, Switching, Why};
use crate::name::MemberName;
use crate::record::{FailoverRequest, SyncRecord, Versioned, key};
use crate::rule::application_name;
use crate::transaction::Txn;

/// A switchover that has not stopped PostgreSQL by then is called off.
const PREPARATION_LIMIT: Millis = 30_000;

impl Turn<'_> {
    /// Carries a requested switchover one step on; nothing when none is asked for.
    pub(super) fn switch_over(
        &mut self,
        view: &ClusterView,
        sync: &Versioned<SyncRecord>,
        running: &Running,
    ) -> Option<Why> {
        let Some(request) = view.failover.as_ref().filter(|_| view.failover_due) else {
            self.memory.switching = None;
            return self.restart_held(view, sync).or_else(|| self.resume_work(sync));
        };
        self.memory.restarting = None;
        let candidate = match self.candidate(view, &request.value, running) {
            Ok(candidate) => candidate,
            Err(refusal) => return Some(self.call_off(sync, request, &refusal)),
        };
        let now = self.obs.now;
        let switching = self.memory.switching.get_or_insert(Switching {
            since: now,
            candidate: candidate.clone(),
            phase: Phase::Checkpointing,
            phase_since: now,
        });
        switching.candidate = candidate;
        let switching = switching.clone();
        let announced = switching.phase > Phase::Checkpointing && sync.value.handover;
        if now > switching.since + PREPARATION_LIMIT && !announced {
            return Some(self.call_off(sync, request, "it could not be prepared in 30 s"));
        }
        self.configure(Settings {
            upstream: None,
            synchronous_standby_names: self.names_for(view, &self.enforced_rule(sync)),
        });
        // Without a leader to move away from, a person insists: whatever is still under way is cut off.
        let insists = request.value.leader.is_none();
        match self.prepare(view, sync, &switching, insists) {
            Ok(why) => Some(why),
            Err(obstacle) => Some(self.call_off(sync, request, &obstacle)),
        }
    }

    /// One step of the preparation, or what makes it hopeless.
    fn prepare(
        &mut self,
        view: &ClusterView,
        sync: &Versioned<SyncRecord>,
        switching: &Switching,
        insists: bool,
    ) -> Result<Why, String> {
        let candidate = &switching.candidate;
        match switching.phase {
            Phase::Checkpointing => {
                let what = format!("switchover to {candidate}");
                let Some(failure) = self.ended(&Job::Checkpoint, switching.since) else {
                    let why = Why::new("switchover_checkpoint", format!("{what}: checkpoint"));
                    return Ok(self.run(Job::Checkpoint, why));
                };
                self.enter(Phase::Holding);
                Ok(self.announce_hold(sync, &without_checkpoint(what, failure)))
            }
            // The commit was refused or is still under way.
            Phase::Holding if !sync.value.handover => {
                Ok(self.announce_hold(sync, &format!("switchover to {candidate}")))
            }
            Phase::Holding => {
                let what = format!("switchover to {candidate}");
                match self.await_routers(view, sync.revision, switching.phase_since, &what) {
                    Ok(Some(why)) => Ok(why),
                    Err(obstacle) if !insists => Err(obstacle),
                    _ => {
                        self.enter(Phase::Settling);
                        Ok(self.settle(&what))
                    }
                }
            }
            Phase::Settling => match self.ended(&Job::Settle, switching.phase_since) {
                None => Ok(self.settle(&format!("switchover to {candidate}"))),
                Some(Some(failure)) if !insists => Err(failure),
                Some(_) => {
                    self.enter(Phase::Stopping);
                    let text = format!("switchover to {candidate}: stopping PostgreSQL");
                    Ok(self.run(Job::StopFast, Why::new("switchover_stop", text)))
                }
            },
            Phase::Stopping => Ok(self.run(Job::StopFast, Why::new("switchover_stop", "stopping PostgreSQL"))),
        }
    }

    fn enter(&mut self, phase: Phase) {
        if let Some(switching) = &mut self.memory.switching {
            (switching.phase, switching.phase_since) = (phase, self.obs.now);
        }
    }

    /// The newest job was this one and has ended since then: what it failed with, if it did.
    pub(super) fn ended(&self, job: &Job, since: Millis) -> Option<Option<String>> {
        let finished = self.obs.finished.as_ref().filter(|finished| finished.job == *job && finished.at >= since)?;
        Some(finished.failure.as_ref().map(|failure| failure.message.clone()))
    }

    /// What waits until every living router holds new work; nothing when they do, and what is in the way when one does not
    /// in time.
    pub(super) fn await_routers(
        &mut self,
        view: &ClusterView,
        announced: u64,
        since: Millis,
        what: &str,
    ) -> Result<Option<Why>, String> {
        let Some(router) = open_router(view, announced) else { return Ok(None) };
        let until = since + self.policy.hold_timeout;
        if self.obs.now < until {
            self.wake_at(until);
            return Ok(Some(Why::new("switchover_hold", format!("{what}: waiting until {router} holds new work"))));
        }
        let limit = self.policy.hold_timeout as f64 / 1000.0;
        Err(format!("{router} did not hold new work within {limit} s (switchover_hold_timeout)"))
    }

    /// Tells routers to hold new work.
    pub(super) fn announce_hold(&mut self, sync: &Versioned<SyncRecord>, what: &str) -> Why {
        let mut record = sync.value.clone();
        record.handover = true;
        self.commit(Purpose::Handover, Txn::new().rewrite_sync(sync, record));
        Why::new("switchover_hold", format!("{what}: routers hold new work"))
    }

    pub(super) fn settle(&mut self, what: &str) -> Why {
        let text = format!("{what}: transactions under way end");
        self.run(Job::Settle, Why::new("switchover_settle", text))
    }

    /// Who takes over: the named member if it can, else the streaming member with the least lag.
    fn candidate(
        &self,
        view: &ClusterView,
        request: &FailoverRequest,
        running: &Running,
    ) -> Result<MemberName, String> {
        if let Some(leader) = request.leader.as_ref().filter(|leader| **leader != self.policy.me) {
            return Err(format!("{leader} is not the leader"));
        }
        let position = |name: &MemberName| {
            let incarnation = view.members.get(name)?.incarnation.as_ref()?;
            running.replicas.get(&application_name(name, incarnation)).copied()
        };
        if let Some(name) = &request.member {
            let member = view.members.get(name).ok_or(format!("{name} is not a living member"))?;
            if !member.may_lead() {
                return Err(format!("{name} is tagged as never to be leader"));
            }
            if member.replay_still {
                return Err(format!("{name} replays nothing of what it receives"));
            }
            return position(name).map(|_| name.clone()).ok_or(format!("{name} does not stream from the leader"));
        }
        let best = view
            .members
            .iter()
            .filter(|(name, member)| **name != self.policy.me && member.may_lead() && !member.replay_still)
            .filter_map(|(name, member)| Some((position(name)?, member.failover_priority(), name)))
            .max();
        best.map(|(_, _, name)| name.clone()).ok_or("no replica streams from the leader".to_owned())
    }

    fn call_off(&mut self, sync: &Versioned<SyncRecord>, request: &Versioned<FailoverRequest>, reason: &str) -> Why {
        self.memory.switching = None;
        let mut record = sync.value.clone();
        record.handover = false;
        let txn =
            Txn::new().unchanged(key::FAILOVER, request.revision).delete(key::FAILOVER).rewrite_sync(sync, record);
        self.commit(Purpose::Handover, txn);
        self.trouble("switchover_refused", format!("switchover called off: {reason}"))
    }

    fn resume_work(&mut self, sync: &Versioned<SyncRecord>) -> Option<Why> {
        if !sync.value.handover {
            return None;
        }
        let mut record = sync.value.clone();
        record.handover = false;
        self.commit(Purpose::Handover, Txn::new().rewrite_sync(sync, record));
        Some(Why::new("switchover_over", "no switchover is asked for any more: routers need not hold"))
    }
}

/// What goes on although the checkpoint before it has failed: the stop makes one too, and the way out may be what is needed.
pub(super) fn without_checkpoint(what: String, failure: Option<String>) -> String {
    match failure {
        Some(failure) => format!("{what}, whose stop may take long, since the checkpoint before it failed ({failure})"),
        None => what,
    }
}

/// A living router that does not hold new work for the switchover that this revision of `sync` announced; in words.
fn open_router(view: &ClusterView, revision: u64) -> Option<String> {
    let router = view.routers.values().find(|router| router.holds != Some(revision))?;
    let problem = router.problem.as_ref().map(|problem| format!(" ({problem})")).unwrap_or_default();
    Some(format!("the {} at {}{problem}", router.kind, router.address))
}
