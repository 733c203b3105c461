//! Where a tail goes on after a restart.

use matriarch_core::{Lsn, Timeline};
use matriarch_postgres::history::History;
use matriarch_postgres::replication::{Identity, Replication};

use super::chunk::Chunk;
use super::error::TailError;
use super::join::Joiner;
use super::writer::{Settings, Start};
use crate::wal::Segment;

/// Where to stream from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct From {
    pub(super) timeline: Timeline,
    pub(super) lsn: Lsn,
    /// The last chunk that is held begins at `lsn` and ends here: the same is put again first, which proves that the
    /// server and the repository tell one story.
    pub(super) held: Option<Lsn>,
}

impl From {
    /// The start of the segment that a position lies in: the chunks of a timeline stand for themselves, also where it
    /// forked off in the middle of a segment.
    pub(super) fn segment_of(timeline: Timeline, lsn: Lsn, size: u64) -> From {
        From { timeline, lsn: Segment::at(timeline, lsn, size).start(size), held: None }
    }
}

/// Finds the place: behind what the repository holds, on the server's timeline or on one of its ancestors; else where the
/// slot holds WAL from; else the segment that the server is writing.
pub(super) async fn find(
    connection: &mut Replication,
    settings: &Settings,
    start: Start,
    server: &Identity,
) -> Result<From, TailError> {
    let size = settings.archive.incarnation().segment_size;
    if start == Start::Resume {
        let history = connection.history(server.timeline).await?;
        let joiner = Joiner::new(&settings.archive)?;
        for (timeline, end, next) in newest_first(&history) {
            let Some(last) = last_held(&joiner, timeline, size).await? else { continue };
            let end = end.unwrap_or(server.flushed);
            match last {
                Last::Chunk(chunk) if chunk.to > end && next.is_none() => {
                    return Err(TailError::Behind { timeline, held: chunk.to, server: end });
                }
                Last::Chunk(chunk) if chunk.to < end || next.is_none() => {
                    return Ok(From { timeline, lsn: chunk.from, held: Some(chunk.to) });
                }
                Last::Nothing(segment) if segment.start(size) < end || next.is_none() => {
                    return Ok(From { timeline, lsn: segment.start(size), held: None });
                }
                // All of the ancestor is there.
                _ => return Ok(From::segment_of(next.unwrap_or(server.timeline), end, size)),
            }
        }
    }
    let slot = match &settings.slot {
        Some(slot) if connection.major() >= 15 => connection.read_slot(slot).await?.and_then(|slot| slot.restart),
        _ => None,
    };
    let (lsn, timeline) = slot.unwrap_or((server.flushed, server.timeline));
    Ok(From::segment_of(timeline, lsn, size))
}

/// The timelines of a history, where each was left, and for which one.
fn newest_first(history: &History) -> Vec<(Timeline, Option<Lsn>, Option<Timeline>)> {
    let mut all = vec![(history.timeline, None, None)];
    let mut next = history.timeline;
    for ancestor in history.ancestors.iter().rev() {
        all.push((ancestor.timeline, Some(ancestor.switch_lsn), Some(next)));
        next = ancestor.timeline;
    }
    all
}

/// What a repository knows last of a timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Last {
    /// The chunk at the end of a segment's known beginning.
    Chunk(Chunk),
    /// A segment whose beginning is missing.
    Nothing(Segment),
}

async fn last_held(joiner: &Joiner, timeline: Timeline, size: u64) -> Result<Option<Last>, TailError> {
    let chunks = joiner.chunks(timeline).await?;
    Ok(chunks.into_iter().next_back().map(|(segment, chunks)| last_without_gap(segment, &chunks, size)))
}

/// By their names alone: a host that holds no private key cannot read chunks.
fn last_without_gap(segment: Segment, chunks: &[Chunk], size: u64) -> Last {
    let (mut end, mut last) = (segment.start(size), Last::Nothing(segment));
    for chunk in chunks {
        if chunk.from > end {
            break;
        }
        if chunk.to > end {
            (end, last) = (chunk.to, Last::Chunk(*chunk));
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 1 << 20;

    #[test]
    fn goes_on_before_the_first_gap() {
        let segment = Segment::at(1, Lsn(SIZE), SIZE);
        let chunk = |from: u64, to: u64| Chunk { segment, from: Lsn(SIZE + from), to: Lsn(SIZE + to) };
        let last = |chunks: &[Chunk]| last_without_gap(segment, chunks, SIZE);
        assert_eq!(last(&[chunk(5, 9)]), Last::Nothing(segment));
        assert_eq!(last(&[chunk(0, 4), chunk(2, 9), chunk(10, 12)]), Last::Chunk(chunk(2, 9)));
        assert_eq!(last(&[chunk(0, 9), chunk(2, 7)]), Last::Chunk(chunk(0, 9)));
        let history = History::parse(4, "1\t0/3000000\tx\n3\t0/7000000\tx").unwrap();
        let expected = [(4, None, None), (3, Some(Lsn(0x700_0000)), Some(4)), (1, Some(Lsn(0x300_0000)), Some(3))];
        assert_eq!(newest_first(&history), expected);
    }
}
