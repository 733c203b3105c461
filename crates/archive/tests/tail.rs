//! Chunks of the tail become segments again, or an error says why not.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use bytes::Bytes;
use common::Described;
use matriarch_archive::archive::{Archive, Incarnation};
use matriarch_archive::format::Kind;
use matriarch_archive::repository::RepositoryError;
use matriarch_archive::tail::{Chunk, Joined, Joiner, TailError};
use matriarch_archive::wal::Segment;
use matriarch_core::Lsn;
use matriarch_testkit::dir::TestDir;

const SIZE: u64 = 1 << 20;
const SYSTEM: u64 = 77;

struct Tail {
    dir: TestDir,
    archive: Archive,
    segment: Segment,
    /// The segment as the server wrote it.
    whole: Vec<u8>,
}

impl Tail {
    async fn new(encrypted: bool) -> Tail {
        let dir = TestDir::new("tail");
        let incarnation = Incarnation {
            format: 1,
            system_identifier: SYSTEM.to_string(),
            major: 18,
            segment_size: SIZE,
            created: jiff::Timestamp::now(),
            parent: None,
        };
        let archive = Described::in_directory(&dir, "repository", "zstd", encrypted).begin(incarnation).await;
        let segment = Segment::at(2, Lsn(3 * SIZE), SIZE);
        let mut whole: Vec<u8> = (0..SIZE).map(|at| (at / 7) as u8).collect();
        let header = [&0xD118_u16.to_le_bytes()[..], &2_u16.to_le_bytes(), &2_u32.to_le_bytes()].concat();
        let header = [&header, &(3 * SIZE).to_le_bytes()[..], &[0; 8], &SYSTEM.to_le_bytes()].concat();
        let header = [&header, &(SIZE as u32).to_le_bytes()[..], &8192_u32.to_le_bytes()].concat();
        whole[..header.len()].copy_from_slice(&header);
        Tail { dir, archive, segment, whole }
    }

    fn chunk(&self, from: u64, to: u64) -> Chunk {
        let start = self.segment.start(SIZE).0;
        Chunk { segment: self.segment, from: Lsn(start + from), to: Lsn(start + to) }
    }

    async fn put(&self, from: u64, to: u64) {
        self.put_bytes(from, to, self.whole[from as usize..to as usize].to_vec()).await.unwrap();
    }

    async fn put_bytes(&self, from: u64, to: u64, bytes: Vec<u8>) -> Result<(), RepositoryError> {
        let name = self.chunk(from, to).name(self.archive.place());
        self.archive.put_new(Kind::Tail, &name, Bytes::from(bytes)).await.map(drop)
    }

    fn file(&self, from: u64, to: u64) -> std::path::PathBuf {
        self.dir.join("repository").join(self.chunk(from, to).name(self.archive.place()))
    }

    async fn join(&self, limit: Option<u64>) -> Result<Option<Joined>, TailError> {
        let joiner = Joiner::new(&self.archive).unwrap();
        let chunks = joiner.chunks(2).await.unwrap().remove(&self.segment).unwrap_or_default();
        let limit = limit.map(|limit| Lsn(self.segment.start(SIZE).0 + limit));
        joiner.join(self.segment, &chunks, limit).await
    }

    /// The first `end` bytes of the segment, then zeros.
    async fn joins_up_to(&self, end: u64, limit: Option<u64>) -> Option<Lsn> {
        let joined = self.join(limit).await.unwrap().unwrap();
        let start = self.segment.start(SIZE).0;
        assert_eq!(joined.end, Lsn(start + end));
        let mut expected = self.whole.clone();
        expected[end as usize..].fill(0);
        assert!(joined.bytes == expected, "other bytes than the server's");
        joined.beyond_gap.map(|lsn| Lsn(lsn.0 - start))
    }
}

