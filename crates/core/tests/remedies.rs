//! Keys of the configuration that hold a member back: how long a start may take, and what may be done to its data.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeMap;

use matriarch_core::decide::{
    Action, ClusterView, CrashPolicy, Data, DataFacts, Decision, Finished, Job, JobFailure, LeaderKey, Lease, Memory,
    Millis, Observation, Policy, Running, Server, decide,
};
use matriarch_core::record::{MemberRecord, SyncRecord, Versioned};
use matriarch_core::rule::Rule;
use matriarch_core::{Incarnation, Lsn, MemberName};
use serde_json::json;

use common::{name, observation};

fn data(text: &str) -> Incarnation {
    serde_json::from_value(json!(text)).unwrap()
}

fn policy() -> Policy {
    Policy { crash: CrashPolicy::Restart, ..common::policy("a") }
}

fn member(role: &str, incarnation: &str) -> MemberRecord {
    serde_json::from_value(json!({
        "conn_url": "postgres://h:1/postgres", "api_url": "http://h:2/patroni", "state": "running", "role": role,
        "version": "4.1.5", "timeline": 2, "xlog_location": 100, "incarnation": incarnation, "epoch": 2,
    }))
    .unwrap()
}

/// Two members; `leader` leads in epoch 2 and the other is the only voter.
fn view(leader: &str) -> ClusterView {
    let voter = if leader == "a" { ("b", "bbbbbbbb") } else { ("a", "aaaaaaaa") };
    let rule = Rule { voters: BTreeMap::from([(name(voter.0), data(voter.1))]), needed: 1, ..Rule::default() };
    let sync: SyncRecord = serde_json::from_value(json!({
        "leader": leader, "sync_standby": voter.0, "quorum": 0, "epoch": 2,
        "incarnation": if leader == "a" { "aaaaaaaa" } else { "bbbbbbbb" }, "rule": rule, "established": true,
        "timeline": 2, "membership": ["a", "b"],
    }))
    .unwrap();
    let role = |name: &str| if name == leader { "primary" } else { "replica" };
    ClusterView {
        revision: 9,
        initialize: Some(Versioned { revision: 1, value: "7575".into() }),
        leader: Some(LeaderKey { name: name(leader), revision: 5, held: leader == "a" }),
        sync: Some(Versioned { revision: 6, value: sync }),
        members: [(name("a"), member(role("a"), "aaaaaaaa")), (name("b"), member(role("b"), "bbbbbbbb"))].into(),
        ..ClusterView::default()
    }
}

fn facts(incarnation: &str) -> Data {
    Data::Ready(DataFacts {
        system_identifier: "7575".into(),
        incarnation: Some(data(incarnation)),
        timeline: 2,
        checkpoint: Lsn(50),
        clean: false,
        standby: false,
        unclaimed: false,
    })
}

fn runs(decision: &Decision) -> Vec<&Job> {
    let jobs = decision.actions.iter().filter_map(|action| match action {
        Action::Run(job) => Some(job),
        _ => None,
    });
    jobs.collect()
}

#[test]
fn a_start_in_place_that_takes_too_long_gives_up_the_lead() {
    let mut starting = observation(1_000, view("a"), facts("aaaaaaaa"), Server::Stopped);
    starting.busy = Some(Job::StartPrimary);
    let first = decide(&policy(), &Memory::default(), &starting);
    assert_eq!((first.why.code, runs(&first)), ("busy", vec![]));

    starting.now = 60_999;
    starting.lease = Some(Lease { renewed: 60_999, until: 65_999 });
    let early = decide(&policy(), &first.memory, &starting);
    assert_eq!(runs(&early), Vec::<&Job>::new());
    assert!(early.next_wake <= 61_000, "it looks again when the time is over");

    starting.now = 61_000;
    starting.lease = Some(Lease { renewed: 61_000, until: 66_000 });
    let late = decide(&policy(), &early.memory, &starting);
    assert_eq!((late.why.code, runs(&late)), ("start_overdue", vec![&Job::StopImmediate]));

    let stopped = observation(62_000, view("a"), facts("aaaaaaaa"), Server::Stopped);
    let given_up = decide(&policy(), &late.memory, &stopped);
    assert_eq!(given_up.why.code, "release");
}

#[test]
fn with_nobody_to_take_over_it_may_take_as_long_as_it_needs() {
    let mut alone = view("a");
    alone.members.remove(&name("b"));
    let mut unready = observation(1_000, alone, facts("aaaaaaaa"), Server::Unready);
    let first = decide(&policy(), &Memory::default(), &unready);
    unready.now = 500_000;
    unready.lease = Some(Lease { renewed: 500_000, until: 505_000 });
    let late = decide(&policy(), &first.memory, &unready);
    assert_eq!((late.why.code, runs(&late)), ("leader_unready", vec![]));
}

/// Our data is not that of the voter any more, so that it may be touched.
fn diverged(now: Millis) -> Observation {
    observation(now, view("b"), facts("cccccccc"), Server::Stopped)
}

#[test]
fn a_failed_rewind_leads_to_a_clone_unless_a_person_wants_to_look() {
    let mut failed = diverged(20_000);
    let failure = Some(JobFailure { message: "could not find common ancestor".into(), hopeless: true });
    failed.finished = Some(Finished { job: Job::Rewind, at: 5_000, failure });
    let allowed = decide(&policy(), &Memory::default(), &failed);
    assert_eq!(runs(&allowed), [&Job::Clone]);

    let kept = Policy { clone_after_rewind: false, ..policy() };
    let left = decide(&kept, &Memory::default(), &failed);
    assert_eq!((left.why.code, runs(&left)), ("left_after_rewind", vec![]));
    let problem = left.problem.unwrap();
    assert!(problem.contains("common ancestor") && problem.contains("reinitialize"), "{problem}");

    failed.reinit = true;
    assert_eq!(runs(&decide(&kept, &left.memory, &failed)), [&Job::Clone]);
    let broken = observation(1_000, view("b"), Data::Unusable("half rewound".into()), Server::Stopped);
    assert_eq!(decide(&kept, &Memory::default(), &broken).why.code, "left_after_rewind");
    assert_eq!(runs(&decide(&policy(), &Memory::default(), &broken)), [&Job::Clone]);
}

