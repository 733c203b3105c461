//! Histories made by hand: each anomaly must be found, and what may happen must not be called one.

use super::*;

fn append(times: (f64, f64), value: i64, seen: &[i64]) -> Event {
    let fate = Fate::Done(Answer::List(seen.to_vec()));
    Event { client: 0, op: Op::Append { list: 1, value }, fate, begun: times.0, ended: times.1 }
}

fn without_answer(times: (f64, f64), value: i64, fate: Fate) -> Event {
    Event { client: 1, op: Op::Append { list: 1, value }, fate, begun: times.0, ended: times.1 }
}

fn read(times: (f64, f64), seen: &[i64]) -> Event {
    let fate = Fate::Done(Answer::List(seen.to_vec()));
    Event { client: 2, op: Op::Read { list: 1 }, fate, begun: times.0, ended: times.1 }
}

fn write(times: (f64, f64), value: i64, version: i64, previous: i64) -> Event {
    let fate = Fate::Done(Answer::Written { version, previous });
    Event { client: 3, op: Op::Write { register: 7, value }, fate, begun: times.0, ended: times.1 }
}

fn list(values: &[i64]) -> Finals {
    Finals { lists: BTreeMap::from([(1, values.to_vec())]), ..Finals::default() }
}

fn register(version: i64, value: i64) -> Finals {
    Finals { registers: BTreeMap::from([(7, (version, value))]), ..Finals::default() }
}

#[test]
fn what_one_database_may_answer_is_clean() {
    let events = [
        append((0.0, 1.0), 10, &[10]),
        // Two at the same time, in the other order than they began.
        append((1.1, 3.0), 11, &[10, 12, 11]),
        append((1.2, 2.0), 12, &[10, 12]),
        // A read that began before it was acknowledged need not see it.
        read((1.5, 3.5), &[10]),
        // Nobody knows, and it is there; nobody knows, and it is not.
        without_answer((3.0, 4.0), 13, Fate::Unknown),
        without_answer((3.0, 4.0), 14, Fate::Unknown),
        without_answer((3.0, 4.0), 15, Fate::Failed),
        append((5.0, 6.0), 16, &[10, 12, 11, 13, 16]),
        read((7.0, 8.0), &[10, 12, 11, 13, 16]),
    ];
    let verdict = check(&events, &list(&[10, 12, 11, 13, 16]));
    assert_eq!((verdict.acknowledged, verdict.unknown, verdict.failed), (6, 2, 1));
    assert!(verdict.anomalies.is_empty() && verdict.old_reads.is_empty(), "{verdict:?}");
}

#[test]
fn an_acknowledged_value_that_is_gone_is_lost() {
    let events = [append((0.0, 1.0), 10, &[10]), append((1.1, 2.0), 11, &[10, 11])];
    let found = check(&events, &list(&[10])).anomalies;
    assert!(found.contains(&Anomaly::Lost { list: 1, value: 11 }), "{found:?}");
    let all_gone = check(&events, &Finals::default()).anomalies;
    assert!(all_gone.contains(&Anomaly::Lost { list: 1, value: 10 }), "{all_gone:?}");
}

#[test]
fn a_value_that_is_there_twice_is_found_in_a_read_and_in_the_end() {
    let events = [append((0.0, 1.0), 10, &[10])];
    assert_eq!(check(&events, &list(&[10, 10])).anomalies, [Anomaly::Duplicated { list: 1, value: 10 }]);
    let events = [append((0.0, 1.0), 10, &[10]), read((2.0, 3.0), &[10, 10])];
    assert_eq!(check(&events, &list(&[10])).anomalies, [Anomaly::Duplicated { list: 1, value: 10 }]);
}

