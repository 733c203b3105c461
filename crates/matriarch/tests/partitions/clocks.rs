//! Hosts that were booted at different times: their boot and monotonic clocks have nothing in common. And wall clocks that
//! somebody sets.

use std::process::Command;
use std::time::Duration;

use matriarch_testkit::faults;
use matriarch_testkit::lab::Clock;
use matriarch_testkit::observer::Probe;
use matriarch_testkit::process::eventually;
use rustix::process::Signal;

use crate::harness::hosts::Plan;
use crate::harness::trouble::{Trouble, endure};
use crate::harness::{Hosts, PATIENCE, Witness, health};
use crate::survive_on;

const HOUR: i64 = 3_600;
const DAY: i64 = 24 * HOUR;
/// Longer than a lease lives.
const WHILE: Duration = Duration::from_secs(8);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_with_different_boot_clocks() {
    let clocks = vec![
        Clock::default(),
        Clock { boot: 90_000, monotonic: 50_000 },
        // Longer than 2^32 milliseconds.
        Clock { boot: 5_000_000, monotonic: 5_000_000 },
    ];
    let plan = Plan { clocks, ..Plan::new("clocks").newest() };
    survive_on(plan, &[Trouble::PrimaryCutOff, Trouble::KillAgent, Trouble::PrimaryPowerCut]).await;
}

/// Waits until an agent's log shows that its wall clock is so many seconds off. SIGHUP has it write a line.
fn is_off(hosts: &Hosts, name: &str, seconds: i64) {
    let agent = hosts.agent(name).expect("it runs");
    eventually(&format!("the clock of {name} is {seconds} s off"), PATIENCE, || {
        assert!(faults::signal(agent, Signal::HUP), "it runs");
        let when = format!("{seconds} seconds");
        let date = Command::new("date").args(["-u", "-d", &when, "+%Y-%m-%dT%H:%M:"]).output().expect("date runs");
        let minute = String::from_utf8_lossy(&date.stdout).trim().to_owned();
        hosts.log(name).lines().rev().take(20).any(|line| line.contains(&minute))
    });
}

/// Leases, deadlines and silences are counted on other clocks: whoever sets the time, nothing happens.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wall_clocks_that_jump() {
    let Some(plan) = Plan::new("wall-clocks").with_wall_clocks() else { return };
    let Some(mut hosts) = plan.start().await else { return };
    let leader = health::leader(&hosts).await;
    let others = hosts.others(&leader);
    let witness = Witness::patient(&hosts, Probe::Status).await;
    for (name, seconds) in
        [(&leader, HOUR), (&leader, -HOUR), (&others[0], -HOUR), (&others[1], DAY), (&leader, DAY), (&leader, 0)]
    {
        hosts.set_wall_clock(name, seconds);
        tokio::time::sleep(WHILE).await;
        is_off(&hosts, name, seconds);
        witness.writes_again(&format!("the clock of {name} was set {seconds} s off")).await;
        health::well(&hosts, PATIENCE).await;
        assert_eq!(health::leader(&hosts).await, leader, "the lead moved as the clock of {name} was set");
    }
    let summary = witness.conclude(&hosts).await;
    let failed = (summary.refused, summary.unknown, summary.connect_errors, summary.idle_cuts);
    assert_eq!(failed, (0, 0, 0, 0), "{summary:?}");

    // With clocks a day and an hour apart a failover is like any other.
    let witness = Witness::attach(&hosts, Probe::Write).await;
    endure(&mut hosts, &witness, Trouble::PrimaryPowerCut, WHILE, 1).await;
    witness.conclude(&hosts).await;
    health::well(&hosts, PATIENCE).await;
}
