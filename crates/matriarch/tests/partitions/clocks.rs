//! Hosts that were booted at different times: their boot and monotonic clocks have nothing in common.

use matriarch_testkit::lab::Clock;

use crate::harness::hosts::Plan;
use crate::harness::trouble::Trouble;
use crate::survive_on;

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
