//! What is in a repository and what of it nobody needs.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use jiff::Timestamp;
use matriarch_core::Lsn;
use serde::Serialize;

use super::RetentionError;
use super::chains::{self, Chains, Users};
use super::keep::{Because, Candidate, Policy, decide};
use super::needs::{self, Needs};
use super::single::one;
use crate::archive::Archive;
use crate::base::{self, Found, Marker};
use crate::format::{self, Kind, Outline};
use crate::repository::{Entry, RepositoryError};
use crate::restore::{self, History, RestoreError};

/// A manifest's name stays taken for so long after its backup was cleared away.
const FORGET_AFTER: i64 = 7 * 86_400;

/// Where a backup under way leaves its mark.
pub(super) const MARK: &str = "/running.json";
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
pub(super) struct Seen {
    pub(super) manifest: Option<Found>,
    manifest_at: Option<Timestamp>,
    /// When it said last that it is under way, and what it needs.
    running: Option<(Timestamp, Marker)>,
    pub(super) held: bool,
    /// Everything but the manifest.
    pub(super) others: Vec<Entry>,
    pub(super) newest: Timestamp,
}

impl Seen {
    fn needs(&self) -> &[String] {
        match (&self.manifest, &self.running) {
            (Some(Found::Whole(outline)), _) => &outline.needs,
            (None, Some((_, marker))) => &marker.needs,
            _ => &[],
        }
    }
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
        return one(&seen, name, false, policy, now);
    }
    let chains = chains_of(&seen);
    let mut backups: Vec<(&String, &Outline, bool)> = seen
        .iter()
        .filter_map(|(name, seen)| match &seen.manifest {
            Some(Found::Whole(outline)) => Some((name, outline, seen.held)),
            _ => None,
        })
        .collect();
    backups.sort_by_key(|(name, outline, _)| (outline.stop_time, *name));
    let candidates: Vec<Candidate> =
        backups.iter().map(|(_, outline, held)| Candidate { outline: (*outline).clone(), held: *held }).collect();
    let present = present(archive, &candidates).await?;
    let verdicts = decide(&candidates, present.as_ref(), policy, now);

    let kept = backups.iter().zip(&verdicts).filter(|(_, verdict)| verdict.is_some());
    let kept = kept.map(|((name, ..), _)| name.as_str());
    // Also what was cut off may come to its end, until its name is taken.
    let begun = seen.iter().filter(|(_, seen)| seen.manifest.is_none()).map(|(name, _)| name.as_str());
    let needed = chains::needed(&chains, kept.chain(begun));

    let mut plan = Plan::default();
    let mut expired = Vec::new();
    let mut needs = Needs::new(archive.incarnation().segment_size);
    for ((name, outline, _), verdict) in backups.iter().zip(verdicts) {
        match verdict.or(needed.contains(name.as_str()).then_some(Because::Needed)) {
            Some(because) => {
                needs.of(outline, because);
                plan.kept.push(Kept { backup: (*name).clone(), stop_time: outline.stop_time, because });
            }
            None => expired.push(name.as_str()),
        }
    }
    for name in chains::children_first(&chains, expired) {
        plan.steps.extend(whole(name, &seen[name]));
    }
    for (name, found) in &seen {
        if found.manifest.is_none() && needed.contains(name.as_str()) && !is_fresh(found.newest, policy, now) {
            // A removal was stopped for the sake of one that needs its packs.
            continue;
        }
        let left = left_over(archive, name, found, policy, now);
        if let Some(marker) = left.under_way {
            plan.under_way.push(name.clone());
            marker.iter().for_each(|marker| needs.from(marker.floor));
        }
        plan.steps.extend(left.steps);
    }
    plan.steps.extend(needs::wal(archive, &needs).await?);
    plan.steps.extend(needs::tail(archive, &needs).await?);
    Ok(plan)
}

/// What is under way, and what was left behind.
#[derive(Default)]
struct Left<'a> {
    /// Somebody takes a backup, and may have said what it needs.
    under_way: Option<Option<&'a Marker>>,
    steps: Vec<Step>,
}

