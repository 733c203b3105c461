//! What is in a repository and what of it nobody needs.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use jiff::Timestamp;
use matriarch_core::{Lsn, Timeline};
use serde::Serialize;

use super::RetentionError;
use super::keep::{Because, Candidate, Policy, decide};
use crate::archive::Archive;
use crate::base::{self, Found, Marker};
use crate::format::{self, Kind, Outline};
use crate::repository::{Entry, RepositoryError};
use crate::restore::{self, History, RestoreError};
use crate::tail::Chunk;
use crate::wal::{Segment, WalName};

/// A manifest's name stays taken for so long after its backup was cleared away.
const FORGET_AFTER: i64 = 7 * 86_400;

/// Where a backup under way leaves its mark.
const MARK: &str = "/running.json";
/// So many pieces of WAL are removed before it is looked again who needs some.
const AT_A_TIME: usize = 50;

/// A backup that stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Kept {
    /// Its name.
    pub backup: String,
    /// When it ended.
    pub stop_time: Timestamp,
    /// Why it stays.
    pub because: Because,
}

/// One removal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// The manifest of a backup that is not kept: from here on it is none.
    Manifest {
        /// Name of the backup.
        backup: String,
    },
    /// A backup was cut off: its manifest's name is taken, so that it cannot become one any more.
    Abandon {
        /// Name of the backup.
        backup: String,
    },
    /// Any other object.
    Object {
        /// Its name.
        name: String,
        /// Its bytes.
        size: u64,
    },
    /// WAL, unless a backup that has begun meanwhile needs it.
    Wal {
        /// Its name.
        name: String,
        /// Its bytes.
        size: u64,
        /// The position after it.
        end: Lsn,
    },
}

/// What is kept and what is to be removed, in this order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// Backups that stay.
    pub kept: Vec<Kept>,
    /// Backups under way, which are left alone.
    pub under_way: Vec<String>,
    /// The removals.
    pub steps: Vec<Step>,
}

impl Plan {
    /// Bytes of the objects that are removed.
    pub fn bytes(&self) -> u64 {
        let size = |step: &Step| match step {
            Step::Object { size, .. } | Step::Wal { size, .. } => *size,
            Step::Manifest { .. } | Step::Abandon { .. } => 0,
        };
        self.steps.iter().map(size).sum()
    }

    /// Names of the backups that are removed.
    pub fn expired<'a>(&'a self) -> Vec<&'a str> {
        let name = |step: &'a Step| match step {
            Step::Manifest { backup } => Some(backup.as_str()),
            _ => None,
        };
        self.steps.iter().filter_map(name).collect()
    }
}

/// What lies under one backup's name.
#[derive(Debug, Default)]
struct Seen {
    manifest: Option<Found>,
    manifest_at: Option<Timestamp>,
    /// When it said last that it is under way, and from where on it needs WAL.
    running: Option<(Timestamp, Lsn)>,
    held: bool,
    /// Everything but the manifest.
    others: Vec<Entry>,
    newest: Timestamp,
}

