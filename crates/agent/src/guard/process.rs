//! The guard's own process: no runtime, no allocation to speak of, one poll.

use std::ffi::OsString;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use super::Order;
use super::charge::Charge;

/// What a guard is told at its start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuardOptions {
    /// The data directory whose PostgreSQL it may kill.
    pub data_dir: PathBuf,
    /// Where the agent reaches it.
    pub socket: PathBuf,
}

const VERB: &str = "guard";
const DATA_DIR: &str = "--data-dir";
const SOCKET: &str = "--socket";

impl GuardOptions {
    /// The arguments that make this program a guard.
    pub(super) fn arguments(&self) -> [OsString; 5] {
        [VERB.into(), DATA_DIR.into(), self.data_dir.clone().into(), SOCKET.into(), self.socket.clone().into()]
    }

    /// Recognises [`GuardOptions::arguments`] among a program's arguments (without its name): `None` for any others.
    ///
    /// Read by hand, because the parser of the other verbs alone would double the guard's memory.
    pub fn from_arguments(arguments: impl Iterator<Item = OsString>) -> Option<GuardOptions> {
        let [verb, data_dir_flag, data_dir, socket_flag, socket]: [OsString; 5] =
            arguments.take(6).collect::<Vec<_>>().try_into().ok()?;
        let ours = verb == VERB && data_dir_flag == DATA_DIR && socket_flag == SOCKET;
        ours.then(|| GuardOptions { data_dir: data_dir.into(), socket: socket.into() })
    }
}

/// A guard that nobody talks to and that has no deadline ends after this time, in milliseconds: nobody is left who could
/// start PostgreSQL behind its back.
const LONELY: u64 = 30_000;

/// Runs until nobody needs it.
///
/// # Errors
/// When its socket cannot be made or the clock's timer is not available.
pub fn run(options: &GuardOptions) -> anyhow::Result<()> {
    // When an agent dies while its node is stopped, the kernel continues the guard with a SIGHUP: it has work to do then.
    signal_hook::flag::register(signal_hook::consts::SIGHUP, Arc::new(AtomicBool::new(false)))?;
    let listener = listen(&options.socket)?;
    let timer = timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
    let mut guard = Guard { options, charge: Charge::default(), agent: None, told: String::new(), alone: None };
    while guard.is_needed() {
        timerfd_settime(&timer, TimerfdTimerFlags::ABSTIME, &absolute(guard.prepare()))?;
        guard.wait(&listener, &timer)?;
        guard.act();
        guard.hear(&listener)?;
    }
    let _ = std::fs::remove_file(&options.socket);
    Ok(())
}

struct Guard<'a> {
    options: &'a GuardOptions,
    charge: Charge,
    agent: Option<Agent>,
    /// What the agent has heard unasked, or would have.
    told: String,
    /// Since when nobody has been there.
    alone: Option<u64>,
}

impl Guard<'_> {
    fn is_watched(&self) -> bool {
        self.agent.is_some() || self.charge.is_armed()
    }

    /// Until it is told that it is not, or nobody has been there for a while.
    fn is_needed(&mut self) -> bool {
        self.alone = if self.is_watched() { None } else { self.alone.or_else(|| Some(now())) };
        !self.charge.released && self.alone.is_none_or(|since| now() < since + LONELY)
    }

    /// Sees to what is due without a deadline; returns when to wake.
    fn prepare(&mut self) -> Option<u64> {
        let watched = self.is_watched();
        let kept = self.charge.keep_watchdog(now()).filter(|_| watched);
        // What has become of the watchdog is told without being asked.
        let answer = self.charge.answer();
        if self.charge.has_watchdog() && answer != self.told {
            self.agent.take_if(|agent| !agent.tell(&answer));
        }
        self.told = answer;
        kept.into_iter().chain(self.charge.wake()).chain(self.alone.map(|since| since + LONELY)).min()
    }

    fn wait(&self, listener: &UnixListener, timer: &OwnedFd) -> anyhow::Result<()> {
        let mut fds = vec![PollFd::new(listener, PollFlags::IN), PollFd::new(timer, PollFlags::IN)];
        fds.extend(self.agent.as_ref().map(|agent| PollFd::new(&agent.stream, PollFlags::IN)));
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The deadline comes before orders: one that arrives together with it is too late.
    fn act(&mut self) {
        // A guard that was late itself kicks first: its deadline may be far away.
        self.charge.keep_watchdog(now());
        self.charge.act(self.options, now);
    }

    /// Takes in an agent that has come, and what it says. A new one takes the place of the one before.
    fn hear(&mut self, listener: &UnixListener) -> anyhow::Result<()> {
        if let Ok((stream, _)) = listener.accept() {
            stream.set_nonblocking(true)?;
            self.agent = Some(Agent { stream, unread: Vec::new() });
        }
        if self.agent.as_mut().is_some_and(|agent| !agent.serve(&mut self.charge, self.options)) {
            self.agent = None;
        }
        Ok(())
    }
}

/// The agent's connection.
struct Agent {
    stream: UnixStream,
    /// The beginning of a line.
    unread: Vec<u8>,
}

impl Agent {
    /// False when the agent is gone.
    fn tell(&mut self, answer: &str) -> bool {
        self.stream.write_all(answer.as_bytes()).is_ok()
    }

    /// Takes orders and answers each; false when the agent is gone.
    fn serve(&mut self, charge: &mut Charge, options: &GuardOptions) -> bool {
        if !self.read() {
            return false;
        }
        while let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.unread.drain(..=end).collect();
            let Some(order) = std::str::from_utf8(&line).ok().and_then(Order::parse) else { return false };
            charge.take(order, options, now());
            if !self.tell(&charge.answer()) {
                return false;
            }
            charge.release_what_was_left(options, now());
        }
        true
    }

    /// What has arrived; false when the agent is gone, or is none.
    fn read(&mut self) -> bool {
        let mut buffer = [0u8; 256];
        while self.unread.len() <= 4096 {
            match self.stream.read(&mut buffer) {
                Ok(0) => return false,
                Ok(count) => self.unread.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        false
    }
}

fn listen(socket: &std::path::Path) -> anyhow::Result<UnixListener> {
    if UnixStream::connect(socket).is_ok() {
        anyhow::bail!("another guard answers on {}; it is enough", socket.display());
    }
    let _ = std::fs::remove_file(socket);
    let listener = UnixListener::bind(socket)
        .map_err(|error| anyhow::anyhow!("the guard cannot listen on {}: {error}", socket.display()))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn now() -> u64 {
    matriarch_dcs::boot_clock_ms()
}

fn absolute(deadline: Option<u64>) -> Itimerspec {
    let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
    let it_value = deadline.map_or(zero, |ms| Timespec {
        tv_sec: (ms / 1000) as i64,
        // Never zero, which would switch the timer off.
        tv_nsec: ((ms % 1000) * 1_000_000 + 1) as i64,
    });
    Itimerspec { it_interval: zero, it_value }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guard_is_told_by_its_arguments() {
        let options = GuardOptions { data_dir: "/srv/a b/data".into(), socket: "/run/x.guard".into() };
        let read = |words: &[OsString]| GuardOptions::from_arguments(words.iter().cloned());
        let right = options.arguments();
        assert_eq!(read(&right), Some(options));
        assert_eq!(read(&right[..4]), None);
        assert_eq!(read(&[&right[..], &["--more".into()]].concat()), None);
        assert_eq!(read(&["guard".into(), "--help".into()]), None);
        assert_eq!(read(&[&["agent".into()], &right[1..]].concat()), None);
    }
}
