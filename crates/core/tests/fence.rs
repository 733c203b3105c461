//! What a decision writes and claims when the leader is suspected, when the store is away, and when it went back in time.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeMap;

use matriarch_core::decide::{
    Action, Ailment, ClusterView, Data, DataFacts, Decision, Doubt, Evidence, Job, LeaderKey, Lease, Memory, Millis,
    Observation, Pledging, Policy, Pulse, Purpose, Running, Server, Settings, Stance, Support, Synchronous, decide,
};
use matriarch_core::record::{FailoverRequest, HistoryEntry, Pledge, PreviousRule, SyncRecord, Versioned, key};
use matriarch_core::rule::Rule;
use matriarch_core::transaction::{Compare, Txn, Write};
use matriarch_core::{Incarnation, Lsn};
use serde_json::json;

use common::{name, policy};

const NOW: Millis = 100_000;

fn data(member: &str) -> Incarnation {
    serde_json::from_value(json!(member.repeat(8))).unwrap()
}

/// Epoch 3 of a, serial 40; b and c are voters, one of whom is needed, unless `needed` is 0.
fn sync(needed: u32) -> SyncRecord {
    let voters = if needed == 0 { BTreeMap::new() } else { ["b", "c"].map(|voter| (name(voter), data(voter))).into() };
    serde_json::from_value(json!({
        "leader": "a", "sync_standby": null, "quorum": 0, "epoch": 3, "serial": 40, "incarnation": data("a"),
        "rule": Rule { voters, needed, ..Rule::default() }, "established": true, "timeline": 2,
        "membership": ["a", "b", "c"],
    }))
    .unwrap()
}

fn member(name: &str) -> serde_json::Value {
    json!({
        "conn_url": "postgres://h:1/postgres", "api_url": "http://h:2/patroni", "state": "running", "version": "4.1.5",
        "role": if name == "a" { "primary" } else { "replica" }, "timeline": 2, "incarnation": data(name), "epoch": 3,
    })
}

/// Member `me` looks at a cluster that a leads.
fn observation(me: &str, needed: u32) -> Observation {
    let members = ["a", "b", "c"].map(|it| (name(it), serde_json::from_value(member(it)).unwrap()));
    let leads = me == "a";
    let view = ClusterView {
        revision: 90,
        initialize: Some(Versioned { revision: 1, value: "7575".into() }),
        leader: Some(LeaderKey { name: name("a"), revision: 50, held: leads }),
        sync: Some(Versioned { revision: 60, value: sync(needed) }),
        members: members.into(),
        ..ClusterView::default()
    };
    let data = Data::Ready(DataFacts {
        system_identifier: "7575".into(),
        incarnation: Some(data(me)),
        timeline: 2,
        checkpoint: Lsn(100),
        clean: false,
        standby: !leads,
        unclaimed: false,
    });
    let server = Server::Running(Running {
        in_recovery: !leads,
        timeline: 2,
        lsn: Lsn(500),
        receiving: !leads,
        streaming: !leads,
        caught_up: true,
        upstream: (!leads).then(|| name("a")),
        synchronous_standby_names: if leads { sync(needed).rule.synchronous_standby_names() } else { String::new() },
        replicas: BTreeMap::new(),
    });
    Observation {
        lease: leads.then_some(Lease { renewed: NOW - 1_000, until: NOW + 4_000 }),
        pulse: if leads { Pulse::Unknown } else { Pulse::Alive { epoch: 3 } },
        newest: Some(sync(needed)),
        guarded_until: leads.then_some(NOW + 4_000),
        ..common::observation(NOW, view, data, server)
    }
}

fn detached(observation: &mut Observation) {
    let Server::Running(running) = &mut observation.server else { panic!("it runs") };
    (running.receiving, running.streaming, running.upstream) = (false, false, None);
}

fn suspect(observation: &mut Observation) {
    observation.pulse = Pulse::Suspected { since: NOW - 10, evidence: Evidence::Refused };
}

