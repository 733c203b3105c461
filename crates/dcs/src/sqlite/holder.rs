//! The process that holds the store's write lock: who it is, and what to do when it is stopped.

use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::file::beside;

/// The byte of the `-shm` file that SQLite locks for the one writer (`WAL_WRITE_LOCK`).
const WRITER_LOCK_BYTE: &str = "120";
/// A turn takes one fsync; who is stopped in it for so long will not end it. Well below a leader's lease, which
/// cannot be renewed meanwhile.
const STOPPED_FOR: Duration = Duration::from_millis(500);
/// Between two looks at the holder.
const LOOK: Duration = Duration::from_millis(100);

/// Who holds the lock, if the kernel tells.
struct Holder {
    pid: Pid,
    name: String,
    /// By a signal (SIGSTOP, Ctrl-Z). A process under a debugger is not meant: somebody is at it.
    stopped: bool,
}

impl Holder {
    fn find(store: &Path) -> Option<Self> {
        let shm = std::fs::metadata(beside(store, "-shm")).ok()?;
        let locks = std::fs::read_to_string("/proc/locks").ok()?;
        let pid = locks.lines().find_map(|line| writer_pid(line, shm.ino()))?;
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?.trim().to_owned();
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let stopped = stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('T'));
        Some(Self { pid: Pid::from_raw(pid)?, name, stopped })
    }
}

/// The process that holds the store's write lock, in words, if the kernel tells.
pub(super) fn in_words(store: &Path) -> Option<String> {
    let Holder { pid, name, stopped } = Holder::find(store)?;
    let doing = if stopped { " and is stopped: continue it or kill it" } else { "" };
    Some(format!("process {} ({name}) holds its write lock{doing}", pid.as_raw_nonzero()))
}

/// Kills a process that was stopped in the middle of a write, so that the others need no human to go on.
///
/// A frozen member may never be continued, and as long as it holds the lock no lease can be renewed or taken. It loses
/// nothing: an unfinished transaction never happened, and its supervisor starts it again.
pub(super) struct Breaker {
    store: PathBuf,
    looked: Option<Instant>,
    suspect: Option<(Pid, OwnedFd, Instant)>,
}

impl Breaker {
    pub fn new(store: &Path) -> Self {
        Self { store: store.to_owned(), looked: None, suspect: None }
    }

    /// A new wait begins.
    pub fn forget(&mut self) {
        self.suspect = None;
    }

    /// To be called again and again while a writer waits for its turn.
    pub fn look(&mut self) {
        let now = Instant::now();
        if self.looked.is_some_and(|looked| now.duration_since(looked) < LOOK) {
            return;
        }
        self.looked = Some(now);
        let Some(holder) = Holder::find(&self.store).filter(|holder| holder.stopped) else {
            self.suspect = None;
            return;
        };
        match &self.suspect {
            Some((pid, process, since)) if *pid == holder.pid => {
                if now.duration_since(*since) >= STOPPED_FOR {
                    kill(&self.store, &holder, process);
                }
            }
            // The descriptor is taken before the next look: what is killed then is what was looked at.
            _ => self.suspect = pidfd_open(holder.pid, PidfdFlags::empty()).ok().map(|fd| (holder.pid, fd, now)),
        }
    }
}

fn kill(store: &Path, holder: &Holder, process: &OwnedFd) {
    let (store, pid, name) = (store.display(), holder.pid.as_raw_nonzero(), &holder.name);
    match pidfd_send_signal(process, Signal::KILL) {
        Ok(()) => {
            tracing::warn!(%store, pid, name, "killed a process that was stopped while it held the store's write lock");
        }
        Err(error) => {
            tracing::warn!(%store, pid, name, %error, "cannot kill a process that is stopped and holds the store's write lock");
        }
    }
}

/// The pid in a line of `/proc/locks` such as `5: POSIX  ADVISORY  WRITE 4711 fe:00:1234 120 120`.
fn writer_pid(line: &str, inode: u64) -> Option<i32> {
    let mut words = line.split_whitespace().skip(1);
    let posix = words.next()? == "POSIX";
    let write = words.nth(1)? == "WRITE";
    let pid = words.next()?.parse().ok()?;
    let same_file = words.next()?.rsplit(':').next()?.parse() == Ok(inode);
    (posix && write && same_file && words.next()? == WRITER_LOCK_BYTE).then_some(pid)
}

#[cfg(test)]
mod tests {
    use super::writer_pid;

    #[test]
    fn the_writer_is_found_among_the_kernels_locks() {
        let line = "5: POSIX  ADVISORY  WRITE 4711 fe:00:1234 120 120";
        assert_eq!(writer_pid(line, 1234), Some(4711));
        assert_eq!(writer_pid(line, 1235), None);
        assert_eq!(writer_pid("5: POSIX  ADVISORY  READ 4711 fe:00:1234 120 120", 1234), None);
        assert_eq!(writer_pid("5: POSIX  ADVISORY  WRITE 4711 fe:00:1234 123 123", 1234), None);
        assert_eq!(writer_pid("5: -> POSIX ADVISORY WRITE 4711 fe:00:1234 120 120", 1234), None);
        assert_eq!(writer_pid("", 1234), None);
    }
}
