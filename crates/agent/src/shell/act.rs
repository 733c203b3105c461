//! Does what a decision asks for.

use std::time::Duration;

use matriarch_config::WatchdogMode;
use matriarch_core::Lsn;
use matriarch_core::decide::{Action, Job, Purpose};
use matriarch_dcs::boot_clock_ms;
use matriarch_postgres::Sql;

use super::Shell;
use super::guard::Promoting;
use crate::event::{Reply, Request};
use crate::{claim, restored};

/// After a promotion.
const CHECKPOINT_AFTER: Duration = Duration::from_millis(300);

impl Shell {
    pub(super) fn act(&mut self, action: Action, restricted: bool) {
        match action {
            Action::RenewLease => self.storage.renew(),
            Action::Run(Job::StopImmediate) => self.begin(Job::StopImmediate),
            // Asked to stop while the store is away: that does not wait for it.
            Action::Run(Job::StopFast) if self.stopping => self.begin(Job::StopFast),
            _ if restricted => {}
            Action::Commit(change) => {
                let txn = self.with_what_was_known(change.purpose, change.txn);
                if self.storage.commit(change.purpose, txn)
                    && let Some(unsaved) = &mut self.unsaved
                {
                    unsaved.fresh = false;
                }
            }
            Action::Run(job) => self.begin(job),
            Action::Configure(settings) => self.configure(settings),
            Action::RefuseRestart(reason) => self.restart_ended(Some(reason)),
            Action::DropLease => {
                self.storage.drop_leader_lease();
                self.doubt_view();
                self.storage.read();
            }
        }
    }

    pub(super) fn begin(&mut self, job: Job) {
        let writable = matches!(job, Job::StartPrimary | Job::Promote);
        if writable && !self.guard_is_armed() && !self.config.pause {
            tracing::debug!("{job:?} waits for the guard");
            return;
        }
        if job == Job::Initdb && self.founding_waits() {
            tracing::debug!("{job:?} waits: it has failed before");
            return;
        }
        if job == Job::Promote && self.configuring {
            tracing::debug!("{job:?} waits until the settings that are under way are loaded");
            return;
        }
        let runs = matches!(job, Job::Initdb | Job::StartStandby | Job::Clone | Job::Rewind);
        if runs && self.guard_state.borrow().has_fired(boot_clock_ms()) {
            tracing::debug!("{job:?} waits until the guard, which would end it, is disarmed");
            return;
        }
        if job == Job::Promote {
            self.promoting = Promoting::Perhaps;
        }
        let context = self.job_context(job == Job::Restart && self.pg.is_primary());
        tracing::info!("{job:?} begins");
        self.pg.start_job(job, context);
        self.published.member = None;
    }

    /// No primary without a guard that has confirmed the lease's deadline.
    fn guard_is_armed(&self) -> bool {
        let required = self.options.watchdog.mode == WatchdogMode::Required;
        let state = self.guard_state.borrow();
        let watched = !required || self.watchdog_failure.is_none() && state.watchdog.is_none();
        state.is_armed(boot_clock_ms()) && watched
    }

    pub(super) fn after_commit(&mut self, purpose: Purpose) {
        if purpose == Purpose::Found {
            let instance = self.pg.instance();
            if let Err(error) = restored::settle(&instance.data_dir).and_then(|()| claim::clear(instance)) {
                tracing::error!("{error}");
            }
        }
    }

    /// A new primary tells everybody at once, and checkpoints so that others can be rewound to it.
    pub(super) fn after_promotion(&mut self) {
        self.published.member = None;
        let instance = self.pg.instance().clone();
        tokio::spawn(async move {
            // The first commits need the disk more.
            tokio::time::sleep(CHECKPOINT_AFTER).await;
            let done = async {
                let sql = Sql::connect(&instance).await?;
                sql.checkpoint(Duration::from_secs(300)).await
            };
            if let Err(error) = done.await {
                tracing::warn!("the checkpoint after the promotion failed: {error}");
            }
        });
    }

    pub(super) fn command(&mut self, command: Request, reply: Reply) {
        match command {
            Request::Restart(request) => self.ask_for_restart(request, reply),
            Request::CancelRestart => self.cancel_restart(reply),
            Request::Reload => match self.reload_local() {
                Ok(done) => reply.done(None, &done),
                Err(failure) => reply.done(Some(failure), ""),
            },
            Request::Reinitialize { .. } if self.leader_name().is_none_or(|leader| leader == self.options.name()) => {
                reply.done(Some("only a replica of a living leader can be reinitialized".to_owned()), "");
            }
            Request::Reinitialize { force } => {
                if force {
                    self.pg.abandon_copy();
                }
                if let Some(job) = self.pg.busy() {
                    let remedy = if force { "" } else { ", or end a copy or rewind with force" };
                    reply.done(Some(format!("{job:?} is under way; wait until it has ended{remedy}")), "");
                    return;
                }
                self.reinit = true;
                reply.done(None, "reinitialization has begun");
            }
            Request::Blow(body) => self.strike(body, reply),
            Request::Stop => {
                self.stopping = true;
                self.pg.abandon_making();
                reply.done(None, "stopping");
            }
        }
    }

    /// Position shown for this member.
    pub(super) fn position(&self) -> Option<Lsn> {
        self.pg.probe.as_ref().map(|probe| probe.position())
    }
}
