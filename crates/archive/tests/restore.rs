//! Backups of real servers under writes, and restores that are compared with what was acknowledged.
#![allow(clippy::unwrap_used, reason = "helpers of tests may panic")]

mod common;
#[path = "cases/doors/mod.rs"]
mod doors;
#[path = "cases/increments.rs"]
mod increments;

use common::database::{self, Database, Writer, connect, one};
use common::{Described, PATIENT};
use matriarch_archive::base;
use matriarch_archive::restore::{self, RestoreError, Target, Wanted};
use matriarch_archive::tail::{self, Progress, Settings, Start};
use matriarch_archive::verify;
use matriarch_core::Lsn;
use matriarch_postgres::{Credentials, Source, replication};
use matriarch_testkit::dir::TestDir;
use matriarch_testkit::postgres;
use matriarch_testkit::s3::S3Server;
use matriarch_testkit::server::Server;

/// Started by PostgreSQL as its archive_command and restore_command, not by the test harness.
#[tokio::test]
#[ignore = "PostgreSQL starts it"]
async fn hand() {
    doors::hand().await;
    database::hand().await;
}

/// Rows of `marks`, which must be 1, 2, 3 … without a gap.
async fn rows(server: &Server) -> i64 {
    let client = connect(server).await;
    let row = client.query_one("select count(*), coalesce(max(id), 0) from marks", &[]).await.unwrap();
    let (count, newest): (i64, i64) = (row.get(0), row.get(1));
    assert_eq!(count, newest, "no row is missing");
    count
}

async fn count(server: &Server, query: &str) -> i64 {
    one(&connect(server).await, query).await
}

async fn prepare(database: &Database, dir: &TestDir) {
    let place = dir.create("space");
    let client = database.client().await;
    client.batch_execute(&format!("create tablespace space location '{}'", place.display())).await.unwrap();
    let tables = "create table marks (id bigint primary key);
        create table in_space tablespace space as select g from generate_series(1, 10000) g;
        create unlogged table unlogged as select g from generate_series(1, 1000) g;
        create table large as select g, repeat(md5(g::text), 30) filler from generate_series(1, 30000) g;
        checkpoint";
    client.batch_execute(tables).await.unwrap();
}

/// Everything on one server: a backup under writes, then marks, then a mistake; `targets` says which are restored.
async fn comes_back(major: u32, described: Described, dir: &TestDir, every_target: bool) {
    let Some(installation) = postgres::all_majors().iter().find(|found| found.major == major) else {
        matriarch_testkit::skipped(format!(
            "PostgreSQL {major} is not installed here; scripts/install-deps --test installs it"
        ));
        return;
    };
    let database = Database::start(installation, dir, described, "").await;
    prepare(&database, dir).await;
    let writer = Writer::start(&database).await;
    writer.more(20).await;
    let before_backup = writer.acknowledged();
    let summary = database.backup("one").await.unwrap();
    assert_eq!(summary.damaged, []);
    assert!(summary.data_checksums);
    writer.more(20).await;
    let marked = writer.stop().await;

    let client = database.client().await;
    let lsn: String = one(&client, "select pg_create_restore_point('before')::text").await;
    let time: i64 = one(&client, "select (extract(epoch from clock_timestamp()) * 1000000)::bigint").await;
    let insert = format!("insert into marks values ({}) returning txid_current()", marked + 1);
    let xid: i64 = one(&client, &insert).await;
    client.batch_execute("drop table in_space; insert into marks select max(id) + 1 from marks").await.unwrap();
    database.archive_all().await;

    let latest = database.restored(dir, "latest", &Target::Latest).await;
    assert_eq!(rows(&latest).await, marked + 2);
    assert_eq!(count(&latest, "select count(*) from pg_class where relname = 'in_space'").await, 0);
    assert_eq!(count(&latest, "select count(*) from unlogged").await, 0, "unlogged tables come back empty");
    let whole = "select count(*) from large where filler = repeat(md5(g::text), 30)";
    assert_eq!(count(&latest, whole).await, 30_000);
    drop(latest);

    let named = database.restored(dir, "named", &Target::Name("before".into())).await;
    assert_eq!(rows(&named).await, marked);
    assert_eq!(count(&named, "select count(*) from in_space").await, 10_000);
    drop(named);
    if !every_target {
        return;
    }
    let targets = [
        ("time", Target::Time(jiff::Timestamp::from_microsecond(time).unwrap()), marked),
        ("lsn", Target::Lsn(lsn.parse().unwrap()), marked),
        ("xid", Target::Xid(u32::try_from(xid).unwrap()), marked + 1),
    ];
    for (name, target, expected) in targets {
        let server = database.restored(dir, name, &target).await;
        assert_eq!(rows(&server).await, expected, "{target}");
        assert_eq!(count(&server, "select count(*) from in_space").await, 10_000, "{target}");
    }
    let immediate = database.restored(dir, "immediate", &Target::Immediate).await;
    let back = rows(&immediate).await;
    assert!((before_backup..=marked).contains(&back), "{back} is not between {before_backup} and {marked}");
}

