//! Every verb, as a script calls it: what it prints, what it does, how it refuses, and its exit code.

use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::io::AsyncReadExt;

use crate::harness::{Cluster, PATIENCE, Plan, health, verb};

/// Exit codes of sysexits(3).
const USAGE: u8 = 64;
const DATA: u8 = 65;
const UNAVAILABLE: u8 = 69;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn looking_at_a_cluster() {
    let cluster = Cluster::start("looking").await;
    shows_the_members(&cluster).await;
    watches(&cluster).await;
    let leader = health::leader(&cluster).await;
    let topology = cluster.verb(&["topology"]).await;
    assert!(topology.ok().contains(&format!("{leader}  (Leader, running")), "{topology}");
    assert_eq!(topology.out.matches("─ ").count(), 2, "two replicas below it: {topology}");
    let tree = cluster.verb(&["topology", "-o", "json"]).await.json();
    assert!(tree.to_string().contains("\"leader\""), "{tree}");

    let status = cluster.verb(&["status"]).await;
    for words in ["Leader:", "Durability:", "a commit waits for", "Store:", "PostgreSQL:", "Replication", "Slots"] {
        assert!(status.ok().contains(words), "no '{words}': {status}");
    }
    assert!(cluster.verb(&["history"]).await.ok().contains("never moved"));
    assert!(cluster.verb(&["version"]).await.ok().contains(env!("CARGO_PKG_VERSION")));
    leads_to_postgresql(&cluster).await;
}

async fn shows_the_members(cluster: &Cluster) {
    let table = cluster.verb(&["list"]).await;
    for words in ["Member", "Host", "Role", "State", "TL", "Lag", "Pending restart", "Leader", "Quorum Standby"] {
        assert!(table.ok().contains(words), "no '{words}': {table}");
    }
    let rows = cluster.verb(&["list", "-o", "json"]).await.json();
    assert_eq!(rows.as_array().map(Vec::len), Some(3), "{rows}");
    let yaml = cluster.verb(&["list", "-o", "yaml"]).await;
    assert_eq!(yaml.ok().matches("member: ").count(), 3, "{yaml}");
    let tsv = cluster.verb(&["list", "-o", "tsv"]).await;
    let lines: Vec<Vec<&str>> = tsv.ok().lines().map(|line| line.split('\t').collect()).collect();
    assert_eq!(lines.len(), 4, "{tsv}");
    assert!(lines.iter().all(|line| line.len() == lines[0].len()), "{tsv}");
    assert_eq!(lines[0][..3], ["cluster", "member", "host"], "{tsv}");
}

