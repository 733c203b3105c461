//! Chains of incremental backups: restored and compared, kept together by retention, given up when they are broken.

use std::path::PathBuf;
use std::time::Duration;

use matriarch_archive::archive::Archive;
use matriarch_archive::base::{self, BackupError, FoundBy, Line};
use matriarch_archive::repository::RepositoryError;
use matriarch_archive::restore::{self, RestoreError, Target, Wanted};
use matriarch_archive::retention::{self, Because, Policy, RetentionError};
use matriarch_archive::verify::{self, verify};
use matriarch_testkit::dir::TestDir;
use matriarch_testkit::postgres;
use matriarch_testkit::server::Server;
use rustix::process::Signal;
use tokio_postgres::Client;

use super::common::database::{Database, connect};
use super::common::{Described, PATIENT};

/// Every table of the first schema, with all that is in it.
async fn content(client: &Client) -> Vec<(String, i64, Option<String>)> {
    let names = client.query("select tablename::text from pg_tables where schemaname = 'public' order by 1", &[]).await;
    let mut found = Vec::new();
    for row in names.unwrap() {
        let name: String = row.get(0);
        let query = format!("select count(*), md5(string_agg(one::text, '|' order by one::text)) from {name} one");
        let row = client.query_one(&query, &[]).await.unwrap();
        found.push((name, row.get(0), row.get(1)));
    }
    found
}

/// Restores, starts, and returns the server once it takes writes.
async fn restored(database: &Database, dir: &TestDir, backup: &str, target: Target) -> Server {
    let wanted = Wanted { backup: Some(backup.to_owned()), ..Wanted::new(target) };
    let plan = restore::plan(&database.archive, &wanted).await.unwrap();
    let mut options = database.options(&dir.join(format!("restored-{backup}")));
    for space in &plan.summary.tablespaces {
        options.tablespaces.insert(space.oid, dir.join(format!("restored-{backup}-{}", space.name)));
    }
    restore::restore(&database.archive, &plan, &options).await.unwrap();
    database.start_restored(&options.data).await
}

async fn faults(archive: &Archive, backup: &str) -> Vec<verify::Fault> {
    let options = verify::Options { workers: 2, all_wal: false, progress: Default::default() };
    verify(archive, backup, &options).await.unwrap().faults
}

async fn prepare(database: &Database, dir: &TestDir) -> Client {
    let place = dir.create("space");
    let client = database.client().await;
    client.batch_execute(&format!("create tablespace space location '{}'", place.display())).await.unwrap();
    let tables = "create table large as select g, repeat(md5(g::text), 30) filler from generate_series(1, 6000) g;
        create index on large (g);
        create table in_space tablespace space as select g from generate_series(1, 10000) g;
        create table shortened as select g, repeat('x', 200) from generate_series(1, 3000) g;
        create table dropped as select g from generate_series(1, 3000) g;
        create unlogged table unlogged as select g from generate_series(1, 10) g";
    client.batch_execute(tables).await.unwrap();
    client
}

