//! The searches that docs/model.md tells of, one after the other, as rows of its table. `--states N` generated at most in each;
//! `--only TEXT`: those whose arguments contain it.

use matriarch_model::model::search;

#[path = "options/mod.rs"]
mod options;

/// Arguments of each; what is not named does not happen.
const SEARCHES: [&str; 26] = [
    "--writes 1 --cuts 1",
    "--writes 1 --suspicions 1",
    "--writes 0 --expiries 1",
    "--writes 0 --crashes 1",
    "--writes 0 --expiries 1 --restarts 1",
    "--writes 0 --expiries 1 --cuts 1",
    "--writes 0 --expiries 1 --needed 2",
    "--writes 0 --expiries 1 --voters 1",
    "--writes 1 --expiries 1",
    "--writes 1 --crashes 1",
    "--writes 0 --expiries 1 --crashes 1",
    "--writes 0 --expiries 1 --copies 1",
    "--writes 1 --wipes 1",
    "--writes 1 --expiries 1 --overrides 1",
    "--writes 1 --cuts 1 --relapses 1",
    "--writes 1 --expiries 1 --restores 1",
    "--writes 1 --cuts 1 --delays 1",
    "--writes 0 --expiries 1 --delays 1",
    "--writes 0 --suspicions 1 --delays 1",
    "--writes 0 --expiries 1 --crashes 1 --cuts 1",
    "--writes 0 --expiries 1 --restarts 1 --cuts 1",
    "--members 2 --asynchronous --writes 0 --expiries 1 --delays 1",
    "--members 2 --asynchronous --clocked --writes 1 --expiries 1",
    "--members 2 --asynchronous --clocked --writes 0 --expiries 1 --outages 1",
    "--members 4 --writes 0 --expiries 1",
    "--members 5 --writes 0 --expiries 1 --needed 2",
];

fn main() {
    let asked = options::Options::new();
    let most = asked.number("--states", 20_000_000);
    println!("| bounds | states | depth | | s |\n|---|---|---|---|---|");
    for bounds in
        SEARCHES.iter().filter(|bounds| asked.value("--only").is_none_or(|only| bounds.contains(only.as_str())))
    {
        let began = std::time::Instant::now();
        let outcome = search(&options::Options::of(bounds).setup(), 1000, most, asked.number("--threads", 1));
        if let Some((property, story)) = &outcome.counterexample {
            println!("{}\nbroken: {property}", story.join("\n"));
        }
        let ended = if outcome.finished { "finished" } else { "cut off" };
        let goes_on = if outcome.goes_on { "; a later leader acknowledged" } else { "" };
        let (states, depth, lasted) = (outcome.states, outcome.depth, began.elapsed().as_secs());
        println!("| `{bounds}` | {states} | {depth} | {ended}{goes_on} | {lasted} |");
    }
}
