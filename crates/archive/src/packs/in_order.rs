//! Reading the content of files one file after the other, for what is written as a stream: in the packs frames lie as workers
//! came to them, and those of an incremental backup in packs of many backups.
//!
//! A task fetches what the next few megabytes of files need, whatever packs that is in, while a thread opens what came before.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::sync::mpsc;

use super::{Frame, GAP, by_pack, open};
use crate::archive::Archive;
use crate::base::{Line, Manifest, NOWHERE};
use crate::format::{HEADER, Kind, Reader};
use crate::repository::RepositoryError;

/// Bytes of content that are fetched at a time.
const WINDOW: u64 = 8 << 20;
/// Requests of one window that are under way at a time.
const AT_ONCE: usize = 4;

/// Where the content of every file of a backup is.
#[derive(Debug)]
pub struct Contents {
    packs: Vec<Pack>,
    /// By pack, and by their place in it.
    frames: Vec<(u32, Frame)>,
    /// Of each file, by their place in it.
    pieces: Vec<Vec<Piece>>,
}

#[derive(Debug)]
struct Pack {
    name: String,
    /// Where the first frame of it that is needed begins.
    first: u64,
}

/// A part of a file that is a part of a frame.
#[derive(Clone, Copy, Debug)]
struct Piece {
    frame: u32,
    /// Where in the frame's content.
    inside: u64,
    /// Where in the file.
    at: u64,
    length: u64,
}

/// Who takes the content.
pub trait Take {
    type Error: From<RepositoryError>;
    fn begin(&mut self, file: u32) -> Result<(), Self::Error>;
    /// Bytes at this place of the file; what is passed over is zero.
    fn bytes(&mut self, at: u64, bytes: &[u8]) -> Result<(), Self::Error>;
    fn end(&mut self) -> Result<(), Self::Error>;
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Begin(u32),
    Piece(Piece),
    End,
}

#[derive(Debug, Default)]
struct Window {
    steps: Vec<Step>,
    frames: BTreeSet<u32>,
    size: u64,
}

/// What was fetched for some steps.
#[derive(Debug)]
pub struct Fetched {
    steps: Vec<Step>,
    /// Beginnings of packs that were not needed before.
    headers: Vec<(u32, Bytes)>,
    groups: Vec<(Group, Bytes)>,
}

/// Frames of one pack that are read together.
#[derive(Debug)]
struct Group {
    pack: u32,
    range: Range<u64>,
    frames: Vec<u32>,
}

impl Contents {
    /// By a manifest, which is refused where it contradicts itself.
    pub fn of(archive: &Archive, manifest: &Manifest) -> Result<Contents, RepositoryError> {
        let size = |line: &Line| match line {
            Line::File(_, size, _) => Some(*size),
            Line::Folder(..) | Line::Frame(..) | Line::Earlier(..) => None,
        };
        let sizes: Vec<u64> = manifest.lines.iter().filter_map(size).collect();
        let mut contents = Contents { packs: Vec::new(), frames: Vec::new(), pieces: vec![Vec::new(); sizes.len()] };
        let corrupt =
            |why: String| archive.repository().corrupt(&archive.place().manifest(&manifest.summary.backup), why);
        for (name, frames) in by_pack(archive, manifest)? {
            let pack = contents.packs.len() as u32;
            contents.packs.push(Pack { name, first: frames.first().map_or(0, |frame| frame.at) });
            for frame in frames {
                contents.add(pack, frame, &sizes).map_err(corrupt)?;
            }
        }
        for (file, pieces) in contents.pieces.iter_mut().enumerate() {
            pieces.sort_by_key(|piece| piece.at);
            if pieces.windows(2).any(|pair| pair[0].at + pair[0].length > pair[1].at) {
                return Err(corrupt(format!("a byte of file {file} is in two frames")));
            }
        }
        Ok(contents)
    }

    fn add(&mut self, pack: u32, frame: Frame, sizes: &[u64]) -> Result<(), String> {
        let number = self.frames.len() as u32;
        let mut next = 0;
        for (file, at, length) in &frame.parts {
            let inside = next;
            next += length;
            if *file == NOWHERE {
                continue;
            }
            let (Some(size), Some(pieces)) = (sizes.get(*file as usize), self.pieces.get_mut(*file as usize)) else {
                return Err(format!("a frame is of file {file}, and there are {}", sizes.len()));
            };
            // What was cut off while the backup was taken is not the file's any more.
            let length = (*length).min(size.saturating_sub(*at));
            if length > 0 {
                pieces.push(Piece { frame: number, inside, at: *at, length });
            }
        }
        self.frames.push((pack, frame));
        Ok(())
    }