/// Looks what a policy keeps. `only` removes that one backup instead, whatever the policy says, and no WAL.
///
/// # Errors
/// Whatever cannot be understood in the repository: then nothing is planned.
pub async fn plan(
    archive: &Archive,
    policy: &Policy,
    only: Option<&str>,
    now: Timestamp,
) -> Result<Plan, RetentionError> {
    if policy.count == Some(0) {
        return Err(RetentionError::KeepsNothing);
    }
    let seen = look(archive, now).await?;
    if let Some(name) = only {
        return one(&seen, name, policy, now);
    }
    let mut backups: Vec<(&String, &Outline, bool)> = seen
        .iter()
        .filter_map(|(name, seen)| match &seen.manifest {
            Some(Found::Backup(outline)) => Some((name, outline, seen.held)),
            _ => None,
        })
        .collect();
    backups.sort_by_key(|(name, outline, _)| (outline.stop_time, *name));
    let candidates: Vec<Candidate> =
        backups.iter().map(|(_, outline, held)| Candidate { outline: (*outline).clone(), held: *held }).collect();
    let present = present(archive, &candidates).await?;
    let verdicts = decide(&candidates, present.as_ref(), policy, now);

    let mut plan = Plan::default();
    let mut needs = Needs { floor: None, ranges: Vec::new(), size: archive.incarnation().segment_size };
    for ((name, outline, _), verdict) in backups.iter().zip(verdicts) {
        match verdict {
            Some(because) => {
                needs.of(outline, because);
                plan.kept.push(Kept { backup: (*name).clone(), stop_time: outline.stop_time, because });
            }
            None => plan.steps.extend(whole(name, &seen[*name])),
        }
    }
    for (name, seen) in &seen {
        match (&seen.manifest, &seen.running) {
            (None, Some((told, floor))) if is_fresh(*told, policy, now) => {
                needs.from(*floor);
                plan.under_way.push(name.clone());
            }
            (None, _) if is_fresh(seen.newest, policy, now) => plan.under_way.push(name.clone()),
            (None, _) => {
                plan.steps.push(Step::Abandon { backup: name.clone() });
                plan.steps.extend(objects(&seen.others));
            }
            (Some(Found::Abandoned), _) => {
                plan.steps.extend(objects(&seen.others));
                let age = seen.manifest_at.map_or(0, |at| now.duration_since(at).as_secs());
                if seen.others.is_empty() && age > FORGET_AFTER {
                    plan.steps.push(Step::Object { name: archive.place().manifest(name), size: 0 });
                }
            }
            // It was finished, and its mark was left behind.
            (Some(Found::Backup(_)), Some((told, _))) if !is_fresh(*told, policy, now) => {
                let marks = seen.others.iter().filter(|entry| entry.name.ends_with(MARK)).cloned();
                plan.steps.extend(objects(&marks.collect::<Vec<_>>()));
            }
            (Some(Found::Backup(_)), _) => {}
        }
    }
    plan.steps.extend(wal(archive, &needs).await?);
    plan.steps.extend(tail(archive, &needs).await?);
    Ok(plan)
}

/// Does what was planned, and tells each step before it is done. May be dropped at any time. WAL that a backup needs that
/// has begun meanwhile is left.
pub async fn run(archive: &Archive, plan: &Plan, mut tell: impl FnMut(&Step)) -> Result<(), RetentionError> {
    let (mut floor, mut checked) = (None, None);
    for (number, step) in plan.steps.iter().enumerate() {
        if let Step::Wal { end, .. } = step {
            if checked.is_none_or(|at| number >= at + AT_A_TIME) {
                (floor, checked) = (floor_now(archive).await?, Some(number));
            }
            if floor.is_some_and(|floor| *end > floor) {
                continue;
            }
        }
        tell(step);
        remove(archive, step).await?;
    }
    Ok(())
}

async fn remove(archive: &Archive, step: &Step) -> Result<(), RetentionError> {
    let repository = archive.repository();
    match step {
        Step::Manifest { backup } => {
            // Held since the plan was made.
            if base::hold_of(archive, backup).await?.is_some_and(|hold| hold.holds(Timestamp::now())) {
                return Err(RetentionError::Held(backup.clone()));
            }
            repository.delete(&archive.place().manifest(backup)).await?;
        }
        Step::Abandon { backup } => {
            let name = archive.place().manifest(backup);
            // The same content whoever writes it: two that clear away do not contradict each other.
            let sealed = format::seal(archive.style(), Kind::Abandoned, &name, b"abandoned\n");
            let sealed = sealed.map_err(|error| archive.error(&name, error))?;
            repository.put_new(&name, Bytes::from(sealed), format::identity_of).await?;
        }
        Step::Object { name, .. } | Step::Wal { name, .. } => repository.delete(name).await?,
    }
    Ok(())
}

/// Where the backups begin that are under way just now.
async fn floor_now(archive: &Archive) -> Result<Option<Lsn>, RetentionError> {
    let mut floor: Option<Lsn> = None;
    for entry in archive.repository().list(&archive.place().base_folder()).await? {
        if entry.name.ends_with(MARK)
            && let Some(marker) = read_marker(archive, &entry.name).await?
        {
            floor = Some(floor.map_or(marker.floor, |floor| floor.min(marker.floor)));
        }
    }
    let size = archive.incarnation().segment_size;
    Ok(floor.map(|floor| Lsn(floor.0 - floor.0 % size)))
}

