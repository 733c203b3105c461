//! Plain reads that show the past.
//!
//! A primary that has been deposed, and does not know it yet, can acknowledge nothing, but nobody stops it from answering reads
//! until its guard ends it or a proxy cuts its sessions. How long that takes is what is measured here: from the first
//! acknowledgement that such a read contradicts to the beginning of the read. Lists are short and soon followed by others, so
//! that a read of a new one looks young; registers stay the same from first to last, and tell the whole age.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::{Sight, Written, fork};
use crate::history::{Answer, Event, Fate, Op};

/// What was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Key {
    List(i64),
    Register(i64),
}

/// A read without a write that one database would not have answered.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OldRead {
    pub key: Key,
    /// Of a list: the first value that is missing, or that nobody else saw. Of a register: the version that was read.
    pub value: i64,
    /// When it began, in seconds since the start.
    pub begun: f64,
    /// How long before that something newer was acknowledged, in seconds; 0 when nothing was.
    pub age: f64,
    /// Whether it saw something that did not stay, rather than too little.
    pub vanished: bool,
}

/// The old ones among the reads of one list.
pub(super) fn of_list(list: i64, sights: &[Sight<'_>], last: &[i64]) -> Vec<OldRead> {
    let mut writes: Vec<&Sight<'_>> = sights.iter().filter(|sight| sight.wrote).collect();
    writes.sort_by(|a, b| a.ended.total_cmp(&b.ended));
    let mut found = Vec::new();
    for read in sights.iter().filter(|sight| !sight.wrote) {
        let begun = read.begun;
        let before = || writes.iter().take_while(move |write| write.ended < begun);
        let old = |value: i64, since: Option<f64>, vanished: bool| {
            let age = since.map_or(0.0, |since| begun - since);
            OldRead { key: Key::List(list), value, begun, age, vanished }
        };
        let seen: BTreeSet<i64> = read.values.iter().copied().collect();
        // An append's answer ends with its own value.
        let newer = |write: &&&Sight<'_>| write.values.last().is_some_and(|own| !seen.contains(own));
        if let Some(write) = before().find(newer) {
            found.push(old(write.values[write.values.len() - 1], Some(write.ended), false));
        }
        let Some(at) = fork(read.values, last) else { continue };
        let value = read.values[at];
        let without = before().find(|write| write.values.get(at).is_some_and(|other| *other != value));
        found.push(old(value, without.map(|write| write.ended), true));
    }
    found
}

/// The old ones among the reads of registers.
pub(super) fn of_registers(events: &[Event], writes: &[Written]) -> Vec<OldRead> {
    let mut of_register: BTreeMap<i64, Vec<&Written>> = BTreeMap::new();
    let mut of_version: BTreeMap<(i64, i64), &Written> = BTreeMap::new();
    for write in writes {
        of_register.entry(write.register).or_default().push(write);
        of_version.insert((write.register, write.version), write);
    }
    for writes in of_register.values_mut() {
        writes.sort_by(|a, b| a.ended.total_cmp(&b.ended));
        // Of writes that were under way together the later version may be acknowledged first: then the earlier one is no news.
        let mut highest = i64::MIN;
        writes.retain(|write| {
            let news = write.version > highest;
            highest = highest.max(write.version);
            news
        });
    }
    let mut found = Vec::new();
    for event in events {
        let (Op::Look { register }, Fate::Done(Answer::Register { version, value })) = (event.op, &event.fate) else {
            continue;
        };
        let old = |since: Option<f64>, vanished: bool| {
            let age = since.map_or(0.0, |since| event.begun - since);
            OldRead { key: Key::Register(register), value: *version, begun: event.begun, age, vanished }
        };
        let writes = of_register.get(&register).map_or(&[][..], Vec::as_slice);
        // Both grow: the first one that is newer is the first that was acknowledged.
        let newer = writes.get(writes.partition_point(|write| write.version <= *version));
        if let Some(newer) = newer.filter(|newer| newer.ended < event.begun) {
            found.push(old(Some(newer.ended), false));
        }
        if let Some(other) = of_version.get(&(register, *version)).filter(|other| other.value != *value) {
            found.push(old(Some(other.ended).filter(|ended| *ended < event.begun), true));
        }
    }
    found
}