fn committed(decision: &Decision) -> Option<(Purpose, &Txn)> {
    decision.actions.iter().find_map(|action| match action {
        Action::Commit(change) => Some((change.purpose, &change.txn)),
        _ => None,
    })
}

fn compared(txn: &Txn, wanted: &str) -> Option<u64> {
    txn.compares.iter().find_map(|compare| match compare {
        Compare::Revision { key, revision } if key == wanted => Some(*revision),
        Compare::Absent { key } if key == wanted => Some(0),
        _ => None,
    })
}

fn written<T: serde::de::DeserializeOwned>(txn: &Txn, wanted: &str) -> Option<T> {
    txn.writes.iter().find_map(|write| match write {
        Write::Put { key, value, .. } if key == wanted => serde_json::from_str(value).ok(),
        _ => None,
    })
}

fn pledged(observation: &mut Observation, by: &str, revision: u64, withdrawn: bool) {
    let value = Pledge { epoch: 3, incarnation: data(by), timeline: 2, lsn: Lsn(500), withdrawn };
    observation.store.as_mut().unwrap().pledges.insert(name(by), Versioned { revision, value });
}

fn support(epoch: u64, ago: Millis, promised: Option<Millis>) -> Support {
    Support { incarnation: data("b"), epoch, heard: NOW - ago, promised_until: promised }
}

#[test]
fn a_suspected_leader_is_pledged_against_and_taken_over_while_its_key_is_there() {
    let mut seen = observation("b", 1);
    suspect(&mut seen);
    let first = decide(&policy("b"), &Memory::default(), &seen);
    assert_eq!((first.why.code, first.stance), ("election_stop_receiving", Stance::Neutral));
    assert_eq!(committed(&first), None, "no pledge while WAL is received");

    detached(&mut seen);
    let pledge = decide(&policy("b"), &first.memory, &seen);
    let (purpose, txn) = committed(&pledge).unwrap();
    assert_eq!(purpose, Purpose::Pledge);
    assert_eq!((compared(txn, key::SYNC), compared(txn, "pledges/b")), (Some(60), Some(0)));
    let rewritten: SyncRecord = written(txn, key::SYNC).unwrap();
    assert_eq!(rewritten, SyncRecord { serial: 41, quorum: 1, sync_standby: Some("b,c".into()), ..sync(1) });
    assert_eq!(pledge.memory.pledging.doubt, Doubt::Sent(None));

    pledged(&mut seen, "b", 70, false);
    let short = decide(&policy("b"), &pledge.memory, &seen);
    assert_eq!((short.why.code, committed(&short)), ("election_short", None), "one of two is no fence");

    pledged(&mut seen, "c", 71, true);
    let withdrawn = decide(&policy("b"), &pledge.memory, &seen);
    assert_eq!(committed(&withdrawn), None, "a withdrawn pledge counts nowhere");

    pledged(&mut seen, "c", 72, false);
    let decision = decide(&policy("b"), &pledge.memory, &seen);
    let (purpose, txn) = committed(&decision).unwrap();
    assert_eq!(purpose, Purpose::Takeover);
    let compares = [key::LEADER, key::SYNC, "pledges/b", "pledges/c"].map(|key| compared(txn, key));
    assert_eq!(compares, [Some(50), Some(60), Some(70), Some(72)]);
    let next = written::<SyncRecord>(txn, key::SYNC).unwrap();
    assert_eq!((next.epoch, next.serial, next.previous[0].held), (4, 41, Some((2, Lsn(500)))));
    let names = next.rule.synchronous_standby_names();
    assert!(
        decision.actions.contains(&Action::Configure(Settings { upstream: None, synchronous_standby_names: names }))
    );

    // A record of c from before its data was made anew has landed late: the rule and its pledge know better.
    seen.store.as_mut().unwrap().members.get_mut(&name("c")).unwrap().incarnation = Some(data("d"));
    let decision = decide(&policy("b"), &pledge.memory, &seen);
    let next: SyncRecord = written(committed(&decision).unwrap().1, key::SYNC).unwrap();
    assert!(next.rule.has(&name("c"), &data("c")), "{}", next.rule);
}

