//! PgBouncer in front of a cluster: its clients see no error in a planned switchover, and go on after a failover.

mod beside;
mod crowd;
#[path = "../harness/mod.rs"]
mod harness;
mod pgbouncer;
mod routers;
mod upgrade;

use std::time::Duration;

use matriarch_testkit::faults;
use tokio_postgres::NoTls;

use harness::{Cluster, Fault, PATIENCE, health};
use pgbouncer::{Bench, Foreign, Proxy, alive, until};

const ROLE: &str = "CREATE ROLE app LOGIN PASSWORD 'hush'";
const DATABASE: &str = "CREATE DATABASE app OWNER app";

async fn cluster(name: &'static str) -> Cluster {
    let cluster = Cluster::start(name).await;
    cluster.be_patient().await;
    for statement in [ROLE, DATABASE] {
        cluster.ask(cluster.read_write(), statement).await.expect("the primary serves");
    }
    cluster
}

/// A planned switchover that must go well; who leads then.
async fn switch_over(cluster: &Cluster) -> String {
    let before = health::leader(cluster).await;
    cluster.verb(&["switchover", "--force"]).await.ok();
    let after = health::leader(cluster).await;
    assert_ne!(before, after);
    health::well(cluster, PATIENCE).await;
    after
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_clients_of_two_poolers_see_no_error_in_switchovers() {
    let cluster = cluster("pooled").await;
    let proxies = [Proxy::start(&cluster, &[]).await, Proxy::start(&cluster, &[]).await];
    for proxy in &proxies {
        until("the pooler serves", async || proxy.ask("app", "SELECT 1").await.ok()).await;
    }
    Bench::tables(&cluster, proxies[0].port());
    let benches = proxies.each_ref().map(|proxy| Bench::start(&cluster, proxy.port(), 50));
    for _ in 0..2 {
        for bench in &benches {
            bench.works().await;
        }
        switch_over(&cluster).await;
    }
    for bench in benches {
        bench.works().await;
        bench.conclude();
    }
    for proxy in proxies {
        proxy.stop();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_go_on_after_the_primary_died_or_froze() {
    let cluster = cluster("poolkill").await;
    let proxy = Proxy::start(&cluster, &[]).await;
    until("the pooler serves", async || proxy.ask("app", "SELECT 1").await.ok()).await;
    // A client between two transactions keeps its session through both faults.
    let (idle, connection) = tokio_postgres::connect(&proxy.dsn("app"), NoTls).await.expect("the pooler serves");
    tokio::spawn(connection);
    idle.simple_query("CREATE TABLE t (n int)").await.expect("the primary serves");
    for (seed, fault) in [Fault::KillPostmaster, Fault::FreezeNode].into_iter().enumerate() {
        // One that is in a transaction is cut off, and does not hang on a server that answers no more.
        let (busy, connection) = tokio_postgres::connect(&proxy.dsn("app"), NoTls).await.expect("the pooler serves");
        tokio::spawn(connection);
        busy.simple_query("BEGIN; INSERT INTO t VALUES (0)").await.expect("the primary serves");
        let working = async {
            while busy.simple_query("INSERT INTO t VALUES (1)").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let (struck, cut) = tokio::join!(fault.strike(&cluster, seed as u64), tokio::time::timeout(PATIENCE, working));
        cut.expect("a session in a transaction on the old primary ends");
        let waits = idle.simple_query("INSERT INTO t VALUES (2)");
        let done = tokio::time::timeout(PATIENCE, waits).await.expect("it is not held for ever");
        done.expect("an idle client's session goes on");
        until("a new session", async || proxy.ask("app", "SELECT 1").await.ok()).await;
        struck.replaced();
        health::well(&cluster, PATIENCE).await;
    }
    proxy.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_never_ends_calls_the_switchover_off() {
    let cluster = cluster("poolbusy").await;
    let proxy = Proxy::start(&cluster, &[]).await;
    until("the pooler serves", async || proxy.ask("app", "SELECT 1").await.ok()).await;
    cluster.verb(&["config", "set", "switchover_hold_timeout=1"]).await.ok();
    let leader = health::leader(&cluster).await;
    let (client, connection) = tokio_postgres::connect(&proxy.dsn("app"), NoTls).await.expect("the pooler serves");
    tokio::spawn(connection);
    client.simple_query("CREATE TABLE t (n int); BEGIN; INSERT INTO t VALUES (1)").await.expect("the primary serves");
    let off = cluster.verb(&["switchover", "--force"]).await;
    assert!(off.code != 0, "{off}");
    assert_eq!(health::leader(&cluster).await, leader);
    // Everything goes on: the same transaction, and new work.
    client.simple_query("INSERT INTO t VALUES (2); COMMIT").await.expect("the transaction goes on");
    assert_eq!(proxy.ask("app", "SELECT count(*) FROM t").await.expect("it is resumed"), "2");
    let log = std::fs::read_to_string(cluster.member(&leader).join("agent.log")).expect("agents log");
    assert!(log.contains("did not hold new work within 1 s (switchover_hold_timeout)"), "{log}");
    cluster.be_patient().await;
    switch_over(&cluster).await;
    assert_eq!(proxy.ask("app", "SELECT count(*) FROM t").await.expect("the new primary serves"), "2");
    proxy.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn there_is_always_one_pgbouncer_and_never_two() {
    let cluster = cluster("poolone").await;
    let mut proxy = Proxy::start(&cluster, &["--pooler-set", "default_pool_size=3"]).await;
    let first = proxy.pid().await;
    faults::kill(&[first]);
    let second = until("another PgBouncer", async || Some(proxy.pid().await).filter(|pid| *pid != first)).await;
    until("it serves", async || proxy.ask("app", "SELECT 1").await.ok()).await;

    // The proxy crashes: sessions go on, and the next one adopts.
    let (client, connection) = tokio_postgres::connect(&proxy.dsn("app"), NoTls).await.expect("it serves");
    tokio::spawn(connection);
    faults::kill(&[proxy.process().pid()]);
    client.simple_query("SELECT 1").await.expect("PgBouncer goes on alone");
    proxy.again(&cluster);
    until("adopted", async || proxy.log().contains("adopted the PgBouncer").then_some(())).await;
    assert_eq!(proxy.pid().await, second);
    client.simple_query("SELECT 1").await.expect("the session goes on");

    // A second proxy finds the directory taken.
    let same = proxy.arguments();
    let refused = cluster.verb(&same.iter().map(String::as_str).collect::<Vec<_>>()).await;
    assert!(refused.code != 0 && refused.err.contains("another process of Matriarch runs a pooler"), "{refused}");
    proxy.stop();
    assert!(!alive(second), "PgBouncer ends with us");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_input_is_refused_with_the_remedy() {
    let cluster = Cluster::start("poolbad").await;
    let cases: [(&[&str], &[&str]); 5] = [
        (&["--pooler", "127.0.0.1:1", "--pooler-set", "auth_file=/x"], &["auth_file belongs to Matriarch"]),
        (&["--pooler", "127.0.0.1:1", "--pooler-set", "pool_mode"], &["pool_mode is not NAME=VALUE"]),
        (&["--pooler", "127.0.0.1:1", "--pooler", "127.0.0.1:2"], &["one port", "second pooler"]),
        (&["--pooler", "127.0.0.1:1", "--pooler-program", "/nope"], &["PgBouncer is not installed", "/nope"]),
        (&["--pooler-address", "nowhere", "--pooler-admin", "a"], &["HOST:PORT"]),
    ];
    for (arguments, words) in cases {
        let refused = cluster.verb(&[&["proxy"], arguments].concat()).await;
        assert!(refused.code != 0 && words.iter().all(|word| refused.err.contains(word)), "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registered_pgbouncer_is_paused_and_a_wrong_password_is_told() {
    let cluster = cluster("poolreg").await;
    let foreign = Foreign::start(&cluster);
    until("the registered pooler serves", async || foreign.ask("SELECT 1").await.ok()).await;
    cluster.verb(&["config", "set", "switchover_hold_timeout=1"]).await.ok();

    let wrong = Proxy::registering(&cluster, &foreign, "wrong");
    until("list tells", async || {
        let list = cluster.verb(&["list"]).await;
        list.out.contains("refuses its admin user 'admin'").then_some(())
    })
    .await;
    assert!(
        wrong.log().contains("refuses its admin user 'admin'") && wrong.log().contains("auth_file"),
        "{}",
        wrong.log()
    );
    let leader = health::leader(&cluster).await;
    let off = cluster.verb(&["switchover", "--force"]).await;
    assert!(off.code != 0, "{off}");
    assert_eq!(health::leader(&cluster).await, leader);
    wrong.stop();

    cluster.be_patient().await;
    let right = Proxy::registering(&cluster, &foreign, "secret");
    until("it is known", async || {
        let list = cluster.verb(&["status"]).await;
        (list.out.contains("pooler") && !list.out.contains("in trouble")).then_some(())
    })
    .await;
    Bench::tables(&cluster, foreign.port());
    let bench = Bench::start(&cluster, foreign.port(), 20);
    bench.works().await;
    switch_over(&cluster).await;
    bench.works().await;
    bench.conclude();
    right.stop();
}
