//! Faults on processes: killing, freezing, thawing, and finding the processes of a node.
//!
//! A process is found by the folder it works in or names on its command line, never by its program's name: the machine
//! may run other clusters. Signals go through a pidfd opened before the last look, so a reused pid is never hit.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fd::OwnedFd;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// One process as `/proc` shows it.
#[derive(Debug, Clone)]
pub struct Process {
    pub pid: i32,
    pub parent: i32,
    /// One letter: `R`, `S`, `D`, `T` (stopped), `Z` (dead, not yet reaped).
    pub state: char,
    /// Clock ticks after boot at which it started: with the pid, its identity.
    pub started: u64,
    /// `None` when it has ended or we may not look.
    pub cwd: Option<PathBuf>,
    pub arguments: Vec<String>,
}

impl Process {
    /// Reads one process; `None` when there is none.
    pub fn read(pid: i32) -> Option<Process> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The program's name stands in parentheses and may itself hold spaces and parentheses.
        let mut fields = stat[stat.rfind(')')? + 1..].split_whitespace();
        let state = fields.next()?.chars().next()?;
        let parent = fields.next()?.parse().ok()?;
        let started = fields.nth(17)?.parse().ok()?;
        let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let arguments = arguments.split(|byte| *byte == 0).map(|a| String::from_utf8_lossy(a).into_owned()).collect();
        let cwd = std::fs::read_link(format!("/proc/{pid}/cwd")).ok();
        Some(Process { pid, parent, state, started, cwd, arguments })
    }

    fn lives_in(&self, dir: &Path) -> bool {
        self.cwd.as_deref().is_some_and(|cwd| cwd.starts_with(dir))
            || self.arguments.iter().any(|argument| names(argument, dir))
    }
}

/// Whether an argument names the folder or something in it: `/d`, `/d/x`, `--dir=/d/x`, but not `/d2`.
fn names(argument: &str, dir: &Path) -> bool {
    let dir = dir.to_string_lossy();
    argument.match_indices(dir.as_ref()).any(|(at, _)| {
        let after = argument[at + dir.len()..].chars().next();
        after.is_none_or(|c| !(c.is_alphanumeric() || matches!(c, '-' | '_' | '.')))
    })
}

/// Every process of the machine that we can see.
pub fn all_processes() -> Vec<Process> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(Process::read).collect()
}

/// The living processes that work in a folder or name it on their command line, and their descendants: for a member's
/// folder the agent, its guard, the postmaster and all backends. The caller and its ancestors are never among them.
pub fn processes_of(dir: &Path) -> Vec<Process> {
    let all: BTreeMap<i32, Process> = all_processes().into_iter().map(|process| (process.pid, process)).collect();
    let mut ours = BTreeSet::new();
    let mut next = i32::try_from(std::process::id()).ok();
    while let Some(process) = next.and_then(|pid| all.get(&pid)) {
        ours.insert(process.pid);
        next = (process.parent > 0).then_some(process.parent);
    }
    let mut chosen: BTreeSet<i32> =
        all.values().filter(|p| !ours.contains(&p.pid) && p.lives_in(dir)).map(|p| p.pid).collect();
    loop {
        let children: Vec<i32> = all
            .values()
            .filter(|p| chosen.contains(&p.parent) && !chosen.contains(&p.pid) && !ours.contains(&p.pid))
            .map(|p| p.pid)
            .collect();
        if children.is_empty() {
            break;
        }
        chosen.extend(children);
    }
    all.into_values().filter(|process| chosen.contains(&process.pid) && process.state != 'Z').collect()
}

/// The pids of [`processes_of`]: a whole node, given its member's folder.
pub fn node_processes(dir: &Path) -> Vec<i32> {
    processes_of(dir).into_iter().map(|process| process.pid).collect()
}

