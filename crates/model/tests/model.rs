//! Searches that fit into a test run: the rules hold, and each of them is needed. Longer ones by hand, see docs/model.md.

use std::sync::atomic::{AtomicUsize, Ordering};

use matriarch_model::model::{Outcome, search};
use matriarch_model::mutation::MUTATIONS;
use matriarch_model::setup::{Budget, Setup};

/// Steps generated, at most, before a search is cut off.
const STATES: usize = 250_000;
/// The same for a mutation that has to be found.
const PATIENCE: usize = 10_000_000;
const DEPTH: usize = 200;

fn holds(setup: &Setup) -> Outcome {
    holds_for(setup, STATES)
}

fn holds_for(setup: &Setup, states: usize) -> Outcome {
    let outcome = search(setup, DEPTH, states, 1);
    if let Some((property, story)) = &outcome.counterexample {
        panic!("{}\nbroken: {property}\n{setup:?}", story.join("\n"));
    }
    println!(
        "{} states, depth {}, {}: {:?}",
        outcome.states,
        outcome.depth,
        if outcome.finished { "finished" } else { "cut off" },
        setup.budget
    );
    outcome
}

/// Every state within these bounds.
fn holds_throughout(setup: &Setup) -> Outcome {
    let outcome = holds_for(setup, PATIENCE);
    assert!(outcome.finished, "cut off at {} states, depth {}: {:?}", outcome.states, outcome.depth, setup.budget);
    outcome
}

/// One commit, and one copy of a data directory.
fn write() -> Budget {
    Budget { writes: 1, copies: 1, ..Budget::default() }
}

#[test]
fn leaders_that_lose_their_lease_lose_nothing() {
    holds_throughout(&Setup::quorum(3, Budget { expiries: 1, ..Budget::default() }));
    holds_throughout(&Setup::quorum(3, Budget { suspicions: 1, writes: 1, ..Budget::default() }));
    assert!(holds_for(&Setup::quorum(3, Budget { expiries: 1, ..write() }), 1_000_000).goes_on);
    holds(&Setup::quorum(3, Budget { expiries: 2, delays: 1, ..write() }));
}

/// They go on when their agent has given up on them, or has lost the lead.
#[test]
fn promotions_open_the_numbers_reserved_when_they_began() {
    let budget = Budget { expiries: 2, delays: 1, ..Budget::default() };
    holds(&Setup { needed: 2, needed_at_first: 2, ..Setup::quorum(3, budget) });
    let budget = Budget { expiries: 1, delays: 1, ..Budget::default() };
    let pair = Setup { voters: Vec::new(), needed: 0, needed_at_first: 0, ..Setup::quorum(2, budget) };
    holds_throughout(&pair);
}

#[test]
fn rules_that_change_meet_each_other() {
    holds_throughout(&Setup::quorum(3, Budget { cuts: 1, copies: 0, ..write() }));
    holds(&Setup::quorum(3, Budget { cuts: 1, delays: 1, ..write() }));
    holds(&Setup { voters: vec![1], ..Setup::quorum(3, Budget { delays: 1, expiries: 1, ..write() }) });
    holds(&Setup { needed: 2, ..Setup::quorum(4, Budget { cuts: 1, ..write() }) });
}

#[test]
fn crashes_and_restarts_between_any_two_steps_lose_nothing() {
    holds_throughout(&Setup::quorum(3, Budget { crashes: 1, ..Budget::default() }));
    holds(&Setup::quorum(3, Budget { crashes: 1, restarts: 1, delays: 1, ..write() }));
    holds(&Setup::quorum(3, Budget { stops: 1, cuts: 1, restarts: 1, ..write() }));
}

#[test]
fn data_that_is_lost_or_old_vouches_for_nothing() {
    holds(&Setup::quorum(3, Budget { wipes: 1, expiries: 1, ..write() }));
    holds(&Setup::quorum(3, Budget { backups: 1, expiries: 1, ..write() }));
}

#[test]
fn leases_keep_two_leaders_apart_where_nothing_else_does() {
    holds(&Setup::asynchronous(Budget { expiries: 1, renewals: 1, delays: 1, ..write() }));
    holds_for(&Setup::asynchronous(Budget { expiries: 1, copies: 0, ..write() }), 500_000);
    holds(&Setup { members: 3, ..Setup::asynchronous(Budget { outages: 1, expiries: 1, ..write() }) });
}

/// What was acknowledged is on the last leader's disk, which may vote; a member that has to change its data asks first.
#[test]
fn strict_rules_count_on_the_last_leader_too() {
    let pair = |budget| Setup { strict: true, ..Setup::quorum(2, budget) };
    holds_throughout(&pair(Budget { crashes: 1, wipes: 1, ..write() }));
    holds(&pair(Budget { writes: 2, expiries: 1, crashes: 1, ..Budget::default() }));
}

#[test]
fn a_person_gives_up_only_what_nobody_there_holds() {
    holds(&Setup::quorum(3, Budget { overrides: 1, expiries: 1, wipes: 2, ..write() }));
}

#[test]
fn watches_that_go_back_show_nothing_that_is_acted_on() {
    holds(&Setup::quorum(3, Budget { relapses: 1, cuts: 1, ..write() }));
    holds(&Setup::quorum(3, Budget { relapses: 1, expiries: 1, ..write() }));
}

#[test]
fn stores_that_go_back_are_noticed_by_those_who_have_seen_more() {
    holds(&Setup::quorum(3, Budget { restores: 1, suspicions: 1, ..write() }));
    holds_for(&Setup::quorum(3, Budget { restores: 1, expiries: 1, copies: 0, ..write() }), 1_200_000);
}

#[test]
fn five_members_as_far_as_it_goes() {
    holds(&Setup { needed: 2, ..Setup::quorum(5, Budget { expiries: 1, ..write() }) });
}

/// Each search is run without the mutation as well: what it finds is due to that alone.
#[test]
fn every_rule_is_needed() {
    let next = AtomicUsize::new(0);
    let workers = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(mutation) = MUTATIONS.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let found = search(&mutation.shows_in(), DEPTH, PATIENCE, 1);
                    let (property, story) = found.counterexample.unwrap_or_else(|| {
                        panic!("{mutation:?} survived {} states, depth {}", found.states, found.depth)
                    });
                    println!("{mutation:?}: {} states, depth {}: not '{property}'", found.states, found.depth);
                    assert!(story.iter().any(|line| line.contains("***")), "a story tells what is wrong");
                    holds_for(&Setup { mutation: None, ..mutation.shows_in() }, found.generated);
                }
            });
        }
    });
}