/// b took over at 2/500, and its data is gone before anybody streamed from it.
#[test]
fn whoever_holds_what_a_new_leader_began_with_may_succeed_it() {
    let judge = |held| {
        let mut seen = observation("c", 1);
        detached(&mut seen);
        let view = seen.store.as_mut().unwrap();
        view.leader = None;
        let sync = &mut view.sync.as_mut().unwrap().value;
        let (leader, incarnation, rule) = (name("a"), data("a"), sync.rule.clone());
        sync.previous = vec![PreviousRule { leader, incarnation, rule: rule.clone(), shutdown: None, held }];
        (sync.leader, sync.incarnation, sync.established) = (name("b"), data("d"), false);
        sync.rule = rule.only(|voter, _| *voter == name("c"));
        seen.pulse = Pulse::Unknown;
        pledged(&mut seen, "c", 72, false);
        decide(&policy("c"), &Memory { started: Some(0), ..Memory::default() }, &seen).why.code
    };
    assert_eq!(judge(None), "election_short", "nothing tells what b or a had acknowledged");
    assert_eq!(judge(Some((2, Lsn(501)))), "election_short");
    assert_eq!(judge(Some((2, Lsn(500)))), "takeover");
}

/// Asynchronous, a is gone and was last told at 2/1000; 100 bytes of lag are allowed and b has pledged at this position.
fn behind(timeline: u32, lsn: u64) -> Decision {
    let mut seen = observation("b", 0);
    let view = seen.store.as_mut().unwrap();
    view.leader = None;
    view.members.remove(&name("a"));
    view.members.remove(&name("c"));
    view.history = vec![HistoryEntry(1, 700, String::new(), String::new(), String::new())];
    (view.optime, view.optime_timeline) = (Lsn(1_000), 2);
    seen.alive.remove(&name("a"));
    seen.alive.remove(&name("c"));
    pledged(&mut seen, "b", 70, false);
    let pledge = seen.store.as_mut().unwrap().pledges.get_mut(&name("b")).unwrap();
    (pledge.value.timeline, pledge.value.lsn) = (timeline, Lsn(lsn));
    detached(&mut seen);
    let Server::Running(running) = &mut seen.server else { panic!("it runs") };
    (running.timeline, running.lsn) = (timeline, Lsn(lsn));
    let memory = Memory { started: Some(0), leaderless_since: Some(NOW - 60_000), ..Memory::default() };
    decide(&Policy { maximum_lag_on_failover: 100, ..policy("b") }, &memory, &seen)
}

#[test]
fn an_asynchronous_takeover_keeps_to_the_lag_limit() {
    for (timeline, lsn, allowed) in [
        (2, 1_000, true),
        (2, 900, true),
        (2, 899, false),
        // It never followed timeline 2, so that it holds nothing beyond 700 that anybody still has.
        (1, 5_000, false),
        // The position is of the time before a restore in place.
        (3, 10, true),
    ] {
        let decision = behind(timeline, lsn);
        let took = committed(&decision).is_some_and(|(purpose, _)| purpose == Purpose::Takeover);
        assert_eq!(took, allowed, "{timeline}/{lsn}: {:?}", decision.why);
        if !allowed {
            assert!(decision.why.text.contains("maximum_lag_on_failover (100 bytes)"), "{:?}", decision.why);
        }
    }
}

#[test]
fn whoever_is_handed_the_lead_takes_it_at_once_unless_it_may_not_lead() {
    let mut seen = observation("b", 1);
    detached(&mut seen);
    let view = seen.store.as_mut().unwrap();
    view.leader = None;
    view.sync.as_mut().unwrap().value.released = Some(
        serde_json::from_value(json!({
            "reason": "switchover", "timeline": 2, "shutdown_checkpoint": Lsn(400), "candidate": "b",
        }))
        .unwrap(),
    );
    let purpose = |may_lead: bool| {
        let decision = decide(&Policy { may_lead, ..policy("b") }, &Memory::default(), &seen);
        committed(&decision).map(|(purpose, _)| purpose)
    };
    assert_eq!((purpose(true), purpose(false)), (Some(Purpose::Takeover), Some(Purpose::Pledge)));
}

