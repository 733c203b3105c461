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

fn look(times: (f64, f64), version: i64, value: i64) -> Event {
    let fate = Fate::Done(Answer::Register { version, value });
    Event { client: 4, op: Op::Look { register: 7 }, fate, begun: times.0, ended: times.1 }
}

/// Plain reads may show the past for two seconds.
fn judge(events: &[Event], finals: &Finals) -> Verdict {
    check(events, finals, Duration::from_secs(2))
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
    let verdict = judge(&events, &list(&[10, 12, 11, 13, 16]));
    assert_eq!((verdict.acknowledged, verdict.unknown, verdict.failed), (6, 2, 1));
    assert!(verdict.anomalies.is_empty() && verdict.old_reads.is_empty(), "{verdict:?}");
}

#[test]
fn an_acknowledged_value_that_is_gone_is_lost() {
    let events = [append((0.0, 1.0), 10, &[10]), append((1.1, 2.0), 11, &[10, 11])];
    let found = judge(&events, &list(&[10])).anomalies;
    assert!(found.contains(&Anomaly::Lost { list: 1, value: 11 }), "{found:?}");
    let all_gone = judge(&events, &Finals::default()).anomalies;
    assert!(all_gone.contains(&Anomaly::Lost { list: 1, value: 10 }), "{all_gone:?}");
}

#[test]
fn a_value_that_is_there_twice_is_found_in_a_read_and_in_the_end() {
    let events = [append((0.0, 1.0), 10, &[10])];
    assert_eq!(judge(&events, &list(&[10, 10])).anomalies, [Anomaly::Duplicated { list: 1, value: 10 }]);
    let events = [append((0.0, 1.0), 10, &[10]), read((2.0, 3.0), &[10, 10])];
    assert_eq!(judge(&events, &list(&[10])).anomalies, [Anomaly::Duplicated { list: 1, value: 10 }]);
}

#[test]
fn two_lines_of_history_are_found() {
    // Two primaries: each acknowledged an append at the same time, and neither saw the other's.
    let events = [append((0.0, 1.0), 10, &[10]), append((1.1, 3.0), 11, &[10, 11]), append((1.2, 2.9), 12, &[10, 12])];
    let found = judge(&events, &list(&[10, 12])).anomalies;
    let diverging = Anomaly::Diverging { list: 1, at: 1, seen: Some(11), elsewhere: Some(12) };
    assert!(found.contains(&diverging) && found.contains(&Anomaly::Lost { list: 1, value: 11 }), "{found:?}");
    // Both are there in the end, and yet one append saw another order.
    let events = [append((0.0, 3.0), 10, &[10]), append((0.0, 2.9), 11, &[11])];
    let found = judge(&events, &list(&[10, 11])).anomalies;
    assert_eq!(found, [Anomaly::Diverging { list: 1, at: 0, seen: Some(11), elsewhere: Some(10) }]);
}

#[test]
fn an_append_that_does_not_see_what_was_acknowledged_before_is_stale() {
    let events = [append((0.0, 1.0), 10, &[10]), append((2.0, 3.0), 11, &[11])];
    let found = judge(&events, &list(&[10, 11])).anomalies;
    assert!(found.contains(&Anomaly::Stale { list: 1, value: 10 }), "{found:?}");
}

fn old(key: Key, value: i64, begun: f64, age: f64) -> OldRead {
    OldRead { key, value, begun, age, vanished: false }
}

#[test]
fn a_read_from_the_past_is_told_apart_from_a_write() {
    let events = [append((0.0, 1.0), 10, &[10]), read((2.0, 3.0), &[])];
    let verdict = judge(&events, &list(&[10]));
    assert!(verdict.anomalies.is_empty(), "{verdict:?}");
    assert_eq!(verdict.old_reads, [old(Key::List(1), 10, 2.0, 1.0)]);
    // It saw what was never acknowledged, and what did not stay.
    let events = [without_answer((0.0, 1.0), 10, Fate::Unknown), read((2.0, 3.0), &[10])];
    let verdict = judge(&events, &list(&[]));
    assert!(verdict.anomalies.is_empty(), "{verdict:?}");
    assert_eq!(verdict.old_reads, [OldRead { vanished: true, ..old(Key::List(1), 10, 2.0, 0.0) }]);
}

#[test]
fn reads_from_a_past_that_has_been_over_for_long_fail() {
    // A deposed primary that goes on answering: its reads lack 11 for ever, and it was acknowledged at 3.
    let past = |begun: f64| read((begun, begun + 0.1), &[10]);
    let writes =
        [append((0.0, 1.0), 10, &[10]), append((2.0, 3.0), 11, &[10, 11]), append((4.0, 5.0), 12, &[10, 11, 12])];
    let finals = list(&[10, 11, 12]);
    let with = |reads: &[Event]| judge(&[&writes[..], reads].concat(), &finals);
    let soon = with(&[past(2.5), past(3.5), past(4.9)]);
    assert!(soon.anomalies.is_empty(), "{soon:?}");
    assert_eq!(soon.old_reads.len(), 2, "one began before anything newer was acknowledged: {soon:?}");
    let late = with(&[past(3.5), past(5.5)]);
    assert_eq!(
        late.anomalies,
        [Anomaly::TooOld(old(Key::List(1), 11, 5.5, 2.5))],
        "counted from the first, not the last"
    );
    assert_eq!((late.old_reads.len(), late.oldest_read()), (2, 2.5));
}

