//! Random schedules against the invariants: hundreds of every kind in a test run, more with `MATRIARCH_SIM_SEEDS`.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use matriarch_sim::mutation::{MUTATIONS, Mutation};
use matriarch_sim::schedule::{DIRECTED, Outcome, PROFILES, Profile, run};

/// Seeds that once failed, replayed before anything else: profile and seed a line.
const KNOWN: &str = include_str!("../testdata/seeds.txt");

/// Seeds of each profile that are played again to see whether they come out alike.
const SAME_SEEDS: u64 = 5;

/// Schedules per profile, unless the environment asks for more.
fn seeds() -> u64 {
    std::env::var("MATRIARCH_SIM_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(300)
}

/// Runs a seed and tells its story when something is wrong.
fn must_hold(seed: u64, profile: Profile) -> Outcome {
    let outcome = run(seed, profile, None, false);
    if let Some(violation) = &outcome.violation {
        let told = run(seed, profile, None, true);
        let from = told.lines.len().saturating_sub(120);
        let story = told.lines[from..].join("\n");
        panic!(
            "{story}\n\nseed {seed} of profile {profile}: {violation}\n\
             replay: cargo run -p matriarch-sim --example sim -- --profile {profile} --trace {seed}\n\
             once mended, add '{profile} {seed}' to crates/sim/testdata/seeds.txt"
        );
    }
    outcome
}

/// Runs `count` seeds on every core; stops at the first failure.
fn all_hold(profile: Profile, count: u64) {
    let next = AtomicU64::new(0);
    let acknowledged = AtomicU64::new(0);
    let workers = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= count {
                        return;
                    }
                    acknowledged.fetch_add(must_hold(seed, profile).acknowledged, Ordering::Relaxed);
                }
            });
        }
    });
    assert!(acknowledged.into_inner() > 100 * count, "{profile}: clients hardly ever wrote");
}

#[test]
fn seeds_that_failed_once_hold() {
    for (number, line) in KNOWN.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        let (profile, seed) = line.split_once(' ').unwrap_or_else(|| panic!("seeds.txt line {}: '{line}'", number + 1));
        must_hold(seed.trim().parse().expect("a seed is a number"), profile.parse().expect("a known profile"));
    }
}

#[test]
fn one_fault_at_a_time_heals_by_itself() {
    all_hold(Profile::Single, 2 * seeds());
}

#[test]
fn overlapping_faults_lose_nothing() {
    all_hold(Profile::Overlapping, seeds());
}

#[test]
fn leaders_that_die_in_a_row_lose_nothing() {
    all_hold(Profile::Cascade, seeds());
}

#[test]
fn leaders_that_freeze_and_wake_lose_nothing() {
    all_hold(Profile::Freezing, seeds());
}

#[test]
fn data_directories_that_are_lost_or_restored_lose_nothing_else() {
    all_hold(Profile::DataLoss, seeds());
}

#[test]
fn storms_of_faults_lose_nothing_and_heal() {
    all_hold(Profile::Storm, seeds());
}

#[test]
fn members_struck_at_any_of_their_steps_heal() {
    all_hold(Profile::Steps, 2 * seeds());
}

#[test]
fn paused_clusters_heal_afterwards() {
    all_hold(Profile::Paused, seeds());
}

#[test]
fn the_fence_alone_is_enough() {
    all_hold(Profile::Unguarded, seeds());
}

#[test]
fn suspected_leaders_lose_nothing_alive_or_dead() {
    all_hold(Profile::Suspicion, 2 * seeds());
}

#[test]
fn rules_that_change_over_a_bad_store_lose_nothing() {
    all_hold(Profile::RuleChanges, seeds());
}

#[test]
fn outages_of_the_store_lose_nothing_and_move_no_lead_alone() {
    all_hold(Profile::Outage, seeds());
}

#[test]
fn a_store_that_went_back_in_time_decides_nothing() {
    all_hold(Profile::StoreLoss, seeds());
}

#[test]
fn clocks_that_differ_and_machines_that_sleep_lose_nothing() {
    all_hold(Profile::Clocks, seeds());
}

#[test]
fn volumes_that_hang_fill_and_fail_lose_nothing() {
    all_hold(Profile::Gray, seeds());
}

#[test]
fn schedules_that_lead_to_one_place_lose_nothing() {
    for profile in DIRECTED {
        all_hold(profile, seeds() / 3);
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for profile in PROFILES.into_iter().chain(DIRECTED) {
        // Without the line that names the seed.
        let mut stories = BTreeSet::new();
        for seed in 0..SAME_SEEDS {
            let (one, two) = (run(seed, profile, None, true), run(seed, profile, None, true));
            assert_eq!((one.hash, &one.lines), (two.hash, &two.lines), "{profile} {seed}");
            let untold = run(seed, profile, None, false);
            let figures = |outcome: &Outcome| (outcome.time, outcome.acknowledged, outcome.violation.clone());
            assert_eq!(figures(&one), figures(&untold), "telling changed {profile} {seed}");
            stories.insert(one.lines[1..].to_vec());
        }
        assert_eq!(stories.len() as u64, SAME_SEEDS, "{profile}: other seeds, other runs");
    }
}

/// The first seed that notices a bug.
fn caught(mutation: Mutation, limit: u64) -> Option<(u64, String)> {
    (0..limit).find_map(|seed| {
        // Only what breaks safety proves that the invariants bite.
        let violation = run(seed, mutation.shows_in(), Some(mutation), false).violation?;
        (!violation.contains(" ms after ")).then_some((seed, violation))
    })
}

#[test]
fn bugs_put_in_on_purpose_are_noticed() {
    let next = AtomicUsize::new(0);
    let workers = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(mutation) = MUTATIONS.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let (seed, violation) =
                        caught(*mutation, 3000).unwrap_or_else(|| panic!("{mutation:?} was not noticed"));
                    println!("{mutation:?}: noticed by {} {seed}: {violation}", mutation.shows_in());
                }
            });
        }
    });
}
