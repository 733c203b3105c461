//! Clusters of other sizes than two and three, which the tests around these have.

use std::time::Duration;

use matriarch_testkit::faults;
use matriarch_testkit::observer::Probe;

use crate::harness::{Cluster, PATIENCE, Plan, Witness, fault, health};
use crate::tags::{asks, set, stop};

/// As long as the leader and voters stand still: longer than a lease.
const STILL: Duration = Duration::from_secs(8);

/// Each commit waits for `needed` replicas, so that as many members may stand still at once, the leader among them.
async fn survives_the_loss_of(cluster: Cluster, needed: usize) {
    set(&cluster, &format!("synchronous_node_count={needed}")).await;
    cluster.be_patient().await;
    let leader = health::leader(&cluster).await;
    let replicas = health::replicas(&cluster).await;
    let voters: Vec<&str> = replicas.iter().map(String::as_str).collect();
    asks(&cluster, &leader, &format!("ANY {needed}"), &voters).await;

    let witness = Witness::attach(&cluster, Probe::Write).await;
    let mut stopped = stop(&cluster, &leader);
    for voter in &voters[..needed - 1] {
        stopped.extend(stop(&cluster, voter));
    }
    tokio::time::sleep(STILL).await;
    witness.writes_again("members stood still, the leader among them").await;
    faults::thaw(&stopped);
    witness.writes_again("they went on").await;
    health::well(&cluster, PATIENCE).await;
    assert_ne!(health::leader(&cluster).await, leader, "somebody else had to lead");
    witness.conclude(&cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_member_comes_back_by_itself() {
    let cluster = Plan::new("alone").members(1).start().await;
    let witness = Witness::attach(&cluster, Probe::Status).await;
    let postmaster = fault::postmaster(&cluster.data("a"));
    faults::kill(&[postmaster]);
    witness.writes_again("the only postmaster was killed").await;
    faults::kill(&faults::node_processes(&cluster.member("a")));
    witness.writes_again("everything of the only member was killed").await;
    health::well(&cluster, PATIENCE).await;
    witness.conclude(&cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_members_go_on_without_two() {
    survives_the_loss_of(Plan::new("five").members(5).start().await, 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn seven_members_go_on_without_three() {
    survives_the_loss_of(Plan::new("seven").members(7).start().await, 3).await;
}
