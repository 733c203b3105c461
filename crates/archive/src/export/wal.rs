//! The WAL that an export needs, and the histories of its timelines. What is there already must be the same.

use std::collections::BTreeMap;
use std::io::{self, Write};

use bytes::Bytes;
use flate2::write::GzEncoder;
use futures_util::{StreamExt, TryStreamExt, stream};
use matriarch_core::Lsn;

use super::{Compression, Export, ExportError, Written};
use crate::archive::ArchiveError;
use crate::progress::Progress;
use crate::restore::{FromTail, Holder, from_tail};
use crate::wal::{self, Segment, WalName};

/// A file that is to be there.
#[derive(Clone, Debug)]
enum Wanted {
    Complete(Segment),
    /// Only the tail has it. One that has not filled its segment yet is called partial: the complete one comes later.
    Tail(FromTail),
    History(u32),
}

/// Writes what is not there.
pub async fn write(export: &Export, workers: usize, progress: &Progress) -> Result<Written, ExportError> {
    let there = export.outlet.wal().await?;
    let (plan, holder) = (&export.plan, Holder::from(&export.archive));
    let mut wanted: Vec<Wanted> = plan.complete.iter().copied().map(Wanted::Complete).collect();
    wanted.extend(plan.tail.iter().copied().map(Wanted::Tail));
    // PostgreSQL looks for the newest timeline one after the other, those that were left included.
    let mut timelines = holder.timelines().await?;
    timelines.extend(plan.history.switches.iter().map(|switch| switch.timeline));
    timelines.extend([plan.history.timeline]);
    let timelines = timelines.into_iter().filter(|timeline| (2..=plan.history.timeline).contains(timeline));
    wanted.extend(timelines.map(Wanted::History));
    let writes = wanted.into_iter().map(|wanted| one(export, wanted, &there, progress));
    let done: Vec<Option<bool>> = stream::iter(writes).buffer_unordered(workers.max(1)).try_collect().await?;
    let count = |new: bool| done.iter().flatten().filter(|one| **one == new).count();
    Ok(Written { segments: count(true), there: count(false), ..Written::default() })
}

/// Whether it is new, if it is a segment.
async fn one(
    export: &Export,
    wanted: Wanted,
    there: &BTreeMap<WalName, String>,
    progress: &Progress,
) -> Result<Option<bool>, ExportError> {
    let size = export.archive.incarnation().segment_size;
    let (name, content) = match wanted {
        Wanted::Complete(segment) => {
            let name = WalName::Segment(segment);
            let content = wal::read(&export.archive, &name).await?;
            export.check(segment, &content)?;
            (name, content)
        }
        Wanted::Tail(tail) => {
            let is_whole = tail.end >= Lsn(tail.segment.start(size).0 + size);
            let name = if is_whole { WalName::Segment(tail.segment) } else { WalName::Partial(tail.segment) };
            (name, from_tail(&export.archive, &tail).await?)
        }
        Wanted::History(timeline) => {
            let name = WalName::History(timeline);
            match wal::read(&export.archive, &name).await {
                Ok(content) => (name, content),
                // A cluster whose archive began on this timeline.
                Err(ArchiveError::Repository(error)) if error.is_absent() => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
    };
    let is_new = export.put_wal(&name, content, there).await?;
    if matches!(name, WalName::History(_)) {
        return Ok(None);
    }
    progress.add(size);
    Ok(Some(is_new))
}

impl Export {
    fn check(&self, segment: Segment, content: &[u8]) -> Result<(), ExportError> {
        let (archive, own) = (&self.archive, self.archive.incarnation());
        let system = own.system_identifier.parse().unwrap_or_default();
        let checked = wal::check_segment(content, segment, system, own.segment_size);
        let object = archive.place().wal(&WalName::Segment(segment));
        Ok(checked.map_err(|why| archive.repository().corrupt(&object, why.to_string()))?)
    }

    /// Writes it unless it is there; whether it was not.
    async fn put_wal(
        &self,
        name: &WalName,
        content: Vec<u8>,
        there: &BTreeMap<WalName, String>,
    ) -> Result<bool, ExportError> {
        let repository = self.outlet.repository();
        let partial = match name {
            WalName::Segment(segment) => there.get(&WalName::Partial(*segment)),
            WalName::Partial(segment) if there.contains_key(&WalName::Segment(*segment)) => return Ok(false),
            partial => there.get(partial).filter(|_| matches!(partial, WalName::Partial(_))),
        };
        let held = there.get(name).filter(|_| !matches!(name, WalName::Partial(_)));
        if let Some(object) = held {
            if self.outlet.read_wal(name, object).await? != content {
                let (object, repository) = (object.clone(), repository.name().to_owned());
                return Err(ExportError::Differs { object, repository, name: name.to_string() });
            }
        } else {
            let packed = pack(self.compression, content).await?;
            repository.put(&self.outlet.wal_of(name, self.compression.ending()), packed).await?;
        }
        // Barman may take the beginning for the whole as long as both are there.
        if let Some(old) = partial.filter(|old| **old != self.outlet.wal_of(name, self.compression.ending())) {
            repository.delete(old).await?;
        }
        Ok(held.is_none())
    }
}

async fn pack(compression: Compression, content: Vec<u8>) -> Result<Bytes, ExportError> {
    let pack = move || -> io::Result<Vec<u8>> {
        match compression {
            Compression::None => Ok(content),
            Compression::Gzip => {
                let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(&content)?;
                encoder.finish()
            }
        }
    };
    let packed = tokio::task::spawn_blocking(pack).await.map_err(|error| ExportError::Worker(error.to_string()))?;
    Ok(Bytes::from(packed?))
}
