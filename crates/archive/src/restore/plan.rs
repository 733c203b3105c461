//! Which backup and which WAL serve a target, found out before anything is written.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use jiff::Timestamp;
use matriarch_core::{Lsn, Timeline};

use super::history::History;
use super::{RestoreError, at};
use crate::archive::{Archive, ArchiveError};
use crate::base::{self, Summary};
use crate::wal::records::{Event, Records};
use crate::wal::{self, Segment, WalName};

/// How far to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// As far as the archive reaches.
    Latest,
    /// As soon as the backup is consistent.
    Immediate,
    /// Up to and with what was committed at this time.
    Time(Timestamp),
    /// Up to and with the record at this position.
    Lsn(Lsn),
    /// Up to and with this transaction.
    Xid(u32),
    /// The point that `pg_create_restore_point` made.
    Name(String),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Latest => f.write_str("the end of the archive"),
            Target::Immediate => f.write_str("the end of the backup"),
            Target::Time(time) => write!(f, "the time {time}"),
            Target::Lsn(lsn) => write!(f, "position {lsn}"),
            Target::Xid(xid) => write!(f, "transaction {xid}"),
            Target::Name(name) => write!(f, "the restore point '{name}'"),
        }
    }
}

/// What a restore will do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The backup.
    pub summary: Summary,
    /// The target.
    pub target: Target,
    /// The timeline that recovery follows, and how it came to be.
    pub history: History,
    /// Segments that recovery will ask for.
    pub segments: u64,
    /// Where the WAL ends that follows the backup without a gap.
    pub reach: Lsn,
}

/// Looks for the newest backup that serves the target on `timeline` (or, without one, on the newest timeline that has a
/// backup), and makes sure that the archive reaches it. `backup` asks for one by its name.
pub async fn plan(
    archive: &Archive,
    target: &Target,
    timeline: Option<Timeline>,
    backup: Option<&str>,
) -> Result<Plan, RestoreError> {
    let backups = base::list(archive).await?;
    if backups.is_empty() {
        let place = archive.place();
        let why = format!("there is no backup of {} in incarnation {}", place.cluster(), place.incarnation());
        return Err(RestoreError::NoBackup(why));
    }
    let named: Vec<&Summary> = backups.iter().filter(|found| backup.is_none_or(|name| name == found.backup)).collect();
    if named.is_empty() {
        let names: Vec<&str> = backups.iter().map(|found| found.backup.as_str()).collect();
        let why = format!("there is no backup '{}'; there are {}", backup.unwrap_or_default(), names.join(", "));
        return Err(RestoreError::NoBackup(why));
    }
    let (history, usable) = choose_timeline(archive, target, timeline, &named).await?;
    let mut wal = Wal { archive, listed: BTreeMap::new() };
    // Newest first; a restore point or a transaction may lie before the newest one.
    let mut nearest = None;
    for summary in usable.iter().rev() {
        match try_backup(&mut wal, summary, target, &history).await? {
            Ok(plan) => return Ok(plan),
            Err(error) => nearest = nearest.or(Some(error)),
        }
        if !matches!(target, Target::Xid(_) | Target::Name(_)) {
            break;
        }
    }
    Err(nearest.unwrap_or_else(|| no_backup(target, &named, &history)))
}

fn no_backup(target: &Target, backups: &[&Summary], history: &History) -> RestoreError {
    let earliest = backups.iter().min_by_key(|summary| summary.stop_time);
    let earliest = earliest.map_or_else(String::new, |summary| {
        format!("; the earliest ended at {} ({})", summary.stop_time, at(summary.timeline, summary.stop_lsn))
    });
    RestoreError::NoBackup(format!(
        "no backup on the way to timeline {} ends before {target}{earliest}",
        history.timeline
    ))
}

