//! One fault after the other: writes come back through the same port, nothing acknowledged is lost, never are there two
//! primaries, and everything heals by itself.

use std::time::{Duration, Instant};

use matriarch_testkit::observer::Probe;
use matriarch_testkit::{faults, process::eventually};
use tokio::task::JoinSet;

use crate::harness::{Cluster, Fault, PATIENCE, Witness, fault, health, wire};

const LONGER_THAN_A_LEASE: Duration = Duration::from_secs(7);

/// Strikes each in turn, once the cluster is well again after the one before.
async fn survives(name: &'static str, probe: Probe, faults: &[Fault]) {
    let cluster = Cluster::start(name).await;
    let witness = Witness::attach(&cluster, probe).await;
    for (seed, fault) in (1..).zip(faults) {
        let begun = std::time::Instant::now();
        let from = witness.now();
        let struck = fault.strike(&cluster, seed).await;
        let took = begun.elapsed().as_secs_f64();
        witness.writes_again(&format!("{fault:?} of {}", struck.victim)).await;
        struck.replaced();
        health::well(&cluster, PATIENCE).await;
        let gap = witness.longest_pause_since(from);
        let healed = begun.elapsed().as_secs_f64();
        let victim = struck.victim;
        eprintln!("{fault:?} of {victim}: {took:.1} s; well {healed:.1} s after; writes paused {gap:.2} s");
    }
    witness.conclude(&cluster).await;
    for name in cluster.names() {
        let log = std::fs::read_to_string(cluster.member(&name).join("agent.log")).expect("its agent has a log");
        assert!(!log.contains("went back in time"), "{name} mistrusts a store that is well:\n{log}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_postmaster() {
    survives("postmaster", Probe::Status, &[Fault::KillPostmaster, Fault::KillReplica, Fault::KillPostmaster]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_process_of_postgresql() {
    survives("child", Probe::Status, &[Fault::KillChild, Fault::KillRecovery]).await;
}

/// What a transaction has written lies unflushed until it commits, where nobody else writes: that is no disk that hangs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_transaction_is_no_fault() {
    let cluster = Cluster::start("open").await;
    cluster.ask(cluster.read_write(), "CREATE TABLE t (x int)").await.expect("a primary is there");
    let leader = health::leader(&cluster).await;
    let dsn = cluster.dsn(cluster.postgres_port(&leader));
    let insert = "INSERT INTO t SELECT generate_series(1, 20); SELECT pg_sleep(9); SELECT count(*) FROM t";
    // One statement for the protocol, so one transaction.
    let counted = wire::ask_within(PATIENCE, &dsn, insert).await;
    counted.expect("the session is not ended");
    assert_eq!(health::leader(&cluster).await, leader, "nobody had to take over");
    let log = std::fs::read_to_string(cluster.member(&leader).join("agent.log")).expect("its agent has a log");
    assert!(!log.contains("giving up the lead"), "{log}");
}

/// Asks until this is the answer.
async fn answers(cluster: &Cluster, port: u16, question: &str, wanted: &str) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = cluster.ask(port, question).await;
        if answer.as_ref().is_ok_and(|answer| answer == wanted) {
            return;
        }
        assert!(Instant::now() < deadline, "{question} is not '{wanted}': {answer:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// While paused nobody takes over and no agent starts anything, so PostgreSQL must come back by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_process_of_postgresql_while_paused() {
    let cluster = Cluster::start("paused-child").await;
    cluster.verb(&["pause"]).await.ok();
    let leader = health::leader(&cluster).await;
    let (data, port) = (cluster.data(&leader), cluster.read_write());
    answers(&cluster, port, "SHOW restart_after_crash", "on").await;
    let postmaster = fault::postmaster(&data);
    let checkpointer = fault::server_process(&data, "checkpointer");
    faults::kill(&[checkpointer]);
    eventually("another checkpointer", PATIENCE, || {
        faults::server_process(&data, "checkpointer").is_some_and(|pid| pid != checkpointer)
    });
    answers(&cluster, port, "SELECT pg_is_in_recovery()", "f").await;
    assert_eq!(fault::postmaster(&data), postmaster, "PostgreSQL ended, and was started by somebody");
    cluster.verb(&["resume"]).await.ok();
    answers(&cluster, port, "SHOW restart_after_crash", "off").await;
    health::well(&cluster, PATIENCE).await;
    assert_eq!(health::leader(&cluster).await, leader);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_agent_and_a_stopped_one() {
    survives("agent", Probe::Status, &[Fault::KillAgent, Fault::RestartAgent]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_node() {
    survives("node", Probe::Status, &[Fault::KillTrio, Fault::KillNode]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_nodes_killed_at_once() {
    survives("all", Probe::Status, &[Fault::KillAll, Fault::Switchover]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_node() {
    survives("frozen", Probe::Write, &[Fault::FreezeNode]).await;
}

/// All members stand still until the lease has ended, as on a laptop that slept: then they go on as they were.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_slept() {
    let cluster = Cluster::start("slept").await;
    let witness = Witness::attach(&cluster, Probe::Write).await;
    let leader = health::leader(&cluster).await;
    for _ in 0..2 {
        let everything: Vec<i32> =
            cluster.names().iter().flat_map(|name| faults::node_processes(&cluster.member(name))).collect();
        faults::freeze(&everything);
        tokio::time::sleep(LONGER_THAN_A_LEASE).await;
        faults::thaw(&everything);
        witness.writes_again("everything that slept").await;
        health::well(&cluster, PATIENCE).await;
    }
    witness.conclude(&cluster).await;
    assert_eq!(health::leader(&cluster).await, leader, "nobody had to take over");
    let log = std::fs::read_to_string(cluster.member(&leader).join("agent.log")).expect("its agent has a log");
    assert!(log.contains("is held meanwhile"), "its guard holds PostgreSQL until the agent has asked:\n{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_store() {
    survives("stalled", Probe::Status, &[Fault::StallStore]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deleted_data() {
    survives("deleted", Probe::Status, &[Fault::DeleteReplica, Fault::DeleteLeader]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_in_a_replica() {
    survives("garbage", Probe::Status, &[Fault::SpoilControl, Fault::SpoilTables]).await;
}

/// Commits that wait for frozen voters, of clients that come until PostgreSQL takes no more: the agent needs no
/// connection that clients could use up to heal that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_use_up_all_connections() {
    let cluster = Cluster::start("crowd").await;
    cluster.ask(cluster.read_write(), "CREATE TABLE crowd (id int)").await.expect("a primary is there");
    let leader = cluster.dsn(cluster.postgres_port(&health::leader(&cluster).await));
    let replicas = health::replicas(&cluster).await;
    let members: Vec<_> = replicas.iter().map(|name| cluster.member(name)).collect();
    members.iter().for_each(|member| fault::stand_still(member));
    let thaws = tokio::time::Instant::now() + Duration::from_secs(15);
    let mut clients = JoinSet::new();
    for id in 0..130 {
        let (leader, insert) = (leader.clone(), format!("INSERT INTO crowd VALUES ({id}) RETURNING id"));
        clients.spawn(async move { wire::ask_within(2 * PATIENCE, &leader, &insert).await });
    }
    let (mut acknowledged, mut refused, mut frozen) = (0, 0, true);
    // However long it takes until they are too many.
    while let Some(client) = clients.join_next().await {
        match client.expect("it does not panic") {
            Ok(_) => acknowledged += 1,
            Err(error) if format!("{error:#}").contains("too many clients") => refused += 1,
            Err(error) => panic!("neither acknowledged nor refused: {error:#}"),
        }
        if frozen && refused > 0 {
            frozen = false;
            tokio::time::sleep_until(thaws).await;
            members.iter().for_each(|member| faults::thaw(&faults::node_processes(member)));
        }
    }
    assert!(refused > 0 && acknowledged > 50, "{acknowledged} acknowledged, {refused} refused");
    health::well(&cluster, PATIENCE).await;
    let count =
        cluster.ask(cluster.read_write(), "SELECT count(*)::text FROM crowd").await.expect("a primary is there");
    assert_eq!(count, acknowledged.to_string());
}
