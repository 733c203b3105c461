//! Scheduled backups: begins the process that takes one, and shows how they stand.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use jiff::Timestamp;
use matriarch_api::BackupLog;
use matriarch_core::decide::Millis;
use matriarch_core::record::key;
use matriarch_dcs::{Revision, Txn};
use rustix::process::{Pid, Signal, kill_process};

use super::Shell;
use crate::backups::{self, Turn};

/// After a process that could not even say why it failed.
const REST: Millis = 60_000;
/// After a log was begun, until it is seen.
const BEGINNING: Millis = 5_000;
/// One failure is tried again and seen in the status; more are a problem.
const MANY: u32 = 2;
/// What a shell around the agent may have set means another cluster than the agent's file.
const OTHERS: [&str; 4] = ["MATRIARCH_DIR", "MATRIARCH_STORE", "MATRIARCH_SCOPE", "MATRIARCH_NAMESPACE"];

/// What the loop remembers of scheduled backups.
#[derive(Default)]
pub(super) struct Backups {
    /// With the log as it was at its start.
    child: Option<(Child, Option<Revision>)>,
    seen: Option<Seen>,
    /// Nothing to do before then, unless something else is seen.
    until: Option<Timestamp>,
    rest_until: Millis,
}

/// What a turn depends on, but for time and for how far members are.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    config: Option<Revision>,
    log: Option<Revision>,
    running: bool,
    leader: Option<Revision>,
}

impl Shell {
    pub(super) fn keep_backups(&mut self, now: Millis) {
        self.look_after_backup(now);
        let scheduled = self.config.archive.as_ref().and_then(|archive| Some((archive, archive.schedule.as_ref()?)));
        let (Some((archive, schedule)), Some(reading)) = (scheduled, &self.reading) else {
            if self.backups.seen.take().is_some() {
                self.archiver.show_backups(None);
            }
            return;
        };
        let clock = Timestamp::now();
        let seen = Seen {
            config: self.config_revision,
            log: reading.backups.as_ref().map(|log| log.revision),
            running: reading.backup.is_some(),
            leader: reading.view.leader.as_ref().map(|leader| leader.revision),
        };
        if self.backups.seen.as_ref() != Some(&seen) {
            self.archiver.show_backups(Some(backups::shown(schedule, reading, clock)));
            // Whoever wrote the log has said what is to be waited for.
            if self.backups.seen.as_ref().is_none_or(|before| before.log != seen.log) {
                self.backups.rest_until = 0;
            }
            (self.backups.seen, self.backups.until) = (Some(seen), None);
        }
        let waits = self.backups.until.is_some_and(|until| clock < until) || now < self.backups.rest_until;
        if waits || self.stopping || self.backups.child.is_some() {
            return;
        }
        match backups::turn(self.options.name(), archive, schedule, reading, clock) {
            Turn::Found(log) => self.begin_backup_log(&log, now),
            Turn::Take => self.take_backup(now),
            Turn::Wait(until) => self.backups.until = Some(until),
            Turn::Idle => self.backups.until = Some(Timestamp::MAX),
        }
    }

    /// The process that takes a backup: has it ended, is it to end?
    fn look_after_backup(&mut self, now: Millis) {
        let log = self.backup_log();
        let Some((child, before)) = &mut self.backups.child else { return };
        match child.try_wait() {
            Ok(None) => {
                if let Some(pid) = Pid::from_raw(child.id() as i32).filter(|_| self.stopping) {
                    // It clears away what it has begun, and leaves the backup to another member.
                    let _ = kill_process(pid, Signal::TERM);
                }
                return;
            }
            Ok(Some(status)) if status.success() => {}
            Ok(Some(status)) => {
                tracing::error!("the scheduled backup was not taken ({status}); `matriarch archive status` says why");
                if *before == log {
                    self.backups.rest_until = now + REST;
                }
            }
            Err(error) => tracing::error!("the process of the scheduled backup cannot be waited for: {error}"),
        }
        (self.backups.child, self.backups.until) = (None, None);
    }

    fn backup_log(&self) -> Option<Revision> {
        Some(self.reading.as_ref()?.backups.as_ref()?.revision)
    }

    fn take_backup(&mut self, now: Millis) {
        let Some(file) = &self.options.config_file else { return };
        let mut command = Command::new(&self.options.program);
        command.args(["backup", "--scheduled", "--config"]).arg(file);
        for name in OTHERS {
            command.env_remove(name);
        }
        match command.process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).spawn() {
            Ok(child) => {
                tracing::info!(pid = child.id(), "a scheduled backup is due");
                self.backups.child = Some((child, self.backup_log()));
            }
            Err(error) => {
                tracing::error!("the process of the scheduled backup cannot be started: {error}");
                self.backups.rest_until = now + REST;
            }
        }
    }

    /// As the leader.
    fn begin_backup_log(&mut self, log: &BackupLog, now: Millis) {
        let leader = self.reading.as_ref().and_then(|reading| Some(reading.view.leader.as_ref()?.revision));
        let (true, Some(leader)) = (self.leads(), leader) else { return };
        self.backups.rest_until = now + BEGINNING;
        let text = serde_json::to_string(log).expect("it is plain data");
        let txn = Txn::new().revision(key::LEADER, leader);
        let txn = match self.reading.as_ref().and_then(|reading| reading.backups.as_ref()) {
            Some(earlier) => txn.revision(key::BACKUPS, earlier.revision),
            None => txn.absent(key::BACKUPS),
        };
        let (txn, store) = (txn.put(key::BACKUPS, text), self.storage.handle());
        tokio::spawn(async move {
            if let Err(error) = store.commit(txn).await {
                tracing::warn!("the log of scheduled backups cannot be begun yet: {error}");
            }
        });
    }

    /// What the leader tells as a problem: backups fail.
    pub(super) fn backups_problem(&self) -> Option<String> {
        let reading = self.reading.as_ref().filter(|_| self.leads())?;
        let log = &reading.backups.as_ref()?.value;
        let failure = log.last_failure.as_ref().filter(|_| log.failures >= MANY)?;
        self.config.archive.as_ref()?.schedule.as_ref()?;
        Some(format!("scheduled backups fail, {} times now, last on {}: {}", log.failures, failure.member, failure.why))
    }
}