/// The history to follow, and the backups on it that end before the target, oldest first.
async fn choose_timeline<'a>(
    archive: &Archive,
    target: &Target,
    asked: Option<Timeline>,
    backups: &[&'a Summary],
) -> Result<(History, Vec<&'a Summary>), RestoreError> {
    if *target == Target::Immediate
        && asked.is_none()
        && let Some(newest) = backups.last()
    {
        return Ok((history_of(archive, newest.timeline).await?, vec![newest]));
    }
    let mut timelines: BTreeSet<Timeline> = backups.iter().map(|summary| summary.timeline).collect();
    for entry in archive.repository().list(&archive.place().history_folder()).await? {
        let name = entry.name.rsplit('/').next().unwrap_or_default();
        if let Ok(WalName::History(timeline)) = name.parse() {
            timelines.insert(timeline);
        }
    }
    let candidates: Vec<Timeline> = asked.map_or_else(|| timelines.into_iter().rev().collect(), |asked| vec![asked]);
    let mut last = None;
    for timeline in candidates {
        let history = history_of(archive, timeline).await?;
        let on_the_way: Vec<&Summary> =
            backups.iter().copied().filter(|summary| serves(summary, target, &history)).collect();
        if !on_the_way.is_empty() {
            return Ok((history, on_the_way));
        }
        last = last.or(Some(history));
    }
    let history = last.unwrap_or_else(|| History::root(1));
    Err(no_backup(target, backups, &history))
}

fn serves(summary: &Summary, target: &Target, history: &History) -> bool {
    let on_the_way = match history.end_of(summary.timeline) {
        Some(None) => true,
        Some(Some(end)) => summary.stop_lsn <= end,
        None => false,
    };
    on_the_way
        && match target {
            Target::Time(time) => summary.stop_time <= *time,
            Target::Lsn(lsn) => summary.stop_lsn <= *lsn,
            _ => true,
        }
}

async fn history_of(archive: &Archive, timeline: Timeline) -> Result<History, RestoreError> {
    if timeline <= 1 {
        return Ok(History::root(timeline));
    }
    match wal::read(archive, &WalName::History(timeline)).await {
        Ok(text) => Ok(History::parse(timeline, &String::from_utf8_lossy(&text))?),
        // A cluster whose archive began on this timeline.
        Err(ArchiveError::Repository(error)) if error.is_absent() => Ok(History::root(timeline)),
        Err(error) => Err(error.into()),
    }
}

/// The plan with this backup, or why it does not reach the target.
async fn try_backup(
    wal: &mut Wal<'_>,
    summary: &Summary,
    target: &Target,
    history: &History,
) -> Result<Result<Plan, RestoreError>, RestoreError> {
    let size = wal.archive.incarnation().segment_size;
    let (chain, missing) = wal.chain(summary, history).await?;
    let reach = chain.last().map_or(summary.start_lsn, |segment| Lsn(segment.start(size).0 + size));
    if reach < summary.stop_lsn {
        let (backup, segment) = (summary.backup.clone(), missing.to_string());
        return Ok(Err(RestoreError::Gap { backup, target: Target::Immediate.to_string(), segment }));
    }
    let until = match target {
        Target::Latest => Ok(reach),
        Target::Immediate => Ok(summary.stop_lsn),
        _ => wal.find(&chain, summary, target).await?,
    };
    Ok(match until {
        Ok(until) => {
            let segments = chain.iter().filter(|segment| segment.start(size) < until).count() as u64;
            let (summary, target, history) = (summary.clone(), target.clone(), history.clone());
            Ok(Plan { summary, target, history, segments, reach })
        }
        Err(why) => {
            let behind = wal.holds_later(missing);
            let gap = if behind { format!("; {missing} is missing, and there is WAL after it") } else { String::new() };
            Err(RestoreError::OutOfReach { target: target.to_string(), why: format!("{why}{gap}") })
        }
    })
}

/// The archive's segments.
struct Wal<'a> {
    archive: &'a Archive,
    listed: BTreeMap<Timeline, BTreeSet<Segment>>,
}

