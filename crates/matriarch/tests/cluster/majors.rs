//! Every major that is installed, beside the oldest one, which all other tests use.

use matriarch_testkit::{observer::Probe, postgres};

use crate::harness::{Fault, PATIENCE, Plan, Witness, health};

async fn works(name: &'static str, major: u32) {
    let Some(bins) = postgres::bins(major) else { return };
    let cluster = Plan::new(name).bins(bins).start().await;
    let version = cluster.ask(cluster.read_write(), "show server_version_num").await.expect("the primary answers");
    assert!(version.starts_with(&major.to_string()), "{version}");
    let witness = Witness::attach(&cluster, Probe::Status).await;
    for fault in [Fault::Switchover, Fault::KillRecovery, Fault::KillPostmaster, Fault::SpoilControl] {
        let struck = fault.strike(&cluster, 1).await;
        witness.writes_again(&format!("{fault:?} of {}", struck.victim)).await;
        struck.replaced();
        health::well(&cluster, PATIENCE).await;
    }
    witness.conclude(&cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgresql_16() {
    works("v16", 16).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgresql_18() {
    works("v18", 18).await;
}
