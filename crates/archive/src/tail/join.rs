//! Chunks become the beginnings of segments again.

use std::collections::BTreeMap;

use futures_util::StreamExt;
use futures_util::stream;
use matriarch_core::{Lsn, Timeline};

use super::chunk::{Chunk, folder};
use super::error::TailError;
use super::prefix::{Contradiction, Prefix};
use crate::archive::Archive;
use crate::format::Kind;
use crate::repository::RepositoryError;
use crate::wal::{Segment, check_segment};

/// How many chunks are read at a time.
const AT_ONCE: usize = 8;

/// A segment that was put together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    /// Which.
    pub segment: Segment,
    /// A whole segment: the known beginning, then zeros, which PostgreSQL takes for the end of WAL.
    pub bytes: Vec<u8>,
    /// The position after the known beginning.
    pub end: Lsn,
    /// Behind a gap there is more, from here on. It is of no use.
    pub beyond_gap: Option<Lsn>,
}

/// Reads the tail of one archive.
#[derive(Clone, Debug)]
pub struct Joiner {
    archive: Archive,
    system_identifier: u64,
    size: u64,
}

impl Joiner {
    /// Of an open archive, with the identities it was opened with.
    pub fn new(archive: &Archive) -> Result<Joiner, TailError> {
        let record = archive.incarnation();
        let system_identifier =
            record.system_identifier.parse().map_err(|_| TailError::BadRecord(record.system_identifier.clone()))?;
        Ok(Joiner { archive: archive.clone(), system_identifier, size: record.segment_size })
    }

    /// The chunks of a timeline by segment, each in the order of their positions. The store's list may lag behind.
    pub async fn chunks(&self, timeline: Timeline) -> Result<BTreeMap<Segment, Vec<Chunk>>, TailError> {
        let mut found: BTreeMap<Segment, Vec<Chunk>> = BTreeMap::new();
        let place = self.archive.place();
        for entry in self.archive.repository().list(&folder(place, timeline)).await? {
            if let Some(chunk) = Chunk::parse(place, &entry.name, self.size) {
                found.entry(chunk.segment).or_default().push(chunk);
            }
        }
        found.values_mut().for_each(|chunks| chunks.sort_unstable());
        Ok(found)
    }

    /// Whether the tail has a segment from its beginning up to `until`, by the names of its chunks: needs no key.
    pub async fn covers(&self, segment: Segment, until: Lsn) -> Result<bool, TailError> {
        let chunks = self.chunks(segment.timeline).await?.remove(&segment).unwrap_or_default();
        let mut end = segment.start(self.size);
        for chunk in chunks {
            if chunk.from > end {
                break;
            }
            end = end.max(chunk.to);
        }
        Ok(end >= until.min(Lsn(segment.start(self.size).0 + self.size)))
    }

    /// Joins the chunks of one segment from its beginning to the first gap, and no further than `limit`: where the
    /// history leaves the timeline. `None` when nothing is known of its beginning.
    ///
    /// # Errors
    /// [`TailError::Damaged`], [`TailError::Contradiction`], [`TailError::NotThatSegment`]; nothing is passed over in
    /// silence.
    pub async fn join(
        &self,
        segment: Segment,
        chunks: &[Chunk],
        limit: Option<Lsn>,
    ) -> Result<Option<Joined>, TailError> {
        let start = segment.start(self.size);
        let limit = limit.map_or(Lsn(start.0 + self.size), |limit| limit.clamp(start, Lsn(start.0 + self.size)));
        let wanted = chunks.iter().filter(|chunk| chunk.segment == segment && chunk.from < limit).copied();
        let read = |chunk: Chunk| async move { (chunk, self.read(&chunk).await) };
        let mut contents = stream::iter(wanted.map(read)).buffered(AT_ONCE);
        let (mut prefix, mut damaged, mut beyond_gap) = (Prefix::new(start), None, None);
        while let Some((chunk, content)) = contents.next().await {
            let content = match content {
                Ok(content) => content,
                Err(error @ RepositoryError::Corrupt { .. }) => {
                    damaged = damaged.or(Some((chunk, error)));
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let added = prefix.add(chunk.from, &content).map_err(|Contradiction(at)| self.contradiction(&chunk, at))?;
            if !added {
                beyond_gap = Some(chunk.from);
                break;
            }
        }
        let end = prefix.end().min(limit);
        if let Some((chunk, source)) = damaged.filter(|(chunk, _)| end < chunk.to.min(limit)) {
            let from = chunk.from.max(end);
            tracing::error!(segment = %segment, from = %from, error = %source, "a chunk of the tail is damaged");
            return Err(TailError::Damaged { segment, end, source });
        }
        let mut bytes = prefix.into_bytes();
        bytes.truncate(end.bytes_since(start) as usize);
        if bytes.is_empty() {
            return Ok(None);
        }
        bytes.resize(self.size as usize, 0);
        check_segment(&bytes, segment, self.system_identifier, self.size)
            .map_err(|why| TailError::NotThatSegment { segment, why })?;
        Ok(Some(Joined { segment, bytes, end, beyond_gap }))
    }

    async fn read(&self, chunk: &Chunk) -> Result<Vec<u8>, RepositoryError> {
        let name = chunk.name(self.archive.place());
        let content = self.archive.get(Kind::Tail, &name).await?;
        if content.len() as u64 != chunk.length() {
            let why = format!("it holds {} bytes, and its name says {}", content.len(), chunk.length());
            return Err(self.archive.repository().corrupt(&name, why));
        }
        Ok(content)
    }

    fn contradiction(&self, chunk: &Chunk, at: Lsn) -> TailError {
        let (name, repository) = (chunk.name(self.archive.place()), self.archive.repository().name().to_owned());
        TailError::Contradiction { name, repository, at }
    }
}
