//! Where the states of a search come from: how many different values each part of a state has, and which steps lead to new
//! states. The arguments are those of the other example.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

use matriarch_model::setup::Setup;
use matriarch_model::state::State;
use stateright::Model;

#[path = "options/mod.rs"]
mod options;

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// Parts of a state, by name.
fn parts(state: &State) -> Vec<(String, u64)> {
    let mut parts = vec![
        ("records".to_owned(), hash(&state.records)),
        ("flight".to_owned(), hash(&state.flight)),
        ("ledger".to_owned(), hash(&state.ledger)),
        ("left".to_owned(), hash(&state.left)),
    ];
    for (member, name) in state.members.iter().zip(["a", "b", "c", "d", "e"]) {
        let mut add = |part: &str, value| parts.push((format!("{name}.{part}"), value));
        add("(all)", hash(member));
        add("memory", hash(&member.memory));
        add("memory.pledging", hash(&member.memory.pledging));
        add("memory.barrier", hash(&member.memory.barrier));
        add("memory.proposed", hash(&(&member.memory.proposed, &member.memory.announced)));
        add("memory.failures", hash(&(&member.memory.failures, &member.memory.remedy, &member.memory.rewound)));
        add("view", hash(&member.view));
        add("lease", hash(&(&member.lease, &member.maybe)));
        add("busy", hash(&(&member.busy, &member.source)));
        add("finished", hash(&member.finished));
        add("timed", hash(&member.timed));
        add("newest", hash(&member.newest));
        add("dir", hash(&member.dir));
        add("file", hash(&member.file));
        add("pg", hash(&member.pg));
        add("pg.senders", hash(&member.pg.senders));
        add("pg.receiver", hash(&member.pg.receiver));
        add("pg.loaded", hash(&member.pg.loaded));
    }
    parts
}

fn census(setup: &Setup, most: usize) {
    let mut seen = HashSet::new();
    let mut values: BTreeMap<String, HashSet<u64>> = BTreeMap::new();
    let mut steps: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    let mut pending: VecDeque<State> = setup.init_states().into();
    while let Some(state) = pending.pop_front().filter(|_| seen.len() < most) {
        for (part, value) in parts(&state) {
            values.entry(part).or_default().insert(value);
        }
        let mut possible = Vec::new();
        setup.actions(&state, &mut possible);
        for step in possible {
            let kind = format!("{step:?}").split('(').next().unwrap_or_default().to_owned();
            let Some(next) = setup.next_state(&state, step) else { continue };
            let (taken, new) = steps.entry(kind).or_default();
            *taken += 1;
            if seen.insert(hash(&next)) {
                *new += 1;
                pending.push_back(next);
            }
        }
    }
    println!("{} states, {} not looked at", seen.len(), pending.len());
    values.iter().for_each(|(part, values)| println!("{:9} {part}", values.len()));
    steps.iter().for_each(|(step, (taken, new))| println!("{taken:9} taken, {new:9} new: {step}"));
}

fn main() {
    let options = options::Options::new();
    census(&options.setup(), options.number("--states", 1_000_000));
}
