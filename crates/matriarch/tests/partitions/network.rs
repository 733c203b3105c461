//! Networks that come apart: whatever is cut, nothing acknowledged is lost, never do two members take writes, and after
//! the last cut is healed everybody is well without a hand.

use crate::harness::trouble::Trouble;
use crate::survive;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_primary_cut_off_from_everyone() {
    survive("cut-all", &[Trouble::PrimaryCutOff, Trouble::PrimaryUnreachable]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_primary_cut_off_from_the_members() {
    survive("cut-members", &[Trouble::PrimaryFromMembers, Trouble::PrimaryFromOne]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_way_cuts() {
    survive("one-way", &[Trouble::PrimaryDeaf, Trouble::PrimaryMute]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_or_the_proxy_cut_off() {
    survive("cut-others", &[Trouble::ReplicaCutOff, Trouble::PrimaryFromProxy]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_primary_cut_off_from_the_store() {
    survive("cut-store", &[Trouble::PrimaryFromStore, Trouble::PrimaryWithMinority]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_in_trouble() {
    survive("store", &[Trouble::StoreNodeKilled, Trouble::StoreSplit, Trouble::StoreDown]).await;
}
