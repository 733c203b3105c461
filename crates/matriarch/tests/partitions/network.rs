//! Networks that come apart: whatever is cut, nothing acknowledged is lost, never do two members take writes, and after
//! the last cut is healed everybody is well without a hand.

use crate::harness::hosts::Plan;
use crate::harness::trouble::Trouble;
use crate::{survive, survive_on};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_primary_cut_off_from_everyone() {
    survive("cut-all", &[Trouble::PrimaryCutOff, Trouble::PrimaryUnreachable]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_newest_primary_cut_off_from_everyone() {
    survive_on(Plan::new("cut-newest").newest(), &[Trouble::PrimaryCutOff]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_primary_cut_off_from_the_members() {
    survive_on(Plan::new("cut-members").newest(), &[Trouble::PrimaryFromMembers, Trouble::PrimaryFromOne]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_way_cuts() {
    survive("one-way", &[Trouble::PrimaryDeaf, Trouble::PrimaryMute]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_or_the_proxy_cut_off() {
    survive_on(Plan::new("cut-others").newest(), &[Trouble::ReplicaCutOff, Trouble::PrimaryFromProxy]).await;
}
