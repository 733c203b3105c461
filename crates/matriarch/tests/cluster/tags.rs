//! What members are tagged with, and what the cluster does because of it.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use matriarch_testkit::dir::TestDir;
use matriarch_testkit::faults;
use matriarch_testkit::observer::Probe;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{Cluster, Fault, PATIENCE, Plan, Witness, fault, health, wire};

/// Longer than a voter may be away before the rule is changed, and than a leader's lease.
pub const LONG: Duration = Duration::from_secs(8);

pub async fn set(cluster: &Cluster, setting: &str) {
    cluster.verb(&["config", "set", setting]).await.ok();
}

/// Waits until a statement on a member answers with what is wanted.
pub async fn until(cluster: &Cluster, name: &str, statement: &str, wanted: impl Fn(&str) -> bool) -> String {
    let begun = Instant::now();
    loop {
        let answer = cluster.ask(cluster.postgres_port(name), statement).await;
        match answer {
            Ok(answer) if wanted(&answer) => return answer,
            _ if begun.elapsed() < PATIENCE => tokio::time::sleep(Duration::from_millis(50)).await,
            answer => panic!("not after {PATIENCE:?}: {statement} on {name}: {answer:?}"),
        }
    }
}

/// The members named in a list of streaming names, in order.
fn members(names: &str) -> Vec<String> {
    let quoted = names.split('"').skip(1).step_by(2);
    quoted.map(|name| name.split(':').next().unwrap_or_default().to_owned()).collect()
}

/// Waits until the leader asks exactly these, in this order if it counts.
pub async fn asks(cluster: &Cluster, leader: &str, kind: &str, wanted: &[&str]) {
    let wanted: Vec<String> = wanted.iter().map(|name| (*name).to_owned()).collect();
    until(cluster, leader, "show synchronous_standby_names", |names| {
        names.starts_with(kind) && members(names) == wanted
    })
    .await;
}

/// Waits until the published rule is without a member, which comes after PostgreSQL has stopped asking it.
async fn does_not_vote(cluster: &Cluster, name: &str) {
    health::wait(cluster, PATIENCE, "fewer voters", |_, rows| {
        let row = rows.iter().find(|row| row["member"] == name)?;
        (row["role"] != "replica").then(|| format!("{row}"))
    })
    .await;
}

/// Waits until exactly these members stream from a member.
async fn feeds(cluster: &Cluster, name: &str, wanted: &[&str]) {
    let wanted: BTreeSet<String> = wanted.iter().map(|name| (*name).to_owned()).collect();
    let query = "SELECT coalesce(string_agg('\"' || application_name || '\"', ','), '') FROM pg_stat_replication \
                 WHERE state = 'streaming'";
    until(cluster, name, query, |names| members(names).into_iter().collect::<BTreeSet<_>>() == wanted).await;
}

/// The leader and the two others of a cluster of three.
async fn three(cluster: &Cluster) -> (String, String, String) {
    let leader = health::leader(cluster).await;
    let [first, second] = health::replicas(cluster).await.try_into().expect("there are three");
    (leader, first, second)
}

pub fn stop(cluster: &Cluster, name: &str) -> Vec<i32> {
    let pids = faults::node_processes(&cluster.member(name));
    faults::freeze(&pids);
    pids
}

