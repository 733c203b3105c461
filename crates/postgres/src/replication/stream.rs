//! A stream of WAL.

use std::time::Duration;

use bytes::Bytes;
use matriarch_core::{Lsn, Timeline};
use postgres_protocol::message::frontend;
use tokio::time::{Instant, sleep_until, timeout};

use super::answer::{self, NextTimeline};
use super::connection::{Replication, quote_name};
use super::copy::{self, Copied, Positions};
use super::error::{ReplicationError, of_stream};
use super::message::Message;

const WHAT: &str = "stream WAL";

/// What a stream brings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// WAL, without a gap to what came before.
    Wal {
        /// The position of the first byte.
        start: Lsn,
        /// At most 2 MiB.
        bytes: Bytes,
        /// How far the server's own WAL goes.
        server_end: Lsn,
    },
    /// The server lives. When it wanted an answer, the answer is on its way.
    Keepalive {
        /// How far the server's own WAL goes.
        server_end: Lsn,
        /// It wanted one. While a server is being stopped this means: it waits until we have flushed everything.
        reply_wanted: bool,
    },
    /// Everything of this timeline has come; the server is on another one. The stream has ended and its connection can
    /// be used on ([`WalStream::into_connection`]).
    TimelineEnd(NextTimeline),
    /// The server is being stopped cleanly; everything up to its shutdown checkpoint has come and has been reported as
    /// flushed. The connection has ended.
    Stopped,
}

/// Where a stream stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// WAL comes.
    Copying,
    /// The server has ended its side, and we ours. What follows may have come already.
    Ending(Option<NextTimeline>),
    /// The server waits for commands again.
    Ended(Option<NextTimeline>),
    /// The server has stopped.
    Stopped,
}

/// WAL as it is written, from one position on one timeline. All of it must be driven by [`WalStream::next`] or
/// [`WalStream::hold`]: the server ends a stream that says nothing for its `wal_sender_timeout`.
pub struct WalStream {
    connection: Replication,
    slot: Option<String>,
    timeline: Timeline,
    /// The first position that has not come yet.
    position: Lsn,
    positions: Positions,
    /// When our positions are to be sent at the latest.
    status_at: Instant,
    /// The server's last sign of life, and when it was asked for one since then.
    heard: Instant,
    asked: Option<Instant>,
    state: State,
    /// The last warning: it often says why the connection then ended.
    warning: Option<String>,
}

impl std::fmt::Debug for WalStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut debug = f.debug_struct("WalStream");
        debug.field("timeline", &self.timeline).field("position", &self.position).field("state", &self.state);
        debug.finish_non_exhaustive()
    }
}

/// How often our positions are sent while nothing is read: what the server asks for is not seen then.
const HELD: Duration = Duration::from_secs(1);

impl Replication {
    /// Asks for WAL of `timeline` from `from` on, through a slot or without. `from` may be any position; whole pages need
    /// the start of a page. Ended at once ([`Event::TimelineEnd`] comes first) when the timeline ends at `from`.
    ///
    /// # Errors
    /// [`ReplicationError::WalRemoved`], [`ReplicationError::NotInHistory`], [`ReplicationError::AheadOfServer`],
    /// [`ReplicationError::SlotInUse`], [`ReplicationError::NoSlot`]. Some only come with the first event.
    pub async fn stream(
        mut self,
        slot: Option<&str>,
        timeline: Timeline,
        from: Lsn,
    ) -> Result<WalStream, ReplicationError> {
        let through = slot.map(|slot| format!("SLOT {} ", quote_name(slot))).unwrap_or_default();
        self.begin(WHAT, &format!("START_REPLICATION {through}PHYSICAL {from} TIMELINE {timeline}"))?;
        let limit = self.target.answer_limit;
        let late = |_| ReplicationError::Timeout { what: WHAT, limit };
        let state = timeout(limit, first_answer(&mut self, slot, timeline, from)).await.map_err(late)??;
        let now = Instant::now();
        Ok(WalStream {
            slot: slot.map(str::to_owned),
            timeline,
            position: from,
            positions: Positions::default(),
            status_at: now + self.target.status_interval,
            heard: now,
            asked: None,
            state,
            warning: None,
            connection: self,
        })
    }
}

