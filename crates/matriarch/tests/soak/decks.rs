//! A soak on hosts: several clusters side by side, each with its own hosts, store and share of the faults, and one table.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use matriarch_testkit::lab::Clock;
use matriarch_testkit::ledger::{Ledger, Options, verify};
use matriarch_testkit::observer::Probe;
use matriarch_testkit::postgres;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::harness::hosts::Plan;
use crate::harness::storage::Disks;
use crate::harness::trouble::{Stopwatch, Trouble, endure, possible};
use crate::harness::witness::{Count, Pace};
use crate::harness::{Hosts, PATIENCE, Subject, Witness, health};
use crate::table::{Outcome, Table};
use crate::{deck, lasts, number};

/// Clusters side by side.
const DECKS: u64 = 3;
/// Faults of one deck that may need help before it is given up: each costs a new cluster.
const HELPLESS: usize = 10;

/// One fault to come.
#[derive(Debug, Clone, Copy)]
struct Blow {
    trouble: Trouble,
    lasts: Duration,
    seed: u64,
}

/// What all decks write to.
struct Course {
    table: Mutex<Table>,
}

impl Course {
    fn table(&self) -> std::sync::MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Plays all faults on as many clusters as `MATRIARCH_SOAK_DECKS` says, three by default.
///
/// # Panics
/// When anything was lost, a read was too old, two members took writes at one time, or somebody would have had to help.
pub fn play(faults: usize, seed: u64) {
    let decks = usize::try_from(number("MATRIARCH_SOAK_DECKS").unwrap_or(DECKS)).expect("a number of clusters");
    play_on(decks, faults, seed);
}

/// The same on so many clusters.
///
/// # Panics
/// As [`play`] does.
pub fn play_on(decks: usize, faults: usize, seed: u64) {
    let decks = decks.clamp(1, faults.max(1));
    eprintln!("{faults} faults on hosts, {decks} clusters side by side, MATRIARCH_SOAK_SEED={seed}");
    let course = Arc::new(Course { table: Mutex::new(Table::new(seed, faults)) });
    let threads: Vec<_> = (0..decks)
        .map(|index| {
            let share = faults / decks + usize::from(index < faults % decks);
            let course = course.clone();
            std::thread::spawn(move || play_deck(&course, index, share, seed.wrapping_add(index as u64)))
        })
        .collect();
    for thread in threads {
        // What it has not noted in the table is noted by what is left of its share.
        let _ = thread.join();
    }
    let table = course.table();
    assert_eq!(table.settled(), faults, "faults that were not played");
    assert!(table.is_clean(), "see the table");
}

/// The deck's kind of cluster: majors of PostgreSQL in turn, hosts that were booted at different times, disks that forget.
fn plan(index: usize) -> Plan {
    let majors = postgres::all_majors();
    // The oldest and the newest first.
    let major = if index.is_multiple_of(2) { &majors[index / 2 % majors.len()] } else { &majors[majors.len() - 1] };
    let clock = |offset: i64| Clock { boot: offset, monotonic: offset };
    let clocks = if index.is_multiple_of(2) { Vec::new() } else { vec![clock(0), clock(90_000), clock(5_000_000)] };
    let name = ["soak-0", "soak-1", "soak-2", "soak-3"][index % 4];
    Plan { bins: major.bins.clone(), clocks, disks: Disks::Faulty, crowded: true, ..Plan::new(name) }
}

fn play_deck(course: &Course, index: usize, share: usize, seed: u64) {
    let mut random = SmallRng::seed_from_u64(seed);
    let mut blows: Option<std::vec::IntoIter<Blow>> = None;
    for _ in 0..HELPLESS {
        let played = catch_unwind(AssertUnwindSafe(|| {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
            runtime.expect("threads can be had").block_on(async {
                let mut hosts = plan(index).start().await.expect("a lab can be built");
                let blows = blows.get_or_insert_with(|| draw(&hosts, &mut random, share).into_iter());
                play_cluster(course, index, &mut hosts, blows).await;
            });
        }));
        if played.is_ok() {
            return;
        }
        eprintln!("deck {index} goes on with another cluster");
    }
}

fn draw(hosts: &Hosts, random: &mut SmallRng, share: usize) -> Vec<Blow> {
    let all = possible(hosts);
    let troubles = deck(&all, random, share);
    troubles.into_iter().map(|trouble| Blow { trouble, lasts: lasts(random), seed: random.random() }).collect()
}

/// Each fault has its own clients and observer, so that the table can say whose fault a lost row was; at the end everything
/// acknowledged from first to last must be there.
async fn play_cluster(course: &Course, index: usize, hosts: &mut Hosts, blows: &mut impl Iterator<Item = Blow>) {
    let slowly = Options { every: Duration::from_millis(100), ..Options::new(hosts.writes()) };
    let whole = Ledger::start(slowly).await.expect("the cluster takes writes");
    for Blow { trouble, lasts, seed } in blows {
        let kind = format!("{trouble:?}");
        // Counted as one that needs help until it is over.
        let number = course.table().open(&kind);
        eprintln!("fault {number}, deck {index}: {kind} for {lasts:?}");
        let mut watch = Stopwatch::default();
        let witness = Witness::at_pace(hosts, Probe::Write, Pace::easy()).await;
        watch.lap("attach");
        let endured = endure(hosts, &witness, trouble, lasts, seed).await;
        watch.lap("endure");
        let Count { wrong: lost, dual, old_reads, oldest } = witness.count(hosts).await;
        watch.lap("count");
        let steps = [&watch.laps[..1], &endured.steps, &watch.laps[2..]].concat();
        let (gap, called_off) = (endured.gap, endured.called_off);
        let outcome = Outcome { gap, lost, dual, old_reads, oldest, called_off, help: false, steps };
        course.table().settle(number, index, &endured.victim, outcome);
    }
    let verdict = verify(&hosts.writes(), &whole.stop().await).await.expect("the primary answers");
    if !verdict.is_clean() {
        course.table().blame("from first to last", verdict.lost.len() + verdict.duplicates.len());
    }
    health::well(hosts, PATIENCE).await;
}
