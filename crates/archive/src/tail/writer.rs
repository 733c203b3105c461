//! From a server into the repository.

use std::pin::{Pin, pin};
use std::time::Duration;

use bytes::BytesMut;
use matriarch_core::{Lsn, Timeline};
use matriarch_postgres::replication::{
    Event, NextTimeline, Positions, Replication, ReplicationError, Target, WalStream,
};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::chunk::Chunk;
use super::error::TailError;
use super::resume::{self, From};
use super::store::store;
use crate::archive::Archive;
use crate::format::Kind;
use crate::wal::{Segment, WalName};

/// Which server's WAL goes where, and how.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where it goes.
    pub archive: Archive,
    /// Where it comes from.
    pub target: Target,
    /// The physical slot that keeps the server from removing what is not archived yet. It must exist.
    pub slot: Option<String>,
    /// How long WAL may wait for more before it is put away. Zero: as soon as the chunk before it is held, for a tail
    /// that commits wait for.
    pub interval: Duration,
    /// Bytes of WAL that do not wait any longer.
    pub chunk: usize,
    /// Bytes of WAL that may wait while the store is slow. Then no more is taken from the server; one such amount may be
    /// under way to the store at the same time.
    pub backlog: usize,
}

impl Settings {
    /// A chunk every second or mebibyte, and at most 8 MiB that wait.
    pub fn new(archive: Archive, target: Target, slot: Option<String>) -> Settings {
        Settings { archive, target, slot, interval: Duration::from_secs(1), chunk: 1 << 20, backlog: 8 << 20 }
    }
}

/// Where a tail begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// Where the repository's chunks end, so that there is no gap. When it holds none: as [`Start::Anew`].
    Resume,
    /// Where the slot holds WAL from, else with the segment that the server is writing. There may be a gap to what the
    /// repository holds; complete segments fill it.
    Anew,
}

/// How far a tail is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The timeline; 0 before the first connection.
    pub timeline: Timeline,
    /// Everything before it has come.
    pub received: Lsn,
    /// Everything before it is held by the repository.
    pub stored: Lsn,
    /// While it streams: from here on it has put away everything up to `stored`, at the start of a segment. What is before it comes
    /// as segments.
    pub begun: Option<Lsn>,
    /// How many chunks were put away.
    pub chunks: u64,
    /// Why nothing is put away at the moment.
    pub trouble: Option<String>,
}

/// How a tail ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was asked to. Everything that had come is held.
    Asked,
    /// The server was stopped cleanly. Everything it has written is held.
    ServerStopped,
}

/// Streams and archives until `stop` is ready, across timelines. What had come when the stream ended is archived first. May
/// be dropped at any time: what is not held was not acknowledged to the server. A clean stop of the server waits until
/// everything is held, so during an outage of the repository whoever stops the server must end the tail as well.
///
/// # Errors
/// When the server or the connection fails, and when the repository refuses; an outage of the repository is waited for.
pub async fn run(
    settings: &Settings,
    start: Start,
    progress: &watch::Sender<Progress>,
    stop: impl Future<Output = ()>,
) -> Result<Ended, TailError> {
    let mut stop = pin!(stop);
    let mut connection = Replication::connect(&settings.target).await?;
    let server = connection.identify().await?;
    let size = connection.wal_segment_size().await?;
    same_database(settings, server.system_identifier, size)?;
    let mut from = resume::find(&mut connection, settings, start, &server).await?;
    loop {
        archive_history(&mut connection, settings, from.timeline).await?;
        let stream = connection.stream(settings.slot.as_deref(), from.timeline, from.lsn).await?;
        let mut writer = Writer::new(settings, progress, stream, from, size);
        match writer.drive(stop.as_mut()).await? {
            Over::Timeline(next) => {
                connection = writer.stream.into_connection()?;
                from = From::segment_of(next.timeline, next.start, size);
            }
            Over::Asked => {
                writer.stream.finish().await?.close().await;
                return Ok(Ended::Asked);
            }
            Over::Stopped => return Ok(Ended::ServerStopped),
        }
    }
}

fn same_database(settings: &Settings, system: u64, size: u64) -> Result<(), TailError> {
    let record = settings.archive.incarnation();
    if record.system_identifier == system.to_string() && record.segment_size == size {
        return Ok(());
    }
    let describe = |system: &str, size: u64| format!("system {system} with segments of {size} bytes");
    Err(TailError::OtherDatabase {
        found: describe(&system.to_string(), size),
        expected: describe(&record.system_identifier, record.segment_size),
    })
}

/// Without its history nobody could tell where a timeline came from. The archiver will bring the same file.
async fn archive_history(
    connection: &mut Replication,
    settings: &Settings,
    timeline: Timeline,
) -> Result<(), TailError> {
    if timeline <= 1 {
        return Ok(());
    }
    let content = connection.history_file(timeline).await?;
    let name = settings.archive.place().wal(&WalName::History(timeline));
    settings.archive.put_new(Kind::Wal, &name, content).await?;
    Ok(())
}

/// Why a stream is over.
#[derive(Clone, Copy, Debug)]
enum Over {
    Timeline(NextTimeline),
    Stopped,
    Asked,
}

type Put = Pin<Box<dyn Future<Output = Result<Lsn, TailError>> + Send>>;

