//! The guard's own process: no runtime, no allocation to speak of, one poll.

use std::ffi::OsString;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::Child;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use super::Order;
use super::duty::Duty;
use super::watchdog::Watchdog;
use crate::virtual_ip::Place;

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

/// What the agent has said.
#[derive(Default)]
struct Charge {
    duty: Duty,
    /// What goes with it.
    address: Option<Place>,
    watchdog: Option<Watchdog>,
}

impl Charge {
    /// Sees to the watchdog; returns when to look again.
    fn keep_watchdog(&mut self) -> Option<u64> {
        let (deadline, watchdog) = (self.duty.deadline(), self.watchdog.as_mut()?);
        watchdog.keep(now(), deadline);
        watchdog.wake(deadline)
    }

    /// When PostgreSQL is to be killed: before the watchdog would reset the host.
    fn end(&self) -> Option<u64> {
        let deadline = self.duty.deadline()?;
        Some(self.watchdog.as_ref().map_or(deadline, |watchdog| watchdog.end(deadline)))
    }

    /// The answer to each order.
    fn answer(&self) -> String {
        let deadline = self.duty.told();
        match self.watchdog.as_ref().map(|watchdog| watchdog.failure()) {
            None => format!("{deadline}\n"),
            Some(None) => format!("{deadline} watchdog\n"),
            Some(Some(failure)) => format!("{deadline} watchdog {}\n", failure.replace('\n', " ")),
        }
    }
}

/// Runs until nobody needs it.
///
/// # Errors
/// When its socket cannot be made or the clock's timer is not available.
pub fn run(options: &GuardOptions) -> anyhow::Result<()> {
    // When an agent dies while its node is stopped, the kernel continues the guard with a SIGHUP: it has work to do then.
    signal_hook::flag::register(signal_hook::consts::SIGHUP, Arc::new(AtomicBool::new(false)))?;
    let listener = listen(&options.socket)?;
    let timer = timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
    let mut agent: Option<UnixStream> = None;
    let mut charge = Charge::default();
    let mut line = Vec::new();
    let mut quit = false;
    let mut told = String::new();
    let mut alone = None;
    while !quit {
        let needed = agent.is_some() || charge.duty.deadline().is_some();
        let ends = alone_since(&mut alone, needed).map(|since| since + LONELY);
        if ends.is_some_and(|ends| now() >= ends) {
            break;
        }
        let kept = charge.keep_watchdog().filter(|_| needed);
        let wake = kept.into_iter().chain(charge.end()).chain(charge.duty.look()).chain(ends).min();
        // What has become of the watchdog is told without being asked.
        let answer = charge.answer();
        if charge.watchdog.is_some()
            && answer != told
            && agent.as_mut().is_some_and(|stream| stream.write_all(answer.as_bytes()).is_err())
        {
            agent = None;
        }
        told = answer;
        timerfd_settime(&timer, TimerfdTimerFlags::ABSTIME, &absolute(wake))?;
        let mut fds = vec![PollFd::new(&listener, PollFlags::IN), PollFd::new(&timer, PollFlags::IN)];
        if let Some(stream) = &agent {
            fds.push(PollFd::new(stream, PollFlags::IN));
        }
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        // The deadline first: an order that arrives together with it is too late.
        // A guard that was late itself kicks first: its deadline may be far away.
        charge.keep_watchdog();
        if charge.end().is_some_and(|end| now() >= end) && charge.watchdog.is_none() && charge.duty.is_late(now()) {
            hold(options, charge.address.as_ref());
            charge.duty.held(now());
        } else if charge.end().is_some_and(|end| now() >= end) {
            let ended =
                fire(options, charge.address.as_ref(), Duration::from_secs(30), "the lease ended without a renewal");
            if let Some(watchdog) = charge.watchdog.as_mut().filter(|_| !ended) {
                watchdog.abandon();
            }
            charge.duty.fired(now(), ended);
        } else if charge.duty.look().is_some_and(|look| now() >= look) {
            match matriarch_postgres::process::postmaster(&options.data_dir) {
                Some(_) => {
                    let why = "PostgreSQL was started after the lease had ended";
                    let ended = fire(options, charge.address.as_ref(), Duration::from_secs(1), why);
                    charge.duty.fired(now(), ended);
                }
                None => charge.duty.looked(now()),
            }
        }
        if let Ok((stream, _)) = listener.accept() {
            stream.set_nonblocking(true)?;
            line.clear();
            agent = Some(stream);
        }
        if let Some(stream) = &mut agent
            && !serve(stream, &mut line, &mut charge, &mut quit, options)
        {
            agent = None;
        }
    }
    let _ = std::fs::remove_file(&options.socket);
    Ok(())
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

/// Reads orders and answers each; false when the agent is gone.
fn serve(
    stream: &mut UnixStream,
    line: &mut Vec<u8>,
    charge: &mut Charge,
    quit: &mut bool,
    options: &GuardOptions,
) -> bool {
    let mut buffer = [0u8; 256];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return false,
            Ok(count) => line.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return false,
        }
        if line.len() > 4096 {
            return false;
        }
    }
    while let Some(end) = line.iter().position(|byte| *byte == b'\n') {
        let text: Vec<u8> = line.drain(..=end).collect();
        let Some(order) = std::str::from_utf8(&text).ok().and_then(Order::parse) else { return false };
        let held = charge.duty.holds();
        match order {
            Order::Address(place) => charge.address = Some(place),
            Order::Watchdog(settings) => {
                if charge.watchdog.as_ref().is_none_or(|watchdog| !watchdog.has(&settings)) {
                    // The one before is closed first: the device can be open once.
                    charge.watchdog = None;
                    charge.watchdog = Some(Watchdog::new(settings, now()));
                }
            }
            Order::Arm(at) => charge.duty.arm(at, now()),
            Order::Disarm => charge.duty.disarm(),
            Order::Report => {}
            Order::Quit => {
                charge.duty.disarm();
                *quit = true;
            }
        }
        if held && !charge.duty.holds() {
            release(options);
        }
        // The confirmed deadline has its watchdog with it.
        charge.keep_watchdog();
        if stream.write_all(charge.answer().as_bytes()).is_err() {
            return false;
        }
    }
    true
}

