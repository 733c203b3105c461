//! Reading a backup, what it builds upon, and the WAL it needs, as a restore would, and telling all the damage there is.

use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;

use crate::archive::{Archive, ArchiveError};
use crate::base::{self, Line, Manifest, NOWHERE, Summary};
use crate::packs::{self, Frame};
use crate::progress::Progress;
use crate::repository::RepositoryError;
use crate::restore::{RestoreError, Target, Wanted, plan};
use crate::tail::{Joiner, TailError};
use crate::wal::{self, Segment, WalName};

/// Bytes of a page.
const PAGE: u64 = 8192;
/// More damage than this is not told one by one.
const MOST: usize = 1000;

/// How a backup is read.
#[derive(Clone, Debug)]
pub struct Options {
    /// Packs that are read at a time.
    pub workers: usize,
    /// Whether the WAL is read up to its end, not only up to where the backup is consistent.
    pub all_wal: bool,
    /// Counts bytes of content.
    pub progress: Progress,
}

/// What was read, and what is wrong with it.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Name of the backup.
    pub backup: String,
    /// Bytes of content that were read and are good.
    pub bytes: u64,
    /// Frames that were read and are good.
    pub frames: u64,
    /// Segments that were read and are good.
    pub segments: u64,
    /// What is wrong; empty: a restore will find everything it needs.
    pub faults: Vec<Fault>,
}

/// Something that a restore would miss.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Fault {
    /// The file of the data directory, or the segment.
    pub what: String,
    /// Of a file of a relation: its first and last block that are gone, counted over all of the relation's files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blocks: Option<(u64, u64)>,
    /// Why, with the name of the object.
    pub why: String,
}

/// Reads every frame of a backup and the WAL it needs. Damage is reported; an outage is an error, since it proves nothing.
pub async fn verify(archive: &Archive, backup: &str, options: &Options) -> Result<Report, RestoreError> {
    let manifest = base::manifest(archive, backup).await?;
    options.progress.expect(manifest.summary.size);
    let summary = manifest.summary.clone();
    let reader =
        Arc::new(Reader { found: Mutex::default(), files: files(&manifest), progress: options.progress.clone() });
    packs::read(archive, packs::by_pack(archive, &manifest)?, options.workers, &reader).await?;
    let found = std::mem::take(&mut *reader.found.lock().unwrap_or_else(PoisonError::into_inner));
    let mut report = Report {
        backup: backup.to_owned(),
        bytes: found.bytes,
        frames: found.frames,
        segments: 0,
        faults: found.faults,
    };
    let (segments, gap) = segments(archive, &summary, options.all_wal).await?;
    for segment in segments {
        match wal::read(archive, &WalName::Segment(segment)).await {
            Ok(content) => {
                let (system, size) = (&archive.incarnation().system_identifier, archive.incarnation().segment_size);
                match wal::check_segment(&content, segment, system.parse().unwrap_or_default(), size) {
                    Ok(()) => report.segments += 1,
                    Err(why) => report.add(Fault { what: segment.to_string(), blocks: None, why: why.to_string() }),
                }
            }
            Err(ArchiveError::Repository(error))
                if error.is_absent() && Joiner::new(archive)?.covers(segment, summary.stop_lsn).await? =>
            {
                report.read_tail(archive, segment).await?;
            }
            Err(ArchiveError::Repository(error)) if is_damage(&error) => {
                report.add(Fault { what: segment.to_string(), blocks: None, why: error.to_string() });
            }
            Err(error) => return Err(error.into()),
        }
    }
    if let Some(why) = gap {
        report.add(Fault { what: "WAL after the backup".to_owned(), blocks: None, why });
    }
    report.faults.sort();
    Ok(report)
}