#[tokio::test]
async fn postgresql_15_comes_back_from_an_encrypted_directory_to_every_target() {
    let dir = TestDir::new("archive");
    let described = Described::in_directory(&dir, "repository", "lz4", true);
    comes_back(15, described, &dir, true).await;
}

#[tokio::test]
async fn postgresql_16_comes_back_from_a_bucket() {
    let dir = TestDir::new("archive");
    let store = S3Server::start(&dir).unwrap();
    comes_back(16, Described::in_bucket(&store, "none", false), &dir, false).await;
}

#[tokio::test]
async fn postgresql_18_comes_back_from_an_encrypted_bucket() {
    let dir = TestDir::new("archive");
    let store = S3Server::start(&dir).unwrap();
    comes_back(18, Described::in_bucket(&store, "zstd", true), &dir, false).await;
}

/// The archive goes on after a restore that was promoted, and a later restore follows it to the new timeline.
#[tokio::test]
async fn the_way_leads_over_a_promotion() {
    let dir = TestDir::new("archive");
    let described = Described::in_directory(&dir, "repository", "zstd", false);
    let mut database = Database::start(postgres::any(), &dir, described, "").await;
    let client = database.client().await;
    client.batch_execute("create table marks (id bigint primary key)").await.unwrap();
    database.backup("one").await.unwrap();
    client.batch_execute("insert into marks values (1)").await.unwrap();
    database.archive_all().await;
    database.server.stop(rustix::process::Signal::INT);
    let first = database.plan(&Target::Latest).await.unwrap();
    assert_eq!(first.history.timeline, 1);

    // Promoted, it archives its history and then its own segments.
    let options = database.options(&dir.join("promoted"));
    restore::restore(&database.archive, &first, &options).await.unwrap();
    database.server = database.start_restored_with(&options.data, "").await;
    let client = database.client().await;
    client.batch_execute("insert into marks values (2)").await.unwrap();
    database.archive_all_of(2).await;
    let second = database.plan(&Target::Latest).await.unwrap();
    assert_eq!((second.history.timeline, second.summary.backup.as_str()), (2, "one"));
    assert!(second.reach > first.reach);
    let again = database.restored(&dir, "again", &Target::Latest).await;
    assert_eq!(rows(&again).await, 2);
    drop(again);
    // With all WAL in place nothing is fetched, also over the change of timelines.
    let placed = restore::Options { place_wal: true, ..database.options(&dir.join("placed")) };
    restore::restore(&database.archive, &database.plan(&Target::Latest).await.unwrap(), &placed).await.unwrap();
    let server = database.start_restored(&placed.data).await;
    assert_eq!(rows(&server).await, 2);
    drop(server);
    // The old timeline is still there for who asks for it.
    let old =
        restore::plan(&database.archive, &Wanted { timeline: Some(1), ..Wanted::new(Target::Latest) }).await.unwrap();
    assert_eq!((old.history.timeline, old.reach), (1, first.reach));
}

