//! Cleans up what the kernel does not clean up by itself: mounts, bridges, cgroups, loop devices. Also when the test
//! process is killed, since the janitor is a process of its own that only waits for our end of a pipe to close.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};

/// Runs what it was given, the last first, once its pipe is closed.
const SCRIPT: &str = "mapfile -t jobs; for ((j = ${#jobs[@]} - 1; j >= 0; j--)); do (eval \"${jobs[j]}\"); done";

/// A list of shell commands that are run when this is dropped or when this process ends, however it ends.
#[derive(Debug)]
pub struct Janitor {
    pipe: Mutex<Option<ChildStdin>>,
    shell: Child,
}

impl Janitor {
    /// Starts the waiting shell, in a process group of its own so that Ctrl-C does not end it.
    pub fn hire() -> Result<Janitor> {
        let mut shell = Command::new("bash");
        shell.args(["-c", SCRIPT]).stdin(Stdio::piped()).stdout(Stdio::null()).process_group(0);
        let mut shell = shell.spawn().context("starting bash to clean up after the test")?;
        Ok(Janitor { pipe: Mutex::new(shell.stdin.take()), shell })
    }

    /// Adds one line of shell, run before those that were added earlier. Say it before the deed: what fails for want of
    /// something to clean is silent when it ends in `2>/dev/null`.
    pub fn later(&self, line: &str) -> Result<()> {
        let mut pipe = self.pipe.lock().unwrap_or_else(PoisonError::into_inner);
        let pipe = pipe.as_mut().context("the janitor is already at work")?;
        writeln!(pipe, "{}", line.replace('\n', " ")).context("telling the janitor")
    }
}

impl Drop for Janitor {
    fn drop(&mut self) {
        drop(self.pipe.lock().unwrap_or_else(PoisonError::into_inner).take());
        let _ = self.shell.wait();
    }
}

/// Quotes one word for the shell.
pub fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dir::TestDir;

    #[test]
    fn the_last_job_is_done_first_and_a_failing_one_stops_nothing() {
        let dir = TestDir::new("janitor");
        let file = quoted(&dir.join("it's done").display().to_string());
        let janitor = Janitor::hire().unwrap();
        janitor.later(&format!("echo one >>{file}")).unwrap();
        janitor.later("false").unwrap();
        janitor.later(&format!("echo two >>{file}")).unwrap();
        drop(janitor);
        assert_eq!(std::fs::read_to_string(dir.join("it's done")).unwrap(), "two\none\n");
    }
}
