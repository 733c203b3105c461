//! The verdict on a history.
//!
//! Lists only grow at their end. So all that is ever seen of one list must be beginnings of one another; what was
//! acknowledged must be in all that is asked for later; and in the end. Registers count their versions: one write a version.
//! What plain reads show is judged by its age ([`reads`]).

mod reads;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Serialize;

pub use reads::{Key, OldRead};

use super::{Answer, Event, Fate, Finals, Op};

/// Something that one database, asked in this order, could not have answered.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub enum Anomaly {
    /// Acknowledged, and not there in the end.
    Lost { list: i64, value: i64 },
    /// Twice in one list.
    Duplicated { list: i64, value: i64 },
    /// An acknowledged append saw a list that is no beginning of what others saw: two lines of history. `at` is the first
    /// place where they differ.
    Diverging { list: i64, at: usize, seen: Option<i64>, elsewhere: Option<i64> },
    /// An acknowledged append began after `value` was acknowledged, and did not see it.
    Stale { list: i64, value: i64 },
    /// Failed for certain, or never asked for, and there all the same.
    Unexpected { list: i64, value: i64 },
    /// Two acknowledged writes made the same version of a register, or a version was made from another value than the one
    /// that was acknowledged.
    Forked { register: i64, version: i64 },
    /// A register's write began after a later version was acknowledged, or the last version is gone.
    RegisterLost { register: i64, version: i64 },
    /// A plain read showed the past for longer than is tolerated.
    TooOld(OldRead),
}

/// What a history proves.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Verdict {
    pub acknowledged: u64,
    pub unknown: u64,
    pub failed: u64,
    pub anomalies: Vec<Anomaly>,
    /// Plain reads that showed the past, those that were too old among them.
    pub old_reads: Vec<OldRead>,
}

impl Verdict {
    /// The age of the oldest plain read, in seconds.
    pub fn oldest_read(&self) -> f64 {
        self.old_reads.iter().map(|read| read.age).fold(0.0, f64::max)
    }
}

/// One look at a list.
struct Sight<'a> {
    values: &'a [i64],
    begun: f64,
    ended: f64,
    /// It came with an acknowledged append.
    wrote: bool,
}

/// Checks a history against itself and against what is there in the end. A plain read may show the past for as long as is
/// `tolerated` after a newer write was acknowledged.
pub fn check(events: &[Event], finals: &Finals, tolerated: Duration) -> Verdict {
    let count = |wanted: fn(&Fate) -> bool| events.iter().filter(|event| wanted(&event.fate)).count() as u64;
    let mut verdict = Verdict {
        acknowledged: count(|fate| matches!(fate, Fate::Done(_))),
        unknown: count(|fate| *fate == Fate::Unknown),
        failed: count(|fate| *fate == Fate::Failed),
        ..Verdict::default()
    };
    for (list, sights) in sights(events, finals) {
        let last = finals.lists.get(&list).map_or(&[][..], Vec::as_slice);
        check_values(list, &sights, events, last, &mut verdict.anomalies);
        check_order(list, &sights, last, &mut verdict.anomalies);
        verdict.old_reads.extend(reads::of_list(list, &sights, last));
    }
    let writes = check_registers(events, finals, &mut verdict.anomalies);
    verdict.old_reads.extend(reads::of_registers(events, &writes));
    let too_old = verdict.old_reads.iter().filter(|read| read.age > tolerated.as_secs_f64());
    verdict.anomalies.extend(too_old.cloned().map(Anomaly::TooOld));
    verdict
}

fn sights<'a>(events: &'a [Event], finals: &'a Finals) -> BTreeMap<i64, Vec<Sight<'a>>> {
    let mut all: BTreeMap<i64, Vec<Sight<'a>>> = BTreeMap::new();
    for event in events {
        let (list, wrote) = match event.op {
            Op::Append { list, .. } => (list, true),
            Op::Read { list } => (list, false),
            Op::Write { .. } | Op::Look { .. } => continue,
        };
        let known = all.entry(list).or_default();
        if let Fate::Done(Answer::List(values)) = &event.fate {
            known.push(Sight { values, begun: event.begun, ended: event.ended, wrote });
        }
    }
    for list in finals.lists.keys() {
        all.entry(*list).or_default();
    }
    all
}