async fn watches(cluster: &Cluster) {
    let mut command = tokio::process::Command::new(verb::program());
    command.arg("--dir").arg(cluster.path()).args(["list", "--watch", "0.2", "-o", "tsv"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut watching = command.spawn().expect("the binary runs");
    let mut output = watching.stdout.take().expect("it is piped");
    let mut seen = String::new();
    let two_frames = async {
        let mut piece = [0; 4096];
        while seen.matches("cluster\tmember").count() < 2 {
            let count = output.read(&mut piece).await.expect("the pipe can be read");
            assert!(count > 0, "it ended by itself: {seen}");
            seen.push_str(&String::from_utf8_lossy(&piece[..count]));
        }
    };
    tokio::time::timeout(PATIENCE, two_frames).await.expect("two frames come");
}

async fn leads_to_postgresql(cluster: &Cluster) {
    let psql = cluster.verb(&["psql", "-Atc", "select pg_is_in_recovery(), current_user"]).await;
    assert_eq!(psql.ok().trim(), "f|postgres", "{psql}");
    let failing = cluster.verb(&["psql", "-c", "select 1/0"]).await;
    assert_eq!(failing.code, 1, "psql's own exit code: {failing}");
    let dsn = cluster.verb(&["dsn"]).await;
    assert!(dsn.ok().contains(&format!("127.0.0.1:{}/", cluster.read_write())), "{dsn}");
    let replica = cluster.verb(&["dsn", "--role", "replica"]).await;
    assert!(replica.ok().contains(&format!("127.0.0.1:{}/", cluster.read_only())), "{replica}");
    let any = cluster.verb(&["dsn", "--role", "any"]).await;
    assert!(any.ok().contains("target_session_attrs=any"), "{any}");
    // As a person pastes it.
    let output = tokio::process::Command::new(matriarch_testkit::postgres::any().bins.join("psql"))
        .args([dsn.ok().trim(), "-Atc", "select 1"])
        .output();
    let output = output.await.expect("psql runs");
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "1", "{output:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn moving_the_primary() {
    let cluster = Cluster::start("moving").await;
    cluster.be_patient().await;
    let leader = health::leader(&cluster).await;
    let candidate = health::replicas(&cluster).await.remove(0);
    for verb in [
        &["switchover", "--candidate", &candidate][..],
        &["failover", "--candidate", &candidate],
        &["restart", &candidate],
        &["reinit", &candidate],
    ] {
        cluster.verb(verb).await.refused_naming(USAGE, &["--force"]);
    }
    cluster.verb(&["failover", "--force"]).await.refused_naming(USAGE, &["--candidate"]);
    cluster.verb(&["switchover", "--candidate", "z", "--force"]).await.refused_naming(DATA, &["'z'", &candidate]);
    assert_eq!(health::leader(&cluster).await, leader, "nothing has moved");

    let moved = cluster.verb(&["switchover", "--candidate", &candidate, "--force", "-o", "json"]).await.json();
    assert_eq!(moved["leader"], candidate, "{moved}");
    health::well(&cluster, PATIENCE).await;
    assert_eq!(health::leader(&cluster).await, candidate);
    let history = cluster.verb(&["history", "-o", "json"]).await.json();
    assert_eq!(history.as_array().map(Vec::len), Some(1), "{history}");

    let other = health::replicas(&cluster).await.remove(1);
    cluster.verb(&["failover", "--candidate", &other, "--force"]).await.ok();
    health::well(&cluster, PATIENCE).await;
    assert_eq!(health::leader(&cluster).await, other);
    assert_eq!(
        cluster.ask(cluster.read_write(), "show port").await.unwrap(),
        cluster.postgres_port(&other).to_string()
    );
}

async fn started(cluster: &Cluster, name: &str) -> String {
    let asked = cluster.ask(cluster.postgres_port(name), "select pg_postmaster_start_time()::text").await;
    asked.unwrap_or_else(|error| panic!("{name} does not answer: {error:#}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn maintaining_members() {
    let cluster = Cluster::start("maintain").await;
    cluster.be_patient().await;
    let leader = health::leader(&cluster).await;
    let replicas = health::replicas(&cluster).await;
    let before = (started(&cluster, &leader).await, started(&cluster, &replicas[0]).await);
    cluster.verb(&["restart", &replicas[0], "--force"]).await.ok();
    assert_ne!(started(&cluster, &replicas[0]).await, before.1);
    health::well(&cluster, PATIENCE).await;
    let second = started(&cluster, &replicas[1]).await;
    cluster.verb(&["restart", "--role", "replica", "--force"]).await.ok();
    assert_ne!(started(&cluster, &replicas[1]).await, second);
    assert_eq!(started(&cluster, &leader).await, before.0, "the primary was not asked for");
    health::well(&cluster, PATIENCE).await;
    cluster.verb(&["restart", "--role", "primary", "--force"]).await.ok();
    health::well(&cluster, PATIENCE).await;
    assert_ne!(started(&cluster, &leader).await, before.0);
    cluster.verb(&["restart", "z", "--force"]).await.refused_naming(DATA, &["'z'"]);

    let reloaded = cluster.verb(&["reload"]).await;
    assert_eq!(reloaded.ok().matches("loaded again").count(), 3, "{reloaded}");
    let leader = health::leader(&cluster).await;
    cluster.verb(&["reinit", &leader, "--force"]).await.refused_naming(DATA, &["is the leader", "switch over first"]);
    let victim = health::replicas(&cluster).await.remove(0);
    let marker = cluster.data(&victim).join("marker");
    std::fs::write(&marker, "old").expect("root or the owner may write there");
    cluster.verb(&["reinit", &victim, "--force", "--wait"]).await.ok();
    assert!(!marker.exists(), "the data was copied anew");
    health::well(&cluster, PATIENCE).await;
    pauses(&cluster).await;
}

async fn pauses(cluster: &Cluster) {
    assert!(cluster.verb(&["pause", "--wait"]).await.ok().contains("is paused"));
    assert!(cluster.verb(&["pause"]).await.ok().contains("is paused already"));
    assert!(cluster.verb(&["list"]).await.ok().contains("matriarch resume"));
    // Nothing automatic: a replica that dies stays down.
    let victim = health::replicas(cluster).await.remove(0);
    let data = cluster.data(&victim);
    matriarch_testkit::faults::kill(&[crate::harness::fault::postmaster(&data)]);
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(matriarch_testkit::faults::postmaster(&data), None, "{victim} was started in a pause");
    assert!(cluster.verb(&["resume", "--wait"]).await.ok().contains("is resumed"));
    health::well(cluster, PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn finding_the_cluster() {
    let first = Plan::new("find").members(1).start().await;
    let run = |arguments: &'static [&'static str]| verb::run(first.root(), &first.tmp, arguments, &[]);
    let found: Value = run(&["list", "-o", "json"]).await.json();
    assert_eq!(found[0]["port"], first.postgres_port("a"), "the only one is found: {found}");

    let mut second = Plan::new("find-other").beside().prepare();
    second.tmp = first.tmp.clone();
    second.up().await;
    let [one, two] = [&first, &second].map(|cluster| cluster.path().display().to_string());
    run(&["list"]).await.refused_naming(USAGE, &["say which", &one, &two]);
    second.stop();
    run(&["list"]).await.ok();

    let nowhere = first.root().display().to_string();
    let elsewhere = verb::run(first.root(), &first.tmp, &["--dir", &nowhere, "list"], &[]).await;
    elsewhere.refused_naming(UNAVAILABLE, &[&nowhere, "matriarch up"]);
    let empty = first.root().join("empty");
    std::fs::create_dir(&empty).expect("it is ours");
    verb::run(first.root(), &empty, &["list"], &[]).await.refused_naming(UNAVAILABLE, &["matriarch up", "--dir"]);
}

#[tokio::test]
async fn every_verb_explains_itself() {
    let tmp = std::env::temp_dir();
    let verbs = "up,agent,proxy,completions,list,topology,status,switchover,failover,restart,reload,reinit,pause,resume,\
                 drill,drill failover,drill switchover,drill history,drill restore,history,config,config show,config edit,config set,config check,psql,dsn,version";
    for verb in verbs.split(',') {
        let arguments: Vec<&str> = verb.split(' ').chain(["--help"]).collect();
        let help = verb::run(&tmp, &tmp, &arguments, &[]).await;
        assert!(help.ok().contains("Usage: matriarch"), "{help}");
        assert!(
            help.out.lines().next().is_some_and(|line| line.len() > 10),
            "it begins by saying what it does: {help}"
        );
    }
    let unknown = verb::run(&tmp, &tmp, &["swichover"], &[]).await;
    assert!(unknown.code != 0 && unknown.err.contains("switchover"), "it names the nearest verb: {unknown}");
}