#[test]
fn suspicion_starts_nothing_without_a_rule_while_paused_or_once_the_store_knows_better() {
    for (needed, paused, since) in [(0, false, NOW - 10), (1, true, NOW - 10), (1, false, NOW - 10_000)] {
        let mut seen = observation("b", needed);
        seen.pulse = Pulse::Suspected { since, evidence: Evidence::Silent };
        let decision = decide(&Policy { paused, ..policy("b") }, &Memory::default(), &seen);
        assert_eq!(decision.why.code, "following", "needed {needed}, paused {paused}");
        assert_eq!(decision.stance, Stance::Follows { epoch: 3 });
    }
}

#[test]
fn nobody_streams_again_before_its_withdrawal_has_succeeded() {
    let mut seen = observation("b", 1);
    suspect(&mut seen);
    detached(&mut seen);
    let sent = decide(&policy("b"), &Memory::default(), &seen).memory;
    // The leader is heard again, and the pledge has not been answered: it may land or not.
    seen.pulse = Pulse::Alive { epoch: 3 };
    let decision = decide(&policy("b"), &sent, &seen);
    let (purpose, txn) = committed(&decision).unwrap();
    assert_eq!((purpose, decision.stance), (Purpose::Withdraw, Stance::Neutral));
    assert_eq!((compared(txn, key::SYNC), compared(txn, "pledges/b")), (Some(60), Some(0)));
    assert!(written::<Pledge>(txn, "pledges/b").unwrap().withdrawn);
    // It is counted too: a store that goes back to before it is noticed.
    assert_eq!(written::<SyncRecord>(txn, key::SYNC).map(|next| (next.epoch, next.serial)), Some((3, 41)));
    assert!(!decision.actions.iter().any(|action| matches!(action, Action::Configure(_))));
    // It landed first, so the withdrawal was refused: again, against what stands now.
    pledged(&mut seen, "b", 70, false);
    let again = decide(&policy("b"), &decision.memory, &seen);
    assert_eq!(compared(committed(&again).unwrap().1, "pledges/b"), Some(70));
    // Withdrawn: what was sent before can no longer land.
    pledged(&mut seen, "b", 75, true);
    let free = decide(&policy("b"), &again.memory, &seen);
    assert_eq!((committed(&free), free.stance), (None, Stance::Follows { epoch: 3 }));
    assert!(free.actions.iter().any(|action| matches!(action, Action::Configure(to) if to.upstream.is_some())));
    // A new process cannot know whether an earlier one sent a pledge that compares this very withdrawal.
    assert_eq!(committed(&decide(&policy("b"), &Memory::default(), &seen)).unwrap().0, Purpose::Withdraw);
    // In a new epoch nothing is left to withdraw.
    seen.store.as_mut().unwrap().sync.as_mut().unwrap().value.epoch = 4;
    assert_eq!(committed(&decide(&policy("b"), &sent, &seen)), None);
}

