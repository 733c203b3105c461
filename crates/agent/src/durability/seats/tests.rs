use super::*;

const TERMS: Terms = Terms { durability: Durability::Preferred, limit: 3_000, weight: 2, repositories: 1 };
const REQUIRED: Terms = Terms { durability: Durability::Required, ..TERMS };

fn row(name: &str, state: &str, flush: u64) -> ReplicationRow {
    ReplicationRow {
        application_name: name.into(),
        client_addr: None,
        state: Some(state.into()),
        sync_state: Some("async".into()),
        sent_lsn: None,
        write_lsn: None,
        flush_lsn: Some(Lsn(flush)),
        replay_lsn: None,
        replay_lag: None,
    }
}

fn tail(names: &[&str]) -> Tail {
    let names = names.iter().map(|name| (*name).to_owned()).collect();
    Tail { repository: "/a".into(), names, begun: Some(Lsn(1 << 24)), trouble: None }
}

const FLUSHED: Lsn = Lsn((1 << 24) + 100);

fn seen<'a>(now: Millis, rows: &'a [ReplicationRow], tails: &'a [Tail]) -> Seen<'a> {
    Seen { now, flushed: FLUSHED, rows, safe: Some(Lsn(1 << 24)), tails, loaded: &[] }
}

fn rows(names: &[&str], flush: u64) -> Vec<ReplicationRow> {
    names.iter().map(|name| row(name, "streaming", flush)).collect()
}

const NONE: &[String] = &[];

#[test]
fn only_a_whole_and_level_tail_is_waited_for() {
    let level = rows(&["x", "y"], FLUSHED.0);
    let ready = [tail(&["x", "y"])];
    assert_eq!(Seats::default().look(&TERMS, &seen(0, &level, &ready)), ["x", "y"]);
    let fewer = [tail(&["x"])];
    assert_eq!(Seats::default().look(&TERMS, &seen(0, &level, &fewer)), NONE);
    assert_eq!(Seats::default().look(&TERMS, &seen(0, &rows(&["x"], FLUSHED.0), &ready)), NONE);
    let catching_up = [row("x", "streaming", FLUSHED.0), row("y", "catchup", FLUSHED.0)];
    assert_eq!(Seats::default().look(&TERMS, &seen(0, &catching_up, &ready)), NONE);
    // WAL of before its beginning waits to be archived, or nobody knows.
    for safe in [None, Some(Lsn(0))] {
        assert_eq!(Seats::default().look(&TERMS, &Seen { safe, ..seen(0, &level, &ready) }), NONE);
    }
    let far = Seen { flushed: Lsn(FLUSHED.0 + NEAR + 1), ..seen(0, &level, &ready) };
    let mut seats = Seats::default();
    assert_eq!(seats.look(&TERMS, &far), NONE);
    assert!(seats.trouble(&TERMS, &far).unwrap().contains("/a: its tail is not level"));
    let ill = [Tail { trouble: Some("no room".into()), ..tail(&["x", "y"]) }];
    assert_eq!(Seats::default().look(&TERMS, &seen(0, &level, &ill)), NONE);
    let mut off = Seats::default();
    off.look(&TERMS, &seen(0, &level, &ready));
    assert_eq!(off.look(&Terms { durability: Durability::None, ..TERMS }, &seen(1, &level, &ready)), NONE);
}

