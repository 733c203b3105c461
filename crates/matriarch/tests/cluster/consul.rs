//! Clusters whose store is a real Consul.

use std::time::{Duration, Instant};

use matriarch_testkit::consul::{ConsulCluster, ConsulNode, ConsulSettings};
use matriarch_testkit::dir::TestDir;
use matriarch_testkit::observer::Probe;
use serde_json::Value;

use crate::harness::{Cluster, Fault, PATIENCE, Plan, Witness, health, verb};

/// Longer than a lease of Consul's own limits lives.
const OUTAGE: Duration = Duration::from_secs(25);

fn addresses(store: &ConsulCluster) -> String {
    let all: Vec<String> = store.nodes.iter().map(|node| format!("127.0.0.1:{}", node.port())).collect();
    format!("consul:{}", all.join(","))
}

async fn start(name: &'static str, store: &ConsulCluster) -> Cluster {
    Plan::new(name).argument("--store").argument(&addresses(store)).start().await
}

/// Consul as it comes: no session under ten seconds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn moves_and_survives_on_consul() {
    let dir = TestDir::new("consul-store");
    let mut store = ConsulCluster::start(&dir, 3, &ConsulSettings::default()).expect("three servers start");
    let cluster = start("consul", &store).await;
    assert!(!cluster.path().join("store.db").exists(), "the records are in Consul");
    let witness = Witness::attach(&cluster, Probe::Status).await;

    for (seed, fault) in (1..).zip([Fault::Switchover, Fault::KillPostmaster, Fault::KillNode]) {
        let from = witness.now();
        let struck = fault.strike(&cluster, seed).await;
        witness.writes_again(&format!("{fault:?} of {}", struck.victim)).await;
        struck.replaced();
        health::well(&cluster, PATIENCE).await;
        eprintln!("{fault:?}: writes paused {:.2} s", witness.longest_pause_since(from));
    }

    let (leader, from) = (store.leader(), witness.now());
    store.nodes[leader].kill();
    witness.writes_again("the end of Consul's leader").await;
    health::well(&cluster, PATIENCE).await;
    eprintln!("Consul's leader killed: writes paused {:.2} s", witness.longest_pause_since(from));
    store.nodes[leader].start().expect("it starts again");
    witness.conclude(&cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_write_fails_and_nobody_is_promoted_while_consul_is_away() {
    let dir = TestDir::new("consul-store");
    let mut store = ConsulCluster::start(&dir, 1, &ConsulSettings::default()).expect("a server starts");
    let cluster = start("consul-away", &store).await;
    cluster.be_patient().await;
    let witness = Witness::patient(&cluster, Probe::Status).await;
    let replicas = health::replicas(&cluster).await;
    store.nodes[0].kill();
    let until = Instant::now() + OUTAGE;
    while Instant::now() < until {
        for replica in &replicas {
            // One that is just being pointed elsewhere may not answer; one that answers must be a replica.
            let port = cluster.postgres_port(replica);
            let said = cluster.ask(port, "SELECT pg_is_in_recovery()").await.unwrap_or_else(|_| "t".to_owned());
            assert_eq!(said, "t", "{replica} was promoted without a store");
        }
    }
    store.nodes[0].start().expect("it starts again");
    store.wait_ready().expect("it gets ready");
    witness.writes_again("Consul's outage").await;
    health::well(&cluster, PATIENCE).await;
    let summary = witness.conclude(&cluster).await;
    let failed = (summary.refused, summary.unknown, summary.connect_errors, summary.idle_cuts);
    assert_eq!(failed, (0, 0, 0, 0), "the primary goes on while its voters stand by it: {summary:?}");
}

/// Ids of the members that are healthy with a tag.
fn tagged(node: &ConsulNode, tag: &str) -> Vec<String> {
    let (_, body) = node.http("GET", &format!("/v1/health/service/demo?tag={tag}&passing"), "").expect("an answer");
    let found: Vec<Value> = serde_json::from_str(&body).expect("a list");
    found.iter().map(|one| one["Service"]["ID"].as_str().unwrap_or_default().to_owned()).collect()
}

async fn is_tagged(node: &ConsulNode, tag: &str, members: &[&str]) {
    let wanted: Vec<String> = members.iter().map(|member| format!("demo/{member}")).collect();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut found = tagged(node, tag);
        found.sort();
        if found == wanted {
            return;
        }
        assert!(Instant::now() < deadline, "tagged {tag}: {found:?}, not {wanted:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn verbs_find_a_cluster_on_consul_and_its_service_follows_the_primary() {
    let dir = TestDir::new("consul-store");
    let store = ConsulCluster::start(&dir, 1, &ConsulSettings::default()).expect("a server starts");
    let node = &store.nodes[0];
    let socket = format!("consul:unix:{}", node.socket().display());
    let plan = Plan::new("consul-service").argument("--store").argument(&socket);
    let cluster = plan.variable("MATRIARCH_CONSUL_REGISTER_SERVICE", "true").start().await;
    cluster.be_patient().await;

    let config = cluster.member("a").join("agent.yaml").display().to_string();
    let ways = [vec!["--store", &socket, "--scope", "demo", "list"], vec!["--config", &config, "list"]];
    for arguments in ways {
        let list = verb::run(cluster.root(), &cluster.tmp, &arguments, &[]).await;
        assert!(list.ok().contains("running"), "{arguments:?}: {}", list.out);
    }

    let (primary, replicas) = (health::leader(&cluster).await, health::replicas(&cluster).await);
    is_tagged(node, "primary", &[&primary]).await;
    is_tagged(node, "master", &[&primary]).await;
    is_tagged(node, "replica", &replicas.iter().map(String::as_str).collect::<Vec<_>>()).await;
    cluster.verb(&["switchover", "--candidate", &replicas[0], "--force"]).await.ok();
    health::well(&cluster, PATIENCE).await;
    is_tagged(node, "primary", &[&replicas[0]]).await;
    let mut others = [primary.as_str(), replicas[1].as_str()];
    others.sort_unstable();
    is_tagged(node, "replica", &others).await;
    drop(cluster);
    is_tagged(node, "replica", &[]).await;
    is_tagged(node, "primary", &[]).await;
}
