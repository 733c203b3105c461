//! The SQLite engine's leases: the boot they belong to, and how little they cost.

#![allow(clippy::unwrap_used, reason = "a test's helpers may fail as the test does")]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use matriarch_dcs::clock::{boot_clock_ms, boot_id};
use matriarch_dcs::{SqliteStore, Store, StoreError, Txn};
use rusqlite::{Connection, params};

fn place() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    (directory, path)
}

#[test]
fn the_boot_clock_counts_milliseconds() {
    let since = Instant::now();
    let before = boot_clock_ms();
    std::thread::sleep(Duration::from_millis(30));
    let clock = boot_clock_ms() - before;
    let wall = since.elapsed().as_millis();
    assert!(clock >= 29 && u128::from(clock) <= wall + 2, "{clock} against {wall}");
    assert_eq!(boot_id().unwrap().len(), 36);
}

#[tokio::test]
async fn leases_of_another_boot_are_over() {
    let (_keep, path) = place();
    let lease = {
        let store = SqliteStore::open(&path, "demo").await.unwrap();
        let lease = store.grant(Duration::from_secs(3600)).await.unwrap();
        store.commit(Txn::new().put_leased("leader", "a", lease).put("config", "{}")).await.unwrap();
        lease
    };
    Connection::open(&path).unwrap().execute("UPDATE leases SET boot = 'before'", []).unwrap();
    let store = SqliteStore::open(&path, "demo").await.unwrap();
    assert!(matches!(store.keep_alive(lease).await, Err(StoreError::LeaseGone { .. })));
    let seen = store.read().await.unwrap();
    assert_eq!((seen.value("leader"), seen.value("config")), (None, Some("{}")));
    assert_eq!(seen.revision, 2);
}

/// A lease whose granter died before anyone heard of it is found by looking, within about a second.
#[tokio::test]
async fn a_lease_that_nobody_rang_for_is_found() {
    let (_keep, path) = place();
    let store = SqliteStore::open(&path, "demo").await.unwrap();
    store.commit(Txn::new().put("leader", "a")).await.unwrap();
    let mut news = store.watch();
    let db = Connection::open(&path).unwrap();
    let (boot, end) = (boot_id().unwrap(), i64::try_from(boot_clock_ms() + 200).unwrap());
    db.execute("INSERT INTO leases (id, boot, deadline_ms, ttl_ms) VALUES (1, ?1, ?2, 200)", params![boot, end])
        .unwrap();
    db.execute("UPDATE entries SET lease = 1", []).unwrap();
    tokio::time::timeout(Duration::from_secs(60), news.changed()).await.expect("nobody looked").unwrap();
    assert_eq!(store.read().await.unwrap().value("leader"), None);
}

/// How late a watcher hears of a change and of an expiry: on an idle machine well below 50 ms; and never only as late as
/// the second after which it looks by itself.
#[tokio::test]
async fn news_is_fast() {
    let (_keep, path) = place();
    let (writer, reader) =
        (SqliteStore::open(&path, "demo").await.unwrap(), SqliteStore::open(&path, "demo").await.unwrap());
    let mut news = reader.watch();
    let mut delays = Vec::new();
    for n in 0..20 {
        writer.commit(Txn::new().put("n", n.to_string())).await.unwrap();
        let since = Instant::now();
        news.changed().await.unwrap();
        delays.push(since.elapsed());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    delays.sort();
    println!("change heard after: median {:?}, worst {:?}", delays[10], delays[19]);
    assert!(delays[10] < Duration::from_millis(500), "{delays:?}");

    let mut late = Vec::new();
    while late.len() < 5 {
        let ttl = Duration::from_millis(500);
        let lease = writer.grant(ttl).await.unwrap();
        let ends = Instant::now() + ttl;
        let put = match writer.commit(Txn::new().put_leased("leader", "a", lease)).await {
            Err(StoreError::LeaseGone { .. }) if Instant::now() >= ends => continue,
            put => put.unwrap().applied().unwrap(),
        };
        news.wait_for(|known| *known > put).await.unwrap();
        late.push(ends.elapsed());
    }
    late.sort();
    println!("expiry heard after: median {:?}, worst {:?}", late[2], late[4]);
    assert!(late[2] < Duration::from_millis(300), "{late:?}");
}
