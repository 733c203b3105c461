//! Where sessions live once they run: epoll threads that move bytes and know nothing else.
//!
//! Measured against async tasks, a plain edge-triggered loop saves the re-arming, the read that only
//! finds nothing, and the wake-ups between tasks: see `bench/routing`. One thread serves any number of
//! sessions with one shared buffer; a session owns memory only while its receiver is slower than its sender.

mod flow;
mod worker;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc;
use std::thread::JoinHandle;

use rustix::event::{EventfdFlags, eventfd};
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, oneshot, watch};

use crate::cancel::{CancelKeys, KnownKey};
use crate::frames::Frames;
use crate::routes::{Binding, Routes};
use crate::spread::Seat;
use crate::stats::{Counted, Stats};

/// A started session: both sockets (nonblocking) and what was read, and looked at, but not yet passed on.
pub(crate) struct Handover {
    pub client: OwnedFd,
    pub server: OwnedFd,
    pub to_client: Vec<u8>,
    pub to_server: Vec<u8>,
    /// What is known of the client's and of the server's sending.
    pub halves: [Half; 2],
    /// Message boundaries of a session that can be read; `None` when it is encrypted end to end.
    pub frames: Option<Frames>,
    pub binding: Binding,
    pub tickets: Tickets,
}

/// One end's sending.
#[derive(Debug, Default, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Half {
    /// It has closed its half.
    pub ended: bool,
    /// Its socket has reported a hang-up: read on until the end is seen, since an edge comes once.
    pub hung_up: bool,
}

/// What a session occupies; all of it is returned when the session is dropped.
pub(crate) struct Tickets {
    pub _active: Counted,
    pub _spread: Seat,
    pub _seat: Option<OwnedSemaphorePermit>,
    /// Until authentication is over.
    pub opening: Option<Counted>,
    pub key: Option<KnownKey>,
}

/// What a worker can be told.
enum Command {
    Adopt(Box<Handover>),
    /// Routes have changed: cut what no longer holds.
    Recheck,
    /// The proxy stops: cut everything, now and from now on.
    CutAll,
    /// Leave, and give back all sessions as they are.
    Pack(oneshot::Sender<Vec<Handover>>),
    /// Leave.
    Exit,
}

/// The threads and the way to reach them. Dropping it ends them and every session.
pub(crate) struct Relay {
    workers: Vec<Worker>,
    next: AtomicUsize,
}

struct Worker {
    commands: mpsc::Sender<Command>,
    wake: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Relay {
    /// Starts `threads` workers.
    pub fn start(
        threads: usize,
        routes: &watch::Receiver<Arc<Routes>>,
        stats: &Arc<Stats>,
        keys: &Arc<CancelKeys>,
    ) -> io::Result<Self> {
        let mut workers = Vec::new();
        for n in 0..threads.max(1) {
            let (commands, inbox) = mpsc::channel();
            let wake = Arc::new(eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?);
            let mut worker =
                worker::Loop::new(inbox, Arc::clone(&wake), routes.clone(), Arc::clone(stats), Arc::clone(keys))?;
            let thread = std::thread::Builder::new().name(format!("relay-{n}")).spawn(move || worker.run())?;
            workers.push(Worker { commands, wake, thread: Some(thread) });
        }
        Ok(Self { workers, next: AtomicUsize::new(0) })
    }

    /// Gives a session to the next worker.
    pub fn adopt(&self, session: Handover) {
        let n = self.next.fetch_add(1, Relaxed) % self.workers.len();
        self.workers[n].tell(Command::Adopt(Box::new(session)));
    }

    /// Cuts the sessions whose route no longer holds.
    pub fn recheck(&self) {
        self.workers.iter().for_each(|w| w.tell(Command::Recheck));
    }

    /// Ends the threads; all sessions, with every byte in its place. None may be given to the relay any more.
    pub async fn pack(&self) -> Vec<Handover> {
        let mut all = Vec::new();
        for worker in &self.workers {
            let (answer, sessions) = oneshot::channel();
            worker.tell(Command::Pack(answer));
            all.extend(sessions.await.unwrap_or_default());
        }
        all
    }

    /// Cuts all sessions, and those still to come.
    pub fn cut_all(&self) {
        self.workers.iter().for_each(|w| w.tell(Command::CutAll));
    }
}

impl Worker {
    fn tell(&self, command: Command) {
        // A worker leaves only when told to, or by a panic that has already ended its sessions.
        if self.commands.send(command).is_ok() {
            let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        for worker in &mut self.workers {
            worker.tell(Command::Exit);
            if let Some(thread) = worker.thread.take() {
                let _ = thread.join();
            }
        }
    }
}
