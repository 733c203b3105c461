//! Searches from the command line: `--members N --depth N --states N --threads N`, `--mutation NAME`, and how often each
//! fault may happen, as in `--writes 2 --expiries 1 --delays 1`.

use matriarch_model::model::search;

#[path = "options/mod.rs"]
mod options;

fn main() {
    let options = options::Options::new();
    let began = std::time::Instant::now();
    let states = options.number("--states", 100_000_000);
    let outcome = search(&options.setup(), options.number("--depth", 1000), states, options.number("--threads", 1));
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
