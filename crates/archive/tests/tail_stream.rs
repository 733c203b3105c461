//! The tail of real servers, into a directory and into a bucket.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::path::{Path, PathBuf};
use std::time::Duration;

use common::database::{connect, one};
use common::{Described, PATIENT};
use matriarch_archive::archive::{Archive, Incarnation};
use matriarch_archive::tail::{self, Ended, Joined, Joiner, Progress, Settings, Start, TailError};
use matriarch_archive::wal::Segment;
use matriarch_core::{Lsn, Timeline};
use matriarch_postgres::replication::{Replication, Target};
use matriarch_postgres::{Credentials, Source};
use matriarch_testkit::dir::TestDir;
use matriarch_testkit::ledger::{Ledger, Options, verify};
use matriarch_testkit::postgres::{self, Installation};
use matriarch_testkit::s3::S3Server;
use matriarch_testkit::server::Server;
use matriarch_testkit::{faults, user};
use rustix::process::Signal;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio_postgres::Client;

/// A server, and a copy of what it was when it began.
struct Primary {
    server: Server,
    base: PathBuf,
    installation: Installation,
}

impl Primary {
    async fn new(installation: &Installation, dir: &TestDir) -> Primary {
        let settings = "wal_keep_size = 1GB\nautovacuum = off\nmax_wal_senders = 5\nwal_sender_timeout = 20s";
        let mut server = Server::create(installation, dir, "data", settings).await.unwrap();
        server.stop(Signal::INT);
        let base = dir.join("base");
        copy(server.data(), &base);
        server.start().await.unwrap();
        Primary { server, base, installation: installation.clone() }
    }

    async fn archive(&self, described: &Described) -> Archive {
        let client = connect(&self.server).await;
        let size: i64 = one(&client, "select setting::bigint from pg_settings where name = 'wal_segment_size'").await;
        let incarnation = Incarnation {
            format: 1,
            system_identifier: one(&client, "select system_identifier::text from pg_control_system()").await,
            major: self.installation.major,
            segment_size: size as u64,
            created: jiff::Timestamp::now(),
            parent: None,
        };
        described.begin(incarnation).await
    }
}

