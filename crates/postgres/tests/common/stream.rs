//! Streams of WAL, compared with the files of the server.
#![allow(dead_code, reason = "each test file uses a part")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use matriarch_core::{Lsn, Timeline};
use matriarch_postgres::replication::{Event, Positions, Replication, Target, WalStream};
use matriarch_postgres::{Instance, Sql};
use tokio::task::JoinHandle;

use super::{LONG, Node};

pub fn target(node: &Node) -> Target {
    let mut target = Target::local(&node.instance, "receiver");
    // The machine may be busy with other tests.
    (target.connect_limit, target.answer_limit, target.silence_limit) = (LONG, LONG, LONG);
    target
}

pub async fn connect(node: &Node) -> Replication {
    Replication::connect(&target(node)).await.unwrap()
}

pub async fn next(stream: &mut WalStream) -> Event {
    tokio::time::timeout(LONG, stream.next()).await.unwrap().unwrap()
}

/// The start of the segment that a position lies in.
pub fn segment_start(lsn: Lsn, size: u64) -> Lsn {
    Lsn(lsn.0 - lsn.0 % size)
}

/// Everything up to `end` and perhaps more.
pub async fn collect(stream: &mut WalStream, end: Lsn) -> Vec<u8> {
    let mut collected = Vec::new();
    while stream.position() < end {
        match next(stream).await {
            Event::Wal { bytes, .. } => collected.extend_from_slice(&bytes),
            Event::Keepalive { .. } => {}
            other => panic!("{other:?} at {}", stream.position()),
        }
    }
    collected
}

/// The same from the files, from the start of a segment on.
pub fn in_files(node: &Node, timeline: Timeline, size: u64, from: Lsn, length: usize) -> Vec<u8> {
    let (mut bytes, mut segment) = (Vec::new(), from.0 / size);
    assert_eq!(from.0 % size, 0);
    while bytes.len() < length {
        let per_log = (1_u64 << 32) / size;
        let name = format!("{timeline:08X}{:08X}{:08X}", segment / per_log, segment % per_log);
        let file = std::fs::read(node.data("pg_wal").join(&name)).unwrap();
        assert_eq!(file.len() as u64, size, "{name}");
        bytes.extend_from_slice(&file);
        segment += 1;
    }
    bytes.truncate(length);
    bytes
}

/// Panics at the first byte that differs.
pub fn assert_same(streamed: &[u8], stored: &[u8], from: Lsn) {
    assert_eq!(streamed.len(), stored.len());
    if let Some(at) = streamed.iter().zip(stored).position(|(one, other)| one != other) {
        panic!("the byte at {} differs: {} streamed, {} stored", Lsn(from.0 + at as u64), streamed[at], stored[at]);
    }
}

pub fn flushed(lsn: Lsn) -> Positions {
    Positions { write: lsn, flush: lsn, apply: Lsn::ZERO }
}

/// A client that writes until it is told to stop.
pub struct Writer {
    stop: Arc<AtomicBool>,
    written: Arc<AtomicU32>,
    task: JoinHandle<()>,
}

impl Writer {
    pub async fn start(instance: &Instance) -> Writer {
        let sql = Sql::connect(instance).await.unwrap();
        let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let (stopped, count) = (stop.clone(), written.clone());
        let task = tokio::spawn(async move {
            let query = "SELECT pg_logical_emit_message(true, 'x', repeat(md5(random()::text), 500))";
            // It ends with its server.
            while !stopped.load(Ordering::Relaxed) && sql.query("write", query, LONG).await.is_ok() {
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        Writer { stop, written, task }
    }

    pub fn is_under_way(&self) -> bool {
        self.written.load(Ordering::Relaxed) > 10
    }

    /// How many records it has written.
    pub async fn end(self) -> u32 {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap();
        self.written.load(Ordering::Relaxed)
    }
}

pub async fn end_of_wal(sql: &Sql) -> Lsn {
    super::value(sql, "SELECT pg_current_wal_flush_lsn()").await.parse().unwrap()
}

/// Writes `count` records and goes to the next segment after each.
pub async fn write_segments(sql: &Sql, count: u32) {
    for _ in 0..count {
        let query = "SELECT pg_logical_emit_message(true, 'x', 'y'), pg_switch_wal()";
        sql.query("write", query, LONG).await.unwrap();
    }
}