impl Wal<'_> {
    /// The segments from the backup's start to the first that is missing, each of the newest timeline that has it; and the
    /// one that is missing.
    async fn chain(&mut self, summary: &Summary, history: &History) -> Result<(Vec<Segment>, Segment), RestoreError> {
        let size = self.archive.incarnation().segment_size;
        let mut chain = Vec::new();
        let mut next = Segment::at(summary.timeline, summary.start_lsn, size).start(size);
        loop {
            // Timelines that wrote a part of this segment, newest first: that is how PostgreSQL looks for it.
            let end = Lsn(next.0 + size);
            let first = history.timeline_at(next);
            let mut timelines: Vec<Timeline> = history
                .switches
                .iter()
                .map(|switch| switch.timeline)
                .chain([history.timeline])
                .filter(|timeline| *timeline >= first && *timeline <= history.timeline_at(Lsn(end.0 - 1)))
                .collect();
            timelines.reverse();
            let mut found = None;
            for timeline in &timelines {
                let segment = Segment::at(*timeline, next, size);
                if self.has(segment).await? {
                    found = Some(segment);
                    break;
                }
            }
            match found {
                Some(segment) => chain.push(segment),
                None => return Ok((chain, Segment::at(timelines.first().copied().unwrap_or(first), next, size))),
            }
            next = end;
        }
    }

    async fn has(&mut self, segment: Segment) -> Result<bool, RestoreError> {
        let place = self.archive.place();
        if let std::collections::btree_map::Entry::Vacant(vacant) = self.listed.entry(segment.timeline) {
            let from = place.wal(&WalName::Segment(segment));
            let entries = self.archive.repository().list_after(&place.wal_of(segment.timeline), Some(&from)).await?;
            let segments = entries.iter().filter_map(|entry| match entry.name.rsplit('/').next()?.parse() {
                Ok(WalName::Segment(segment)) => Some(segment),
                _ => None,
            });
            vacant.insert(segments.collect());
        }
        if self.listed.get(&segment.timeline).is_some_and(|listed| listed.contains(&segment)) {
            return Ok(true);
        }
        // A list proves nothing.
        match self.archive.repository().size(&place.wal(&WalName::Segment(segment))).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_absent() => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn holds_later(&self, missing: Segment) -> bool {
        self.listed.values().flatten().any(|segment| (segment.log, segment.part) > (missing.log, missing.part))
    }

    /// Where the target lies, or how far the WAL goes without it.
    async fn find(
        &self,
        chain: &[Segment],
        summary: &Summary,
        target: &Target,
    ) -> Result<Result<Lsn, String>, RestoreError> {
        let size = self.archive.incarnation().segment_size;
        if let Target::Time(wanted) = target {
            return self.find_time(chain, *wanted).await;
        }
        let from = match target {
            Target::Lsn(lsn) => *lsn,
            _ => summary.start_lsn,
        };
        let mut records = Records::default();
        for segment in chain.iter().filter(|segment| segment.start(size).0 + size > from.0) {
            let mut found = None;
            self.scan(&mut records, *segment, |lsn, event| {
                // What the backup already contains is not stopped at.
                let is_it = match (target, &event) {
                    (Target::Xid(wanted), Event::End { xid, .. }) => xid == wanted,
                    (Target::Name(wanted), Event::Point { name }) => name == wanted,
                    _ => false,
                };
                if is_it && lsn >= summary.stop_lsn {
                    found = found.or(Some(lsn));
                }
            })
            .await?;
            if let Target::Lsn(wanted) = target
                && records.last() >= *wanted
            {
                found = Some(records.last());
            }
            if let Some(lsn) = found {
                return Ok(Ok(lsn));
            }
        }
        let reach = chain.last().map_or(summary.start_lsn, |segment| Lsn(segment.start(size).0 + size));
        Ok(Err(format!("the WAL that follows backup {} ends at {reach}, and it is not in there", summary.backup)))
    }

    /// Recovery stops before the first commit after the time, so there must be one.
    async fn find_time(&self, chain: &[Segment], wanted: Timestamp) -> Result<Result<Lsn, String>, RestoreError> {
        let size = self.archive.incarnation().segment_size;
        for segment in chain.iter().rev() {
            let mut newest = None;
            self.scan(&mut Records::default(), *segment, |_, event| {
                if let Event::End { time, .. } = event {
                    newest = newest.max(Some(time));
                }
            })
            .await?;
            match newest {
                Some(time) if time > wanted => return Ok(Ok(Lsn(segment.start(size).0 + size))),
                Some(time) => {
                    return Ok(Err(format!("its last transaction ended at {time}; restore to 'latest' instead")));
                }
                None => {}
            }
        }
        Ok(Err("no transaction ended since the backup; restore to 'latest' instead".to_owned()))
    }

    async fn scan(
        &self,
        records: &mut Records,
        segment: Segment,
        report: impl FnMut(Lsn, Event),
    ) -> Result<(), RestoreError> {
        let content = wal::read(self.archive, &WalName::Segment(segment)).await?;
        records.feed(&content, segment.start(self.archive.incarnation().segment_size), report);
        Ok(())
    }
}
