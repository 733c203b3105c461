//! Scheduled backups: when one is due, and whose turn it is. The backup itself is taken by a process of its own
//! (`matriarch backup --scheduled`), whose memory goes away with it.
//!
//! ```text
//! backups  what was done until when, the last one, failures      the leader makes it, whoever took a backup writes it
//! backup   who takes one now                                     leased: the process renews it, and keeps others off
//! ```
//!
//! The process claims by creating `backup` while `backups` is as it was read, so two members never do the same one,
//! whatever they believe about each other. Here is only decided who tries first.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use matriarch_api::{BackupFailure, BackupLog, ScheduledBackups};
use matriarch_config::{Archive, Schedule};
use matriarch_core::MemberName;
use matriarch_core::record::{MemberRecord, Role};

use crate::view::Reading;

/// How far behind the primary a replica may be to be backed up. Positions are told every two seconds.
const NEAR: u64 = 256 << 20;
/// The next in the order begins so long after the one before it should have.
const IN_TURN: SignedDuration = SignedDuration::from_secs(30);
/// The first and the longest pause between attempts.
const PAUSES: (SignedDuration, SignedDuration) = (SignedDuration::from_secs(60), SignedDuration::from_hours(1));
/// A log that is further ahead was written by a clock that was wrong.
const AHEAD: SignedDuration = SignedDuration::from_hours(1);

/// What one member does about scheduled backups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Turn {
    /// As the leader, write this: there is no log of this schedule.
    Found(Box<BackupLog>),
    /// Take one.
    Take,
    /// Nothing before then, unless something changes.
    Wait(Timestamp),
    /// Nothing, unless something changes.
    Idle,
}

/// When the next backup is due, or tried again: of a log of this schedule. None: never.
pub fn due(schedule: &Schedule, log: &BackupLog) -> Option<Timestamp> {
    if let Some(retry) = &log.retry {
        return retry.parse().ok();
    }
    schedule.next(log.since.parse().ok()?)
}

/// A log of this schedule that begins now. What was taken by another one stays to be seen.
fn found(schedule: &Schedule, earlier: Option<&BackupLog>, now: Timestamp) -> BackupLog {
    let last = earlier.and_then(|log| log.last.clone());
    BackupLog { schedule: schedule.to_string(), since: now.to_string(), last, ..BackupLog::default() }
}

/// Whether a log counts: it is of this schedule, and no clock was far off when it was written.
fn counts(schedule: &Schedule, log: &BackupLog, now: Timestamp) -> bool {
    let since = log.since.parse::<Timestamp>();
    log.schedule == schedule.to_string() && since.is_ok_and(|since| since.duration_since(now) < AHEAD)
}

/// Whose turn it is: `me`'s or another's.
pub fn turn(me: &MemberName, archive: &Archive, schedule: &Schedule, reading: &Reading, now: Timestamp) -> Turn {
    let view = &reading.view;
    let Some(leader) = view.leader.as_ref().map(|leader| &leader.name) else { return Turn::Idle };
    let log = reading.backups.as_ref().map(|log| &log.value);
    let Some(log) = log.filter(|log| counts(schedule, log, now)) else {
        return if me == leader { Turn::Found(Box::new(found(schedule, log, now))) } else { Turn::Idle };
    };
    if reading.backup.is_some() {
        return Turn::Idle;
    }
    let Some(due) = due(schedule, log) else { return Turn::Idle };
    let order = order(&view.members, leader, !archive.tail.is_zero());
    let Some(place) = order.iter().position(|name| *name == me) else { return Turn::Wait(due.max(now) + IN_TURN) };
    // Whoever has failed comes last the next time.
    let behind = (place + order.len() - log.failures as usize % order.len()) % order.len();
    match due.saturating_add(IN_TURN * behind as i32) {
        Ok(begin) if begin <= now => Turn::Take,
        Ok(begin) => Turn::Wait(begin),
        Err(_) => Turn::Idle,
    }
}

/// Who may take a backup, the best first: replicas that are near spare the primary's disks. Without a tail a replica might wait
/// for a segment to fill before its backup is complete, so then the primary comes first.
fn order<'a>(
    members: &'a BTreeMap<MemberName, MemberRecord>,
    leader: &'a MemberName,
    tail: bool,
) -> Vec<&'a MemberName> {
    let Some(primary) = members.get(leader).filter(|member| member.state == "running" && member.role == Role::Primary)
    else {
        return Vec::new();
    };
    let near = |member: &MemberRecord| {
        let behind = primary.xlog_location.zip(member.receive_lsn).map(|(head, at)| head.saturating_sub(at));
        member.state == "running"
            && member.role == Role::Replica
            && member.replication_state.as_deref() == Some("streaming")
            && member.timeline == primary.timeline
            && !member.replay_still
            && behind.is_some_and(|behind| behind <= NEAR)
    };
    let mut order: Vec<&MemberName> = members.iter().filter(|(_, member)| near(member)).map(|(name, _)| name).collect();
    let place = if tail { order.len() } else { 0 };
    order.insert(place, leader);
    order
}

/// The log after an attempt that failed.
pub fn failed(log: &BackupLog, failure: BackupFailure, now: Timestamp) -> BackupLog {
    let failures = log.failures.saturating_add(1);
    let pause = (PAUSES.0 * (1 << (failures - 1).min(10))).min(PAUSES.1);
    let retry = now.checked_add(pause).unwrap_or(now).to_string();
    BackupLog { failures, last_failure: Some(failure), retry: Some(retry), ..log.clone() }
}

/// What `/archive` shows.
pub fn shown(schedule: &Schedule, reading: &Reading, now: Timestamp) -> ScheduledBackups {
    let mut shown = ScheduledBackups {
        schedule: schedule.to_string(),
        running: reading.backup.clone(),
        ..ScheduledBackups::default()
    };
    if let Some(log) = &reading.backups {
        let log = &log.value;
        shown.next = counts(schedule, log, now).then(|| due(schedule, log)).flatten().map(|due| due.to_string());
        (shown.last, shown.failures, shown.last_failure) = (log.last.clone(), log.failures, log.last_failure.clone());
    }
    shown
}

#[cfg(test)]
mod tests;
