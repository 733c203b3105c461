//! Names change in steps where the loss of a zone must lose nothing.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use matriarch_core::decide::{
    Action, ClusterView, Data, DataFacts, Decision, LeaderKey, Lease, Memory, Millis, Observation, Policy, Running,
    Server, Synchronous, Zones, decide,
};
use matriarch_core::record::{SyncRecord, Versioned};
use matriarch_core::rule::{Rule, application_name};
use matriarch_core::{Incarnation, Lsn};
use serde_json::json;

use common::{name, policy};

fn data(member: &str) -> Incarnation {
    serde_json::from_value(json!(member.repeat(8))).unwrap()
}

fn rule(voters: &[&str]) -> Rule {
    let voters = voters.iter().map(|voter| (name(voter), data(voter))).collect();
    Rule { voters, needed: 2, ..Rule::default() }
}

fn names(voters: &[&str]) -> String {
    rule(voters).synchronous_standby_names()
}

/// a leads in zone x, where b and c are as well; d is elsewhere. All three vote, two are needed.
fn observation(now: Millis, loaded: String) -> Observation {
    let member = |it: &str| {
        let zone = if it == "d" { "y" } else { "x" };
        let record = json!({
            "conn_url": "postgres://h:1/postgres", "api_url": "http://h:2/patroni", "state": "running", "version": "4.1.5",
            "role": if it == "a" { "primary" } else { "replica" }, "timeline": 2, "incarnation": data(it), "epoch": 3,
            "tags": { "zone": zone },
        });
        (name(it), serde_json::from_value(record).unwrap())
    };
    let sync: SyncRecord = serde_json::from_value(json!({
        "leader": "a", "sync_standby": null, "quorum": 0, "epoch": 3, "serial": 40, "incarnation": data("a"),
        "rule": rule(&["b", "c", "d"]), "established": true, "timeline": 2, "membership": ["a", "b", "c", "d"],
    }))
    .unwrap();
    let view = ClusterView {
        revision: 90,
        initialize: Some(Versioned { revision: 1, value: "7575".into() }),
        leader: Some(LeaderKey { name: name("a"), revision: 50, held: true }),
        sync: Some(Versioned { revision: 60, value: sync.clone() }),
        members: ["a", "b", "c", "d"].map(member).into(),
        ..ClusterView::default()
    };
    let facts = DataFacts {
        system_identifier: "7575".into(),
        incarnation: Some(data("a")),
        timeline: 2,
        checkpoint: Lsn(100),
        clean: false,
        standby: false,
        unclaimed: false,
    };
    let running = Running {
        in_recovery: false,
        timeline: 2,
        lsn: Lsn(500),
        receiving: false,
        streaming: false,
        caught_up: true,
        upstream: None,
        synchronous_standby_names: loaded,
        replicas: ["b", "c", "d"].map(|it| (application_name(&name(it), &data(it)), Lsn(500))).into(),
    };
    Observation {
        lease: Some(Lease { renewed: now - 100, until: now + 4_900 }),
        newest: Some(sync),
        guarded_until: Some(now + 4_900),
        ..common::observation(now, view, Data::Ready(facts), Server::Running(running))
    }
}

fn asked(decision: &Decision) -> &str {
    let asked = decision.actions.iter().rev().find_map(|action| match action {
        Action::Configure(settings) => Some(settings.synchronous_standby_names.as_str()),
        _ => None,
    });
    asked.unwrap()
}

#[test]
fn neighbours_are_exchanged_by_way_of_neither() {
    let synchronous = Synchronous { needed: 2, zones: Zones::Require, ..Synchronous::default() };
    let policy = Policy { synchronous, zone: Some("x".to_owned()), ..policy("a") };
    // b is preferred to c, which is in the names that PostgreSQL has.
    let (before, between, after) = (names(&["c", "d"]), names(&["d"]), names(&["b", "d"]));
    let mut memory = Memory::default();
    let mut look = |now: Millis, loaded: &str| {
        let decision = decide(&policy, &memory, &observation(now, loaded.to_owned()));
        memory = decision.memory.clone();
        asked(&decision).to_owned()
    };
    assert_eq!(look(10_000, &before), before, "who has loaded them is not known yet");
    assert_eq!(look(10_100, &before), between, "{before}, and then {after}, would let b and c do");
    assert_eq!(look(10_110, &between), between, "a walsender may be late");
    assert_eq!(look(10_209, &between), between);
    assert_eq!(look(10_210, &between), after);
    assert_eq!(look(10_220, &after), after);
    assert_eq!(look(10_400, &after), after);
}

#[test]
fn nothing_is_held_up_where_zones_are_not_insisted_on() {
    let synchronous = Synchronous { needed: 2, zones: Zones::Prefer, ..Synchronous::default() };
    let policy = Policy { synchronous, zone: Some("x".to_owned()), ..policy("a") };
    let decision = decide(&policy, &Memory::default(), &observation(10_000, names(&["c", "d"])));
    assert_eq!(asked(&decision), names(&["b", "d"]));
    assert_eq!(decision.memory.names, None);
}
