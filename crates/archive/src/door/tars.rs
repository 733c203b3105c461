//! Backups that are tars: several at a time, entry by entry into the new directory.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aws_lc_rs::digest::{Context, SHA256};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::codec::Codec;
use super::stream::{self, Stream};
use super::tar::{self, Entry, Kind};
use super::{LABEL, Unfit, is_left_out};
use crate::base::CONTROL;
use crate::format::{self, hex};
use crate::repository::Repository;
use crate::restore::written::{Line, What};
use crate::restore::{Last, Onto, RestoreError};

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

/// How much of a tar is there already.
#[derive(Debug, Default)]
struct There {
    /// Where the rest begins.
    end: u64,
    /// There is no rest.
    is_all: bool,
    /// The paths of what is there.
    paths: BTreeSet<String>,
}

/// A directory that tars are unpacked into.
#[derive(Clone)]
pub struct Unpacking {
    repository: Repository,
    onto: Onto,
    unseal: Unseal,
    /// Nothing is encrypted, so that a tar that is not compressed either can be read from any of its entries on.
    is_plain: bool,
    kept: Arc<Mutex<BTreeMap<String, Vec<u8>>>>,
}

impl Unpacking {
    pub fn new(repository: &Repository, onto: &Onto, unseal: Unseal, is_plain: bool) -> Unpacking {
        Unpacking { repository: repository.clone(), onto: onto.clone(), unseal, is_plain, kept: Arc::default() }
    }

