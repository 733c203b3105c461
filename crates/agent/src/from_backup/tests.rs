use matriarch_archive::base::DamagedPage;
use serde_json::json;

use super::*;

const SIZE: u64 = 16 << 20;

fn backup(timeline: u32, start: u64, stop: u64) -> Summary {
    serde_json::from_value(json!({
        "version": 1, "backup": "b", "system_identifier": "7", "major": 18, "timeline": timeline,
        "start_lsn": Lsn(start).to_string(), "stop_lsn": Lsn(stop).to_string(), "start_time": "2026-11-22T11:00:00Z",
        "stop_time": "2026-11-22T12:00:00Z", "from_standby": false, "data_checksums": true, "size": 100, "stored": 50,
        "packs": 1, "backup_label": "", "control": "", "tablespaces": [], "damaged": []
    }))
    .unwrap()
}

/// On timeline 3, which left timeline 1 within its sixth segment.
fn history() -> History {
    History { timeline: 3, switches: vec![Switch { timeline: 1, lsn: Lsn(5 * SIZE + 100) }] }
}

fn leader(flushed: u64, segments: &[(u32, u64)]) -> Leader {
    let names = segments.iter().map(|(timeline, number)| Segment::at(*timeline, Lsn(number * SIZE), SIZE).to_string());
    Leader { timeline: 3, flushed: Lsn(flushed), segment_size: SIZE, file: None, segments: names.collect() }
}

fn wanted<'a>(leader: &'a Leader, history: &'a History) -> Wanted<'a> {
    Wanted { leader, history, system: "7", major: 18, oldest: "2026-11-22T00:00:00Z".parse().unwrap() }
}

fn chain(segments: &[(u32, u64)]) -> Vec<Segment> {
    segments.iter().map(|(timeline, number)| Segment::at(*timeline, Lsn(number * SIZE), SIZE)).collect()
}

#[test]
fn a_backup_of_something_else_is_refused_by_name() {
    let (leader, history) = (leader(9 * SIZE, &[]), history());
    let wanted = wanted(&leader, &history);
    assert_eq!(wanted.refuses(&backup(1, SIZE, 2 * SIZE)), None);
    assert_eq!(wanted.refuses(&backup(3, 6 * SIZE, 7 * SIZE)), None);
    let refused = |change: &dyn Fn(&mut Summary), words: &str| {
        let mut backup = backup(1, SIZE, 2 * SIZE);
        change(&mut backup);
        let why = wanted.refuses(&backup).unwrap_or_default();
        assert!(why.contains(words), "{why}");
    };
    refused(&|backup| backup.system_identifier = "8".to_owned(), "belongs to system 8");
    refused(&|backup| backup.major = 17, "of PostgreSQL 17");
    refused(&|backup| backup.stop_lsn = Lsn(5 * SIZE + 101), "not in the history of the leader's timeline 3");
    refused(&|backup| backup.timeline = 2, "not in the history");
    refused(&|backup| backup.timeline = 4, "not in the history");
    refused(&|backup| (backup.timeline, backup.stop_lsn) = (3, Lsn(9 * SIZE + 1)), "the leader is only at");
    refused(
        &|backup| backup.damaged = vec![DamagedPage { path: "base/5/1".to_owned(), block: 3 }],
        "block 3 of base/5/1",
    );
    refused(&|backup| backup.stop_time = "2026-11-21T23:59:59Z".parse().unwrap(), "clone_max_age");
}

#[test]
fn what_a_deposed_primary_wrote_is_left_out() {
    let (leader, history) = (leader(9 * SIZE, &[(1, 4), (3, 5), (3, 6)]), history());
    let wanted = wanted(&leader, &history);
    let backup = backup(1, 2 * SIZE + 40, 2 * SIZE + 400);
    let whole = chain(&[(1, 2), (1, 3), (1, 4), (3, 5), (3, 6), (3, 7), (3, 8)]);
    assert_eq!(wanted.shared(&whole, &backup).unwrap(), whole);
    // The new leader's file of the fork's segment is not archived yet, the old one's is.
    let forked = chain(&[(1, 2), (1, 3), (1, 4), (1, 5)]);
    assert_eq!(wanted.shared(&forked, &backup).unwrap(), forked[..3]);
    // What the leader has not written cannot be its.
    let ahead = chain(&[(1, 2), (1, 3), (1, 4), (3, 5), (3, 6), (3, 7), (3, 8), (3, 9)]);
    assert_eq!(wanted.shared(&ahead, &backup).unwrap(), ahead[..7]);
    assert!(wanted.shared(&[], &backup).unwrap_err().contains("no complete segments"));
    let late = super::tests::backup(1, 4 * SIZE, 5 * SIZE + 50);
    assert!(wanted.shared(&chain(&[(1, 4), (1, 5)]), &late).is_err(), "its end is in the segment of the fork");
}

#[test]
fn the_leader_must_have_what_follows() {
    let (leader, history) = (leader(7 * SIZE, &[(1, 4), (3, 5), (3, 6)]), history());
    let wanted = wanted(&leader, &history);
    let goes_on = |number: u64| wanted.goes_on(Lsn(number * SIZE));
    // Removed; of the old timeline; of both; of the new one; its end; not yet written.
    let expected = [(3, false), (4, true), (5, true), (6, true), (7, true), (8, false)];
    assert_eq!(expected.map(|(number, _)| (number, goes_on(number))), expected);
}

#[test]
fn histories_agree_from_the_backup_on() {
    let switch = |timeline, lsn| Switch { timeline, lsn: Lsn(lsn) };
    let leaders = History { timeline: 4, switches: vec![switch(1, 10), switch(3, 30)] };
    // The archive began on timeline 3.
    let archives = History { timeline: 4, switches: vec![switch(3, 30)] };
    assert!(agree(&leaders, &archives, 3) && !agree(&leaders, &archives, 1));
    assert!(!agree(&leaders, &History::root(4), 3));
    assert!(!agree(&leaders, &History { timeline: 5, ..leaders.clone() }, 3));
}

#[test]
fn replay_ends_where_the_data_is_consistent() {
    let backup = backup(1, 2 * SIZE + 40, 2 * SIZE + 400);
    assert_eq!(target(&chain(&[(1, 2)]), SIZE, &backup), None);
    assert_eq!(target(&chain(&[(1, 2), (1, 3), (1, 4)]), SIZE, &backup), Some(Lsn(4 * SIZE)));
    assert_eq!(end(&chain(&[(1, 2), (1, 3)]), SIZE), Some(Lsn(4 * SIZE)));
    assert!(!is_much(LEAST_WAL, &backup) && is_much(LEAST_WAL + 1, &backup));
}
