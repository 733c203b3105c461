//! Which backup and which WAL serve a target, found out before anything is written.

use jiff::Timestamp;
use matriarch_core::{Lsn, Timeline};

use super::Target;
use super::chain::{Chain, Wal};
use super::history::History;
use super::holder::Holder;
use super::{RestoreError, at};
use crate::archive::{Archive, Parent};
use crate::base::Summary;
use crate::configured::Origin;
use crate::wal::Segment;

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// How far to go.
    pub target: Target,
    /// The timeline to follow; the newest one that has a backup unless given.
    pub timeline: Option<Timeline>,
    /// Name of the backup to begin with; the one nearest to the target unless given.
    pub backup: Option<String>,
    /// Whether WAL that only the tail has is used too. Without it recovery ends with the last complete segment.
    pub tail: bool,
}

impl Wanted {
    /// A target, by whatever backup and timeline serve it, tail included.
    pub fn new(target: Target) -> Wanted {
        Wanted { target, timeline: None, backup: None, tail: true }
    }
}

/// A segment that only the tail has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FromTail {
    /// Which.
    pub segment: Segment,
    /// The position after its known beginning.
    pub end: Lsn,
    /// Where the history leaves the segment's timeline, if it does.
    pub limit: Option<Lsn>,
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
    /// Complete segments that recovery will ask for, at most.
    pub complete: Vec<Segment>,
    /// Those of them that only the tail has; the restore puts them in place.
    pub tail: Vec<FromTail>,
    /// Where the WAL ends that follows the backup without a gap.
    pub reach: Lsn,
    /// Where recovery ends at the latest.
    pub until: Lsn,
}

impl Plan {
    /// The record of a new incarnation that begins with this restore: it has in common with the one it came from what lies
    /// before the segment in which recovery ends.
    pub fn origin(&self, archive: &Archive, name: &str) -> Origin {
        let size = archive.incarnation().segment_size;
        let last = self.until.0.saturating_sub(1);
        let parent = Parent {
            incarnation: archive.place().incarnation().to_owned(),
            timeline: self.history.timeline_at(Lsn(last)),
            lsn: Lsn(last - last % size),
        };
        Origin { incarnation: name.to_owned(), parent: Some(parent) }
    }

    /// Whether recovery that ended at `reached` has left out WAL that is there: it ends at the first record that it cannot read,
    /// without a word. The end of the archive may cut a record off, so that only what comes before its last segment is certain;
    /// on targets other than the end PostgreSQL itself insists. `segment`: bytes of a segment.
    pub fn falls_short(&self, reached: Lsn, segment: u64) -> bool {
        let last = self.until.0.saturating_sub(1);
        self.target == Target::Latest && reached.0 < last - last % segment
    }

    /// Bytes of all WAL that recovery asks for, at most.
    pub fn wal(&self, segment: u64) -> u64 {
        (self.complete.len() + self.tail.len()) as u64 * segment
    }
}

/// Looks for the newest backup that serves the target on the timeline, and makes sure that the archive reaches it.
///
/// # Errors
/// [`RestoreError::NoBackup`], [`RestoreError::Gap`] and [`RestoreError::OutOfReach`] say what can be reached instead.
pub async fn plan<'a>(holder: impl Into<Holder<'a>>, wanted: &Wanted) -> Result<Plan, RestoreError> {
    let holder = holder.into();
    let backups = holder.backups().await?;
    if backups.is_empty() {
        return Err(RestoreError::NoBackup(format!("there is no backup of {}", holder.whose())));
    }
    let asked = wanted.backup.as_deref();
    let named: Vec<&Summary> = backups.iter().filter(|found| asked.is_none_or(|name| name == found.backup)).collect();
    if named.is_empty() {
        let names: Vec<&str> = backups.iter().map(|found| found.backup.as_str()).collect();
        let why = format!("there is no backup '{}'; there are {}", asked.unwrap_or_default(), names.join(", "));
        return Err(RestoreError::NoBackup(why));
    }
    let target = &wanted.target;
    let (history, usable) = choose_timeline(holder, target, wanted.timeline, &named).await?;
    let mut wal = Wal::new(holder, wanted.tail);
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

/// What can be restored, on one timeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// The timeline, and how it came to be.
    pub history: History,
    /// The oldest backup on the way that WAL follows; before its end only the ends of backups can be restored.
    pub oldest: Summary,
    /// The newest one.
    pub newest: Summary,
    /// Where the WAL ends that follows the newest one without a gap.
    pub reach: Lsn,
    /// When the last transaction before that ended, by the server's clock; `None` if there was none since the backup.
    pub last_transaction: Option<Timestamp>,
    /// Segments without which what follows the oldest backup cannot be reached from it.
    pub missing: Option<Segment>,
}

