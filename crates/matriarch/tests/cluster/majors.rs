//! Every major that is installed, beside the oldest one, which all other tests use.

use matriarch_testkit::{observer::Probe, postgres};

use crate::harness::{Cluster, Fault, PATIENCE, Plan, Witness, health};

/// The first major that keeps WAL summaries.
const SUMMARIES_SINCE: u32 = 17;

async fn works(name: &'static str, major: u32) {
    let Some(bins) = postgres::bins(major) else { return };
    let plan = Plan::new(name).bins(bins);
    let cluster = if major >= SUMMARIES_SINCE { plan.archive().start().await } else { plan.start().await };
    let version = cluster.ask(cluster.read_write(), "show server_version_num").await.expect("the primary answers");
    assert!(version.starts_with(&major.to_string()), "{version}");
    let witness = Witness::attach(&cluster, Probe::Status).await;
    for fault in [Fault::Switchover, Fault::KillRecovery, Fault::KillPostmaster, Fault::SpoilControl] {
        let struck = fault.strike(&cluster, 1).await;
        witness.writes_again(&format!("{fault:?} of {}", struck.victim)).await;
        struck.replaced();
        health::well(&cluster, PATIENCE).await;
    }
    if major >= SUMMARIES_SINCE {
        only_changed_blocks_are_backed_up(&cluster).await;
    }
    witness.conclude(&cluster).await;
}

/// An incremental backup knows by WAL summaries what has changed, although nobody has set anything for it.
async fn only_changed_blocks_are_backed_up(cluster: &Cluster) {
    cluster.verb(&["backup"]).await.ok();
    let taken = cluster.verb(&["backup", "--incremental", "-o", "json"]).await.json();
    let backup = taken[0]["backup"].as_str().expect("it has a name");
    let shown = cluster.verb(&["backup", "show", backup, "-o", "json"]).await.json();
    assert_eq!(shown["increment"]["found_by"], "summaries", "{shown}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgresql_16() {
    works("v16", 16).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgresql_18() {
    works("v18", 18).await;
}
