//! WAL-G: what it wrote is kept beside the tests.

use std::path::Path;

use matriarch_archive::door::{Door, Tool};
use matriarch_archive::restore::{Target, Wanted};
use matriarch_archive::wal::{FetchError, WalName};
use matriarch_testkit::dir::TestDir;
use matriarch_testkit::s3::S3Server;
use matriarch_testkit::user;

use super::cut_off::{Cut, goes_on, refuses_what_is_not_of_it};
use super::in_bucket;
use super::pgbackrest::upload;
use super::{connect, count, cut, damaged, find, flip, foreign, installation, one, refused, restored, stock};
use crate::common::PATIENT;

const FULL: &str = "base_000000010000000000000005";
const DELTA: &str = "base_00000001000000000000000F_D_000000010000000000000005";

/// Where PostgreSQL's user can read it, and the tests can damage it.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    user::give(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            std::fs::copy(&path, &target).unwrap();
            user::give(&target).unwrap();
        }
    }
}

#[tokio::test]
async fn what_walg_has_archived_comes_back() {
    let Some(installation) = installation() else {
        matriarch_testkit::skipped("PostgreSQL 15 is needed; scripts/install-deps --test installs it");
        return;
    };
    let dir = TestDir::new("doors");
    let place = dir.join("walg");
    copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/walg"), &place);
    let kept = foreign(Tool::WalG, &place);
    let found = stock(&kept).await.unwrap();
    let names: Vec<&str> = found.backups().iter().map(|backup| backup.backup.as_str()).collect();
    assert_eq!((names, found.segment_size()), (vec![FULL, DELTA], 16 << 20));
    // The settings of the server that was backed up name a folder for its socket that is gone.
    let own = "unix_socket_directories = ''";
    let before = Wanted::new(Target::Name("before_drop".into()));
    let server = restored(&dir, installation, &kept, &before, ("delta", false), own).await;
    assert_eq!((count(&server, "marks").await, count(&server, "in_ts").await), (3000, 25_000));
    let client = connect(&server).await;
    assert_eq!(one::<i64>(&client, "select sum(abalance)::bigint from pgbench_accounts").await, -63_675);
    assert_eq!(one::<String>(&client, "show archive_mode").await, "off", "nobody archives into the old repository");
    drop((client, server));
    let full = Wanted { backup: Some(FULL.into()), ..Wanted::new(Target::Immediate) };
    let server = restored(&dir, installation, &kept, &full, ("full", true), own).await;
    assert_eq!((count(&server, "marks").await, count(&server, "in_ts").await), (1000, 20_000));
    drop(server);

    // Killed in the full backup, and in the delta when that has changed files already.
    let store = S3Server::start(&dir).unwrap();
    upload(&store, &place, "some/where").await;
    let stored = in_bucket(Tool::WalG, &dir, &store, "some/where");
    let tars = Cut { objects: "tar_partitions", reads: 2, rest: 0.75 };
    goes_on(&dir, &stored, Some(FULL), &tars).await;
    goes_on(&dir, &stored, Some(DELTA), &Cut { reads: 4, rest: 1.0, ..tars }).await;
    refuses_what_is_not_of_it(&dir, &stored, (FULL, DELTA)).await;

    // Of the chain, whatever is damaged or missing is told.
    let part = find(&place.join("basebackups_005").join(FULL), &|name| name.contains("part_002"));
    let told = damaged(&part, flip, refused(&dir, &kept, &before, "flipped")).await;
    assert!(told.contains(&format!("{FULL}/tar_partitions/part_002")) && told.contains("damaged"), "{told}");
    let told = damaged(&part, cut, refused(&dir, &kept, &before, "cut")).await;
    assert!(told.contains("part_002") && told.contains("damaged"), "{told}");
    let sealed = |bytes: &mut Vec<u8>| bytes[0] = 0;
    let told = damaged(&part, sealed, refused(&dir, &kept, &before, "sealed")).await;
    assert!(told.contains("cannot be opened") && told.contains("WALG_LIBSODIUM_KEY"), "{told}");
    let away = dir.join("away");
    std::fs::rename(&part, &away).unwrap();
    let told = refused(&dir, &kept, &before, "missing").await;
    assert!(told.contains("part_002") && told.contains("missing"), "{told}");
    std::fs::rename(&away, &part).unwrap();
    let sentinel = place.join(format!("basebackups_005/{FULL}_backup_stop_sentinel.json"));
    std::fs::rename(&sentinel, &away).unwrap();
    let told = refused(&dir, &kept, &before, "orphan").await;
    assert!(told.contains(DELTA) && told.contains("delta of") && told.contains(FULL), "{told}");
    std::fs::rename(&away, &sentinel).unwrap();

    let door = Door::open(&kept, PATIENT).await.unwrap();
    let (name, to): (WalName, _) = ("000000010000000000000014".parse().unwrap(), dir.join("fetched"));
    let file = place.join(format!("wal_005/{name}.zst"));
    let error = damaged(&file, cut, door.fetch(&name, &to)).await.unwrap_err();
    assert!(matches!(error, FetchError::Archive(_)) && error.exit_code() == 126, "{error}");
    let error = door.fetch(&"000000010000000000000016".parse().unwrap(), &to).await.unwrap_err();
    assert!(matches!(error, FetchError::Absent(_)) && !to.exists(), "{error}");
    door.fetch(&name, &to).await.unwrap();
    let elsewhere = foreign(Tool::WalG, &place.join("wal_005"));
    let told = refused(&dir, &elsewhere, &before, "elsewhere").await;
    assert!(told.contains("basebackups_005") && told.contains("PREFIX"), "{told}");
}
