//! The disk fails when it is told to, and forgets exactly what was not synchronised.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use super::*;
use crate::dir::TestDir;
use crate::process::eventually;

#[test]
fn what_was_synchronised_outlives_a_power_cut_and_nothing_else() {
    let dir = TestDir::new("faulty");
    let Some(mut disk) = FaultyDisk::mount(&dir.join("mnt")).unwrap() else { return };
    let at = |name: &str| dir.join("mnt").join(name);
    let mut kept = File::create(at("kept")).unwrap();
    kept.write_all(&[b'a'; 10_000]).unwrap();
    fs::write(at("removed"), "removed").unwrap();
    fs::write(at("renamed"), "renamed").unwrap();
    fs::write(at("target"), "target").unwrap();
    for name in ["removed", "renamed", "target"] {
        File::open(at(name)).unwrap().sync_all().unwrap();
    }
    kept.sync_all().unwrap();

    kept.write_all_at(b"bbbb", 5000).unwrap();
    kept.write_all(b"longer").unwrap();
    fs::write(at("new"), "new").unwrap();
    fs::remove_file(at("removed")).unwrap();
    fs::rename(at("renamed"), at("target")).unwrap();
    fs::create_dir(at("folder")).unwrap();
    fs::write(at("folder/inner"), "inner").unwrap();
    drop(kept);
    assert_eq!(fs::read_to_string(at("target")).unwrap(), "renamed");

    assert!(disk.power_cut(Loss::All).unwrap() >= 6);
    assert_eq!(fs::read(at("kept")).unwrap(), [b'a'; 10_000]);
    assert_eq!(fs::read_to_string(at("removed")).unwrap(), "removed");
    assert_eq!(fs::read_to_string(at("renamed")).unwrap(), "renamed");
    assert_eq!(fs::read_to_string(at("target")).unwrap(), "target");
    assert!(!at("new").exists() && !at("folder").exists());
}

#[test]
fn a_power_cut_by_coins_is_the_same_for_the_same_seed() {
    let outcome = |seed| {
        let dir = TestDir::new("faulty");
        let mut disk = FaultyDisk::mount(&dir.join("mnt")).unwrap()?;
        let file = File::create(dir.join("mnt/file")).unwrap();
        file.write_all_at(&[1; 16 * 4096], 0).unwrap();
        file.sync_all().unwrap();
        file.write_all_at(&[2; 16 * 4096], 0).unwrap();
        drop(file);
        disk.power_cut(Loss::Some(seed)).unwrap();
        Some(fs::read(dir.join("mnt/file")).unwrap())
    };
    let (Some(first), Some(second)) = (outcome(3), outcome(3)) else { return };
    assert_eq!(first, second);
    assert!(first.contains(&1) && first.contains(&2), "some of it was lost, and not all");
}

#[test]
fn a_file_that_is_open_a_moment_longer_is_waited_for() {
    let dir = TestDir::new("faulty");
    let Some(mut disk) = FaultyDisk::mount(&dir.join("mnt")).unwrap() else { return };
    let file = File::create(dir.join("mnt/file")).unwrap();
    let closes = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        drop(file);
    });
    disk.power_cut(Loss::All).unwrap();
    closes.join().unwrap();
}

#[test]
fn calls_fail_and_stall_at_will() {
    let dir = TestDir::new("faulty");
    let Some(disk) = FaultyDisk::mount(&dir.join("mnt")).unwrap() else { return };
    fs::create_dir(dir.join("mnt/wal")).unwrap();
    let [mut wal, mut other] = ["mnt/wal/1", "mnt/other"].map(|name| File::create(dir.join(name)).unwrap());
    wal.write_all(b"x").unwrap();
    other.write_all(b"x").unwrap();
    disk.fail(Call::Sync, "wal/", Errno::IO);
    assert_eq!(wal.sync_all().unwrap_err().raw_os_error(), Some(Errno::IO.raw_os_error()));
    other.sync_all().unwrap();
    disk.fail(Call::Write, "", Errno::NOSPC);
    assert_eq!(other.write(b"y").unwrap_err().raw_os_error(), Some(Errno::NOSPC.raw_os_error()));
    disk.fail_but(Call::Write, "wal/", Errno::IO);
    wal.write_all(b"x").unwrap();
    assert_eq!(other.write(b"y").unwrap_err().raw_os_error(), Some(Errno::IO.raw_os_error()));
    disk.fail(Call::Read, "other", Errno::IO);
    // Opened anew, it is not in the kernel's memory.
    assert_eq!(fs::read(dir.join("mnt/other")).unwrap_err().raw_os_error(), Some(Errno::IO.raw_os_error()));
    disk.mend();
    wal.sync_all().unwrap();

    disk.stall("other");
    wal.sync_all().unwrap();
    let synced = std::thread::spawn(move || other.sync_all());
    eventually("the call waits", Duration::from_secs(30), || {
        locked(&disk.switches).waiting.as_ref().is_some_and(|(_, waiting)| !waiting.is_empty())
    });
    assert!(!synced.is_finished());
    disk.go_on();
    synced.join().unwrap().unwrap();
}
