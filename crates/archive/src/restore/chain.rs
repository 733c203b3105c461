//! The WAL that follows a backup: complete segments, then what the tail has, up to the first gap; and what is in it.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use matriarch_core::{Lsn, Timeline};

use super::RestoreError;
use super::Target;
use super::history::History;
use super::holder::Holder;
use super::plan::FromTail;
use crate::archive::Archive;
use crate::base::Summary;
use crate::tail::{Chunk, Joiner, TailError};
use crate::wal::records::{Event, Records};
use crate::wal::{self, Segment, WalName};

/// A segment on the way.
#[derive(Clone, Copy, Debug)]
pub struct Piece {
    pub segment: Segment,
    /// Set where only the tail has it.
    pub tail: Option<FromTail>,
}

/// Segments from a backup's start on, without a gap.
#[derive(Debug)]
pub struct Chain {
    pub pieces: Vec<Piece>,
    /// The first that is not there, or not whole.
    pub missing: Segment,
    start: Lsn,
    size: u64,
}

impl Chain {
    /// The first position that is not there.
    pub fn reach(&self) -> Lsn {
        let end = |piece: &Piece| piece.tail.map_or(Lsn(piece.segment.start(self.size).0 + self.size), |tail| tail.end);
        self.pieces.last().map_or(self.start, end)
    }
}

/// The WAL that somebody holds, as far as it was asked about.
pub struct Wal<'a> {
    holder: Holder<'a>,
    with_tail: bool,
    listed: BTreeMap<Timeline, BTreeSet<Segment>>,
    chunks: BTreeMap<Timeline, BTreeMap<Segment, Vec<Chunk>>>,
}