/// What is there and must not be, or must and is not.
fn check_values(list: i64, sights: &[Sight<'_>], events: &[Event], last: &[i64], found: &mut Vec<Anomaly>) {
    let mut possible = BTreeSet::new();
    for event in events {
        let Op::Append { list: of, value } = event.op else { continue };
        if of != list {
            continue;
        }
        match event.fate {
            Fate::Done(_) if !last.contains(&value) => found.push(Anomaly::Lost { list, value }),
            Fate::Failed => continue,
            _ => {}
        }
        possible.insert(value);
    }
    let mut unexpected = BTreeSet::new();
    let mut duplicated = BTreeSet::new();
    for values in sights.iter().map(|sight| sight.values).chain([last]) {
        let mut seen = BTreeSet::new();
        duplicated.extend(values.iter().filter(|value| !seen.insert(**value)));
        unexpected.extend(seen.into_iter().filter(|value| !possible.contains(value)));
    }
    found.extend(duplicated.into_iter().map(|value| Anomaly::Duplicated { list, value }));
    found.extend(unexpected.into_iter().map(|value| Anomaly::Unexpected { list, value }));
}

/// Whether all that appends saw is one line of history, in the order of time.
fn check_order(list: i64, sights: &[Sight<'_>], last: &[i64], found: &mut Vec<Anomaly>) {
    let mut by_begin: Vec<&Sight<'_>> = sights.iter().filter(|sight| sight.wrote).collect();
    let mut by_end = by_begin.clone();
    by_begin.sort_by(|a, b| a.begun.total_cmp(&b.begun));
    by_end.sort_by(|a, b| a.ended.total_cmp(&b.ended));
    let mut ended = by_end.into_iter().peekable();
    // The longest list that was acknowledged before the moment looked at.
    let mut known: &[i64] = &[];
    for sight in by_begin {
        while let Some(earlier) = ended.next_if(|earlier| earlier.ended < sight.begun) {
            if earlier.values.len() > known.len() {
                known = earlier.values;
            }
        }
        if let Some(value) = known.iter().find(|value| !sight.values.contains(value)) {
            found.push(Anomaly::Stale { list, value: *value });
        }
        if let Some(at) = fork(sight.values, last) {
            let (seen, elsewhere) = (sight.values.get(at).copied(), last.get(at).copied());
            found.push(Anomaly::Diverging { list, at, seen, elsewhere });
        }
    }
}

/// The first place of `seen` that `last` does not share.
fn fork(seen: &[i64], last: &[i64]) -> Option<usize> {
    (0..seen.len()).find(|at| last.get(*at) != Some(&seen[*at]))
}

struct Written {
    register: i64,
    version: i64,
    previous: i64,
    value: i64,
    begun: f64,
    ended: f64,
}

/// Gives back the writes that were acknowledged.
fn check_registers(events: &[Event], finals: &Finals, found: &mut Vec<Anomaly>) -> Vec<Written> {
    let mut writes: Vec<Written> = events.iter().filter_map(written).collect();
    writes.sort_by(|a, b| a.begun.total_cmp(&b.begun));
    let mut values: BTreeMap<(i64, i64), i64> = BTreeMap::new();
    let mut highest: BTreeMap<i64, i64> = BTreeMap::new();
    for write in &writes {
        let Written { register, version, .. } = *write;
        if values.insert((register, version), write.value).is_some() {
            found.push(Anomaly::Forked { register, version });
        }
        let highest = highest.entry(register).or_default();
        *highest = version.max(*highest);
    }
    for write in &writes {
        let made = values.get(&(write.register, write.version - 1));
        if made.is_some_and(|value| *value != write.previous) {
            found.push(Anomaly::Forked { register: write.register, version: write.version });
        }
    }
    check_versions(&writes, found);
    for (register, version) in highest {
        let (last, value) = finals.registers.get(&register).copied().unwrap_or_default();
        if last < version || (last == version && values.get(&(register, version)) != Some(&value)) {
            found.push(Anomaly::RegisterLost { register, version });
        }
    }
    writes
}

/// A write that began after another had been acknowledged makes a later version.
fn check_versions(writes: &[Written], found: &mut Vec<Anomaly>) {
    let mut by_end: Vec<&Written> = writes.iter().collect();
    by_end.sort_by(|a, b| a.ended.total_cmp(&b.ended));
    let mut ended = by_end.into_iter().peekable();
    let mut known: BTreeMap<i64, i64> = BTreeMap::new();
    for write in writes {
        while let Some(earlier) = ended.next_if(|earlier| earlier.ended < write.begun) {
            let version = known.entry(earlier.register).or_default();
            *version = earlier.version.max(*version);
        }
        if known.get(&write.register).is_some_and(|version| *version >= write.version) {
            found.push(Anomaly::RegisterLost { register: write.register, version: write.version });
        }
    }
}

fn written(event: &Event) -> Option<Written> {
    match (&event.op, &event.fate) {
        (Op::Write { register, value }, Fate::Done(Answer::Written { version, previous })) => Some(Written {
            register: *register,
            version: *version,
            previous: *previous,
            value: *value,
            begun: event.begun,
            ended: event.ended,
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
