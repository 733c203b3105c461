use matriarch_api::ScheduledBackup;
use matriarch_core::decide::LeaderKey;
use serde_json::json;

use super::*;

const NOON: &str = "2026-11-22T12:00:00Z";

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// Due at half past every hour.
fn archive(tail: u32) -> Archive {
    let section = json!({"repositories": [{"location": "/a"}], "schedule": {"full": "30 * * * *"}, "tail": tail});
    let config = matriarch_config::DynamicConfig::from_json(&json!({ "archive": section })).unwrap();
    config.archive.unwrap()
}

fn plan(archive: &Archive) -> Plan<'_> {
    Chore::Backup.plan(archive).unwrap()
}

fn log(archive: &Archive, since: &str) -> BackupLog {
    found(&plan(archive), None, at(since))
}

/// A primary `b` at 1 GiB and the replicas `a`, `c` and `d`, which are so many bytes behind.
fn reading(log: Option<BackupLog>, behind: [u64; 3]) -> Reading {
    let head: u64 = 1 << 30;
    let member = |role: &str, at: u64| {
        let streams = (role == "replica").then_some("streaming");
        serde_json::from_value::<MemberRecord>(json!({
            "conn_url": "", "api_url": "", "state": "running", "role": role, "version": "4.0.0", "timeline": 3,
            "xlog_location": at, "receive_lsn": at, "replication_state": streams
        }))
        .unwrap()
    };
    let mut reading = Reading::default();
    let name = |name: &str| name.parse::<MemberName>().unwrap();
    reading.view.members.insert(name("b"), member("primary", head));
    for (replica, behind) in ["a", "c", "d"].into_iter().zip(behind) {
        reading.view.members.insert(name(replica), member("replica", head - behind));
    }
    reading.view.leader = Some(LeaderKey { name: name("b"), revision: 5, held: false });
    reading.backups = log.map(|value| Versioned { revision: 7, value });
    reading
}

fn whose(me: &str, archive: &Archive, reading: &Reading, now: &str) -> Turn {
    turn(&me.parse().unwrap(), Chore::Backup, &plan(archive), reading, at(now))
}

#[test]
fn the_leader_begins_the_log_and_nothing_is_due_before() {
    let archive = archive(1);
    let none = reading(None, [0; 3]);
    assert_eq!(whose("a", &archive, &none, NOON), Turn::Idle);
    let Turn::Found(begun) = whose("b", &archive, &none, NOON) else { panic!("it begins") };
    assert_eq!((begun.since.as_str(), begun.schedule.as_str()), (NOON, "full 30 * * * * UTC"));
    // Of another schedule, or of a clock that was a year ahead.
    let last = Some(matriarch_api::ScheduledBackup { backup: "x".to_owned(), ..Default::default() });
    let other =
        BackupLog { schedule: "full @daily UTC".to_owned(), last: last.clone(), failures: 3, ..(*begun).clone() };
    let ahead = log(&archive, "2027-11-22T12:00:00Z");
    for (log, kept) in [(other, last), (ahead, None)] {
        let Turn::Found(anew) = whose("b", &archive, &reading(Some(log), [0; 3]), NOON) else {
            panic!("it begins anew")
        };
        assert_eq!(*anew, BackupLog { last: kept, ..(*begun).clone() });
    }
    assert_eq!(whose("a", &archive, &reading(Some(*begun), [0; 3]), NOON), Turn::Wait(at("2026-11-22T12:30:00Z")));
}

#[test]
fn a_near_replica_first_then_one_after_the_other_and_the_leader_last() {
    let archive = archive(1);
    let reading = reading(Some(log(&archive, NOON)), [NEAR + 1, 0, 5]);
    assert_eq!(whose("c", &archive, &reading, "2026-11-22T12:29:59Z"), Turn::Wait(at("2026-11-22T12:30:00Z")));
    assert_eq!(whose("c", &archive, &reading, "2026-11-22T12:30:00Z"), Turn::Take);
    assert_eq!(whose("d", &archive, &reading, "2026-11-22T12:30:00Z"), Turn::Wait(at("2026-11-22T12:30:30Z")));
    assert_eq!(whose("b", &archive, &reading, "2026-11-22T12:30:00Z"), Turn::Wait(at("2026-11-22T12:31:00Z")));
    assert!(matches!(whose("a", &archive, &reading, "2026-11-22T13:29:00Z"), Turn::Wait(_)), "it is far behind");
    // What was missed, however often, is due once and at once.
    assert_eq!(whose("d", &archive, &reading, "2026-11-24T00:00:00Z"), Turn::Take);
    let done = log(&archive, "2026-11-24T00:00:05Z");
    let after = self::reading(Some(done), [0; 3]);
    assert_eq!(whose("a", &archive, &after, "2026-11-24T00:00:06Z"), Turn::Wait(at("2026-11-24T00:30:00Z")));
}

