//! A planned switchover seen from the leader: it stops PostgreSQL only when every living router holds new work and no
//! transaction is under way, and is called off at the bound.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeMap;

use matriarch_core::Lsn;
use matriarch_core::decide::{
    Action, ClusterView, Data, DataFacts, Decision, Finished, Job, JobFailure, LeaderKey, Memory, Millis, Observation,
    Running, Server, decide,
};
use matriarch_core::record::{RouterKind, RouterRecord, SyncRecord, Versioned};
use matriarch_core::transaction::Write;
use serde_json::json;

use common::{name, observation, policy};

/// A leader whose switchover to b is asked for, as a story of turns.
struct Story {
    memory: Memory,
    now: Millis,
    handover: bool,
    revision: u64,
    routers: BTreeMap<String, RouterRecord>,
    finished: Option<Finished>,
    /// `leader` of the request: none for a failover.
    from: Option<&'static str>,
    /// A restart is asked for instead.
    restart: bool,
    nothing_asked: bool,
}

impl Story {
    fn new(from: Option<&'static str>) -> Story {
        let routers = BTreeMap::new();
        Story {
            memory: Memory::default(),
            now: 1_000,
            handover: false,
            revision: 6,
            routers,
            finished: None,
            from,
            restart: false,
            nothing_asked: false,
        }
    }

    fn view(&self) -> ClusterView {
        let sync: SyncRecord = serde_json::from_value(json!({
            "leader": "a", "sync_standby": "b", "quorum": 0, "epoch": 2, "incarnation": "aaaaaaaa", "established": true,
            "rule": {"voters": {"b": "bbbbbbbb"}, "needed": 1}, "timeline": 2, "membership": ["a", "b"],
            "handover": self.handover,
        }))
        .unwrap();
        let member = |role: &str, incarnation: &str| {
            serde_json::from_value(json!({
                "conn_url": "postgres://h:1/postgres", "api_url": "http://h:2/patroni", "state": "running",
                "role": role, "version": "4.1.5", "timeline": 2, "incarnation": incarnation, "epoch": 2,
            }))
            .unwrap()
        };
        let request = serde_json::from_value(json!({"leader": self.from, "member": "b"})).unwrap();
        let asked = !self.restart && !self.nothing_asked;
        ClusterView {
            revision: 9,
            initialize: Some(Versioned { revision: 1, value: "7575".into() }),
            leader: Some(LeaderKey { name: name("a"), revision: 5, held: true }),
            sync: Some(Versioned { revision: self.revision, value: sync }),
            members: [(name("a"), member("primary", "aaaaaaaa")), (name("b"), member("replica", "bbbbbbbb"))].into(),
            failover: asked.then_some(Versioned { revision: 8, value: request }),
            failover_due: asked,
            routers: self.routers.clone(),
            ..ClusterView::default()
        }
    }

    fn turn(&mut self) -> Decision {
        let view = self.view();
        let data = Data::Ready(DataFacts {
            system_identifier: "7575".into(),
            incarnation: Some(serde_json::from_value(json!("aaaaaaaa")).unwrap()),
            timeline: 2,
            checkpoint: Lsn(50),
            clean: false,
            standby: false,
            unclaimed: false,
        });
        let server = Server::Running(Running {
            in_recovery: false,
            timeline: 2,
            lsn: Lsn(100),
            receiving: false,
            streaming: false,
            caught_up: true,
            upstream: None,
            synchronous_standby_names: "ANY 1 (\"b:bbbbbbbb\")".into(),
            replicas: BTreeMap::from([("b:bbbbbbbb".into(), Lsn(100))]),
        });
        let observation = Observation {
            finished: self.finished.clone(),
            restart: self.restart,
            ..observation(self.now, view, data, server)
        };
        let decision = decide(&policy("a"), &self.memory, &observation);
        self.memory = decision.memory.clone();
        decision
    }

    fn ends(&mut self, job: Job, failure: Option<&str>) {
        let failure = failure.map(|text| JobFailure { message: text.into(), hopeless: false });
        self.finished = Some(Finished { job, at: self.now, failure });
    }

    /// Up to the published hold.
    fn announced(&mut self) {
        assert_eq!(runs(&self.turn()), [Job::Checkpoint]);
        self.ends(Job::Checkpoint, None);
        assert_eq!(self.turn().why.code, "switchover_hold");
        (self.handover, self.revision) = (true, 10);
    }

    fn router(&mut self, id: &str, holds: Option<u64>) {
        let address = format!("{id}:6432");
        let record = RouterRecord { kind: RouterKind::Pooler, address, network: None, holds, problem: None };
        self.routers.insert(id.into(), record);
    }
}

fn runs(decision: &Decision) -> Vec<Job> {
    let jobs = decision.actions.iter().filter_map(|action| match action {
        Action::Run(job) => Some(job.clone()),
        _ => None,
    });
    jobs.collect()
}

fn takes_the_request_back(decision: &Decision) -> bool {
    decision.actions.iter().any(|action| match action {
        Action::Commit(change) => {
            change.txn.writes.iter().any(|write| matches!(write, Write::Delete { key } if key == "failover"))
        }
        _ => false,
    })
}

