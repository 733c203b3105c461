//! Removing dumps that nobody keeps, and what those that were cut off have left. By time, never by name, and without a key.
//!
//! A manifest goes before what it names, so one can stop after any step; what is left is found again by the next plan.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use serde::Serialize;

use super::DumpError;
use super::list::{self, Found};
use crate::archive::Archive;
use crate::base::GRACE;
use crate::format::{self, DumpOutline, Kind};
use crate::repository::{Entry, RepositoryError};

/// A manifest's name stays taken for so long after its dump was cleared away.
const FORGET_AFTER: i64 = 7 * 86_400;

/// What is kept: what either part asks for; without both, every dump.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// So many of the newest.
    pub keep: Option<u32>,
    /// Those that ended so long ago at most.
    pub keep_for: Option<Duration>,
    /// Also dumps that people have taken; else these stay, and do not count.
    pub by_hand: bool,
    /// What a dump left behind that was silent for so long is cleared away.
    pub grace: Duration,
}

/// Why a dump is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Because {
    /// There is no policy.
    NoPolicy,
    /// It is among the newest.
    Count,
    /// It is young enough.
    Age,
    /// A person has taken it.
    ByHand,
}

/// A dump that stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Kept {
    /// Its name.
    pub dump: String,
    /// When it was complete.
    pub ended: Timestamp,
    /// Why it stays.
    pub because: Because,
}

/// One removal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// The manifest of a dump: from here on it is none.
    Manifest {
        /// Name of the dump.
        dump: String,
    },
    /// A dump was cut off: its manifest's name is taken, so that it cannot become one any more.
    Abandon {
        /// Name of the dump.
        dump: String,
    },
    /// Any other object.
    Object {
        /// Its name.
        name: String,
        /// Its bytes.
        size: u64,
    },
}

/// What is kept and what is to be removed, in this order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// Dumps that stay.
    pub kept: Vec<Kept>,
    /// Dumps under way, which are left alone.
    pub under_way: Vec<String>,
    /// The removals.
    pub steps: Vec<Step>,
}

impl Policy {
    /// By count and by age, of dumps by the schedule.
    pub fn new(keep: Option<u32>, keep_for: Option<Duration>) -> Policy {
        Policy { keep, keep_for, by_hand: false, grace: GRACE }
    }

    /// For each of the dumps, which must be in the order of their ends, why it is kept; `None`: it is not.
    fn decide(&self, dumps: &[&DumpOutline], now: Timestamp) -> Vec<Option<Because>> {
        let mut counted = 0;
        let mut kept: Vec<Option<Because>> = dumps
            .iter()
            .rev()
            .map(|dump| {
                if self.keep.is_none() && self.keep_for.is_none() {
                    return Some(Because::NoPolicy);
                }
                if !dump.scheduled && !self.by_hand {
                    return Some(Because::ByHand);
                }
                counted += 1;
                let age = now.duration_since(dump.ended).unsigned_abs();
                let young = self.keep_for.is_some_and(|limit| dump.ended >= now || age <= limit);
                match self.keep.is_some_and(|keep| counted <= keep) {
                    true => Some(Because::Count),
                    false => young.then_some(Because::Age),
                }
            })
            .collect();
        kept.reverse();
        kept
    }
}

impl Plan {
    /// Bytes of what is removed.
    pub fn bytes(&self) -> u64 {
        let size = |step: &Step| if let Step::Object { size, .. } = step { *size } else { 0 };
        self.steps.iter().map(size).sum()
    }

    /// Names of the dumps that are removed.
    pub fn expired(&self) -> Vec<String> {
        let name = |step: &Step| if let Step::Manifest { dump } = step { Some(dump.clone()) } else { None };
        self.steps.iter().filter_map(name).collect()
    }

    /// Names of those that were cut off, and are cleared away.
    pub fn cleared(&self) -> Vec<String> {
        let name = |step: &Step| if let Step::Abandon { dump } = step { Some(dump.clone()) } else { None };
        self.steps.iter().filter_map(name).collect()
    }
}

/// What lies under one dump's name.
#[derive(Debug, Default)]
struct Seen {
    manifest: Option<Found>,
    manifest_at: Option<Timestamp>,
    /// Everything but the manifest.
    others: Vec<Entry>,
    newest: Timestamp,
}

/// Looks what a policy keeps. `only` removes that one dump instead, whatever the policy says.
///
/// # Errors
/// Whatever cannot be understood in the repository: then nothing is planned.
pub async fn plan(archive: &Archive, policy: &Policy, only: Option<&str>, now: Timestamp) -> Result<Plan, DumpError> {
    let seen = look(archive).await?;
    let is_fresh = |told: Timestamp| now.duration_since(told).unsigned_abs() < policy.grace || told > now;
    let mut plan = Plan::default();
    if let Some(name) = only {
        match seen.get(name) {
            Some(found) if matches!(found.manifest, Some(Found::Whole(_))) => plan.whole(name, found),
            Some(found) if found.manifest.is_none() && is_fresh(found.newest) => {
                return Err(DumpError::UnderWay(name.to_owned()));
            }
            Some(found) if found.manifest.is_none() => plan.cut_off(name, found),
            _ => return Err(DumpError::NoDump(name.to_owned())),
        }
        return Ok(plan);
    }
    let mut dumps: Vec<(&String, &DumpOutline)> = seen
        .iter()
        .filter_map(|(name, seen)| match &seen.manifest {
            Some(Found::Whole(outline)) => Some((name, outline)),
            _ => None,
        })
        .collect();
    dumps.sort_by_key(|(name, outline)| (outline.ended, *name));
    let outlines: Vec<&DumpOutline> = dumps.iter().map(|(_, outline)| *outline).collect();
    for ((name, outline), verdict) in dumps.iter().zip(policy.decide(&outlines, now)) {
        match verdict {
            Some(because) => plan.kept.push(Kept { dump: (*name).clone(), ended: outline.ended, because }),
            None => plan.whole(name, &seen[*name]),
        }
    }
    for (name, seen) in &seen {
        match &seen.manifest {
            None if is_fresh(seen.newest) => plan.under_way.push(name.clone()),
            None => plan.cut_off(name, seen),
            Some(Found::Abandoned) => {
                plan.objects(&seen.others);
                let age = seen.manifest_at.map_or(0, |at| now.duration_since(at).as_secs());
                if seen.others.is_empty() && age > FORGET_AFTER {
                    plan.steps.push(Step::Object { name: archive.place().dump_manifest(name), size: 0 });
                }
            }
            // It was finished, and its mark was left behind.
            Some(Found::Whole(_)) => {
                let marks: Vec<Entry> =
                    seen.others.iter().filter(|entry| is_mark(entry) && !is_fresh(entry.modified)).cloned().collect();
                plan.objects(&marks);
            }
        }
    }
    Ok(plan)
}

