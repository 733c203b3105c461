//! A store in trouble. The primary goes on without it as long as its voters stand by it, or under the empty rule all
//! members; nobody is promoted meanwhile.

use std::time::{Duration, Instant};

use matriarch_testkit::observer::Probe;
use serde_json::json;

use crate::harness::hosts::Plan;
use crate::harness::trouble::{Trouble, endure};
use crate::harness::{Hosts, PATIENCE, Subject, Witness, health, wire};
use crate::{survive, survive_on};

/// Many times as long as a lease lives.
const OUTAGE: Duration = Duration::from_secs(60);
/// Longer than a lease lives.
const WHILE: Duration = Duration::from_secs(12);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_primary_cut_off_from_the_store() {
    survive("cut-store", &[Trouble::PrimaryFromStore, Trouble::PrimaryWithMinority]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_server_of_the_store() {
    survive_on(Plan::new("store").newest(), &[Trouble::StoreNodeKilled, Trouble::StoreNodeFrozen]).await;
}

/// The running primary writes the records anew, and nobody else even tries: not a former primary either.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_record_deleted() {
    let Some(mut hosts) = Plan::new("store-wiped").newest().start().await else { return };
    let witness = Witness::attach(&hosts, Probe::Write).await;
    for round in 0..3 {
        endure(&mut hosts, &witness, Trouble::Switchover, Duration::ZERO, round).await;
        let leader = health::leader(&hosts).await;
        endure(&mut hosts, &witness, Trouble::StoreWiped, Duration::from_secs(1), round).await;
        assert_eq!(health::leader(&hosts).await, leader);
    }
    witness.conclude(&hosts).await;
    let founded = |name: &String| hosts.log(name).matches("why=\"bootstrap_found\"").count();
    assert_eq!(hosts.names().iter().map(founded).sum::<usize>(), 1, "founded once, at the beginning");
}

/// No write fails, whatever becomes of the store, and the same member leads afterwards.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_of_the_store_away_for_a_minute() {
    let Some(mut hosts) = Plan::new("store-away").newest().start().await else { return };
    let leader = health::leader(&hosts).await;
    let witness = Witness::patient(&hosts, Probe::Status).await;
    endure(&mut hosts, &witness, Trouble::StoreDown, OUTAGE, 1).await;
    for trouble in [Trouble::StoreSplit, Trouble::StoreFrozen] {
        endure(&mut hosts, &witness, trouble, WHILE, 1).await;
    }
    let summary = witness.conclude(&hosts).await;
    assert_eq!(
        (summary.refused, summary.unknown, summary.connect_errors, summary.idle_cuts),
        (0, 0, 0, 0),
        "{summary:?}"
    );
    assert_eq!(health::leader(&hosts).await, leader);
}

/// Under the empty rule every member has to promise not to take over: the primary goes on while all do, and stops before its
/// lease ends when one is silent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_asynchronous_primary_goes_on_only_while_all_members_answer() {
    let dynamic = json!({"synchronous_mode": "off"});
    let Some(mut hosts) = (Plan { dynamic, ..Plan::new("promises") }).prepare() else { return };
    hosts.start_all();
    health::streaming(&hosts, PATIENCE).await;
    let leader = health::leader(&hosts).await;
    let witness = Witness::patient(&hosts, Probe::Status).await;
    let begun = Trouble::StoreDown.begin(&mut hosts, 1).await;
    tokio::time::sleep(WHILE).await;
    witness.writes_again("the store has been away for longer than a lease").await;
    let summary = witness.so_far();
    let failed = (summary.refused, summary.unknown, summary.connect_errors, summary.idle_cuts);
    assert_eq!(failed, (0, 0, 0, 0), "while all answer: {summary:?}");

    let silent = hosts.others(&leader)[0].clone();
    hosts.node(&silent).freeze().expect("it can be frozen");
    until_it_takes_no_writes(&hosts, &leader).await;
    let promoted = hosts.others(&leader).into_iter().filter(|name| *name != silent);
    for other in promoted {
        let said =
            wire::ask(&hosts.direct(&other), "SELECT pg_is_in_recovery()").await.unwrap_or_else(|_| "t".to_owned());
        assert_eq!(said, "t", "{other} was promoted without a store");
    }
    hosts.node(&silent).thaw().expect("it can be thawed");
    begun.end(&mut hosts);
    health::streaming(&hosts, PATIENCE).await;
    witness.writes_again("the store was back").await;
    witness.conclude(&hosts).await;
}

async fn until_it_takes_no_writes(hosts: &Hosts, leader: &str) {
    let deadline = Instant::now() + PATIENCE;
    while wire::ask(&hosts.direct(leader), "SELECT pg_is_in_recovery()").await.is_ok_and(|said| said == "f") {
        assert!(Instant::now() < deadline, "{leader} goes on although a member is silent");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