fn left_over<'a>(archive: &Archive, name: &str, seen: &'a Seen, policy: &Policy, now: Timestamp) -> Left<'a> {
    let mut left = Left::default();
    match (&seen.manifest, &seen.running) {
        (None, Some((told, marker))) if is_fresh(*told, policy, now) => left.under_way = Some(Some(marker)),
        (None, _) if is_fresh(seen.newest, policy, now) => left.under_way = Some(None),
        (None, _) => {
            left.steps.push(Step::Abandon { backup: name.to_owned() });
            left.steps.extend(objects(&seen.others));
        }
        (Some(Found::Abandoned), _) => {
            left.steps.extend(objects(&seen.others));
            let age = seen.manifest_at.map_or(0, |at| now.duration_since(at).as_secs());
            if seen.others.is_empty() && age > FORGET_AFTER {
                left.steps.push(Step::Object { name: archive.place().manifest(name), size: 0 });
            }
        }
        // It was finished, and its mark was left behind.
        (Some(Found::Whole(_)), Some((told, _))) if !is_fresh(*told, policy, now) => {
            let marks = seen.others.iter().filter(|entry| entry.name.ends_with(MARK)).cloned();
            left.steps.extend(objects(&marks.collect::<Vec<_>>()));
        }
        (Some(Found::Whole(_)), _) => {}
    }
    left
}

/// Who needs what: backups by their manifests, and those under way by their marks.
pub(super) fn chains_of(seen: &BTreeMap<String, Seen>) -> Chains<'_> {
    seen.iter().map(|(name, seen)| (name.as_str(), seen.needs())).collect()
}

/// Does what was planned, and tells each step before it is done. May be dropped at any time. WAL that a backup needs that
/// has begun meanwhile is left.
pub async fn run(archive: &Archive, plan: &Plan, mut tell: impl FnMut(&Step)) -> Result<(), RetentionError> {
    let (mut floor, mut checked) = (None, None);
    let (mut users, mut spared) = (Users::default(), BTreeSet::new());
    for (number, step) in plan.steps.iter().enumerate() {
        if let Step::Wal { end, .. } = step {
            if checked.is_none_or(|at| number >= at + AT_A_TIME) {
                (floor, checked) = (floor_now(archive).await?, Some(number));
            }
            if floor.is_some_and(|floor| *end > floor) {
                continue;
            }
        }
        // A backup has begun meanwhile that builds upon it.
        if let Step::Manifest { backup } = step
            && users.any(archive, backup).await?
        {
            spared.insert(backup.clone());
            continue;
        }
        if let Step::Object { name, .. } = step
            && backup_of(archive, name).is_some_and(|backup| spared.contains(backup))
        {
            continue;
        }
        tell(step);
        remove(archive, step).await?;
        // Whoever saw the manifest before it went, and counts on the packs, has said so before.
        if let Step::Manifest { backup } = step
            && users.any(archive, backup).await?
        {
            spared.insert(backup.clone());
        }
    }
    Ok(())
}

/// Which backup an object belongs to.
fn backup_of<'a>(archive: &Archive, name: &'a str) -> Option<&'a str> {
    let place = archive.place();
    let below =
        |folder: String| name.strip_prefix(&folder)?.strip_prefix('/')?.split_once('/').map(|(backup, _)| backup);
    below(place.pack_folder()).or_else(|| below(place.base_folder()))
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

pub(super) async fn read_marker(archive: &Archive, name: &str) -> Result<Option<Marker>, RepositoryError> {
    match archive.repository().get(name).await {
        Ok(json) => serde_json::from_slice(&json)
            .map(Some)
            .map_err(|error| archive.repository().corrupt(name, format!("it cannot be read: {error}"))),
        Err(error) if error.is_absent() => Ok(None),
        Err(error) => Err(error),
    }
}

pub(super) fn is_fresh(told: Timestamp, policy: &Policy, now: Timestamp) -> bool {
    now.duration_since(told).unsigned_abs() < policy.grace || told > now
}

pub(super) async fn look(archive: &Archive, now: Timestamp) -> Result<BTreeMap<String, Seen>, RetentionError> {
    let (place, repository) = (archive.place(), archive.repository());
    let mut seen: BTreeMap<String, Seen> = BTreeMap::new();
    for folder in [place.base_folder(), place.pack_folder()] {
        for entry in repository.list_with_parts(&folder).await? {
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
                known.running = marker.map(|marker| (entry.modified, marker));
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

/// A whole backup: first what makes it one.
pub(super) fn whole(name: &str, seen: &Seen) -> Vec<Step> {
    let mut steps = vec![Step::Manifest { backup: name.to_owned() }];
    steps.extend(objects(&seen.others));
    steps
}

pub(super) fn objects(entries: &[Entry]) -> impl Iterator<Item = Step> {
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
