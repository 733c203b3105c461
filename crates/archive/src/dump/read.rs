//! Reading: the content of files in its order, every frame verified, and all damage told.

use std::collections::BTreeMap;
use std::ops::Range;

use futures_util::StreamExt;
use futures_util::stream;
use serde::Serialize;

use super::manifest::{Line, Manifest};
use super::{DumpError, list};
use crate::archive::Archive;
use crate::format::{Kind, Reader, hex, sha256};
use crate::progress::Progress;
use crate::repository::RepositoryError;

/// Bytes of a pack that are asked for at a time, and how many such ranges ahead.
const RANGE: u64 = 8 << 20;
const AHEAD: usize = 2;
/// More damage than this is not told one by one.
const MOST: usize = 1000;

/// A frame, and where its content goes.
#[derive(Clone, Debug)]
pub struct Frame {
    index: u32,
    at: u64,
    length: u64,
    sha256: String,
    pub file: u32,
    pub offset: u64,
    pub bytes: u64,
}

/// One pack's frames that are wanted, and where its first frame begins.
struct Pack {
    number: u32,
    header: u64,
    frames: Vec<Frame>,
}

/// What was read of a dump, and what is wrong with it.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Name of the dump.
    pub dump: String,
    /// Bytes of content that were read and are good.
    pub bytes: u64,
    /// Frames that were read and are good.
    pub frames: u64,
    /// What is wrong; empty: a restore will find everything it needs.
    pub faults: Vec<Fault>,
}

/// A part of a file that a restore would miss.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// The database; empty: roles and tablespaces.
    pub database: String,
    /// The file.
    pub path: String,
    /// The first byte that is gone.
    pub from: u64,
    /// The byte after the last one.
    pub to: u64,
    /// Why, with the name of the object.
    pub why: String,
}

/// Reads the frames of the wanted files in their order, and hands each over: its content, or why there is none.
pub async fn read<E: From<DumpError>>(
    archive: &Archive,
    manifest: &Manifest,
    wanted: &Range<u32>,
    mut take: impl AsyncFnMut(&Frame, Result<Vec<u8>, RepositoryError>) -> Result<(), E>,
) -> Result<(), E> {
    for pack in packs(manifest, wanted) {
        let name = archive.place().dump_pack(&manifest.summary.dump, pack.number);
        let begun = match archive.repository().range(&name, 0..pack.header).await {
            Ok(header) => Reader::begin(&header, Kind::Pack, &name, archive.identities())
                .map_err(|error| archive.error(&name, error)),
            Err(error) => Err(error),
        };
        let mut reader = match begun {
            Ok((reader, _)) => reader,
            Err(error) => {
                for frame in &pack.frames {
                    take(frame, Err(again(&error, archive, &name))).await?;
                }
                continue;
            }
        };
        let groups: Vec<Vec<Frame>> = groups(pack.frames);
        let mut ranges = stream::iter(groups.iter().map(|group| {
            let (from, to) = bounds(group);
            let (repository, name) = (archive.repository(), &name);
            async move { (group, repository.range(name, from..to).await) }
        }))
        .buffered(AHEAD);
        while let Some((group, bytes)) = ranges.next().await {
            let bytes = match bytes {
                Ok(bytes) => bytes,
                Err(error) => {
                    for frame in group {
                        take(frame, Err(again(&error, archive, &name))).await?;
                    }
                    continue;
                }
            };
            let (frames, start) = (group.clone(), bounds(group).0);
            let work = move || {
                let contents: Vec<_> = frames.iter().map(|frame| frame.open(&mut reader, &bytes, start)).collect();
                (reader, contents)
            };
            let done = tokio::task::spawn_blocking(work).await;
            let (back, contents) = done.map_err(|error| DumpError::Worker(error.to_string()))?;
            reader = back;
            for (frame, content) in group.iter().zip(contents) {
                let content = content.map_err(|why| archive.repository().corrupt(&name, why));
                take(frame, content).await?;
            }
        }
    }
    Ok(())
}

impl Frame {
    fn open(&self, reader: &mut Reader, bytes: &[u8], start: u64) -> Result<Vec<u8>, String> {
        let mut content = Vec::with_capacity(self.bytes as usize);
        let at = (self.at - start) as usize;
        reader.frame(&bytes[at..], self.index, &mut content).map_err(|error| error.to_string())?;
        if content.len() as u64 == self.bytes && hex(&sha256(&content)) == self.sha256 {
            return Ok(content);
        }
        Err(format!("frame {} does not hold what the manifest says", self.index))
    }
}