#[test]
fn incremental_ones_come_between_full_ones_and_never_stand_for_them() {
    let section = json!({
        "repositories": [{"location": "/a"}], "schedule": {"full": "@daily", "incremental": "0 */6 * * *"}
    });
    let config = matriarch_config::DynamicConfig::from_json(&json!({ "archive": section })).unwrap();
    let section = config.archive.unwrap();
    let plan = plan(&section);
    let log = |since: &str, full_since: Option<&str>| BackupLog {
        full_since: full_since.map(str::to_owned),
        ..found(&plan, None, at(since))
    };
    let next = |log: &BackupLog| due(&plan, log).unwrap().to_string();
    let begun = log("2026-11-22T05:00:00Z", None);
    assert_eq!(next(&begun), "2026-11-22T06:00:00Z");
    assert!(!plan.is_full(&begun, at("2026-11-22T06:00:00Z")));
    // One that went on over midnight: the full one is due at once.
    let over = log("2026-11-23T00:10:00Z", Some("2026-11-22T05:00:00Z"));
    assert_eq!(next(&over), "2026-11-23T00:00:00Z");
    assert!(plan.is_full(&over, at("2026-11-23T00:10:01Z")));
    // Both are due: a full one does.
    let both = log("2026-11-22T18:00:30Z", Some("2026-11-22T00:00:20Z"));
    assert_eq!(next(&both), "2026-11-23T00:00:00Z");
    assert!(plan.is_full(&both, at("2026-11-23T00:00:00Z")));
    let retried = BackupLog { retry: Some("2026-11-22T18:10:00Z".to_owned()), ..both };
    assert!(!plan.is_full(&retried, at("2026-11-22T18:10:00Z")));
    let only_full = archive(1);
    assert!(
        Chore::Backup.plan(&only_full).unwrap().is_full(&log("2026-11-22T18:00:30Z", None), at("2026-11-22T18:00:31Z"))
    );
}

#[test]
fn only_while_somebody_leads_and_nobody_takes_one() {
    let archive = archive(1);
    let due = "2026-11-22T12:30:00Z";
    let mut taken = reading(Some(log(&archive, NOON)), [0; 3]);
    taken.backup = Some(Default::default());
    let mut leaderless = reading(Some(log(&archive, NOON)), [0; 3]);
    leaderless.view.leader = None;
    for reading in [taken, leaderless] {
        assert_eq!(whose("a", &archive, &reading, due), Turn::Idle);
    }
    let mut starting = reading(Some(log(&archive, NOON)), [0; 3]);
    starting.view.members.get_mut(&"b".parse().unwrap()).unwrap().state = "starting".to_owned();
    assert!(matches!(whose("a", &archive, &starting, due), Turn::Wait(_)));
}

#[test]
fn without_a_tail_the_primary_comes_first() {
    let archive = archive(0);
    let reading = reading(Some(log(&archive, NOON)), [0; 3]);
    assert_eq!(whose("b", &archive, &reading, "2026-11-22T12:30:00Z"), Turn::Take);
    assert_eq!(whose("a", &archive, &reading, "2026-11-22T12:30:00Z"), Turn::Wait(at("2026-11-22T12:30:30Z")));
}