/// A process of the PostgreSQL in a data directory, by what it calls itself: `checkpointer`, `startup`.
pub fn server_process(data: &Path, title: &str) -> Option<i32> {
    let data = data.canonicalize().ok()?;
    let is = |process: &Process| {
        process.state != 'Z'
            && process.cwd.as_ref() == Some(&data)
            && process.arguments.first().is_some_and(|text| text.starts_with("postgres: ") && text.contains(title))
    };
    all_processes().into_iter().find(is).map(|process| process.pid)
}

/// The postmaster of a data directory, from its `postmaster.pid`; `None` when it does not run.
pub fn postmaster(data: &Path) -> Option<i32> {
    let file = std::fs::read_to_string(data.join("postmaster.pid")).ok()?;
    let pid = file.lines().next()?.trim().parse().ok()?;
    let process = Process::read(pid)?;
    (process.state != 'Z' && process.cwd.is_some_and(|cwd| cwd == data.canonicalize().unwrap_or_default()))
        .then_some(pid)
}

/// Sends one signal; whether there was such a process.
pub fn signal(pid: i32, signal: Signal) -> bool {
    open(pid).is_some_and(|fd| pidfd_send_signal(fd, signal).is_ok())
}

/// Kills without a chance to clean up (SIGKILL), all of them at nearly the same moment.
pub fn kill(pids: &[i32]) {
    let open: Vec<OwnedFd> = pids.iter().filter_map(|pid| open(*pid)).collect();
    for fd in open {
        let _ = pidfd_send_signal(fd, Signal::KILL);
    }
}

/// Stops the processes (SIGSTOP), as a frozen host would: their connections stay open and nobody answers.
pub fn freeze(pids: &[i32]) {
    for pid in pids {
        signal(*pid, Signal::STOP);
    }
}

/// Lets frozen processes go on (SIGCONT).
pub fn thaw(pids: &[i32]) {
    for pid in pids {
        signal(*pid, Signal::CONT);
    }
}

/// Kills what `living` finds, again and again until it finds nothing (a process may fork between look and kill), for at
/// most 10 s.
pub fn end_all(living: impl Fn() -> Vec<Process>) {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let pids: Vec<i32> = living().into_iter().map(|process| process.pid).collect();
        if pids.is_empty() {
            return;
        }
        if Instant::now() > deadline {
            eprintln!("still there 10 s after SIGKILL: {pids:?}");
            return;
        }
        kill(&pids);
        // No event tells that a process of another parent has been reaped.
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn open(pid: i32) -> Option<OwnedFd> {
    pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{dir::TestDir, user};

    #[test]
    fn an_argument_names_a_folder_or_not() {
        let dir = Path::new("/tmp/d");
        assert!(["/tmp/d", "/tmp/d/x", "--dir=/tmp/d/", "unix:///tmp/d?x"].iter().all(|a| names(a, dir)));
        assert!(!["/tmp/d2", "/tmp/d-x", "/tmp", ""].iter().any(|a| names(a, dir)));
    }

    #[test]
    fn freezing_and_thawing_reach_children_too() {
        let dir = TestDir::new("faults");
        let script = "sleep 600 & sleep 600";
        let mut shell =
            user::command("/bin/sh").args(["-c", script]).current_dir(dir.path()).spawn().expect("there is a shell");
        let stopped = |wanted: bool| {
            let deadline = Instant::now() + Duration::from_secs(30);
            loop {
                let found = processes_of(dir.path());
                if found.len() == 3 && found.iter().all(|p| (p.state == 'T') == wanted) {
                    return;
                }
                assert!(Instant::now() < deadline, "{found:?}");
                std::thread::sleep(Duration::from_millis(5));
            }
        };
        stopped(false);
        freeze(&node_processes(dir.path()));
        stopped(true);
        thaw(&node_processes(dir.path()));
        stopped(false);
        kill(&node_processes(dir.path()));
        shell.wait().unwrap();
        assert!(!signal(shell.id() as i32, Signal::CONT), "it has been reaped");
    }
}