/// The same error once more, for the next of those that it is about.
fn again(error: &RepositoryError, archive: &Archive, name: &str) -> RepositoryError {
    match error {
        RepositoryError::Corrupt { object, repository, why } => {
            RepositoryError::Corrupt { object: object.clone(), repository: repository.clone(), why: why.clone() }
        }
        RepositoryError::Absent { object, repository } => {
            RepositoryError::Absent { object: object.clone(), repository: repository.clone() }
        }
        RepositoryError::NoKey { object, repository, why } => {
            RepositoryError::NoKey { object: object.clone(), repository: repository.clone(), why: why.clone() }
        }
        error => RepositoryError::Unreachable {
            action: "read",
            object: name.to_owned(),
            repository: archive.repository().name().to_owned(),
            why: error.to_string(),
            source: error.to_string().into(),
        },
    }
}

/// The wanted frames by their packs, in the order of the files.
fn packs(manifest: &Manifest, wanted: &Range<u32>) -> Vec<Pack> {
    let mut headers: BTreeMap<u32, u64> = BTreeMap::new();
    let mut found: Vec<Pack> = Vec::new();
    for line in &manifest.lines {
        let Line::Frame(pack, index, at, length, sha256, parts) = line else { continue };
        let header = headers.entry(*pack).or_insert(*at);
        *header = (*header).min(*at);
        for (file, offset, bytes) in parts.iter().filter(|(file, ..)| wanted.contains(file)) {
            let frame = Frame {
                index: *index,
                at: *at,
                length: *length,
                sha256: sha256.clone(),
                file: *file,
                offset: *offset,
                bytes: *bytes,
            };
            match found.last_mut().filter(|last| last.number == *pack) {
                Some(last) => last.frames.push(frame),
                None => found.push(Pack { number: *pack, header: *header, frames: vec![frame] }),
            }
        }
    }
    for pack in &mut found {
        pack.header = headers.get(&pack.number).copied().unwrap_or(pack.header);
    }
    found
}

/// Frames that follow each other, in ranges of a bounded size.
fn groups(frames: Vec<Frame>) -> Vec<Vec<Frame>> {
    let mut groups: Vec<Vec<Frame>> = Vec::new();
    for frame in frames {
        let end = frame.at + frame.length;
        let fits = |group: &&mut Vec<Frame>| {
            let (from, to) = bounds(group);
            to == frame.at && end - from <= RANGE
        };
        match groups.last_mut().filter(fits) {
            Some(group) => group.push(frame),
            None => groups.push(vec![frame]),
        }
    }
    groups
}

fn bounds(group: &[Frame]) -> (u64, u64) {
    let from = group.first().map_or(0, |frame| frame.at);
    (from, group.last().map_or(from, |frame| frame.at + frame.length))
}

/// Reads every frame of a dump. Damage is reported; an outage or a key that does not fit is an error, since it proves nothing.
pub async fn verify(archive: &Archive, manifest: &Manifest, progress: &Progress) -> Result<Report, DumpError> {
    let summary = &manifest.summary;
    progress.expect(summary.size);
    let files = manifest.files();
    let mut report = Report { dump: summary.dump.clone(), bytes: 0, frames: 0, faults: Vec::new() };
    let mut held: Vec<u64> = vec![0; files.len()];
    read(archive, manifest, &(0..files.len() as u32), async |frame, content| {
        progress.add(frame.bytes);
        if let Some(held) = held.get_mut(frame.file as usize) {
            *held += frame.bytes;
        }
        match content {
            Ok(content) => {
                report.frames += 1;
                report.bytes += content.len() as u64;
            }
            Err(error @ (RepositoryError::Corrupt { .. } | RepositoryError::Absent { .. })) => {
                let (from, to) = (frame.offset, frame.offset + frame.bytes);
                report.add(
                    manifest,
                    files.get(frame.file as usize).map_or("", |file| file.0),
                    (from, to),
                    error.to_string(),
                );
            }
            Err(error) => return Err(DumpError::from(error)),
        }
        Ok::<_, DumpError>(())
    })
    .await?;
    for ((path, size), held) in files.iter().zip(held).filter(|((_, size), held)| held != size) {
        let why = format!("its manifest names frames of {held} bytes, and the file has {size}");
        report.add(manifest, path, (held.min(*size), *size), why);
    }
    if !report.faults.is_empty() && list::is_gone(archive, &summary.dump).await {
        let object = archive.place().dump_manifest(&summary.dump);
        let absent = RepositoryError::Absent { object, repository: archive.repository().name().to_owned() };
        return Err(DumpError::from(absent).unless_removed(archive, &summary.dump).await);
    }
    Ok(report)
}

impl Report {
    /// Frames of one file follow each other: they are told as one.
    fn add(&mut self, manifest: &Manifest, path: &str, (from, to): (u64, u64), why: String) {
        if let Some(last) = self.faults.last_mut().filter(|last| last.path == path && last.to == from) {
            last.to = to;
        } else if self.faults.len() < MOST {
            let of = |path: &str| path.split('/').next().unwrap_or_default().to_owned();
            let database = manifest.summary.databases.iter().find(|one| of(&one.path) == of(path));
            let database = database.map(|one| one.database.name.clone()).unwrap_or_default();
            self.faults.push(Fault { database, path: path.to_owned(), from, to, why });
        }
    }
}
