//! What goes wrong at a store, on a disk or in a process: a clear error, and nothing half-done that passes for whole.
#![allow(clippy::unwrap_used, reason = "helpers of tests may panic")]

mod common;
#[path = "cases/retention.rs"]
mod retention;

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::database::{self, Database, Writer, connect, one};
use common::{Described, PATIENT};
use matriarch_archive::base::{self, BackupError, DamagedPage};
use matriarch_archive::repository::{Repository, RepositoryError};
use matriarch_archive::restore::{self, RestoreError, Target, Wanted};
use matriarch_archive::wal::{self, FetchError, PushError, Segment, WalName};
use matriarch_testkit::dir::TestDir;
use matriarch_testkit::postgres;
use matriarch_testkit::s3::S3Server;
use matriarch_testkit::user;
use rustix::process::Signal;

#[tokio::test]
#[ignore = "PostgreSQL starts it"]
async fn hand() {
    database::hand().await;
}

/// A server with one backup and WAL behind it, in a directory.
async fn prepared(dir: &TestDir) -> Database {
    let described = Described::in_directory(dir, "repository", "zstd", true);
    let database = Database::start(postgres::any(), dir, described, "").await;
    let client = database.client().await;
    client.batch_execute("create table marks (id bigint primary key)").await.unwrap();
    client
        .batch_execute("create table large as select g, repeat(md5(g::text), 10) from generate_series(1, 50000) g")
        .await
        .unwrap();
    database.backup("one").await.unwrap();
    for _ in 0..3 {
        client.batch_execute("insert into marks select coalesce(max(id), 0) + 1 from marks").await.unwrap();
        database.archive_all().await;
    }
    database
}

fn repository(database: &Database) -> PathBuf {
    database.described.directory.as_deref().unwrap().into()
}

fn segment_file(database: &Database, segment: Segment) -> PathBuf {
    repository(database).join(database.archive.place().wal(&WalName::Segment(segment)))
}

/// `begun`: whether it is noticed only when something is written already.
async fn restore_fails(database: &Database, data: &Path, target: &Target, begun: bool) -> String {
    let plan = database.plan(target).await.unwrap();
    let error = restore::restore(&database.archive, &plan, &database.options(data)).await.unwrap_err();
    assert_eq!(data.exists(), begun, "{error}");
    assert!(!data.join("global/pg_control").exists(), "what was cut off cannot be started");
    error.to_string()
}

#[tokio::test]
async fn damage_in_the_repository_is_named_and_nothing_passes_for_whole() {
    let dir = TestDir::new("archive");
    let database = prepared(&dir).await;
    let summary = base::list(&database.archive).await.unwrap().remove(0);
    let pack = database.archive.place().pack("one", 0);
    let path = repository(&database).join(&pack);
    let whole = std::fs::read(&path).unwrap();

    std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    let error = restore_fails(&database, &dir.join("truncated"), &Target::Latest, false).await;
    assert!(error.contains(&pack), "{error}");
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    std::fs::write(&path, &flipped).unwrap();
    let error = restore_fails(&database, &dir.join("flipped"), &Target::Latest, true).await;
    assert!(error.contains(&pack) && error.contains("damaged"), "{error}");
    std::fs::remove_file(&path).unwrap();
    let error = restore_fails(&database, &dir.join("missing"), &Target::Latest, false).await;
    assert!(error.contains(&pack), "{error}");
    std::fs::write(&path, &whole).unwrap();

    // A directory that holds something is left alone.
    std::fs::create_dir(dir.join("full")).unwrap();
    std::fs::write(dir.join("full/precious"), "x").unwrap();
    let plan = database.plan(&Target::Latest).await.unwrap();
    let error = restore::restore(&database.archive, &plan, &database.options(&dir.join("full"))).await.unwrap_err();
    assert!(matches!(error, RestoreError::NotEmpty { .. }), "{error}");
    assert_eq!(std::fs::read_dir(dir.join("full")).unwrap().count(), 1);

    // A damaged segment is no end of the log.
    let size = database.archive.incarnation().segment_size;
    let last = Segment::before(1, plan.reach, size);
    let (file, name) = (segment_file(&database, last), WalName::Segment(last));
    let whole = std::fs::read(&file).unwrap();
    std::fs::write(&file, &whole[..whole.len() - 1]).unwrap();
    let archives = [database.archive.clone()];
    let error = wal::fetch(&archives, &name, &dir.join("fetched")).await.unwrap_err();
    assert!(error.exit_code() > 125, "{error}");
    assert!(!dir.join("fetched").exists());
    std::fs::write(&file, &whole).unwrap();
    wal::fetch(&archives, &name, &dir.join("fetched")).await.unwrap();
    assert_eq!(std::fs::read(dir.join("fetched")).unwrap().len() as u64, size);
    let error = wal::fetch(&archives, &WalName::Segment(last.next(size)), &dir.join("fetched")).await.unwrap_err();
    assert!(matches!(error, FetchError::Absent(_)) && error.exit_code() == 1, "{error}");

    // A gap is said before anything is written.
    let middle = Segment::before(1, summary.stop_lsn, size);
    std::fs::remove_file(segment_file(&database, middle)).unwrap();
    let error = database.plan(&Target::Latest).await.unwrap_err();
    assert!(matches!(error, RestoreError::Gap { .. }) && error.to_string().contains(&middle.to_string()), "{error}");
}

