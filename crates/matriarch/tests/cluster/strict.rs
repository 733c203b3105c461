//! A strict pair: rather no writes than writes on one disk, and nobody is needed to mend it.

use matriarch_testkit::faults;

use crate::harness::{Cluster, PATIENCE, Plan, fault, health, wire};
use crate::tags::{LONG, asks, set, stop, until};

/// A write through the read-write port, which waits for as long as it must.
async fn write(cluster: &Cluster, row: u32) {
    let insert = format!("INSERT INTO t VALUES ({row}) RETURNING x");
    let written = wire::ask_within(PATIENCE, &cluster.dsn(cluster.read_write()), &insert).await;
    assert_eq!(written.expect("there is a voter"), row.to_string());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_strict_pair_writes_only_on_two_disks_and_mends_itself() {
    let cluster = Plan::new("strict").members(2).start().await;
    let leader = health::leader(&cluster).await;
    let [replica] = health::replicas(&cluster).await.try_into().expect("there are two");
    cluster.be_patient().await;
    set(&cluster, "synchronous_min_members=2").await;
    set(&cluster, "synchronous_mode_strict=true").await;
    asks(&cluster, &leader, "ANY 1", &[&replica]).await;
    cluster.ask(cluster.read_write(), "CREATE TABLE t (x int)").await.expect("there is a voter");
    write(&cluster, 1).await;

    // Away for a while: it stays a voter, and nothing is acknowledged.
    let stopped = stop(&cluster, &replica);
    let dsn = cluster.dsn(cluster.read_write());
    let mut waits =
        tokio::spawn(
            async move { wire::ask_within(LONG + PATIENCE, &dsn, "INSERT INTO t VALUES (2) RETURNING x").await },
        );
    let early = tokio::time::timeout(LONG, &mut waits).await;
    assert!(early.is_err(), "acknowledged on one disk: {early:?}");
    asks(&cluster, &leader, "ANY 1", &[&replica]).await;
    faults::thaw(&stopped);
    let written = tokio::time::timeout(PATIENCE, waits).await.expect("it comes back with the voter");
    assert_eq!(written.expect("the task lives").expect("the session was held"), "2");

    // With other data it is another voter, and meanwhile there is none.
    let names = "show synchronous_standby_names";
    let before = until(&cluster, &leader, names, |_| true).await;
    cluster.verb(&["reinit", &replica, "--force"]).await.ok();
    until(&cluster, &leader, names, |names| *names != before && !names.contains("nobody")).await;
    asks(&cluster, &leader, "ANY 1", &[&replica]).await;
    write(&cluster, 3).await;

    // The leader's data is lost: the voter has everything, and waits for the other one to have it again.
    fault::delete(&cluster.data(&leader));
    until(&cluster, &replica, "SELECT pg_is_in_recovery()", |recovering| recovering == "f").await;
    health::well(&cluster, PATIENCE).await;
    write(&cluster, 4).await;
    asks(&cluster, &replica, "ANY 1", &[&leader]).await;
    let rows = "SELECT string_agg(x::text, ',' ORDER BY x) FROM t";
    for name in [&leader, &replica] {
        until(&cluster, name, rows, |rows| rows == "1,2,3,4").await;
    }
}
