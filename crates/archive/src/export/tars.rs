//! Writing the tars, several at a time: of each, a task fetches content, a thread makes the tar and compresses it, and a task
//! uploads.

use std::io::{self, Write};
use std::sync::Arc;

use bytes::Bytes;
use flate2::write::GzEncoder;
use matriarch_postgres::conf;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use super::layout::{DATA, File, Tar};
use super::{Compression, ExportError};
use crate::archive::Archive;
use crate::base::CONTROL;
use crate::door::tar::write::Builder;
use crate::door::{LABEL, Outlet};
use crate::packs::in_order::{Contents, Fetched, Take};
use crate::progress::Progress;
use crate::repository::RepositoryError;
use crate::restore::{Last, without_ours};

/// Bytes that are handed to an upload at a time.
const BATCH: usize = 1 << 20;
/// Parts of one tar that are on their way at a time.
const IN_FLIGHT: usize = 2;
/// Settings are small; what is larger is left as it is.
const SETTINGS: u64 = 4 << 20;

/// What all tars have in common.
#[derive(Debug)]
pub struct Job {
    pub archive: Archive,
    pub outlet: Outlet,
    pub id: String,
    pub compression: Compression,
    /// Of all entries, in seconds since 1970.
    pub time: u64,
    pub contents: Contents,
    pub files: Vec<File>,
    pub last: Last,
    pub progress: Progress,
}

/// Writes the tars; how many bytes they have.
pub async fn write(job: Job, tars: Vec<Tar>, workers: usize) -> Result<u64, ExportError> {
    let (job, turns) = (Arc::new(job), Arc::new(Semaphore::new(workers.max(1))));
    let mut all: JoinSet<Result<u64, ExportError>> = JoinSet::new();
    let mut stored = 0;
    for tar in tars {
        let turn = Arc::clone(&turns).acquire_owned().await;
        let turn = turn.map_err(|error| ExportError::Worker(error.to_string()))?;
        let job = Arc::clone(&job);
        all.spawn(async move {
            let _turn = turn;
            one(job, tar).await
        });
        while let Some(ended) = all.try_join_next() {
            stored += ended.map_err(|error| ExportError::Worker(error.to_string()))??;
        }
    }
    while let Some(ended) = all.join_next().await {
        stored += ended.map_err(|error| ExportError::Worker(error.to_string()))??;
    }
    Ok(stored)
}

/// What whoever makes a tar tells its upload. One that only stops has failed.
enum Word {
    Bytes(Bytes),
    End,
}

async fn one(job: Arc<Job>, tar: Tar) -> Result<u64, ExportError> {
    let (fetched, taken) = mpsc::channel(1);
    let (words, told) = mpsc::channel(2);
    let name = job.outlet.tar_of(&job.id, &tar.what, tar.number, job.compression.ending());
    let mut parts: JoinSet<Result<u64, ExportError>> = JoinSet::new();
    let (fetching, files) = (Arc::clone(&job), tar.files.clone());
    parts.spawn(async move {
        fetching.contents.fetch(&fetching.archive, &files, fetched).await;
        Ok(0)
    });
    let making = Arc::clone(&job);
    parts.spawn_blocking(move || make(&making, &tar, taken, words).map(|()| 0));
    parts.spawn(async move { upload(&job.outlet, &name, told).await });
    let (mut stored, mut failed) = (0, None);
    while let Some(ended) = parts.join_next().await {
        match ended.map_err(|error| ExportError::Worker(error.to_string()))? {
            Ok(bytes) => stored += bytes,
            Err(ExportError::Ended) => failed = Some(ExportError::Ended),
            Err(error) => return Err(error),
        }
    }
    failed.map_or(Ok(stored), Err)
}

async fn upload(outlet: &Outlet, name: &str, mut words: mpsc::Receiver<Word>) -> Result<u64, ExportError> {
    let mut upload = outlet.repository().upload(name, IN_FLIGHT).await?;
    let mut bytes = 0;
    while let Some(word) = words.recv().await {
        match word {
            Word::Bytes(more) => {
                bytes += more.len() as u64;
                upload.write(more).await?;
            }
            Word::End => {
                upload.finish().await?;
                return Ok(bytes);
            }
        }
    }
    Err(ExportError::Ended)
}

fn make(
    job: &Job,
    tar: &Tar,
    from: mpsc::Receiver<Result<Fetched, RepositoryError>>,
    words: mpsc::Sender<Word>,
) -> Result<(), ExportError> {
    let out = Packer::new(job.compression, Out { words, batch: Vec::new() });
    let mut maker = Maker { job, tar: Builder::new(out, job.time), collected: None };
    for (path, mode) in &tar.folders {
        maker.tar.folder(path, *mode)?;
    }
    let files = job.contents.take(&job.archive, from, &mut maker)?;
    if files != tar.files.len() {
        return Err(ExportError::Ended);
    }
    if tar.is_last {
        maker.whole(LABEL, 0o600, job.last.label.as_bytes())?;
        maker.whole(CONTROL, 0o600, &job.last.control)?;
    }
    maker.tar.finish()?.finish()?.end()
}

