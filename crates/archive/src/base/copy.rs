//! Reading the files and writing the packs: each worker takes slices of files, makes frames of them, and fills a pack of
//! its own, which is uploaded while it grows. A frame that lies in an earlier backup's pack already is not written again.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use bytes::Bytes;
use matriarch_core::Lsn;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::BackupError;
use super::compare::{Place, Taken, Work};
use super::manifest::{DamagedPage, Line};
use super::page::{self, PAGE, Verdict};
use super::scan::Found;
use super::task::{Part, Task};
use crate::archive::Archive;
use crate::format::{FRAME, Header, Kind, Writer, hex, sha256};
use crate::progress::Progress;
use crate::repository::RepositoryError;

/// A pack is closed when it has this many bytes.
const PACK: u64 = 64 << 20;
/// Bytes that are handed to an upload at a time.
const BATCH: usize = 2 << 20;
/// Parts of 8 MiB of one pack that are on their way at a time.
const IN_FLIGHT: usize = 2;

/// What the workers have in common.
struct Job {
    data: PathBuf,
    files: Vec<Found>,
    tasks: Vec<Task>,
    known: HashMap<[u8; 32], Place>,
    next_task: AtomicUsize,
    next_pack: AtomicU32,
    archive: Archive,
    backup: String,
    /// Pages are checked against this start of the backup.
    checksums: Option<Lsn>,
    pages_per_file: u32,
    progress: Progress,
}

/// What was copied.
#[derive(Debug, Default)]
pub struct Copied {
    /// Frames, as the manifest has them.
    pub frames: Vec<Line>,
    /// Frames that lie in packs of earlier backups.
    pub taken: Vec<Taken>,
    /// Bytes of the packs.
    pub stored: u64,
    /// Number of packs.
    pub packs: u32,
    /// Pages that are damaged on disk.
    pub damaged: Vec<DamagedPage>,
    /// Files that were removed before they were read, by their place in the list.
    pub vanished: Vec<u32>,
}

/// What is to be copied, and how.
#[derive(Clone, Debug)]
pub struct Request {
    /// The data directory.
    pub data: PathBuf,
    /// The files.
    pub files: Vec<Found>,
    /// What of them is read.
    pub work: Work,
    /// Name of the backup.
    pub backup: String,
    /// Where the backup began, when pages have checksums.
    pub checksums: Option<Lsn>,
    /// Pages of one file of a relation.
    pub pages_per_file: u32,
    /// Threads.
    pub workers: usize,
    /// Counts the bytes that were read.
    pub progress: Progress,
}

/// Copies the files. When the future is dropped, workers end at their next batch and unfinished packs get no name.
pub async fn copy(archive: &Archive, request: Request) -> Result<Copied, BackupError> {
    let mut copied = Copied { taken: request.work.taken, damaged: request.work.damaged, ..Copied::default() };
    let job = Arc::new(Job {
        tasks: request.work.tasks,
        known: request.work.known,
        data: request.data,
        files: request.files,
        next_task: AtomicUsize::new(0),
        next_pack: AtomicU32::new(0),
        archive: archive.clone(),
        backup: request.backup,
        checksums: request.checksums,
        pages_per_file: request.pages_per_file,
        progress: request.progress,
    });
    let mut all: JoinSet<Result<Option<Copied>, BackupError>> = JoinSet::new();
    for _ in 0..request.workers.max(1) {
        let (sender, receiver) = mpsc::channel(2);
        let (worker_job, upload_job) = (Arc::clone(&job), Arc::clone(&job));
        all.spawn_blocking(move || Worker::run(&worker_job, sender));
        all.spawn(async move { upload(&upload_job, receiver).await.map(|()| None) });
    }
    let mut failed = None;
    while let Some(ended) = all.join_next().await {
        match ended.map_err(|error| BackupError::Worker(error.to_string()))? {
            Ok(None) => {}
            Ok(Some(part)) => copied.take(part),
            // A worker whose upload ended says only that; the upload says why.
            Err(BackupError::UploadEnded) => failed = failed.or(Some(BackupError::UploadEnded)),
            Err(error) => return Err(error),
        }
    }
    if let Some(error) = failed {
        return Err(error);
    }
    copied.packs = job.next_pack.load(Ordering::Relaxed);
    copied.frames.sort_by_key(|line| match line {
        Line::Frame(pack, index, ..) => (*pack, *index),
        Line::Folder(..) | Line::File(..) | Line::Earlier(..) => (0, 0),
    });
    copied.damaged.sort();
    Ok(copied)
}

