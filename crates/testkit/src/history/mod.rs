//! Clients whose every answer is remembered, and a check of all answers against each other.
//!
//! The [`ledger`](crate::ledger) asks one question: is what was acknowledged still there? A history asks more: did every
//! answer come from one and the same database, in the order in which things happened? Clients append to lists and write
//! registers through the read-write port; each answer shows the whole list, or the version and value that were there before,
//! so it is evidence about all writes before it. A plain read may show the past for a time, and no longer.
//!
//! Owns: the clients ([`clients`]), what they saw ([`Event`]) and the verdict ([`mod@check`]).
//! Must not: know how the cluster is made, or judge what it cannot know: a lost connection leaves both outcomes open.
//! Start at [`clients::Clients`].

pub mod check;
pub mod clients;

pub use check::{Anomaly, Key, OldRead, Verdict, check};
pub use clients::Clients;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What a client asked for. Values are never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// Appends a value to a list, and reads the list, in one statement.
    Append { list: i64, value: i64 },
    /// Reads a list.
    Read { list: i64 },
    /// Overwrites a register, and reads what was there, in one statement.
    Write { register: i64, value: i64 },
    /// Reads a register.
    Look { register: i64 },
}

/// What a client was told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// The list, the appended value included.
    List(Vec<i64>),
    /// The version that the write made, and the value before it.
    Written { version: i64, previous: i64 },
    /// A register as it was read.
    Register { version: i64, value: i64 },
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fate {
    Done(Answer),
    /// The server proved that nothing was written, or it was never sent.
    Failed,
    /// No answer, or one that proves nothing.
    Unknown,
}

/// One operation of one client. Times are seconds since the start of the history.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    pub client: u32,
    pub op: Op,
    pub fate: Fate,
    pub begun: f64,
    pub ended: f64,
}

/// What the primary holds after the last operation.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finals {
    pub lists: BTreeMap<i64, Vec<i64>>,
    /// Version and value.
    pub registers: BTreeMap<i64, (i64, i64)>,
}
