//! Following the log as it grows.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::inotify;
use tokio::io::unix::AsyncFd;

use super::{Entry, Reader, trim};
use crate::files::{Context, FileError};
use crate::instance::Instance;
use crate::postmaster::LogMark;
use crate::readiness::register;

/// Read in pieces of this size.
const PIECE: usize = 64 * 1024;
/// What was read is let go of in steps of this size.
const STEP: u64 = 4 * 1024 * 1024;

/// Reads what is written to the log from now on.
pub struct Follower {
    instance: Instance,
    path: PathBuf,
    file: File,
    watch: AsyncFd<OwnedFd>,
    position: u64,
    reader: Reader,
}

impl Follower {
    /// Begins at the end of the log, which is made if it is not there. Must be called within a tokio runtime.
    pub fn from_end(instance: &Instance, path: &Path) -> Result<Follower, FileError> {
        LogMark::open(path, instance.owner.as_ref())?;
        let (file, watch) = open(path)?;
        let position = file.metadata().doing("look at", path)?.len();
        Ok(Follower {
            instance: instance.clone(),
            path: path.to_owned(),
            file,
            watch,
            position,
            reader: Reader::default(),
        })
    }

    /// Waits for entries; never returns none. What was read is let go of on the disk.
    pub async fn next(&mut self) -> Result<Vec<Entry>, FileError> {
        loop {
            let entries = self.read()?;
            self.let_go()?;
            if !entries.is_empty() {
                return Ok(entries);
            }
            self.wait().await?;
        }
    }

    fn read(&mut self) -> Result<Vec<Entry>, FileError> {
        let path = self.path.clone();
        let length = self.file.metadata().doing("look at", &path)?.len();
        if length < self.position {
            // Somebody has emptied it.
            self.position = 0;
        }
        let mut entries = Vec::new();
        self.file.seek(SeekFrom::Start(self.position)).doing("read", &path)?;
        let mut piece = vec![0; PIECE.min((length - self.position) as usize)];
        while self.position < length {
            let read = self.file.read(&mut piece).doing("read", &path)?;
            if read == 0 {
                break;
            }
            self.position += read as u64;
            entries.extend(self.reader.take(&piece[..read], self.position >= length));
        }
        Ok(entries)
    }

    fn let_go(&mut self) -> Result<(), FileError> {
        if self.position >= STEP {
            self.position -= trim::drop_front(&self.path, self.position).doing("shorten", &self.path)?;
        }
        Ok(())
    }

    async fn wait(&mut self) -> Result<(), FileError> {
        let gone = {
            let mut guard = self.watch.readable().await.doing("watch", &self.path)?;
            let mut buffer = [0u8; 4096];
            while rustix::io::read(guard.get_inner(), &mut buffer[..]).is_ok_and(|read| read > 0) {}
            guard.clear_ready();
            self.file.metadata().is_ok_and(|found| found.nlink() == 0)
        };
        if gone {
            // The server goes on writing to the deleted file until it is restarted; what comes then is in a new one.
            LogMark::open(&self.path, self.instance.owner.as_ref())?;
            (self.file, self.watch) = open(&self.path)?;
            self.position = 0;
        }
        Ok(())
    }
}

fn open(path: &Path) -> Result<(File, AsyncFd<OwnedFd>), FileError> {
    let file = File::open(path).doing("open", path)?;
    let watch = || -> io::Result<AsyncFd<OwnedFd>> {
        let watch = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC)?;
        let changes = inotify::WatchFlags::MODIFY | inotify::WatchFlags::ATTRIB | inotify::WatchFlags::MOVE_SELF;
        inotify::add_watch(&watch, path, changes)?;
        register(watch)
    };
    let watch = watch().doing("watch", path)?;
    Ok((file, watch))
}