/// Since when it has been alone, if it is.
fn alone_since(alone: &mut Option<u64>, needed: bool) -> Option<u64> {
    if needed {
        *alone = None;
        return None;
    }
    Some(*alone.get_or_insert_with(now))
}

/// What cannot be held is ended a moment later, as it would have been. The address goes at once, for another host may have it by
/// now; an agent that still leads takes it again.
fn hold(options: &GuardOptions, address: Option<&Place>) {
    let removal = Removal::begin(address);
    let outcome = matriarch_postgres::process::hold_tree(&options.data_dir);
    let text = outcome.map_or_else(|error| format!("could not be held: {error}"), |()| "is held meanwhile".to_owned());
    let dir = options.data_dir.display();
    eprintln!("guard: this host stood still while the lease ended; PostgreSQL in {dir} {text}");
    removal.end();
}

/// The agent has the lead again, or wants PostgreSQL to go on for another reason.
fn release(options: &GuardOptions) {
    if let Err(error) = matriarch_postgres::process::release_tree(&options.data_dir) {
        eprintln!("guard: PostgreSQL in {} is still held: {error}", options.data_dir.display());
    }
}

/// False when PostgreSQL could not be ended.
fn fire(options: &GuardOptions, address: Option<&Place>, limit: Duration, why: &str) -> bool {
    // Begun first, since ending a process that hangs in the kernel can take long.
    let removal = Removal::begin(address);
    let outcome = matriarch_postgres::process::kill_tree(&options.data_dir, limit);
    let ended = outcome.is_ok();
    let text = match outcome {
        Ok(killed) => format!("{killed} processes killed"),
        Err(error) => format!("failed: {error}"),
    };
    // The guard has no logger of its own; its standard error is the agent's log.
    eprintln!("guard: {why}: PostgreSQL in {} was ended, {text}", options.data_dir.display());
    removal.end();
    ended
}

/// The address of this member's primary, on its way off the interface.
struct Removal<'a>(Option<(&'a Place, anyhow::Result<Child>)>);

impl<'a> Removal<'a> {
    fn begin(address: Option<&'a Place>) -> Removal<'a> {
        Removal(address.filter(|place| place.is_here()).map(|place| (place, place.begin_removal())))
    }

    fn end(self) {
        let Some((place, removal)) = self.0 else { return };
        match removal.and_then(|mut child| Ok(child.wait()?)) {
            Ok(_) if !place.is_here() => eprintln!("guard: {} was taken off {}", place.address, place.interface),
            Ok(status) => eprintln!("guard: {} is still on {}: {status}", place.address, place.interface),
            Err(error) => eprintln!("guard: {} is still on {}: {error:#}", place.address, place.interface),
        }
    }
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