#[test]
fn every_living_router_is_waited_for() {
    let mut story = Story::new(Some("a"));
    story.router("r", None);
    story.router("s", Some(10));
    story.announced();
    let waits = story.turn();
    assert_eq!((runs(&waits), waits.why.code), (vec![], "switchover_hold"));
    assert!(waits.why.text.contains("the pooler at r:6432"), "{}", waits.why);
    assert!(waits.next_wake <= 6_000, "it looks again at the bound");

    // What it held for an announcement that is no more does not count.
    story.router("r", Some(6));
    assert_eq!(runs(&story.turn()), []);
    story.router("r", Some(10));
    assert_eq!(runs(&story.turn()), [Job::Settle]);
    story.ends(Job::Settle, None);
    assert_eq!(runs(&story.turn()), [Job::StopFast]);
}

#[test]
fn a_router_that_is_gone_is_not_waited_for() {
    let mut story = Story::new(Some("a"));
    story.router("r", None);
    story.announced();
    assert_eq!(runs(&story.turn()), []);
    story.routers.clear();
    assert_eq!(runs(&story.turn()), [Job::Settle]);
}

#[test]
fn a_router_that_does_not_hold_in_time_calls_it_off() {
    let mut story = Story::new(Some("a"));
    story.router("r", None);
    story.routers.get_mut("r").unwrap().problem = Some("it refuses the password".into());
    story.announced();
    story.now = 5_999;
    assert!(!takes_the_request_back(&story.turn()));
    story.now = 6_000;
    let off = story.turn();
    assert_eq!((runs(&off), off.why.code), (vec![], "switchover_refused"));
    assert!(takes_the_request_back(&off));
    assert!(off.why.text.contains("r:6432 (it refuses the password) did not hold"), "{}", off.why);
}

#[test]
fn a_transaction_that_does_not_end_calls_it_off() {
    let mut story = Story::new(Some("a"));
    story.announced();
    assert_eq!(runs(&story.turn()), [Job::Settle]);
    story.now = 6_500;
    story.ends(Job::Settle, Some("the transaction of process 7 did not end"));
    let off = story.turn();
    assert_eq!((runs(&off), off.why.code), (vec![], "switchover_refused"));
    assert!(takes_the_request_back(&off) && off.why.text.contains("process 7"), "{}", off.why);
}

#[test]
fn a_checkpoint_that_fails_is_told_and_stops_nothing() {
    for restart in [false, true] {
        let mut story = Story { restart, ..Story::new(Some("a")) };
        assert_eq!(runs(&story.turn()), [Job::Checkpoint]);
        story.ends(Job::Checkpoint, Some("No space left on device"));
        let goes_on = story.turn();
        assert_eq!(goes_on.why.code, "switchover_hold");
        assert!(goes_on.why.text.contains("checkpoint before it failed (No space left on device)"), "{}", goes_on.why);
        (story.handover, story.revision) = (true, 10);
        assert_eq!(runs(&story.turn()), [Job::Settle]);
    }
}

#[test]
fn a_failover_goes_on_at_the_bound() {
    let mut story = Story::new(None);
    story.router("r", None);
    story.announced();
    assert_eq!(runs(&story.turn()), []);
    story.now = 6_000;
    assert_eq!(runs(&story.turn()), [Job::Settle]);
    story.now = 11_000;
    story.ends(Job::Settle, Some("the transaction of process 7 did not end"));
    assert_eq!(runs(&story.turn()), [Job::StopFast]);
}

fn refuses(decision: &Decision) -> Option<&str> {
    decision.actions.iter().find_map(|action| match action {
        Action::RefuseRestart(reason) => Some(reason.as_str()),
        _ => None,
    })
}

#[test]
fn a_restart_waits_for_routers_and_transactions_and_lets_work_go_on_afterwards() {
    let mut story = Story { restart: true, ..Story::new(None) };
    story.router("r", None);
    story.announced();
    assert_eq!(runs(&story.turn()), []);
    story.router("r", Some(10));
    assert_eq!(runs(&story.turn()), [Job::Settle]);
    story.ends(Job::Settle, None);
    assert_eq!(runs(&story.turn()), [Job::Restart]);
    story.ends(Job::Restart, None);
    // Whoever asked has been told, and asks for nothing more.
    (story.restart, story.nothing_asked) = (false, true);
    assert_eq!(story.turn().why.code, "switchover_over");
}

#[test]
fn a_restart_is_called_off_when_a_router_or_a_transaction_is_in_the_way() {
    let mut story = Story { restart: true, ..Story::new(None) };
    story.router("r", None);
    story.announced();
    story.turn();
    story.now += policy("a").hold_timeout;
    let off = story.turn();
    assert!(
        runs(&off).is_empty() && refuses(&off).is_some_and(|text| text.contains("the pooler at r:6432")),
        "{off:?}"
    );

    let mut story = Story { restart: true, ..Story::new(None) };
    story.announced();
    assert_eq!(runs(&story.turn()), [Job::Settle]);
    story.ends(Job::Settle, Some("the transaction of process 7 did not end"));
    let off = story.turn();
    assert!(runs(&off).is_empty() && refuses(&off).is_some_and(|text| text.contains("process 7")), "{off:?}");
}
