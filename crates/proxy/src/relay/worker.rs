//! The loop of one relay thread.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, mpsc};

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;
use tokio::sync::watch;

use super::flow::{End, Pumped, Session};
use super::{Command, Handover};
use crate::cancel::CancelKeys;
use crate::report::Report;
use crate::routes::{Port, Routes};
use crate::session::stopping;
use crate::stats::Stats;

/// One shared buffer a thread; also the most that one direction of a session can have pending.
const BUFFER: usize = 64 * 1024;
const EVENTS_PER_WAIT: usize = 256;
const WAKE: u64 = u64::MAX;

pub(super) struct Loop {
    epoll: OwnedFd,
    wake: Arc<OwnedFd>,
    inbox: Receiver<Command>,
    routes: watch::Receiver<Arc<Routes>>,
    stats: Arc<Stats>,
    keys: Arc<CancelKeys>,
    /// By slot. Boxed: slots are many, sessions move only once.
    sessions: Vec<Option<Box<Session>>>,
    free: Vec<usize>,
    /// Slots of sessions that ended in this batch: later events of the batch may still name them.
    ended: Vec<usize>,
    /// Directions whose turn was over before their bytes were.
    again: Vec<(usize, End)>,
    buffer: Vec<u8>,
    stopping: bool,
    exit: bool,
}

