//! Hosts that stand still and go on, and hosts that lose their power.

use crate::harness::hosts::Plan;
use crate::harness::trouble::Trouble;
use crate::{survive, survive_on};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_host_thaws_and_rejoins() {
    survive("frozen-host", &[Trouble::PrimaryFrozen, Trouble::ReplicaFrozen, Trouble::PrimaryFrozen]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_without_power() {
    survive_on(Plan::new("power").newest(), &[Trouble::PrimaryPowerCut, Trouble::ReplicaPowerCut]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_hosts_without_power_at_once() {
    survive("all-power", &[Trouble::AllPowerCut]).await;
}
