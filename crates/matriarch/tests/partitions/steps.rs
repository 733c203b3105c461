//! Agents that are killed at each step of what they do: whatever was begun is finished or begun anew by the next agent.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use matriarch_testkit::faults;
use matriarch_testkit::observer::Probe;

use crate::harness::hosts::Plan;
use crate::harness::trouble::{Trouble, endure};
use crate::harness::{Hosts, PATIENCE, Subject, Witness, health};

/// Kills an agent as soon as its log says that it has come to a step: once for each step.
struct Saboteur {
    steps: BTreeSet<&'static str>,
    done: BTreeSet<&'static str>,
    /// How much of each log has been looked at.
    read: Vec<(String, usize)>,
}

impl Saboteur {
    fn new(hosts: &Hosts, steps: &[&'static str]) -> Saboteur {
        let read = hosts.names().into_iter().map(|name| (name.clone(), hosts.log(&name).len())).collect();
        Saboteur { steps: steps.iter().copied().collect(), done: BTreeSet::new(), read }
    }

    /// Looks at what the logs have got since, and kills.
    fn look(&mut self, hosts: &Hosts) {
        for (name, from) in &mut self.read {
            let log = hosts.log(name);
            let new = log.get(*from..).unwrap_or_default();
            // The last line may be half written.
            let new = &new[..new.rfind('\n').map_or(0, |end| end + 1)];
            *from += new.len();
            let reached = |step: &&'static str| new.lines().any(|line| line.contains(&format!("why=\"{step}\"")));
            let reached: Vec<&'static str> =
                self.steps.difference(&self.done).copied().filter(|step| reached(step)).collect();
            if reached.is_empty() {
                continue;
            }
            match hosts.agent(name) {
                Some(pid) => {
                    faults::kill(&[pid]);
                    eprintln!("the agent of {name} was killed at {reached:?}");
                }
                // It had come on from the step before when it was killed.
                None => eprintln!("the agent of {name} had come to {reached:?} when it died"),
            }
            self.done.extend(reached);
        }
    }

    /// Looks until all steps were met, or for a time.
    async fn watch(&mut self, hosts: &Hosts, time: Duration) {
        let deadline = Instant::now() + time;
        while self.done != self.steps && Instant::now() < deadline {
            self.look(hosts);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn missed(&self) -> Vec<&'static str> {
        self.steps.difference(&self.done).copied().collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_each_step_of_bootstrap_and_clone() {
    let Some(mut hosts) = Plan::new("steps-begin").prepare() else { return };
    let steps = ["bootstrap_claim", "bootstrap_initdb", "bootstrap_found", "clone", "start_standby", "rule_publish"];
    let mut saboteur = Saboteur::new(&hosts, &steps);
    hosts.start_all();
    saboteur.watch(&hosts, PATIENCE).await;
    health::well(&hosts, PATIENCE).await;
    assert!(saboteur.missed().is_empty(), "steps that were not met: {:?}", saboteur.missed());
    let witness = Witness::attach(&hosts, Probe::Write).await;
    witness.conclude(&hosts).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_each_step_of_a_failover() {
    let Some(mut hosts) = Plan::new("steps-move").newest().start().await else { return };
    let witness = Witness::attach(&hosts, Probe::Write).await;
    let steps = ["release", "election_stop_receiving", "pledge", "takeover", "promote_prepare", "promote", "rewind"];
    let mut saboteur = Saboteur::new(&hosts, &steps);
    let needed = ["pledge", "takeover", "promote"];
    for round in 0..6 {
        // A postmaster that dies, then a host: the first releases, the second is rewound.
        let trouble = if round % 2 == 0 { Trouble::KillPostmaster } else { Trouble::PrimaryPowerCut };
        let begun = trouble.begin(&mut hosts, round).await;
        saboteur.watch(&hosts, Duration::from_secs(10)).await;
        begun.end(&mut hosts);
        saboteur.watch(&hosts, Duration::from_secs(5)).await;
        witness.writes_again(&format!("agents killed in round {round}")).await;
        health::well(&hosts, PATIENCE).await;
        if saboteur.missed().is_empty() {
            break;
        }
    }
    eprintln!("steps that were not met: {:?}", saboteur.missed());
    assert!(needed.iter().all(|step| saboteur.done.contains(step)), "not met: {:?}", saboteur.missed());
    endure(&mut hosts, &witness, Trouble::Switchover, Duration::ZERO, 1).await;
    witness.conclude(&hosts).await;
}