fn is_mark(entry: &Entry) -> bool {
    entry.name.ends_with("/running.json")
}

impl Plan {
    /// A whole dump: first what makes it one.
    fn whole(&mut self, name: &str, seen: &Seen) {
        self.steps.push(Step::Manifest { dump: name.to_owned() });
        self.objects(&seen.others);
    }

    fn cut_off(&mut self, name: &str, seen: &Seen) {
        self.steps.push(Step::Abandon { dump: name.to_owned() });
        self.objects(&seen.others);
    }

    /// The mark last: it says what the others are.
    fn objects(&mut self, entries: &[Entry]) {
        let (marks, packs): (Vec<&Entry>, Vec<&Entry>) = entries.iter().partition(|entry| is_mark(entry));
        let step = |entry: &Entry| Step::Object { name: entry.name.clone(), size: entry.size };
        self.steps.extend(packs.into_iter().chain(marks).map(step));
    }
}

/// Does what was planned. May be dropped at any time.
pub async fn run(archive: &Archive, plan: &Plan) -> Result<(), DumpError> {
    let repository = archive.repository();
    for step in &plan.steps {
        match step {
            Step::Manifest { dump } => repository.delete(&archive.place().dump_manifest(dump)).await?,
            Step::Abandon { dump } => {
                let name = archive.place().dump_manifest(dump);
                // The same content whoever writes it: two that clear away do not contradict each other.
                let sealed = format::seal(archive.style(), Kind::Abandoned, &name, b"abandoned\n");
                let sealed = sealed.map_err(|error| archive.error(&name, error))?;
                repository.put_new(&name, Bytes::from(sealed), format::identity_of).await?;
            }
            Step::Object { name, .. } => repository.delete(name).await?,
        }
    }
    Ok(())
}

async fn look(archive: &Archive) -> Result<BTreeMap<String, Seen>, RepositoryError> {
    let (place, repository) = (archive.place(), archive.repository());
    let folder = place.dump_folder();
    let mut seen: BTreeMap<String, Seen> = BTreeMap::new();
    for entry in repository.list_with_parts(&folder).await? {
        let rest = entry.name.strip_prefix(&format!("{folder}/"));
        let Some((dump, file)) = rest.and_then(|rest| rest.split_once('/')) else { continue };
        let known = seen.entry(dump.to_owned()).or_default();
        known.newest = known.newest.max(entry.modified);
        if file != "manifest" {
            known.others.push(entry);
            continue;
        }
        known.manifest_at = Some(entry.modified);
        known.manifest = match list::outline(archive, &entry.name, entry.size).await {
            Ok(found) => Some(found),
            Err(error) if error.is_absent() => None,
            Err(error) => return Err(error),
        };
    }
    for (dump, known) in seen.iter_mut().filter(|(_, known)| known.manifest.is_none()) {
        // A list may be old: only who is asked for by name is absent.
        let name = place.dump_manifest(dump);
        match repository.size(&name).await {
            Ok(size) => known.manifest = Some(list::outline(archive, &name, size).await?),
            Err(error) if error.is_absent() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(seen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_by_count_and_by_age_and_what_people_took_stays() {
        use Because::{Age, ByHand, Count, NoPolicy};
        let day = |day: i64| Timestamp::from_second(day * 86_400).unwrap();
        let dump = |at: i64, scheduled: bool| DumpOutline { began: day(at), ended: day(at), scheduled };
        let all = [dump(1, true), dump(2, false), dump(4, true), dump(6, true), dump(9, false)];
        let all: Vec<&DumpOutline> = all.iter().collect();
        let kept = |keep, days: Option<u64>, by_hand| {
            let keep_for = days.map(|days| Duration::from_secs(days * 86_400));
            Policy { by_hand, ..Policy::new(keep, keep_for) }.decide(&all, day(10))
        };
        assert_eq!(kept(None, None, true), [Some(NoPolicy); 5]);
        assert_eq!(kept(Some(1), None, false), [None, Some(ByHand), None, Some(Count), Some(ByHand)]);
        assert_eq!(kept(Some(1), None, true), [None, None, None, None, Some(Count)]);
        assert_eq!(kept(None, Some(6), false), [None, Some(ByHand), Some(Age), Some(Age), Some(ByHand)]);
        assert_eq!(kept(Some(1), Some(6), false), [None, Some(ByHand), Some(Age), Some(Count), Some(ByHand)]);
    }
}
