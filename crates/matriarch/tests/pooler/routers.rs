//! Plain sessions through our proxy, in front of a primary that moves, restarts, or is not there yet.

use matriarch_testkit::faults;

use crate::crowd::{Crowd, ended, logged, session};
use crate::harness::{PATIENCE, Plan, health, wire};
use crate::pgbouncer::{Bench, Proxy, until};
use crate::{cluster, switch_over};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_end_between_transactions_and_new_ones_see_no_error() {
    let cluster = cluster("plain").await;
    let mut crowd = Crowd::start(&cluster, 50).await;
    crowd.works().await;
    let idle = session(&cluster, cluster.read_write()).await.expect("the proxy serves");
    let busy = session(&cluster, cluster.read_write()).await.expect("the proxy serves");
    busy.simple_query("BEGIN; INSERT INTO crowd VALUES (2)").await.expect("the primary serves");
    let transaction = async {
        // New work is held from here on, and this transaction goes on.
        ended(&idle).await;
        busy.simple_query("INSERT INTO crowd VALUES (2)").await.expect("its transaction is waited for");
        busy.simple_query("COMMIT").await.expect("its transaction is waited for");
        ended(&busy).await;
    };
    tokio::join!(switch_over(&cluster), transaction);
    crowd.works().await;
    let count = "SELECT count(*) FROM crowd WHERE n = 2";
    assert_eq!(cluster.ask(cluster.read_write(), count).await.expect("the new primary serves"), "2");
    assert!(crowd.conclude().await > 0, "sessions do not move from one server to another");
    assert_eq!(logged(&cluster, "Rewind begins"), 0, "the old leader has nothing to undo");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_stays_in_a_transaction_calls_it_off_and_goes_on() {
    let cluster = cluster("plainbusy").await;
    cluster.verb(&["config", "set", "switchover_hold_timeout=1"]).await.ok();
    let mut crowd = Crowd::start(&cluster, 5).await;
    let busy = session(&cluster, cluster.read_write()).await.expect("the proxy serves");
    busy.simple_query("BEGIN; INSERT INTO crowd VALUES (2)").await.expect("the primary serves");
    let leader = health::leader(&cluster).await;
    for verb in [&["switchover", "--force"][..], &["restart", &leader, "--force"]] {
        let off = cluster.verb(verb).await;
        assert!(off.code != 0, "{off}");
        assert_eq!(health::leader(&cluster).await, leader);
        busy.simple_query("INSERT INTO crowd VALUES (2)").await.expect("the transaction goes on");
        crowd.works().await;
    }
    assert_eq!(logged(&cluster, "Restart begins"), 0);
    assert!(logged(&cluster, "restart called off: the transaction of process") > 0);
    busy.simple_query("COMMIT").await.expect("the transaction goes on");
    crowd.conclude().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_is_held_at_the_proxy_and_at_pgbouncer() {
    let cluster = cluster("rolling").await;
    let proxy = Proxy::start(&cluster, &[]).await;
    until("the pooler serves", async || proxy.ask("app", "SELECT 1").await.ok()).await;
    Bench::tables(&cluster, proxy.port());
    let bench = Bench::start(&cluster, proxy.port(), 20);
    let mut crowd = Crowd::start(&cluster, 20).await;
    bench.works().await;
    crowd.works().await;
    let leader = health::leader(&cluster).await;
    cluster.verb(&["config", "set", "postgresql.parameters.max_connections=137"]).await.ok();
    health::wait(&cluster, PATIENCE, "a restart is pending everywhere", |_, rows| {
        let pending = rows.iter().filter(|row| row["pending_restart"] == true).count();
        (pending < 3).then(|| format!("pending for {pending}"))
    })
    .await;
    cluster.verb(&["restart", "--pending", "--force"]).await.ok();
    assert_eq!(health::leader(&cluster).await, leader, "the leader stays");
    for name in cluster.names() {
        let shown = cluster.ask(cluster.postgres_port(&name), "SHOW max_connections").await;
        assert_eq!(shown.expect("every member serves"), "137", "{name}");
    }
    bench.works().await;
    crowd.works().await;
    crowd.conclude().await;
    bench.conclude();
    proxy.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_that_has_crashed_is_not_waited_for() {
    let cluster = cluster("crashed").await;
    let mut proxy = Proxy::plain(&cluster, &["--dir", &cluster.path().display().to_string()]);
    until("the proxy serves", async || cluster.ask(proxy.port(), "SELECT 1").await.ok()).await;
    until("it is known", async || {
        let status = cluster.verb(&["status"]).await;
        status.out.contains(&format!(":{}", proxy.port())).then_some(())
    })
    .await;
    faults::kill(&[proxy.process().pid()]);
    switch_over(&cluster).await;
    let said = format!("nothing listens at 127.0.0.1:{}", proxy.port());
    assert!(logged(&cluster, &said) > 0, "the record of the crashed proxy did not count");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_may_be_started_before_its_cluster() {
    let mut cluster = Plan::new("early").prepare();
    let store = format!("sqlite:{}", cluster.path().join("store.db").display());
    let proxy = Proxy::plain(&cluster, &["--store", &store, "--scope", "demo", "--hold-timeout", "300"]);
    let hasty = Proxy::plain(&cluster, &["--store", &store, "--scope", "demo", "--hold-timeout", "0.5"]);
    until("it waits", async || proxy.log().contains("waiting for the cluster's store").then_some(())).await;
    let refused = until("it listens", async || {
        let dsn = format!("host=127.0.0.1 port={} user=postgres dbname=postgres", hasty.port());
        let error = wire::ask(&dsn, "SELECT 1").await.err().map(|error| format!("{error:#}"));
        error.filter(|text| !text.contains("refused"))
    })
    .await;
    assert!(refused.contains("no primary took the connection"), "{refused}");
    let waits = std::net::TcpStream::connect(("127.0.0.1", proxy.port())).expect("it listens already");
    cluster.up().await;
    until("it serves", async || cluster.ask(proxy.port(), "SELECT 1").await.ok()).await;
    drop(waits);
}
