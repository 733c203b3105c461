//! Disks that are full, hang, answer with errors, and forget at a power cut what was not synchronised.

use std::time::Duration;

use crate::harness::hosts::Plan;
use crate::harness::storage::Disks;
use crate::harness::trouble::Trouble;
use crate::{survive_for, survive_on};

/// Room for a cluster that writes for a minute.
const MEBIBYTES: u64 = 400;

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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_of_the_primary() {
    survive_on(volumes("full-primary").newest(), &[Trouble::PrimaryDiskFull]).await;
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
