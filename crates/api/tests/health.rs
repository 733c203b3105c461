//! Health checks: every path against every kind of member, through a real listener.

mod common;

use common::*;
use matriarch_api::*;

/// Paths that answer 200 for a kind of member; all others must answer 503.
const MATRIX: &[(&str, &str)] = &[
    (
        "primary",
        "/ /primary /read-write /master /leader /read-only /read-only-sync /read-only-synchronous /read-only-quorum /health /liveness /readiness",
    ),
    ("replica", "/replica /read-only /async /asynchronous /health /liveness /readiness"),
    (
        "sync standby",
        "/replica /read-only /sync /synchronous /read-only-sync /read-only-synchronous /health /liveness /readiness",
    ),
    ("voter", "/replica /read-only /quorum /read-only-quorum /health /liveness /readiness"),
    ("replica noloadbalance", "/health /liveness /readiness"),
    ("replica stopped", "/liveness"),
    ("replica not streaming", "/replica /read-only /async /asynchronous /health /liveness"),
    ("primary without the lead", "/health /liveness"),
    ("primary out of lease", "/health /liveness"),
    ("primary stuck", "/health"),
    ("leader still in recovery", "/leader /replica /read-only /async /asynchronous /health /liveness /readiness"),
    (
        "leader of a standby cluster",
        "/leader /standby-leader /standby_leader /read-only /read-only-sync /read-only-synchronous /read-only-quorum /health /liveness /readiness",
    ),
    (
        "paused primary without a store",
        "/ /primary /read-write /master /leader /read-only /read-only-sync /read-only-synchronous /read-only-quorum /health /liveness /readiness",
    ),
];

fn make(kind: &str) -> (MemberStatus, Live) {
    let stuck = Live { loop_age: std::time::Duration::from_secs(6), lease_remaining: Some(std::time::Duration::ZERO) };
    let lapsed = Live { lease_remaining: Some(std::time::Duration::ZERO), ..leading() };
    let with = |mut member: MemberStatus, change: fn(&mut MemberStatus)| {
        change(&mut member);
        member
    };
    match kind {
        "primary" => (primary(), leading()),
        "replica" => (replica(), following()),
        "sync standby" => (with(replica(), |m| m.sync_standby = true), following()),
        "voter" => (with(replica(), |m| m.quorum_standby = true), following()),
        "replica noloadbalance" => {
            (with(replica(), |m| drop(m.tags.insert("noloadbalance".into(), true.into()))), following())
        }
        "replica stopped" => (with(replica(), |m| m.state = "stopped".into()), following()),
        "replica not streaming" => (with(replica(), |m| m.replication_state = None), following()),
        "primary without the lead" => (with(primary(), |m| m.matriarch.leader = false), following()),
        "primary out of lease" => (primary(), lapsed),
        "primary stuck" => (primary(), stuck),
        "leader still in recovery" => (with(replica(), |m| m.matriarch.leader = true), leading()),
        "leader of a standby cluster" => (
            with(replica(), |m| {
                m.matriarch.leader = true;
                m.matriarch.standby_cluster = true;
                m.role = "standby_leader".into();
            }),
            leading(),
        ),
        "paused primary without a store" => (
            with(primary(), |m| {
                m.pause = true;
                m.matriarch.store_reachable = false;
                m.matriarch.leader = false;
            }),
            stuck,
        ),
        _ => panic!("no member {kind}"),
    }
}

#[tokio::test]
async fn every_path_for_every_kind_of_member() {
    let server = start().await;
    for (kind, passing) in MATRIX {
        let (member, live) = make(kind);
        *server.script.member.lock().unwrap() = member;
        *server.script.live.lock().unwrap() = live;
        for (path, ..) in health::CHECKS {
            let expected = if passing.split(' ').any(|known| known == *path) { 200 } else { 503 };
            assert_eq!(server.get(path).await, expected, "GET {path} of {kind}");
        }
    }
}

#[tokio::test]
async fn head_and_options_answer_the_code_alone() {
    let server = start().await;
    for (method, path, expected) in
        [("OPTIONS", "/primary", 200), ("OPTIONS", "/replica", 503), ("HEAD", "/", 200), ("HEAD", "/sync", 503)]
    {
        let (status, _, body) = server.http(method, path, "", "").await;
        assert_eq!((status, body.as_str()), (expected, ""), "{method} {path}");
    }
    let (status, _, body) = server.http("GET", "/replica", "", "").await;
    let body: MemberStatus = serde_json::from_str(&body).unwrap();
    assert_eq!((status, body.role.as_str()), (503, "primary"), "a failed check still says what the member is");
    assert_eq!(server.http("GET", "/primary/", "", "").await.0, 200);
    assert_eq!(server.http("OPTIONS", "/replica/", "", "").await.0, 503);
}

#[tokio::test]
async fn queries_narrow_a_check() {
    let server = start().await;
    *server.script.live.lock().unwrap() = following();
    *server.script.member.lock().unwrap() = replica();
    for (path, expected) in [
        ("/replica?lag=1000", 200),
        ("/replica?lag=999", 503),
        ("/replica?lag=1kB", 200),
        ("/replica?lag=10MB", 200),
        ("/replica?lag=10mb", 200),
        ("/replica?lag=lots", 200),
        ("/replica?lag=", 200),
        ("/async?lag=999", 503),
        ("/read-only?lag=999", 503),
        ("/replica?replication_state=streaming", 200),
        ("/replica?replication_state=in%20archive%20recovery", 503),
        ("/replica?tag_zone=x", 200),
        ("/replica?tag_zone=y", 503),
        ("/replica?tag_fast=true", 200),
        ("/replica?tag_fast=false", 503),
        ("/replica?tag_none=1", 503),
        ("/health?tag_zone=y", 503),
        ("/replica?%zz=%", 200),
        ("/readiness?lag=999", 503),
        ("/readiness?lag=0&mode=write", 200),
        ("/readiness?lag=1kB&mode=apply", 200),
        ("/readiness", 200),
    ] {
        assert_eq!(server.get(path).await, expected, "{path}");
    }
    server.script.member.lock().unwrap().matriarch.maximum_lag_on_failover = 10;
    assert_eq!(server.get("/readiness").await, 503);
    let (_, _, reason) = server.http("GET", "/readiness", "", "").await;
    assert!(reason.contains("lags"), "{reason}");
}
