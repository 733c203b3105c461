//! Disks that are full, hang, answer with errors, and forget at a power cut what was not synchronised.

use std::time::Duration;

use matriarch_testkit::observer::Probe;

use crate::harness::hosts::Plan;
use crate::harness::storage::Disks;
use crate::harness::trouble::Trouble;
use crate::harness::{Hosts, PATIENCE, Witness, health};
use crate::{HOLD, survive_for, survive_on};

/// Room for a cluster that writes for a minute.
const MEBIBYTES: u64 = 400;
/// As often may PostgreSQL be started on a full disk in the time for which the test leaves it so, also on a busy machine.
const STARTS: usize = 8;

fn volumes(name: &'static str) -> Plan {
    Plan { disks: Disks::Volumes(MEBIBYTES), ..Plan::new(name) }
}

fn faulty(name: &'static str) -> Plan {
    Plan { disks: Disks::Faulty, ..Plan::new(name) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_of_a_replica() {
    survive_on(volumes("full-replica"), &[Trouble::ReplicaDiskFull]).await;
}

/// How often its agent has started PostgreSQL, and how often that has crashed.
fn starts_and_crashes(hosts: &Hosts, name: &str) -> (usize, usize) {
    let log = hosts.log(name);
    let starts = ["StartPrimary begins", "StartStandby begins"].iter().map(|what| log.matches(what).count()).sum();
    (starts, hosts.postgres_log(name).matches("PANIC:").count())
}

/// The primary says what to delete, hands over to a member that has room instead of crashing again and again, and is well as soon
/// as there is room.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_of_the_primary() {
    let Some(mut hosts) = volumes("full-primary").newest().start().await else { return };
    let witness = Witness::attach(&hosts, Probe::Write).await;
    let (leader, before) = (health::leader(&hosts).await, witness.now());
    let (starts, crashes) = starts_and_crashes(&hosts, &leader);
    let begun = Trouble::PrimaryDiskFull.begin(&mut hosts, 1).await;
    health::wait(&hosts, PATIENCE, "what to delete is said", |_, rows| {
        let row = rows.iter().find(|row| row["member"] == leader.as_str());
        let problem = row.map(|row| row["problem"].clone()).unwrap_or_default();
        let words = ["is full", "enlarge it, or delete", "old logs, dumps, core files", "never delete files in pg_wal"];
        let told = problem.as_str().is_some_and(|problem| words.iter().all(|word| problem.contains(word)));
        (!told).then(|| format!("{leader} says {problem}"))
    })
    .await;
    health::wait(&hosts, PATIENCE, "the lead moves", |_, rows| {
        let leads = |row: &serde_json::Value| row["role"] == "leader" && row["member"] != leader.as_str();
        (!rows.iter().any(leads)).then(|| format!("{leader} still leads"))
    })
    .await;
    witness.writes_again("the primary's disk was full").await;
    tokio::time::sleep(HOLD).await;
    let (started, crashed) = starts_and_crashes(&hosts, &leader);
    let (started, crashed) = (started - starts, crashed - crashes);
    eprintln!("writes paused {:.2} s; {started} starts, {crashed} crashes", witness.longest_pause_since(before));
    // What cannot start is tried again after 0.2, 0.5, 1, 3 and then every 10 s.
    assert!(started <= STARTS && crashed <= 1, "{started} starts and {crashed} crashes\n{}", hosts.log(&leader));
    begun.end(&mut hosts);
    health::well(&hosts, hosts.patience()).await;
    assert_ne!(health::leader(&hosts).await, leader);
    witness.conclude(&hosts).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_disk_of_a_replica() {
    survive_on(volumes("ice-replica"), &[Trouble::ReplicaDiskStalls]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_disk_of_the_primary() {
    survive_on(volumes("ice-primary").newest(), &[Trouble::PrimaryDiskStalls]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_wal_disk_of_the_primary() {
    survive_on(faulty("ice-wal"), &[Trouble::PrimaryWalStalls]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_of_a_replicas_disk() {
    survive_on(faulty("errors"), &[Trouble::ReplicaSyncFails]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_of_the_primarys_disk() {
    survive_on(faulty("primary-errors").newest(), &[Trouble::PrimarySyncFails]).await;
}

/// Of everything but the write-ahead log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_of_data() {
    let troubles = [
        Trouble::ReplicaReadsFail,
        Trouble::ReplicaDataWritesFail,
        Trouble::ReplicaDataSyncFails,
        Trouble::PrimaryDataWritesFail,
        Trouble::PrimaryReadsFail,
        Trouble::PrimaryDataSyncFails,
    ];
    survive_for(Duration::from_secs(3), faulty("data-errors").newest(), &troubles).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_directories_that_are_deleted_and_spoiled() {
    let troubles = [
        Trouble::ReplicaDeleted,
        Trouble::ReplicaControlSpoiled,
        Trouble::ReplicaTablesSpoiled,
        Trouble::PrimaryDeleted,
    ];
    survive_on(faulty("spoiled").newest(), &troubles).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn power_cuts_that_take_what_was_not_synchronised() {
    survive_on(faulty("forget"), &[Trouble::PrimaryPowerCut, Trouble::AllPowerCut, Trouble::AllPowerCut]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn power_cuts_of_the_newest() {
    survive_on(faulty("forget-newest").newest(), &[Trouble::PrimaryPowerCut, Trouble::AllPowerCut]).await;
}
