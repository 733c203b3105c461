//! `matriarch up`: from nothing to a cluster, and back to nothing, and on from there.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::Instant;

use matriarch_testkit::{faults, process::eventually};
use rustix::process::Signal;

use crate::harness::fault::postmaster;
use crate::harness::{Cluster, PATIENCE, Plan, health, verb};

fn mode(path: &Path) -> u32 {
    let metadata = std::fs::metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    metadata.permissions().mode() & 0o777
}

/// A clean shutdown is the last thing that a server's log tells.
fn was_stopped_cleanly(cluster: &Cluster, name: &str) -> bool {
    let log = std::fs::read_to_string(cluster.member(name).join("postgresql.log")).expect("there is a log");
    log.lines().last().is_some_and(|line| line.contains("database system is shut down"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_nothing_to_ready_and_on_with_the_same_data() {
    let mut cluster = Plan::new("up").archive().start().await;
    says_what_there_is(&cluster);
    keeps_secrets_and_privileges(&cluster);
    routes(&cluster).await;
    let status = cluster.verb(&["status", "-o", "json"]).await.json();
    let rule = &status["cluster"]["matriarch"]["rule"];
    assert_eq!(rule["needed"], 1, "{status}");
    assert_eq!(rule["voters"].as_array().map(Vec::len), Some(2), "{status}");
    assert_eq!(rule["established"], true, "{status}");
    let leader = health::leader(&cluster).await;
    let names = cluster.ask(cluster.postgres_port(&leader), "show synchronous_standby_names").await.unwrap();
    assert!(names.starts_with("ANY 1 ("), "{names}");

    is_refused_beside_itself(&cluster).await;
    cluster.ask(cluster.read_write(), "create table kept as select 42 as answer").await.expect("writable");
    cluster.stop();
    let left = faults::processes_of(&cluster.path());
    assert!(left.is_empty(), "processes are left: {left:?}");
    for name in cluster.names() {
        assert!(was_stopped_cleanly(&cluster, &name), "PostgreSQL of {name} was not shut down cleanly");
    }
    assert!(cluster.said().contains("stopped; the data is in"), "{}", cluster.said());

    cluster.up().await;
    assert_eq!(cluster.ask(cluster.read_write(), "select answer from kept").await.unwrap(), "42");
}

fn says_what_there_is(cluster: &Cluster) {
    let said = cluster.said();
    for name in ["Member", "Leader", "Quorum Standby", "streaming", "Ctrl-C"] {
        assert!(said.contains(name), "no '{name}' in:\n{said}");
    }
    for port in [cluster.read_write(), cluster.read_only()] {
        let url = format!("postgresql://postgres@127.0.0.1:{port}/postgres");
        assert!(said.contains(&url), "no '{url}' in:\n{said}");
    }
    assert!(!said.contains(&cluster.password()), "the password is on the screen");
}

fn keeps_secrets_and_privileges(cluster: &Cluster) {
    for file in ["cluster.json", "secrets.json", "pgpass", "store.db"] {
        assert_eq!(mode(&cluster.path().join(file)), 0o600, "{file}");
    }
    for name in cluster.names() {
        assert_eq!(mode(&cluster.member(&name).join("agent.yaml")), 0o600, "agent.yaml of {name}");
        assert_eq!(mode(&cluster.path().join("archive")), 0o700, "the repository");
        assert_eq!(mode(&cluster.data(&name)), 0o700, "data of {name}");
        assert_eq!(mode(&cluster.member(&name).join("data.run")), 0o700, "data.run of {name}");
        let postmaster = postmaster(&cluster.data(&name));
        let owner = std::fs::metadata(format!("/proc/{postmaster}")).expect("it runs").uid();
        assert_ne!(owner, 0, "PostgreSQL of {name} runs as root");
    }
}

async fn routes(cluster: &Cluster) {
    let recovering = |port| cluster.ask(port, "select pg_is_in_recovery()::text");
    assert_eq!(recovering(cluster.read_write()).await.expect("somebody answers"), "false");
    assert_eq!(recovering(cluster.read_only()).await.expect("somebody answers"), "true");
    let mut ports = std::collections::BTreeSet::new();
    for _ in 0..20 {
        ports.insert(cluster.ask(cluster.read_only(), "show port").await.expect("somebody answers"));
    }
    assert_eq!(ports.len(), 2, "sessions are spread over the replicas: {ports:?}");
}

async fn is_refused_beside_itself(cluster: &Cluster) {
    let outcome = verb::run(cluster.root(), &cluster.tmp, &cluster.up_arguments(), &[]).await;
    assert_ne!(outcome.code, 0, "{outcome}");
    assert!(outcome.err.contains(&cluster.path().display().to_string()), "it names the directory: {outcome}");
    assert!(outcome.err.contains("already runs"), "{outcome}");
    health::well(cluster, PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_up_takes_everything_with_it_and_the_next_one_heals() {
    let mut cluster = Cluster::start("upkill").await;
    cluster.ask(cluster.read_write(), "create table kept as select 42 as answer").await.expect("writable");
    cluster.process().signal(Signal::KILL);
    let status = cluster.process().wait(PATIENCE);
    assert!(!status.success());
    // At once, while the old agents may still be on their way out.
    let begun = Instant::now();
    cluster.up().await;
    assert_eq!(cluster.ask(cluster.read_write(), "select answer from kept").await.unwrap(), "42");
    eprintln!("well again {:.1} s after", begun.elapsed().as_secs_f64());

    // And once more after they have gone by themselves.
    cluster.process().signal(Signal::KILL);
    cluster.process().wait(PATIENCE);
    let path = cluster.path();
    eventually("everything has ended", PATIENCE, || faults::processes_of(&path).is_empty());
    for name in cluster.names() {
        assert!(was_stopped_cleanly(&cluster, &name), "PostgreSQL of {name} was not shut down cleanly");
    }
    cluster.up().await;
    assert_eq!(cluster.ask(cluster.read_write(), "select answer from kept").await.unwrap(), "42");
}
