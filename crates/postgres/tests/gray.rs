//! Servers that are neither well nor dead: a postmaster that hangs, volumes that are full.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use common::{LONG, Lab, majors, until};
use matriarch_postgres::greeting::greet;
use matriarch_postgres::volumes::{Health, VolumeProbe};
use matriarch_testkit::disk::{Ballast, SmallDisk};
use rustix::process::Signal;
use tokio::time::timeout;

#[tokio::test]
async fn a_postmaster_that_hangs_answers_nobody_although_its_sessions_go_on() {
    for binaries in majors() {
        let lab = Lab::new(&binaries);
        let mut node = lab.node("a");
        let (postmaster, sql) = node.bootstrap().await;
        timeout(LONG, greet(&node.instance)).await.unwrap().unwrap();

        postmaster.signal(Signal::STOP).unwrap();
        timeout(Duration::from_secs(1), greet(&node.instance)).await.expect_err("nobody answers");
        sql.query("go on", "SELECT 1", LONG).await.unwrap();

        postmaster.signal(Signal::CONT).unwrap();
        timeout(LONG, greet(&node.instance)).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_full_volume_is_noticed_and_so_is_room_on_it() {
    let lab = Lab::new(&majors()[0]);
    let Some(disk) = SmallDisk::mount(&lab.path().join("disk"), 64).unwrap() else { return };
    let node = lab.node_in("a", &disk.path().join("data"));
    let mut probe = VolumeProbe::new(&node.instance);
    probe.ask();
    std::fs::create_dir_all(node.instance.data_dir.join("pg_wal")).unwrap();
    let mut health = async |wanted: fn(&Health) -> bool| {
        until("the volume is as wanted", async || {
            probe.ask();
            wanted(&probe.health())
        })
        .await;
    };
    health(|health| matches!(health, Health::Writable { free } if *free > 16 << 20 && *free <= 64 << 20)).await;
    let ballast = Ballast::fill(disk.path(), 64 << 20).unwrap();
    health(|health| matches!(health, Health::Writable { free: 0 } | Health::Refused { full: true, .. })).await;
    std::fs::remove_file(node.instance.data_dir.join("matriarch.probe")).unwrap();
    let rest = Ballast::fill(&node.instance.data_dir, 1 << 20).unwrap();
    health(|health| matches!(health, Health::Refused { full: true, .. })).await;
    drop((ballast, rest));
    health(|health| matches!(health, Health::Writable { .. })).await;
    // Out of the way of the probe first: it may be about to write, and a directory that gets a file cannot be removed.
    let aside = disk.path().join("aside");
    std::fs::rename(&node.instance.data_dir, &aside).unwrap();
    std::fs::remove_dir_all(aside).unwrap();
    health(|health| *health == Health::Unknown).await;
    assert!(!node.instance.data_dir.exists(), "a deleted directory comes back through nobody");
}
