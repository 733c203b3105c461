//! The SQLite engine and its file: what it refuses, what it notices, and that it harms nothing.

#![allow(clippy::unwrap_used, reason = "a test's helpers may fail as the test does")]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use matriarch_dcs::{SqliteStore, Store, StoreError, Txn};
use tempfile::TempDir;

/// For what must come, on a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(60);

fn place() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().canonicalize().unwrap().join("store.db");
    (directory, path)
}

async fn refuses(path: &Path) -> StoreError {
    match SqliteStore::open(path, "demo").await {
        Ok(_) => panic!("{} was accepted", path.display()),
        Err(error) => {
            println!("{error}");
            assert!(error.to_string().contains(&path.display().to_string()), "names no place: {error}");
            error
        }
    }
}

/// A store with some pages of content, closed cleanly or not.
async fn filled(path: &Path) {
    let store = SqliteStore::open(path, "demo").await.unwrap();
    for n in 0..20 {
        store.commit(Txn::new().put(format!("members/{n}"), "x".repeat(3000))).await.unwrap();
    }
}

/// All content into the main file, as after a clean end of its last user.
fn fold(path: &Path) {
    let db = rusqlite::Connection::open(path).unwrap();
    db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
}

#[tokio::test]
async fn it_is_created_private_and_found_again() {
    let (_keep, path) = place();
    assert!(matches!(SqliteStore::open_existing(&path, "demo").await, Err(StoreError::Missing { .. })));
    assert!(!path.exists(), "open_existing must not create");
    let store = SqliteStore::open(&path, "demo").await.unwrap();
    store.commit(Txn::new().put("config", "{}")).await.unwrap();
    for name in ["store.db", "store.db-wal", "store.db-shm", "store.db-bell"] {
        let mode = fs::metadata(path.with_file_name(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    let again = SqliteStore::open_existing(&path, "demo").await.unwrap();
    assert_eq!(again.identity(), store.identity());
    assert_eq!(again.describe(), format!("sqlite:{} scope demo", path.display()));
    assert_eq!(again.read().await.unwrap().value("config"), Some("{}"));
    let other = SqliteStore::open(&path, "other").await.unwrap();
    assert!(other.read().await.unwrap().entries.is_empty(), "scopes are separate");
    let names: Vec<_> = fs::read_dir(path.parent().unwrap()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 4, "nothing else is left: {names:?}");
}

#[tokio::test]
async fn a_symbolic_link_leads_to_the_same_store() {
    let (_keep, path) = place();
    let store = SqliteStore::open(&path, "demo").await.unwrap();
    let link = path.with_file_name("link.db");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    let linked = SqliteStore::open(&link, "demo").await.unwrap();
    store.commit(Txn::new().put("a", "1")).await.unwrap();
    assert_eq!(linked.read().await.unwrap().value("a"), Some("1"));
    assert_eq!(linked.path(), store.path());
    std::os::unix::fs::symlink(path.with_file_name("nowhere"), path.with_file_name("dangling")).unwrap();
    assert!(matches!(refuses(&path.with_file_name("dangling")).await, StoreError::Missing { .. }));
}

#[tokio::test]
async fn foreign_files_are_refused_and_left_alone() {
    let (keep, path) = place();
    let other = keep.path().join("other.db");
    {
        let db = rusqlite::Connection::open(&other).unwrap();
        db.execute_batch("CREATE TABLE theirs (a); INSERT INTO theirs VALUES (1);").unwrap();
    }
    let garbage: Vec<u8> = (0..20_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    for content in [b"hello\n".to_vec(), garbage, fs::read(&other).unwrap()] {
        fs::write(&path, &content).unwrap();
        let before = fs::metadata(&path).unwrap();
        assert!(matches!(refuses(&path).await, StoreError::NotOurs { .. }));
        assert_eq!(fs::read(&path).unwrap(), content);
        assert_eq!(fs::metadata(&path).unwrap().mtime_nsec(), before.mtime_nsec());
    }
    fs::write(&path, b"").unwrap();
    assert!(matches!(refuses(&path).await, StoreError::Corrupt { .. }));
    assert_eq!(fs::metadata(&path).unwrap().len(), 0);

    let directory = keep.path().canonicalize().unwrap().join("dir");
    fs::create_dir(&directory).unwrap();
    assert!(matches!(refuses(&directory).await, StoreError::NotOurs { .. }));
    assert!(matches!(refuses(Path::new("/dev/null")).await, StoreError::NotOurs { .. }));
    let nowhere = SqliteStore::open(keep.path().join("no/such/store.db"), "demo").await.err();
    assert!(matches!(nowhere, Some(StoreError::Missing { .. })), "{nowhere:?}");
}

#[tokio::test]
async fn a_foreign_database_with_an_unfinished_transaction_is_not_rolled_back() {
    let (_keep, path) = place();
    let db = rusqlite::Connection::open(&path).unwrap();
    db.execute_batch("PRAGMA cache_size = 1; CREATE TABLE theirs (a); BEGIN IMMEDIATE;").unwrap();
    for _ in 0..200 {
        db.execute("INSERT INTO theirs VALUES (randomblob(1000))", []).unwrap();
    }
    let (crashed, journal) = (path.with_file_name("crashed.db"), path.with_file_name("crashed.db-journal"));
    fs::copy(&path, &crashed).unwrap();
    fs::copy(path.with_file_name("store.db-journal"), &journal).unwrap();
    let before = fs::read(&crashed).unwrap();
    assert!(matches!(refuses(&crashed).await, StoreError::NotOurs { .. }));
    assert_eq!(fs::read(&crashed).unwrap(), before);
    assert!(journal.exists(), "their journal is theirs");
}

#[tokio::test]
async fn a_newer_schema_asks_for_the_newer_binary() {
    let (_keep, path) = place();
    filled(&path).await;
    rusqlite::Connection::open(&path).unwrap().pragma_update(None, "user_version", 7).unwrap();
    assert!(matches!(refuses(&path).await, StoreError::NewerSchema { found: 7, known: 1, .. }));
}

#[tokio::test]
async fn damage_is_found_when_it_is_opened() {
    let (_keep, path) = place();
    filled(&path).await;
    fold(&path);
    let whole = fs::read(&path).unwrap();
    assert!(whole.len() > 40_000);
    let mut scribbled = whole.clone();
    scribbled[4096..4196].fill(0xa5);
    let cases = [whole[..whole.len() / 2].to_vec(), whole[..4096].to_vec(), whole[..5000].to_vec(), scribbled];
    for (n, damaged) in cases.into_iter().enumerate() {
        let copy = path.with_file_name(format!("damaged{n}.db"));
        fs::write(&copy, &damaged).unwrap();
        assert!(matches!(refuses(&copy).await, StoreError::Corrupt { .. }), "case {n}");
        assert_eq!(fs::read(&copy).unwrap(), damaged);
    }
    let stub = path.with_file_name("stub.db");
    fs::write(&stub, &whole[..60]).unwrap();
    assert!(matches!(refuses(&stub).await, StoreError::NotOurs { .. } | StoreError::Corrupt { .. }));
}

#[tokio::test]
async fn the_log_of_a_removed_store_is_not_taken_over() {
    let (_keep, path) = place();
    let old = SqliteStore::open(&path, "demo").await.unwrap();
    old.commit(Txn::new().put("old", "1")).await.unwrap();
    fs::remove_file(&path).unwrap();
    assert!(matches!(refuses(&path).await, StoreError::Corrupt { .. }));
    assert!(!path.exists());
    fs::remove_file(path.with_file_name("store.db-wal")).unwrap();
    refuses(&path).await;
    fs::remove_file(path.with_file_name("store.db-shm")).unwrap();
    let new = SqliteStore::open(&path, "demo").await.unwrap();
    new.commit(Txn::new().put("new", "1")).await.unwrap();
    drop(old);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(path.with_file_name("store.db-wal").exists(), "the old handle must not remove the new store's log");
    assert_eq!(new.read().await.unwrap().entries.len(), 1);
}

#[tokio::test]
async fn a_removed_or_replaced_file_is_noticed_at_once() {
    let (_keep, path) = place();
    let store = SqliteStore::open(&path, "demo").await.unwrap();
    let lease = store.grant(Duration::from_secs(60)).await.unwrap();
    store.commit(Txn::new().put_leased("leader", "a", lease)).await.unwrap();
    let mut news = store.watch();
    let aside = path.with_file_name("aside.db");

    fs::rename(&path, &aside).unwrap();
    tokio::time::timeout(PATIENCE, news.changed()).await.expect("woken by the loss").unwrap();
    let lost = |result: Result<(), StoreError>| {
        println!("{result:?}");
        assert!(matches!(result, Err(StoreError::Unavailable { .. })), "{result:?}");
    };
    lost(store.read().await.map(drop));
    lost(store.keep_alive(lease).await);
    lost(store.commit(Txn::new().put("a", "1")).await.map(drop));

    fs::rename(&aside, &path).unwrap();
    tokio::time::timeout(PATIENCE, news.changed()).await.expect("woken by its return").unwrap();
    store.keep_alive(lease).await.unwrap();
    assert_eq!(store.read().await.unwrap().value("leader"), Some("a"));

    fs::copy(&path, &aside).unwrap();
    fs::rename(&aside, &path).unwrap();
    tokio::time::timeout(PATIENCE, news.changed()).await.expect("woken by the swap").unwrap();
    lost(store.keep_alive(lease).await);

    fs::remove_file(&path).unwrap();
    lost(store.read().await.map(drop));
    lost(store.commit(Txn::new().put("a", "1")).await.map(drop));
}

#[tokio::test]
async fn a_store_that_went_back_in_time_is_refused() {
    let (_keep, path) = place();
    let store = SqliteStore::open(&path, "demo").await.unwrap();
    store.commit(Txn::new().put("a", "1")).await.unwrap();
    store.commit(Txn::new().put("a", "2")).await.unwrap();
    rusqlite::Connection::open(&path).unwrap().execute("UPDATE meta SET revision = 1", []).unwrap();
    for said in [store.read().await.map(drop), store.commit(Txn::new().put("a", "3")).await.map(drop)] {
        assert!(matches!(said, Err(StoreError::WentBack { seen: 2, found: 1, .. })), "{said:?}");
    }
}

#[tokio::test]
async fn a_lost_bell_only_costs_a_moment() {
    let (_keep, path) = place();
    let (writer, reader) =
        (SqliteStore::open(&path, "demo").await.unwrap(), SqliteStore::open(&path, "demo").await.unwrap());
    let mut news = reader.watch();
    let mut took = Vec::new();
    for n in 0..5 {
        let bell = path.with_file_name("store.db-bell");
        let _ = fs::remove_file(&bell).or_else(|_| fs::remove_dir(&bell));
        if n % 2 == 1 {
            // Nobody can ring this one; a handle may have been faster and made a new one.
            let _ = fs::create_dir(&bell);
        }
        let revision = writer.commit(Txn::new().put("n", n.to_string())).await.unwrap().applied().unwrap();
        let since = Instant::now();
        let heard = tokio::time::timeout(PATIENCE, news.wait_for(|known| *known >= revision)).await;
        assert!(heard.is_ok(), "round {n}");
        took.push(since.elapsed());
    }
    // One late time may be the machine's.
    took.sort();
    assert!(took[2] < Duration::from_secs(2), "{took:?}");
}

/// Runs one of the ignored tests below in a process of its own.
fn child(name: &str, path: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", name, "--ignored", "--nocapture"]).env("STORE", path);
    command
}

fn store_of_child() -> Option<PathBuf> {
    std::env::var_os("STORE").map(PathBuf::from)
}

#[test]
fn another_users_file_is_a_matter_of_permission() {
    if !rustix::process::geteuid().is_root() {
        matriarch_testkit::skipped("only root can run a process as another user");
        return;
    }
    let (keep, path) = place();
    fs::set_permissions(keep.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(filled(&path));
    match child("child_without_permission", &path).uid(65_534).gid(65_534).output() {
        Ok(output) => assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout)),
        // It lies where only root may go.
        Err(error) => println!("left out: the test program cannot be run as another user: {error}"),
    }
}

#[tokio::test]
#[ignore = "run by another test, as another user"]
async fn child_without_permission() {
    let Some(path) = store_of_child() else { return };
    assert!(matches!(refuses(&path).await, StoreError::Permission { .. }));
    assert!(matches!(refuses(&path.with_file_name("new.db")).await, StoreError::Permission { .. }));
}

/// A small file system of its own; none where the test may not mount one.
struct SmallDisk(TempDir);

impl SmallDisk {
    fn mount() -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=400k", "tmpfs"])
            .arg(directory.path())
            .output()
            .is_ok_and(|output| output.status.success());
        mounted.then_some(Self(directory))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_loses_nothing_and_heals() {
    let Some(disk) = SmallDisk::mount() else {
        matriarch_testkit::skipped("cannot mount a small file system here");
        return;
    };
    let path = disk.0.path().join("store.db");
    let filler = disk.0.path().join("filler");
    fs::write(&filler, vec![0; 396 * 1024]).unwrap();
    assert!(matches!(refuses(&path).await, StoreError::NoSpace { .. }));
    assert_eq!(fs::read_dir(disk.0.path()).unwrap().count(), 1, "a failed creation leaves nothing");
    fs::remove_file(&filler).unwrap();

    let store = SqliteStore::open(&path, "demo").await.unwrap();
    let lease = store.grant(Duration::from_millis(300)).await.unwrap();
    let mut kept = 0;
    let full = loop {
        match store.commit(Txn::new().put(format!("k/{kept}"), "v".repeat(2000)).put("last", kept.to_string())).await {
            Ok(_) => kept += 1,
            Err(error) => break error,
        }
        assert!(kept < 1000);
    };
    println!("{full} after {kept}");
    assert!(matches!(full, StoreError::NoSpace { .. }), "{full:?}");
    tokio::time::sleep(Duration::from_millis(350)).await;
    assert!(matches!(store.keep_alive(lease).await, Err(StoreError::NoSpace { .. } | StoreError::LeaseGone { .. })));
    let seen = store.read().await.unwrap();
    assert_eq!(seen.entries.len(), kept + 1);
    assert_eq!(seen.value("last"), Some((kept - 1).to_string().as_str()));

    Command::new("mount").args(["-o", "remount,size=4m"]).arg(disk.0.path()).status().unwrap();
    store.commit(Txn::new().value("last", (kept - 1).to_string()).put("last", "healed")).await.unwrap();
    let again = SqliteStore::open_existing(&path, "demo").await.unwrap();
    assert_eq!(again.read().await.unwrap().entries.len(), kept + 1);
}
