//! What an unfinished restore has written already.
//!
//! Nothing is believed that was not read: the parts of a frame that lie in the files must have the digest that the manifest has.
//! So it does not matter what a crash has kept of what was not synced yet. A frame that an incremental backup uses only in part
//! has no such digest; of those the restore notes one of its own as it writes them.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::digest::{Context, SHA256};
use futures_util::{StreamExt, TryStreamExt, stream};

use super::write::Tree;
use super::{RestoreError, blocking};
use crate::base::{Line, NOWHERE};
use crate::packs::{Frame, Packs};
use crate::progress::Progress;

/// Beside the record: digests, 32 bytes each, of the parts of frames that are used in part, and of WAL.
pub const NOTES: &str = "matriarch_restoring.parts";
const DIGEST: usize = 32;
/// Frames that a thread looks at before the next one is begun: so long a restore that is given up goes on reading.
const AT_A_TIME: usize = 32;

/// Digests of what was written of frames that are used in part, and of WAL that no object of ours tells the digest of. One says
/// which frame and which parts it is of, so it does not matter in which order they are, nor whether all of them are there.
#[derive(Debug)]
pub struct Notes {
    path: PathBuf,
    known: HashSet<[u8; DIGEST]>,
    file: Mutex<File>,
}

impl Notes {
    /// Reads what is there, to which more is added.
    pub fn open(data: &Path) -> Result<Notes, RestoreError> {
        let path = data.join(NOTES);
        let open = || -> io::Result<(HashSet<[u8; DIGEST]>, File)> {
            let mut file = File::options().read(true).append(true).create(true).mode(0o600).open(&path)?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            let (known, _) = bytes.as_chunks::<DIGEST>();
            // One that was cut off would shift those that follow it.
            file.set_len((known.len() * DIGEST) as u64)?;
            Ok((known.iter().copied().collect(), file))
        };
        let (known, file) = open().map_err(RestoreError::write(&path))?;
        Ok(Notes { path, known, file: Mutex::new(file) })
    }

    /// Keeps in mind what was written of a frame, where its own digest does not say.
    pub fn add(&self, frame: &Frame, content: &[u8]) -> Result<(), RestoreError> {
        if frame.is_whole() {
            return Ok(());
        }
        let mut used = Vec::with_capacity(content.len());
        let mut rest = content;
        for (file, _, length) in &frame.parts {
            let (part, after) = rest.split_at((*length as usize).min(rest.len()));
            if *file != NOWHERE {
                used.extend_from_slice(part);
            }
            rest = after;
        }
        self.note(&digest(frame, &used))
    }

    /// Keeps in mind what a file of the WAL holds.
    pub fn add_wal(&self, name: &str, content: &[u8]) -> Result<(), RestoreError> {
        self.note(&digest_of_wal(name, content))
    }

    /// Whether an earlier try has written this very content.
    pub fn has_wal(&self, name: &str, content: &[u8]) -> bool {
        self.known.contains(&digest_of_wal(name, content))
    }

    fn note(&self, digest: &[u8; DIGEST]) -> Result<(), RestoreError> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.write_all(digest).map_err(RestoreError::write(&self.path))
    }
}

fn digest_of_wal(name: &str, content: &[u8]) -> [u8; DIGEST] {
    let mut context = Context::new(&SHA256);
    context.update(name.as_bytes());
    context.update(content);
    finished(context)
}

fn finished(context: Context) -> [u8; DIGEST] {
    let mut out = [0; DIGEST];
    out.copy_from_slice(context.finish().as_ref());
    out
}

/// Of the parts of a frame that are used, and of where they belong.
fn digest(frame: &Frame, used: &[u8]) -> [u8; DIGEST] {
    let mut context = Context::new(&SHA256);
    context.update(frame.digest().as_bytes());
    for (file, at, length) in &frame.parts {
        context.update(&file.to_le_bytes());
        context.update(&at.to_le_bytes());
        context.update(&length.to_le_bytes());
    }
    context.update(used);
    finished(context)
}