#[test]
fn voters_that_stand_by_extend_authority_and_nobody_else_does() {
    let authority = |needed: u32, support: &[(&str, Support)]| {
        let mut seen = observation("a", needed);
        seen.lease = Some(Lease { renewed: NOW - 6_000, until: NOW - 1_000 });
        seen.support = support.iter().map(|(of, word)| (name(of), word.clone())).collect();
        let decision = decide(&policy("a"), &Memory::default(), &seen);
        let goes_on = decision.why.code != "lease_lost";
        assert_eq!(goes_on, decision.authority > Some(NOW), "{decision:?}");
        (decision.authority.unwrap(), decision.asks_promise)
    };
    let ended = NOW - 1_000;
    assert_eq!(authority(1, &[]), (ended, false));
    assert_eq!(authority(1, &[("b", support(3, 300, None))]), (NOW + 4_700, false));
    assert_eq!(authority(1, &[("b", support(2, 300, None))]), (ended, false), "of another epoch");
    assert_eq!(authority(1, &[("c", support(3, 300, None))]), (ended, false), "with other data");
    assert_eq!(authority(1, &[("d", support(3, 300, None))]), (ended, false), "not a voter");
    assert_eq!(authority(0, &[("b", support(3, 300, None))]), (ended, true), "nothing was promised");
    let (soon, late) = (Some(NOW + 900), Some(NOW + 2_000));
    assert_eq!(authority(0, &[("b", support(3, 300, late))]), (ended, true), "c has not promised");
    assert_eq!(authority(0, &[("b", support(3, 300, late)), ("c", support(3, 9, soon))]), (NOW + 900, true));
}

/// A lone leader under the empty rule, whose guard holds beyond its lease since nobody else could take over.
#[test]
fn a_lone_leader_rests_on_its_lease_before_it_admits_others() {
    let lead = |newcomers: bool, guarded_until: Millis| {
        let mut seen = observation("a", 0);
        let sync = &mut seen.store.as_mut().unwrap().sync.as_mut().unwrap().value;
        sync.membership = [name("a")].into();
        seen.newest = Some(sync.clone());
        seen.alive.retain(|it| newcomers || *it == name("a"));
        seen.guarded_until = Some(guarded_until);
        let policy = Policy { synchronous: Synchronous { needed: 0, ..Synchronous::default() }, ..policy("a") };
        let decision = decide(&policy, &Memory::default(), &seen);
        (decision.authority.unwrap(), committed(&decision).map(|(purpose, _)| purpose))
    };
    let lease = NOW + 4_000;
    assert_eq!(lead(false, NOW + 5_000), (NOW + 5_000, None));
    assert_eq!(lead(true, NOW + 5_000), (lease, None), "the guard comes down first");
    assert_eq!(lead(true, lease), (lease, Some(Purpose::Membership)));
}

#[test]
fn a_leader_whose_lease_has_ended_in_the_store_says_that_it_leads_while_voters_stand_by() {
    let stance = |support: &[(&str, Support)]| {
        let mut seen = observation("a", 1);
        seen.lease = Some(Lease { renewed: NOW - 6_000, until: NOW - 1_000 });
        seen.store.as_mut().unwrap().leader.as_mut().unwrap().held = false;
        seen.support = support.iter().map(|(of, word)| (name(of), word.clone())).collect();
        let decision = decide(&policy("a"), &Memory::default(), &seen);
        assert_eq!(committed(&decision).unwrap().0, Purpose::Reclaim);
        decision.stance
    };
    assert_eq!(stance(&[("b", support(3, 300, None))]), Stance::Leads { epoch: 3 });
    assert_eq!(stance(&[]), Stance::Neutral, "as an agent that has just started");
}

#[test]
fn a_member_that_does_not_replay_takes_over_only_if_nobody_else_holds_as_much() {
    let judge = |c_may_lead: bool| {
        let mut seen = observation("b", 1);
        detached(&mut seen);
        let view = seen.store.as_mut().unwrap();
        (view.leader, view.members.get_mut(&name("b")).unwrap().replay_still) = (None, true);
        if !c_may_lead {
            view.members.get_mut(&name("c")).unwrap().tags.insert("nofailover".into(), json!(true));
        }
        seen.pulse = Pulse::Unknown;
        for (member, revision) in [("b", 70), ("c", 72)] {
            pledged(&mut seen, member, revision, false);
        }
        seen.ailment = Some(Ailment::ReplayStill { since: NOW - 4_000 });
        let decision = decide(&policy("b"), &Memory { started: Some(0), ..Memory::default() }, &seen);
        (decision.why.code, decision.actions.contains(&Action::Run(Job::StopImmediate)))
    };
    assert_eq!(judge(true), ("election_not_ours", false), "c is as far, and moves");
    assert_eq!(judge(false), ("replay_hangs", true), "a promotion would not end");
}