#[test]
fn who_is_tagged_is_passed_over_and_nobody_left_is_told() {
    let archive = archive(1);
    let due = "2026-11-22T12:30:00Z";
    let mut reading = reading(Some(log(&archive, NOON)), [0, 0, NEAR + 1]);
    let tag = |reading: &mut Reading, name: &str| {
        let member = reading.view.members.get_mut(&name.parse::<MemberName>().unwrap()).unwrap();
        member.tags.insert("nobackup".to_owned(), json!(true));
    };
    tag(&mut reading, "a");
    assert_eq!(whose("c", &archive, &reading, due), Turn::Take);
    assert_eq!(whose("b", &archive, &reading, due), Turn::Wait(at("2026-11-22T12:30:30Z")));
    assert!(matches!(whose("a", &archive, &reading, "2026-11-22T13:29:00Z"), Turn::Wait(_)), "however late it is");
    assert_eq!(blocked(&reading), None);
    // The primary as well; a replica that is far behind does not do instead.
    tag(&mut reading, "b");
    assert_eq!(blocked(&reading), None, "c is left");
    assert!(matches!(whose("b", &archive, &reading, "2026-11-22T13:29:00Z"), Turn::Wait(_)));
    tag(&mut reading, "c");
    let why = "a, b, c are tagged `nobackup`, d is not streaming or too far behind";
    assert_eq!(blocked(&reading).as_deref(), Some(why));
    let shown = shown(&plan(&archive), &reading, at(NOON));
    assert_eq!((shown.blocked.as_deref(), shown.next.as_deref()), (Some(why), Some(due)));
    let log = &reading.backups.as_ref().unwrap().value;
    assert_eq!(overdue(&plan(&archive), log, at("2026-11-22T12:30:29Z")), None);
    assert_eq!(overdue(&plan(&archive), log, at("2026-11-22T12:30:30Z")), Some(at(due)));
    // Without a primary there is nothing to be said of tags.
    reading.view.members.get_mut(&"b".parse().unwrap()).unwrap().state = "starting".to_owned();
    assert_eq!(blocked(&reading), None);
}

#[test]
fn a_failure_is_tried_again_later_by_the_next() {
    let archive = archive(1);
    let failure = BackupFailure { member: "a".to_owned(), why: "the disk".to_owned(), ..Default::default() };
    let once = failed(&log(&archive, NOON), failure.clone(), at("2026-11-22T12:30:10Z"));
    assert_eq!((once.failures, once.retry.as_deref()), (1, Some("2026-11-22T12:31:10Z")));
    let reading = reading(Some(once.clone()), [0, 0, NEAR + 1]);
    // `a` has failed and comes last of a, c, b.
    assert_eq!(whose("c", &archive, &reading, "2026-11-22T12:31:10Z"), Turn::Take);
    assert_eq!(whose("b", &archive, &reading, "2026-11-22T12:31:10Z"), Turn::Wait(at("2026-11-22T12:31:40Z")));
    assert_eq!(whose("a", &archive, &reading, "2026-11-22T12:31:10Z"), Turn::Wait(at("2026-11-22T12:32:10Z")));
    let mut log = once;
    for _ in 0..40 {
        log = failed(&log, failure.clone(), at(NOON));
    }
    assert_eq!(log.retry.as_deref(), Some("2026-11-22T13:00:00Z"), "an hour at most");
    let shown = shown(&plan(&archive), &self::reading(Some(log), [0; 3]), at(NOON));
    assert_eq!((shown.failures, shown.next.as_deref()), (41, Some("2026-11-22T13:00:00Z")));
    assert_eq!(shown.last_failure, Some(failure));
}

#[test]
fn dumps_have_a_schedule_and_a_log_of_their_own() {
    let section = json!({"repositories": [{"location": "/a"}], "tail": 0, "dumps": {"schedule": "15 * * * *"}});
    let config = matriarch_config::DynamicConfig::from_json(&json!({ "archive": section })).unwrap();
    let archive = config.archive.unwrap();
    assert!(Chore::Backup.plan(&archive).is_none());
    let plan = Chore::Dump.plan(&archive).unwrap();
    let whose =
        |me: &str, reading: &Reading, now: &str| turn(&me.parse().unwrap(), Chore::Dump, &plan, reading, at(now));
    let mut reading = reading(None, [0; 3]);
    let Turn::Found(begun) = whose("b", &reading, NOON) else { panic!("it begins") };
    assert_eq!(begun.schedule, "15 * * * * UTC");
    let last = ScheduledBackup { backup: "x".to_owned(), size: 7, ..Default::default() };
    reading.dumps = Some(Versioned { revision: 9, value: BackupLog { last: Some(last), ..*begun } });
    // A backup under way is no dump, and a replica comes first, whatever the tail.
    reading.backup = Some(Default::default());
    assert_eq!(whose("a", &reading, "2026-11-22T12:15:00Z"), Turn::Take);
    assert_eq!(whose("b", &reading, "2026-11-22T12:15:00Z"), Turn::Wait(at("2026-11-22T12:16:30Z")));
    let shown = shown_dumps(&plan, &reading, at(NOON));
    assert_eq!(shown.last.map(|last| (last.dump, last.size)), Some(("x".to_owned(), 7)));
    assert_eq!(shown.next.as_deref(), Some("2026-11-22T12:15:00Z"));
    reading.dump = Some(Default::default());
    assert_eq!(whose("a", &reading, "2026-11-22T12:15:00Z"), Turn::Idle);
}
