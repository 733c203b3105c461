//! A cluster that another program kept: who founds it anew over its records, and who must not.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use matriarch_core::decide::{
    Action, ClusterView, Data, DataFacts, Decision, LeaderKey, Memory, Observation, Purpose, Running, Server, decide,
};
use matriarch_core::record::{HistoryEntry, MemberRecord, SyncRecord, Versioned, key};
use matriarch_core::transaction::{Compare, Txn, Write};
use matriarch_core::{Lsn, Timeline};
use serde_json::json;

use common::{name, observation, policy};

/// What Patroni leaves behind after two promotions, the last primary at position 1000.
fn view() -> ClusterView {
    let fork = |timeline, lsn| {
        HistoryEntry(timeline, lsn, "no recovery target specified".into(), String::new(), String::new())
    };
    ClusterView {
        revision: 9,
        initialize: Some(Versioned { revision: 1, value: "7575".into() }),
        sync_of_others: Some(6),
        history: vec![fork(1, 100), fork(2, 500)],
        history_revision: Some(7),
        optime: Lsn(1_000),
        config_revision: Some(2),
        ..ClusterView::default()
    }
}

fn data(change: impl FnOnce(&mut DataFacts)) -> Data {
    let mut facts = DataFacts {
        system_identifier: "7575".into(),
        incarnation: serde_json::from_value(json!("aaaaaaaa")).unwrap(),
        timeline: 3,
        checkpoint: Lsn(1_000),
        clean: true,
        standby: false,
        unclaimed: false,
    };
    change(&mut facts);
    Data::Ready(facts)
}

fn server(timeline: Timeline, lsn: u64, in_recovery: bool) -> Server {
    Server::Running(Running {
        in_recovery,
        timeline,
        lsn: Lsn(lsn),
        receiving: in_recovery,
        streaming: in_recovery,
        caught_up: false,
        upstream: None,
        synchronous_standby_names: String::new(),
        replicas: Default::default(),
    })
}

fn primary() -> Observation {
    observation(1_000, view(), data(|facts| facts.clean = false), server(3, 1_200, false))
}

fn stopped(change: impl FnOnce(&mut DataFacts)) -> Observation {
    observation(1_000, view(), data(change), Server::Stopped)
}

fn decided(observation: &Observation) -> Decision {
    decide(&policy("a"), &Memory::default(), observation)
}

fn founding(decision: &Decision) -> &Txn {
    match &decision.actions[..] {
        [Action::Commit(change)] if change.purpose == Purpose::Found => &change.txn,
        other => panic!("{:?}: {other:?}", decision.why),
    }
}

/// Nothing is done, and the problem says all of these.
#[track_caller]
fn refuses(observation: &Observation, code: &str, words: &[&str]) {
    let decision = decided(observation);
    assert_eq!((decision.why.code, &decision.actions[..]), (code, &[][..]), "{}", decision.why.text);
    let problem = decision.problem.unwrap();
    for word in words {
        assert!(problem.contains(word), "{word}: {problem}");
    }
}

fn with(observation: Observation, change: impl FnOnce(&mut ClusterView)) -> Observation {
    let mut observation = observation;
    change(observation.store.as_mut().unwrap());
    observation
}

fn member(role: &str, timeline: Timeline) -> MemberRecord {
    serde_json::from_value(json!({
        "conn_url": "postgres://h:1/postgres", "api_url": "http://h:2/patroni", "state": "running", "role": role,
        "version": "4.1.5+matriarch.0.1.0", "timeline": timeline,
    }))
    .unwrap()
}

#[test]
fn the_running_primary_founds_over_the_records_as_they_are() {
    let decision = decided(&primary());
    let txn = founding(&decision);
    let unchanged = |key: &str, revision| Compare::Revision { key: key.to_owned(), revision };
    let compares = [
        unchanged(key::INITIALIZE, 1),
        Compare::Absent { key: key::LEADER.to_owned() },
        unchanged(key::SYNC, 6),
        unchanged(key::HISTORY, 7),
        unchanged(key::CONFIG, 2),
    ];
    assert_eq!(txn.compares, compares);
    let [Write::Put { key: leader, value, .. }, Write::Put { key: sync, value: record, .. }] = &txn.writes[..] else {
        panic!("{:?}", txn.writes)
    };
    assert_eq!((leader.as_str(), value.as_str(), sync.as_str()), (key::LEADER, "a", key::SYNC));
    let record: SyncRecord = serde_json::from_str(record).unwrap();
    assert_eq!((record.epoch, record.timeline, record.rule.is_empty()), (1, 3, true));
    assert_eq!(record.leader, name("a"));
}

#[test]
fn a_primary_that_was_stopped_well_and_last_may_found_too() {
    founding(&decided(&stopped(|_| {})));
    // Right after a promotion the control file still has the timeline before.
    let mut promoted = primary();
    promoted.data = data(|facts| facts.timeline = 2);
    let decision = decided(&promoted);
    let Write::Put { value, .. } = &founding(&decision).writes[1] else { panic!("{:?}", decision.actions) };
    assert_eq!(serde_json::from_str::<SyncRecord>(value).unwrap().timeline, 3);
}