#[tokio::test]
async fn a_target_out_of_reach_is_said_beforehand() {
    let dir = TestDir::new("archive");
    let database = prepared(&dir).await;
    let summary = base::list(&database.archive).await.unwrap().remove(0);
    let reach = database.plan(&Target::Latest).await.unwrap().reach;
    let hour = jiff::Span::new().hours(1);
    for target in [
        Target::Time(jiff::Timestamp::now() + hour),
        Target::Lsn(matriarch_core::Lsn(reach.0 + 1)),
        Target::Xid(4_000_000_000),
        Target::Name("never".into()),
    ] {
        let error = database.plan(&target).await.unwrap_err();
        assert!(matches!(error, RestoreError::OutOfReach { .. }), "{target}: {error}");
    }
    for target in [Target::Time(summary.start_time), Target::Lsn(summary.start_lsn)] {
        let error = database.plan(&target).await.unwrap_err();
        assert!(matches!(error, RestoreError::NoBackup(_)), "{target}: {error}");
    }
    let error = restore::plan(&database.archive, &Wanted { backup: Some("two".into()), ..Wanted::new(Target::Latest) })
        .await
        .unwrap_err();
    assert!(error.to_string().contains("there are one"), "{error}");
}

#[tokio::test]
async fn what_is_not_that_segment_is_not_archived() {
    let dir = TestDir::new("archive");
    let database = prepared(&dir).await;
    let archives = [database.archive.clone()];
    let size = database.archive.incarnation().segment_size;
    let reach = database.plan(&Target::Latest).await.unwrap().reach;
    let last = Segment::before(1, reach, size);
    let (name, path) = (WalName::Segment(last), dir.join("segment"));
    wal::fetch(&archives, &name, &path).await.unwrap();
    wal::push(&archives, &path, &name).await.unwrap();

    // Another content: both stay, and somebody is told.
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.write_all_at(b"another history", size - 100).unwrap();
    let error = wal::push(&archives, &path, &name).await.unwrap_err();
    let PushError::Repository(RepositoryError::Conflict { object, kept, .. }) = &error else { panic!("{error}") };
    assert!(repository(&database).join(object).exists() && repository(&database).join(kept).exists());
    wal::fetch(&archives, &name, &dir.join("again")).await.unwrap();
    assert_ne!(std::fs::read(dir.join("again")).unwrap(), std::fs::read(&path).unwrap());

    for (wrong, file) in [(last.next(size), &path), (Segment { timeline: 0, ..last }, &path)] {
        let error = wal::push(&archives, file, &WalName::Segment(wrong)).await.unwrap_err();
        assert!(matches!(error, PushError::NotThatSegment { .. }), "{error}");
    }
    file.write_all_at(&7_u64.to_le_bytes(), 24).unwrap();
    let error = wal::push(&archives, &path, &name).await.unwrap_err();
    assert!(error.to_string().contains("database system 7"), "{error}");
    wal::push(&[], &path, &name).await.unwrap_err();

    // A partial segment is kept under its own name and never served as the whole.
    wal::fetch(&archives, &name, &path).await.unwrap();
    let next = last.next(size);
    file.write_all_at(&next.start(size).0.to_le_bytes(), 8).unwrap();
    let again = std::fs::File::options().write(true).open(&path).unwrap();
    again.write_all_at(&next.start(size).0.to_le_bytes(), 8).unwrap();
    wal::push(&archives, &path, &WalName::Partial(next)).await.unwrap();
    let error = wal::fetch(&archives, &WalName::Segment(next), &dir.join("whole")).await.unwrap_err();
    assert!(matches!(error, FetchError::Absent(_)), "{error}");
}