/// The frames that are not in the files yet. `progress` is told of those that are.
pub async fn missing(
    packs: Packs,
    lines: &[Line],
    tree: &Arc<Tree>,
    notes: &Arc<Notes>,
    (workers, progress): (usize, &Progress),
) -> Result<Packs, RestoreError> {
    let torn = uncovered(lines);
    let clearing = Arc::clone(tree);
    blocking(move || torn.into_iter().try_for_each(|file| clearing.begin_anew(file))).await?;
    let mut frames: Vec<(Arc<str>, Frame)> = Vec::new();
    for (name, found) in packs {
        let name: Arc<str> = name.into();
        frames.extend(found.into_iter().map(|frame| (Arc::clone(&name), frame)));
    }
    // As they lie in the files, not as the packs have them.
    frames.sort_by_key(|(_, frame)| frame.parts.iter().find(|part| part.0 != NOWHERE).map(|part| (part.0, part.1)));
    let mut frames = frames.into_iter();
    let groups = std::iter::from_fn(move || {
        let group: Vec<_> = frames.by_ref().take(AT_A_TIME).collect();
        (!group.is_empty()).then_some(group)
    });
    let looks = stream::iter(groups).map(|group| {
        let (tree, notes, progress) = (Arc::clone(tree), Arc::clone(notes), progress.clone());
        blocking(move || Ok(look(group, &tree, &notes, &progress)))
    });
    let left: Vec<Vec<(Arc<str>, Frame)>> = looks.buffer_unordered(workers.max(1)).try_collect().await?;
    let mut packs = Packs::new();
    for (name, frame) in left.into_iter().flatten() {
        packs.entry(name.to_string()).or_default().push(frame);
    }
    packs.values_mut().for_each(|frames| frames.sort_by_key(Frame::at));
    Ok(packs)
}

/// Those of a group that are not there.
fn look(group: Vec<(Arc<str>, Frame)>, tree: &Tree, notes: &Notes, progress: &Progress) -> Vec<(Arc<str>, Frame)> {
    let (mut opened, mut buffer) = (None, Vec::new());
    let mut left = Vec::new();
    for (name, frame) in group {
        match is_there(&frame, tree, notes, &mut opened, &mut buffer) {
            true => progress.found(frame.used()),
            false => left.push((name, frame)),
        }
    }
    left
}

fn is_there(frame: &Frame, tree: &Tree, notes: &Notes, opened: &mut Option<(u32, File)>, buffer: &mut Vec<u8>) -> bool {
    buffer.clear();
    for (file, at, length) in frame.parts.iter().filter(|part| part.0 != NOWHERE) {
        if opened.as_ref().is_none_or(|(last, _)| last != file) {
            *opened = tree.open(*file).map(|found| (*file, found));
        }
        let Some((_, found)) = opened else { return false };
        let begin = buffer.len();
        buffer.resize(begin + *length as usize, 0);
        if found.read_exact_at(&mut buffer[begin..], *at).is_err() {
            return false;
        }
    }
    match frame.is_whole() {
        true => frame.fits(buffer),
        false => notes.known.contains(&digest(frame, buffer)),
    }
}

/// Files of which some bytes are in no frame: those are zero, and no digest says so of what lies there.
fn uncovered(lines: &[Line]) -> Vec<u32> {
    let mut open: BTreeMap<u32, u64> = BTreeMap::new();
    let mut number = 0;
    for line in lines {
        match line {
            Line::File(_, size, _) => {
                open.insert(number, *size);
                number += 1;
            }
            Line::Frame(.., parts) | Line::Earlier(.., parts) => {
                for (file, _, length) in parts {
                    if let Some(left) = open.get_mut(file) {
                        *left = left.saturating_sub(*length);
                    }
                }
            }
            Line::Folder(..) => {}
        }
    }
    open.into_iter().filter(|(_, left)| *left > 0).map(|(file, _)| file).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_outlast_a_crash_in_the_middle_of_one() {
        let dir = tempfile::tempdir().unwrap();
        let frame = |at| Frame::of_parts(vec![(0, at, 3), (NOWHERE, 0, 2)]);
        let notes = Notes::open(dir.path()).unwrap();
        notes.add(&frame(0), b"abcde").unwrap();
        notes.add(&Frame::of_parts(vec![(0, 0, 3)]), b"abc").unwrap();
        drop(notes);
        let path = dir.path().join(NOTES);
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 32, "a whole frame has its digest in the manifest");
        File::options().append(true).open(&path).unwrap().write_all(b"torn").unwrap();
        Notes::open(dir.path()).unwrap().add(&frame(8), b"fghij").unwrap();
        let notes = Notes::open(dir.path()).unwrap();
        let holds = |frame: &Frame, used: &[u8]| notes.known.contains(&digest(frame, used));
        assert!(holds(&frame(0), b"abc") && holds(&frame(8), b"fgh"));
        assert!(!holds(&frame(8), b"abc"), "another place is another content");
        assert!(!holds(&frame(0), b"abd"));
        notes.add_wal("1", b"wal").unwrap();
        let notes = Notes::open(dir.path()).unwrap();
        assert!(notes.has_wal("1", b"wal") && !notes.has_wal("2", b"wal") && !notes.has_wal("1", b"was"));
    }

    #[test]
    fn files_with_gaps_are_known() {
        let file = |size| Line::File("f".into(), size, 0o600);
        let lines = vec![
            file(10),
            file(10),
            file(0),
            Line::Frame(0, 0, 0, 0, String::new(), vec![(0, 0, 10), (1, 0, 4)]),
            Line::Earlier(0, 0, 0, 0, 0, String::new(), vec![(1, 6, 4), (NOWHERE, 0, 2)]),
        ];
        assert_eq!(uncovered(&lines), [1]);
    }
}
