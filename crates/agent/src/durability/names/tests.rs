use super::*;

use proptest::prelude::*;

const RULE: &str = r#"ANY 1 ("b:01234567", "c:89abcdef")"#;

fn named(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| format!("{PREFIX}{name}")).collect()
}

#[test]
fn a_rule_comes_out_as_it_went_in() {
    let rules = ["", RULE, r#"FIRST 2 ("c-1:89abcdef", "b:01234567")"#, r#"ANY 1 ("nobody:00000000")"#];
    for rule in rules {
        for names in [vec![], named(&["x"]), named(&["x", "y", "z"]), nobodies(2)] {
            let text = with_tails(rule, &names);
            assert_eq!((super::rule(&text).as_str(), tails(&text)), (rule, names), "{text}");
        }
    }
    assert_eq!(with_tails("", &named(&["x"])), r#"ANY 1 ("matriarch_tail@x")"#);
    let text = r#"ANY 3 ("matriarch_tail@x", "matriarch_tail@y", "b:01234567", "c:89abcdef")"#;
    assert_eq!(with_tails(RULE, &named(&["x", "y"])), text);
    // Not of our making.
    for text in ["*", "b", "ANY 1 (b)", "2 (\"b\")", "ANY x (\"b\")"] {
        assert_eq!((super::rule(text).as_str(), tails(text)), (text, vec![]));
        assert_eq!(with_tails(text, &named(&["x"])), text);
    }
    assert!(is_tail(&fresh()) && fresh() != fresh() && fresh().len() < 64);
    assert!(!is_tail(&nobodies(1)[0]) && !is_tail("matriarch_tail"));
}

#[test]
fn voters_alone_are_never_enough() {
    for (rule, members, weight) in [
        ("", 2, 1),
        (RULE, 0, 2),
        (RULE, 2, 2),
        (RULE, 4, 4),
        (r#"ANY 2 ("b:01234567")"#, 1, 1),
        (r#"ANY 2 ("b:01234567", "c:89abcdef")"#, 2, 1),
    ] {
        assert_eq!(super::weight(rule, members), weight, "{rule} {members}");
    }
}

#[test]
fn comes_in_and_goes_out_over_the_names_of_nobody() {
    let (none, one, two): (Vec<String>, _, _) = (vec![], named(&["x"]), named(&["x", "y"]));
    let set = |names: &[String]| names.iter().cloned().collect::<BTreeSet<_>>();
    let quiet = BTreeSet::new();
    assert_eq!(step(&none, &two, &quiet, false), nobodies(2));
    assert_eq!(step(&nobodies(2), &two, &quiet, false), two);
    assert_eq!(step(&two, &none, &set(&two), false), nobodies(2));
    assert_eq!(step(&nobodies(2), &none, &set(&one), false), nobodies(2), "one of them is still marked");
    assert_eq!(step(&nobodies(2), &none, &quiet, false), none);
    assert_eq!(step(&two, &none, &quiet, false), none, "their connections have ended");
    assert_eq!(step(&two, &named(&["v", "w"]), &quiet, false), named(&["v", "w"]));
    assert_eq!(step(&two, &named(&["x", "w"]), &set(&one), false), named(&["x", "w"]));
    assert_eq!(step(&two, &named(&["x", "w"]), &set(&two), false), nobodies(2));
    assert_eq!(step(&one, &two, &set(&one), false), nobodies(2));
    assert_eq!(step(&none, &one, &quiet, true), one, "nothing can be weakened");
    assert_eq!(step(&one, &nobodies(1), &set(&one), false), nobodies(1));
}

/// A process of PostgreSQL: what it has loaded, by its place in the list of all values so far.
#[derive(Clone, Debug)]
struct Process {
    loaded: usize,
}

proptest! {
    /// Whatever is wanted, whoever comes and goes, and in whatever order processes load each step: whoever releases a commit by the
    /// number that it has loaded counts at least one voter.
    #[test]
    fn no_step_weakens_the_rule(
        wishes in proptest::collection::vec((0_usize..4, any::<bool>(), any::<u8>()), 1..12),
        moves in proptest::collection::vec(0_usize..64, 1..200),
    ) {
        // Two voters, whose processes come first, and every connection of a tail there ever was.
        let mut values: Vec<Vec<String>> = vec![vec![]];
        let mut voters = [Process { loaded: 0 }, Process { loaded: 0 }];
        let mut connections: Vec<(String, Process)> = Vec::new();
        let mut moves = moves.into_iter().cycle();
        let mut made = 0;
        for (count, real, ended) in wishes {
            // Some connections end, and new ones load what is there.
            let mut bit = 0;
            connections.retain(|_| { bit += 1; (ended >> (bit % 8)) & 1 == 0 });
            let wanted: Vec<String> = if real {
                while connections.len() < count {
                    made += 1;
                    connections.push((format!("{PREFIX}{made}"), Process { loaded: values.len() - 1 }));
                }
                connections.iter().take(count).map(|(name, _)| name.clone()).collect()
            } else if count % 2 == 0 { vec![] } else { nobodies(count) };
            for _ in 0..4 {
                // All have loaded the newest, as after the margin; then what is marked is what they say.
                let newest = values.len() - 1;
                voters.iter_mut().for_each(|process| process.loaded = newest);
                connections.iter_mut().for_each(|(_, process)| process.loaded = newest);
                let marked = connections.iter().filter(|(name, process)| values[process.loaded].contains(name));
                let marked = marked.map(|(name, _)| name.clone()).collect();
                let next = step(&values[newest], &wanted, &marked, false);
                values.push(next);
                // They load it one by one.
                for _ in 0..6 {
                    let newest = values.len() - 1;
                    let all = voters.iter_mut().chain(connections.iter_mut().map(|(_, process)| process));
                    let all: Vec<&mut Process> = all.collect();
                    let chosen = moves.next().unwrap() % all.len();
                    for (index, process) in all.into_iter().enumerate() {
                        if index == chosen { process.loaded = newest; }
                    }
                    let marked = connections.iter().filter(|(name, process)| values[process.loaded].contains(name)).count();
                    let everyone = voters.iter().chain(connections.iter().map(|(_, process)| process));
                    for process in everyone {
                        let number = 1 + values[process.loaded].len();
                        prop_assert!(marked < number, "{marked} connections are enough for {number}: {values:?}");
                    }
                }
            }
            let newest = values.len() - 1;
            voters.iter_mut().for_each(|process| process.loaded = newest);
            connections.iter_mut().for_each(|(_, process)| process.loaded = newest);
            prop_assert_eq!(&values[newest], &wanted);
        }
    }
}