/// The whole cluster is lost while segments are far from full: the tail has the rest.
#[tokio::test]
async fn latest_reaches_what_only_the_tail_has() {
    let dir = TestDir::new("archive");
    let described = Described::in_directory(&dir, "repository", "zstd", true);
    let mut database = Database::start(postgres::any(), &dir, described, "max_wal_senders = 3").await;
    let client = database.client().await;
    client.batch_execute("create table marks (id bigint primary key)").await.unwrap();
    database.backup("one").await.unwrap();
    let user = Credentials { username: "postgres".into(), password: String::new() };
    let source = replication::Target::new(Source::new("127.0.0.1", database.server.port()), user, "tail");
    let (sender, mut progress) = tokio::sync::watch::channel(Progress::default());
    let settings = Settings::new(database.archive.clone(), source, None);
    let tail = tokio::spawn(async move { tail::run(&settings, Start::Anew, &sender, std::future::pending()).await });
    progress.wait_for(|progress| progress.timeline == 1).await.unwrap();
    client.batch_execute("insert into marks values (1)").await.unwrap();
    database.archive_all().await;
    client.batch_execute("insert into marks values (2)").await.unwrap();
    client.batch_execute("select pg_create_restore_point('in the tail')").await.unwrap();
    client.batch_execute("insert into marks values (3)").await.unwrap();
    let promised: Lsn = one::<String>(&client, "select pg_current_wal_flush_lsn()::text").await.parse().unwrap();
    let stored = progress.wait_for(|progress| progress.stored >= promised);
    tokio::time::timeout(PATIENT, stored).await.unwrap().unwrap();
    database.server.stop(rustix::process::Signal::KILL);
    tail.abort();

    let plan = database.plan(&Target::Latest).await.unwrap();
    assert!(plan.reach >= promised && !plan.tail.is_empty(), "{plan:?}");
    let window = restore::window(&database.archive, None).await.unwrap().unwrap();
    assert_eq!((window.reach, window.missing), (plan.reach, None));
    assert!(window.last_transaction.unwrap() > plan.summary.stop_time);
    let latest = database.restored(&dir, "latest", &Target::Latest).await;
    assert_eq!(rows(&latest).await, 3);
    drop(latest);
    let named = database.restored(&dir, "named", &Target::Name("in the tail".into())).await;
    assert_eq!(rows(&named).await, 2);
    drop(named);
    let without = Wanted { tail: false, ..Wanted::new(Target::Latest) };
    let shorter = restore::plan(&database.archive, &without).await.unwrap();
    assert!(shorter.tail.is_empty() && shorter.reach < promised, "{shorter:?}");

    // Damage in the tail is not passed over, and there is a way without it.
    let folder = database.archive.place().tail_folder();
    let chunk = database.archive.repository().list(&folder).await.unwrap().pop().unwrap();
    let file = dir.join("repository").join(&chunk.name);
    let whole = std::fs::read(&file).unwrap();
    std::fs::write(&file, &whole[..whole.len() - 1]).unwrap();
    let error = database.plan(&Target::Latest).await.unwrap_err();
    assert!(matches!(error, RestoreError::Tail(_)) && error.to_string().contains(&chunk.name), "{error}");
    assert_eq!(restore::plan(&database.archive, &without).await.unwrap(), shorter);
}

