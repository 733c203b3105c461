//! The write-ahead log of one data directory, and what PostgreSQL's timelines make of it.

use matriarch_core::{Lsn, Timeline};

/// One record. Two logs that hold the same `uid` at the same index are equal up to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Timeline it was written on.
    pub timeline: Timeline,
    /// Where it starts.
    pub start: Lsn,
    /// Where it ends.
    pub end: Lsn,
    /// Never given twice in one world.
    pub uid: u64,
}

/// Records in order, the first `flushed` of which survive a power cut.
#[derive(Clone, Debug, Default)]
pub struct Wal {
    records: Vec<Record>,
    /// Where each timeline begins: its number and the index of its first record.
    begins: Vec<(Timeline, usize)>,
    /// How many records are on disk for certain.
    pub flushed: usize,
}

/// Why PostgreSQL refuses to stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The position is not in the server's history.
    NotInHistory,
    /// The position is ahead of the server.
    Ahead,
}

impl Wal {
    /// Number of records.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// No record at all.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// The record at an index.
    pub fn get(&self, index: usize) -> Option<&Record> {
        self.records.get(index)
    }

    /// End of the first `count` records.
    pub fn end(&self, count: usize) -> Lsn {
        count.checked_sub(1).and_then(|last| self.records.get(last)).map_or(Lsn(0x100_0000), |record| record.end)
    }

    /// Timeline after the first `count` records.
    pub fn timeline(&self, count: usize) -> Timeline {
        count.checked_sub(1).and_then(|last| self.records.get(last)).map_or(1, |record| record.timeline)
    }

    /// Appends a record on a timeline; its index.
    pub fn append(&mut self, timeline: Timeline, bytes: u64, uid: u64) -> usize {
        let start = self.end(self.len());
        self.push(Record { timeline, start, end: Lsn(start.0 + bytes), uid });
        self.len() - 1
    }

    /// Appends a record that another log already has.
    pub fn push(&mut self, record: Record) {
        if self.timeline(self.len()) != record.timeline || self.is_empty() {
            self.begins.push((record.timeline, self.len()));
        }
        self.records.push(record);
    }

    /// Forgets everything after the first `count` records.
    pub fn truncate(&mut self, count: usize) {
        self.records.truncate(count);
        self.begins.retain(|(_, first)| *first < count);
        self.flushed = self.flushed.min(count);
    }

    /// Copies records `from..to`.
    pub fn slice(&self, from: usize, to: usize) -> Vec<Record> {
        self.records.get(from..to).map(<[Record]>::to_vec).unwrap_or_default()
    }

    /// Past timelines and where each ended, oldest first: the content of a history file.
    pub fn history(&self) -> Vec<(Timeline, Lsn)> {
        self.begins.windows(2).map(|pair| (pair[0].0, self.end(pair[1].1))).collect()
    }

    /// Index one past the last record of a timeline within the first `count`, if the timeline is in this history.
    fn end_of(&self, timeline: Timeline, count: usize) -> Option<usize> {
        let place = self.begins.iter().position(|(number, _)| *number == timeline)?;
        Some(self.begins.get(place + 1).map_or(count, |(_, next)| *next).min(count))
    }

    /// Whether a server with this log streams to one that stands at `(timeline, lsn)`, judged as PostgreSQL does: by
    /// numbers, not by content.
    pub fn serves(&self, timeline: Timeline, lsn: Lsn) -> Result<(), Refusal> {
        let end = self.end_of(timeline, self.flushed).ok_or(Refusal::NotInHistory)?;
        let current = self.begins.last().is_none_or(|(number, _)| *number == timeline);
        match lsn <= self.end(end) {
            true => Ok(()),
            false if current => Err(Refusal::Ahead),
            false => Err(Refusal::NotInHistory),
        }
    }

    /// Whether this log begins with the whole of `other`, by content.
    pub fn begins_with(&self, other: &Wal) -> bool {
        let last = other.len().checked_sub(1);
        last.is_none_or(|last| self.holds(last, other.records[last].uid))
    }

    /// How many records both logs begin with, by content.
    pub fn shared(&self, other: &Wal) -> usize {
        self.records.iter().zip(&other.records).take_while(|(mine, theirs)| mine.uid == theirs.uid).count()
    }

    /// Whether a record of this timeline ends here.
    pub fn reaches(&self, timeline: Timeline, lsn: Lsn) -> bool {
        self.records.iter().any(|record| record.timeline == timeline && record.end == lsn)
    }

    /// Whether the record with this identity is at this index.
    pub fn holds(&self, index: usize, uid: u64) -> bool {
        self.get(index).is_some_and(|record| record.uid == uid)
    }

    /// How many records `pg_rewind` would keep: up to the end of the last timeline both know, by numbers.
    /// None when there is no common timeline; all of them when both are on the same timeline.
    pub fn common(&self, source: &Wal) -> Option<usize> {
        let (timeline, _) = self
            .begins
            .iter()
            .zip(&source.begins)
            .take_while(|(mine, theirs)| mine.0 == theirs.0)
            .last()
            .map(|(mine, _)| *mine)?;
        let mine = self.end_of(timeline, self.len())?;
        let theirs = source.end_of(timeline, source.len())?;
        let same = self.timeline(self.len()) == source.timeline(source.len());
        Some(if same { self.len() } else { mine.min(theirs) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(parts: &[(Timeline, u64)]) -> Wal {
        let mut wal = Wal::default();
        for (timeline, uid) in parts {
            wal.append(*timeline, 100, *uid);
        }
        wal.flushed = wal.len();
        wal
    }

    #[test]
    fn serves_only_its_own_history() {
        let primary = log(&[(1, 1), (1, 2), (2, 3)]);
        let ahead_of_the_fork = log(&[(1, 1), (1, 2), (1, 9)]);
        let behind = log(&[(1, 1)]);
        let position = |wal: &Wal| (wal.timeline(wal.len()), wal.end(wal.len()));
        let (timeline, lsn) = position(&ahead_of_the_fork);
        assert_eq!(primary.serves(timeline, lsn), Err(Refusal::NotInHistory));
        let (timeline, lsn) = position(&behind);
        assert_eq!(primary.serves(timeline, lsn), Ok(()));
        assert_eq!(primary.serves(3, lsn), Err(Refusal::NotInHistory));
        assert_eq!(behind.serves(1, Lsn(u64::MAX)), Err(Refusal::Ahead));
    }

    #[test]
    fn rewinds_to_the_last_common_record() {
        let source = log(&[(1, 1), (1, 2), (2, 3)]);
        let target = log(&[(1, 1), (1, 2), (1, 9)]);
        assert_eq!(target.common(&source), Some(2));
        assert!(source.begins_with(&log(&[(1, 1), (1, 2)])));
        assert!(!source.begins_with(&target));
        assert_eq!(source.history(), vec![(1, source.end(2))]);
    }
}
