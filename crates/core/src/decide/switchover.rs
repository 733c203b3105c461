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
            return self.resume_work(sync);
        };
        let candidate = match self.candidate(view, &request.value, running) {
            Ok(candidate) => candidate,
            Err(refusal) => return Some(self.call_off(sync, request, &refusal)),
        };
        let now = self.obs.now;
        let switching = self.memory.switching.get_or_insert(Switching {
            since: now,
            candidate: candidate.clone(),
            phase: Phase::Checkpointing,
        });
        let (since, phase) = (switching.since, switching.phase);
        switching.candidate = candidate.clone();
        if now > since + PREPARATION_LIMIT && phase != Phase::Stopping {
            return Some(self.call_off(sync, request, "it could not be prepared in 30 s"));
        }
        self.configure(Settings {
            upstream: None,
            synchronous_standby_names: self.names_for(view, &self.enforced_rule(sync)),
        });
        Some(self.prepare(sync, &candidate, phase, since))
    }

    fn prepare(&mut self, sync: &Versioned<SyncRecord>, candidate: &MemberName, phase: Phase, since: Millis) -> Why {
        let mut next = |phase| {
            if let Some(switching) = &mut self.memory.switching {
                switching.phase = phase;
            }
        };
        match phase {
            Phase::Checkpointing => {
                let done = self.obs.finished.as_ref().is_some_and(|f| f.job == Job::Checkpoint && f.at >= since);
                if !done {
                    return self.run(
                        Job::Checkpoint,
                        Why::new("switchover_checkpoint", format!("switchover to {candidate}: checkpoint")),
                    );
                }
                next(Phase::Holding);
                let mut record = sync.value.clone();
                record.handover = true;
                self.commit(Purpose::Handover, Txn::new().unchanged(key::SYNC, sync.revision).put(key::SYNC, &record));
                Why::new("switchover_hold", format!("switchover to {candidate}: routers hold new work"))
            }
            Phase::Holding if !sync.value.handover => {
                // The commit was refused or is still under way: ask again from the start.
                next(Phase::Checkpointing);
                Why::new("switchover_hold", "waiting for the hold to be published")
            }
            Phase::Holding => {
                next(Phase::Stopping);
                self.run(
                    Job::StopFast,
                    Why::new("switchover_stop", format!("switchover to {candidate}: stopping PostgreSQL")),
                )
            }
            Phase::Stopping => self.run(Job::StopFast, Why::new("switchover_stop", "stopping PostgreSQL")),
        }
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
            return position(name).map(|_| name.clone()).ok_or(format!("{name} does not stream from the leader"));
        }
        let best = view
            .members
            .iter()
            .filter(|(name, member)| **name != self.policy.me && member.may_lead())
            .filter_map(|(name, member)| Some((position(name)?, member.failover_priority(), name)))
            .max();
        best.map(|(_, _, name)| name.clone()).ok_or("no replica streams from the leader".to_owned())
    }

    fn call_off(&mut self, sync: &Versioned<SyncRecord>, request: &Versioned<FailoverRequest>, reason: &str) -> Why {
        self.memory.switching = None;
        let mut record = sync.value.clone();
        record.handover = false;
        let txn = Txn::new()
            .unchanged(key::FAILOVER, request.revision)
            .unchanged(key::SYNC, sync.revision)
            .delete(key::FAILOVER)
            .put(key::SYNC, &record);
        self.commit(Purpose::Handover, txn);
        self.trouble("switchover_refused", format!("switchover called off: {reason}"))
    }

    fn resume_work(&mut self, sync: &Versioned<SyncRecord>) -> Option<Why> {
        if !sync.value.handover {
            return None;
        }
        let mut record = sync.value.clone();
        record.handover = false;
        self.commit(Purpose::Handover, Txn::new().unchanged(key::SYNC, sync.revision).put(key::SYNC, &record));
        Some(Why::new("switchover_over", "no switchover is asked for any more: routers need not hold"))
    }
}