fn copy(from: &Path, to: &Path) {
    let done = user::command("/bin/cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(done.success());
}

fn target(server: &Server) -> Target {
    let user = Credentials { username: "postgres".into(), password: String::new() };
    let mut target = Target::new(Source::new("127.0.0.1", server.port()), user, "tail");
    (target.connect_limit, target.answer_limit, target.silence_limit) = (PATIENT, PATIENT, PATIENT);
    target
}

/// A tail at work.
struct Running {
    progress: watch::Receiver<Progress>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<Ended, TailError>>,
}

impl Running {
    fn start(settings: &Settings, start: Start) -> Running {
        let (sender, progress) = watch::channel(Progress::default());
        let (stop, stopped) = oneshot::channel();
        let settings = settings.clone();
        let stopped = async { stopped.await.unwrap_or(()) };
        let task = tokio::spawn(async move { tail::run(&settings, start, &sender, stopped).await });
        Running { progress, stop, task }
    }

    async fn until(&mut self, what: &str, condition: impl FnMut(&Progress) -> bool) -> Progress {
        let found = tokio::time::timeout(PATIENT, self.progress.wait_for(condition)).await;
        match found.unwrap_or_else(|_| panic!("waited in vain until {what}")) {
            Ok(progress) => progress.clone(),
            Err(_) => panic!("the tail ended before {what}"),
        }
    }

    async fn stored(&mut self, lsn: Lsn) -> Progress {
        self.until("everything is stored", |progress| progress.stored >= lsn).await
    }

    async fn end(self) -> Result<Ended, TailError> {
        let Running { stop, task, progress: _progress } = self;
        stop.send(()).unwrap();
        tokio::time::timeout(PATIENT, task).await.unwrap().unwrap()
    }

    async fn result(self) -> Result<Ended, TailError> {
        tokio::time::timeout(PATIENT, self.task).await.unwrap().unwrap()
    }
}

/// Does what blocks beside the tail, which must go on.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

async fn flushed(client: &Client) -> Lsn {
    one::<String>(client, "select pg_current_wal_flush_lsn()::text").await.parse().unwrap()
}

/// Writes about `kib` KiB that do not compress.
async fn write(client: &Client, kib: u32) {
    let query = "select pg_logical_emit_message(true, 'x', string_agg(sha512(random()::text::bytea)::text, ''))::text \
                 from generate_series(1, 8)";
    for _ in 0..kib {
        client.query(query, &[]).await.unwrap();
    }
}

/// Joins a timeline's whole tail, compares it with the server's files, and says where it ends.
async fn compared(archive: &Archive, data: &Path, timeline: Timeline, limit: Option<Lsn>) -> Vec<Joined> {
    let joiner = Joiner::new(archive).unwrap();
    let (mut all, mut next): (Vec<Joined>, Option<Segment>) = (Vec::new(), None);
    let size = archive.incarnation().segment_size;
    for (segment, chunks) in joiner.chunks(timeline).await.unwrap() {
        let Some(joined) = joiner.join(segment, &chunks, limit).await.unwrap() else { continue };
        assert_eq!(joined.beyond_gap, None, "{segment}");
        assert!(next.is_none_or(|next| next == segment), "{segment} after {:?}", all.last().map(|last| last.end));
        assert!(all.last().is_none_or(|last| last.end.0 % size == 0), "a gap before {segment}");
        let file = std::fs::read(data.join("pg_wal").join(segment.to_string())).unwrap();
        let known = joined.end.bytes_since(segment.start(size)) as usize;
        assert!(joined.bytes[..known] == file[..known], "{segment} differs from the server's");
        assert!(joined.bytes[known..].iter().all(|byte| *byte == 0));
        next = Some(segment.next(size));
        all.push(joined);
    }
    all
}

/// The whole cluster is lost; the copy from its beginning and the tail bring back everything that was stored, or, when
/// commits wait for the tail, everything that was acknowledged.
async fn comes_back(installation: &Installation, dir: &TestDir, described: Described, commits_wait: bool) {
    let primary = Primary::new(installation, dir).await;
    let archive = primary.archive(&described).await;
    let mut connection = Replication::connect(&target(&primary.server)).await.unwrap();
    connection.create_slot("tail", true).await.unwrap();
    connection.close().await;
    let mut settings = Settings::new(archive.clone(), target(&primary.server), Some("tail".into()));
    let client = connect(&primary.server).await;
    if commits_wait {
        settings.interval = Duration::ZERO;
    }
    let mut running = Running::start(&settings, Start::Resume);
    if commits_wait {
        client.batch_execute("alter system set synchronous_standby_names = 'tail'").await.unwrap();
        client.query("select pg_reload_conf()", &[]).await.unwrap();
        let counts = "select count(*) = 1 from pg_stat_replication where sync_state = 'sync' and state = 'streaming'";
        while !one::<bool>(&client, counts).await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    let ledger = Ledger::start(Options { writers: 3, ..Options::new(primary.server.dsn()) }).await.unwrap();
    for _ in 0..2 {
        write(&client, if commits_wait { 30 } else { 300 }).await;
        client.query("select pg_switch_wal()", &[]).await.unwrap();
    }
    ledger.writes_again(PATIENT).await.unwrap();
    let mut book = ledger.so_far();
    let promised = flushed(&client).await;
    running.stored(promised).await;
    ledger.writes_again(PATIENT).await.unwrap();
    let slot: Lsn = one::<String>(&client, "select restart_lsn::text from pg_replication_slots").await.parse().unwrap();

    faults::kill(&faults::node_processes(primary.server.data()));
    running.task.abort();
    let all = ledger.stop().await;
    if commits_wait {
        book = all;
    }

    let joined = compared(&described.open().await, primary.server.data(), 1, None).await;
    let end = joined.last().unwrap().end;
    assert!(joined.len() >= 3 && end >= promised, "{} segments up to {end}, promised {promised}", joined.len());
    assert!(slot <= end, "the server was told of {slot}, and the repository holds {end}");
    let folder = dir.create("joined");
    for one in &joined {
        std::fs::write(folder.join(one.segment.to_string()), &one.bytes).unwrap();
        user::give(&folder.join(one.segment.to_string())).unwrap();
    }
    std::fs::write(primary.base.join("recovery.signal"), "").unwrap();
    user::give(&primary.base.join("recovery.signal")).unwrap();
    let restore = format!("restore_command = 'cp {}/%f %p'", folder.display());
    let restored = Server::of(installation, &primary.base, &restore).await.unwrap();
    let client = connect(&restored).await;
    while one::<bool>(&client, "select pg_is_in_recovery()").await {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let verdict = verify(&restored.dsn(), &book).await.unwrap();
    assert!(verdict.is_clean() && verdict.present > 0, "{verdict:?}");
}

#[tokio::test]
async fn a_lost_cluster_comes_back_from_a_directory() {
    for installation in postgres::all_majors() {
        let dir = TestDir::new("tail");
        let described = Described::in_directory(&dir, "repository", "zstd", true);
        comes_back(installation, &dir, described, false).await;
    }
}

#[tokio::test]
async fn a_lost_cluster_comes_back_from_a_bucket() {
    let dir = TestDir::new("tail");
    let store = S3Server::start(&dir).unwrap();
    comes_back(postgres::any(), &dir, Described::in_bucket(&store, "lz4", true), false).await;
}

#[tokio::test]
async fn nothing_is_lost_where_commits_wait_for_the_tail() {
    let dir = TestDir::new("tail");
    let described = Described::in_directory(&dir, "repository", "lz4", true);
    comes_back(postgres::all_majors().last().unwrap(), &dir, described, true).await;
}

#[tokio::test]
async fn a_store_that_is_away_is_waited_for_with_bounded_memory() {
    let dir = TestDir::new("tail");
    let mut store = S3Server::start(&dir).unwrap();
    let mut described = Described::in_bucket(&store, "none", false);
    described.patience_ms = 2_000;
    let primary = Primary::new(postgres::any(), &dir).await;
    let archive = primary.archive(&described).await;
    let mut settings = Settings::new(archive.clone(), target(&primary.server), None);
    (settings.chunk, settings.backlog) = (64 << 10, 1 << 20);
    let mut running = Running::start(&settings, Start::Resume);
    let client = connect(&primary.server).await;
    write(&client, 10).await;
    running.stored(flushed(&client).await).await;

    let mut store = aside(move || {
        store.stop();
        store
    })
    .await;
    write(&client, 6_000).await;
    let end = flushed(&client).await;
    let stuck = running.until("it says that the store is away", |progress| progress.trouble.is_some()).await;
    assert!(end.bytes_since(stuck.stored) > 4 << 20, "{stuck:?} of {end}");
    let waiting = stuck.received.bytes_since(stuck.stored);
    assert!(waiting <= 2 * (1 << 20) + (512 << 10), "{waiting} bytes are held in memory");

    let _store = aside(move || {
        store.run().unwrap();
        store
    })
    .await;
    let done = running.stored(end).await;
    assert_eq!(done.trouble, None);
    assert_eq!(running.end().await.unwrap(), Ended::Asked);
    assert!(compared(&archive, primary.server.data(), 1, None).await.last().unwrap().end >= end);
}

#[tokio::test]
async fn goes_on_after_restarts_and_promotions() {
    for installation in postgres::all_majors() {
        let dir = TestDir::new("tail");
        let described = Described::in_directory(&dir, "repository", "zstd", false);
        let mut primary = Primary::new(installation, &dir).await;
        let archive = primary.archive(&described).await;
        let settings = Settings::new(archive.clone(), target(&primary.server), None);
        let client = connect(&primary.server).await;
        for _ in 0..3 {
            let mut running = Running::start(&settings, Start::Resume);
            write(&client, 20).await;
            running.until("something is stored", |progress| progress.chunks > 0).await;
            // As when its process is killed.
            running.task.abort();
            write(&client, 20).await;
        }
        let mut running = Running::start(&settings, Start::Resume);
        running.until("it streams", |progress| progress.timeline == 1).await;
        drop(client);
        let mut server = primary.server;
        let stopping = tokio::spawn(aside(move || {
            server.stop(Signal::INT);
            server
        }));
        assert_eq!(running.result().await.unwrap(), Ended::ServerStopped);
        primary.server = stopping.await.unwrap();
        let before = compared(&archive, primary.server.data(), 1, None).await.last().unwrap().end;

        // The same server becomes a standby without a primary, and is promoted under the tail.
        std::fs::write(primary.server.data().join("standby.signal"), "").unwrap();
        user::give(&primary.server.data().join("standby.signal")).unwrap();
        primary.server.start().await.unwrap();
        let mut running = Running::start(&settings, Start::Resume);
        running.until("it streams", |progress| progress.timeline == 1).await;
        let client = connect(&primary.server).await;
        client.query("select pg_promote()", &[]).await.unwrap();
        write(&client, 20).await;
        let end = flushed(&client).await;
        running.until("the new timeline is stored", |progress| progress.timeline == 2 && progress.stored >= end).await;
        assert_eq!(running.end().await.unwrap(), Ended::Asked);

        let mut connection = Replication::connect(&settings.target).await.unwrap();
        let fork = connection.history(2).await.unwrap().ancestors[0].switch_lsn;
        assert!(fork >= before, "{fork} {before}");
        let old = compared(&archive, primary.server.data(), 2, None).await;
        assert!(old.last().unwrap().end >= end);
        let history = archive.place().wal(&"00000002.history".parse().unwrap());
        assert!(archive.repository().size(&history).await.unwrap() > 0);
        // Once more, on the timeline that it knows now.
        write(&client, 20).await;
        let end = flushed(&client).await;
        let mut running = Running::start(&settings, Start::Resume);
        running.until("it went on", |progress| progress.timeline == 2 && progress.stored >= end).await;
        running.end().await.unwrap();
        assert!(compared(&archive, primary.server.data(), 2, None).await.last().unwrap().end >= end);
    }
}

#[tokio::test]
async fn a_server_with_another_story_is_refused() {
    let dir = TestDir::new("tail");
    let described = Described::in_directory(&dir, "repository", "zstd", true);
    let primary = Primary::new(postgres::any(), &dir).await;
    let archive = primary.archive(&described).await;
    let settings = Settings::new(archive.clone(), target(&primary.server), None);
    let client = connect(&primary.server).await;
    let mut running = Running::start(&settings, Start::Resume);
    write(&client, 50).await;
    let held = running.stored(flushed(&client).await).await.stored;
    running.end().await.unwrap();

    // Its copy, on the same timeline: first it has less than what is archived, then something else.
    let twin = Server::of(&primary.installation, &primary.base, "").await.unwrap();
    let settings = Settings { target: target(&twin), ..settings };
    let error = Running::start(&settings, Start::Resume).result().await.unwrap_err();
    assert!(matches!(error, TailError::Behind { timeline: 1, .. }), "{error}");
    let client = connect(&twin).await;
    while flushed(&client).await <= held {
        write(&client, 50).await;
    }
    let error = Running::start(&settings, Start::Resume).result().await.unwrap_err();
    assert!(matches!(error, TailError::Deposed { timeline: 1, .. }), "{error}");
    compared(&archive, primary.server.data(), 1, None).await;

    let other = TestDir::new("tail");
    let stranger = Primary::new(postgres::any(), &other).await;
    let settings = Settings { target: target(&stranger.server), ..settings };
    let error = Running::start(&settings, Start::Resume).result().await.unwrap_err();
    assert!(matches!(error, TailError::OtherDatabase { .. }), "{error}");
}
