//! Reading the packs of a base backup, its own and those of earlier backups that it builds upon: every frame verified,
//! several packs at a time.

pub mod in_order;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use crate::archive::Archive;
use crate::base::{Line, Manifest, NOWHERE};
use crate::format::{HEADER, Kind, Reader, hex, sha256};
use crate::repository::RepositoryError;

/// Bytes of a pack that are asked for at a time.
const RANGE: u64 = 8 << 20;
/// Between frames that are wanted, so many bytes are read along rather than left out.
const GAP: u64 = 256 << 10;

/// A frame of a pack, and where its content goes.
#[derive(Clone, Debug)]
pub struct Frame {
    pub index: u32,
    at: u64,
    length: u64,
    sha256: String,
    /// File, offset in it, bytes.
    pub parts: Vec<(u32, u64, u64)>,
}

/// Who takes what is read: the frame and its content, or the frames that an error is about. An error that it returns
/// ends the reading.
pub trait Sink: Send + Sync + 'static {
    type Error: From<RepositoryError> + Send + 'static;
    fn content(&self, frame: &Frame, content: &[u8]) -> Result<(), Self::Error>;
    fn lost(&self, frames: &[Frame], error: RepositoryError) -> Result<(), Self::Error>;
    fn worker(why: String) -> Self::Error;
}

/// Frames in their order, by the names of their packs.
pub type Packs = BTreeMap<String, Vec<Frame>>;

/// Reads the frames of every pack, `workers` packs at a time.
pub async fn read<S: Sink>(archive: &Archive, packs: Packs, workers: usize, sink: &Arc<S>) -> Result<(), S::Error> {
    let turns = Arc::new(Semaphore::new(workers.max(1)));
    let mut all: JoinSet<Result<(), S::Error>> = JoinSet::new();
    for (name, frames) in packs {
        let turn = Arc::clone(&turns).acquire_owned().await.map_err(|error| S::worker(error.to_string()))?;
        let (archive, sink) = (archive.clone(), Arc::clone(sink));
        all.spawn(async move {
            let _turn = turn;
            pack(&archive, name, frames, sink).await
        });
        while let Some(ended) = all.try_join_next() {
            ended.map_err(|error| S::worker(error.to_string()))??;
        }
    }
    while let Some(ended) = all.join_next().await {
        ended.map_err(|error| S::worker(error.to_string()))??;
    }
    Ok(())
}

/// The frames that the manifest names.
pub fn by_pack(archive: &Archive, manifest: &Manifest) -> Result<Packs, RepositoryError> {
    let (own, needs) = (&manifest.summary.backup, manifest.summary.needs());
    let mut packs = Packs::new();
    for line in &manifest.lines {
        let (backup, pack, index, at, length, sha256, parts) = match line {
            Line::Frame(pack, index, at, length, sha256, parts) => (Some(own), pack, index, at, length, sha256, parts),
            Line::Earlier(which, pack, index, at, length, sha256, parts) => {
                (needs.get(*which as usize), pack, index, at, length, sha256, parts)
            }
            Line::Folder(..) | Line::File(..) => continue,
        };
        let Some(backup) = backup else {
            let why = format!("a frame lies in an earlier backup that is not among the {} that it names", needs.len());
            return Err(archive.repository().corrupt(&archive.place().manifest(own), why));
        };
        let (sha256, parts) = (sha256.clone(), parts.clone());
        let frame = Frame { index: *index, at: *at, length: *length, sha256, parts };
        packs.entry(archive.place().pack(backup, *pack)).or_default().push(frame);
    }
    for frames in packs.values_mut() {
        frames.sort_by_key(|frame| frame.at);
    }
    Ok(packs)
}

/// Whether every pack is there that the manifest names, and long enough: known without reading any.
pub async fn check(archive: &Archive, manifest: &Manifest) -> Result<(), RepositoryError> {
    let repository = archive.repository();
    let mut listed: BTreeMap<String, BTreeMap<String, u64>> = BTreeMap::new();
    for (name, frames) in by_pack(archive, manifest)? {
        let folder = name.rsplit_once('/').map_or("", |(folder, _)| folder).to_owned();
        let sizes = match listed.entry(folder) {
            Entry::Occupied(sizes) => sizes.into_mut(),
            Entry::Vacant(vacant) => {
                let entries = repository.list(vacant.key()).await?;
                vacant.insert(entries.into_iter().map(|entry| (entry.name, entry.size)).collect())
            }
        };
        let size = match sizes.get(&name) {
            Some(size) => *size,
            // A list proves nothing.
            None => repository.size(&name).await?,
        };
        let needed = frames.last().map_or(0, |frame| frame.at + frame.length);
        if size < needed {
            let why = format!("it is truncated: it has {size} bytes, and {needed} are needed");
            return Err(repository.corrupt(&name, why));
        }
    }
    Ok(())
}