#[test]
fn without_pg_rewind_a_diverged_member_is_cloned_only_if_it_may_be() {
    assert_eq!(runs(&decide(&policy(), &Memory::default(), &diverged(1_000))), [&Job::Rewind]);
    let no_rewind = Policy { use_rewind: false, ..policy() };
    assert_eq!(runs(&decide(&no_rewind, &Memory::default(), &diverged(1_000))), [&Job::Clone]);
    let kept = Policy { clone_diverged: false, ..no_rewind };
    let left = decide(&kept, &Memory::default(), &diverged(1_000));
    assert_eq!((left.why.code, runs(&left)), ("left_diverged", vec![]));
    assert!(left.problem.unwrap().contains("remove_data_directory_on_diverged_timelines"));
}

#[test]
fn a_member_that_does_not_stream_follows_through_the_archive_for_as_long_as_it_takes() {
    let tagged = Policy { from_archive: true, ..policy() };
    let running = |timeline, lsn| {
        Server::Running(Running {
            in_recovery: true,
            timeline,
            lsn: Lsn(lsn),
            receiving: false,
            streaming: false,
            caught_up: true,
            upstream: None,
            synchronous_standby_names: String::new(),
            replicas: BTreeMap::new(),
        })
    };
    let standby = |now, server| {
        let mut facts = facts("cccccccc");
        if let Data::Ready(facts) = &mut facts {
            facts.standby = true;
        }
        let mut view = view("b");
        view.history = vec![serde_json::from_value(json!([1, 70, "", "", "b"])).unwrap()];
        observation(now, view, facts, server)
    };
    let upstreams = |decision: &Decision| -> Vec<Option<MemberName>> {
        let settings = decision.actions.iter().filter_map(|action| match action {
            Action::Configure(settings) => Some(settings.upstream.clone()),
            _ => None,
        });
        settings.collect()
    };
    // The first look cannot tell whether an earlier process pledged, so the tombstone comes first.
    let first = decide(&tagged, &Memory::default(), &standby(1_000, running(2, 90)));
    assert_eq!(first.why.code, "pledge_withdraw");
    let mut memory = first.memory;
    memory.pledging.doubt = matriarch_core::decide::Doubt::Clear;
    for now in [2_000, 60_000, 3_600_000] {
        // Behind, and on the timeline before: its end is not in the archive yet.
        let behind = decide(&tagged, &memory, &standby(now, running(1, 60)));
        assert_eq!((behind.why.code, runs(&behind), upstreams(&behind)), ("following_archive", vec![], vec![None]));
        assert_eq!(behind.problem, None);
        memory = behind.memory;
    }
    // The old primary archived what the new one does not have.
    let beyond = decide(&tagged, &memory, &standby(3_700_000, running(1, 80)));
    assert_eq!((beyond.why.code, runs(&beyond)), ("diverged", vec![&Job::StopFast]));
    let stopped = decide(&tagged, &beyond.memory, &standby(3_701_000, Server::Stopped));
    assert_eq!(runs(&stopped), [&Job::Rewind]);
    // It starts as a replica of nobody.
    let restarted = decide(&tagged, &memory, &standby(3_702_000, Server::Stopped));
    assert_eq!((runs(&restarted), upstreams(&restarted)), (vec![&Job::StartStandby], vec![None]));
    let mut record = member("replica", "cccccccc");
    record.tags.insert("nostream".into(), true.into());
    assert!(!record.may_vote() && record.may_lead());
}

#[test]
fn without_the_watchdog_that_must_be_there_nobody_begins_to_lead() {
    let standby = |checkpoint| match facts("aaaaaaaa") {
        Data::Ready(facts) => Data::Ready(DataFacts { standby: false, clean: true, checkpoint, ..facts }),
        other => other,
    };
    let mut stopped = observation(1_000, view("a"), standby(Lsn(50)), Server::Stopped);
    let watched = decide(&policy(), &Memory::default(), &stopped);
    assert_eq!(runs(&watched), [&Job::StartPrimary]);

    stopped.watchdog = Some("no such device".into());
    let given_up = decide(&policy(), &Memory::default(), &stopped);
    assert_eq!((given_up.why.code, runs(&given_up)), ("release", vec![]));
    let paused = decide(&Policy { paused: true, ..policy() }, &Memory::default(), &stopped);
    assert_ne!(paused.why.code, "release", "a pause guards nothing");

    // Nobody could take over: it says why it waits.
    let mut alone = stopped.clone();
    alone.alive = [name("a")].into();
    alone.store.as_mut().unwrap().members.remove(&name("b"));
    let waits = decide(&policy(), &Memory::default(), &alone);
    assert_eq!((waits.why.code, runs(&waits)), ("watchdog_failed", vec![]));
    assert!(waits.problem.unwrap().contains("no such device"));

    // It would be the one to take over.
    let mut vacant = alone.clone();
    vacant.store.as_mut().unwrap().leader = None;
    (vacant.lease, vacant.now) = (None, 90_000);
    assert_eq!(decide(&policy(), &Memory::default(), &vacant).why.code, "watchdog_failed");
    vacant.watchdog = None;
    assert_eq!(decide(&policy(), &Memory::default(), &vacant).why.code, "takeover");
}
