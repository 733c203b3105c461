//! What members notice of each other, and what they must not take for a failure: nodes that are killed, frozen or cut off
//! from the store, agents that are killed, stopped or upgraded.

use std::time::Duration;

use matriarch_testkit::faults;
use matriarch_testkit::observer::Probe;
use matriarch_testkit::process::eventually;
use rustix::process::Signal;

use crate::harness::{Cluster, Fault, PATIENCE, Witness, fault, health, wire};

/// The epoch, as the leader's agent says.
async fn epoch(cluster: &Cluster) -> u64 {
    let leader = health::leader(cluster).await;
    let answer = wire::http(cluster.api_port(&leader), "GET", "/cluster", None, "").await.expect("its agent answers");
    let cluster: serde_json::Value = serde_json::from_str(&answer.body).expect("it is JSON");
    cluster["matriarch"]["epoch"].as_u64().expect("it is a number")
}

/// What a member's agent has logged.
fn log(cluster: &Cluster, member: &str) -> String {
    std::fs::read_to_string(cluster.member(member).join("agent.log")).unwrap_or_default()
}

fn times(text: &str, what: &str) -> usize {
    text.matches(what).count()
}

/// Every agent hears the leader.
fn all_hear(cluster: &Cluster, followers: &[String], epoch: u64) {
    for name in followers {
        eventually(&format!("{name} hears the leader of epoch {epoch}"), PATIENCE, || {
            log(cluster, name).contains(&format!("the leader of epoch {epoch} is heard"))
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_is_killed_or_upgraded_costs_nothing() {
    let cluster = Cluster::start("upgrade").await;
    cluster.be_patient().await;
    let before = epoch(&cluster).await;
    let leader = health::leader(&cluster).await;
    let replicas = health::replicas(&cluster).await;
    all_hear(&cluster, &replicas, before);
    let (data, guard) = (cluster.data(&leader), fault::guard(&cluster, &leader));
    let postmaster = fault::postmaster(&data);
    let witness = Witness::patient(&cluster, Probe::Status).await;

    for name in [&leader, &replicas[0]] {
        let agent = fault::agent(&cluster, name);
        let starts = times(&log(&cluster, name), "agent of member");
        assert!(faults::signal(agent, Signal::USR2), "it runs");
        eventually(&format!("another program in the process of {name}"), PATIENCE, || {
            times(&log(&cluster, name), "agent of member") > starts
        });
        assert_eq!(fault::agent(&cluster, name), agent, "the process stays");
        witness.writes_again("an upgrade").await;
        health::well(&cluster, PATIENCE).await;
    }
    let struck = Fault::KillAgent.strike(&cluster, 1).await;
    struck.replaced();
    witness.writes_again("an agent's death").await;
    health::well(&cluster, PATIENCE).await;

    assert_eq!((health::leader(&cluster).await, epoch(&cluster).await), (leader.clone(), before));
    assert_eq!((fault::postmaster(&data), fault::guard(&cluster, &leader)), (postmaster, guard));
    let summary = witness.conclude(&cluster).await;
    assert_eq!((summary.refused, summary.unknown, summary.connect_errors), (0, 0, 0), "{summary:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_does_not_work_is_not_changed_to() {
    let cluster = Cluster::start("badupgrade").await;
    let leader = health::leader(&cluster).await;
    let agent = fault::agent(&cluster, &leader);
    let config = cluster.member(&leader).join("agent.yaml");
    let text = std::fs::read_to_string(&config).expect("it is there");
    // The program is this test's own and stays; what it would find at its start is not what it understands.
    std::fs::write(&config, format!("{text}\nno_such_key: 1\n")).expect("it can be written");
    assert!(faults::signal(agent, Signal::USR2), "it runs");
    eventually("a refusal", PATIENCE, || log(&cluster, &leader).contains("no_such_key"));
    assert!(log(&cluster, &leader).contains("goes on with the program it has"));
    std::fs::write(&config, text).expect("it can be written");
    health::well(&cluster, PATIENCE).await;
    assert_eq!(fault::agent(&cluster, &leader), agent);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_takes_nothing_for_long_costs_nothing() {
    let cluster = Cluster::start("outage").await;
    cluster.be_patient().await;
    let before = epoch(&cluster).await;
    let leader = health::leader(&cluster).await;
    all_hear(&cluster, &health::replicas(&cluster).await, before);
    let witness = Witness::patient(&cluster, Probe::Status).await;
    // Four times as long as a lease lives.
    let outage = Fault::stall_store(&cluster, Duration::from_secs(20));
    let watch = async {
        let deadline = std::time::Instant::now() + Duration::from_secs(18);
        while std::time::Instant::now() < deadline {
            let answer = wire::http(cluster.api_port(&leader), "GET", "/primary", None, "").await;
            assert_eq!(answer.expect("its agent answers").status, 200, "{}", log(&cluster, &leader));
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::join!(outage, watch);
    witness.writes_again("an outage of the store").await;
    health::well(&cluster, PATIENCE).await;
    assert_eq!((health::leader(&cluster).await, epoch(&cluster).await), (leader, before));
    let summary = witness.conclude(&cluster).await;
    assert_eq!((summary.refused, summary.unknown, summary.connect_errors), (0, 0, 0), "{summary:?}");
}

/// With leases that outlive the test, nothing but what members notice of each other brings another primary.
async fn long_leases(cluster: &Cluster) {
    let outcome = cluster.verb(&["config", "set", "ttl=600"]).await;
    assert_eq!(outcome.code, 0, "{outcome}");
    // The newest lease was granted under the old time to live: a restarted agent takes a new one.
    let leader = health::leader(cluster).await;
    let old = fault::agent(cluster, &leader);
    assert!(faults::signal(old, Signal::KILL), "it runs");
    eventually("another agent", PATIENCE, || fault::agent(cluster, &leader) != old);
    health::well(cluster, PATIENCE).await;
    all_hear(cluster, &health::replicas(cluster).await, epoch(cluster).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_and_a_frozen_node_are_noticed_long_before_the_lease_ends() {
    let cluster = Cluster::start("noticed").await;
    long_leases(&cluster).await;
    let witness = Witness::attach(&cluster, Probe::Write).await;
    for fault in [Fault::FreezeNode, Fault::KillNode] {
        let before = epoch(&cluster).await;
        let struck = fault.strike(&cluster, 1).await;
        witness.writes_again(&format!("{fault:?} of {}", struck.victim)).await;
        struck.replaced();
        health::well(&cluster, PATIENCE).await;
        assert!(epoch(&cluster).await > before, "{fault:?}");
        let suspects =
            cluster.names().iter().filter(|name| log(&cluster, name).contains("the leader is suspected")).count();
        assert!(suspects > 0, "{fault:?} was noticed by nobody");
    }
    witness.conclude(&cluster).await;
}