/// One pack: ranges of whole frames are fetched ahead while a thread takes what came before.
async fn pack<S: Sink>(archive: &Archive, name: String, frames: Vec<Frame>, sink: Arc<S>) -> Result<(), S::Error> {
    let Some(first) = frames.first() else { return Ok(()) };
    let header = match archive.repository().range(&name, 0..first.at.min(HEADER)).await {
        Ok(header) => header,
        Err(error) => return sink.lost(&frames, error),
    };
    let (sender, receiver) = mpsc::channel::<(Bytes, Vec<Frame>)>(1);
    let (reading, taker) = ((archive.clone(), name.clone(), frames.clone()), Arc::clone(&sink));
    let mut taking = JoinSet::new();
    taking.spawn_blocking(move || unpack(&reading.0, &reading.1, &reading.2, &header, receiver, taker.as_ref()));
    let mut rest = frames.as_slice();
    let mut most = RANGE;
    while let Some(first) = rest.first() {
        let (count, end) = reach(rest, most);
        let (group, after) = rest.split_at(count);
        match archive.repository().range(&name, first.at..end).await {
            Ok(bytes) => {
                if sender.send((bytes, group.to_vec())).await.is_err() {
                    break; // the thread has an error to tell
                }
            }
            // Where it is cut off, what is before that is still good: one by one from here on.
            Err(RepositoryError::Corrupt { .. }) if count > 1 => {
                most = 0;
                continue;
            }
            Err(error) => sink.lost(group, error)?,
        }
        rest = after;
    }
    drop(sender);
    match taking.join_next().await {
        Some(ended) => ended.map_err(|error| S::worker(error.to_string()))?,
        None => Ok(()),
    }
}

/// How many frames are read together, and where they end: one at least, of `most` bytes, without a wide gap.
fn reach(frames: &[Frame], most: u64) -> (usize, u64) {
    let start = frames.first().map_or(0, |first| first.at);
    let (mut count, mut end) = (0, start);
    for frame in frames {
        let next = frame.at + frame.length;
        if count > 0 && (next - start > most || frame.at > end + GAP) {
            break;
        }
        (count, end) = (count + 1, end.max(next));
    }
    (count, end)
}

fn unpack<S: Sink>(
    archive: &Archive,
    name: &str,
    all: &[Frame],
    header: &[u8],
    mut groups: mpsc::Receiver<(Bytes, Vec<Frame>)>,
    sink: &S,
) -> Result<(), S::Error> {
    let mut reader = match Reader::begin(header, Kind::Pack, name, archive.identities()) {
        Ok((reader, _)) => reader,
        Err(error) => return sink.lost(all, archive.error(name, error)),
    };
    let mut content = Vec::new();
    while let Some((bytes, frames)) = groups.blocking_recv() {
        let start = frames.first().map_or(0, |frame| frame.at);
        for frame in frames {
            let at = (frame.at - start) as usize;
            match open(archive, name, &mut reader, &frame, &bytes[at..], &mut content) {
                Ok(()) => sink.content(&frame, &content)?,
                Err(error) => sink.lost(std::slice::from_ref(&frame), error)?,
            }
        }
    }
    Ok(())
}

/// The content of the frame at the beginning of `bytes`, which must be what the manifest says.
fn open(
    archive: &Archive,
    name: &str,
    reader: &mut Reader,
    frame: &Frame,
    bytes: &[u8],
    content: &mut Vec<u8>,
) -> Result<(), RepositoryError> {
    content.clear();
    match reader.frame(bytes, frame.index, content) {
        Err(error) => Err(archive.error(name, error)),
        Ok(_) if !frame.fits(content) => {
            let why = format!("frame {} does not hold what the manifest says", frame.index);
            Err(archive.repository().corrupt(name, why))
        }
        Ok(_) => Ok(()),
    }
}

impl Frame {
    /// Bytes of its content that belong somewhere.
    pub fn used(&self) -> u64 {
        self.parts.iter().filter(|(file, ..)| *file != NOWHERE).map(|(.., length)| length).sum()
    }

    /// Where it begins in its pack.
    pub fn at(&self) -> u64 {
        self.at
    }

    /// SHA-256 of its content, in hexadecimal.
    pub fn digest(&self) -> &str {
        &self.sha256
    }

    /// Whether all of its content belongs somewhere.
    pub fn is_whole(&self) -> bool {
        self.parts.iter().all(|(file, ..)| *file != NOWHERE)
    }

    /// Whether this is its content.
    pub fn fits(&self, content: &[u8]) -> bool {
        let length: u64 = self.parts.iter().map(|(.., length)| length).sum();
        length == content.len() as u64 && hex(&sha256(content)) == self.sha256
    }

    #[cfg(test)]
    pub fn of_parts(parts: Vec<(u32, u64, u64)>) -> Frame {
        Frame { index: 0, at: 0, length: 0, sha256: String::new(), parts }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_read_together_up_to_a_size_and_a_gap() {
        let frame = |at, length| Frame { index: 0, at, length, sha256: String::new(), parts: Vec::new() };
        let frames = [frame(100, 50), frame(150, 50), frame(200 + GAP, 10), frame(211 + 2 * GAP, 10)];
        assert_eq!(reach(&frames, RANGE), (3, 210 + GAP), "what follows the gap is read by itself");
        assert_eq!(reach(&frames, 60), (1, 150));
        assert_eq!(reach(&frames, 0), (1, 150), "one at least");
        assert_eq!(reach(&[frame(5, 7), frame(5, 7)], RANGE), (2, 12), "one frame may serve two places");
    }
}
