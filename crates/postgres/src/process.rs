//! Every process of one instance, found by its working directory.
//!
//! PostgreSQL's children leave the process group (each calls `setsid`) and outlive a killed postmaster as orphans of
//! init, so neither the group nor the parent finds them. What they keep is the data directory as working directory.
//! Nothing here needs an async runtime: the guard uses it too.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::blocking;
use crate::files::parent;

/// Programs that work in a data directory and may be ended with it. A shell that stands there is left alone.
const PROGRAMS: [&str; 5] = ["postgres", "postmaster", "initdb", "pg_basebackup", "pg_rewind"];

/// Processes that could not be ended.
#[derive(Debug, thiserror::Error)]
pub enum KillError {
    /// They were sent SIGKILL and are still there: stuck in the kernel, usually waiting for a dead disk.
    #[error("processes {pids:?} of {dir} are still there after SIGKILL; they wait in the kernel, check the disk", dir = dir.display())]
    StillAlive {
        /// The directory they work in.
        dir: PathBuf,
        /// Which.
        pids: Vec<u32>,
    },
    /// The system refused.
    #[error("could not signal process {pid} of {dir}: {source}; run as its user or as root", dir = dir.display())]
    Refused {
        /// The directory it works in.
        dir: PathBuf,
        /// Which.
        pid: u32,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
}

/// How a data directory is recognised, also after it was deleted or replaced.
struct Place {
    inode: Option<(u64, u64)>,
    path: PathBuf,
}

impl Place {
    fn of(data_dir: &Path) -> Self {
        let path = fs::canonicalize(data_dir).unwrap_or_else(|_| {
            let above = fs::canonicalize(parent(data_dir)).unwrap_or_else(|_| parent(data_dir).to_owned());
            data_dir.file_name().map_or(above.clone(), |name| above.join(name))
        });
        Place { inode: fs::metadata(data_dir).ok().map(|m| (m.dev(), m.ino())), path }
    }

    fn holds(&self, pid: u32) -> bool {
        let cwd = PathBuf::from(format!("/proc/{pid}/cwd"));
        let Ok(link) = fs::read_link(&cwd) else { return false };
        let by_inode = self.inode.is_some() && fs::metadata(&cwd).ok().map(|m| (m.dev(), m.ino())) == self.inode;
        let mut deleted = self.path.clone().into_os_string();
        deleted.push(" (deleted)");
        (by_inode || link == Path::new(&deleted)) && is_ours(pid)
    }
}

fn is_ours(pid: u32) -> bool {
    let Ok(exe) = fs::read_link(format!("/proc/{pid}/exe")) else { return false };
    let name = exe.file_name().unwrap_or_default().to_string_lossy();
    // An upgraded package leaves running programs with deleted files.
    PROGRAMS.contains(&name.trim_end_matches(" (deleted)"))
}

/// All processes of PostgreSQL's programs whose working directory is `data_dir`, also when that directory has been
/// deleted meanwhile; in ascending order. Zombies do not count. Processes of other users are visible to root only.
pub fn tree(data_dir: &Path) -> Vec<u32> {
    let place = Place::of(data_dir);
    let mut pids: Vec<u32> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| place.holds(*pid))
        .collect();
    pids.sort_unstable();
    pids
}

/// Whether a process is one of this data directory's.
pub fn belongs(pid: u32, data_dir: &Path) -> bool {
    Place::of(data_dir).holds(pid)
}

/// The postmaster that the lock file of this data directory names, if it runs. Cheap enough to be asked many times a
/// second, where [`tree`] looks at every process of the host.
pub fn postmaster(data_dir: &Path) -> Option<u32> {
    let text = fs::read_to_string(data_dir.join("postmaster.pid")).ok()?;
    // A server for itself alone (`initdb`, the recovery before a rewind) writes its number with a minus.
    let pid = text.lines().next()?.trim().parse().ok()?;
    belongs(pid, data_dir).then_some(pid)
}

/// Kills every process of the data directory and returns how many there were once none is left, or the ones that are
/// left after `limit`. Blocks; call it on a thread of its own from async code ([`kill_tree_async`]).
pub fn kill_tree(data_dir: &Path, limit: Duration) -> Result<usize, KillError> {
    let end = Instant::now() + limit;
    let place = Place::of(data_dir);
    let mut killed = 0;
    // A postmaster may fork while we look, so look again until a look finds nothing.
    loop {
        let pids = tree(data_dir);
        if pids.is_empty() {
            return Ok(killed);
        }
        let mut dying = Vec::new();
        for pid in &pids {
            if let Some(fd) = signal_one(*pid, Signal::KILL, &place, data_dir)? {
                killed += 1;
                dying.push(fd);
            }
        }
        if !all_exit(&dying, end) {
            return Err(KillError::StillAlive { dir: data_dir.to_owned(), pids: tree(data_dir) });
        }
    }
}