/// A standby of the restored backup, which streams from the server.
async fn standby(database: &Database, dir: &TestDir) -> Server {
    let plan = database.plan(&Target::Immediate).await.unwrap();
    let options = restore::Options { at_target: restore::AtTarget::Pause, ..database.options(&dir.join("standby")) };
    restore::restore(&database.archive, &plan, &options).await.unwrap();
    std::fs::rename(options.data.join("recovery.signal"), options.data.join("standby.signal")).unwrap();
    let auto = options.data.join("postgresql.auto.conf");
    let text = std::fs::read_to_string(&auto).unwrap();
    let kept: String =
        text.lines().filter(|line| !line.starts_with("recovery_target")).map(|l| format!("{l}\n")).collect();
    std::fs::write(&auto, kept).unwrap();
    let primary = format!(
        "primary_conninfo = 'host=127.0.0.1 port={} user=postgres'\narchive_mode = off",
        database.server.port()
    );
    let server = database.follow(&options.data, &primary).await;
    let (client, streams) =
        (database.client().await, "select count(*) from pg_stat_replication where state = 'streaming'");
    while one::<i64>(&client, streams).await == 0 {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    server
}

/// With segments of 1 MiB, and the part of the last one that is not archived in the tail.
#[tokio::test]
async fn a_standby_is_backed_up() {
    let dir = TestDir::new("archive");
    let described = Described::in_directory(&dir, "repository", "zstd", true);
    let settings = "max_wal_senders = 5\nwal_keep_size = 512MB";
    let database = Database::start_with(postgres::any(), &dir, described, settings, &["--wal-segsize=1"]).await;
    let client = database.client().await;
    client.batch_execute("create table marks (id bigint primary key)").await.unwrap();
    let large = "create table large as select g, repeat(md5(g::text), 20) filler from generate_series(1, 8000) g";
    client.batch_execute(large).await.unwrap();
    database.backup("one").await.unwrap();
    let standby = standby(&database, &dir).await;

    // Nobody ends the segment that the backup ends in: the tail has it.
    let user = Credentials { username: "postgres".into(), password: String::new() };
    let source = replication::Target::new(Source::new("127.0.0.1", database.server.port()), user, "tail");
    let (sender, _progress) = tokio::sync::watch::channel(Progress::default());
    let tailing = Settings::new(database.archive.clone(), source, None);
    let tail = tokio::spawn(async move { tail::run(&tailing, Start::Anew, &sender, std::future::pending()).await });
    let writer = Writer::start(&database).await;
    writer.more(20).await;
    let before = writer.acknowledged();
    client.batch_execute("checkpoint").await.unwrap();
    let summary = database.backup_of(&standby, "two").await.unwrap();
    assert!(summary.from_standby && summary.data_checksums && summary.damaged.is_empty(), "{summary:?}");
    writer.more(20).await;
    let marked = writer.stop().await;
    let options = verify::Options { workers: 2, all_wal: false, progress: Default::default() };
    assert_eq!(verify::verify(&database.archive, "two", &options).await.unwrap().faults, []);
    let immediate = database.restored(&dir, "immediate", &Target::Immediate).await;
    let back = rows(&immediate).await;
    assert!((0..=marked).contains(&back), "{back} of {marked}, {before} before");
    drop(immediate);
    database.archive_all().await;
    let plan = database.plan(&Target::Latest).await.unwrap();
    assert_eq!(plan.summary.backup, "two");
    let latest = database.restored(&dir, "latest", &Target::Latest).await;
    assert_eq!(rows(&latest).await, marked);
    drop(latest);
    tail.abort();

    // Promoted midway, what was copied belongs to no timeline.
    let packs = dir.join("repository/main/first/pack/three");
    let mut third = Box::pin(database.backup_of(&standby, "three"));
    let begun = async {
        while !packs.exists() {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        biased;
        () = begun => {}
        done = &mut third => panic!("it was over before: {done:?}"),
    }
    let promoted: bool = one(&connect(&standby).await, "select pg_promote()").await;
    assert!(promoted);
    let error = tokio::time::timeout(PATIENT, third).await.unwrap().unwrap_err();
    assert!(error.to_string().contains("promoted") || error.to_string().contains("timeline"), "{error}");
    let names: Vec<String> =
        base::list(&database.archive).await.unwrap().into_iter().map(|summary| summary.backup).collect();
    assert_eq!(names, ["one", "two"]);
}
