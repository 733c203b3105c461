//! What of this backup lies in packs of earlier ones already, and what is to be read.
//!
//! ```text
//! main forks, with what the log tells:   blocks as they were ──> the earlier frame, with holes;  the others ──> read
//! everything else:                       read; a frame of the same content ──> the earlier frame, else stored
//! ```
//! So of each block exactly one frame has the newest content, and a restore needs no other order than that of the packs.

use std::collections::HashMap;

use super::changes::{Changes, FileChanges};
use super::manifest::{DamagedPage, Line, Manifest, NOWHERE};
use super::page::{PAGE, relation_file};
use super::scan::Found;
use super::task::{Part, Task, tasks, tasks_of, tasks_of_ranges};
use crate::format::FRAME;

/// An earlier frame of which less is as it was is not used any more, so that what a restore reads in vain stays bounded.
const LEAST_USED: u64 = 4;

/// A frame in a pack of an earlier backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Which: 0 is the parent, then those that it needs.
    pub backup: u32,
    pub pack: u32,
    pub index: u32,
    pub at: u64,
    pub length: u64,
}

/// An earlier frame that this backup uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    pub place: Place,
    pub digest: [u8; 32],
    pub parts: Vec<(u32, u64, u64)>,
}

/// What there is to do.
#[derive(Clone, Debug, Default)]
pub struct Work {
    /// What is read.
    pub tasks: Vec<Task>,
    /// Earlier frames by the digest of their content: what has been read and is one of them is not stored.
    pub known: HashMap<[u8; 32], Place>,
    /// What is used unread.
    pub taken: Vec<Taken>,
    /// Pages that were damaged before and are used unread.
    pub damaged: Vec<DamagedPage>,
}

impl Work {
    /// Everything is read and stored.
    pub fn full(files: &[Found]) -> Work {
        Work { tasks: tasks(files), ..Work::default() }
    }

    /// Bytes that are read.
    pub fn bytes(&self) -> u64 {
        self.tasks.iter().flatten().map(|part| part.length).sum()
    }
}

/// Compares with an earlier backup. Without `changes`, everything is read.
pub fn compare(parent: &Manifest, files: &[Found], changes: Option<&Changes>, pages_per_file: u32) -> Work {
    let theirs = Theirs::new(parent, files);
    let mut tracked = theirs.track(files, changes, pages_per_file);
    let mut work = Work::default();
    let mut groups = Groups { grouped: vec![false; files.len()], tasks: Vec::new() };
    for frame in parent.lines.iter().filter_map(earlier) {
        work.known.insert(frame.digest, frame.place);
        if let Some(taken) = take(&frame, &mut tracked) {
            work.taken.push(taken);
        }
        groups.add(&frame, &theirs, &tracked, files);
    }
    work.damaged = still_damaged(parent, files, &tracked, pages_per_file);
    let mut is_tracked = vec![false; files.len()];
    let mut ranges = Vec::new();
    for one in tracked.iter().flatten() {
        is_tracked[one.file as usize] = true;
        one.add_uncovered(&mut ranges);
    }
    work.tasks = tasks_of(files, |file| !is_tracked[file as usize] && !groups.grouped[file as usize]);
    work.tasks.extend(tasks_of_ranges(ranges));
    work.tasks.extend(groups.tasks);
    work
}

/// A frame as the parent's manifest has it.
struct Earlier<'a> {
    place: Place,
    digest: [u8; 32],
    parts: &'a [(u32, u64, u64)],
}

fn earlier(line: &Line) -> Option<Earlier<'_>> {
    let (backup, pack, index, at, length, sha256, parts) = match line {
        Line::Frame(pack, index, at, length, sha256, parts) => (0, pack, index, at, length, sha256, parts),
        Line::Earlier(backup, pack, index, at, length, sha256, parts) => {
            (backup.checked_add(1)?, pack, index, at, length, sha256, parts)
        }
        Line::Folder(..) | Line::File(..) => return None,
    };
    let place = Place { backup, pack: *pack, index: *index, at: *at, length: *length };
    Some(Earlier { place, digest: unhex(sha256)?, parts })
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut out = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (byte, at) in out.iter_mut().zip((0..64).step_by(2)) {
        *byte = u8::from_str_radix(&text[at..at + 2], 16).ok()?;
    }
    Some(out)
}

/// The parent's files: which of ours each is, and how long it was.
struct Theirs {
    files: Vec<Option<(u32, u64)>>,
}

impl Theirs {
    fn new(parent: &Manifest, files: &[Found]) -> Theirs {
        let ours: HashMap<&str, u32> =
            files.iter().zip(0..).map(|(file, number)| (file.path.as_str(), number)).collect();
        let theirs = parent.lines.iter().filter_map(|line| match line {
            Line::File(path, size, mode) => Some((path.as_str(), *size, *mode)),
            _ => None,
        });
        let find =
            |(path, size, mode): (&str, u64, u32)| ours.get(path).filter(|_| mode != 0).map(|ours| (*ours, size));
        Theirs { files: theirs.map(find).collect() }
    }

