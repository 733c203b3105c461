//! The folder behind the disk, and what a power cut would undo.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::Loss;

const PAGE: u64 = 4096;
/// The number of the root, by FUSE's rule.
pub const ROOT: u64 = 1;

/// A change of names.
#[derive(Debug)]
enum Change {
    /// Something appeared here.
    Made(PathBuf),
    /// It went from the first place to the second, where something may have been, which is now kept in the third.
    Moved(PathBuf, PathBuf, Option<PathBuf>),
    /// What was here is kept there.
    Removed(PathBuf, PathBuf),
    /// A folder was here, with this mode and owner.
    RemovedFolder(PathBuf, Metadata),
}

/// What a file held when it was last synchronised, as far as it has been overwritten since.
#[derive(Debug)]
struct Before {
    length: u64,
    pages: BTreeMap<u64, Vec<u8>>,
}

/// The folder.
#[derive(Debug)]
pub struct Files {
    root: PathBuf,
    grave: PathBuf,
    buried: u64,
    paths: HashMap<u64, PathBuf>,
    numbers: HashMap<PathBuf, u64>,
    next: u64,
    handles: HashMap<u64, (u64, File)>,
    unsynced: HashMap<u64, Before>,
    changes: Vec<Change>,
}

impl Files {
    /// Takes a folder as it is.
    pub fn open(root: &Path) -> io::Result<Files> {
        // What is deleted is kept beside it until the power cut that would bring it back can no longer come.
        let grave = root.with_extension("grave");
        let _ = fs::remove_dir_all(&grave);
        fs::create_dir(&grave)?;
        Ok(Files {
            root: root.to_owned(),
            grave,
            buried: 0,
            paths: HashMap::from([(ROOT, root.to_owned())]),
            numbers: HashMap::from([(root.to_owned(), ROOT)]),
            next: ROOT + 1,
            handles: HashMap::new(),
            unsynced: HashMap::new(),
            changes: Vec::new(),
        })
    }

    pub fn path(&self, number: u64) -> io::Result<&PathBuf> {
        self.paths.get(&number).ok_or_else(|| io::Error::from_raw_os_error(rustix::io::Errno::STALE.raw_os_error()))
    }

    /// The path below the root, for matching.
    pub fn shown(&self, number: u64) -> String {
        let path = self.paths.get(&number).map(|path| path.strip_prefix(&self.root).unwrap_or(path));
        path.map(|path| path.display().to_string()).unwrap_or_default()
    }

    pub fn child(&self, parent: u64, name: &OsStr) -> io::Result<PathBuf> {
        Ok(self.path(parent)?.join(name))
    }

    /// The number of what lies at a path, given when it is first seen, with what is known of it.
    pub fn entry(&mut self, path: &Path) -> io::Result<(u64, Metadata)> {
        let metadata = fs::symlink_metadata(path)?;
        let number = *self.numbers.entry(path.to_owned()).or_insert_with(|| {
            self.next += 1;
            self.next - 1
        });
        self.paths.entry(number).or_insert_with(|| path.to_owned());
        Ok((number, metadata))
    }

    pub fn metadata(&self, number: u64) -> io::Result<Metadata> {
        fs::symlink_metadata(self.path(number)?)
    }

    /// Something new lies at a path: it would be gone after a power cut.
    pub fn made(&mut self, path: &Path, owner: (u32, u32)) -> io::Result<(u64, Metadata)> {
        std::os::unix::fs::lchown(path, Some(owner.0), Some(owner.1))?;
        self.changes.push(Change::Made(path.to_owned()));
        self.entry(path)
    }

    pub fn open_handle(&mut self, number: u64, truncate: bool) -> io::Result<u64> {
        let path = self.path(number)?.clone();
        // Whatever the opener may do, we must read what a write will overwrite.
        let file = OpenOptions::new().read(true).write(true).open(&path).or_else(|_| File::open(&path))?;
        if truncate {
            self.resize(number, 0)?;
        }
        self.next += 1;
        self.handles.insert(self.next, (number, file));
        Ok(self.next)
    }

    pub fn close_handle(&mut self, handle: u64) {
        self.handles.remove(&handle);
    }