#[tokio::test]
async fn an_absent_segment_needs_every_repository_to_say_so() {
    let dir = TestDir::new("archive");
    let mut store = S3Server::start(&dir).unwrap();
    let database = Database::start(postgres::any(), &dir, Described::in_bucket(&store, "zstd", false), "").await;
    let second = Described::in_directory(&dir, "second", "none", false);
    let second = second.begin(database.archive.incarnation().clone()).await;
    let hasty = Described { patience_ms: 300, ..database.described.clone() }.open().await;
    let name: WalName = "00000001000000AA000000AA".parse().unwrap();
    let archives = [second, hasty];
    assert!(matches!(wal::fetch(&archives, &name, &dir.join("f")).await, Err(FetchError::Absent(_))));
    store.stop();
    let error = wal::fetch(&archives, &name, &dir.join("f")).await.unwrap_err();
    assert!(error.exit_code() > 125, "one of them may hold it: {error}");
    // Pushed to one of two is not archived.
    let file = dir.join("00000002.history");
    std::fs::write(&file, "1\t0/3000000\tx\n").unwrap();
    let name = WalName::History(2);
    wal::push(&archives, &file, &name).await.unwrap_err();
    store.run().unwrap();
    wal::push(&archives, &file, &name).await.unwrap();
}

#[tokio::test]
async fn a_store_that_goes_away_fails_the_backup_and_the_next_one_succeeds() {
    let dir = TestDir::new("archive");
    let mut store = S3Server::start(&dir).unwrap();
    let database = Database::start(postgres::any(), &dir, Described::in_bucket(&store, "zstd", true), "").await;
    let client = database.client().await;
    client.batch_execute("create table marks (id bigint primary key)").await.unwrap();
    let hasty = Described { patience_ms: 300, ..database.described.clone() }.open().await;
    store.stop();
    let error = database.backup_to(&hasty, "one").await.unwrap_err();
    assert!(matches!(&error, BackupError::Repository(error) if error.is_outage()), "{error}");
    // PostgreSQL's archiver meanwhile retries; nothing is lost.
    client.batch_execute("insert into marks values (1); select pg_switch_wal()").await.unwrap();
    store.run().unwrap();
    assert!(base::list(&database.archive).await.unwrap().is_empty());
    database.backup("two").await.unwrap();
    client.batch_execute("insert into marks values (2)").await.unwrap();
    database.archive_all().await;
    let server = database.restored(&dir, "restored", &Target::Latest).await;
    assert_eq!(one::<i64>(&connect(&server).await, "select count(*) from marks").await, 2);
}

