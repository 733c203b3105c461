//! Clusters whose store is a real etcd of three.

use std::time::{Duration, Instant};

use matriarch_testkit::dir::TestDir;
use matriarch_testkit::etcd::{self, EtcdCluster, Plan as EtcdPlan};
use matriarch_testkit::observer::Probe;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use crate::harness::{Cluster, Fault, PATIENCE, Plan, Witness, archived, health, verb};

/// Longer than a lease and a membership live.
const OUTAGE: Duration = Duration::from_secs(15);

async fn start(name: &'static str, store: &EtcdCluster) -> Cluster {
    Plan::new(name).argument("--store").argument(&format!("etcd:{}", store.hosts())).start().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn moves_and_survives_on_etcd() {
    let dir = TestDir::new("etcd-store");
    let mut store = EtcdPlan::new(etcd::current()).nodes(3).start(&dir);
    let cluster = start("etcd", &store).await;
    assert!(!cluster.path().join("store.db").exists(), "the records are in etcd");
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
    store.kill(leader);
    witness.writes_again("the end of etcd's leader").await;
    health::well(&cluster, PATIENCE).await;
    eprintln!("etcd's leader killed: writes paused {:.2} s", witness.longest_pause_since(from));
    store.start(leader);
    witness.conclude(&cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_write_fails_and_nobody_is_promoted_while_etcd_is_away() {
    let dir = TestDir::new("etcd-store");
    let mut store = EtcdPlan::new(etcd::current()).start(&dir);
    let cluster = start("etcd-away", &store).await;
    cluster.be_patient().await;
    let witness = Witness::patient(&cluster, Probe::Status).await;
    let replicas = health::replicas(&cluster).await;

    let from = witness.now();
    store.kill_all();
    let until = Instant::now() + OUTAGE;
    while Instant::now() < until {
        for replica in &replicas {
            // One that is just being pointed elsewhere may not answer; one that answers must be a replica.
            let port = cluster.postgres_port(replica);
            let said = cluster.ask(port, "SELECT pg_is_in_recovery()").await.unwrap_or_else(|_| "t".to_owned());
            assert_eq!(said, "t", "{replica} was promoted without a store");
        }
    }
    store.start_all();
    witness.writes_again("etcd's outage").await;
    health::well(&cluster, PATIENCE).await;
    eprintln!("etcd away for {OUTAGE:?}: writes paused {:.2} s", witness.longest_pause_since(from));
    let summary = witness.conclude(&cluster).await;
    let failed = (summary.refused, summary.unknown, summary.connect_errors, summary.idle_cuts);
    assert_eq!(failed, (0, 0, 0, 0), "the primary goes on while its voters stand by it: {summary:?}");
}

/// Another program, such as Patroni, takes the lead once the lease has ended, whoever stands by the primary: beside it the
/// primary must not outlive its lease.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beside_a_member_of_another_program_the_lease_is_the_fence() {
    let dir = TestDir::new("etcd-store");
    let mut store = EtcdPlan::new(etcd::current()).start(&dir);
    let cluster = start("etcd-strangers", &store).await;
    let port = cluster.postgres_port(&health::leader(&cluster).await);
    let record = r#"{"conn_url": "postgres://h:1/postgres", "api_url": "http://h:2/patroni", "state": "running",
        "role": "replica", "version": "4.1.5"}"#;
    store.must(&["put", "/service/demo/members/p1", record]);
    health::wait(&cluster, PATIENCE, "the leader tells", |_, rows| {
        let told = |row: &serde_json::Value| row.to_string().contains("'p1' is run by another program (version 4.1.5)");
        (!rows.iter().any(told)).then(|| "no member tells of p1".to_owned())
    })
    .await;

    store.kill_all();
    let until = Instant::now() + OUTAGE;
    while cluster.ask(port, "SELECT 1").await.is_ok() {
        assert!(Instant::now() < until, "the primary goes on after its lease has ended");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    store.start_all();
    store.must(&["del", "/service/demo/members/p1"]);
    health::well(&cluster, PATIENCE).await;
}

/// A session through a port of the proxy, and the server process that it has.
async fn session(cluster: &Cluster, port: u16) -> (Client, String) {
    let (client, connection) = tokio_postgres::connect(&cluster.dsn(port), NoTls).await.expect("the proxy serves");
    tokio::spawn(connection);
    let pid = server_process(&client).await;
    (client, pid)
}

async fn server_process(client: &Client) -> String {
    let messages = client.simple_query("SELECT pg_backend_pid()").await.expect("the session goes on");
    let row = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    row.expect("it has one").to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_keeps_its_routes_and_sessions_while_etcd_is_away() {
    let dir = TestDir::new("etcd-store");
    let mut store = EtcdPlan::new(etcd::current()).start(&dir);
    let cluster = start("etcd-routes", &store).await;
    cluster.be_patient().await;
    let leader = health::leader(&cluster).await;
    let ports = [cluster.read_write(), cluster.read_only()];
    let old = [session(&cluster, ports[0]).await, session(&cluster, ports[1]).await];

    store.kill_all();
    let until = Instant::now() + OUTAGE;
    while Instant::now() < until {
        for (port, in_recovery) in ports.into_iter().zip(["f", "t"]) {
            let said = cluster.ask(port, "SELECT pg_is_in_recovery()").await.expect("a new session is let in");
            assert_eq!(said, in_recovery, "port {port}");
        }
        for (client, pid) in &old {
            assert_eq!(server_process(client).await, *pid);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    store.start_all();
    health::well(&cluster, PATIENCE).await;
    assert_eq!(health::leader(&cluster).await, leader);
    let (client, pid) = &old[0];
    assert_eq!(server_process(client).await, *pid, "the primary's session outlives the store's return");
    // The routes follow again.
    cluster.verb(&["switchover", "--force"]).await.ok();
    let said = cluster.ask(ports[0], "SELECT pg_is_in_recovery()").await.expect("the proxy serves");
    assert_eq!(said, "f");
    let port = cluster.ask(ports[0], "SHOW port").await.expect("the proxy serves");
    let leads = health::leader(&cluster).await;
    assert_ne!(leads, leader);
    assert_eq!(port, cluster.postgres_port(&leads).to_string());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn verbs_and_a_proxy_find_a_cluster_on_etcd_with_tls_and_a_user() {
    let dir = TestDir::new("etcd-store");
    let store = EtcdPlan::new(etcd::current()).tls().start(&dir);
    for command in [
        &["user", "add", "root:hunter2-root"][..],
        &["user", "grant-role", "root", "root"],
        &["user", "add", "agents:hunter2-agents"],
        &["role", "add", "clusters"],
        &["role", "grant-permission", "clusters", "--prefix=true", "readwrite", "/service/"],
        &["user", "grant-role", "agents", "clusters"],
        &["auth", "enable"],
    ] {
        store.must(command);
    }
    let password = dir.join("password");
    std::fs::write(&password, "hunter2-agents\n").unwrap();
    let text = |path: std::path::PathBuf| path.display().to_string();
    let authority = store.authority();
    let access = [
        ("--store", format!("etcds:{}", store.hosts())),
        ("--store-cacert", text(authority.ca())),
        ("--store-cert", text(authority.cert("client"))),
        ("--store-key", text(authority.key("client"))),
        ("--store-username", "agents".to_owned()),
        ("--store-password-file", text(password)),
    ];
    let flags: Vec<String> = access.into_iter().flat_map(|(name, value)| [name.to_owned(), value]).collect();
    let plan = flags.iter().fold(Plan::new("etcds").members(1).archive(), |plan, flag| plan.argument(flag));
    let cluster = plan.start().await;

    let config = text(cluster.member("a").join("agent.yaml"));
    let by_store: Vec<String> = flags.into_iter().chain(["--scope", "demo", "list"].map(str::to_owned)).collect();
    let ways = [by_store, vec!["--config".to_owned(), config.clone(), "list".to_owned()]];
    for arguments in ways {
        let list = verb::run(cluster.root(), &cluster.tmp, &arguments, &[]).await;
        assert!(list.ok().contains("running"), "{arguments:?}: {}", list.out);
    }
    let list = verb::run(cluster.root(), &cluster.tmp, &["list"], &[("MATRIARCH_CONFIG", &config)]).await;
    assert!(list.ok().contains("running"), "{}", list.out);
    // The token for changes is in the file too.
    verb::run(cluster.root(), &cluster.tmp, &["--config", &config, "pause"], &[]).await.ok();
    verb::run(cluster.root(), &cluster.tmp, &["--config", &config, "resume"], &[]).await.ok();

    let refused = ["--store", &format!("etcd:{}", store.hosts()), "--scope", "demo", "list"];
    let refused = verb::run(cluster.root(), &cluster.tmp, &refused, &[]).await;
    assert_ne!(refused.code, 0, "without TLS");
    by_a_schedule(&cluster).await;
}

/// Whoever takes what is due is a process of its own, which claims it in the store with the access of its member's file.
async fn by_a_schedule(cluster: &Cluster) {
    let every_second =
        [r#"archive.schedule={"full":"* * * * * *"}"#, r#"archive.dumps={"schedule":"* * * * * *","keep":1}"#];
    cluster.verb(&["config", "set", every_second[0], every_second[1]]).await.ok();
    archived::until(cluster, "a backup and a dump", |page| {
        let taken = |what: &str| page[what]["last"].is_object() && page[what]["failures"] == 0;
        taken("backups") && taken("dumps")
    })
    .await;
    cluster.verb(&["config", "set", "archive.schedule=null", "archive.dumps=null"]).await.ok();
    // The log and the claim are gone from sight at once; a backup under way ends by itself.
    archived::until(cluster, "there is no schedule", |page| page["backups"].is_null() && page["dumps"].is_null()).await;
    let backups = cluster.verb(&["backup", "list", "-o", "json"]).await.json();
    let rows = backups.as_array().expect("a list");
    let mut times: Vec<(&str, &str)> = Vec::new();
    times.extend(rows.iter().filter_map(|row| row["start_time"].as_str().zip(row["stop_time"].as_str())));
    times.sort_unstable();
    assert!(!times.is_empty() && times.is_sorted_by(|one, other| one.1 <= other.1), "they overlap: {backups}");
}
