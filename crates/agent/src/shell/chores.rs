//! Scheduled backups and dumps: begins the process that takes one, and shows how they stand.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use jiff::Timestamp;
use matriarch_api::BackupLog;
use matriarch_core::decide::Millis;
use matriarch_core::record::key;
use matriarch_dcs::{Revision, Txn};
use rustix::process::{Pid, Signal, kill_process};

use super::Shell;
use crate::chores::{self, Chore, Plan, Turn};

/// After a process that could not even say why it failed.
const REST: Millis = 60_000;
/// After a log was begun, until it is seen.
const BEGINNING: Millis = 5_000;
/// One failure is tried again and seen in the status; more are a problem.
const MANY: u32 = 2;
/// What a shell around the agent may have set means another cluster than the agent's file.
const OTHERS: [&str; 4] = ["MATRIARCH_DIR", "MATRIARCH_STORE", "MATRIARCH_SCOPE", "MATRIARCH_NAMESPACE"];

/// What the loop remembers of each chore.
#[derive(Default)]
pub(super) struct Chores {
    backup: Doing,
    dump: Doing,
}

impl Chores {
    fn of(&mut self, chore: Chore) -> &mut Doing {
        match chore {
            Chore::Backup => &mut self.backup,
            Chore::Dump => &mut self.dump,
        }
    }
}

#[derive(Default)]
struct Doing {
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
    /// Tags and positions count only in that they let nobody do it.
    blocked: Option<String>,
}

impl Shell {
    pub(super) fn keep_chores(&mut self, now: Millis) {
        if self.past.is_shown() {
            return;
        }
        for chore in Chore::ALL {
            self.look_after(chore, now);
            self.keep_chore(chore, now);
        }
    }

    fn keep_chore(&mut self, chore: Chore, now: Millis) {
        let plan = self.config.archive.as_ref().and_then(|archive| chore.plan(archive));
        let (Some(plan), Some(reading)) = (plan, &self.reading) else {
            if self.chores.of(chore).seen.take().is_some() {
                self.show_chore(chore, None);
            }
            return;
        };
        let clock = Timestamp::now();
        let seen = Seen {
            config: self.config_revision,
            log: chore.log(reading).map(|log| log.revision),
            running: chore.running(reading).is_some(),
            leader: reading.view.leader.as_ref().map(|leader| leader.revision),
            blocked: chores::blocked(reading),
        };
        let doing = self.chores.of(chore);
        if doing.seen.as_ref() != Some(&seen) {
            // Whoever wrote the log has said what is to be waited for.
            if doing.seen.as_ref().is_none_or(|before| before.log != seen.log) {
                doing.rest_until = 0;
            }
            (doing.seen, doing.until) = (Some(seen), None);
            self.show_chore(chore, Some((&plan, clock)));
        }
        let doing = self.chores.of(chore);
        let waits = doing.until.is_some_and(|until| clock < until) || now < doing.rest_until;
        if waits || self.stopping || doing.child.is_some() {
            return;
        }
        match chores::turn(self.options.name(), chore, &plan, reading, clock) {
            Turn::Found(log) => self.begin_log(chore, &log, now),
            Turn::Take => self.begin_chore(chore, now),
            Turn::Wait(until) => doing.until = Some(until),
            Turn::Idle => doing.until = Some(Timestamp::MAX),
        }
    }

    fn show_chore(&self, chore: Chore, plan: Option<(&Plan<'_>, Timestamp)>) {
        let plan = plan.and_then(|(plan, clock)| Some((plan, self.reading.as_ref()?, clock)));
        match chore {
            Chore::Backup => {
                self.archiver.show_backups(plan.map(|(plan, reading, at)| chores::shown(plan, reading, at)))
            }
            Chore::Dump => {
                self.archiver.show_dumps(plan.map(|(plan, reading, at)| chores::shown_dumps(plan, reading, at)))
            }
        }
    }

    /// The process: has it ended, is it to end?
    fn look_after(&mut self, chore: Chore, now: Millis) {
        let (log, stopping, name) = (self.log_revision(chore), self.stopping, chore.name());
        let doing = self.chores.of(chore);
        let Some((child, before)) = &mut doing.child else { return };
        match child.try_wait() {
            Ok(None) => {
                if let Some(pid) = Pid::from_raw(child.id() as i32).filter(|_| stopping) {
                    // It clears away what it has begun, and leaves it to another member.
                    let _ = kill_process(pid, Signal::TERM);
                }
                return;
            }
            Ok(Some(status)) if status.success() => {}
            Ok(Some(status)) => {
                tracing::error!("the scheduled {name} was not taken ({status}); `matriarch archive status` says why");
                if *before == log {
                    doing.rest_until = now + REST;
                }
            }
            Err(error) => tracing::error!("the process of the scheduled {name} cannot be waited for: {error}"),
        }
        (doing.child, doing.until) = (None, None);
    }

    fn log_revision(&self, chore: Chore) -> Option<Revision> {
        Some(chore.log(self.reading.as_ref()?)?.revision)
    }

    fn begin_chore(&mut self, chore: Chore, now: Millis) {
        let (Some(file), name) = (&self.options.config_file, chore.name()) else { return };
        let mut command = Command::new(&self.options.program);
        command.args([name, "--scheduled", "--config"]).arg(file);
        for name in OTHERS {
            command.env_remove(name);
        }
        match command.process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).spawn() {
            Ok(child) => {
                tracing::info!(pid = child.id(), "a scheduled {name} is due");
                let log = self.log_revision(chore);
                self.chores.of(chore).child = Some((child, log));
            }
            Err(error) => {
                tracing::error!("the process of the scheduled {name} cannot be started: {error}");
                self.chores.of(chore).rest_until = now + REST;
            }
        }
    }

    /// As the leader.
    fn begin_log(&mut self, chore: Chore, log: &BackupLog, now: Millis) {
        let leader = self.reading.as_ref().and_then(|reading| Some(reading.view.leader.as_ref()?.revision));
        let (true, Some(leader)) = (self.leads(), leader) else { return };
        self.chores.of(chore).rest_until = now + BEGINNING;
        let text = serde_json::to_string(log).expect("it is plain data");
        let txn = Txn::new().revision(key::LEADER, leader);
        let txn = match self.log_revision(chore) {
            Some(earlier) => txn.revision(chore.log_key(), earlier),
            None => txn.absent(chore.log_key()),
        };
        let (txn, store) = (txn.put(chore.log_key(), text), self.storage.handle());
        tokio::spawn(async move {
            if let Err(error) = store.commit(txn).await {
                tracing::warn!("the log of scheduled {}s cannot be begun yet: {error}", chore.name());
            }
        });
    }

    /// What the leader tells as a problem: they fail, or nobody may do what is due.
    pub(super) fn chores_problem(&self) -> Option<String> {
        let reading = self.reading.as_ref().filter(|_| self.leads())?;
        let archive = self.config.archive.as_ref()?;
        Chore::ALL.into_iter().find_map(|chore| {
            let (plan, log) = (chore.plan(archive)?, &chore.log(reading)?.value);
            let name = chore.name();
            if let Some(failure) = log.last_failure.as_ref().filter(|_| log.failures >= MANY) {
                let (count, member) = (log.failures, &failure.member);
                return Some(format!("scheduled {name}s fail, {count} times now, last on {member}: {}", failure.why));
            }
            let due = chores::overdue(&plan, log, Timestamp::now())?;
            let why = chores::blocked(reading).filter(|_| chore.running(reading).is_none())?;
            Some(format!("the {name} that was due at {due} is taken by no member: {why}"))
        })
    }
}
