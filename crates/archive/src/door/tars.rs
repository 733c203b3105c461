//! Backups that are tars: several at a time, entry by entry into the new directory.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::codec::Codec;
use super::stream::{self, Stream};
use super::tar::{self, Entry, Kind};
use super::{LABEL, Unfit, is_left_out};
use crate::base::CONTROL;
use crate::progress::Progress;
use crate::repository::Repository;
use crate::restore::{Last, RestoreError, Tree};

/// A tar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    pub object: String,
    pub codec: Codec,
    /// Where its paths begin, below the data directory: a tablespace's tar knows only itself.
    pub below: String,
}

/// What becomes of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is in a later backup, or gone.
    Skip,
    /// It is whole.
    Write,
    /// It is what has changed of it.
    Change,
}

/// Decides by the path.
pub type Rule = Arc<dyn Fn(&str) -> Fate + Send + Sync>;

/// Makes bytes of that compression of an object's.
pub type Unseal = Arc<dyn Fn(Stream, Codec) -> Result<Box<dyn Read>, Unfit> + Send + Sync>;

/// A directory that tars are unpacked into.
#[derive(Clone)]
pub struct Unpacking {
    pub repository: Repository,
    pub tree: Arc<Tree>,
    pub progress: Progress,
    pub workers: usize,
    pub unseal: Unseal,
    kept: Arc<Mutex<BTreeMap<String, Vec<u8>>>>,
}

impl Unpacking {
    pub fn new(
        repository: &Repository,
        tree: &Arc<Tree>,
        workers: usize,
        progress: &Progress,
        unseal: Unseal,
    ) -> Unpacking {
        let (repository, tree, progress) = (repository.clone(), Arc::clone(tree), progress.clone());
        Unpacking { repository, tree, progress, workers: workers.max(1), unseal, kept: Arc::default() }
    }

    /// Unpacks tars whose files do not depend on each other; the paths that each has.
    pub async fn all(&self, parts: Vec<Part>, rule: &Rule) -> Result<BTreeMap<String, BTreeSet<String>>, RestoreError> {
        let turns = Arc::new(Semaphore::new(self.workers));
        let mut working: JoinSet<Result<(String, BTreeSet<String>), RestoreError>> = JoinSet::new();
        let mut seen = BTreeMap::new();
        for part in parts {
            let turn = Arc::clone(&turns).acquire_owned().await;
            let turn = turn.map_err(|error| RestoreError::Worker(error.to_string()))?;
            let (own, rule) = (self.clone(), Arc::clone(rule));
            working.spawn(async move {
                let _turn = turn;
                let (repository, object) = (own.repository.clone(), part.object.clone());
                let work = move |stream| own.part(&part, stream, &rule);
                let size = repository.size(&object).await?;
                let paths = stream::take(&repository, &object, 0..size, work).await?;
                Ok((object, paths))
            });
            while let Some(ended) = working.try_join_next() {
                seen.extend([ended.map_err(|error| RestoreError::Worker(error.to_string()))??]);
            }
        }
        while let Some(ended) = working.join_next().await {
            seen.extend([ended.map_err(|error| RestoreError::Worker(error.to_string()))??]);
        }
        Ok(seen)
    }

    /// The files that come last.
    pub fn last(&self) -> Last {
        let mut kept = self.kept();
        let mut of = |name: &str| kept.remove(name).unwrap_or_default();
        Last { label: String::from_utf8_lossy(&of(LABEL)).into_owned(), control: of(CONTROL) }
    }

    fn kept(&self) -> MutexGuard<'_, BTreeMap<String, Vec<u8>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn part(&self, part: &Part, stream: Stream, rule: &Rule) -> Result<BTreeSet<String>, Unfit> {
        let mut paths = BTreeSet::new();
        let unsealed = (self.unseal)(stream, part.codec)?;
        tar::read(part.codec.reader(unsealed)?, |entry, content| {
            let path = match (part.below.as_str(), entry.path.as_str()) {
                ("", path) => path.to_owned(),
                (below, "") => below.to_owned(),
                (below, path) => format!("{below}/{path}"),
            };
            self.entry(&path, entry, content, rule).map_err(|unfit| match unfit {
                Unfit::Content(why) => Unfit::Content(format!("{path}: {why}")),
                unfit => unfit,
            })?;
            paths.insert(path);
            Ok(())
        })?;
        Ok(paths)
    }

    fn entry(&self, path: &str, entry: &Entry, content: &mut dyn Read, rule: &Rule) -> Result<(), Unfit> {
        if is_left_out(path) {
            return Ok(());
        }
        match entry.kind {
            Kind::Other => Ok(()),
            Kind::Folder if rule(path) == Fate::Skip => Ok(()),
            Kind::Folder => self.tree.folder_at(path, entry.mode),
            Kind::File if path == CONTROL || path == LABEL => {
                let mut bytes = Vec::new();
                content.take(1 << 20).read_to_end(&mut bytes)?;
                self.kept().insert(path.to_owned(), bytes);
                Ok(())
            }
            Kind::File => match rule(path) {
                Fate::Skip => Ok(()),
                Fate::Write => self.whole(path, entry, content),
                Fate::Change => self.changed(path, entry.size, content),
            },
        }
    }

    fn whole(&self, path: &str, entry: &Entry, content: &mut dyn Read) -> Result<(), Unfit> {
        let mut file = self.tree.file_at(path, entry.mode)?;
        let mut buffer = vec![0; 256 << 10];
        loop {
            let read = content.read(&mut buffer)?;
            if read == 0 {
                return Ok(());
            }
            file.write(&buffer[..read])?;
            self.progress.add(read as u64);
        }
    }

    /// WAL-G's increments: the size of the file, the numbers of the blocks that have changed, and these.
    fn changed(&self, path: &str, stored: u64, content: &mut dyn Read) -> Result<(), Unfit> {
        const MAGIC: &[u8; 4] = b"wi1\x55";
        const BLOCK: usize = 8192;
        let mut head = [0; 16];
        content.read_exact(&mut head)?;
        let (magic, rest) = head.split_at(4);
        if magic != MAGIC {
            return Err(Unfit::Content("it is no increment of a kind that is known here".to_owned()));
        }
        let size = rest.iter().take(8).rev().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
        let count = rest.iter().skip(8).rev().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
        if stored != 16 + count * (4 + BLOCK as u64) {
            return Err(Unfit::Content(format!("it claims {count} changed blocks and has {stored} bytes")));
        }
        let mut numbers = vec![0; count as usize * 4];
        content.read_exact(&mut numbers)?;
        let mut file = self.tree.known_at(path)?;
        let mut block = [0; BLOCK];
        for number in numbers.chunks_exact(4) {
            let number = number.iter().rev().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
            if number >= size.div_ceil(BLOCK as u64) {
                return Err(Unfit::Content(format!("it has block {number} of a file of {size} bytes")));
            }
            content.read_exact(&mut block)?;
            file.write_at(&block, number * BLOCK as u64)?;
            self.progress.add(BLOCK as u64);
        }
        Ok(file.set_len(size)?)
    }
}