    fn handle(&self, handle: u64) -> io::Result<(u64, &File)> {
        let found = self.handles.get(&handle);
        found.map(|(number, file)| (*number, file)).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))
    }

    pub fn read(&self, handle: u64, offset: u64, size: usize) -> io::Result<Vec<u8>> {
        read_up_to(self.handle(handle)?.1, offset, size)
    }

    pub fn write(&mut self, handle: u64, offset: u64, data: &[u8]) -> io::Result<()> {
        let (number, file) = self.handle(handle)?;
        let file = file.try_clone()?;
        self.remember(number, &file, offset, offset + data.len() as u64)?;
        file.write_all_at(data, offset)
    }

    pub fn allocate(&mut self, handle: u64, offset: u64, length: u64) -> io::Result<()> {
        let (number, file) = self.handle(handle)?;
        let file = file.try_clone()?;
        self.remember(number, &file, offset, offset)?;
        if file.metadata()?.len() < offset + length {
            file.set_len(offset + length)?;
        }
        Ok(())
    }

    pub fn resize(&mut self, number: u64, length: u64) -> io::Result<()> {
        let file = OpenOptions::new().read(true).write(true).open(self.path(number)?)?;
        self.remember(number, &file, length, file.metadata()?.len())?;
        file.set_len(length)
    }

    /// Keeps what lies between two places, unless it is known from before.
    fn remember(&mut self, number: u64, file: &File, from: u64, to: u64) -> io::Result<()> {
        let length = file.metadata()?.len();
        let before = self.unsynced.entry(number).or_insert_with(|| Before { length, pages: BTreeMap::new() });
        for page in from / PAGE..to.div_ceil(PAGE) {
            // What lay beyond the old end was not there.
            if page * PAGE < before.length && !before.pages.contains_key(&page) {
                before.pages.insert(page, read_up_to(file, page * PAGE, PAGE as usize)?);
            }
        }
        Ok(())
    }

    /// All that was written to the file lasts from now on, and every change of names before.
    pub fn synced(&mut self, number: u64) {
        self.unsynced.remove(&number);
        self.changes.clear();
    }

    pub fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let replaced = match fs::symlink_metadata(to) {
            Ok(metadata) if !metadata.is_dir() => Some(self.bury(to)?),
            _ => None,
        };
        fs::rename(from, to)?;
        let moved: Vec<(PathBuf, u64)> = self.numbers.extract_if(|path, _| path.starts_with(from)).collect();
        for (path, number) in moved {
            let rest = path.strip_prefix(from).expect("it starts with it");
            let path = if rest.as_os_str().is_empty() { to.to_owned() } else { to.join(rest) };
            self.paths.insert(number, path.clone());
            self.numbers.insert(path, number);
        }
        self.changes.push(Change::Moved(from.to_owned(), to.to_owned(), replaced));
        Ok(())
    }

    pub fn unlink(&mut self, path: &Path) -> io::Result<()> {
        let kept = self.bury(path)?;
        self.changes.push(Change::Removed(path.to_owned(), kept));
        Ok(())
    }

    pub fn remove_folder(&mut self, path: &Path) -> io::Result<()> {
        let metadata = fs::symlink_metadata(path)?;
        fs::remove_dir(path)?;
        if let Some(number) = self.numbers.remove(path) {
            self.paths.remove(&number);
        }
        self.changes.push(Change::RemovedFolder(path.to_owned(), metadata));
        Ok(())
    }

    /// Takes a file out of sight; who has it open goes on with it.
    fn bury(&mut self, path: &Path) -> io::Result<PathBuf> {
        self.buried += 1;
        let place = self.grave.join(self.buried.to_string());
        fs::rename(path, &place)?;
        if let Some(number) = self.numbers.remove(path) {
            // It may have another name, by a link.
            let other = self.numbers.iter().find(|(_, other)| **other == number).map(|(path, _)| path.clone());
            self.paths.insert(number, other.unwrap_or_else(|| place.clone()));
        }
        Ok(place)
    }

    /// A second name for a file.
    pub fn link(&mut self, number: u64, to: &Path) -> io::Result<(u64, Metadata)> {
        fs::hard_link(self.path(number)?, to)?;
        self.numbers.insert(to.to_owned(), number);
        self.changes.push(Change::Made(to.to_owned()));
        Ok((number, fs::symlink_metadata(to)?))
    }

    pub fn symlink(&mut self, target: &Path, path: &Path, owner: (u32, u32)) -> io::Result<(u64, Metadata)> {
        symlink(target, path)?;
        self.made(path, owner)
    }

    /// Undoes what was not synchronised. Returns how many files and names that changed.
    pub fn power_cut(&mut self, loss: Loss) -> io::Result<usize> {
        self.handles.clear();
        let mut coins = match loss {
            Loss::All => None,
            Loss::Some(seed) => Some(SmallRng::seed_from_u64(seed)),
        };
        let mut lost = 0;
        for (number, before) in std::mem::take(&mut self.unsynced) {
            let Some(path) = self.paths.get(&number).filter(|path| path.is_file()) else { continue };
            let file = OpenOptions::new().read(true).write(true).open(path)?;
            before.put_back(&file, coins.as_mut())?;
            lost += 1;
        }
        // Names go back to one moment: all that came after it is undone.
        let all = self.changes.len();
        let kept = coins.as_mut().map_or(0, |coins| coins.random_range(0..=all));
        for change in self.changes.drain(kept..).rev() {
            lost += 1;
            change.undo()?;
        }
        Ok(lost)
    }
}

impl Before {
    fn put_back(&self, file: &File, mut coins: Option<&mut SmallRng>) -> io::Result<()> {
        let mut stays = || coins.as_mut().is_some_and(|coins| coins.random());
        let length = file.metadata()?.len();
        for (page, bytes) in &self.pages {
            if !stays() {
                file.write_all_at(bytes, page * PAGE)?;
            }
        }
        if length < self.length || (length > self.length && !stays()) {
            file.set_len(self.length)?;
        }
        Ok(())
    }
}

impl Change {
    fn undo(self) -> io::Result<()> {
        match self {
            Change::Made(path) if path.is_dir() && !path.is_symlink() => fs::remove_dir_all(path),
            Change::Made(path) => fs::remove_file(path),
            Change::Moved(from, to, replaced) => {
                fs::rename(&to, &from)?;
                replaced.map_or(Ok(()), |kept| fs::rename(kept, to))
            }
            Change::Removed(path, kept) => fs::rename(kept, path),
            Change::RemovedFolder(path, metadata) => {
                fs::create_dir(&path)?;
                fs::set_permissions(&path, metadata.permissions())?;
                std::os::unix::fs::chown(&path, Some(metadata.uid()), Some(metadata.gid()))
            }
        }
    }
}

fn read_up_to(file: &File, offset: u64, size: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; size];
    let mut filled = 0;
    while filled < size {
        match file.read_at(&mut bytes[filled..], offset + filled as u64)? {
            0 => break,
            count => filled += count,
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}
