//! Scheduled backups and dumps: when one is due, and whose turn it is. It is taken by a process of its own (`matriarch backup
//! --scheduled`, `matriarch dump --scheduled`), whose memory goes away with it.
//!
//! ```text
//! backups, dumps  what was done until when, the last one, failures   the leader makes it, whoever took one writes it
//! backup, dump    who takes one now                                  leased: the process renews it, and keeps others off
//! ```
//!
//! The process claims by creating `backup` while `backups` is as it was read, so two members never do the same one,
//! whatever they believe about each other. Here is only decided who tries first.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use matriarch_api::{BackupFailure, BackupLog, BackupRun, ScheduledBackups, ScheduledDump, ScheduledDumps};
use matriarch_config::{Archive, Dumps, Schedule};
use matriarch_core::MemberName;
use matriarch_core::record::{MemberRecord, Role, Versioned, key};

use crate::view::Reading;

/// How far behind the primary a replica may be to be backed up. Positions are told every two seconds.
const NEAR: u64 = 256 << 20;
/// The next in the order begins so long after the one before it should have.
const IN_TURN: SignedDuration = SignedDuration::from_secs(30);
/// The first and the longest pause between attempts.
const PAUSES: (SignedDuration, SignedDuration) = (SignedDuration::from_secs(60), SignedDuration::from_hours(1));
/// Members with this tag take neither.
const NOBACKUP: &str = "nobackup";
/// A log that is further ahead was written by a clock that was wrong.
const AHEAD: SignedDuration = SignedDuration::from_hours(1);

/// What one member does for all of them, by a schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chore {
    /// A backup.
    Backup,
    /// A dump.
    Dump,
}

/// Key of the log of scheduled dumps.
const DUMPS: &str = "dumps";
/// Key of the scheduled dump under way; leased.
const DUMP: &str = "dump";

impl Chore {
    /// Every one.
    pub const ALL: [Chore; 2] = [Chore::Backup, Chore::Dump];

    /// What it is called, which is also the verb that does it.
    pub fn name(self) -> &'static str {
        match self {
            Chore::Backup => "backup",
            Chore::Dump => "dump",
        }
    }

    /// Key of its log in the store.
    pub fn log_key(self) -> &'static str {
        match self {
            Chore::Backup => key::BACKUPS,
            Chore::Dump => DUMPS,
        }
    }

    /// Key of the word that it is done now; leased.
    pub fn run_key(self) -> &'static str {
        match self {
            Chore::Backup => key::BACKUP,
            Chore::Dump => DUMP,
        }
    }

    /// When it is to be done, if it is configured.
    pub fn plan(self, archive: &Archive) -> Option<Plan<'_>> {
        match self {
            Chore::Backup => archive.schedule.as_ref().map(|schedule| Plan::Backup(schedule, archive)),
            Chore::Dump => archive.dumps.as_ref().map(Plan::Dump),
        }
    }

    /// Its log, as it was read.
    pub fn log(self, reading: &Reading) -> Option<&Versioned<BackupLog>> {
        match self {
            Chore::Backup => reading.backups.as_ref(),
            Chore::Dump => reading.dumps.as_ref(),
        }
    }

    /// Who does it now.
    pub fn running(self, reading: &Reading) -> Option<&BackupRun> {
        match self {
            Chore::Backup => reading.backup.as_ref(),
            Chore::Dump => reading.dump.as_ref(),
        }
    }
}

/// When a chore is to be done, and what matters for who does it.
#[derive(Clone, Copy, Debug)]
pub enum Plan<'a> {
    /// Backups.
    Backup(&'a Schedule, &'a Archive),
    /// Dumps.
    Dump(&'a Dumps),
}

