//! Several processes on one SQLite store: killed, stopped and racing. The children are this test program,
//! started again with one of the ignored tests.

#![allow(clippy::unwrap_used, reason = "a test's helpers may fail as the test does")]

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use matriarch_dcs::clock::boot_clock_ms;
use matriarch_dcs::{Committed, SqliteStore, Store, StoreError, Txn};
use rustix::process::{Pid, Signal, kill_process};

/// For what must come, on a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(60);

struct Process(Child);

impl Process {
    fn start(test: &str, store: &Path, name: &str) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", test, "--ignored", "--nocapture"]).env("STORE", store).env("NAME", name);
        Self(command.stdout(Stdio::null()).spawn().unwrap())
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn child_store() -> Option<(PathBuf, String)> {
    Some((std::env::var_os("STORE")?.into(), std::env::var("NAME").ok()?))
}

fn place() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    (directory, path)
}

async fn increment(store: &SqliteStore, mine: &str) {
    loop {
        let seen = store.read().await.unwrap();
        let of = |key: &str| seen.value(key).map_or(0, |value| value.parse::<u64>().unwrap());
        let txn = match seen.get("total") {
            Some(total) => Txn::new().revision("total", total.revision),
            None => Txn::new().absent("total"),
        };
        let txn = txn.put("total", (of("total") + 1).to_string()).put(mine, (of(mine) + 1).to_string());
        if let Committed::Applied { .. } = store.commit(txn).await.unwrap() {
            return;
        }
    }
}

#[tokio::test]
#[ignore = "run by another test, as a process of its own"]
async fn child_counts() {
    let Some((path, name)) = child_store() else { return };
    let store = SqliteStore::open(&path, "demo").await.unwrap();
    let mine = format!("count/{name}");
    for _ in 0..150 {
        increment(&store, &mine).await;
    }
}

#[tokio::test]
#[ignore = "run by another test, as a process of its own"]
async fn child_counts_for_ever() {
    let Some((path, name)) = child_store() else { return };
    let store = SqliteStore::open(&path, "demo").await.unwrap();
    let mine = format!("count/{name}");
    loop {
        increment(&store, &mine).await;
    }
}

/// Four processes create the same store at once and count together while others are killed in the middle.
#[tokio::test(flavor = "multi_thread")]
async fn counting_together_is_exact_whoever_is_killed() {
    let (_keep, path) = place();
    let mut counting: Vec<_> =
        ["a", "b", "c", "d"].iter().map(|name| Process::start("child_counts", &path, name)).collect();
    let watcher = SqliteStore::open(&path, "demo").await.unwrap();
    // More than twelve only on a machine so busy that none of them came to write.
    for round in 0..100 {
        if round >= 12 && watcher.read().await.unwrap().value("count/victim").is_some() {
            break;
        }
        let victim = Process::start("child_counts_for_ever", &path, "victim");
        tokio::time::sleep(Duration::from_millis(60 + 17 * round)).await;
        victim.signal(Signal::KILL);
    }
    drop(watcher);
    for process in &mut counting {
        let status = tokio::task::block_in_place(|| process.0.wait()).unwrap();
        assert!(status.success(), "a counting process failed: {status}");
    }
    let store = SqliteStore::open_existing(&path, "demo").await.unwrap();
    let seen = store.read().await.unwrap();
    let of = |key: &str| seen.value(key).map_or(0, |value| value.parse::<u64>().unwrap());
    for name in ["a", "b", "c", "d"] {
        assert_eq!(of(&format!("count/{name}")), 150, "{name}");
    }
    let parts: u64 = seen.entries.keys().filter(|key| key.starts_with("count/")).map(|key| of(key)).sum();
    assert_eq!(of("total"), parts);
    assert_eq!(seen.revision, parts, "one revision per change");
    assert!(of("count/victim") > 0, "the victims never came to write");
}

#[tokio::test]
#[ignore = "run by another test, as a process of its own"]
async fn child_leads() {
    let Some((path, name)) = child_store() else { return };
    let store = SqliteStore::open(&path, "demo").await.unwrap();
    let lease = store.grant(LEADS).await.unwrap();
    store.commit(Txn::new().put_leased("leader", name, lease)).await.unwrap();
    loop {
        tokio::time::sleep(Duration::from_millis(150)).await;
        store.keep_alive(lease).await.unwrap();
    }
}

/// A leader's lease: longer than a busy machine may stand still.
const LEADS: Duration = Duration::from_millis(2500);

/// When the only lease ends, on the clock of this boot.
fn end_of_lease(path: &Path) -> u64 {
    let db = rusqlite::Connection::open(path).unwrap();
    let end: i64 = db.query_row("SELECT deadline_ms FROM leases", [], |row| row.get(0)).unwrap();
    u64::try_from(end).unwrap()
}