#[test]
fn what_the_other_program_left_to_do_is_dropped() {
    let asked = with(primary(), |view| view.failover = Some(Versioned { revision: 8, value: Default::default() }));
    let decision = decided(&asked);
    let txn = founding(&decision);
    assert!(txn.writes.contains(&Write::Delete { key: key::FAILOVER.to_owned() }), "{txn:?}");
    assert!(txn.compares.contains(&Compare::Revision { key: key::FAILOVER.to_owned(), revision: 8 }), "{txn:?}");
}

#[test]
fn nothing_is_done_while_anything_of_the_other_program_is_there() {
    let beside = with(primary(), |view| drop(view.strangers.insert("p".into(), "4.1.5".into())));
    refuses(&beside, "run_by_others", &["'p'", "4.1.5", "patronictl pause"]);
    let uninitialized = with(beside, |view| view.initialize = None);
    refuses(&uninitialized, "run_by_others", &["'p'"]);
    let leader = LeaderKey { name: name("a"), revision: 5, held: false };
    refuses(&with(primary(), |view| view.leader = Some(leader)), "run_by_others", &["leader key names 'a'"]);
}

#[test]
fn nobody_but_the_newest_primary_founds() {
    let stale = observation(1_000, view(), data(|facts| facts.timeline = 2), server(2, 9_000, false));
    refuses(&stale, "adopt_refused", &["timeline 2", "timeline 3", "'history'"]);
    refuses(&stopped(|facts| facts.timeline = 2), "adopt_refused", &["timeline 2", "'history'"]);
    let behind = observation(1_000, view(), data(|_| {}), server(3, 999, false));
    refuses(&behind, "adopt_refused", &["0/3E8", "0/3E7", "'status'"]);
    refuses(&stopped(|facts| facts.checkpoint = Lsn(999)), "adopt_refused", &["'status'"]);
    refuses(&stopped(|facts| facts.clean = false), "adopt_refused", &["not shut down cleanly", "pg_ctl start"]);
    let foreign =
        observation(1_000, view(), data(|facts| facts.system_identifier = "1".into()), server(3, 1_200, false));
    refuses(&foreign, "foreign_data", &["7575"]);
    // As if it were made by an initdb of ours: that may be replaced, and is no basis either.
    let unclaimed = stopped(|facts| (facts.system_identifier, facts.unclaimed) = ("1".into(), true));
    refuses(&unclaimed, "adopt_refused", &["another cluster"]);
}

#[test]
fn replicas_and_empty_members_wait_for_the_primary() {
    let replica = observation(1_000, view(), data(|facts| facts.standby = true), server(3, 1_000, true));
    refuses(&replica, "adopt_waits", &["replica", "pg_ctl promote"]);
    refuses(&stopped(|facts| facts.standby = true), "adopt_waits", &["replica"]);
    refuses(&observation(1_000, view(), Data::Missing, Server::Stopped), "adopt_waits", &["no data"]);
    refuses(&observation(1_000, view(), data(|_| {}), Server::Unready), "adopt_waits", &["does not answer"]);
}

#[test]
fn another_primary_or_a_newer_timeline_elsewhere_forbids_it() {
    let two = with(primary(), |view| drop(view.members.insert(name("b"), member("primary", 3))));
    refuses(&two, "adopt_refused", &["'b'", "primary as well"]);
    let newer = with(primary(), |view| drop(view.members.insert(name("b"), member("replica", 4))));
    refuses(&newer, "adopt_refused", &["'b' is on timeline 4"]);
    let fine = with(primary(), |view| drop(view.members.insert(name("b"), member("replica", 3))));
    founding(&decided(&fine));
}

/// Decision 1: a lost `sync` of ours does not begin again at epoch 1.
#[test]
fn a_cluster_of_ours_that_lost_its_record_is_not_founded_again() {
    let told = |change: fn(&mut ClusterView)| with(primary(), change);
    refuses(&told(|view| view.optime_timeline = 3), "no_sync_record", &["'sync'"]);
    refuses(
        &told(|view| drop(view.members.insert(name("b"), MemberRecord { epoch: 4, ..member("replica", 3) }))),
        "no_sync_record",
        &["'sync'"],
    );
    let pledge = json!({"epoch": 3, "incarnation": "0badcafe", "timeline": 2, "lsn": "0/10"});
    let mut pledged = primary();
    let pledge = Versioned { revision: 3, value: serde_json::from_value(pledge).unwrap() };
    pledged.store.as_mut().unwrap().pledges.insert(name("b"), pledge);
    refuses(&pledged, "no_sync_record", &["pledges/"]);
}

#[test]
fn asked_to_stop_it_founds_nothing() {
    let mut stopping = primary();
    stopping.stopping = true;
    let decision = decided(&stopping);
    assert_eq!((decision.why.code, &decision.actions[..]), ("stopping", &[][..]));
}
