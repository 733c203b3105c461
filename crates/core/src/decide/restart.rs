//! A restart of the leader's PostgreSQL that people ask for while routers are there: they hold new work meanwhile.

use crate::decide::switchover::without_checkpoint;
use crate::decide::turn::Turn;
use crate::decide::{Action, ClusterView, Job, Phase, Restarting, Settings, Why};
use crate::record::{SyncRecord, Versioned};

const WHAT: &str = "restart";

impl Turn<'_> {
    /// Carries it one step on; nothing when none is asked for.
    pub(super) fn restart_held(&mut self, view: &ClusterView, sync: &Versioned<SyncRecord>) -> Option<Why> {
        if !self.obs.restart {
            self.memory.restarting = None;
            return None;
        }
        let now = self.obs.now;
        let first = Restarting { phase: Phase::Checkpointing, phase_since: now };
        let restarting = self.memory.restarting.get_or_insert(first).clone();
        self.configure(Settings {
            upstream: None,
            synchronous_standby_names: self.names_for(view, &self.enforced_rule(sync)),
        });
        Some(match self.prepare_restart(view, sync, &restarting) {
            Ok(why) => why,
            Err(obstacle) => {
                self.memory.restarting = None;
                let text = format!("restart called off: {obstacle}");
                self.actions.push(Action::RefuseRestart(text.clone()));
                self.trouble("restart_refused", text)
            }
        })
    }

    fn prepare_restart(
        &mut self,
        view: &ClusterView,
        sync: &Versioned<SyncRecord>,
        restarting: &Restarting,
    ) -> Result<Why, String> {
        let since = restarting.phase_since;
        match restarting.phase {
            Phase::Checkpointing => {
                let Some(failure) = self.ended(&Job::Checkpoint, since) else {
                    return Ok(self.run(Job::Checkpoint, Why::new("restart_checkpoint", "restart: checkpoint")));
                };
                self.restart_enters(Phase::Holding);
                Ok(self.announce_hold(sync, &without_checkpoint(WHAT.to_owned(), failure)))
            }
            // The commit was refused or is still under way.
            Phase::Holding if !sync.value.handover => Ok(self.announce_hold(sync, WHAT)),
            Phase::Holding => match self.await_routers(view, sync.revision, since, WHAT)? {
                Some(why) => Ok(why),
                None => {
                    self.restart_enters(Phase::Settling);
                    Ok(self.settle(WHAT))
                }
            },
            Phase::Settling => match self.ended(&Job::Settle, since) {
                None => Ok(self.settle(WHAT)),
                Some(Some(failure)) => Err(failure),
                Some(None) => {
                    self.restart_enters(Phase::Stopping);
                    Ok(self.run(Job::Restart, Why::new("restart", "restarting PostgreSQL while routers hold new work")))
                }
            },
            Phase::Stopping => Ok(self.run(Job::Restart, Why::new("restart", "restarting PostgreSQL"))),
        }
    }

    fn restart_enters(&mut self, phase: Phase) {
        self.memory.restarting = Some(Restarting { phase, phase_since: self.obs.now });
    }
}