#[test]
fn one_that_does_not_answer_is_done_without_until_it_has_caught_up() {
    let ready = [tail(&["x", "y"])];
    let mut seats = Seats::default();
    let level = rows(&["x", "y"], FLUSHED.0);
    seats.look(&TERMS, &seen(0, &level, &ready));
    let stands = |now| Seen { flushed: Lsn(FLUSHED.0 + 8), ..seen(now, &level, &ready) };
    assert_eq!(seats.look(&TERMS, &seen(60_000, &level, &ready)), ["x", "y"], "nothing was written");
    assert_eq!(seats.look(&TERMS, &stands(60_100)), ["x", "y"]);
    assert_eq!(seats.look(&TERMS, &stands(63_099)), ["x", "y"]);
    assert_eq!(seats.look(&TERMS, &stands(63_100)), NONE);
    assert!(seats.trouble(&TERMS, &stands(63_100)).unwrap().contains("did not answer in time"));
    assert_eq!(seats.look(&TERMS, &stands(90_000)), NONE, "still nothing has come there");
    let moved = rows(&["x", "y"], FLUSHED.0 + 8);
    let back = |now| Seen { flushed: Lsn(FLUSHED.0 + 8), ..seen(now, &moved, &ready) };
    assert_eq!(seats.look(&TERMS, &back(90_001)), ["x", "y"]);
    assert_eq!((seats.trouble(&TERMS, &back(90_001)), seats.repositories().collect()), (None, vec!["/a"]));

    // One whose connections are gone is as good as one that does not answer; new ones take their place.
    let again = [tail(&["v", "w"])];
    assert_eq!(seats.look(&TERMS, &Seen { tails: &[], ..back(91_000) }), ["x", "y"]);
    let others = rows(&["v", "w"], FLUSHED.0 + 8);
    let back = |now| Seen { flushed: Lsn(FLUSHED.0 + 8), ..seen(now, &others, &again) };
    assert_eq!(seats.look(&TERMS, &back(92_000)), ["v", "w"]);
    assert_eq!(seats.look(&TERMS, &Seen { tails: &[], ..back(93_000) }), ["v", "w"]);
    assert_eq!(seats.look(&TERMS, &Seen { tails: &[], ..back(96_000) }), NONE);
    assert_eq!(seats.look(&TERMS, &back(98_000)), NONE, "not at once");
    assert_eq!(seats.look(&TERMS, &back(99_000)), ["v", "w"]);
    // More voters, more connections.
    let more = [tail(&["v", "w", "z"])];
    let three = rows(&["v", "w", "z"], FLUSHED.0 + 8);
    let terms = Terms { weight: 3, ..TERMS };
    assert_eq!(seats.look(&terms, &back(99_001)), ["v", "w"]);
    assert_eq!(seats.look(&terms, &Seen { rows: &three, tails: &more, ..back(99_002) }), ["v", "w", "z"]);
    assert_eq!(seats.look(&TERMS, &Seen { rows: &three, tails: &more, ..back(99_003) }), ["v", "w", "z"]);
}

#[test]
fn what_is_required_is_waited_for_whatever_it_takes() {
    let level = rows(&["x", "y"], FLUSHED.0);
    let mut seats = Seats::default();
    assert_eq!(seats.look(&REQUIRED, &seen(0, &level, &[])), nobodies(2));
    assert!(seats.trouble(&REQUIRED, &seen(0, &level, &[])).unwrap().contains("not open"));
    let ready = [tail(&["x", "y"])];
    assert_eq!(seats.look(&REQUIRED, &seen(1, &level, &ready)), ["x", "y"]);
    let stands = |now| Seen { flushed: Lsn(FLUSHED.0 + 8), ..seen(now, &level, &ready) };
    assert_eq!(seats.look(&REQUIRED, &stands(60_000)), ["x", "y"]);
    assert_eq!(seats.look(&REQUIRED, &stands(90_000)), ["x", "y"]);
    assert!(seats.trouble(&REQUIRED, &stands(90_000)).unwrap().contains("does not answer"));
    let two = Terms { repositories: 2, ..REQUIRED };
    let expected: Vec<String> = ["x".to_owned(), "y".to_owned()].into_iter().chain(nobodies(2)).collect();
    assert_eq!(seats.look(&two, &seen(90_001, &level, &ready)), expected);
}

#[test]
fn an_agent_started_anew_leaves_what_it_finds_for_a_while() {
    let loaded = vec![super::super::names::fresh()];
    let mut seats = Seats::default();
    let found = |now| Seen { loaded: &loaded, ..seen(now, &[], &[]) };
    assert_eq!(seats.look(&TERMS, &found(10)), loaded);
    assert_eq!(seats.look(&TERMS, &found(3_009)), loaded);
    assert_eq!(seats.look(&TERMS, &found(3_010)), NONE);
    assert_eq!(seats.look(&TERMS, &found(3_011)), NONE);
    let mut seats = Seats::default();
    seats.look(&TERMS, &found(10));
    let (level, ready) = (rows(&["x", "y"], FLUSHED.0), [tail(&["x", "y"])]);
    assert_eq!(seats.look(&TERMS, &Seen { loaded: &loaded, ..seen(20, &level, &ready) }), ["x", "y"]);
}