impl Copied {
    fn take(&mut self, other: Copied) {
        self.frames.extend(other.frames);
        self.taken.extend(other.taken);
        self.stored += other.stored;
        self.damaged.extend(other.damaged);
        self.vanished.extend(other.vanished);
    }
}

/// What a worker tells its upload.
enum Word {
    Begin(u32),
    Bytes(Bytes),
    End,
}

async fn upload(job: &Job, mut words: mpsc::Receiver<Word>) -> Result<(), BackupError> {
    let mut current = None;
    while let Some(word) = words.recv().await {
        match word {
            Word::Begin(number) => {
                let name = job.archive.place().pack(&job.backup, number);
                current = Some(job.archive.repository().upload(&name, IN_FLIGHT).await?);
            }
            Word::Bytes(bytes) => {
                if let Some(upload) = &mut current {
                    upload.write(bytes).await?;
                }
            }
            Word::End => {
                if let Some(upload) = current.take() {
                    upload.finish().await?;
                }
            }
        }
    }
    Ok(())
}

/// The pack that a worker is filling.
struct Pack {
    number: u32,
    name: String,
    writer: Writer,
    /// Bytes of it that were handed over.
    sent: u64,
}

struct Worker<'a> {
    job: &'a Job,
    words: mpsc::Sender<Word>,
    pack: Option<Pack>,
    out: Vec<u8>,
    input: Vec<u8>,
    copied: Copied,
    /// The file that was read last: blocks of one come after each other.
    opened: Option<(u32, Arc<File>)>,
}