/// Writes a row through the read-write port and waits until a member shows it.
async fn arrives(cluster: &Cluster, name: &str, row: u32) {
    let begun = Instant::now();
    let statement = format!("CREATE TABLE IF NOT EXISTS t (x int); INSERT INTO t VALUES ({row})");
    while let Err(error) = cluster.ask(cluster.read_write(), &statement).await {
        assert!(begun.elapsed() < PATIENCE, "row {row} cannot be written: {error:#}");
    }
    until(cluster, name, &format!("SELECT count(*) FROM t WHERE x = {row}"), |count| count != "0").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicatefrom_makes_a_cascade() {
    let cluster = Cluster::start("cascade").await;
    let (leader, middle, last) = three(&cluster).await;
    cluster.tag(&last, json!({"replicatefrom": middle})).await;
    feeds(&cluster, &middle, &[&last]).await;
    feeds(&cluster, &leader, &[&middle]).await;
    arrives(&cluster, &last, 1).await;
    // What it has says nothing to the leader, so it does not vote.
    asks(&cluster, &leader, "ANY 1", &[&middle]).await;

    let stopped = stop(&cluster, &middle);
    feeds(&cluster, &leader, &[&last]).await;
    asks(&cluster, &leader, "ANY 1", &[&last]).await;
    arrives(&cluster, &last, 2).await;
    faults::thaw(&stopped);
    feeds(&cluster, &middle, &[&last]).await;

    // The one in the middle leads: there is nothing between any more.
    feeds(&cluster, &leader, &[&middle]).await;
    asks(&cluster, &leader, "ANY 1", &[&middle]).await;
    does_not_vote(&cluster, &last).await;
    faults::kill(&[crate::harness::fault::postmaster(&cluster.data(&leader))]);
    feeds(&cluster, &middle, &[&leader, &last]).await;
    arrives(&cluster, &last, 3).await;
    health::well(&cluster, PATIENCE).await;

    cluster.be_patient().await;
    cluster.verb(&["switchover", "--candidate", &leader, "--force"]).await.ok();
    feeds(&cluster, &middle, &[&last]).await;
    feeds(&cluster, &leader, &[&middle]).await;
    arrives(&cluster, &last, 4).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_reads_and_votes_go_by_tags() {
    let cluster = Cluster::start("tags").await;
    let (leader, plain, tagged) = three(&cluster).await;
    let api = cluster.api_port(&tagged);
    let port = cluster.postgres_port(&tagged).to_string();
    assert_eq!(wire::http(api, "GET", "/replica", None, "").await.expect("it answers").status, 200);

    cluster.tag(&tagged, json!({"noloadbalance": true, "nosync": true, "clonefrom": true})).await;
    asks(&cluster, &leader, "ANY 1", &[&plain]).await;
    does_not_vote(&cluster, &tagged).await;
    assert_eq!(wire::http(api, "GET", "/replica", None, "").await.expect("it answers").status, 503);
    let reads = async || cluster.ask(cluster.read_only(), "show port").await.expect("somebody answers");
    let begun = Instant::now();
    let mut spared = 0;
    while spared < 20 {
        spared = if reads().await == port { 0 } else { spared + 1 };
        assert!(begun.elapsed() < PATIENCE, "read-only sessions still go to {tagged}");
    }

    let label = cluster.data(&plain).join("backup_label.old");
    let before = std::fs::read_to_string(&label).unwrap_or_default();
    assert!(before.contains("BACKUP FROM: primary"), "the first copy is the leader's: {before}");
    cluster.verb(&["reinit", &plain, "--force", "--wait"]).await.ok();
    feeds(&cluster, &leader, &[&plain, &tagged]).await;
    let after = std::fs::read_to_string(&label).unwrap_or_default();
    assert!(after.contains("BACKUP FROM: standby"), "the copy is the tagged member's: {after}");

    cluster.tag(&tagged, json!({})).await;
    health::well(&cluster, PATIENCE).await;
    let begun = Instant::now();
    while reads().await != port {
        assert!(begun.elapsed() < PATIENCE, "no read-only session goes to {tagged}");
    }
}

/// Waits until the leader has read of a member's tag.
async fn is_known(cluster: &Cluster, leader: &str, name: &str, tag: &str, value: i64) {
    let begun = Instant::now();
    loop {
        let answer = wire::http(cluster.api_port(leader), "GET", "/cluster", None, "").await.expect("it answers");
        let page: Value = serde_json::from_str(&answer.body).expect("it is JSON");
        let rows = page["members"].as_array().cloned().unwrap_or_default();
        if rows.iter().any(|row| row["name"] == name && row["tags"][tag] == value) {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "{name} is not known with {tag} {value}: {page:#}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The primary fails under `FIRST 1`: once while nothing is written, so that all replicas have the same and only their
/// priorities tell them apart, and once under writes.
async fn fails_over_by_priority(cluster: &Cluster, leader: &str, first: &str, second: &str) {
    cluster.tag(second, json!({"sync_priority": 5, "failover_priority": 2})).await;
    is_known(cluster, leader, second, "failover_priority", 2).await;
    faults::kill(&[fault::postmaster(&cluster.data(leader))]);
    // By their names it would be the other one's turn.
    feeds(cluster, second, &[leader, first]).await;
    asks(cluster, second, "FIRST 1", &[first, leader]).await;
    arrives(cluster, first, 2).await;
    health::well(cluster, PATIENCE).await;
    assert_eq!(health::leader(cluster).await, second, "the higher failover_priority wins among equals");

    let witness = Witness::attach(cluster, Probe::Status).await;
    let struck = Fault::KillPostmaster.strike(cluster, 1).await;
    assert_eq!(struck.victim, second);
    witness.writes_again("the primary of a cluster with FIRST 1 was killed").await;
    struck.replaced();
    health::well(cluster, PATIENCE).await;
    let now = health::leader(cluster).await;
    // Those that are left in the order of their priorities: 7, 5, and 1 unless tagged.
    let voters: Vec<&str> = [first, second, leader].into_iter().filter(|name| *name != now).collect();
    asks(cluster, &now, "FIRST 1", &voters).await;
    witness.conclude(cluster).await;
    // Either may have had more.
    if now != leader {
        cluster.be_patient().await;
        cluster.verb(&["switchover", "--candidate", leader, "--force"]).await.ok();
    }
    asks(cluster, leader, "FIRST 1", &[first, second]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_voters_are_those_of_the_highest_priority() {
    let cluster = Cluster::start("priority").await;
    let (leader, first, second) = three(&cluster).await;
    set(&cluster, "synchronous_mode=on").await;
    asks(&cluster, &leader, "FIRST 1", &[&first, &second]).await;
    cluster.tag(&second, json!({"sync_priority": 5})).await;
    asks(&cluster, &leader, "FIRST 1", &[&second, &first]).await;
    cluster.tag(&first, json!({"sync_priority": 7})).await;
    asks(&cluster, &leader, "FIRST 1", &[&first, &second]).await;
    until(&cluster, &leader, "SELECT application_name FROM pg_stat_replication WHERE sync_state = 'sync'", |name| {
        name.starts_with(&format!("{first}:"))
    })
    .await;
    arrives(&cluster, &first, 1).await;
    fails_over_by_priority(&cluster, &leader, &first, &second).await;
    cluster.tag(&first, json!({"sync_priority": 0})).await;
    asks(&cluster, &leader, "FIRST 1", &[&second]).await;
    set(&cluster, "synchronous_mode=quorum").await;
    cluster.tag(&first, json!({})).await;
    health::well(&cluster, PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn zones_that_are_required_block_and_those_preferred_do_not() {
    let cluster = Cluster::start("zones").await;
    let (leader, near, far) = three(&cluster).await;
    for (name, zone) in [(&leader, "x"), (&near, "x"), (&far, "y")] {
        cluster.tag(name, json!({"zone": zone})).await;
    }
    asks(&cluster, &leader, "ANY 1", &[&far]).await;
    set(&cluster, "synchronous_zones=require").await;
    arrives(&cluster, &far, 1).await;

    let stopped = stop(&cluster, &far);
    let dsn = cluster.dsn(cluster.read_write());
    let mut write =
        tokio::spawn(
            async move { wire::ask_within(LONG + PATIENCE, &dsn, "INSERT INTO t VALUES (2) RETURNING x").await },
        );
    let early = tokio::time::timeout(LONG, &mut write).await;
    assert!(early.is_err(), "acknowledged within one zone: {early:?}");
    faults::thaw(&stopped);
    let written = tokio::time::timeout(PATIENCE, write).await.expect("it comes back with the voter");
    assert_eq!(written.expect("the task lives").expect("the session was held"), "2");
    arrives(&cluster, &far, 3).await;
    assert_eq!(health::leader(&cluster).await, leader, "nobody else may lead meanwhile");

    set(&cluster, "synchronous_zones=prefer").await;
    asks(&cluster, &leader, "ANY 1", &[&far]).await;
    let stopped = stop(&cluster, &far);
    asks(&cluster, &leader, "ANY 1", &[&near]).await;
    arrives(&cluster, &near, 4).await;
    faults::thaw(&stopped);
    asks(&cluster, &leader, "ANY 1", &[&far]).await;
    arrives(&cluster, &far, 5).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_voter_too_far_behind_leaves_until_it_has_caught_up() {
    let cluster = Cluster::start("lag").await;
    let (leader, other, slow) = three(&cluster).await;
    set(&cluster, "maximum_lag_on_syncnode=1048576").await;
    let both: Vec<&str> = if other < slow { vec![&other, &slow] } else { vec![&slow, &other] };
    asks(&cluster, &leader, "ANY 1", &both).await;
    let fill = "CREATE TABLE IF NOT EXISTS filler (x text); \
                INSERT INTO filler SELECT repeat('x', 1000) FROM generate_series(1, 8000)";

    // It has on disk what it does not show yet: that counts.
    cluster.ask(cluster.postgres_port(&slow), "SELECT pg_wal_replay_pause()").await.expect("it answers");
    cluster.ask(cluster.read_write(), fill).await.expect("writes go on");
    // What it has not received yet would count, too.
    let behind =
        "SELECT count(*) FROM pg_stat_replication WHERE pg_wal_lsn_diff(pg_current_wal_lsn(), flush_lsn) < 1048576";
    until(&cluster, &leader, behind, |count| count == "2").await;
    asks(&cluster, &leader, "ANY 1", &both).await;
    let begun = Instant::now();
    while begun.elapsed() < LONG {
        let names = cluster.ask(cluster.postgres_port(&leader), "show synchronous_standby_names").await;
        assert_eq!(members(&names.expect("it answers")), both, "a replica that does not replay still votes");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    cluster.ask(cluster.postgres_port(&slow), "SELECT pg_wal_replay_resume()").await.expect("it answers");

    let receiver = until(&cluster, &slow, "SELECT pid FROM pg_stat_wal_receiver", |pid| !pid.is_empty()).await;
    let receiver: i32 = receiver.parse().expect("it is a pid");
    assert!(faults::signal(receiver, Signal::STOP));
    cluster.ask(cluster.read_write(), fill).await.expect("writes go on");
    asks(&cluster, &leader, "ANY 1", &[&other]).await;
    arrives(&cluster, &other, 1).await;
    faults::signal(receiver, Signal::CONT);
    asks(&cluster, &leader, "ANY 1", &both).await;
    health::well(&cluster, PATIENCE).await;
}

/// Closes the leader's segment, so that it is archived, and waits until a member that reads the archive shows the row.
async fn arrives_by_archive(cluster: &Cluster, leader: &str, name: &str, row: u32) {
    arrives(cluster, leader, row).await;
    cluster.ask(cluster.postgres_port(leader), "SELECT pg_switch_wal()").await.expect("it answers");
    until(cluster, name, &format!("SELECT count(*) FROM t WHERE x = {row}"), |count| count == "1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nostream_follows_through_the_archive_across_a_failover_and_never_votes() {
    let place = TestDir::new("archive");
    let archive = place.create("wal").display().to_string();
    // Under its name a segment is there as a whole, or not at all.
    let put = format!("archive_command=cp %p {archive}/%f.part && mv {archive}/%f.part {archive}/%f");
    let get = format!("restore_command=cp {archive}/%f %p");
    let settings = ["archive_mode=on", "wal_retrieve_retry_interval=200ms", &put, &get];
    let plan = settings.iter().fold(Plan::new("nostream"), |plan, setting| plan.argument("--set").argument(setting));
    let cluster = plan.start().await;
    let (leader, plain, tagged) = three(&cluster).await;

    cluster.tag(&tagged, json!({"nostream": true})).await;
    asks(&cluster, &leader, "ANY 1", &[&plain]).await;
    feeds(&cluster, &leader, &[&plain]).await;
    health::wait(&cluster, PATIENCE, "in archive recovery, and well", |_, rows| {
        let row = rows.iter().find(|row| row["member"] == tagged.as_str())?;
        let well = row["state"] == "in archive recovery" && row["role"] == "replica" && row["problem"].is_null();
        (!well).then(|| format!("{row}"))
    })
    .await;
    let slots = format!("SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{tagged}'");
    until(&cluster, &leader, &slots, |count| count == "0").await;
    arrives_by_archive(&cluster, &leader, &tagged, 1).await;
    for path in ["/replica", "/readiness", "/read-only"] {
        let answer = wire::http(cluster.api_port(&tagged), "GET", path, None, "").await.expect("it answers");
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
    }

    // Whoever is to stream from it does; it has no word for the leader, so nobody votes then.
    cluster.tag(&plain, json!({"replicatefrom": tagged})).await;
    feeds(&cluster, &tagged, &[&plain]).await;
    arrives_by_archive(&cluster, &leader, &plain, 2).await;
    cluster.tag(&plain, json!({})).await;
    asks(&cluster, &leader, "ANY 1", &[&plain]).await;
    // PostgreSQL asks for it first; the rule is published when that is proved.
    health::wait(&cluster, PATIENCE, "a voter again", |_, rows| {
        let row = rows.iter().find(|row| row["member"] == plain.as_str())?;
        (row["role"] != "quorum_standby").then(|| format!("{row}"))
    })
    .await;

    faults::kill(&[crate::harness::fault::postmaster(&cluster.data(&leader))]);
    feeds(&cluster, &plain, &[&leader]).await;
    asks(&cluster, &plain, "ANY 1", &[&leader]).await;
    arrives_by_archive(&cluster, &plain, &tagged, 3).await;
    let timeline = "SELECT substr(last_archived_wal, 1, 8) >= '00000002' FROM pg_stat_archiver";
    until(&cluster, &plain, timeline, |second| second == "t").await;

    // Without a command nothing reaches it, and it says so.
    set(&cluster, "postgresql.parameters.restore_command=null").await;
    health::wait(&cluster, PATIENCE, "a complaint", |_, rows| {
        let row = rows.iter().find(|row| row["member"] == tagged.as_str())?;
        let told = row["problem"].as_str().is_some_and(|problem| problem.contains("restore_command"));
        (!told).then(|| format!("{row}"))
    })
    .await;
    cluster.tag(&tagged, json!({})).await;
    health::well(&cluster, PATIENCE).await;
}
