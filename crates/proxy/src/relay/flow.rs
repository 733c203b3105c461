//! One session's two directions of bytes.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};

use super::{Half, Handover, Tickets};
use crate::cancel::CancelKeys;
use crate::frames::Frames;
use crate::routes::{Binding, Port};

/// The two ends of a session; also the direction that begins there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Client = 0,
    Server = 1,
}

impl End {
    pub fn other(self) -> End {
        match self {
            End::Client => End::Server,
            End::Server => End::Client,
        }
    }
}

/// Full reads in a row after which other sessions get their turn.
const READS_PER_TURN: usize = 8;

/// How a pump ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Pumped {
    /// Nothing more to read for now.
    Idle,
    /// The receiver is full: wait until it can be written to.
    Blocked,
    /// There is more to read, but others wait too.
    Again,
    /// The server takes no more bytes, but its last words may still be unread.
    ServerLeft,
    /// The session is over.
    Over,
}

/// One direction.
#[derive(Default)]
struct Flow {
    /// Bytes the receiver did not take; `sent` of them have gone since.
    pending: Vec<u8>,
    sent: usize,
    half: Half,
    /// Waiting for the receiver to become writable.
    blocked: bool,
    /// Waiting for its next turn.
    queued: bool,
    moved: u64,
}

pub(super) struct Session {
    ends: [OwnedFd; 2],
    flows: [Flow; 2],
    frames: Option<Frames>,
    pub binding: Binding,
    /// Its member is about to hand over: the session ends between two statements.
    pub leaving: bool,
    tickets: Tickets,
}

impl Session {
    pub fn new(handover: Handover) -> Self {
        let Handover { client, server, to_client, to_server, halves: [asks, answers], frames, binding, tickets } =
            handover;
        let mut tickets = tickets;
        // What is encrypted, and replicas' sessions, are nobody's concern when a primary hands over.
        tickets.opening.take_if(|_| frames.is_none() || binding.reign.is_none());
        let flow = |pending, half| Flow { pending, half, ..Flow::default() };
        Self {
            ends: [client, server],
            flows: [flow(to_server, asks), flow(to_client, answers)],
            frames,
            binding,
            leaving: false,
            tickets,
        }
    }

    /// The session as it is now, for another relay.
    pub fn into_handover(self) -> Handover {
        let Self { ends: [client, server], flows: [asks, answers], frames, binding, tickets, .. } = self;
        let halves = [asks.half, answers.half];
        let [to_server, to_client] = [asks, answers].map(|mut flow| flow.pending.split_off(flow.sent));
        Handover { client, server, to_client, to_server, halves, frames, binding, tickets }
    }

    /// Whether it can be ended now without anybody's statement being under way.
    pub fn is_idle(&self) -> bool {
        self.frames.as_ref().is_some_and(Frames::idle) && self.flows.iter().all(|flow| flow.pending.is_empty())
    }

    pub fn port(&self) -> Port {
        self.binding.port
    }

    pub fn fd(&self, end: End) -> &OwnedFd {
        &self.ends[end as usize]
    }

    pub fn hang_up(&mut self, end: End) {
        self.flows[end as usize].half.hung_up = true;
    }

    /// Whether the direction from `end` waits for its receiver.
    pub fn is_blocked(&self, end: End) -> bool {
        self.flows[end as usize].blocked
    }

    pub fn set_blocked(&mut self, end: End, blocked: bool) {
        self.flows[end as usize].blocked = blocked;
    }

    /// Notes that the direction from `end` waits for its next turn, or has it. Returns what was noted before.
    pub fn queue(&mut self, end: End, queued: bool) -> bool {
        std::mem::replace(&mut self.flows[end as usize].queued, queued)
    }

    /// Bytes moved from `end` since the last call.
    pub fn take_moved(&mut self, end: End) -> u64 {
        std::mem::take(&mut self.flows[end as usize].moved)
    }