#[test]
fn two_lines_of_history_are_found() {
    // Two primaries: each acknowledged an append at the same time, and neither saw the other's.
    let events = [append((0.0, 1.0), 10, &[10]), append((1.1, 3.0), 11, &[10, 11]), append((1.2, 2.9), 12, &[10, 12])];
    let found = check(&events, &list(&[10, 12])).anomalies;
    let diverging = Anomaly::Diverging { list: 1, at: 1, seen: Some(11), elsewhere: Some(12) };
    assert!(found.contains(&diverging) && found.contains(&Anomaly::Lost { list: 1, value: 11 }), "{found:?}");
    // Both are there in the end, and yet one append saw another order.
    let events = [append((0.0, 3.0), 10, &[10]), append((0.0, 2.9), 11, &[11])];
    let found = check(&events, &list(&[10, 11])).anomalies;
    assert_eq!(found, [Anomaly::Diverging { list: 1, at: 0, seen: Some(11), elsewhere: Some(10) }]);
}

#[test]
fn an_append_that_does_not_see_what_was_acknowledged_before_is_stale() {
    let events = [append((0.0, 1.0), 10, &[10]), append((2.0, 3.0), 11, &[11])];
    let found = check(&events, &list(&[10, 11])).anomalies;
    assert!(found.contains(&Anomaly::Stale { list: 1, value: 10 }), "{found:?}");
}

#[test]
fn a_read_from_the_past_is_told_apart_from_a_write() {
    let events = [append((0.0, 1.0), 10, &[10]), read((2.0, 3.0), &[])];
    let verdict = check(&events, &list(&[10]));
    assert!(verdict.anomalies.is_empty(), "{verdict:?}");
    assert_eq!(verdict.old_reads, [OldRead { list: 1, value: 10, begun: 2.0, vanished: false }]);
    // It saw what was never acknowledged, and what did not stay.
    let events = [without_answer((0.0, 1.0), 10, Fate::Unknown), read((2.0, 3.0), &[10])];
    let verdict = check(&events, &list(&[]));
    assert!(verdict.anomalies.is_empty(), "{verdict:?}");
    assert_eq!(verdict.old_reads, [OldRead { list: 1, value: 10, begun: 2.0, vanished: true }]);
}

#[test]
fn what_failed_for_certain_or_was_never_asked_for_must_not_be_there() {
    let events = [without_answer((0.0, 1.0), 10, Fate::Failed)];
    assert_eq!(check(&events, &list(&[10])).anomalies, [Anomaly::Unexpected { list: 1, value: 10 }]);
    assert_eq!(check(&[], &list(&[99])).anomalies, [Anomaly::Unexpected { list: 1, value: 99 }]);
}

#[test]
fn registers_count_one_write_a_version() {
    let chain = [write((0.0, 1.0), 20, 1, 0), write((1.1, 2.0), 21, 2, 20), write((2.1, 3.0), 22, 4, 99)];
    assert!(check(&chain, &register(4, 22)).anomalies.is_empty(), "version 3 is a write whose answer was lost");

    let fork = [write((0.0, 1.0), 20, 1, 0), write((0.0, 1.0), 21, 1, 0)];
    assert!(check(&fork, &register(1, 21)).anomalies.contains(&Anomaly::Forked { register: 7, version: 1 }));
    let other_past = [write((0.0, 1.0), 20, 1, 0), write((0.5, 2.0), 21, 2, 55)];
    assert_eq!(check(&other_past, &register(2, 21)).anomalies, [Anomaly::Forked { register: 7, version: 2 }]);
    let back_in_time = [write((0.0, 1.0), 20, 5, 0), write((2.0, 3.0), 21, 3, 0)];
    assert_eq!(check(&back_in_time, &register(5, 20)).anomalies, [Anomaly::RegisterLost { register: 7, version: 3 }]);
}

#[test]
fn a_register_that_fell_back_is_lost() {
    let events = [write((0.0, 1.0), 20, 1, 0), write((1.1, 2.0), 21, 2, 20)];
    for finals in [register(1, 20), register(2, 99), Finals::default()] {
        assert_eq!(check(&events, &finals).anomalies, [Anomaly::RegisterLost { register: 7, version: 2 }]);
    }
}
