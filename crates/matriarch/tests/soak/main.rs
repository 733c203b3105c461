//! Random faults in a row, under clients that remember every answer. `make soak` runs many (`MATRIARCH_SOAK_FAULTS`,
//! `MATRIARCH_SOAK_SEED`), on several clusters side by side where it may make hosts; a few run with every `make test`.

mod decks;
#[path = "../harness/mod.rs"]
mod harness;
mod saturated;
mod table;

use std::time::{Duration, Instant};

use harness::{Cluster, Fault, PATIENCE, Witness, health};
use matriarch_testkit::lab::Lab;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_few_random_faults_of_one_host() {
    let seed = number("MATRIARCH_SOAK_SEED").unwrap_or_else(rand::random);
    soak("short", 4, seed).await;
}

/// What `make soak` does, with one cluster instead of three: hosts, etcd on three of them, disks that fail and forget.
#[test]
fn a_few_random_faults_of_hosts() {
    if Lab::build().expect("a lab can be built").is_none() {
        return;
    }
    let seed = number("MATRIARCH_SOAK_SEED").unwrap_or_else(rand::random);
    decks::play_on(1, 4, seed);
}

#[test]
#[ignore = "an hour: `make soak` runs it, on hosts of namespaces where it may make some, else on one"]
fn many_random_faults() {
    let faults = number("MATRIARCH_SOAK_FAULTS").unwrap_or(100);
    let seed = number("MATRIARCH_SOAK_SEED").unwrap_or_else(rand::random);
    let faults = usize::try_from(faults).expect("a number of faults");
    if Lab::build().expect("a lab can be built").is_some() {
        return decks::play(faults, seed);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("threads can be had").block_on(soak("soak", faults, seed));
}

/// How long a fault on hosts lasts: mostly a moment, now and then longer than any lease.
fn lasts(random: &mut SmallRng) -> Duration {
    let range = match random.random_range(0..10) {
        0..=5 => 200..2_000,
        6..=7 => 2_000..6_000,
        _ => 6_000..12_000,
    };
    Duration::from_millis(random.random_range(range))
}
