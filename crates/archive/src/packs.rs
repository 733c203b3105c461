//! Reading the packs of a base backup: every frame verified, several packs at a time.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use crate::archive::Archive;
use crate::base::{Line, Manifest};
use crate::format::{Kind, Reader, hex, sha256};
use crate::repository::RepositoryError;

/// Bytes of a pack that are asked for at a time.
const RANGE: u64 = 8 << 20;

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

/// Reads every pack, `workers` at a time.
pub async fn read<S: Sink>(
    archive: &Archive,
    manifest: &Manifest,
    workers: usize,
    sink: &Arc<S>,
) -> Result<(), S::Error> {
    let mut packs: BTreeMap<u32, Vec<Frame>> = BTreeMap::new();
    for line in &manifest.lines {
        if let Line::Frame(pack, index, at, length, sha256, parts) = line {
            let (sha256, parts) = (sha256.clone(), parts.clone());
            packs.entry(*pack).or_default().push(Frame { index: *index, at: *at, length: *length, sha256, parts });
        }
    }
    let turns = Arc::new(Semaphore::new(workers.max(1)));
    let mut all: JoinSet<Result<(), S::Error>> = JoinSet::new();
    for (number, frames) in packs {
        let turn = Arc::clone(&turns).acquire_owned().await.map_err(|error| S::worker(error.to_string()))?;
        let (archive, sink) = (archive.clone(), Arc::clone(sink));
        let name = archive.place().pack(&manifest.summary.backup, number);
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

/// One pack: ranges of whole frames are fetched ahead while a thread takes what came before.
async fn pack<S: Sink>(archive: &Archive, name: String, frames: Vec<Frame>, sink: Arc<S>) -> Result<(), S::Error> {
    let Some(first) = frames.first() else { return Ok(()) };
    let header = match archive.repository().range(&name, 0..first.at).await {
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
        let count = rest.iter().take_while(|frame| frame.at + frame.length - first.at <= most).count().max(1);
        let (group, after) = rest.split_at(count);
        let end = group.last().map_or(first.at, |frame| frame.at + frame.length);
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
            content.clear();
            let at = (frame.at - start) as usize;
            let whole = match reader.frame(&bytes[at..], frame.index, &mut content) {
                Err(error) => Err(archive.error(name, error)),
                Ok(_) if !frame.fits(&content) => {
                    let why = format!("frame {} does not hold what the manifest says", frame.index);
                    Err(archive.repository().corrupt(name, why))
                }
                Ok(_) => Ok(()),
            };
            match whole {
                Ok(()) => sink.content(&frame, &content)?,
                Err(error) => sink.lost(std::slice::from_ref(&frame), error)?,
            }
        }
    }
    Ok(())
}

impl Frame {
    fn fits(&self, content: &[u8]) -> bool {
        let length: u64 = self.parts.iter().map(|(.., length)| length).sum();
        length == content.len() as u64 && hex(&sha256(content)) == self.sha256
    }
}
