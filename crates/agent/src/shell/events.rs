//! What the loop hears: each event changes what is known, and most are a reason to decide anew.

use matriarch_core::decide::Job;
use matriarch_dcs::{StoreError, boot_clock_ms};

use super::Shell;
use super::ending::MAKE_WAY;
use crate::event::Event;
use crate::storage::Held;

impl Shell {
    /// Takes an event into account; whether there is anything to decide now.
    pub(super) fn take(&mut self, event: Event) -> bool {
        match event {
            Event::StoreRead(result) => self.store_read(result),
            Event::Committed(done) => self.committed(done),
            Event::Renewed { lease, result } => {
                let lost = result.is_err();
                self.storage.renewed(lease, result);
                if lost {
                    self.storage.read();
                }
            }
            Event::MemberWritten { lease } => self.member_done(lease, true),
            Event::MemberRenewed { lease } => {
                // As it should be: nothing to decide.
                let news = lease.is_err() || self.storage.trouble().is_some();
                self.member_done(lease, false);
                return news;
            }
            Event::JobDone(done) => {
                let (finished, report) = *done;
                let job = finished.job.clone();
                let failure = finished.failure.clone();
                if job == Job::Promote && failure.is_none() {
                    self.after_promotion();
                    self.note_promotion(&job, finished.at);
                }
                if matches!(job, Job::Clone) && failure.is_none() {
                    self.reinit = false;
                }
                self.note_founding(&job, failure.as_ref());
                if job == Job::Restart {
                    self.restart_ended(failure.map(|failure| failure.message));
                }
                if matches!(job, Job::StartPrimary | Job::StartStandby | Job::Restart) {
                    self.configured = None;
                }
                self.pg.job_done(finished, report);
            }
            Event::Seen(sighting) => return self.seen(*sighting),
            Event::Saved(result) => self.saved(result),
            Event::ServerGone => self.pg.gone(),
            Event::Greeted => {
                self.greeted();
                return false;
            }
            Event::DataSeen(report) => self.pg.data_seen(*report),
            Event::LimitsTooLow(names) => self.limits_too_low(&names),
            Event::RouterGone(id, record) => self.routers.is_gone(id, *record),
            Event::Configured { upstream, failure } => {
                self.configuring = false;
                match failure {
                    None => self.pg.configured(upstream),
                    Some(failure) => {
                        tracing::error!("the settings could not be written: {failure}");
                        self.configured = None;
                    }
                }
            }
            Event::MayBeLoaded => {
                self.pg.look();
                return false;
            }
            Event::Command(command, reply) => self.command(command, reply),
            Event::Upgrade => {
                tracing::info!("asked to make way for another program");
                self.upgrading = Some(boot_clock_ms() + MAKE_WAY);
            }
            Event::Stop => {
                if !self.stopping {
                    tracing::info!("asked to stop");
                }
                self.stopping = true;
                self.pg.abandon_making();
            }
        }
        true
    }

    fn member_done(&mut self, lease: Result<Held, StoreError>, written: bool) {
        if self.storage.member_done(lease, written) {
            self.published.member = None;
        }
    }
}
