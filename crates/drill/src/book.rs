//! What became of each write, and the figures drawn from it. Times are seconds since the ledger was opened.

use std::collections::BTreeMap;

/// How one attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Must be there for ever.
    Acknowledged,
    /// Cut off before an answer: it may be there or not.
    Unknown,
    /// Certainly not written: refused, or no connection to send it on.
    Refused,
}

/// All attempts so far.
#[derive(Clone, Debug, Default)]
pub struct Book {
    /// Acknowledged rows with the times at which the attempt began and ended.
    pub acknowledged: Vec<(i64, f64, f64)>,
    /// Rows of which nothing is known.
    pub unknown: Vec<i64>,
    /// Attempts that certainly wrote nothing.
    pub refused: u64,
    /// What went wrong, with how often.
    pub errors: BTreeMap<String, u64>,
}

impl Book {
    /// Writes an attempt down.
    pub fn note(&mut self, id: i64, begun: f64, ended: f64, outcome: Outcome, error: Option<String>) {
        match outcome {
            Outcome::Acknowledged => self.acknowledged.push((id, begun, ended)),
            Outcome::Unknown => self.unknown.push(id),
            Outcome::Refused => self.refused += 1,
        }
        if let Some(error) = error {
            *self.errors.entry(error).or_default() += 1;
        }
    }

    /// The longest time without an acknowledgement that touches the time after `from`; `until` is when it was looked.
    pub fn gap(&self, from: f64, until: f64) -> f64 {
        let mut longest: f64 = 0.0;
        let mut last = 0.0;
        for at in self.acknowledged.iter().map(|(_, _, ended)| *ended).chain([until]) {
            if at >= from {
                longest = longest.max(at - last);
            }
            last = at;
        }
        longest
    }

    /// A write that began after `time` was acknowledged.
    pub fn wrote_after(&self, time: f64) -> bool {
        self.acknowledged.iter().rev().take(64).any(|(_, begun, _)| *begun >= time)
    }

    /// Anything went wrong so far.
    pub fn troubled(&self) -> bool {
        self.refused > 0 || !self.unknown.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gap_is_the_longest_pause_after_the_blow() {
        let mut book = Book::default();
        for (id, ended) in [0.5, 3.0, 3.1, 3.2, 4.4, 4.5].into_iter().enumerate() {
            book.note(id as i64, ended - 0.01, ended, Outcome::Acknowledged, None);
        }
        let near = |one: f64, other: f64| (one - other).abs() < 1e-9;
        assert!(near(book.gap(3.15, 4.6), 1.2), "the pause before the blow does not count");
        assert!(near(book.gap(3.15, 9.5), 5.0), "one that has not ended does");
        assert!(near(book.gap(1.0, 4.6), 2.5), "one that had begun before the blow does too");
        assert!(book.wrote_after(4.0) && !book.wrote_after(4.5));
    }
}