/// Reads up to the start of the copy, or to the end of a timeline that has nothing from `from` on.
async fn first_answer(
    connection: &mut Replication,
    slot: Option<&str>,
    timeline: Timeline,
    from: Lsn,
) -> Result<State, ReplicationError> {
    let mut next = None;
    loop {
        match connection.wire.next().await.map_err(|error| ReplicationError::from_wire(WHAT, error))? {
            Message::CopyBoth => return Ok(State::Copying),
            Message::Error(said) => return Err(of_stream(WHAT, slot, timeline, from, said)),
            Message::Row(row) => next = Some(answer::next_timeline(WHAT, &row)?),
            Message::Columns | Message::Complete(_) | Message::Notice(_) | Message::Parameter { .. } => {}
            Message::Ready => return Ok(State::Ended(next)),
            other => return Err(unexpected(&other)),
        }
    }
}

impl WalStream {
    /// The timeline that is streamed.
    pub fn timeline(&self) -> Timeline {
        self.timeline
    }

    /// The first position that has not come yet.
    pub fn position(&self) -> Lsn {
        self.position
    }

    /// Tells the server how far we are, with the next [`WalStream::next`] or [`WalStream::hold`]. `flush` is a promise:
    /// the server forgets what is before it, and may have clients that wait for it. Positions never go back.
    pub fn acknowledge(&mut self, positions: Positions) {
        let known = self.positions;
        self.positions = Positions {
            write: known.write.max(positions.write),
            flush: known.flush.max(positions.flush),
            apply: known.apply.max(positions.apply),
        };
        if self.positions != known {
            self.status_at = Instant::now();
        }
    }

    /// The next event. May be given up at any time without losing anything. After [`Event::TimelineEnd`] and
    /// [`Event::Stopped`] the same comes again.
    ///
    /// # Errors
    /// [`ReplicationError::WalRemoved`] when the server has removed what comes next, [`ReplicationError::Silent`] when it
    /// answers no more, [`ReplicationError::Lost`] when the connection ended. The stream is over then.
    pub async fn next(&mut self) -> Result<Event, ReplicationError> {
        loop {
            match self.state {
                State::Ended(Some(next)) => return Ok(Event::TimelineEnd(next)),
                State::Ended(None) => {
                    return Err(ReplicationError::Lost { what: WHAT, reason: "the server ended the copy".into() });
                }
                State::Stopped => return Ok(Event::Stopped),
                State::Copying | State::Ending(_) => {}
            }
            self.send_status_when_due()?;
            let timer = self.next_timer();
            tokio::select! {
                biased;
                message = self.connection.wire.next() => {
                    let message = message.map_err(|error| self.lost(error))?;
                    (self.heard, self.asked) = (Instant::now(), None);
                    if let Some(event) = self.take(message)? {
                        return Ok(event);
                    }
                }
                () = sleep_until(timer) => self.on_silence()?,
            }
        }
    }

    /// Keeps the stream alive without reading from it, until it fails: for a receiver that has nowhere to put more WAL.
    /// The server's own WAL waits with it.
    pub async fn hold(&mut self) -> ReplicationError {
        loop {
            if let Err(error) = self.send_status_when_due() {
                return error;
            }
            if let Err(error) = self.connection.wire.send().await {
                return self.lost(error);
            }
            // What the server says is not read, so its silence says nothing.
            (self.heard, self.asked) = (Instant::now(), None);
            self.status_at = self.status_at.min(Instant::now() + HELD);
            sleep_until(self.status_at).await;
        }
    }

    /// Ends the stream from our side and returns the connection. WAL that was under way is thrown away.
    ///
    /// # Errors
    /// [`ReplicationError::Timeout`] when the server does not end its side within the target's `answer_limit`.
    pub async fn finish(mut self) -> Result<Replication, ReplicationError> {
        if self.state == State::Copying {
            self.send_status()?;
            frontend::copy_done(self.connection.wire.output());
        }
        let limit = self.connection.target.answer_limit;
        let drain = async {
            while !matches!(self.state, State::Ended(_) | State::Stopped) {
                let message = self.connection.wire.next().await.map_err(|error| self.lost(error))?;
                match (self.state, message) {
                    (State::Copying, Message::Copy(_)) => {}
                    // Ours is under way already.
                    (State::Copying, Message::CopyDone) => self.state = State::Ending(None),
                    (_, other) => drop(self.take(other)?),
                }
            }
            Ok::<(), ReplicationError>(())
        };
        timeout(limit, drain).await.map_err(|_| ReplicationError::Timeout { what: "end a stream", limit })??;
        self.into_connection()
    }