/// What can be restored on a timeline (the newest one that has a backup, unless given), or `None` without a backup.
pub async fn window<'a>(
    holder: impl Into<Holder<'a>>,
    timeline: Option<Timeline>,
) -> Result<Option<Window>, RestoreError> {
    let holder = holder.into();
    let backups = holder.backups().await?;
    let all: Vec<&Summary> = backups.iter().collect();
    if all.is_empty() {
        return Ok(None);
    }
    let (history, usable) = choose_timeline(holder, &Target::Latest, timeline, &all).await?;
    let Some(newest) = usable.last() else { return Ok(None) };
    let mut wal = Wal::new(holder, true);
    let chain = wal.chain(newest, &history).await?;
    let (mut oldest, mut missing) = (newest, None);
    for summary in &usable {
        let from_here = wal.chain(summary, &history).await?;
        if !is_island(summary, from_here.reach(), wal.segment_size()) {
            missing = (from_here.reach() < newest.stop_lsn).then_some(from_here.missing);
            oldest = summary;
            break;
        }
    }
    let last_transaction = wal.last_transaction(&chain).await?.map(|(_, time)| time);
    Ok(Some(Window {
        oldest: (*oldest).clone(),
        newest: (*newest).clone(),
        reach: chain.reach(),
        last_transaction,
        missing,
        history,
    }))
}

/// Whether there is no more WAL after a backup than what makes it consistent: of one that is only held, or only needed by a later
/// one, retention keeps just that.
fn is_island(summary: &Summary, reach: Lsn, size: u64) -> bool {
    reach <= Segment::before(summary.timeline, summary.stop_lsn, size).next(size).start(size)
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
    holder: Holder<'_>,
    target: &Target,
    asked: Option<Timeline>,
    backups: &[&'a Summary],
) -> Result<(History, Vec<&'a Summary>), RestoreError> {
    if *target == Target::Immediate
        && asked.is_none()
        && let Some(newest) = backups.last()
    {
        return Ok((holder.history(newest.timeline).await?, vec![newest]));
    }
    let mut timelines = holder.timelines().await?;
    timelines.extend(backups.iter().map(|summary| summary.timeline));
    let candidates: Vec<Timeline> = asked.map_or_else(|| timelines.into_iter().rev().collect(), |asked| vec![asked]);
    let mut last = None;
    for timeline in candidates {
        let history = holder.history(timeline).await?;
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

/// The plan with this backup, or why it does not reach the target.
async fn try_backup(
    wal: &mut Wal<'_>,
    summary: &Summary,
    target: &Target,
    history: &History,
) -> Result<Result<Plan, RestoreError>, RestoreError> {
    let size = wal.segment_size();
    let chain = wal.chain(summary, history).await?;
    let reach = chain.reach();
    if reach < summary.stop_lsn {
        let (backup, segment) = (summary.backup.clone(), chain.missing.to_string());
        return Ok(Err(RestoreError::Gap { backup, target: Target::Immediate.to_string(), segment }));
    }
    let behind = wal.holds_later(&chain, history);
    let until = match target {
        Target::Latest if behind => {
            Err(format!("ask for '--to lsn {reach}' or '--to immediate' to end before the gap"))
        }
        Target::Latest => Ok(reach),
        Target::Immediate => Ok(summary.stop_lsn),
        _ => wal.find(&chain, summary, target).await?,
    };
    match until {
        Ok(until) => {
            let needed = || chain.pieces.iter().filter(|piece| piece.segment.start(size) < until);
            let tail = needed().filter_map(|piece| piece.tail).collect();
            let complete = needed().filter(|piece| piece.tail.is_none()).map(|piece| piece.segment).collect();
            let (summary, target, history) = (summary.clone(), target.clone(), history.clone());
            Ok(Ok(Plan { summary, target, history, complete, tail, reach, until }))
        }
        Err(why) => {
            let gap = |missing: Segment| format!("; {missing} is missing, and there is WAL after it");
            let gap = if behind { gap(chain.missing) } else { String::new() };
            let window = reachable(wal, &chain, summary).await?;
            Ok(Err(RestoreError::OutOfReach { target: target.to_string(), why: format!("{why}{gap}; {window}") }))
        }
    }
}

/// What this backup and the WAL after it can be restored to, for a message.
async fn reachable(wal: &Wal<'_>, chain: &Chain, summary: &Summary) -> Result<String, RestoreError> {
    let last = match wal.last_transaction(chain).await? {
        Some((_, time)) => format!("where the last transaction ended at {time}"),
        None => "without a transaction since".to_owned(),
    };
    let (backup, stop, reach) = (&summary.backup, summary.stop_lsn, chain.reach());
    Ok(format!("backup {backup} reaches from {stop} at {} to {reach}, {last}", summary.stop_time))
}
