//! Random faults in a row on one cluster, with the ledger and the observer attached from first to last. `make soak` runs
//! many (`MATRIARCH_SOAK_FAULTS`, `MATRIARCH_SOAK_SEED`); a few run with every `make test`.

#[path = "../harness/mod.rs"]
mod harness;

use std::time::Instant;

use harness::{Cluster, Fault, PATIENCE, Witness, health};
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
fn deck(random: &mut SmallRng, count: usize) -> Vec<Fault> {
    let mut faults = Vec::new();
    while faults.len() < count {
        let mut round = Fault::ALL.to_vec();
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
    for (number, fault) in (1..).zip(deck(&mut random, faults)) {
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_few_random_faults() {
    let seed = number("MATRIARCH_SOAK_SEED").unwrap_or_else(rand::random);
    soak("short", 6, seed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "minutes to hours: `make soak` runs it"]
async fn many_random_faults() {
    let faults = number("MATRIARCH_SOAK_FAULTS").unwrap_or(100);
    let seed = number("MATRIARCH_SOAK_SEED").unwrap_or_else(rand::random);
    soak("soak", usize::try_from(faults).expect("a number of faults"), seed).await;
}