/// Makes a tar of what comes.
struct Maker<'a> {
    job: &'a Job,
    tar: Builder<Packer>,
    /// A file that is changed before it is written.
    collected: Option<(&'a File, Vec<u8>)>,
}

impl Maker<'_> {
    fn whole(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<(), ExportError> {
        self.tar.file(path, mode, content.len() as u64)?;
        self.tar.content(content)?;
        Ok(self.tar.end_file()?)
    }
}

impl Take for Maker<'_> {
    type Error = ExportError;

    fn begin(&mut self, file: u32) -> Result<(), ExportError> {
        let Some(file) = self.job.files.get(file as usize) else { return Err(ExportError::Ended) };
        if is_changed(file) {
            self.collected = Some((file, Vec::new()));
            return Ok(());
        }
        Ok(self.tar.file(&file.path, file.mode, file.size)?)
    }

    fn bytes(&mut self, at: u64, bytes: &[u8]) -> Result<(), ExportError> {
        self.job.progress.add(bytes.len() as u64);
        if let Some((_, content)) = &mut self.collected {
            content.resize(at as usize, 0);
            content.extend_from_slice(bytes);
            return Ok(());
        }
        self.tar.zeros_to(at)?;
        Ok(self.tar.content(bytes)?)
    }

    fn end(&mut self) -> Result<(), ExportError> {
        match self.collected.take() {
            Some((file, content)) => self.whole(&file.path, file.mode, &changed(&file.path, content)),
            None => Ok(self.tar.end_file()?),
        }
    }
}

/// Settings that bind the files to the member that they were copied from, or to an earlier restore.
fn is_changed(file: &File) -> bool {
    file.what == DATA && file.size <= SETTINGS && [conf::FILE, AUTO].contains(&file.path.as_str())
}

/// What `ALTER SYSTEM` writes, and earlier restores have written into.
const AUTO: &str = "postgresql.auto.conf";

fn changed(path: &str, content: Vec<u8>) -> Vec<u8> {
    match String::from_utf8(content) {
        Ok(text) if path == AUTO => without_ours(&text).into_bytes(),
        Ok(text) => conf::elsewhere(&text, None).into_bytes(),
        Err(other) => other.into_bytes(),
    }
}

/// Compresses.
#[derive(Debug)]
enum Packer {
    Plain(Out),
    Gzip(Box<GzEncoder<Out>>),
}

impl Packer {
    fn new(compression: Compression, out: Out) -> Packer {
        match compression {
            Compression::None => Packer::Plain(out),
            Compression::Gzip => Packer::Gzip(Box::new(GzEncoder::new(out, flate2::Compression::fast()))),
        }
    }

    fn finish(self) -> io::Result<Out> {
        match self {
            Packer::Plain(out) => Ok(out),
            Packer::Gzip(encoder) => encoder.finish(),
        }
    }
}

impl Write for Packer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Packer::Plain(out) => out.write(bytes),
            Packer::Gzip(encoder) => encoder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Hands bytes over to the upload.
#[derive(Debug)]
struct Out {
    words: mpsc::Sender<Word>,
    batch: Vec<u8>,
}

impl Out {
    fn say(&self, word: Word) -> io::Result<()> {
        self.words.blocking_send(word).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    fn end(mut self) -> Result<(), ExportError> {
        let batch = Bytes::from(std::mem::take(&mut self.batch));
        self.say(Word::Bytes(batch))?;
        Ok(self.say(Word::End)?)
    }
}

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.batch.extend_from_slice(bytes);
        if self.batch.len() >= BATCH {
            let batch = Bytes::from(std::mem::take(&mut self.batch));
            self.say(Word::Bytes(batch))?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl From<io::Error> for ExportError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => ExportError::Ended,
            _ => ExportError::Worker(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_the_member_do_not_go_along() {
        let told = |path: &str, text: &str| String::from_utf8(changed(path, text.into())).unwrap();
        assert_eq!(told(AUTO, "work_mem = '4MB'\nrestore_command = 'x'\n"), "work_mem = '4MB'\n");
        let ours =
            "max_connections = '100'\nport = '5432'\nhba_file = '/old/matriarch_hba.conf'\narchive_mode = 'on'\n";
        assert_eq!(told(conf::FILE, ours), "max_connections = '100'\n");
        let file = |what: &str, path: &str, size| {
            is_changed(&File { what: what.to_owned(), path: path.to_owned(), size, mode: 0o600 })
        };
        assert!(file(DATA, AUTO, 100) && file(DATA, conf::FILE, 100));
        assert!(!file("16384", AUTO, 100) && !file(DATA, AUTO, SETTINGS + 1) && !file(DATA, "PG_VERSION", 3));
    }
}
