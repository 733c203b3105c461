//! Searches from the command line: `--members N --depth N --states N --threads N`, `--mutation NAME`, and how often each
//! fault may happen, as in `--writes 2 --expiries 1 --delays 1`.

use matriarch_model::model::search;
use matriarch_model::mutation::MUTATIONS;
use matriarch_model::setup::{Budget, Setup};

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let value = |name: &str| args.iter().position(|arg| arg == name).and_then(|at| args.get(at + 1));
    let number = |name: &str, usual: usize| value(name).map_or(usual, |text| text.parse().expect("a number"));
    let count = |name: &str, usual: u8| u8::try_from(number(name, usual as usize)).expect("a small number");
    let budget = Budget {
        writes: count("--writes", 1),
        expiries: count("--expiries", 1),
        delays: count("--delays", 1),
        renewals: count("--renewals", 0),
        crashes: count("--crashes", 0),
        restarts: count("--restarts", 0),
        wipes: count("--wipes", 0),
        backups: count("--backups", 0),
        copies: count("--copies", 1),
        cuts: count("--cuts", 0),
        suspicions: count("--suspicions", 0),
        stops: count("--stops", 0),
        restores: count("--restores", 0),
        outages: count("--outages", 0),
    };
    let mut setup = Setup::quorum(count("--members", 3), budget);
    if let Some(voters) = value("--voters") {
        setup.voters = voters.split(',').filter(|id| !id.is_empty()).map(|id| id.parse().expect("a number")).collect();
    }
    setup.needed = number("--needed", 1) as u32;
    setup.needed_at_first = number("--needed-at-first", setup.needed as usize) as u32;
    setup.strict = args.iter().any(|arg| arg == "--strict");
    setup.clocked = args.iter().any(|arg| arg == "--clocked");
    setup.mutation = value("--mutation").map(|name| {
        let known = MUTATIONS.into_iter().find(|mutation| format!("{mutation:?}") == *name);
        known.unwrap_or_else(|| panic!("'{name}' is none of {MUTATIONS:?}"))
    });
    if let Some(mutation) = setup.mutation.filter(|_| !args.iter().any(|arg| arg == "--writes")) {
        setup = mutation.shows_in();
    }
    let began = std::time::Instant::now();
    let outcome = search(&setup, number("--depth", 20), number("--states", 1_000_000), number("--threads", 1));
    if let Some((property, story)) = &outcome.counterexample {
        story.iter().for_each(|line| println!("{line}"));
        println!("broken: {property}");
    }
    println!(
        "{} states, depth {}, {}{} ({:.1} s)",
        outcome.states,
        outcome.depth,
        if outcome.finished { "finished" } else { "cut off" },
        if outcome.goes_on { ", a later leader acknowledged" } else { "" },
        began.elapsed().as_secs_f64()
    );
}
