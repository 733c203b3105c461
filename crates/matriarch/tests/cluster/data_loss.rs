//! The day everything is broken: a person gives up what only the members that are gone have.

use matriarch_dcs::{SqliteStore, Store, Txn};
use matriarch_testkit::faults;

use crate::harness::{Cluster, PATIENCE, Plan, fault, health, wire};
use crate::tags::{set, until};

const USAGE: u8 = 64;
const TEMPORARY: u8 = 75;

/// Stops every process of a member, as if its host were gone.
fn vanish(cluster: &Cluster, name: &str) {
    // A process may be born between look and signal.
    loop {
        let awake = faults::processes_of(&cluster.member(name)).into_iter().filter(|process| process.state != 'T');
        let pids: Vec<i32> = awake.map(|process| process.pid).collect();
        if pids.is_empty() {
            return;
        }
        faults::freeze(&pids);
    }
}

/// Its host is gone for good; another one with this name and an empty disk takes its place.
fn replace(cluster: &Cluster, name: &str) {
    let kept = cluster.data(name).with_extension("destroyed");
    std::fs::rename(cluster.data(name), &kept).expect("it is ours");
    faults::kill(&faults::node_processes(&cluster.member(name)));
    let _ = std::fs::remove_dir_all(kept);
}

async fn nobody_leads(cluster: &Cluster, survivor: &str, problem: &str) {
    health::wait(cluster, PATIENCE, "nobody leads, and it is said why", |_, rows| {
        let row = rows.iter().find(|row| row["member"] == survivor)?;
        let leads = rows.iter().any(|row| row["role"] == "leader");
        let said = row["problem"].as_str().is_some_and(|said| said.contains(problem));
        (leads || !said).then(|| format!("leader: {leads}, {}", row["problem"]))
    })
    .await;
}

/// Waits until the leader has noted how far each member is, which it does while there are writes.
async fn everybody_is_known(cluster: &Cluster, leader: &str) {
    let begun = std::time::Instant::now();
    loop {
        cluster.ask(cluster.read_write(), "create temp table t as select 1").await.expect("the primary answers");
        let answer = wire::http(cluster.api_port(leader), "GET", "/cluster", None, "").await.expect("it answers");
        let status: serde_json::Value = serde_json::from_str(&answer.body).expect("it is JSON");
        if status["matriarch"]["known"].as_array().is_some_and(|known| known.len() == 3) {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "not all positions are known: {status}");
    }
}

async fn write(cluster: &Cluster, row: u32) {
    let insert = format!("insert into kept values ({row})");
    cluster.ask(cluster.read_write(), &insert).await.unwrap_or_else(|error| panic!("{insert}: {error:#}"));
}