#[test]
fn reads_of_what_did_not_stay_fail_when_others_have_been_told_better_for_long() {
    // 66 was never acknowledged: it came and went with a primary that was deposed. 11 took its place at 3.
    let writes = [append((0.0, 1.0), 10, &[10]), append((2.0, 3.0), 11, &[10, 11])];
    let judge = |begun: f64| {
        let unknown = without_answer((1.5, 2.5), 66, Fate::Unknown);
        judge(&[&writes[..], &[unknown, read((begun, begun + 0.1), &[10, 66])]].concat(), &list(&[10, 11]))
    };
    for begun in [2.7, 4.9] {
        let verdict = judge(begun);
        assert!(verdict.anomalies.is_empty(), "{verdict:?}");
        assert!(verdict.old_reads.iter().any(|read| read.vanished && read.value == 66), "{verdict:?}");
    }
    let vanished = |anomaly: &Anomaly| matches!(anomaly, Anomaly::TooOld(OldRead { value: 66, vanished: true, .. }));
    assert!(judge(5.1).anomalies.iter().any(vanished), "{:?}", judge(5.1));
}

#[test]
fn registers_tell_the_whole_age_of_a_read() {
    // Versions 2 and 3 were under way together; the later one was acknowledged first.
    let writes = [
        write((0.0, 1.0), 20, 1, 0),
        write((1.1, 2.5), 21, 2, 20),
        write((1.2, 2.0), 22, 3, 21),
        write((3.0, 3.5), 23, 4, 22),
    ];
    let with = |read: Event| judge(&[&writes[..], &[read]].concat(), &register(4, 23));
    for clean in [look((0.5, 0.6), 0, 0), look((1.9, 2.2), 1, 20), look((2.2, 2.3), 3, 22), look((9.0, 9.1), 4, 23)] {
        let verdict = with(clean);
        assert!(verdict.anomalies.is_empty() && verdict.old_reads.is_empty(), "{verdict:?}");
    }
    let soon = with(look((3.9, 4.0), 1, 20));
    assert!(soon.anomalies.is_empty(), "{soon:?}");
    assert_eq!(soon.old_reads, [old(Key::Register(7), 1, 3.9, 3.9 - 2.0)]);
    let late = with(look((4.5, 4.6), 2, 21));
    assert_eq!(late.anomalies, [Anomaly::TooOld(old(Key::Register(7), 2, 4.5, 2.5))]);
    // Another value of a version that was acknowledged: the other line of history.
    let fork = with(look((3.0, 3.1), 3, 99));
    assert_eq!(fork.old_reads, [OldRead { vanished: true, ..old(Key::Register(7), 3, 3.0, 1.0) }]);
    assert!(with(look((4.1, 4.2), 3, 99)).anomalies.iter().any(|found| matches!(found, Anomaly::TooOld(_))));
}

#[test]
fn what_failed_for_certain_or_was_never_asked_for_must_not_be_there() {
    let events = [without_answer((0.0, 1.0), 10, Fate::Failed)];
    assert_eq!(judge(&events, &list(&[10])).anomalies, [Anomaly::Unexpected { list: 1, value: 10 }]);
    assert_eq!(judge(&[], &list(&[99])).anomalies, [Anomaly::Unexpected { list: 1, value: 99 }]);
}

#[test]
fn registers_count_one_write_a_version() {
    let chain = [write((0.0, 1.0), 20, 1, 0), write((1.1, 2.0), 21, 2, 20), write((2.1, 3.0), 22, 4, 99)];
    assert!(judge(&chain, &register(4, 22)).anomalies.is_empty(), "version 3 is a write whose answer was lost");

    let fork = [write((0.0, 1.0), 20, 1, 0), write((0.0, 1.0), 21, 1, 0)];
    assert!(judge(&fork, &register(1, 21)).anomalies.contains(&Anomaly::Forked { register: 7, version: 1 }));
    let other_past = [write((0.0, 1.0), 20, 1, 0), write((0.5, 2.0), 21, 2, 55)];
    assert_eq!(judge(&other_past, &register(2, 21)).anomalies, [Anomaly::Forked { register: 7, version: 2 }]);
    let back_in_time = [write((0.0, 1.0), 20, 5, 0), write((2.0, 3.0), 21, 3, 0)];
    assert_eq!(judge(&back_in_time, &register(5, 20)).anomalies, [Anomaly::RegisterLost { register: 7, version: 3 }]);
}

#[test]
fn a_register_that_fell_back_is_lost() {
    let events = [write((0.0, 1.0), 20, 1, 0), write((1.1, 2.0), 21, 2, 20)];
    for finals in [register(1, 20), register(2, 99), Finals::default()] {
        assert_eq!(judge(&events, &finals).anomalies, [Anomaly::RegisterLost { register: 7, version: 2 }]);
    }
}