#[tokio::test]
async fn gaps_overlaps_and_duplicates() {
    for encrypted in [false, true] {
        let tail = Tail::new(encrypted).await;
        assert_eq!(tail.join(None).await.unwrap(), None);
        tail.put(100, 200).await;
        assert_eq!(tail.join(None).await.unwrap(), None, "its beginning is missing");
        tail.put(0, 100).await;
        assert_eq!(tail.joins_up_to(200, None).await, None);
        tail.put(0, 100).await;
        tail.put(150, 300).await;
        tail.put(50, 120).await;
        assert_eq!(tail.joins_up_to(300, None).await, None);
        tail.put(301, 400).await;
        assert_eq!(tail.joins_up_to(300, None).await, Some(Lsn(301)), "a gap of one byte");
        tail.put(290, SIZE).await;
        assert_eq!(tail.joins_up_to(SIZE, None).await, None);
    }
}

#[tokio::test]
async fn never_past_the_fork() {
    let tail = Tail::new(false).await;
    tail.put(0, 100).await;
    tail.put(100, 300).await;
    assert_eq!(tail.joins_up_to(250, Some(250)).await, None);
    assert_eq!(tail.joins_up_to(100, Some(100)).await, None);
    assert_eq!(tail.join(Some(0)).await.unwrap(), None);
    // What a deposed server wrote after the fork does not disturb, not even where it is damaged.
    std::fs::write(tail.file(100, 300), b"rubbish").unwrap();
    assert_eq!(tail.joins_up_to(100, Some(100)).await, None);
}

#[tokio::test]
async fn damaged_chunks_are_not_passed_over() {
    let tail = Tail::new(true).await;
    for (from, to) in [(0, 100), (100, 200), (200, 300)] {
        tail.put(from, to).await;
    }
    let file = tail.file(100, 200);
    let intact = std::fs::read(&file).unwrap();
    let flipped = |at: usize| {
        let mut bytes = intact.clone();
        bytes[at] ^= 1;
        bytes
    };
    let last = intact.len() - 1;
    for bad in [intact[..last].to_vec(), intact[..10].to_vec(), Vec::new(), flipped(last), flipped(20)] {
        std::fs::write(&file, bad).unwrap();
        let error = tail.join(None).await.unwrap_err();
        let expected = tail.chunk(100, 200).name(tail.archive.place());
        assert!(matches!(&error, TailError::Damaged { end, .. } if end.0 % SIZE == 100), "{error}");
        assert!(error.to_string().contains(&expected), "{error}");
    }
    // Another chunk's object under this name.
    std::fs::copy(tail.file(200, 300), &file).unwrap();
    assert!(matches!(tail.join(None).await, Err(TailError::Damaged { .. })));
    // Another chunk has what it held.
    tail.put(90, 210).await;
    assert_eq!(tail.joins_up_to(300, None).await, None);
}

#[tokio::test]
async fn two_stories_are_refused() {
    let tail = Tail::new(true).await;
    tail.put(0, 200).await;
    let mut other = tail.whole[100..300].to_vec();
    other[60] ^= 1;
    let conflict = tail.put_bytes(0, 200, vec![1; 200]).await.unwrap_err();
    assert!(matches!(conflict, RepositoryError::Conflict { .. }), "{conflict}");
    assert_eq!(tail.joins_up_to(200, None).await, None, "what was kept aside of a conflict is not part of it");
    tail.put_bytes(100, 300, other).await.unwrap();
    let error = tail.join(None).await.unwrap_err();
    assert!(matches!(&error, TailError::Contradiction { at, .. } if at.0 % SIZE == 160), "{error}");

    let foreign = Tail::new(false).await;
    let mut bytes = foreign.whole[..300].to_vec();
    bytes[24] ^= 1;
    foreign.put_bytes(0, 300, bytes).await.unwrap();
    let error = foreign.join(None).await.unwrap_err();
    assert!(matches!(error, TailError::NotThatSegment { .. }), "{error}");
    let short = Tail::new(false).await;
    short.put_bytes(0, 300, short.whole[..299].to_vec()).await.unwrap();
    assert!(matches!(short.join(None).await, Err(TailError::Damaged { .. })), "less than its name says");
}