async fn reason_in_history(cluster: &Cluster) -> String {
    let history = cluster.verb(&["history", "-o", "json"]).await.json();
    let last = history.as_array().and_then(|lines| lines.last()).cloned().unwrap_or_default();
    last["reason"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_one_leads_once_the_loss_is_accepted() {
    let cluster = Cluster::start("data-loss").await;
    let leader = health::leader(&cluster).await;
    let [voter, survivor] = &health::replicas(&cluster).await[..] else { panic!("three members") };
    cluster.ask(cluster.read_write(), "create table kept (id int)").await.expect("the primary answers");
    write(&cluster, 1).await;
    let accept = ["failover", "--candidate", survivor, "--accept-data-loss", "--force"];
    cluster.verb(&accept).await.refused_naming(TEMPORARY, &[&leader, "leads"]);

    everybody_is_known(&cluster, &leader).await;
    vanish(&cluster, &leader);
    vanish(&cluster, voter);
    nobody_leads(&cluster, survivor, "pledges needed").await;
    // Without that word nothing is given up, however long it is asked for.
    let safe = cluster.verb(&["failover", "--candidate", survivor, "--force"]).await;
    safe.refused_naming(TEMPORARY, &["has not happened"]);
    // It says what is known, and wants a person.
    let asked = cluster.verb(&accept[..4]).await;
    asked.refused_naming(
        USAGE,
        &["--force", "does not answer", "Last replayed commit", "would go on from", "Make sure"],
    );
    assert_eq!(asked.err.lines().filter(|line| line.contains("| 20") && line.contains("0/")).count(), 3, "{asked}");

    let done = cluster.verb(&accept).await;
    assert!(done.ok().contains(survivor.as_str()), "{done}");
    assert_eq!(health::leader(&cluster).await, *survivor);
    write(&cluster, 2).await;
    health::wait(&cluster, PATIENCE, "the history", |_, rows| {
        let row = rows.iter().find(|row| row["member"] == survivor.as_str())?;
        (row["timeline"] != 2).then(|| format!("timeline {}", row["timeline"]))
    })
    .await;
    let begun = std::time::Instant::now();
    while !reason_in_history(&cluster).await.starts_with("data loss accepted: continued at 1/") {
        assert!(begun.elapsed() < PATIENCE, "the history does not tell: {}", reason_in_history(&cluster).await);
    }
    // The old leader comes back and is rewound; the voter is lost, and another one takes its place.
    faults::thaw(&faults::node_processes(&cluster.member(&leader)));
    replace(&cluster, voter);
    health::well(&cluster, PATIENCE).await;
    assert_eq!(health::leader(&cluster).await, *survivor);
    for name in cluster.names() {
        // What has just begun to stream may show it a moment later.
        let rows = "select string_agg(id::text, ',' order by id) from kept";
        let begun = std::time::Instant::now();
        loop {
            let found = cluster.ask(cluster.postgres_port(&name), rows).await;
            if found.as_ref().is_ok_and(|found| found == "1,2") {
                break;
            }
            assert!(begun.elapsed() < PATIENCE, "on {name}: {found:?}");
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }
    // The next leader still tells what happened.
    cluster.be_patient().await;
    cluster.verb(&["switchover", "--candidate", voter, "--force"]).await.ok();
    health::well(&cluster, PATIENCE).await;
    let history = cluster.verb(&["history", "-o", "json"]).await.json();
    assert!(history[0]["reason"].as_str().is_some_and(|reason| reason.starts_with("data loss accepted")), "{history}");
    assert!(!history[1]["reason"].as_str().unwrap_or_default().contains("loss"), "{history}");
}

/// Everything that the store knew is gone, and the primary with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_founds_the_cluster_anew_in_a_store_that_was_wiped() {
    let cluster = Cluster::start("data-loss-store").await;
    let leader = health::leader(&cluster).await;
    let [other, survivor] = &health::replicas(&cluster).await[..] else { panic!("three members") };
    cluster.ask(cluster.read_write(), "create table kept (id int)").await.expect("the primary answers");
    write(&cluster, 1).await;
    vanish(&cluster, &leader);
    wipe(&cluster).await;
    nobody_leads(&cluster, survivor, "the store went back in time").await;
    nobody_leads(&cluster, other, "the store went back in time").await;

    cluster.verb(&["failover", "--candidate", survivor, "--accept-data-loss", "--force"]).await.ok();
    assert_eq!(health::leader(&cluster).await, *survivor);
    write(&cluster, 2).await;
    replace(&cluster, &leader);
    health::well(&cluster, PATIENCE).await;
    assert_eq!(health::leader(&cluster).await, *survivor);
    assert!(reason_in_history(&cluster).await.contains("a store that knew no cluster"));
    let rows = cluster.ask(cluster.postgres_port(&leader), "select count(*) from kept").await.expect("it answers");
    assert_eq!(rows, "2");
}

/// More than the limit, and than sockets hold.
const FAR: i64 = 48 << 20;

/// Without a rule as much may be lost as the limit allows, and no more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_beyond_the_lag_limit_waits_for_the_leader() {
    let cluster = Plan::new("lag-limit").members(2).start().await;
    let leader = health::leader(&cluster).await;
    let [behind] = health::replicas(&cluster).await.try_into().expect("there are two");
    set(&cluster, "synchronous_mode=off").await;
    until(&cluster, &leader, "show synchronous_standby_names", str::is_empty).await;
    cluster.ask(cluster.read_write(), "create table kept (id int, filler text)").await.expect("the primary answers");

    let receiver = fault::server_process(&cluster.data(&behind), "walreceiver");
    faults::freeze(&[receiver]);
    let position = "select (pg_current_wal_flush_lsn() - '0/0')::bigint";
    let before: i64 = until(&cluster, &leader, position, |_| true).await.parse().expect("it is a number");
    let fill = "insert into kept select x, string_agg(md5((x * 1000 + y)::text), '') \
                from generate_series(1, 3000) x, generate_series(1, 500) y group by x";
    cluster.ask(cluster.read_write(), fill).await.expect("nobody is waited for");
    told_of(&cluster, before + FAR).await;
    vanish(&cluster, &leader);
    faults::thaw(&[receiver]);
    nobody_leads(&cluster, &behind, "maximum_lag_on_failover (1048576 bytes)").await;

    faults::thaw(&faults::node_processes(&cluster.member(&leader)));
    health::streaming(&cluster, PATIENCE).await;
    assert_eq!(health::leader(&cluster).await, leader);
    until(&cluster, &behind, "select count(*) from kept", |count| count == "3000").await;
}

/// Waits until the store says that the leader is that far.
async fn told_of(cluster: &Cluster, position: i64) {
    let store = store(cluster).await;
    let begun = std::time::Instant::now();
    loop {
        let snapshot = store.read().await.expect("it can be read");
        let status = snapshot.get("status").map(|entry| entry.value.clone()).unwrap_or_default();
        let optime =
            serde_json::from_str::<serde_json::Value>(&status).ok().and_then(|status| status["optime"].as_i64());
        if optime.is_some_and(|optime| optime >= position) {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "not {position}: {status}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

async fn store(cluster: &Cluster) -> SqliteStore {
    SqliteStore::open_existing(&cluster.path().join("store.db"), "/service/demo/").await.expect("it is there")
}

async fn wipe(cluster: &Cluster) {
    let store = store(cluster).await;
    let snapshot = store.read().await.expect("it can be read");
    let txn = snapshot.entries.keys().fold(Txn::new(), |txn, key| txn.delete(key.clone()));
    store.commit(txn).await.expect("it takes changes");
}