    /// The files of which single blocks can be used, by their numbers in the parent.
    fn track<'a>(
        &self,
        files: &[Found],
        changes: Option<&'a Changes>,
        pages_per_file: u32,
    ) -> Vec<Option<Tracked<'a>>> {
        let page = PAGE as u64;
        let track = |(file, size): (u32, u64)| {
            let found = &files[file as usize];
            let whole_pages = size.is_multiple_of(page) && found.size.is_multiple_of(page);
            let changes = changes?.file(&found.path, pages_per_file).filter(|_| found.is_main() && whole_pages)?;
            let blocks = (found.size / page) as u32;
            let common = (size.min(found.size) / page) as u32;
            Some(Tracked { file, blocks, common, changes, covered: vec![false; blocks as usize] })
        };
        self.files.iter().map(|one| one.and_then(track)).collect()
    }
}

/// One file of which single blocks can be used.
struct Tracked<'a> {
    /// Its place in our list.
    file: u32,
    blocks: u32,
    /// The parent has no more blocks than these.
    common: u32,
    changes: FileChanges<'a>,
    /// By block, whether an earlier frame has it.
    covered: Vec<bool>,
}

impl Tracked<'_> {
    fn is_usable(&self, block: u32) -> bool {
        block < self.common && !self.changes.has(block) && !self.covered[block as usize]
    }

    fn add_uncovered(&self, ranges: &mut Vec<Part>) {
        let page = PAGE as u64;
        for block in (0..self.blocks).filter(|block| !self.covered[*block as usize]) {
            let offset = u64::from(block) * page;
            match ranges.last_mut() {
                Some(last) if last.file == self.file && last.offset + last.length == offset => last.length += page,
                _ => ranges.push(Part { file: self.file, offset, length: page }),
            }
        }
    }
}

/// The blocks of a part, if it consists of whole ones.
fn blocks_of(at: u64, length: u64) -> Option<std::ops::Range<u32>> {
    let page = PAGE as u64;
    let whole = at.is_multiple_of(page) && length.is_multiple_of(page);
    whole.then(|| (at / page) as u32..((at + length) / page) as u32)
}

/// The frame with holes where blocks have changed, if enough of it is left.
fn take(frame: &Earlier<'_>, tracked: &mut [Option<Tracked<'_>>]) -> Option<Taken> {
    let page = PAGE as u64;
    let mut parts = Parts::default();
    for (number, at, length) in frame.parts {
        let known = tracked.get(*number as usize).and_then(Option::as_ref).zip(blocks_of(*at, *length));
        let Some((one, blocks)) = known else {
            parts.add(NOWHERE, 0, *length);
            continue;
        };
        for block in blocks {
            match one.is_usable(block) {
                true => parts.add(one.file, u64::from(block) * page, page),
                false => parts.add(NOWHERE, 0, page),
            }
        }
    }
    if parts.used == 0 || parts.used * LEAST_USED < parts.total {
        return None;
    }
    for (number, at, length) in frame.parts {
        let known = tracked.get_mut(*number as usize).and_then(Option::as_mut).zip(blocks_of(*at, *length));
        if let Some((one, blocks)) = known {
            for block in blocks.filter(|block| *block < one.blocks) {
                let usable = one.is_usable(block);
                one.covered[block as usize] |= usable;
            }
        }
    }
    Some(Taken { place: frame.place, digest: frame.digest, parts: parts.list })
}

/// Parts of a frame; what follows on is one.
#[derive(Default)]
struct Parts {
    list: Vec<(u32, u64, u64)>,
    used: u64,
    total: u64,
}

impl Parts {
    fn add(&mut self, file: u32, at: u64, length: u64) {
        self.total += length;
        self.used += if file == NOWHERE { 0 } else { length };
        match self.list.last_mut() {
            Some((last, begin, bytes)) if *last == file && (file == NOWHERE || *begin + *bytes == at) => {
                *bytes += length
            }
            _ => self.list.push((file, at, length)),
        }
    }
}

/// Small files that lay in one frame together are read together again, so that the frame is the same if they are.
struct Groups {
    /// By file, whether it is in a group.
    grouped: Vec<bool>,
    tasks: Vec<Task>,
}

impl Groups {
    fn add(&mut self, frame: &Earlier<'_>, theirs: &Theirs, tracked: &[Option<Tracked<'_>>], files: &[Found]) {
        let whole = |(number, at, length): &(u32, u64, u64)| {
            let (file, size) = (*theirs.files.get(*number as usize)?)?;
            let is_tracked = tracked.get(*number as usize).is_some_and(Option::is_some);
            let same = *at == 0 && *length == size && files[file as usize].size == size && size < FRAME as u64;
            (same && !is_tracked && !self.grouped[file as usize]).then_some(Part { file, offset: 0, length: size })
        };
        let Some(task) = frame.parts.iter().map(whole).collect::<Option<Task>>() else { return };
        for part in &task {
            self.grouped[part.file as usize] = true;
        }
        if !task.is_empty() {
            self.tasks.push(task);
        }
    }
}

/// Damage of the parent that nobody reads again.
fn still_damaged(
    parent: &Manifest,
    files: &[Found],
    tracked: &[Option<Tracked<'_>>],
    pages_per_file: u32,
) -> Vec<DamagedPage> {
    let is_used = |page: &&DamagedPage| {
        let one = tracked.iter().flatten().find(|one| files[one.file as usize].path == page.path);
        let name = page.path.rsplit('/').next().unwrap_or_default();
        let first = relation_file(name).map_or(0, |file| file.segment.saturating_mul(pages_per_file));
        let block = page.block.checked_sub(first).map(|block| block as usize);
        one.zip(block).is_some_and(|(one, block)| one.covered.get(block).copied().unwrap_or_default())
    };
    parent.summary.damaged.iter().filter(is_used).cloned().collect()
}

#[cfg(test)]
mod tests;