/// Stops every process of the data directory where it is (SIGSTOP), until [`release_tree`].
///
/// # Errors
/// When one of them may not be signalled.
pub fn hold_tree(data_dir: &Path) -> Result<(), KillError> {
    let place = Place::of(data_dir);
    let mut held = Vec::new();
    // A postmaster may fork while we look, so look again until a look finds nothing new.
    loop {
        let new: Vec<u32> = tree(data_dir).into_iter().filter(|pid| !held.contains(pid)).collect();
        if new.is_empty() {
            return Ok(());
        }
        for pid in &new {
            signal_one(*pid, Signal::STOP, &place, data_dir)?;
        }
        held.extend(new);
    }
}

/// Lets every process of the data directory go on (SIGCONT).
///
/// # Errors
/// When one of them may not be signalled.
pub fn release_tree(data_dir: &Path) -> Result<(), KillError> {
    let place = Place::of(data_dir);
    tree(data_dir).into_iter().try_for_each(|pid| signal_one(pid, Signal::CONT, &place, data_dir).map(|_| ()))
}

/// Answers with the process, if there was one left to be signalled.
fn signal_one(pid: u32, signal: Signal, place: &Place, data_dir: &Path) -> Result<Option<OwnedFd>, KillError> {
    let refused = |errno: rustix::io::Errno| KillError::Refused { dir: data_dir.to_owned(), pid, source: errno.into() };
    let fd = match open(pid) {
        Ok(fd) => fd,
        Err(rustix::io::Errno::SRCH) => return Ok(None),
        Err(errno) => return Err(refused(errno)),
    };
    // The number may have been given to another process before the descriptor was opened.
    if !place.holds(pid) {
        return Ok(None);
    }
    match pidfd_send_signal(&fd, signal) {
        Ok(()) => Ok(Some(fd)),
        Err(rustix::io::Errno::SRCH) => Ok(None),
        Err(errno) => Err(refused(errno)),
    }
}

/// A descriptor that becomes readable when the process exits.
pub(crate) fn open(pid: u32) -> rustix::io::Result<OwnedFd> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(rustix::io::Errno::SRCH)?;
    pidfd_open(pid, PidfdFlags::empty())
}

fn all_exit(fds: &[OwnedFd], end: Instant) -> bool {
    fds.iter().all(|fd| has_exited(fd, end.saturating_duration_since(Instant::now())))
}

/// Waits up to `limit` for the process behind a pidfd to exit.
pub(crate) fn has_exited(fd: &OwnedFd, limit: Duration) -> bool {
    let end = Instant::now() + limit;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
        match poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&timeout)) {
            Ok(ready) => return ready > 0,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

/// Asks one process of the data directory to end (SIGTERM): for a walreceiver that hangs in a dead connection. False when
/// the process is not one of that directory's (any more).
pub fn terminate(pid: u32, data_dir: &Path) -> Result<bool, KillError> {
    let Ok(fd) = open(pid) else { return Ok(false) };
    if !belongs(pid, data_dir) {
        return Ok(false);
    }
    match pidfd_send_signal(&fd, Signal::TERM) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::SRCH) => Ok(false),
        Err(errno) => Err(KillError::Refused { dir: data_dir.to_owned(), pid, source: errno.into() }),
    }
}

/// Whether any process of the data directory is stopped by a signal (SIGSTOP). One under a debugger is not meant.
pub fn any_stopped(data_dir: &Path) -> bool {
    tree(data_dir).into_iter().any(|pid| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('T'))
    })
}

/// [`kill_tree`] on a thread of its own.
pub async fn kill_tree_async(data_dir: &Path, limit: Duration) -> Result<usize, KillError> {
    let dir = data_dir.to_owned();
    blocking::run(move || kill_tree(&dir, limit)).await
}

/// [`tree`] on a thread of its own: a host may have thousands of processes.
pub async fn tree_async(data_dir: &Path) -> Vec<u32> {
    let dir = data_dir.to_owned();
    blocking::run(move || tree(&dir)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_in_the_directory_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let mut shell = std::process::Command::new("sleep").arg("30").current_dir(dir.path()).spawn().unwrap();
        assert_eq!(tree(dir.path()), Vec::<u32>::new());
        assert_eq!(kill_tree(dir.path(), Duration::from_secs(1)).unwrap(), 0);
        assert!(shell.try_wait().unwrap().is_none(), "the shell was killed");
        shell.kill().unwrap();
        shell.wait().unwrap();
    }

    #[test]
    fn finds_a_program_by_its_directory_even_when_that_is_deleted() {
        let dir = tempfile::tempdir().unwrap();
        let (data, program) = (dir.path().join("data"), dir.path().join("postgres"));
        fs::create_dir(&data).unwrap();
        matriarch_testkit::executable::copy(Path::new("/bin/sleep"), &program);
        let mut child = std::process::Command::new(&program).arg("30").current_dir(&data).spawn().unwrap();
        assert_eq!(tree(&data), [child.id()]);
        fs::remove_dir(&data).unwrap();
        assert_eq!(tree(&data), [child.id()], "lost after the directory was deleted");
        fs::create_dir(&data).unwrap();
        assert_eq!(kill_tree(&data, Duration::from_secs(5)).unwrap(), 1);
        assert!(!child.wait().unwrap().success());
    }
}
