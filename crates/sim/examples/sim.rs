//! Runs random schedules from the command line: `--seeds N --from S`, or `--trace SEED [--profile NAME]`; with
//! `--mutation NAME`, a bug is put in.

use matriarch_sim::mutation::MUTATIONS;
use matriarch_sim::schedule::{Profile, run};

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let value = |name: &str| args.iter().position(|arg| arg == name).and_then(|at| args.get(at + 1));
    let number = |name: &str| value(name).map(|text| text.parse::<u64>().expect("a number"));
    let profile = value("--profile").map_or(Profile::Single, |name| name.parse().expect("a profile"));
    let mutation = value("--mutation").map(|name| {
        let known = MUTATIONS.into_iter().find(|mutation| format!("{mutation:?}") == *name);
        known.unwrap_or_else(|| panic!("'{name}' is none of {MUTATIONS:?}"))
    });
    if let Some(seed) = number("--trace") {
        let outcome = run(seed, profile, mutation, true);
        outcome.lines.iter().for_each(|line| println!("{line}"));
        println!("{:?}", outcome.violation);
        return;
    }
    let (from, seeds) = (number("--from").unwrap_or(0), number("--seeds").unwrap_or(1000));
    let (mut failed, mut time, mut acknowledged) = (0, 0, 0);
    for seed in from..from + seeds {
        let outcome = run(seed, profile, mutation, false);
        time += outcome.time;
        acknowledged += outcome.acknowledged;
        if let Some(violation) = outcome.violation {
            failed += 1;
            println!("seed {seed}: {violation}");
        }
    }
    println!("{seeds} schedules, {failed} failed, {} s of virtual time, {acknowledged} commits", time / 1000);
}