/// From the backup's start to its end, or as far as the WAL goes on, and what is wrong with that as a whole.
async fn segments(
    archive: &Archive,
    summary: &Summary,
    all: bool,
) -> Result<(Vec<Segment>, Option<String>), RestoreError> {
    let size = archive.incarnation().segment_size;
    let last = Segment::before(summary.timeline, summary.stop_lsn, size);
    let mut segments = Vec::new();
    let mut next = Segment::at(summary.timeline, summary.start_lsn, size);
    while next <= last {
        segments.push(next);
        next = next.next(size);
    }
    if !all {
        return Ok((segments, None));
    }
    let backup = Some(summary.backup.clone());
    match plan(archive, &Wanted { backup, ..Wanted::new(Target::Latest) }).await {
        Ok(plan) => Ok((plan.complete, None)),
        // It is before the end of the backup, and found segment by segment.
        Err(RestoreError::Gap { .. }) => Ok((segments, None)),
        Err(error @ RestoreError::OutOfReach { .. }) => Ok((segments, Some(error.to_string()))),
        Err(error) => Err(error),
    }
}

/// The repository was there and what it gave is not what was written.
fn is_damage(error: &RepositoryError) -> bool {
    matches!(error, RepositoryError::Corrupt { .. } | RepositoryError::Absent { .. })
}

impl Report {
    /// Of a backup from a standby the last segment may be in the tail alone.
    async fn read_tail(&mut self, archive: &Archive, segment: Segment) -> Result<(), RestoreError> {
        let joiner = Joiner::new(archive)?;
        let chunks = joiner.chunks(segment.timeline).await?.remove(&segment).unwrap_or_default();
        match joiner.join(segment, &chunks, None).await {
            Ok(_) => self.segments += 1,
            Err(error @ (TailError::Replication(_) | TailError::Repository(_))) => return Err(error.into()),
            Err(error) => self.add(Fault { what: segment.to_string(), blocks: None, why: error.to_string() }),
        }
        Ok(())
    }

    fn add(&mut self, fault: Fault) {
        if self.faults.len() < MOST {
            self.faults.push(fault);
        }
    }
}

#[derive(Debug, Default)]
struct Found {
    bytes: u64,
    frames: u64,
    faults: Vec<Fault>,
}

impl Found {
    /// Frames of one file follow each other: they are told as one.
    fn add(&mut self, fault: Fault) {
        if let (Some(last), Some((first, end))) = (self.faults.last_mut(), fault.blocks)
            && last.what == fault.what
            && let Some((begin, before)) = last.blocks
            && before + 1 == first
        {
            last.blocks = Some((begin, end));
        } else if self.faults.len() < MOST {
            self.faults.push(fault);
        }
    }
}

struct Reader {
    found: Mutex<Found>,
    /// Path of each file, and the block that it begins with if it is a relation's.
    files: Vec<(String, Option<u64>)>,
    progress: Progress,
}

fn files(manifest: &Manifest) -> Vec<(String, Option<u64>)> {
    // Files of relations end at 1 GiB everywhere but in odd builds.
    let per_file = (1 << 30) / PAGE;
    let file = |line: &Line| match line {
        Line::File(path, ..) => {
            let name = path.rsplit('/').next().unwrap_or_default();
            let is_data = path.starts_with("base/") || path.starts_with("global/") || path.starts_with("pg_tblspc/");
            let segment = base::page::relation_file(name).filter(|_| is_data).map(|file| u64::from(file.segment));
            Some((path.clone(), segment.map(|segment| segment * per_file)))
        }
        Line::Folder(..) | Line::Frame(..) | Line::Earlier(..) => None,
    };
    manifest.lines.iter().filter_map(file).collect()
}

impl packs::Sink for Reader {
    type Error = RestoreError;

    fn content(&self, frame: &Frame, content: &[u8]) -> Result<(), RestoreError> {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.frames += 1;
        found.bytes += content.len() as u64;
        self.progress.add(frame.used());
        Ok(())
    }

    fn lost(&self, frames: &[Frame], error: RepositoryError) -> Result<(), RestoreError> {
        if !is_damage(&error) {
            return Err(error.into());
        }
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        for (file, offset, length) in frames.iter().flat_map(|frame| &frame.parts) {
            let Some((path, first)) = self.files.get(*file as usize).filter(|_| *file != NOWHERE) else { continue };
            let last = (offset + length).saturating_sub(1) / PAGE;
            let blocks = first.map(|first| (first + offset / PAGE, first + last));
            found.add(Fault { what: path.clone(), blocks, why: error.to_string() });
        }
        Ok(())
    }

    fn worker(why: String) -> RestoreError {
        RestoreError::Worker(why)
    }
}