impl Loop {
    pub fn new(
        inbox: mpsc::Receiver<Command>,
        wake: Arc<OwnedFd>,
        routes: watch::Receiver<Arc<Routes>>,
        stats: Arc<Stats>,
        keys: Arc<CancelKeys>,
    ) -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &wake, EventData::new_u64(WAKE), EventFlags::IN)?;
        Ok(Self {
            epoll,
            wake,
            inbox,
            routes,
            stats,
            keys,
            sessions: Vec::new(),
            free: Vec::new(),
            ended: Vec::new(),
            again: Vec::new(),
            buffer: vec![0; BUFFER],
            stopping: false,
            exit: false,
        })
    }

    /// Moves bytes until told to leave.
    pub fn run(&mut self) {
        let mut events = Vec::with_capacity(EVENTS_PER_WAIT);
        while !self.exit {
            let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
            let timeout = if self.again.is_empty() { None } else { Some(&at_once) };
            events.clear();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), timeout) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => {
                    tracing::error!(%error, "the relay cannot wait for its sessions; all of them end");
                    return;
                }
            }
            for (slot, from) in std::mem::take(&mut self.again) {
                if let Some(session) = self.sessions[slot].as_mut() {
                    session.queue(from, false);
                    self.pump(slot, from);
                }
            }
            for event in &events {
                if self.exit {
                    return;
                }
                let (token, flags) = (event.data.u64(), event.flags);
                if token == WAKE { self.obey() } else { self.react(token, flags) }
            }
            self.free.append(&mut self.ended);
        }
    }

    fn react(&mut self, token: u64, flags: EventFlags) {
        let slot = (token >> 1) as usize;
        let end = if token & 1 == 0 { End::Client } else { End::Server };
        let Some(session) = self.sessions.get_mut(slot).and_then(Option::as_mut) else { return };
        if flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR) {
            session.hang_up(end);
        }
        if session.is_blocked(end.other()) && flags.intersects(EventFlags::OUT | EventFlags::HUP | EventFlags::ERR) {
            self.pump(slot, end.other());
        }
        if flags.intersects(EventFlags::IN | EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR) {
            self.pump(slot, end);
        }
    }

    fn pump(&mut self, slot: usize, from: End) {
        let Some(session) = self.sessions.get_mut(slot).and_then(Option::as_mut) else { return };
        let pumped = session.pump(from, &mut self.buffer, &self.keys);
        let blocked = pumped == Pumped::Blocked;
        let port = self.stats.of(session.port());
        let counter = if from == End::Client { &port.bytes_to_server } else { &port.bytes_to_client };
        counter.fetch_add(session.take_moved(from), Relaxed);
        match pumped {
            Pumped::Again if session.queue(from, true) => {}
            Pumped::Again => self.again.push((slot, from)),
            Pumped::ServerLeft => return self.pump(slot, End::Server),
            Pumped::Over => return self.end(slot),
            Pumped::Idle | Pumped::Blocked => {}
        }
        if session.is_blocked(from) != blocked {
            session.set_blocked(from, blocked);
            // Writability is asked for only while needed: a Unix socket would report it after every message.
            let to = from.other();
            let token = EventData::new_u64((slot as u64) << 1 | to as u64);
            if epoll::modify(&self.epoll, session.fd(to), token, interest(blocked)).is_err() {
                return self.end(slot);
            }
        }
        if session.leaving && session.is_idle() {
            self.cut(slot, &moving());
        }
    }

    fn end(&mut self, slot: usize) {
        if self.sessions[slot].take().is_some() {
            self.ended.push(slot);
        }
    }

    fn obey(&mut self) {
        let mut count = [0; 8];
        // Level-triggered: if this fails the next wait reports it again.
        let _ = rustix::io::read(&self.wake, &mut count);
        while let Ok(command) = self.inbox.try_recv() {
            match command {
                Command::Adopt(handover) => self.adopt(*handover),
                Command::Recheck => self.recheck(),
                Command::CutAll => {
                    self.stopping = true;
                    (0..self.sessions.len()).for_each(|slot| self.cut(slot, &stopping()));
                }
                Command::Pack(answer) => {
                    let sessions = std::mem::take(&mut self.sessions).into_iter().flatten();
                    // Whoever asked may be gone; the sessions then end.
                    let _ = answer.send(sessions.map(|session| session.into_handover()).collect());
                    self.exit = true;
                    return;
                }
                Command::Exit => self.exit = true,
            }
        }
    }

    fn adopt(&mut self, handover: Handover) {
        let mut session = Box::new(Session::new(handover));
        let slot = self.free.pop().unwrap_or_else(|| {
            self.sessions.push(None);
            self.sessions.len() - 1
        });
        let added = [End::Client, End::Server].into_iter().try_for_each(|end| {
            let token = EventData::new_u64((slot as u64) << 1 | end as u64);
            epoll::add(&self.epoll, session.fd(end), token, interest(false))
        });
        // Routes may have changed since the session was started; from here on rechecks find it.
        let (holds, leaving) = session.binding.stands(&self.routes.borrow());
        session.leaving = leaving;
        self.sessions[slot] = Some(session);
        if let Err(error) = added {
            tracing::warn!(%error, "a session could not be added to the relay");
            return self.end(slot);
        }
        if self.stopping {
            return self.cut(slot, &stopping());
        }
        self.pump(slot, End::Server);
        self.pump(slot, End::Client);
        if !holds {
            self.cut(slot, &route_ended());
        }
    }

    fn recheck(&mut self) {
        let routes = Arc::clone(&self.routes.borrow());
        let mut cut = [0usize; 2];
        for slot in 0..self.sessions.len() {
            let Some(session) = &mut self.sessions[slot] else { continue };
            let (holds, leaving) = session.binding.stands(&routes);
            session.leaving = leaving;
            if !holds {
                cut[usize::from(session.port() == Port::ReadOnly)] += 1;
                self.cut(slot, &route_ended());
            } else if leaving {
                // What the client has sent already goes first.
                self.pump(slot, End::Client);
            }
        }
        if cut != [0, 0] {
            let primary = routes.primary.as_ref().map_or("none", |p| p.name.as_str());
            tracing::info!(
                read_write = cut[0],
                read_only = cut[1],
                primary,
                generation = routes.generation,
                "cut sessions whose member left its role"
            );
        }
    }

    fn cut(&mut self, slot: usize, why: &Report) {
        if let Some(session) = self.sessions[slot].take() {
            self.stats.of(session.port()).cut.fetch_add(1, Relaxed);
            session.cut(&why.encode(), &mut self.buffer);
            self.ended.push(slot);
        }
    }
}

fn interest(writable: bool) -> EventFlags {
    let flags = EventFlags::IN | EventFlags::RDHUP | EventFlags::ET;
    if writable { flags | EventFlags::OUT } else { flags }
}

fn moving() -> Report {
    Report::new("57P01", "terminating connection between two statements because a switchover is under way")
        .hint("Connect again: the proxy holds the new session until the new primary is there.")
}

fn route_ended() -> Report {
    Report::new("57P01", "terminating connection because the member left its role (failover or switchover)")
        .hint("Connect again: the proxy sends new sessions to the right member.")
}
