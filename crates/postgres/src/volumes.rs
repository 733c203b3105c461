//! The volumes under an instance: do they still take writes, and is there room?
//!
//! A write to a wedged volume does not fail, it never ends, and takes the thread along. So writes are tried by a thread
//! of their own, and everybody else looks at how long it has been at it.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use rustix::time::{ClockId, clock_gettime};

use crate::instance::Instance;
use crate::owner::Owner;

/// The file that is written, in each directory.
const FILE: &str = "matriarch.probe";

/// How a volume is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// Nothing was tried yet.
    Unknown,
    /// The newest write is durable; so much room is left, in bytes.
    Writable {
        /// What an unprivileged process may still use.
        free: u64,
    },
    /// A write that began at this moment (milliseconds of the boot clock) has not ended.
    Waiting {
        /// When.
        since: u64,
        /// Where.
        dir: PathBuf,
    },
    /// The write was refused.
    Refused {
        /// Where.
        dir: PathBuf,
        /// There is no room.
        full: bool,
        /// By what.
        error: String,
    },
}

#[derive(Debug)]
struct State {
    asked: bool,
    since: Option<(u64, PathBuf)>,
    last: Health,
}

/// Tries writes on the volumes of one instance.
#[derive(Debug)]
pub struct VolumeProbe {
    state: Arc<Mutex<State>>,
    wish: Option<Sender<()>>,
    /// The data directory, and `pg_wal`, which may be on a volume of its own.
    dirs: Vec<PathBuf>,
    owner: Option<Owner>,
}

impl VolumeProbe {
    /// For one instance; nothing is written before [`VolumeProbe::ask`].
    pub fn new(instance: &Instance) -> VolumeProbe {
        let state = State { asked: false, since: None, last: Health::Unknown };
        VolumeProbe {
            state: Arc::new(Mutex::new(state)),
            wish: None,
            dirs: vec![instance.data_dir.clone(), instance.data_dir.join("pg_wal")],
            owner: instance.owner.clone(),
        }
    }

    /// Begins a write on each volume, unless the one before has not ended. Never waits.
    pub fn ask(&mut self) {
        if std::mem::replace(&mut locked(&self.state).asked, true) {
            return;
        }
        let gone = self.wish.as_ref().is_none_or(|wish| wish.send(()).is_err());
        if gone {
            self.wish = self.start().ok();
            if self.wish.as_ref().is_none_or(|wish| wish.send(()).is_err()) {
                locked(&self.state).asked = false;
            }
        }
    }

    /// What is known now.
    pub fn health(&self) -> Health {
        let state = locked(&self.state);
        match &state.since {
            Some((since, dir)) => Health::Waiting { since: *since, dir: dir.clone() },
            None => state.last.clone(),
        }
    }

    fn start(&self) -> io::Result<Sender<()>> {
        let (wish, wishes) = channel::<()>();
        let (state, dirs, owner) = (self.state.clone(), self.dirs.clone(), self.owner.clone());
        // Its stack is small: there may be one for months.
        thread::Builder::new().name("volumes".to_owned()).stack_size(64 * 1024).spawn(move || {
            for () in wishes {
                let health = try_all(&state, &dirs, owner.as_ref());
                let mut state = locked(&state);
                (state.last, state.since, state.asked) = (health, None, false);
            }
        })?;
        Ok(wish)
    }
}

fn locked(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn try_all(state: &Mutex<State>, dirs: &[PathBuf], owner: Option<&Owner>) -> Health {
    let mut least = u64::MAX;
    let mut tried: Option<u64> = None;
    for dir in dirs {
        locked(state).since = Some((boot_ms(), dir.clone()));
        // Without the directory there is no server to worry about, and it must not come back through us.
        let Some(found) = fs::metadata(dir).ok().filter(fs::Metadata::is_dir) else { continue };
        // One write tells of one volume, whatever is on it.
        if tried.replace(found.dev()) == Some(found.dev()) {
            continue;
        }
        if let Err(error) = write(dir, owner) {
            let full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
            return Health::Refused { dir: dir.clone(), full, error: error.to_string() };
        }
        least = least.min(free(dir).unwrap_or(u64::MAX));
    }
    if tried.is_some() { Health::Writable { free: least } } else { Health::Unknown }
}

fn write(dir: &Path, owner: Option<&Owner>) -> io::Result<()> {
    let path = dir.join(FILE);
    let mut options = OpenOptions::new();
    let file = options.write(true).create(true).truncate(false).mode(0o600).open(path)?;
    if let Some(owner) = owner.filter(|owner| file.metadata().is_ok_and(|metadata| metadata.uid() != owner.uid)) {
        fchown(&file, Some(owner.uid), Some(owner.gid))?;
    }
    (&file).write_all(&boot_ms().to_ne_bytes())?;
    file.sync_data()
}

/// Bytes that an unprivileged process may still write on the volume of `dir`.
///
/// # Errors
/// When the directory cannot be looked at.
pub fn free(dir: &Path) -> io::Result<u64> {
    let volume = rustix::fs::statvfs(dir)?;
    Ok(volume.f_bavail.saturating_mul(volume.f_frsize))
}

fn boot_ms() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    now.tv_sec.unsigned_abs() * 1000 + now.tv_nsec.unsigned_abs() / 1_000_000
}
