//! What a ledger remembers, and the figures drawn from it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What became of one attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Acknowledged,
    /// The server answered with an error that proves the row was not written.
    Refused,
    /// No answer, or an answer that proves nothing.
    Unknown,
    /// There was no connection to send it on.
    Unsent,
}

/// One attempt. Times are seconds since the ledger was started.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Entry {
    pub id: i64,
    pub writer: u32,
    pub outcome: Outcome,
    pub begun: f64,
    pub ended: f64,
}

/// Everything that was attempted, and why what failed did.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Book {
    /// Unix time of the start, in seconds.
    pub started_at: f64,
    /// How long it ran, in seconds.
    pub lasted: f64,
    /// In order of their ends.
    pub entries: Vec<Entry>,
    /// Error messages with how often each came.
    pub errors: BTreeMap<String, u64>,
    /// Connections that were cut while idle between two rows; the next row found a new one, so no error was seen.
    pub idle_cuts: u64,
}

/// The longest time without a single acknowledgement. Times are seconds since the start.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Gap {
    pub from: f64,
    pub seconds: f64,
}

/// The figures of a [`Book`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Summary {
    /// Unix time of the start, in seconds.
    pub started_at: f64,
    pub seconds: f64,
    pub acknowledged: u64,
    pub gap: Gap,
    /// Attempts that could not connect.
    pub connect_errors: u64,
    /// Statements that the server refused.
    pub refused: u64,
    /// Statements that were cut off or timed out.
    pub unknown: u64,
    pub idle_cuts: u64,
    pub errors: BTreeMap<String, u64>,
}

impl Book {
    /// How many attempts ended so.
    pub fn count(&self, outcome: Outcome) -> u64 {
        self.entries.iter().filter(|entry| entry.outcome == outcome).count() as u64
    }

    /// The longest pause between two acknowledgements that overlaps `from..to` (seconds since the start); the time from
    /// the last acknowledgement to the end of the run counts too.
    pub fn gap_within(&self, from: f64, to: f64) -> Gap {
        let acknowledged = self.entries.iter().filter(|entry| entry.outcome == Outcome::Acknowledged);
        let mut longest = Gap { from: 0.0, seconds: 0.0 };
        let mut last = 0.0;
        for at in acknowledged.map(|entry| entry.ended).chain([self.lasted]) {
            if at >= from && last <= to && at - last > longest.seconds {
                longest = Gap { from: last, seconds: at - last };
            }
            last = at;
        }
        longest
    }

    /// Writers start when the run starts, so the first connect is part of the first gap.
    pub fn longest_gap(&self) -> Gap {
        self.gap_within(0.0, self.lasted)
    }

    pub fn summary(&self) -> Summary {
        Summary {
            started_at: self.started_at,
            seconds: self.lasted,
            acknowledged: self.count(Outcome::Acknowledged),
            gap: self.longest_gap(),
            connect_errors: self.count(Outcome::Unsent),
            refused: self.count(Outcome::Refused),
            unknown: self.count(Outcome::Unknown),
            idle_cuts: self.idle_cuts,
            errors: self.errors.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn book(acknowledged: &[f64], lasted: f64) -> Book {
        let entry = |(id, ended): (usize, &f64)| Entry {
            id: id as i64,
            writer: 0,
            outcome: Outcome::Acknowledged,
            begun: ended - 0.001,
            ended: *ended,
        };
        Book { lasted, entries: acknowledged.iter().enumerate().map(entry).collect(), ..Book::default() }
    }

    #[test]
    fn the_longest_pause_is_found_wherever_it_is() {
        assert_eq!(book(&[0.1, 0.2, 3.2, 3.3], 3.4).longest_gap(), Gap { from: 0.2, seconds: 3.0 });
        assert_eq!(book(&[0.1, 0.2], 5.2).longest_gap(), Gap { from: 0.2, seconds: 5.0 });
        assert_eq!(book(&[], 2.0).longest_gap(), Gap { from: 0.0, seconds: 2.0 });
    }

    #[test]
    fn a_window_sees_only_the_pauses_that_touch_it() {
        let book = book(&[0.5, 2.0, 2.5, 3.5, 4.0], 4.2);
        assert_eq!(book.gap_within(2.1, 3.9), Gap { from: 2.5, seconds: 1.0 });
        assert_eq!(book.gap_within(1.0, 3.0), Gap { from: 0.5, seconds: 1.5 });
    }
}