/// A full backup, two upon it, and WAL after them; what changes in between is what a log tells in different ways.
async fn chain_comes_back(major: u32, settings: &str, found_by: FoundBy) {
    let Some(installation) = postgres::all_majors().iter().find(|found| found.major == major) else {
        matriarch_testkit::skipped(format!(
            "PostgreSQL {major} is not installed here; scripts/install-deps --test installs it"
        ));
        return;
    };
    let dir = TestDir::new("increments");
    let described = Described::in_directory(&dir, "repository", "zstd", true);
    let database = Database::start(installation, &dir, described, settings).await;
    let client = prepare(&database, &dir).await;
    let full = database.increment("full").await.unwrap();
    assert_eq!((full.increment.as_ref(), full.fallback.as_deref()), (None, Some("there is no earlier backup")));

    client
        .batch_execute("delete from shortened where g > 100; update large set filler = 'y' where g = 3000")
        .await
        .unwrap();
    client.batch_execute("drop table dropped; update in_space set g = -1 where g = 7").await.unwrap();
    client.batch_execute("vacuum (truncate) shortened").await.unwrap();
    let one = database.increment("one").await.unwrap();
    let increment = one.increment.as_ref().unwrap();
    assert_eq!((increment.parent.as_str(), increment.needs.as_slice()), ("full", ["full".to_owned()].as_slice()));
    assert_eq!(increment.found_by, found_by, "{increment:?}");
    let most = if found_by == FoundBy::Summaries { full.stored / 4 } else { full.stored / 2 };
    assert!(one.stored < most && one.size < full.size, "{} of {}", one.stored, full.stored);
    let at_one = content(&client).await;

    client
        .batch_execute("insert into shortened select g, repeat('z', 200) from generate_series(1, 5000) g")
        .await
        .unwrap();
    client.batch_execute("create database other strategy file_copy").await.unwrap();
    client
        .batch_execute("create table fresh as select * from large; update large set filler = 'z' where g = 5")
        .await
        .unwrap();
    let two = database.increment("two").await.unwrap();
    let increment = two.increment.as_ref().unwrap();
    assert_eq!((increment.found_by, increment.parent.as_str()), (found_by, "one"));
    assert!(increment.needs.contains(&"full".to_owned()), "{increment:?}");
    assert_eq!(faults(&database.archive, "two").await, []);
    client.batch_execute("delete from fresh where g > 10").await.unwrap();
    let latest = content(&client).await;
    database.archive_all().await;

    let mut server = restored(&database, &dir, "two", Target::Latest).await;
    assert_eq!(content(&connect(&server).await).await, latest_without_unlogged(latest));
    let other = server.dsn().replace("dbname=postgres", "dbname=other");
    drop(tokio_postgres::connect(&other, tokio_postgres::NoTls).await.unwrap());
    server.stop(Signal::INT);
    database.check_pages(server.data());
    let server = restored(&database, &dir, "one", Target::Immediate).await;
    assert_eq!(content(&connect(&server).await).await, latest_without_unlogged(at_one));

    if found_by == FoundBy::Summaries {
        // Where the log tells nothing, everything is read.
        client.batch_execute("alter system set summarize_wal = off").await.unwrap();
        client.batch_execute("select pg_reload_conf()").await.unwrap();
        while super::one::<String>(&client, "select current_setting('summarize_wal')").await == "on" {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let three = database.increment("three").await.unwrap().increment.unwrap();
        assert_eq!((three.found_by, three.because.as_deref()), (FoundBy::Digests, Some("summarize_wal is off")));
        assert_eq!(faults(&database.archive, "three").await, []);
    }
}

/// Unlogged tables come back empty.
fn latest_without_unlogged(mut all: Vec<(String, i64, Option<String>)>) -> Vec<(String, i64, Option<String>)> {
    for (_, count, digest) in all.iter_mut().filter(|(name, ..)| name == "unlogged") {
        (*count, *digest) = (0, None);
    }
    all
}

#[tokio::test]
async fn postgresql_15_comes_back_from_a_chain_by_digests() {
    chain_comes_back(15, "", FoundBy::Digests).await;
}

#[tokio::test]
async fn postgresql_18_comes_back_from_a_chain_by_wal_summaries() {
    chain_comes_back(18, "summarize_wal = on", FoundBy::Summaries).await;
}

async fn names(archive: &Archive) -> Vec<String> {
    base::list(archive).await.unwrap().into_iter().map(|summary| summary.backup).collect()
}

/// Nothing that is listed lacks what it builds upon.
async fn assert_whole(archive: &Archive) {
    let all = base::list(archive).await.unwrap();
    for one in &all {
        for needed in one.needs() {
            assert!(all.iter().any(|other| other.backup == *needed), "{} lacks {needed}", one.backup);
        }
    }
}

fn repository(database: &Database) -> PathBuf {
    database.described.directory.as_deref().unwrap().into()
}

/// Begins a backup and stops once something can be seen of it.
async fn begun(seen: impl Fn() -> bool, backup: std::pin::Pin<&mut impl Future<Output = impl std::fmt::Debug>>) {
    let seen = async {
        while !seen() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        biased;
        () = seen => {}
        done = backup => panic!("it was over before it could be stopped: {done:?}"),
    }
}

/// Whether it has said what it builds upon.
fn has_said(database: &Database, name: &str) -> bool {
    let mark = repository(database).join(format!("main/first/base/{name}/running.json"));
    std::fs::read_to_string(mark).unwrap_or_default().contains("needs")
}

async fn finished(
    backup: impl Future<Output = Result<base::Summary, BackupError>>,
) -> Result<base::Summary, BackupError> {
    tokio::time::timeout(PATIENT, backup).await.unwrap()
}

#[tokio::test]
async fn a_chain_is_kept_together_and_a_broken_one_is_given_up() {
    let dir = TestDir::new("increments");
    let described = Described::in_directory(&dir, "repository", "lz4", false);
    let database = Database::start(postgres::any(), &dir, described, "").await;
    let archive = &database.archive;
    let client = database.client().await;
    database.backup("full").await.unwrap();
    for name in ["one", "two"] {
        client
            .batch_execute(&format!("create table of_{name} as select g from generate_series(1, 1000) g"))
            .await
            .unwrap();
        database.increment(name).await.unwrap();
    }
    let (policy, now) = (Policy::new(None, None), jiff::Timestamp::now);
    let refused = retention::plan_without(archive, "full", false, &policy, now()).await.unwrap_err();
    assert!(matches!(&refused, RetentionError::Needed { by, .. } if *by == ["one", "two"]), "{refused}");
    let both = retention::plan_without(archive, "one", true, &policy, now()).await.unwrap();
    assert_eq!(both.expired(), ["two", "one"], "nothing goes before what builds upon it");

    // What a chain lacks is said before anything is written, and no backup is built upon it any more.
    let manifest = base::manifest(archive, "two").await.unwrap();
    let of_full = |line: &Line| match line {
        Line::Earlier(which, pack, _, at, ..) if manifest.summary.needs()[*which as usize] == "full" => {
            Some((*pack, *at))
        }
        _ => None,
    };
    let (number, at) = manifest.lines.iter().find_map(of_full).unwrap();
    let pack = archive.place().pack("full", number);
    let path = repository(&database).join(&pack);
    let whole = std::fs::read(&path).unwrap();
    let plan = database.plan(&Target::Latest).await.unwrap();
    assert_eq!(plan.summary.backup, "two");
    for broken in [Some(&whole[..at as usize + 10]), None] {
        match broken {
            Some(bytes) => std::fs::write(&path, bytes).unwrap(),
            None => std::fs::remove_file(&path).unwrap(),
        }
        let options = database.options(&dir.join("broken"));
        let error = restore::restore(archive, &plan, &options).await.unwrap_err();
        let RestoreError::Incomplete { backup, source } = &error else { panic!("{error}") };
        assert_eq!(backup, "two");
        assert!(matches!(**source, RepositoryError::Corrupt { .. } | RepositoryError::Absent { .. }), "{error}");
        assert!(error.to_string().contains(&pack) && !dir.join("broken").exists(), "{error}");
    }
    assert!(!faults(archive, "two").await.is_empty());
    let three = database.increment("three").await.unwrap();
    let why = three.fallback.as_deref().unwrap_or_default();
    assert!(three.increment.is_none() && why.contains("two") && why.contains(&pack), "{three:?}");
    std::fs::write(&path, &whole).unwrap();
    assert_eq!(faults(archive, "two").await, []);

    // Stopped after each of its steps, retention leaves no child without its parent.
    database.increment("four").await.unwrap();
    let plan = retention::plan(archive, &Policy::new(Some(1), None), None, now()).await.unwrap();
    let kept: Vec<(&str, Because)> = plan.kept.iter().map(|kept| (kept.backup.as_str(), kept.because)).collect();
    assert_eq!(kept, [("three", Because::Needed), ("four", Because::Count)]);
    assert_eq!(plan.expired(), ["two", "one", "full"]);
    for step in &plan.steps {
        let step = retention::Plan { steps: vec![step.clone()], ..plan.clone() };
        retention::run(archive, &step, |_| {}).await.unwrap();
        assert_whole(archive).await;
    }
    assert_eq!(names(archive).await, ["three", "four"]);
    assert_eq!(faults(archive, "four").await, []);
    begun_while_others_remove(&database).await;
}

/// A backup under way and whoever removes what it builds upon.
async fn begun_while_others_remove(database: &Database) {
    let (archive, policy, now) = (&database.archive, Policy::new(None, None), jiff::Timestamp::now);
    let mut five = Box::pin(database.increment("five"));
    begun(|| has_said(database, "five"), five.as_mut()).await;
    database.backup("six").await.unwrap();
    let plan = retention::plan(archive, &Policy::new(Some(1), None), None, now()).await.unwrap();
    assert_eq!((plan.expired(), plan.under_way.as_slice()), (vec![], ["five".to_owned()].as_slice()));
    retention::run(archive, &plan, |_| {}).await.unwrap();
    let refused = retention::plan_without(archive, "four", true, &policy, now()).await.unwrap_err();
    assert!(matches!(&refused, RetentionError::UnderWay(name) if name == "five"), "{refused}");
    assert_eq!(finished(five).await.unwrap().increment.unwrap().parent, "four");
    assert_eq!(faults(archive, "five").await, []);

    // It begins between the plan and the removal.
    let grow = "create table grown as select g from generate_series(1, 1000) g";
    database.client().await.batch_execute(grow).await.unwrap();
    let plan = retention::plan_without(archive, "five", false, &policy, now()).await.unwrap();
    let mut seven = Box::pin(database.increment("seven"));
    begun(|| has_said(database, "seven"), seven.as_mut()).await;
    retention::run(archive, &plan, |_| {}).await.unwrap();
    assert!(names(archive).await.contains(&"five".to_owned()), "it is spared");
    finished(seven).await.unwrap();
    assert_eq!(faults(archive, "seven").await, []);

    // Somebody has removed it all the same.
    database
        .client()
        .await
        .batch_execute("create table later as select g from generate_series(1, 1000) g")
        .await
        .unwrap();
    let packs = repository(database).join("main/first/pack/eight");
    let mut eight = Box::pin(database.increment("eight"));
    begun(|| packs.exists(), eight.as_mut()).await;
    archive.repository().delete(&archive.place().manifest("seven")).await.unwrap();
    let error = finished(eight).await.unwrap_err();
    assert!(matches!(&error, BackupError::ParentGone { backup } if backup == "seven"), "{error}");
    assert!(!names(archive).await.contains(&"eight".to_owned()));
}
