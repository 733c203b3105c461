//! `failover_priority`: among members that are as good in all that matters more, the one with the higher number is chosen, in an
//! election, for a switchover that names nobody, and by a primary whose volume is full.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeMap;

use matriarch_core::decide::{
    Action, Ailment, ClusterView, Data, DataFacts, Decision, Evidence, LeaderKey, Memory, Millis, Observation, Pulse,
    Running, Server, decide,
};
use matriarch_core::record::{FailoverRequest, MemberRecord, Pledge, SyncRecord, Versioned, key};
use matriarch_core::rule::Rule;
use matriarch_core::transaction::Write;
use matriarch_core::{Incarnation, Lsn};
use serde_json::json;

use common::{name, policy};

const NOW: Millis = 100_000;

fn data(member: &str) -> Incarnation {
    serde_json::from_value(json!(member.repeat(8))).unwrap()
}

fn rule() -> Rule {
    Rule { voters: ["b", "c"].map(|voter| (name(voter), data(voter))).into(), needed: 1, ..Rule::default() }
}

fn member(name: &str, priority: i64) -> MemberRecord {
    serde_json::from_value(json!({
        "conn_url": "postgres://h:1/postgres", "api_url": "http://h:2/patroni", "state": "running", "version": "4.1.5",
        "role": if name == "a" { "primary" } else { "replica" }, "timeline": 2, "incarnation": data(name), "epoch": 3,
        "tags": {"failover_priority": priority},
    }))
    .unwrap()
}

/// `me` looks at a cluster that a leads and b and c vote in, with these priorities of b and c, each at its position.
fn observation(me: &str, priorities: [i64; 2], positions: [u64; 2]) -> Observation {
    let sync: SyncRecord = serde_json::from_value(json!({
        "leader": "a", "sync_standby": null, "quorum": 0, "epoch": 3, "serial": 40, "incarnation": data("a"), "rule": rule(),
        "established": true, "timeline": 2, "membership": ["a", "b", "c"],
    }))
    .unwrap();
    let leads = me == "a";
    let members = [("a", 1), ("b", priorities[0]), ("c", priorities[1])];
    let view = ClusterView {
        revision: 90,
        initialize: Some(Versioned { revision: 1, value: "7575".into() }),
        leader: Some(LeaderKey { name: name("a"), revision: 50, held: leads }),
        sync: Some(Versioned { revision: 60, value: sync.clone() }),
        members: members.map(|(it, priority)| (name(it), member(it, priority))).into(),
        ..ClusterView::default()
    };
    let facts = DataFacts {
        system_identifier: "7575".into(),
        incarnation: Some(data(me)),
        timeline: 2,
        checkpoint: Lsn(100),
        clean: false,
        standby: !leads,
        unclaimed: false,
    };
    let replicas =
        [("b", positions[0]), ("c", positions[1])].map(|(it, lsn)| (format!("{it}:{}", it.repeat(8)), Lsn(lsn)));
    let running = Running {
        in_recovery: !leads,
        timeline: 2,
        lsn: Lsn(if me == "c" { positions[1] } else { positions[0] }),
        receiving: false,
        streaming: false,
        caught_up: true,
        upstream: None,
        synchronous_standby_names: if leads { rule().synchronous_standby_names() } else { String::new() },
        replicas: if leads { replicas.into() } else { BTreeMap::new() },
    };
    Observation {
        newest: Some(sync),
        guarded_until: leads.then_some(NOW + 4_000),
        ..common::observation(NOW, view, Data::Ready(facts), Server::Running(running))
    }
}

/// Who takes over once both have pledged against a leader that is gone, as both see it.
fn elected(priorities: [i64; 2], positions: [u64; 2]) -> String {
    let judge = |me: &str| {
        let mut seen = observation(me, priorities, positions);
        seen.pulse = Pulse::Suspected { since: NOW - 10, evidence: Evidence::Refused };
        let pledges = &mut seen.store.as_mut().unwrap().pledges;
        for (it, lsn) in ["b", "c"].into_iter().zip(positions) {
            let value = Pledge { epoch: 3, incarnation: data(it), timeline: 2, lsn: Lsn(lsn), withdrawn: false };
            pledges.insert(name(it), Versioned { revision: 70, value });
        }
        decide(&policy(me), &Memory::default(), &seen).why.code
    };
    match [judge("b"), judge("c")] {
        ["takeover", "election_not_our_turn" | "election_not_ours"] => "b".to_owned(),
        ["election_not_our_turn" | "election_not_ours", "takeover"] => "c".to_owned(),
        other => panic!("not one of them: {other:?}"),
    }
}

#[test]
fn in_an_election() {
    assert_eq!(elected([1, 1], [500, 500]), "b", "the first name");
    assert_eq!(elected([1, 2], [500, 500]), "c");
    assert_eq!(elected([7, 2], [500, 500]), "b");
    assert_eq!(elected([1, 100], [501, 500]), "b", "nothing counts as much as what a member has");
}

fn request(decision: &Decision) -> Option<FailoverRequest> {
    decision.actions.iter().find_map(|action| match action {
        Action::Commit(change) => change.txn.writes.iter().find_map(|write| match write {
            Write::Put { key, value, .. } if key == key::FAILOVER => serde_json::from_str(value).ok(),
            _ => None,
        }),
        _ => None,
    })
}

#[test]
fn in_a_switchover_that_names_nobody() {
    let chosen = |priorities, positions| {
        let mut seen = observation("a", priorities, positions);
        let view = seen.store.as_mut().unwrap();
        let value = FailoverRequest { leader: Some(name("a")), ..FailoverRequest::default() };
        (view.failover, view.failover_due) = (Some(Versioned { revision: 80, value }), true);
        let memory = decide(&policy("a"), &Memory::default(), &seen).memory;
        memory.switching.map(|switching| switching.candidate.to_string())
    };
    assert_eq!(chosen([2, 1], [500, 500]).as_deref(), Some("b"));
    assert_eq!(chosen([1, 2], [500, 500]).as_deref(), Some("c"));
    assert_eq!(chosen([2, 1], [500, 501]).as_deref(), Some("c"), "the least lag counts more");
}

#[test]
fn by_a_primary_whose_volume_is_full() {
    let chosen = |priorities, positions| {
        let mut seen = observation("a", priorities, positions);
        seen.ailment = Some(Ailment::Full { place: "/data".into(), free: 0 });
        let decision = decide(&policy("a"), &Memory::default(), &seen);
        assert_eq!(decision.why.code, "volume_full", "{decision:?}");
        request(&decision).unwrap().member.unwrap().to_string()
    };
    assert_eq!(chosen([2, 1], [500, 500]), "b");
    assert_eq!(chosen([1, 2], [500, 500]), "c");
    assert_eq!(chosen([2, 1], [500, 501]), "c", "the least lag counts more");
}