    /// By this, files are read in the order in which the packs have them.
    pub fn order(&self, file: u32) -> Option<u32> {
        self.pieces.get(file as usize)?.first().map(|piece| piece.frame)
    }

    fn windows(&self, files: &[u32]) -> Vec<Window> {
        let (mut done, mut window) = (Vec::new(), Window::default());
        for file in files {
            window.steps.push(Step::Begin(*file));
            for piece in self.pieces.get(*file as usize).into_iter().flatten() {
                if !window.frames.contains(&piece.frame) {
                    let size = self.frames[piece.frame as usize].1.parts.iter().map(|(.., length)| length).sum::<u64>();
                    if window.size > 0 && window.size + size > WINDOW {
                        done.push(std::mem::take(&mut window));
                    }
                    window.size += size;
                    window.frames.insert(piece.frame);
                }
                window.steps.push(Step::Piece(*piece));
            }
            window.steps.push(Step::End);
        }
        done.push(window);
        done
    }

    fn groups(&self, wanted: &BTreeSet<u32>) -> Vec<Group> {
        let mut groups: Vec<Group> = Vec::new();
        for number in wanted {
            let (pack, frame) = &self.frames[*number as usize];
            let end = frame.at + frame.length;
            match groups.last_mut() {
                Some(group) if group.pack == *pack && frame.at <= group.range.end + GAP => {
                    group.range.end = group.range.end.max(end);
                    group.frames.push(*number);
                }
                _ => groups.push(Group { pack: *pack, range: frame.at..end, frames: vec![*number] }),
            }
        }
        groups
    }

    /// Fetches the content of the files, window by window, until all is handed over or an error is.
    pub async fn fetch(&self, archive: &Archive, files: &[u32], to: mpsc::Sender<Result<Fetched, RepositoryError>>) {
        let mut known = BTreeSet::new();
        for window in self.windows(files) {
            let fetched = self.window(archive, window, &mut known).await;
            let is_last = fetched.is_err();
            // Whoever takes no more has an error to tell.
            if to.send(fetched).await.is_err() || is_last {
                return;
            }
        }
    }

    async fn window(
        &self,
        archive: &Archive,
        window: Window,
        known: &mut BTreeSet<u32>,
    ) -> Result<Fetched, RepositoryError> {
        let groups = self.groups(&window.frames);
        let mut headers = Vec::new();
        for pack in groups.iter().map(|group| group.pack) {
            if known.insert(pack) {
                let Pack { name, first } = &self.packs[pack as usize];
                headers.push((pack, archive.repository().range(name, 0..(*first).min(HEADER)).await?));
            }
        }
        let reads: Vec<_> = groups
            .into_iter()
            .map(|group| {
                let (repository, name) = (archive.repository().clone(), self.packs[group.pack as usize].name.clone());
                async move {
                    let bytes = repository.range(&name, group.range.clone()).await?;
                    Ok::<_, RepositoryError>((group, bytes))
                }
            })
            .collect();
        let groups = stream::iter(reads).buffered(AT_ONCE).try_collect().await?;
        Ok(Fetched { steps: window.steps, headers, groups })
    }

    /// Opens what is fetched and hands it over; how many files there were. To be called outside of the asynchronous runtime.
    pub fn take<T: Take>(
        &self,
        archive: &Archive,
        mut from: mpsc::Receiver<Result<Fetched, RepositoryError>>,
        to: &mut T,
    ) -> Result<usize, T::Error> {
        let (mut readers, mut files) = (HashMap::new(), 0);
        while let Some(fetched) = from.blocking_recv() {
            let fetched = fetched?;
            let opened = self.opened(archive, &fetched, &mut readers)?;
            for step in fetched.steps {
                match step {
                    Step::Begin(file) => to.begin(file)?,
                    Step::Piece(Piece { frame, inside, at, length }) => {
                        let content = opened.get(&frame).map(Vec::as_slice).unwrap_or_default();
                        to.bytes(at, &content[inside as usize..(inside + length) as usize])?;
                    }
                    Step::End => {
                        files += 1;
                        to.end()?;
                    }
                }
            }
        }
        Ok(files)
    }