impl Plan<'_> {
    /// After what has been done.
    fn next(&self, log: &BackupLog) -> Option<Timestamp> {
        let since = log.since.parse().ok()?;
        match self {
            Plan::Backup(schedule, _) => {
                next_full(schedule, log).into_iter().chain(schedule.next_incremental(since)).min()
            }
            Plan::Dump(dumps) => dumps.next(since),
        }
    }

    /// Whether what is due at this moment is all of it: a full backup. Incremental ones that were taken meanwhile do not
    /// stand for it.
    pub fn is_full(&self, log: &BackupLog, now: Timestamp) -> bool {
        match self {
            Plan::Backup(schedule, _) => {
                schedule.incremental.is_none() || next_full(schedule, log).is_some_and(|due| due <= now)
            }
            Plan::Dump(_) => true,
        }
    }

    /// Without a tail a replica might wait for a segment to fill before its backup is complete.
    fn is_for_the_primary_first(&self) -> bool {
        match self {
            Plan::Backup(_, archive) => archive.tail.is_zero(),
            Plan::Dump(_) => false,
        }
    }
}

impl std::fmt::Display for Plan<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Plan::Backup(schedule, _) => schedule.fmt(f),
            Plan::Dump(dumps) => dumps.fmt(f),
        }
    }
}

/// What one member does about a chore.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Turn {
    /// As the leader, write this: there is no log of this schedule.
    Found(Box<BackupLog>),
    /// Do it.
    Take,
    /// Nothing before then, unless something changes.
    Wait(Timestamp),
    /// Nothing, unless something changes.
    Idle,
}

/// When the next one is due, or tried again: of a log of this schedule. None: never.
pub fn due(plan: &Plan<'_>, log: &BackupLog) -> Option<Timestamp> {
    if let Some(retry) = &log.retry {
        return retry.parse().ok();
    }
    plan.next(log)
}

/// Since when something should have been begun, if for so long that the last in the order should have.
pub fn overdue(plan: &Plan<'_>, log: &BackupLog, now: Timestamp) -> Option<Timestamp> {
    let due = due(plan, log).filter(|_| counts(plan, log, now))?;
    (now.duration_since(due) >= IN_TURN).then_some(due)
}

fn next_full(schedule: &Schedule, log: &BackupLog) -> Option<Timestamp> {
    schedule.next_full(log.full_since.as_ref().unwrap_or(&log.since).parse().ok()?)
}

/// A log of this schedule that begins now. What was taken by another one stays to be seen.
fn found(plan: &Plan<'_>, earlier: Option<&BackupLog>, now: Timestamp) -> BackupLog {
    let last = earlier.and_then(|log| log.last.clone());
    BackupLog { schedule: plan.to_string(), since: now.to_string(), last, ..BackupLog::default() }
}

/// Whether a log counts: it is of this schedule, and no clock was far off when it was written.
fn counts(plan: &Plan<'_>, log: &BackupLog, now: Timestamp) -> bool {
    let since = log.since.parse::<Timestamp>();
    log.schedule == plan.to_string() && since.is_ok_and(|since| since.duration_since(now) < AHEAD)
}

/// Whose turn it is: `me`'s or another's.
pub fn turn(me: &MemberName, chore: Chore, plan: &Plan<'_>, reading: &Reading, now: Timestamp) -> Turn {
    let view = &reading.view;
    let Some(leader) = view.leader.as_ref().map(|leader| &leader.name) else { return Turn::Idle };
    let log = chore.log(reading).map(|log| &log.value);
    let Some(log) = log.filter(|log| counts(plan, log, now)) else {
        return if me == leader { Turn::Found(Box::new(found(plan, log, now))) } else { Turn::Idle };
    };
    if chore.running(reading).is_some() {
        return Turn::Idle;
    }
    let Some(due) = due(plan, log) else { return Turn::Idle };
    let order = order(&view.members, leader, plan.is_for_the_primary_first());
    let Some(place) = order.iter().position(|name| *name == me) else { return Turn::Wait(due.max(now) + IN_TURN) };
    // Whoever has failed comes last the next time.
    let behind = (place + order.len() - log.failures as usize % order.len()) % order.len();
    match due.saturating_add(IN_TURN * behind as i32) {
        Ok(begin) if begin <= now => Turn::Take,
        Ok(begin) => Turn::Wait(begin),
        Err(_) => Turn::Idle,
    }
}