    /// The connection of a stream that has ended with [`Event::TimelineEnd`].
    ///
    /// # Errors
    /// [`ReplicationError::Lost`] when the stream has not ended so.
    pub fn into_connection(mut self) -> Result<Replication, ReplicationError> {
        match self.state {
            State::Ended(_) => {
                self.connection.finish();
                Ok(self.connection)
            }
            State::Stopped => Err(ReplicationError::Lost { what: WHAT, reason: "the server was stopped".into() }),
            State::Copying | State::Ending(_) => {
                Err(ReplicationError::Lost { what: WHAT, reason: "the stream has not been ended".into() })
            }
        }
    }

    fn take(&mut self, message: Message) -> Result<Option<Event>, ReplicationError> {
        match (self.state, message) {
            (_, Message::Error(said)) => {
                return Err(of_stream(WHAT, self.slot.as_deref(), self.timeline, self.position, said));
            }
            (_, Message::Notice(said)) => self.warning = Some(said.to_string()),
            (_, Message::Parameter { .. }) => {}
            (State::Copying, Message::Copy(data)) => return self.take_copied(data).map(Some),
            (State::Copying, Message::CopyDone) => {
                frontend::copy_done(self.connection.wire.output());
                self.state = State::Ending(None);
            }
            // A walsender that is being stopped says this instead of ending the copy.
            (State::Copying, Message::Complete(_)) => self.state = State::Stopped,
            (State::Ending(_), Message::Row(row)) => {
                self.state = State::Ending(Some(answer::next_timeline(WHAT, &row)?));
            }
            (State::Ending(_), Message::Columns | Message::Complete(_)) => {}
            (State::Ending(next), Message::Ready) => self.state = State::Ended(next),
            (_, other) => return Err(unexpected(&other)),
        }
        Ok(None)
    }

    fn take_copied(&mut self, data: Bytes) -> Result<Event, ReplicationError> {
        let protocol = |reason: String| ReplicationError::Protocol { what: WHAT, reason };
        match copy::parse(data).map_err(|malformed| protocol(malformed.0))? {
            Copied::Wal { start, server_end, bytes } => {
                if start != self.position {
                    return Err(protocol(format!("WAL from {start} came where {} was expected", self.position)));
                }
                self.position = Lsn(start.0 + bytes.len() as u64);
                Ok(Event::Wal { start, bytes, server_end })
            }
            Copied::Keepalive { server_end, reply_wanted } => {
                if reply_wanted {
                    self.status_at = Instant::now();
                }
                Ok(Event::Keepalive { server_end, reply_wanted })
            }
        }
    }

    /// Until when to wait for the server before something is to be done.
    fn next_timer(&self) -> Instant {
        let half = self.connection.target.silence_limit / 2;
        let silence = self.asked.unwrap_or(self.heard) + half;
        if self.connection.wire.is_congested() { silence } else { silence.min(self.status_at) }
    }

    /// Asks for a sign of life, or gives up when that was done in vain.
    fn on_silence(&mut self) -> Result<(), ReplicationError> {
        let (now, limit) = (Instant::now(), self.connection.target.silence_limit);
        match self.asked {
            Some(asked) if now >= asked + limit / 2 => Err(ReplicationError::Silent { what: WHAT, limit }),
            None if now >= self.heard + limit / 2 => {
                self.asked = Some(now);
                self.send_status_wanting(true)
            }
            _ => Ok(()),
        }
    }

    fn send_status_when_due(&mut self) -> Result<(), ReplicationError> {
        let is_due = self.state == State::Copying && Instant::now() >= self.status_at;
        if is_due && !self.connection.wire.is_congested() { self.send_status() } else { Ok(()) }
    }

    fn send_status(&mut self) -> Result<(), ReplicationError> {
        self.send_status_wanting(false)
    }

    fn send_status_wanting(&mut self, reply: bool) -> Result<(), ReplicationError> {
        self.status_at = Instant::now() + self.connection.target.status_interval;
        if self.state != State::Copying {
            return Ok(());
        }
        copy::put_status(self.connection.wire.output(), self.positions, reply)
            .map_err(|error| ReplicationError::Protocol { what: WHAT, reason: error.to_string() })
    }

    fn lost(&self, error: super::wire::WireError) -> ReplicationError {
        match (ReplicationError::from_wire(WHAT, error), &self.warning) {
            (ReplicationError::Lost { what, reason }, Some(warning)) => {
                ReplicationError::Lost { what, reason: format!("{reason}; before that it said: {warning}") }
            }
            (error, _) => error,
        }
    }
}

fn unexpected(message: &Message) -> ReplicationError {
    ReplicationError::Protocol { what: WHAT, reason: format!("unexpectedly {}", message.name()) }
}