    /// Unpacks tars whose files do not depend on each other; the paths that each has.
    pub async fn all(&self, parts: Vec<Part>, rule: &Rule) -> Result<BTreeMap<String, BTreeSet<String>>, RestoreError> {
        let turns = Arc::new(Semaphore::new(self.onto.workers.max(1)));
        let mut working: JoinSet<Result<(String, BTreeSet<String>), RestoreError>> = JoinSet::new();
        let mut seen = BTreeMap::new();
        for part in parts {
            let turn = Arc::clone(&turns).acquire_owned().await;
            let turn = turn.map_err(|error| RestoreError::Worker(error.to_string()))?;
            let (own, rule) = (self.clone(), Arc::clone(rule));
            working.spawn(async move {
                let _turn = turn;
                let (repository, object) = (own.repository.clone(), part.object.clone());
                let (looking, looked) = (own.clone(), part.clone());
                let there = tokio::task::spawn_blocking(move || looking.there(&looked)).await;
                let there = there.map_err(|error| RestoreError::Worker(error.to_string()))?;
                let there = there.map_err(|unfit| unfit.about(&repository, &object))?;
                if there.is_all {
                    return Ok((object, there.paths));
                }
                let (size, from) = (repository.size(&object).await?, there.end);
                let work = move |stream| own.part(&part, stream, &rule, there);
                let paths = stream::take(&repository, &object, from..size, work).await?;
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

    /// How much of a tar an earlier try has written. What is found so counts as written.
    fn there(&self, part: &Part) -> Result<There, Unfit> {
        let mut there = There::default();
        let lines = self.onto.written.of(&part.object);
        let is_whole = lines.last().is_some_and(|line| line.what == What::End);
        let can_begin_inside = self.is_plain && part.codec == Codec::Plain;
        if !is_whole && !can_begin_inside {
            return Ok(there);
        }
        let mut good = 0;
        for line in &lines {
            if !self.is_good(&line.what)? {
                break;
            }
            good += 1;
        }
        if good < lines.len() && !can_begin_inside {
            return Ok(there);
        }
        for line in &lines[..good] {
            match &line.what {
                What::End => there.is_all = true,
                What::Passed { .. } => {}
                What::Folder { path, mode } => self.onto.tree.folder_at(path, *mode)?,
                What::File { path, mode, size, .. } => {
                    self.onto.tree.keep_at(path, *mode)?;
                    self.onto.progress.found(*size);
                }
                What::Kept { path, content, .. } => {
                    let content = STANDARD.decode(content).unwrap_or_default();
                    self.kept().insert(path.clone(), content);
                }
            }
            there.paths.extend(line.what.path().map(str::to_owned));
            there.end = line.end;
        }
        Ok(there)
    }

    /// Whether an entry is as it was noted.
    fn is_good(&self, what: &What) -> Result<bool, Unfit> {
        let (path, size, expected) = match what {
            What::End | What::Passed { .. } | What::Folder { .. } => return Ok(true),
            What::Kept { content, sha256, .. } => {
                return Ok(STANDARD.decode(content).is_ok_and(|content| hex(&format::sha256(&content)) == *sha256));
            }
            What::File { path, size, sha256, .. } => (path, *size, sha256),
        };
        let Some(mut file) = self.onto.tree.left_at(path)? else { return Ok(false) };
        if file.metadata().map_or(u64::MAX, |meta| meta.len()) != size {
            return Ok(false);
        }
        let (mut context, mut buffer) = (Context::new(&SHA256), vec![0; 256 << 10]);
        loop {
            match file.read(&mut buffer) {
                Ok(0) => return Ok(hex(context.finish().as_ref()) == *expected),
                Ok(read) => context.update(&buffer[..read]),
                Err(_) => return Ok(false),
            }
        }
    }

    fn part(&self, part: &Part, stream: Stream, rule: &Rule, there: There) -> Result<BTreeSet<String>, Unfit> {
        let There { mut paths, end, .. } = there;
        let note = |start, end, what| {
            let object = part.object.clone();
            self.onto.written.note(&Line { object, start, end, what })
        };
        let unsealed = (self.unseal)(stream, part.codec)?;
        let end = tar::read(part.codec.reader(unsealed)?, end, |entry, content| {
            let path = match (part.below.as_str(), entry.path.as_str()) {
                ("", path) => path.to_owned(),
                (below, "") => below.to_owned(),
                (below, path) => format!("{below}/{path}"),
            };
            let what = self.entry(&path, entry, content, rule).map_err(|unfit| match unfit {
                Unfit::Content(why) => Unfit::Content(format!("{path}: {why}")),
                unfit => unfit,
            })?;
            if let Some(what) = what {
                note(entry.start, entry.end, what)?;
            }
            paths.insert(path);
            Ok(())
        })?;
        note(end, end, What::End)?;
        Ok(paths)
    }

    /// What is to be noted of it; nothing where it cannot be seen later whether it is as it must be.
    fn entry(&self, path: &str, entry: &Entry, content: &mut dyn Read, rule: &Rule) -> Result<Option<What>, Unfit> {
        let fate = if is_left_out(path) { Fate::Skip } else { rule(path) };
        let (path, mode) = (path.to_owned(), entry.mode);
        match (entry.kind, fate) {
            (Kind::File, _) if path == CONTROL || path == LABEL => {
                let mut bytes = Vec::new();
                content.take(1 << 20).read_to_end(&mut bytes)?;
                let whole = bytes.len() as u64 == entry.size;
                let (content, sha256) = (STANDARD.encode(&bytes), hex(&format::sha256(&bytes)));
                self.kept().insert(path.clone(), bytes);
                Ok(whole.then_some(What::Kept { path, content, sha256 }))
            }
            (Kind::Other, _) | (_, Fate::Skip) => Ok(Some(What::Passed { path })),
            (Kind::Folder, _) => {
                self.onto.tree.folder_at(&path, mode)?;
                Ok(Some(What::Folder { path, mode }))
            }
            (Kind::File, Fate::Write) => {
                let (size, sha256) = self.whole(&path, entry, content)?;
                Ok((size == entry.size).then_some(What::File { path, mode, size, sha256 }))
            }
            (Kind::File, Fate::Change) => {
                self.changed(&path, entry.size, content)?;
                Ok(None)
            }
        }
    }

    /// How many bytes it has, and their digest.
    fn whole(&self, path: &str, entry: &Entry, content: &mut dyn Read) -> Result<(u64, String), Unfit> {
        let mut file = self.onto.tree.file_at(path, entry.mode)?;
        let (mut context, mut buffer, mut size) = (Context::new(&SHA256), vec![0; 256 << 10], 0);
        loop {
            let read = content.read(&mut buffer)?;
            if read == 0 {
                return Ok((size, hex(context.finish().as_ref())));
            }
            context.update(&buffer[..read]);
            file.write(&buffer[..read])?;
            size += read as u64;
            self.onto.progress.add(read as u64);
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
        let mut file = self.onto.tree.known_at(path)?;
        let mut block = [0; BLOCK];
        for number in numbers.chunks_exact(4) {
            let number = number.iter().rev().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
            if number >= size.div_ceil(BLOCK as u64) {
                return Err(Unfit::Content(format!("it has block {number} of a file of {size} bytes")));
            }
            content.read_exact(&mut block)?;
            file.write_at(&block, number * BLOCK as u64)?;
            self.onto.progress.add(BLOCK as u64);
        }
        Ok(file.set_len(size)?)
    }
}