#[tokio::test]
async fn a_backup_that_is_cut_off_is_none() {
    let dir = TestDir::new("archive");
    let database = prepared(&dir).await;
    let packs = repository(&database).join("main/first/pack/two");
    let begun = async {
        let deadline = Instant::now() + PATIENT;
        while !packs.exists() {
            assert!(Instant::now() < deadline, "no pack was begun");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        biased;
        () = begun => {}
        done = database.backup("two") => panic!("it was over before it could be cut off: {done:?}"),
    }
    assert_eq!(base::list(&database.archive).await.unwrap().len(), 1, "only the first is a backup");
    database.backup("three").await.unwrap();
    let plan = database.plan(&Target::Latest).await.unwrap();
    assert_eq!(plan.summary.backup, "three");
}

#[tokio::test]
async fn a_restore_that_is_cut_off_cannot_be_started() {
    let dir = TestDir::new("archive");
    let database = prepared(&dir).await;
    let plan = database.plan(&Target::Latest).await.unwrap();
    let data = dir.join("restored");
    let options = database.options(&data);
    let begun = async {
        while !data.join("base").exists() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        biased;
        () = begun => {}
        done = restore::restore(&database.archive, &plan, &options) => panic!("it was over before: {done:?}"),
    }
    assert!(!data.join("global/pg_control").exists());
    std::fs::remove_dir_all(&data).ok();
}

#[tokio::test]
async fn damaged_pages_are_found_and_named() {
    let dir = TestDir::new("archive");
    let described = Described::in_directory(&dir, "repository", "lz4", false);
    let mut database = Database::start(postgres::any(), &dir, described, "").await;
    let client = database.client().await;
    client.batch_execute("create table marks (id bigint primary key)").await.unwrap();
    client.batch_execute("create table t as select g from generate_series(1, 10000) g; checkpoint").await.unwrap();
    let path: String = one(&client, "select pg_relation_filepath('t')").await;
    drop(client);
    database.server.stop(Signal::INT);
    let file = std::fs::File::options().read(true).write(true).open(database.server.data().join(&path)).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 5 * 8192 + 4000).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], 5 * 8192 + 4000).unwrap();
    database.server.start().await.unwrap();
    let writer = Writer::start(&database).await;
    let summary = database.backup("one").await.unwrap();
    writer.stop().await;
    assert_eq!(summary.damaged, [DamagedPage { path, block: 5 }]);
    assert_eq!(base::list(&database.archive).await.unwrap(), [summary], "and it stays known");
}

/// Runs on a file system that is full before the backup fits.
#[tokio::test]
async fn a_full_repository_is_a_clear_error() {
    if !rustix::process::geteuid().is_root() {
        matriarch_testkit::skipped("needs root to mount a small file system");
        return;
    }
    let dir = TestDir::new("archive");
    let described = Described::in_directory(&dir, "repository", "none", false);
    let place = PathBuf::from(described.directory.as_deref().unwrap());
    let janitor = matriarch_testkit::janitor::Janitor::hire().unwrap();
    janitor.later(&format!("umount -l {} 2>/dev/null", place.display())).unwrap();
    let mount = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=20m,mode=755", "tmpfs"])
        .arg(&place)
        .status();
    if !mount.unwrap().success() {
        matriarch_testkit::skipped("mounting is not allowed here");
        return;
    }
    user::give(&place).unwrap();
    let database = Database::start(postgres::any(), &dir, described.clone(), "").await;
    let error = database.backup("one").await.unwrap_err();
    assert!(error.to_string().contains("free space"), "{error}");
    assert!(base::list(&database.archive).await.unwrap().is_empty());
    // And the archiver's segments are all or nothing.
    let repository = Repository::open(&described.settings()).await.unwrap();
    for entry in repository.list(&database.archive.place().wal_of(1)).await.unwrap() {
        if let Ok(name) = entry.name.rsplit('/').next().unwrap_or_default().parse::<WalName>() {
            wal::fetch(std::slice::from_ref(&database.archive), &name, &dir.join("fetched")).await.unwrap();
        }
    }
    drop(database);
}