/// The others hear of a killed leader within a moment of its lease's end, and not before.
#[tokio::test]
async fn a_killed_holder_is_noticed_when_its_lease_ends() {
    let (_keep, path) = place();
    let store = SqliteStore::open(&path, "demo").await.unwrap();
    let mut news = store.watch();
    let mut late = Vec::new();
    for name in ["one", "two", "three"] {
        let mut leader = Process::start("child_leads", &path, name);
        news.changed().await.unwrap();
        assert_eq!(store.read().await.unwrap().value("leader"), Some(name));
        // Several renewals, none of which wakes us.
        assert!(tokio::time::timeout(Duration::from_millis(1500), news.changed()).await.is_err(), "woken for nothing");
        leader.signal(Signal::KILL);
        leader.0.wait().unwrap();
        let end = end_of_lease(&path);
        tokio::time::timeout(PATIENCE, news.changed()).await.expect("nobody noticed").unwrap();
        let now = boot_clock_ms();
        println!("noticed {} ms after the end of the lease", now.saturating_sub(end));
        assert!(now >= end, "noticed too early: at {now}, before {end}");
        late.push(now - end);
        assert_eq!(store.read().await.unwrap().value("leader"), None);
    }
    // Every handle looks once in a second anyway. One late time may be the machine's.
    late.sort_unstable();
    assert!(late[1] < 900, "noticed late: {late:?}");
}

#[test]
#[ignore = "run by another test, as a process of its own"]
fn child_keeps_the_write_lock() {
    let Some((path, _)) = child_store() else { return };
    let db = rusqlite::Connection::open(&path).unwrap();
    std::fs::write(path.with_file_name("ready"), b"").unwrap();
    while !path.with_file_name("go").exists() {
        std::thread::sleep(Duration::from_millis(1));
    }
    db.execute_batch("BEGIN IMMEDIATE; UPDATE meta SET revision = revision + 1000").unwrap();
    std::fs::write(path.with_file_name("locked"), b"").unwrap();
    loop {
        std::thread::park();
    }
}

/// Started, and about to take the lock as soon as it is let go.
async fn a_process_that_wants_the_lock(path: &Path) -> Process {
    let writer = Process::start("child_keeps_the_write_lock", path, "writer");
    appears(&path.with_file_name("ready")).await;
    writer
}

async fn let_it_take_the_lock(path: &Path) {
    std::fs::write(path.with_file_name("go"), b"").unwrap();
    appears(&path.with_file_name("locked")).await;
}

async fn appears(file: &Path) {
    let deadline = Instant::now() + PATIENCE;
    while !file.exists() {
        assert!(Instant::now() < deadline, "the child never made {}", file.display());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// A process that does not end its write blocks the others; they say which it is, and go on when it dies.
#[tokio::test]
async fn a_writer_that_never_ends_is_named() {
    let (_keep, path) = place();
    let store = SqliteStore::open(&path, "demo").await.unwrap();
    let writer = a_process_that_wants_the_lock(&path).await;
    let lease = store.grant(Duration::from_millis(2500)).await.unwrap();
    store.commit(Txn::new().put("a", "1").put_leased("leader", "x", lease)).await.unwrap();
    let_it_take_the_lock(&path).await;
    let said = store.commit(Txn::new().put("a", "2")).await;
    println!("{said:?}");
    let Err(StoreError::Unavailable { reason, .. }) = said else { panic!("not refused") };
    let pid = Pid::from_child(&writer.0).as_raw_nonzero().to_string();
    assert!(reason.contains(&pid), "{reason}");
    // The lease is over by now and cannot be removed; reading goes on, and no sweeps pile up before it.
    let mut took = Vec::new();
    for _ in 0..5 {
        let since = Instant::now();
        let seen = store.read().await.unwrap();
        took.push(since.elapsed());
        assert_eq!((seen.value("a"), seen.value("leader")), (Some("1"), Some("x")));
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    took.sort();
    assert!(took[2] < Duration::from_millis(1500), "reads took {took:?}");
    let mut news = store.watch();
    drop(writer);
    tokio::time::timeout(PATIENCE, news.changed()).await.expect("the lease ends now").unwrap();
    assert_eq!(store.read().await.unwrap().value("leader"), None);
    store.commit(Txn::new().value("a", "1").put("a", "3")).await.unwrap();
}

/// A process that was stopped while writing is killed, so that nobody has to come and do it.
#[tokio::test]
async fn a_stopped_writer_is_killed() {
    let (_keep, path) = place();
    let store = SqliteStore::open(&path, "demo").await.unwrap();
    store.commit(Txn::new().put("a", "1")).await.unwrap();
    let mut writer = a_process_that_wants_the_lock(&path).await;
    let_it_take_the_lock(&path).await;
    writer.signal(Signal::STOP);
    store.commit(Txn::new().value("a", "1").put("a", "2")).await.unwrap();
    assert_eq!(writer.0.wait().unwrap().signal(), Some(Signal::KILL.as_raw()));
    assert_eq!(store.read().await.unwrap().revision, 2, "the stopped process's transaction never happened");
}