    /// Moves bytes from `from` to the other end until there are none, the receiver is full, or the turn is over.
    pub fn pump(&mut self, from: End, buffer: &mut [u8], keys: &Arc<CancelKeys>) -> Pumped {
        if from == End::Client && !self.flows[from as usize].pending.is_empty() {
            self.asked();
        }
        match self.flush(from) {
            Ok(true) => {}
            Ok(false) => return Pumped::Blocked,
            Err(_) => return self.receiver_left(from),
        }
        for _ in 0..READS_PER_TURN {
            if self.flows[from as usize].half.ended {
                return self.finish(from);
            }
            let n = match recv(&self.ends[from as usize], &mut *buffer, RecvFlags::DONTWAIT) {
                Ok((_, n)) => n,
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => return Pumped::Idle,
                Err(_) => return Pumped::Over,
            };
            let flow = &mut self.flows[from as usize];
            flow.moved += n as u64;
            if n == 0 {
                flow.half.ended = true;
                return self.finish(from);
            }
            match from {
                End::Server => self.observe(&buffer[..n], keys),
                End::Client => self.asked(),
            }
            match self.forward(from, &buffer[..n]) {
                Ok(true) => {}
                Ok(false) => return Pumped::Blocked,
                Err(_) => return self.receiver_left(from),
            }
            // A short read emptied the socket; the next byte will be a new edge.
            if n < buffer.len() && !self.flows[from as usize].half.hung_up {
                return Pumped::Idle;
            }
        }
        Pumped::Again
    }

    fn asked(&mut self) {
        if let Some(frames) = &mut self.frames {
            frames.asked();
        }
    }

    /// Sends `bytes`; what the receiver does not take is kept. `Ok(false)` when it is full.
    fn forward(&mut self, from: End, bytes: &[u8]) -> Result<bool, Errno> {
        let n = send_some(&self.ends[from.other() as usize], bytes)?;
        if n < bytes.len() {
            let flow = &mut self.flows[from as usize];
            flow.pending.extend_from_slice(&bytes[n..]);
            return Ok(false);
        }
        Ok(true)
    }

    /// Sends what is pending. `Ok(false)` when the receiver is still full.
    fn flush(&mut self, from: End) -> Result<bool, Errno> {
        let flow = &mut self.flows[from as usize];
        while flow.sent < flow.pending.len() {
            match send_some(&self.ends[from.other() as usize], &flow.pending[flow.sent..])? {
                0 => return Ok(false),
                n => flow.sent += n,
            }
        }
        // Memory only while it is needed: thousands of sessions may each have been slow once.
        flow.pending = Vec::new();
        flow.sent = 0;
        Ok(true)
    }

    /// The receiver of what comes from `from` takes no more.
    fn receiver_left(&mut self, from: End) -> Pumped {
        if from == End::Server {
            return Pumped::Over;
        }
        // A server that was told to end says why before it closes: the client shall read that.
        let flow = &mut self.flows[from as usize];
        flow.pending = Vec::new();
        flow.sent = 0;
        flow.half.ended = true;
        self.hang_up(End::Server);
        Pumped::ServerLeft
    }

    /// The sender has closed and everything has been passed on.
    fn finish(&mut self, from: End) -> Pumped {
        // PostgreSQL never closes only half: with its end the session is over. A client may half-close and
        // still read the answer.
        if from == End::Server {
            return Pumped::Over;
        }
        // Refused when the server has closed, too: its last bytes may still be unread, and its end comes behind them.
        let _ = shutdown(&self.ends[from.other() as usize], Shutdown::Write);
        Pumped::Idle
    }

    fn observe(&mut self, bytes: &[u8], keys: &Arc<CancelKeys>) {
        if let Some(key) = self.frames.as_mut().and_then(|f| f.observe(bytes)) {
            self.tickets.key = Some(keys.remember(key, &self.binding.backend));
        }
        self.tickets.opening.take_if(|_| self.frames.as_ref().is_some_and(Frames::started));
    }

    /// Ends the session now. `farewell` is sent only where a message may begin; anywhere else it would be
    /// taken for data.
    pub fn cut(self, farewell: &[u8], buffer: &mut [u8]) {
        let client = &self.ends[End::Client as usize];
        let clean = self.frames.as_ref().is_some_and(Frames::at_boundary);
        if clean && self.flows[End::Server as usize].pending.is_empty() {
            let _ = send_some(client, farewell);
        }
        let _ = shutdown(client, Shutdown::Write);
        // Closing with unread bytes resets the connection, and the client would lose the message.
        let _ = recv(client, buffer, RecvFlags::DONTWAIT);
    }
}

/// Sends what the receiver takes now: 0 when it is full.
fn send_some(to: &OwnedFd, bytes: &[u8]) -> Result<usize, Errno> {
    loop {
        match send(to, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(0),
            other => return other,
        }
    }
}