#[test]
fn a_stream_that_does_not_end_since_replay_stands_still_is_ended_with_postgres() {
    let mut seen = observation("b", 1);
    suspect(&mut seen);
    let waits = decide(&policy("b"), &Memory::default(), &seen);
    assert_eq!(waits.why.code, "election_stop_receiving");
    seen.ailment = Some(Ailment::ReplayStill { since: NOW - 4_000 });
    let ends = decide(&policy("b"), &Memory::default(), &seen);
    assert_eq!(ends.why.code, "replay_hangs");
    assert!(ends.actions.contains(&Action::Run(Job::StopImmediate)), "{ends:?}");
    let paused = decide(&Policy { paused: true, ..policy("b") }, &Memory::default(), &seen);
    assert!(!paused.actions.contains(&Action::Run(Job::StopImmediate)), "{paused:?}");
    assert!(paused.problem.unwrap_or_default().contains("nothing has been replayed for 4 s"));
}

#[test]
fn a_store_that_went_back_is_left_alone_but_by_the_running_primary() {
    let back = |me: &str| {
        let mut seen = observation(me, 1);
        let view = seen.store.as_mut().unwrap();
        view.sync.as_mut().unwrap().value.serial = 39;
        view.pledges.clear();
        seen
    };
    let mut voter = back("b");
    suspect(&mut voter);
    let decision = decide(&policy("b"), &Memory::default(), &voter);
    assert_eq!((decision.why.code, decision.actions.len()), ("store_went_back", 0));
    assert!(decision.problem.unwrap().contains("--accept-data-loss"), "it says what to do");

    // A pledge that it has withdrawn since, and has streamed beyond, it takes back again: that alone.
    let mut follower = back("b");
    pledged(&mut follower, "b", 30, false);
    let decision = decide(&policy("b"), &Memory::default(), &follower);
    let (purpose, txn) = committed(&decision).unwrap();
    assert_eq!((purpose, compared(txn, "pledges/b"), txn.writes.len()), (Purpose::Withdraw, Some(30), 1));
    assert!(written::<Pledge>(txn, "pledges/b").unwrap().withdrawn);
    assert_eq!(decision.why.code, "store_went_back");
    // One that it still stands by says what is true.
    let pledging = Pledging { epoch: Some(3), doubt: Doubt::Sent(None) };
    let memory = Memory { pledging, ..Memory::default() };
    detached(&mut follower);
    assert_eq!(committed(&decide(&policy("b"), &memory, &follower)), None);

    let mut primary = back("a");
    pledged(&mut primary, "c", 30, false);
    let decision = decide(&policy("a"), &Memory::default(), &primary);
    let (purpose, txn) = committed(&decision).unwrap();
    assert_eq!(purpose, Purpose::Recreate);
    let record: SyncRecord = written(txn, key::SYNC).unwrap();
    assert!(record.epoch == 3 && record.serial > 40);
    assert!(written::<Pledge>(txn, "pledges/c").unwrap().withdrawn, "it may have been withdrawn after the backup");

    // Refused after the lease was given up, it tries again as long as that would have lasted, and no longer.
    let mut refused = Observation { lease: None, ..primary };
    let again = decide(&policy("a"), &decision.memory, &refused);
    assert_eq!(committed(&again).map(|(purpose, _)| purpose), Some(Purpose::Recreate));
    refused.now = NOW + 4_000;
    assert_eq!(committed(&decide(&policy("a"), &again.memory, &refused)), None);
    refused.now = NOW;
    assert_eq!(committed(&decide(&policy("a"), &Memory::default(), &refused)), None, "nothing is known of a lease");

    // It has just taken over and is still to be promoted: the same, but for as long only as the lease of its takeover lasts.
    let mut elected = back("a");
    (elected.server, elected.support) = (observation("b", 1).server, BTreeMap::new());
    detached(&mut elected);
    let decision = decide(&policy("a"), &Memory::default(), &elected);
    assert_eq!(committed(&decision).map(|(purpose, _)| purpose), Some(Purpose::Recreate));
    assert_eq!(decision.stance, Stance::Leads { epoch: 3 });
    elected.now = NOW + 4_000;
    assert_eq!(committed(&decide(&policy("a"), &decision.memory, &elected)), None);

    // Wiped, and only a copy of the last primary's data that does not run: it founds nothing.
    let mut wiped = observation("a", 1);
    (wiped.store, wiped.server) = (Some(ClusterView::default()), Server::Stopped);
    let decision = decide(&policy("a"), &Memory::default(), &wiped);
    assert_eq!((decision.why.code, committed(&decision)), ("store_went_back", None));
}

