//! Members that are neither well nor gone: a primary that lets nobody in, a replica that receives and does not replay, and one that
//! receives nothing and keeps its connection.

use matriarch_testkit::faults;
use matriarch_testkit::observer::Probe;

use crate::harness::hosts::Plan;
use crate::harness::trouble::{Trouble, endure};
use crate::harness::{Hosts, PATIENCE, Witness, health};
use crate::survive_on;

/// The whole switchover, on a machine that is busy with other tests.
const BOUND: f64 = 25.0;
/// The stop in it. A standby that stands still is waited for 5 s, by us (`switchover_hold_timeout`, once the shutdown checkpoint is
/// written) or by PostgreSQL (`wal_sender_timeout`, from its last word), and a shutdown checkpoint has as long again. Nothing else
/// that could end the stop comes before 30 s (`primary_stop_timeout`).
const STOP: f64 = 10.0;

/// Seconds from the first line of an agent's log that says one thing to the first after it that says another.
fn seconds_between(log: &str, from: &str, to: &str) -> f64 {
    let mut lines = log.lines();
    let mut at = |what: &str| -> jiff::Timestamp {
        let line = lines.find(|line| line.contains(what)).unwrap_or_else(|| panic!("no line says '{what}':\n{log}"));
        line.split_whitespace().next().and_then(|time| time.parse().ok()).expect("it begins with the time")
    };
    let (from, to) = (at(from), at(to));
    to.duration_since(from).as_secs_f64()
}

/// Waits until a member says that it replays nothing.
async fn complains(hosts: &Hosts, name: &str) {
    health::wait(hosts, PATIENCE, "the replica that does not replay says so", |_, rows| {
        let problem = rows.iter().find(|row| row["member"] == name).map(|row| row["problem"].to_string());
        let said = problem.as_ref().is_some_and(|problem| problem.contains("nothing has been replayed"));
        (!said).then(|| format!("{name} says {problem:?}"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_does_not_replay_is_passed_over_and_mended() {
    let Some(mut hosts) = Plan::new("replay").start().await else { return };
    let witness = Witness::attach(&hosts, Probe::Write).await;
    let leader = health::leader(&hosts).await;
    // The first by name would take over among equals.
    let stuck = hosts.others(&leader)[0].clone();
    let begun = Trouble::ReplayStops.begin(&mut hosts, 0).await;
    assert_eq!(begun.victim, stuck);
    complains(&hosts, &stuck).await;
    witness.writes_again("a replica has stopped replaying").await;

    let old = faults::postmaster(&hosts.data(&leader)).expect("it runs");
    hosts.power_cut(std::slice::from_ref(&leader), 1);
    // Both replicas have to pledge, so the one that stands still has to be started anew.
    witness.writes_again("the primary's power was cut beside a replica that does not replay").await;
    hosts.boot(&leader);
    health::well(&hosts, PATIENCE).await;
    assert_ne!(faults::postmaster(&hosts.data(&leader)), Some(old));
    begun.end(&mut hosts);
    witness.conclude(&hosts).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_does_not_replay_for_a_while_catches_up() {
    survive_on(Plan::new("replay-while").newest(), &[Trouble::ReplayStops]).await;
}

/// Its sessions go on meanwhile, so nothing but the attempt to open one tells.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_postmaster_that_hangs_is_ended() {
    let Some(mut hosts) = Plan::new("hangs").start().await else { return };
    let witness = Witness::attach(&hosts, Probe::Write).await;
    let data = hosts.data(&health::leader(&hosts).await);
    let old = faults::postmaster(&data);
    endure(&mut hosts, &witness, Trouble::PostmasterHangs, crate::HOLD, 0).await;
    assert_ne!(faults::postmaster(&data), old, "it was ended");
    witness.conclude(&hosts).await;
}

/// The walsender of a replica that stands still would hold up the stop of the primary.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_switchover_does_not_wait_for_a_replica_that_stands_still() {
    for (name, plan) in [("stuck", Plan::new("stuck")), ("stuck-newest", Plan::new("stuck-newest").newest())] {
        let Some(mut hosts) = plan.start().await else { return };
        let witness = Witness::attach(&hosts, Probe::Write).await;
        let leader = health::leader(&hosts).await;
        let endured = endure(&mut hosts, &witness, Trouble::SwitchoverBesideStuck, crate::HOLD, 0).await;
        assert_ne!(health::leader(&hosts).await, leader, "{name}: it went through");
        let stop = seconds_between(&hosts.log(&leader), "StopFast begins", "StopFast done");
        eprintln!("{name}: stopped in {stop:.1} s");
        assert!(stop < STOP, "{name}: the stop took {stop:.1} s");
        assert!(endured.gap < BOUND, "{name}: writes paused for {:.1} s", endured.gap);
        witness.conclude(&hosts).await;
    }
}
