//! A program that a test started: its pid, its log, its end.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

use crate::{dir, faults, user};

/// A running program whose output goes to a log file. Dropping it kills the program (not its children: those end with
/// the [`dir::TestDir`] they live in).
#[derive(Debug)]
pub struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    /// Starts a command in a process group of its own, so that Ctrl-C in a terminal does not reach it, with standard
    /// output and error appended to `log`.
    pub fn start(mut command: Command, log: &Path) -> Result<Running> {
        let file = File::options().create(true).append(true).open(log);
        let file = file.with_context(|| format!("opening the log {}", log.display()))?;
        user::give(log)?;
        let copy = file.try_clone().context("duplicating the log's descriptor")?;
        command.stdin(Stdio::null()).stdout(file).stderr(copy).process_group(0);
        let child = command.spawn().with_context(|| format!("starting {:?}", command.get_program()))?;
        Ok(Running { child, log: log.to_owned() })
    }

    /// Starts a server, and waits until it is ready, however often that has to be asked.
    ///
    /// # Errors
    /// When it ends or takes longer than `limit`: what it has written.
    pub fn start_serving(
        command: Command,
        log: &Path,
        limit: Duration,
        mut is_ready: impl FnMut() -> bool,
    ) -> Result<Running> {
        let program = Path::new(command.get_program()).to_owned();
        let mut process = Running::start(command, log)?;
        let deadline = Instant::now() + limit;
        while !is_ready() {
            ensure!(process.ended().is_none(), "{} ended:\n{}", program.display(), process.log());
            ensure!(Instant::now() < deadline, "{} was not ready in {limit:?}:\n{}", program.display(), process.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(process)
    }

    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("Linux pids are below 2^22")
    }

    /// What it has written so far.
    pub fn log(&self) -> String {
        dir::tail(&self.log, u64::MAX)
    }

    pub fn signal(&self, signal: Signal) {
        faults::signal(self.pid(), signal);
    }

    /// The exit status, once it has ended; does not wait.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it still runs after `limit`; the message holds the end of its log.
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        let pid = self.pid();
        wait_for_exit(pid, limit);
        self.ended().unwrap_or_else(|| {
            panic!("pid {pid} still runs after {limit:?}; its log ends with\n{}", dir::tail(&self.log, 4096))
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // A stopped process takes SIGKILL too. The child is ours and not yet reaped, so its pid is still its own.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- {} (its end)\n{}", self.log.display(), dir::tail(&self.log, 1024));
        }
    }
}

/// The exit is an event on the pidfd; std has no wait with a deadline.
fn wait_for_exit(pid: i32, limit: Duration) {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let pid = rustix::process::Pid::from_raw(pid).expect("a child's pid is not zero");
    let Ok(fd) = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()) else { return };
    let timeout = Timespec::try_from(limit).ok();
    let _ = poll(&mut [PollFd::new(&fd, PollFlags::IN)], timeout.as_ref());
}

/// Waits until a condition holds, looking every 10 ms: for what no event announces to an outsider.
///
/// # Panics
/// After `limit`, naming `what` was awaited.
pub fn eventually(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dir::TestDir;

    #[test]
    fn output_goes_to_the_log_and_the_end_is_seen() {
        let dir = TestDir::new("process");
        let mut command = user::command("/bin/sh");
        command.args(["-c", "echo hello; exit 3"]);
        let mut running = Running::start(command, &dir.join("sh.log")).unwrap();
        assert_eq!(running.wait(Duration::from_secs(60)).code(), Some(3));
        assert_eq!(running.log(), "hello\n");
    }

    #[test]
    fn dropping_kills_even_a_stopped_program() {
        let dir = TestDir::new("process");
        let mut command = user::command("/bin/sleep");
        command.arg("600");
        let running = Running::start(command, &dir.join("sleep.log")).unwrap();
        let pid = running.pid();
        running.signal(Signal::STOP);
        drop(running);
        assert!(faults::Process::read(pid).is_none());
    }
}
