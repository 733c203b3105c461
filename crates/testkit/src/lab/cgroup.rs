//! A control group: all processes of a host, whatever they fork, stopped or killed at one moment.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::faults;
use crate::janitor::{Janitor, quoted};

/// How long the kernel may take to stop or reap everything.
const LIMIT: Duration = Duration::from_secs(60);

/// A control group with a freezer, of version 1 or 2.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
    version: Version,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

impl Cgroup {
    /// Makes one below the machine's own; it is emptied and removed at the end.
    pub fn create(name: &str, janitor: &Janitor) -> Result<Cgroup> {
        let freezer = Path::new("/sys/fs/cgroup/freezer");
        let (root, version) = match freezer.is_dir() {
            true => (freezer, Version::One),
            false => (Path::new("/sys/fs/cgroup"), Version::Two),
        };
        let path = root.join(name);
        let word = quoted(&path.display().to_string());
        // What is frozen is killed only when it thaws (version 1); the group goes only when it is empty.
        janitor.later(&format!(
            "for i in {{1..100}}; do p=$(cat {word}/cgroup.procs 2>/dev/null); kill -KILL $p 2>/dev/null; \
             echo THAWED 2>/dev/null >{word}/freezer.state; rmdir {word} 2>/dev/null; [ -e {word} ] || break; sleep .05; done 2>/dev/null"
        ))?;
        std::fs::create_dir_all(&path).with_context(|| format!("making the control group {}", path.display()))?;
        Ok(Cgroup { path, version })
    }

    /// The file that takes the pid of a process which is to join.
    pub fn entrance(&self) -> PathBuf {
        self.path.join("cgroup.procs")
    }

    /// Everything in it.
    pub fn processes(&self) -> Vec<i32> {
        let text = std::fs::read_to_string(self.entrance()).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// Stops everything, until [`Cgroup::thaw`]; returns once all of it has stopped.
    pub fn freeze(&self) -> Result<()> {
        let (state, done) = match self.version {
            Version::One => (self.write("freezer.state", "FROZEN"), "FROZEN"),
            Version::Two => (self.write("cgroup.freeze", "1"), "frozen 1"),
        };
        state?;
        let file = if self.version == Version::One { "freezer.state" } else { "cgroup.events" };
        let deadline = Instant::now() + LIMIT;
        while !std::fs::read_to_string(self.path.join(file)).unwrap_or_default().contains(done) {
            if Instant::now() > deadline {
                bail!(
                    "{} is not frozen after {LIMIT:?}: one of its processes is stuck in the kernel",
                    self.path.display()
                );
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// Lets everything go on.
    pub fn thaw(&self) -> Result<()> {
        match self.version {
            Version::One => self.write("freezer.state", "THAWED"),
            Version::Two => self.write("cgroup.freeze", "0"),
        }
    }

    /// Kills everything at one moment: nobody sees another one die.
    pub fn kill(&self) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        // One that is stuck in the kernel keeps a group from being frozen; it is killed all the same.
        let _ = self.freeze();
        loop {
            let all = self.processes();
            faults::kill(&all);
            self.thaw()?;
            if all.is_empty() {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("still there {LIMIT:?} after SIGKILL: {all:?}");
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn write(&self, file: &str, text: &str) -> Result<()> {
        let path = self.path.join(file);
        std::fs::write(&path, text).with_context(|| format!("writing {text} to {}", path.display()))
    }
}
