//! Random faults in a row on one cluster, with the ledger and the observer attached from first to last. `make soak` runs
//! many (`MATRIARCH_SOAK_FAULTS`, `MATRIARCH_SOAK_SEED`); a few run with every `make test`.

#[path = "../harness/mod.rs"]
mod harness;
mod table;

use std::time::{Duration, Instant};

use harness::storage::Disks;
use harness::trouble::{endure, possible};
use harness::{Cluster, Fault, Hosts, PATIENCE, Subject, Witness, health, hosts};
use matriarch_testkit::ledger::{Ledger, Options, verify};
use matriarch_testkit::observer::Probe;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

/// The longest that writes may pause after any fault, in seconds. A frozen store costs what it is frozen for, and a lease.
const LONGEST_PAUSE: f64 = 45.0;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// Every fault once in a random order before any comes again, so that a short run meets as many as it can.
fn deck<T: Copy>(all: &[T], random: &mut SmallRng, count: usize) -> Vec<T> {
    let mut faults = Vec::new();
    while faults.len() < count {
        let mut round = all.to_vec();
        round.shuffle(random);
        faults.extend(round);
    }
    faults.truncate(count);
    faults
}

async fn soak(name: &'static str, faults: usize, seed: u64) {
    eprintln!("{faults} faults, MATRIARCH_SOAK_SEED={seed}");
    let mut random = SmallRng::seed_from_u64(seed);
    let cluster = Cluster::start(name).await;
    let witness = Witness::attach(&cluster, Probe::Write).await;
    let begun = Instant::now();
    for (number, fault) in (1..).zip(deck(&Fault::ALL, &mut random, faults)) {
        let struck_at = (begun.elapsed(), witness.now());
        eprintln!("{:8.1} s  fault {number}: {fault:?}", struck_at.0.as_secs_f64());
        let struck = fault.strike(&cluster, random.random()).await;
        let what = format!("fault {number} of {faults} (seed {seed}), {fault:?} of {}", struck.victim);
        witness.writes_again(&what).await;
        struck.replaced();
        health::well(&cluster, PATIENCE).await;
        let gap = witness.longest_pause_since(struck_at.1);
        let (at, took) = (struck_at.0.as_secs_f64(), (begun.elapsed() - struck_at.0).as_secs_f64());
        eprintln!("{at:8.1} s  {what}: writes paused {gap:.2} s, well after {took:.1} s");
        assert!(gap < LONGEST_PAUSE, "{what}: writes paused for {gap:.1} s");
    }
    witness.conclude(&cluster).await;
    health::well(&cluster, PATIENCE).await;
}

/// How long a trouble on hosts lasts, in milliseconds: from one that nobody needs to notice to one longer than any lease.
const LASTS: std::ops::Range<u64> = 200..12_000;

/// Faults of networks, hosts, disks and the store. Each has its own clients and observer, so that the table can say whose
/// fault a lost row was; at the end everything acknowledged from first to last must be there.
async fn soak_on_hosts(mut hosts: Hosts, faults: usize, seed: u64) {
    eprintln!("{faults} faults on hosts, MATRIARCH_SOAK_SEED={seed}");
    let mut random = SmallRng::seed_from_u64(seed);
    let all = possible(&hosts);
    let mut sum = table::Table::new(seed);
    let whole = Ledger::start(Options::new(hosts.writes())).await.expect("the cluster takes writes");
    for (number, trouble) in (1..).zip(deck(&all, &mut random, faults)) {
        let lasts = Duration::from_millis(random.random_range(LASTS));
        eprintln!("fault {number} of {faults}: {trouble:?} for {lasts:?}");
        let witness = Witness::attach(&hosts, Probe::Write).await;
        // Counted as one that needs help until it is over: what does not heal ends the soak with this row in the table.
        let kind = format!("{trouble:?}");
        sum.open(&kind);
        let gap = endure(&mut hosts, &witness, trouble, lasts, random.random()).await;
        let (lost, dual) = witness.count(&hosts).await;
        sum.settle(&kind, table::Outcome { gap, lost, dual, help: false });
    }
    let verdict = verify(&hosts.writes(), &whole.stop().await).await.expect("the primary answers");
    assert!(verdict.is_clean(), "from first to last: {verdict:?}");
    health::well(&hosts, PATIENCE).await;
    assert!(sum.is_clean(), "see the table");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_few_random_faults() {
    let seed = number("MATRIARCH_SOAK_SEED").unwrap_or_else(rand::random);
    soak("short", 6, seed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "minutes to hours: `make soak` runs it, on hosts of namespaces where it may make some, else on one"]
async fn many_random_faults() {
    let faults = number("MATRIARCH_SOAK_FAULTS").unwrap_or(100);
    let seed = number("MATRIARCH_SOAK_SEED").unwrap_or_else(rand::random);
    let faults = usize::try_from(faults).expect("a number of faults");
    let plan = hosts::Plan { disks: Disks::Faulty, ..hosts::Plan::new("soak") };
    match plan.start().await {
        Some(hosts) => soak_on_hosts(hosts, faults, seed).await,
        None => soak("soak", faults, seed).await,
    }
}