    fn opened(
        &self,
        archive: &Archive,
        fetched: &Fetched,
        readers: &mut HashMap<u32, Reader>,
    ) -> Result<HashMap<u32, Vec<u8>>, RepositoryError> {
        let failed = |pack: u32, error| archive.error(&self.packs[pack as usize].name, error);
        for (pack, header) in &fetched.headers {
            let name = &self.packs[*pack as usize].name;
            let begun = Reader::begin(header, Kind::Pack, name, archive.identities());
            readers.insert(*pack, begun.map_err(|error| failed(*pack, error))?.0);
        }
        let mut opened = HashMap::new();
        for (group, bytes) in &fetched.groups {
            let Some(reader) = readers.get_mut(&group.pack) else { continue };
            let name = &self.packs[group.pack as usize].name;
            for number in &group.frames {
                let frame = &self.frames[*number as usize].1;
                let at = (frame.at - group.range.start) as usize;
                let mut content = Vec::new();
                open(archive, name, reader, frame, &bytes[at..], &mut content)?;
                opened.insert(*number, content);
            }
        }
        Ok(opened)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents(frames: Vec<(u32, Frame)>, sizes: &[u64]) -> Contents {
        let packs = (0..4).map(|number| Pack { name: number.to_string(), first: 100 }).collect();
        let mut contents = Contents { packs, frames: Vec::new(), pieces: vec![Vec::new(); sizes.len()] };
        for (pack, frame) in frames {
            contents.add(pack, frame, sizes).unwrap();
        }
        contents.pieces.iter_mut().for_each(|pieces| pieces.sort_by_key(|piece| piece.at));
        contents
    }

    fn frame(at: u64, parts: Vec<(u32, u64, u64)>) -> Frame {
        Frame { index: 0, at, length: 50, sha256: String::new(), parts }
    }

    #[test]
    fn a_window_has_whole_frames_and_each_once() {
        const MIB: u64 = 1 << 20;
        // File 0: its second half lies before the first, in another pack; files 1 and 2 share a frame; 3 has no content.
        let mut frames = vec![(0, frame(100, vec![(0, 5 * MIB, 5 * MIB)])), (1, frame(100, vec![(0, 0, 5 * MIB)]))];
        frames.push((1, frame(150, vec![(1, 0, 7), (NOWHERE, 0, 9), (2, 0, 30)])));
        let contents = contents(frames, &[10 * MIB, 7, 20, 5]);
        assert_eq!([0, 1, 2, 3].map(|file| contents.order(file)), [Some(1), Some(2), Some(2), None]);
        let windows = contents.windows(&[0, 1, 2, 3]);
        let frames: Vec<Vec<u32>> = windows.iter().map(|window| window.frames.iter().copied().collect()).collect();
        assert_eq!(frames, [vec![1], vec![0, 2]]);
        let Step::Piece(piece) = windows[1].steps[6] else { panic!("{:?}", windows[1].steps) };
        assert_eq!((piece.inside, piece.at, piece.length), (16, 0, 20), "what was cut off of a file is left out");
        let ends = windows.iter().flat_map(|window| &window.steps).filter(|step| matches!(step, Step::End)).count();
        assert_eq!(ends, 4);
    }

    #[test]
    fn neighbours_in_a_pack_are_read_together() {
        let frames = [(0, 100), (0, 150), (0, 250 + GAP), (1, 100)];
        let frames = frames.into_iter().map(|(pack, at)| (pack, frame(at, Vec::new()))).collect();
        let groups = contents(frames, &[]).groups(&(0..4).collect());
        let found: Vec<(u32, Range<u64>)> = groups.into_iter().map(|group| (group.pack, group.range)).collect();
        assert_eq!(found, [(0, 100..200), (0, 250 + GAP..300 + GAP), (1, 100..150)]);
    }

    #[test]
    fn a_frame_of_no_file_is_refused() {
        let mut contents = contents(Vec::new(), &[5]);
        assert!(contents.add(0, frame(100, vec![(1, 0, 5)]), &[5]).unwrap_err().contains("file 1"));
    }
}