impl<'a> Wal<'a> {
    pub fn new(holder: Holder<'a>, with_tail: bool) -> Wal<'a> {
        Wal { holder, with_tail, listed: BTreeMap::new(), chunks: BTreeMap::new() }
    }

    pub fn segment_size(&self) -> u64 {
        self.holder.segment_size()
    }

    /// The segments from the backup's start to the first that is missing, each of the newest timeline that has it, as
    /// PostgreSQL looks for them.
    pub async fn chain(&mut self, summary: &Summary, history: &History) -> Result<Chain, RestoreError> {
        let size = self.segment_size();
        let mut pieces = Vec::new();
        let mut next = Segment::at(summary.timeline, summary.start_lsn, size).start(size);
        loop {
            let timelines = timelines(history, next, size);
            let newest = timelines.first().copied().unwrap_or(history.timeline);
            let missing = Segment::at(newest, next, size);
            let found = match self.complete(&timelines, next).await? {
                Some(segment) => Some(Piece { segment, tail: None }),
                None => self.joined(&timelines, next, history).await?,
            };
            let chain = |pieces| Chain { pieces, missing, start: summary.start_lsn, size };
            let Some(piece) = found else { return Ok(chain(pieces)) };
            pieces.push(piece);
            next = Lsn(next.0 + size);
            if piece.tail.is_some_and(|tail| tail.end < next) {
                return Ok(chain(pieces));
            }
        }
    }

    async fn complete(&mut self, timelines: &[Timeline], start: Lsn) -> Result<Option<Segment>, RestoreError> {
        for timeline in timelines {
            let segment = Segment::at(*timeline, start, self.segment_size());
            if self.has(segment).await? {
                return Ok(Some(segment));
            }
        }
        Ok(None)
    }

    /// What the tail has of the segment, of the newest timeline that has anything.
    async fn joined(
        &mut self,
        timelines: &[Timeline],
        start: Lsn,
        history: &History,
    ) -> Result<Option<Piece>, RestoreError> {
        let Some(archive) = self.holder.archive().filter(|_| self.with_tail) else { return Ok(None) };
        for timeline in timelines {
            let segment = Segment::at(*timeline, start, self.segment_size());
            if let Entry::Vacant(vacant) = self.chunks.entry(*timeline) {
                vacant.insert(Joiner::new(archive)?.chunks(*timeline).await?);
            }
            let limit = history.end_of(*timeline).flatten();
            let chunks = self.chunks.get(timeline).and_then(|found| found.get(&segment));
            let Some(chunks) = chunks else { continue };
            let joined = Joiner::new(archive)?.join(segment, chunks, limit).await?;
            if let Some(joined) = joined {
                return Ok(Some(Piece { segment, tail: Some(FromTail { segment, end: joined.end, limit }) }));
            }
        }
        Ok(None)
    }

    async fn has(&mut self, segment: Segment) -> Result<bool, RestoreError> {
        if let Entry::Vacant(vacant) = self.listed.entry(segment.timeline) {
            vacant.insert(self.holder.listed(segment).await?);
        }
        if self.listed.get(&segment.timeline).is_some_and(|listed| listed.contains(&segment)) {
            return Ok(true);
        }
        // A list proves nothing.
        self.holder.has(segment).await
    }

    /// Whether there is WAL of this history behind what is missing. What a deposed primary wrote after a fork is none.
    pub fn holds_later(&self, chain: &Chain, history: &History) -> bool {
        let (size, missing) = (self.segment_size(), chain.missing.start(self.segment_size()));
        self.listed.values().flatten().any(|segment| {
            let start = segment.start(size);
            start > missing && history.end_of(segment.timeline).is_some_and(|end| end.is_none_or(|end| start < end))
        })
    }

    /// Where the target lies, or how far the WAL goes without it.
    pub async fn find(
        &self,
        chain: &Chain,
        summary: &Summary,
        target: &Target,
    ) -> Result<Result<Lsn, String>, RestoreError> {
        let size = self.segment_size();
        if let Target::Time(wanted) = target {
            return self.find_time(chain, *wanted).await;
        }
        let from = match target {
            Target::Lsn(lsn) => *lsn,
            _ => summary.start_lsn,
        };
        let mut records = Records::default();
        for piece in chain.pieces.iter().filter(|piece| piece.segment.start(size).0 + size > from.0) {
            let mut found = None;
            self.scan(&mut records, piece, |lsn, event| {
                // What the backup already contains is not stopped at.
                let is_it = match (target, &event) {
                    (Target::Xid(wanted), Event::End { xid, .. }) => xid == wanted,
                    (Target::Name(wanted), Event::Point { name }) => name == wanted,
                    _ => false,
                };
                if is_it && lsn >= summary.stop_lsn {
                    found = found.or(Some(lsn));
                }
            })
            .await?;
            if let Target::Lsn(wanted) = target
                && records.last() >= *wanted
            {
                found = Some(records.last());
            }
            if let Some(lsn) = found {
                return Ok(Ok(lsn));
            }
        }
        Ok(Err("it is not in the WAL that follows the backup".to_owned()))
    }

    /// Recovery stops before the first commit after the time, so there must be one.
    async fn find_time(&self, chain: &Chain, wanted: Timestamp) -> Result<Result<Lsn, String>, RestoreError> {
        match self.last_transaction(chain).await? {
            Some((last, time)) if time > wanted => {
                let index = self.first_after(chain, wanted, last).await?;
                let size = self.segment_size();
                let end = |piece: &Piece| Lsn(piece.segment.start(size).0 + size);
                Ok(Ok(chain.pieces.get(index).map_or(chain.reach(), end)))
            }
            Some((_, time)) => Ok(Err(format!("its last transaction ended at {time}; restore to 'latest' instead"))),
            None => Ok(Err("no transaction ended since the backup; restore to 'latest' instead".to_owned())),
        }
    }

    /// The first segment in which a transaction ended after the time, where segment `last` is one. Clocks go forward but for
    /// moments, so what is found may be one or two segments off: it serves to say how much WAL there is to replay.
    async fn first_after(&self, chain: &Chain, wanted: Timestamp, last: usize) -> Result<usize, RestoreError> {
        let (mut low, mut found) = (0, last);
        let mut high = last;
        while low < high {
            let middle = low + (high - low) / 2;
            let mut probe = middle;
            let mut newest = None;
            while probe < high && newest.is_none() {
                newest = self.newest_in(&chain.pieces[probe]).await?;
                probe += 1;
            }
            match newest {
                Some(time) if time <= wanted => low = probe,
                Some(_) => (found, high) = (probe - 1, middle),
                None => high = middle,
            }
        }
        Ok(found)
    }

    /// The newest end of a transaction, and which segment it is in.
    pub async fn last_transaction(&self, chain: &Chain) -> Result<Option<(usize, Timestamp)>, RestoreError> {
        for (index, piece) in chain.pieces.iter().enumerate().rev() {
            if let Some(time) = self.newest_in(piece).await? {
                return Ok(Some((index, time)));
            }
        }
        Ok(None)
    }

    async fn newest_in(&self, piece: &Piece) -> Result<Option<Timestamp>, RestoreError> {
        let mut newest = None;
        self.scan(&mut Records::default(), piece, |_, event| {
            if let Event::End { time, .. } = event {
                newest = newest.max(Some(time));
            }
        })
        .await?;
        Ok(newest)
    }

    async fn scan(
        &self,
        records: &mut Records,
        piece: &Piece,
        report: impl FnMut(Lsn, Event),
    ) -> Result<(), RestoreError> {
        let content = match &piece.tail {
            Some(tail) => match self.holder.archive() {
                Some(archive) => from_tail(archive, tail).await?,
                None => return Ok(()),
            },
            None => self.holder.wal(&WalName::Segment(piece.segment)).await?,
        };
        records.feed(&content, piece.segment.start(self.segment_size()), report);
        Ok(())
    }
}

/// A whole segment: what the tail has of it, then zeros.
pub async fn from_tail(archive: &Archive, tail: &FromTail) -> Result<Vec<u8>, RestoreError> {
    let joiner = Joiner::new(archive)?;
    let chunks = joiner.chunks(tail.segment.timeline).await?.remove(&tail.segment).unwrap_or_default();
    match joiner.join(tail.segment, &chunks, tail.limit).await? {
        Some(joined) if joined.end >= tail.end => Ok(joined.bytes),
        // The archiver was faster: retention took the chunks because the whole segment is there.
        _ => Ok(wal::read(archive, &WalName::Segment(tail.segment)).await?),
    }
}

/// Timelines of a history that wrote a part of the segment that begins here, newest first.
fn timelines(history: &History, start: Lsn, size: u64) -> Vec<Timeline> {
    let (first, last) = (history.timeline_at(start), history.timeline_at(Lsn(start.0 + size - 1)));
    let all = history.switches.iter().map(|switch| switch.timeline).chain([history.timeline]);
    let mut timelines: Vec<Timeline> = all.filter(|timeline| (first..=last).contains(timeline)).collect();
    timelines.reverse();
    timelines
}

impl From<TailError> for RestoreError {
    fn from(error: TailError) -> Self {
        RestoreError::Tail(Box::new(error))
    }
}
