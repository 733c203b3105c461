//! Clusters on hosts of their own, which are cut off from each other, frozen and switched off, and whose disks fail.

#[path = "../harness/mod.rs"]
mod harness;

mod address;
mod clocks;
mod disks;
mod gray;
mod network;
mod power;
mod steps;
mod store;

use std::time::Duration;

use harness::hosts::Plan;
use harness::trouble::{Trouble, endure};
use harness::{PATIENCE, Witness, health};
use matriarch_testkit::observer::Probe;

/// Longer than a leader lease and the time after which a rule shrinks.
const HOLD: Duration = Duration::from_secs(8);

/// One trouble after the other on one cluster, with clients and the observer attached from first to last.
async fn survive(name: &'static str, troubles: &[Trouble]) {
    survive_on(Plan::new(name), troubles).await;
}

/// The same on a cluster of another kind.
async fn survive_on(plan: Plan, troubles: &[Trouble]) {
    survive_for(HOLD, plan, troubles).await;
}

/// The same with troubles of another length.
async fn survive_for(hold: Duration, plan: Plan, troubles: &[Trouble]) {
    let Some(mut hosts) = plan.start().await else { return };
    let witness = Witness::attach(&hosts, Probe::Write).await;
    for (seed, trouble) in (1..).zip(troubles) {
        endure(&mut hosts, &witness, *trouble, hold, seed).await;
    }
    witness.conclude(&hosts).await;
    health::well(&hosts, PATIENCE).await;
}