async fn read_marker(archive: &Archive, name: &str) -> Result<Option<Marker>, RepositoryError> {
    match archive.repository().get(name).await {
        Ok(json) => serde_json::from_slice(&json)
            .map(Some)
            .map_err(|error| archive.repository().corrupt(name, format!("it cannot be read: {error}"))),
        Err(error) if error.is_absent() => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_fresh(told: Timestamp, policy: &Policy, now: Timestamp) -> bool {
    now.duration_since(told).unsigned_abs() < policy.grace || told > now
}

async fn look(archive: &Archive, now: Timestamp) -> Result<BTreeMap<String, Seen>, RetentionError> {
    let (place, repository) = (archive.place(), archive.repository());
    let mut seen: BTreeMap<String, Seen> = BTreeMap::new();
    for folder in [place.base_folder(), place.pack_folder()] {
        for entry in repository.list(&folder).await? {
            let rest = entry.name.strip_prefix(&format!("{folder}/"));
            let Some((backup, file)) = rest.and_then(|rest| rest.split_once('/')) else { continue };
            let known = seen.entry(backup.to_owned()).or_default();
            known.newest = known.newest.max(entry.modified);
            if folder == place.base_folder() && file == "manifest" {
                known.manifest_at = Some(entry.modified);
                known.manifest = match base::outline(archive, &entry.name, entry.size).await {
                    Ok(found) => Some(found),
                    Err(error) if error.is_absent() => None,
                    Err(error) => return Err(error.into()),
                };
                continue;
            }
            if file == "running.json" {
                let marker = read_marker(archive, &entry.name).await?;
                known.running = marker.map(|marker| (entry.modified, marker.floor));
            }
            known.others.push(entry);
        }
    }
    for (backup, known) in &mut seen {
        known.held = base::hold_of(archive, backup).await?.is_some_and(|hold| hold.holds(now));
        // A list may be old: only who is asked for by name is absent.
        if known.manifest.is_none() {
            let name = place.manifest(backup);
            match repository.size(&name).await {
                Ok(size) => known.manifest = Some(base::outline(archive, &name, size).await?),
                Err(error) if error.is_absent() => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(seen)
}

fn one(seen: &BTreeMap<String, Seen>, name: &str, policy: &Policy, now: Timestamp) -> Result<Plan, RetentionError> {
    match seen.get(name) {
        Some(found) if matches!(found.manifest, Some(Found::Backup(_))) => {
            if found.held {
                return Err(RetentionError::Held(name.to_owned()));
            }
            Ok(Plan { steps: whole(name, found), ..Plan::default() })
        }
        Some(found) if found.manifest.is_none() => {
            if is_fresh(found.newest, policy, now) {
                return Err(RetentionError::UnderWay(name.to_owned()));
            }
            let mut steps = vec![Step::Abandon { backup: name.to_owned() }];
            steps.extend(objects(&found.others));
            Ok(Plan { steps, ..Plan::default() })
        }
        _ => Err(RetentionError::NoBackup(name.to_owned())),
    }
}

/// A whole backup: first what makes it one.
fn whole(name: &str, seen: &Seen) -> Vec<Step> {
    let mut steps = vec![Step::Manifest { backup: name.to_owned() }];
    steps.extend(objects(&seen.others));
    steps
}

fn objects(entries: &[Entry]) -> impl Iterator<Item = Step> {
    // Packs first: the records beside the manifest say what the packs without one are.
    let (records, packs): (Vec<&Entry>, Vec<&Entry>) = entries.iter().partition(|entry| entry.name.contains("/base/"));
    let step = |entry: &Entry| Step::Object { name: entry.name.clone(), size: entry.size };
    packs.into_iter().chain(records).map(step).collect::<Vec<_>>().into_iter()
}

/// The history of the newest timeline, if it can be read.
async fn present(archive: &Archive, backups: &[Candidate]) -> Result<Option<History>, RetentionError> {
    let newest = backups.iter().map(|backup| backup.outline.timeline).max().unwrap_or(1);
    let newest = restore::Holder::from(archive).timelines().await?.into_iter().max().unwrap_or(1).max(newest);
    match restore::Holder::from(archive).history(newest).await {
        Ok(history) => Ok(Some(history)),
        Err(RestoreError::Archive(crate::archive::ArchiveError::Repository(RepositoryError::NoKey { .. }))) => Ok(None),
        Err(error) => Err(Box::new(error).into()),
    }
}

/// The WAL that must stay.
struct Needs {
    /// Everything from here on, of every timeline. `None`: there is no backup, and everything stays.
    floor: Option<Lsn>,
    /// What held backups need to become consistent.
    ranges: Vec<(Timeline, Segment, Segment)>,
    size: u64,
}

impl Needs {
    fn of(&mut self, outline: &Outline, because: Because) {
        if because == Because::Held {
            let first = Segment::at(outline.timeline, outline.start_lsn, self.size);
            let last = Segment::before(outline.timeline, outline.stop_lsn, self.size);
            self.ranges.push((outline.timeline, first, last));
        } else {
            self.from(outline.start_lsn);
        }
    }

    fn from(&mut self, lsn: Lsn) {
        let start = Lsn(lsn.0 - lsn.0 % self.size);
        self.floor = Some(self.floor.map_or(start, |floor| floor.min(start)));
    }

    fn needs(&self, segment: Segment) -> bool {
        let end = segment.start(self.size).0 + self.size;
        let held = |(timeline, first, last): &(Timeline, Segment, Segment)| {
            segment.timeline == *timeline && (*first..=*last).contains(&segment)
        };
        self.floor.is_none_or(|floor| end > floor.0) || self.ranges.iter().any(held)
    }
}

/// The oldest first, so that what is left has no gap. Histories stay.
async fn wal(archive: &Archive, needs: &Needs) -> Result<Vec<Step>, RepositoryError> {
    if needs.floor.is_none() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for entry in archive.repository().list(&archive.place().wal_folder()).await? {
        // Also what two claimed (`.conflict-…`), and claims (`.claims/…`).
        let file = entry.name.split('/').find_map(|part| {
            let part = part.split(".conflict-").next()?;
            part.strip_suffix(".claims").unwrap_or(part).parse().ok()
        });
        let segment = match file {
            Some(WalName::Segment(segment) | WalName::Partial(segment) | WalName::Backup(segment, _)) => segment,
            Some(WalName::History(_)) | None => continue,
        };
        if !needs.needs(segment) {
            let end = Lsn(segment.start(needs.size).0 + needs.size);
            found.push(Step::Wal { name: entry.name, size: entry.size, end });
        }
    }
    found.sort_by_key(|step| if let Step::Wal { end, .. } = step { *end } else { Lsn(0) });
    Ok(found)
}

/// Chunks that nobody needs, and those whose segment is there as a whole. The newest segment's chunks of a timeline stay:
/// by them a tail finds where it goes on.
async fn tail(archive: &Archive, needs: &Needs) -> Result<Vec<Step>, RepositoryError> {
    let place = archive.place();
    let mut chunks: BTreeMap<Segment, Vec<Entry>> = BTreeMap::new();
    for entry in archive.repository().list(&place.tail_folder()).await? {
        let plain = entry.name.split(".conflict-").next().unwrap_or_default();
        if let Some(chunk) = Chunk::parse(place, plain, needs.size) {
            chunks.entry(chunk.segment).or_default().push(entry);
        }
    }
    let newest: BTreeSet<Segment> =
        chunks.keys().map(|segment| (segment.timeline, *segment)).collect::<BTreeMap<_, _>>().into_values().collect();
    let mut steps = Vec::new();
    for (segment, entries) in chunks {
        let superseded = !newest.contains(&segment)
            && match archive.repository().size(&place.wal(&WalName::Segment(segment))).await {
                Ok(_) => true,
                Err(error) if error.is_absent() => false,
                Err(error) => return Err(error),
            };
        if superseded || !needs.needs(segment) {
            steps.extend(objects(&entries));
        }
    }
    Ok(steps)
}
