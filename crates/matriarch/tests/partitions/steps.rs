//! Agents that are killed at each step of what they do, and hosts and servers that die in the middle of a clone and of a rewind:
//! whatever was begun is finished or begun anew.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use matriarch_testkit::faults::{self, Process};
use matriarch_testkit::observer::Probe;

use crate::harness::fault::postmaster;
use crate::harness::hosts::Plan;
use crate::harness::storage::Disks;
use crate::harness::trouble::{Trouble, endure};
use crate::harness::{Hosts, PATIENCE, Subject, Witness, health};

/// Faults in which each step of a failover must be met: two meet them all when nothing comes in between.
const ROUNDS: u64 = 8;

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
    for round in 0..ROUNDS {
        // A postmaster that dies is released, and rewound when it had written more; a host without power is fenced and rewound.
        let released = saboteur.done.contains("release");
        let trouble = if released || round % 2 == 1 { Trouble::PrimaryPowerCut } else { Trouble::KillPostmaster };
        let begun = trouble.begin(&mut hosts, round).await;
        saboteur.watch(&hosts, Duration::from_secs(10)).await;
        begun.end(&mut hosts);
        saboteur.watch(&hosts, Duration::from_secs(10)).await;
        witness.writes_again(&format!("agents killed in round {round}")).await;
        health::well(&hosts, PATIENCE).await;
        if saboteur.missed().is_empty() {
            break;
        }
    }
    assert!(saboteur.missed().is_empty(), "not met in {ROUNDS} rounds: {:?}", saboteur.missed());
    for trouble in [Trouble::Switchover, Trouble::AgentUpgraded] {
        endure(&mut hosts, &witness, trouble, Duration::ZERO, 1).await;
    }
    witness.conclude(&hosts).await;
}

/// Longer than it takes until a member that has lost its data, or was started again, sees to it.
const SEEN_WITHIN: Duration = Duration::from_secs(30);

/// Who dies in the middle of what a member does.
#[derive(Debug, Clone, Copy)]
enum Blow {
    /// The member's own host loses its power, and what it had not synchronised.
    Host,
    /// The primary's PostgreSQL, where the data come from.
    Source,
}

/// Waits until a program runs on a host; whether it was seen.
async fn runs(hosts: &Hosts, name: &str, program: &str) -> bool {
    let deadline = Instant::now() + SEEN_WITHIN;
    let is = |process: Process| process.arguments.first().is_some_and(|path| path.ends_with(program));
    while Instant::now() < deadline {
        if hosts.node(name).processes().into_iter().filter_map(Process::read).any(is) {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    false
}

/// Has a member's data made anew or rewound after `trouble`, by `program`, and lets the blow fall while that runs; whether it
/// was in time.
async fn strikes(hosts: &mut Hosts, witness: &Witness, trouble: Trouble, program: &str, blow: Blow, seed: u64) -> bool {
    let before = health::leader(hosts).await;
    let begun = trouble.begin(hosts, seed).await;
    let mut leader = before;
    if !trouble.strikes_replica() {
        witness.writes_again(&format!("{trouble:?}")).await;
        leader = health::leader(hosts).await;
        begun.end(hosts);
    }
    let victim = &begun.victim;
    assert_ne!(*victim, leader);
    let source = postmaster(&hosts.data(&leader));
    let in_time = runs(hosts, victim, program).await;
    match blow {
        _ if !in_time => {}
        Blow::Host => {
            hosts.power_cut(std::slice::from_ref(victim), seed);
            hosts.boot(victim);
        }
        Blow::Source => faults::kill(&[source]),
    }
    witness.writes_again(&format!("{blow:?} died during {program}")).await;
    health::well(hosts, PATIENCE).await;
    in_time
}

async fn struck_while(name: &'static str, trouble: Trouble, program: &str) {
    let plan = Plan { disks: Disks::Faulty, ..Plan::new(name) };
    let Some(mut hosts) = plan.start().await else { return };
    let witness = Witness::attach(&hosts, Probe::Write).await;
    let mut seeds = 1..=6;
    for blow in [Blow::Host, Blow::Source] {
        loop {
            // It may be over before it is looked for.
            let seed =
                seeds.next().unwrap_or_else(|| panic!("{program} was never seen running when {blow:?} was to die"));
            if strikes(&mut hosts, &witness, trouble, program, blow, seed).await {
                eprintln!("{blow:?} died while {program} ran (seed {seed})");
                break;
            }
        }
    }
    witness.conclude(&hosts).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_host_and_the_source_die_during_a_clone() {
    struck_while("die-clone", Trouble::ReplicaDeleted, "pg_basebackup").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_host_and_the_source_die_during_a_rewind() {
    struck_while("die-rewind", Trouble::PrimaryNodeKilled, "pg_rewind").await;
}