impl Worker<'_> {
    fn run(job: &Job, words: mpsc::Sender<Word>) -> Result<Option<Copied>, BackupError> {
        let (pack, out, input) = (None, Vec::new(), Vec::new());
        let mut worker = Worker { job, words, pack, out, input, copied: Copied::default(), opened: None };
        while let Some(task) = job.tasks.get(job.next_task.fetch_add(1, Ordering::Relaxed)) {
            match task.as_slice() {
                [part] => worker.slice(*part)?,
                parts => worker.together(parts)?,
            }
        }
        worker.close()?;
        Ok(Some(worker.copied))
    }

    fn slice(&mut self, part: Part) -> Result<(), BackupError> {
        let Some(file) = self.open(part.file)? else { return Ok(()) };
        let end = part.offset + part.length;
        let mut offset = part.offset;
        while offset < end {
            self.input.clear();
            let length = (end - offset).min(FRAME as u64);
            let read = self.read(&file, Part { offset, length, ..part })?;
            if read > 0 {
                self.frame(vec![(part.file, offset, read)])?;
            }
            if read < length {
                break; // truncated meanwhile; the log says so too
            }
            offset += length;
        }
        Ok(())
    }

    fn together(&mut self, parts: &[Part]) -> Result<(), BackupError> {
        self.input.clear();
        let mut held = Vec::new();
        for part in parts {
            let Some(file) = self.open(part.file)? else { continue };
            let read = self.read(&file, *part)?;
            if read > 0 {
                held.push((part.file, part.offset, read));
            }
        }
        if held.is_empty() { Ok(()) } else { self.frame(held) }
    }

    fn open(&mut self, file: u32) -> Result<Option<Arc<File>>, BackupError> {
        if let Some((_, opened)) = self.opened.as_ref().filter(|(last, _)| *last == file) {
            return Ok(Some(Arc::clone(opened)));
        }
        let path = self.path(file);
        match File::open(&path) {
            Ok(opened) => {
                let opened = Arc::new(opened);
                self.opened = Some((file, Arc::clone(&opened)));
                Ok(Some(opened))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.copied.vanished.push(file);
                Ok(None)
            }
            Err(source) => Err(BackupError::Read { path, source }),
        }
    }

    fn path(&self, file: u32) -> PathBuf {
        self.job.data.join(Path::new(&self.job.files[file as usize].path))
    }

    /// Appends the part to the input; returns how many bytes there were.
    fn read(&mut self, file: &File, part: Part) -> Result<u64, BackupError> {
        let start = self.input.len();
        self.input.resize(start + part.length as usize, 0);
        let read = read_at(file, &mut self.input[start..], part.offset)
            .map_err(|source| BackupError::Read { path: self.path(part.file), source })?;
        self.input.truncate(start + read);
        if let (Some(began), Some(segment)) = (self.job.checksums, self.job.files[part.file as usize].segment) {
            self.check(file, part, start, segment, began)?;
        }
        Ok(read as u64)
    }

    /// A page that the server was writing while it was read is read again. One that stays wrong and that was changed since
    /// the backup began is mended by recovery, from the full image in the log; any other is damaged on disk.
    fn check(&mut self, file: &File, part: Part, start: usize, segment: u32, began: Lsn) -> Result<(), BackupError> {
        let pages = (self.input.len() - start) / PAGE;
        for number in 0..pages {
            let at = start + number * PAGE;
            let offset = part.offset + (number * PAGE) as u64;
            let block = segment * self.job.pages_per_file + (offset / PAGE as u64) as u32;
            let Some(page) = self.input[at..].first_chunk_mut::<PAGE>() else { continue };
            for _ in 0..5 {
                let Verdict::Bad { lsn } = page::check(page, block) else { break };
                if lsn >= began {
                    break;
                }
                std::thread::sleep(std::time::Duration::from_millis(20));
                let path = || self.job.data.join(&self.job.files[part.file as usize].path);
                let read = read_at(file, page, offset).map_err(|source| BackupError::Read { path: path(), source })?;
                if read < PAGE {
                    return Ok(()); // truncated meanwhile
                }
            }
            if let Verdict::Bad { lsn } = page::check(page, block)
                && lsn < began
            {
                let path = self.job.files[part.file as usize].path.clone();
                self.copied.damaged.push(DamagedPage { path, block });
            }
        }
        Ok(())
    }

    /// Makes a frame of the input, unless an earlier backup has it.
    fn frame(&mut self, parts: Vec<(u32, u64, u64)>) -> Result<(), BackupError> {
        let digest = sha256(&self.input);
        self.job.progress.add(self.input.len() as u64);
        if let Some(place) = self.job.known.get(&digest) {
            self.copied.taken.push(Taken { place: *place, digest, parts });
            return Ok(());
        }
        let mut pack = match self.pack.take() {
            Some(pack) => pack,
            None => self.begin()?,
        };
        let before = self.out.len();
        let written = pack.writer.frame(&self.input, false, &mut self.out);
        let index = written.map_err(|error| self.job.archive.error(&pack.name, error))?;
        let (at, length) = (pack.sent + before as u64, (self.out.len() - before) as u64);
        self.copied.frames.push(Line::Frame(pack.number, index, at, length, hex(&digest), parts));
        let full = pack.sent + self.out.len() as u64 >= PACK;
        if self.out.len() >= BATCH {
            self.send(&mut pack)?;
        }
        self.pack = Some(pack);
        if full { self.close() } else { Ok(()) }
    }

    fn begin(&mut self) -> Result<Pack, BackupError> {
        let number = self.job.next_pack.fetch_add(1, Ordering::Relaxed);
        let name = self.job.archive.place().pack(&self.job.backup, number);
        self.say(Word::Begin(number))?;
        self.out.clear();
        let begun = Writer::begin(self.job.archive.style(), Header::new(Kind::Pack, &name, None), &mut self.out);
        let writer = begun.map_err(|error| self.job.archive.error(&name, error))?;
        Ok(Pack { number, name, writer, sent: 0 })
    }

    fn close(&mut self) -> Result<(), BackupError> {
        let Some(mut pack) = self.pack.take() else { return Ok(()) };
        let ended = pack.writer.frame(&[], true, &mut self.out);
        ended.map_err(|error| self.job.archive.error(&pack.name, error))?;
        self.send(&mut pack)?;
        self.copied.stored += pack.sent;
        self.say(Word::End)
    }

    fn send(&mut self, pack: &mut Pack) -> Result<(), BackupError> {
        let bytes = Bytes::from(std::mem::take(&mut self.out));
        pack.sent += bytes.len() as u64;
        self.say(Word::Bytes(bytes))
    }

    fn say(&self, word: Word) -> Result<(), BackupError> {
        self.words.blocking_send(word).map_err(|_| BackupError::UploadEnded)
    }
}

impl From<RepositoryError> for BackupError {
    fn from(error: RepositoryError) -> Self {
        BackupError::Repository(error)
    }
}

/// Reads as much as there is.
fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(read) => done += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}