/// Who may do it, the best first: replicas that are near spare the primary.
fn order<'a>(
    members: &'a BTreeMap<MemberName, MemberRecord>,
    leader: &'a MemberName,
    primary_first: bool,
) -> Vec<&'a MemberName> {
    let Some(primary) = primary(members, leader) else { return Vec::new() };
    let may = |member: &MemberRecord| is_near(primary, member) && !member.tag(NOBACKUP);
    let mut order: Vec<&MemberName> = members.iter().filter(|(_, member)| may(member)).map(|(name, _)| name).collect();
    let place = if primary_first { 0 } else { order.len() };
    if !primary.tag(NOBACKUP) {
        order.insert(place, leader);
    }
    order
}

fn primary<'a>(members: &'a BTreeMap<MemberName, MemberRecord>, leader: &MemberName) -> Option<&'a MemberRecord> {
    members.get(leader).filter(|member| member.state == "running" && member.role == Role::Primary)
}

fn is_near(primary: &MemberRecord, member: &MemberRecord) -> bool {
    let behind = primary.xlog_location.zip(member.receive_lsn).map(|(head, at)| head.saturating_sub(at));
    member.state == "running"
        && member.role == Role::Replica
        && member.replication_state.as_deref() == Some("streaming")
        && member.timeline == primary.timeline
        && !member.replay_still
        && behind.is_some_and(|behind| behind <= NEAR)
}

/// Why nobody may do it, while there is a primary and so somebody could.
pub fn blocked(reading: &Reading) -> Option<String> {
    let members = &reading.view.members;
    let leader = &reading.view.leader.as_ref()?.name;
    primary(members, leader)?;
    if !order(members, leader, false).is_empty() {
        return None;
    }
    let (tagged, far): (Vec<_>, Vec<_>) = members.iter().partition(|(_, member)| member.tag(NOBACKUP));
    let said = |some: Vec<(&MemberName, &MemberRecord)>, what: &str| {
        let names: Vec<&str> = some.iter().map(|(name, _)| name.as_str()).collect();
        let verb = if names.len() == 1 { "is" } else { "are" };
        (!names.is_empty()).then(|| format!("{} {verb} {what}", names.join(", ")))
    };
    let why = [said(tagged, "tagged `nobackup`"), said(far, "not streaming or too far behind")];
    Some(why.into_iter().flatten().collect::<Vec<_>>().join(", "))
}

/// The log after an attempt that failed.
pub fn failed(log: &BackupLog, failure: BackupFailure, now: Timestamp) -> BackupLog {
    let failures = log.failures.saturating_add(1);
    let pause = (PAUSES.0 * (1 << (failures - 1).min(10))).min(PAUSES.1);
    let retry = now.checked_add(pause).unwrap_or(now).to_string();
    BackupLog { failures, last_failure: Some(failure), retry: Some(retry), ..log.clone() }
}

/// What `/archive` shows of backups.
pub fn shown(plan: &Plan<'_>, reading: &Reading, now: Timestamp) -> ScheduledBackups {
    let mut shown =
        ScheduledBackups { schedule: plan.to_string(), running: reading.backup.clone(), ..ScheduledBackups::default() };
    shown.blocked = blocked(reading);
    if let Some(log) = &reading.backups {
        let log = &log.value;
        shown.next = next(plan, log, now);
        (shown.last, shown.failures, shown.last_failure) = (log.last.clone(), log.failures, log.last_failure.clone());
    }
    shown
}

/// And of dumps.
pub fn shown_dumps(plan: &Plan<'_>, reading: &Reading, now: Timestamp) -> ScheduledDumps {
    let mut shown =
        ScheduledDumps { schedule: plan.to_string(), running: reading.dump.clone(), ..ScheduledDumps::default() };
    shown.blocked = blocked(reading);
    if let Some(log) = &reading.dumps {
        let log = &log.value;
        shown.next = next(plan, log, now);
        shown.last = log.last.clone().map(ScheduledDump::from);
        (shown.failures, shown.last_failure) = (log.failures, log.last_failure.clone());
    }
    shown
}

fn next(plan: &Plan<'_>, log: &BackupLog, now: Timestamp) -> Option<String> {
    counts(plan, log, now).then(|| due(plan, log)).flatten().map(|due| due.to_string())
}

#[cfg(test)]
mod tests;