struct Writer<'a> {
    settings: &'a Settings,
    progress: &'a watch::Sender<Progress>,
    stream: WalStream,
    size: u64,
    /// What has come and is not under way to the repository yet.
    pending: BytesMut,
    /// The position of its first byte, and when that came.
    pending_from: Lsn,
    since: Instant,
    /// Where the first chunk must end.
    held: Option<Lsn>,
    /// The server waits for us.
    hurry: bool,
    put: Option<Put>,
}

impl<'a> Writer<'a> {
    fn new(
        settings: &'a Settings,
        progress: &'a watch::Sender<Progress>,
        mut stream: WalStream,
        from: From,
        size: u64,
    ) -> Writer<'a> {
        stream.acknowledge(Positions { write: from.lsn, flush: from.lsn, apply: from.lsn });
        progress.send_modify(|progress| {
            (progress.timeline, progress.received, progress.stored) = (from.timeline, from.lsn, from.lsn);
            progress.begun = Some(Segment::at(from.timeline, from.lsn, size).start(size));
        });
        Writer {
            settings,
            progress,
            stream,
            size,
            pending: BytesMut::new(),
            pending_from: from.lsn,
            since: Instant::now(),
            held: from.held,
            hurry: false,
            put: None,
        }
    }

    /// Until the stream is over and everything that came is held.
    async fn drive(&mut self, mut stop: Pin<&mut impl Future<Output = ()>>) -> Result<Over, TailError> {
        let mut over: Option<Result<Over, ReplicationError>> = None;
        loop {
            if self.put.is_none() && self.is_due(over.is_some()) {
                self.begin_put();
            }
            if self.put.is_none()
                && let Some(over) = over.take_if(|_| self.pending.is_empty())
            {
                return Ok(over?);
            }
            let wake = self.since + self.settings.interval;
            let is_full = self.pending.len() >= self.settings.backlog && self.held.is_none();
            tokio::select! {
                stored = wait(&mut self.put) => self.stored(stored?),
                event = receive(&mut self.stream, is_full), if over.is_none() => match event {
                    Ok(event) => over = self.take(event).map(Ok),
                    Err(error) => over = Some(Err(error)),
                },
                () = sleep_until(wake), if self.put.is_none() && !self.pending.is_empty() && self.held.is_none() => {}
                () = stop.as_mut(), if over.is_none() => over = Some(Ok(Over::Asked)),
            }
        }
    }

    fn take(&mut self, event: Event) -> Option<Over> {
        match event {
            Event::Wal { bytes, .. } => {
                if self.pending.is_empty() {
                    self.since = Instant::now();
                }
                self.pending.extend_from_slice(&bytes);
                let received = self.stream.position();
                self.progress.send_modify(|progress| progress.received = received);
                None
            }
            Event::Keepalive { reply_wanted, .. } => {
                self.hurry |= reply_wanted && !self.pending.is_empty();
                None
            }
            Event::TimelineEnd(next) => Some(Over::Timeline(next)),
            Event::Stopped => Some(Over::Stopped),
        }
    }

    /// Whether what waits has waited long enough.
    fn is_due(&self, is_over: bool) -> bool {
        if self.pending.is_empty() {
            return false;
        }
        if let Some(held) = self.held {
            return is_over || self.pending.len() as u64 >= held.bytes_since(self.pending_from);
        }
        is_over
            || self.hurry
            || self.pending.len() >= self.settings.chunk
            || self.pending.len() as u64 >= self.to_segment_end()
            || self.since.elapsed() >= self.settings.interval
    }

    fn to_segment_end(&self) -> u64 {
        self.size - self.pending_from.0 % self.size
    }

    /// Sends what waits on its way, up to the end of the segment.
    fn begin_put(&mut self) {
        let most = match self.held.take() {
            Some(held) => held.bytes_since(self.pending_from),
            None => self.to_segment_end(),
        };
        let length = usize::try_from(most).map_or(self.pending.len(), |most| most.min(self.pending.len()));
        let content = self.pending.split_to(length).freeze();
        let (from, to) = (self.pending_from, Lsn(self.pending_from.0 + length as u64));
        (self.pending_from, self.since, self.hurry) = (to, Instant::now(), false);
        let chunk = Chunk { segment: Segment::at(self.stream.timeline(), from, self.size), from, to };
        self.put = Some(Box::pin(store(self.settings.archive.clone(), chunk, content, self.progress.clone())));
    }

    fn stored(&mut self, end: Lsn) {
        self.put = None;
        // Whoever waits until a commit can be seen elsewhere (`remote_apply`) is not to wait for us for ever.
        self.stream.acknowledge(Positions { write: self.stream.position(), flush: end, apply: end });
        self.progress.send_modify(|progress| {
            (progress.stored, progress.trouble) = (end, None);
            progress.chunks += 1;
        });
    }
}

/// The next event; while there is no place for more, only the connection is kept alive.
async fn receive(stream: &mut WalStream, is_full: bool) -> Result<Event, ReplicationError> {
    if is_full { Err(stream.hold().await) } else { stream.next().await }
}

/// The end of the chunk that is under way; for ever when there is none.
async fn wait(put: &mut Option<Put>) -> Result<Lsn, TailError> {
    match put {
        Some(put) => put.as_mut().await,
        None => std::future::pending().await,
    }
}
