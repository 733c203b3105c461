//! What people ask for out of order or out of hours: limits lowered the wrong way round, a failover while paused,
//! restarts at a time, a reload by signal.

use std::time::{Duration, Instant};

use matriarch_config::Document;
use matriarch_testkit::faults;
use rustix::process::Signal;

use crate::harness::{Cluster, PATIENCE, fault, health, wire};

const TEMPORARY: u8 = 75;

/// Asks a member until it says what is right.
async fn until(cluster: &Cluster, member: &str, statement: &str, right: impl Fn(&str) -> bool) -> String {
    let begun = Instant::now();
    loop {
        let answer = cluster.ask(cluster.postgres_port(member), statement).await;
        if let Some(answer) = answer.as_ref().ok().filter(|answer| right(answer)) {
            return answer.clone();
        }
        assert!(begun.elapsed() < PATIENCE, "{member} does not come to say what is right: {statement}: {answer:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Until every member has told that it waits for a restart.
async fn all_pending(cluster: &Cluster) {
    health::wait(cluster, PATIENCE, "all pending", |_, rows| {
        let count = rows.iter().filter(|row| row["pending_restart"] == true).count();
        (count != 3).then(|| format!("{count} are pending"))
    })
    .await;
}

/// A replica with less than its primary has must not wait for somebody who knows why it stands still.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_lowered_in_the_wrong_order_mend_themselves() {
    let cluster = Cluster::start("limits").await;
    cluster.be_patient().await;
    let (old, replicas) = (health::leader(&cluster).await, health::replicas(&cluster).await);
    cluster.verb(&["config", "set", "postgresql.parameters.max_connections=60"]).await.ok();
    all_pending(&cluster).await;
    // The right way: the primary first. Here only the primary, and then the lead moves to one that still has more.
    cluster.verb(&["restart", &old, "--force"]).await.ok();
    health::well(&cluster, PATIENCE).await;
    // What anybody last saw of the replicas may be from before the restart: the primary knows, and the leader looks once more.
    until(&cluster, &old, "select count(*) from pg_stat_replication where state = 'streaming'", |count| count == "2")
        .await;
    cluster.verb(&["switchover", "--candidate", &replicas[0], "--force"]).await.ok();
    cluster.ask(cluster.read_write(), "create table after_the_move as select 1 as x").await.expect("it can be written");
    until(&cluster, &old, "select count(*) from after_the_move", |count| count == "1").await;
    health::well(&cluster, PATIENCE).await;
    all_pending(&cluster).await;
    cluster.verb(&["restart", "--pending", "--force"]).await.ok();
    health::well(&cluster, PATIENCE).await;
    for name in cluster.names() {
        let limit = cluster.ask(cluster.postgres_port(&name), "show max_connections").await.expect("it answers");
        assert_eq!(limit, "60", "on {name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_while_paused_and_leaderless() {
    let cluster = Cluster::start("paused").await;
    let (old, replicas) = (health::leader(&cluster).await, health::replicas(&cluster).await);
    cluster.verb(&["pause", "--wait"]).await.ok();
    faults::signal(fault::postmaster(&cluster.data(&old)), Signal::KILL);
    health::wait(&cluster, PATIENCE, "no leader", |_, rows| {
        rows.iter().any(|row| row["role"] == "leader" && row["state"] == "running").then(|| "somebody leads".to_owned())
    })
    .await;
    cluster.verb(&["failover", "--candidate", &replicas[1], "--force"]).await.ok();
    assert_eq!(health::leader(&cluster).await, replicas[1]);
    cluster.verb(&["resume"]).await.ok();
    health::well(&cluster, PATIENCE).await;
    assert_eq!(health::leader(&cluster).await, replicas[1], "nobody moves it once more");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarts_at_a_time_and_under_conditions() {
    let cluster = Cluster::start("restarts").await;
    let (leader, replica) = (health::leader(&cluster).await, health::replicas(&cluster).await.remove(0));
    let started = "select pg_postmaster_start_time()";
    let before = until(&cluster, &replica, started, |_| true).await;

    let far = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(2);
    cluster.verb(&["restart", &replica, "--scheduled", &far.to_string(), "--force"]).await.ok();
    health::wait(&cluster, PATIENCE, "the restart in the status", |_, rows| {
        let row = rows.iter().find(|row| row["member"] == replica.as_str());
        row.is_none_or(|row| row["scheduled_restart"].is_null()).then(|| "it is not shown".to_owned())
    })
    .await;
    let twice = cluster.verb(&["restart", &replica, "--scheduled", &far.to_string(), "--force"]).await;
    assert!(
        twice.refused(TEMPORARY).contains("already scheduled") || twice.out.contains("already scheduled"),
        "{twice}"
    );
    cluster.verb(&["restart", &replica, "--cancel"]).await.ok();

    // Long enough for the verb to come in time.
    let soon = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(8);
    cluster.verb(&["restart", &replica, "--scheduled", &soon.to_string(), "--force"]).await.ok();
    loop {
        let now = cluster.ask(cluster.postgres_port(&replica), started).await;
        if jiff::Timestamp::now() >= soon {
            break;
        }
        assert_eq!(now.expect("it answers"), before, "not yet");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    until(&cluster, &replica, started, |now| now != before).await;
    health::well(&cluster, PATIENCE).await;

    let api = cluster.api_port(&leader);
    let body = r#"{"role": "replica"}"#;
    let answer = wire::http(api, "POST", "/restart", Some(&cluster.token()), body).await.expect("it answers");
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(answer.body.contains("is a primary, not a replica"), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hangup_loads_the_local_configuration_again() {
    let cluster = Cluster::start("hangup").await;
    let name = health::replicas(&cluster).await.remove(0);
    let file = cluster.member(&name).join("agent.yaml");
    let text = std::fs::read_to_string(&file).expect("it is ours");
    let mut local = Document::parse(&text).expect("it is YAML").value;
    local["postgresql"]["parameters"] = serde_json::json!({"work_mem": "7MB"});
    std::fs::write(&file, local.to_string()).expect("it is ours");
    let agent = fault::agent(&cluster, &name);
    faults::signal(agent, Signal::HUP);
    until(&cluster, &name, "show work_mem", |shown| shown == "7MB").await;
    assert_eq!(fault::agent(&cluster, &name), agent, "the agent goes on");
}