fn accepted_on(member: &str) -> Option<Versioned<FailoverRequest>> {
    let value = FailoverRequest { member: Some(name(member)), accept_data_loss: true, ..FailoverRequest::default() };
    Some(Versioned { revision: 80, value })
}

#[test]
fn a_person_who_accepts_loss_in_a_store_that_went_back_goes_on_beyond_what_was_seen() {
    let accept = |c_has_pledged: bool| {
        let mut seen = observation("b", 1);
        detached(&mut seen);
        seen.pulse = Pulse::Unknown;
        seen.newest = Some(SyncRecord { epoch: 5, serial: 90, timeline: 7, ..sync(1) });
        pledged(&mut seen, "b", 70, false);
        if c_has_pledged {
            pledged(&mut seen, "c", 72, false);
        }
        let view = seen.store.as_mut().unwrap();
        (view.leader, view.failover, view.failover_due) = (None, accepted_on("b"), true);
        view.members.remove(&name("a"));
        decide(&policy("b"), &Memory { started: Some(0), leaderless_since: Some(0), ..Memory::default() }, &seen)
    };
    // By the old record the pledges of both voters would be enough, and its next numbers are taken already.
    let decision = accept(true);
    let (purpose, txn) = committed(&decision).unwrap();
    let next: SyncRecord = written(txn, key::SYNC).unwrap();
    assert_eq!((purpose, next.epoch, next.serial, next.timeline), (Purpose::Takeover, 6, 91, 8));
    assert!(next.accepted_loss.is_some(), "{next:?}");
    assert_eq!(compared(txn, key::SYNC), Some(60));
    let early = accept(false);
    assert_eq!((early.why.code, committed(&early)), ("accept_loss_refused", None));
}

#[test]
fn a_person_who_accepts_loss_in_a_wiped_store_founds_nothing_on_numbers_that_were_seen() {
    let wiped = |me: &str, newest: SyncRecord| {
        let mut seen = observation(me, 1);
        let members = std::mem::take(&mut seen.store.as_mut().unwrap().members);
        let members = members.into_iter().filter(|(it, _)| *it == name("c")).collect();
        seen.store =
            Some(ClusterView { members, failover: accepted_on(me), failover_due: true, ..ClusterView::default() });
        (seen.server, seen.pulse, seen.newest) = (Server::Stopped, Pulse::Unknown, Some(newest));
        decide(&policy(me), &Memory::default(), &seen)
    };
    // A primary's data, too, goes on with a promotion to a timeline of its own.
    let led = wiped("a", sync(1));
    assert_eq!((led.why.code, committed(&led)), ("start_to_promote", None));
    assert!(led.actions.contains(&Action::Run(Job::StartStandby)), "{led:?}");

    let voters = [(name("c"), data("c"))].into();
    let other =
        SyncRecord { leader: name("c"), incarnation: data("c"), rule: Rule { voters, ..sync(1).rule }, ..sync(1) };
    let lacking = wiped("b", other);
    assert_eq!((lacking.why.code, lacking.actions.len()), ("accept_loss_refused", 0));
    assert!(lacking.problem.unwrap().contains("c is there"), "it says whom to name");
}
