//! Commits wait for the repository: an outage of it, a switchover, and a cluster that is destroyed and has lost nothing.

use std::path::{Path, PathBuf};
use std::time::Duration;

use matriarch_testkit::ledger::{Book, Ledger, Options};
use matriarch_testkit::{faults, postgres};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::destroyed::{move_data, restored, restored_from};
use crate::harness::{Cluster, PATIENCE, Plan, fault, health, wire};
use crate::{set, status, table, until};

fn holds(page: &Value) -> bool {
    page["durability"]["holds"] == true && page["durability"]["problem"].is_null()
}

/// `synchronous_standby_names` in force on the leader.
async fn names(cluster: &Cluster) -> String {
    let leader = health::leader(cluster).await;
    cluster.ask(cluster.postgres_port(&leader), "SHOW synchronous_standby_names").await.expect("it serves")
}

async fn until_named(cluster: &Cluster, what: &str, fits: impl Fn(&str) -> bool) {
    let begun = std::time::Instant::now();
    loop {
        let named = names(cluster).await;
        if fits(&named) {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "{what}: {named}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The rule among members changes while commits wait for the archive.
async fn rules(cluster: &Cluster) {
    cluster.verb(&["config", "set", "synchronous_mode=off"]).await.ok();
    let alone = |named: &str| named.starts_with("ANY 2 (\"matriarch_tail@") && named.matches('"').count() == 4;
    until_named(cluster, "nobody but the archive", alone).await;
    cluster.ask(cluster.read_write(), "INSERT INTO t VALUES (4)").await.expect("the archive takes it");
    cluster.verb(&["config", "set", "synchronous_mode=quorum"]).await.ok();
    let both = |named: &str| named.starts_with("ANY 3 (\"matriarch_tail@") && named.matches('"').count() == 8;
    until_named(cluster, "the voters as well", both).await;
    health::well(cluster, PATIENCE).await;
    until(cluster, "commits wait", holds).await;
}

/// Where the archive is required, nothing is acknowledged without it: without any of its repositories.
async fn required(cluster: &Cluster, place: &Path) {
    set(cluster, "durability", &json!("required")).await;
    until(cluster, "it is required", |page| holds(page) && page["durability"]["mode"] == "required").await;
    let away = cluster.root().join("away");
    std::fs::rename(place, &away).expect("they are on one file system");
    let (dsn, statement) = (cluster.dsn(cluster.read_write()), "INSERT INTO t VALUES (5)");
    let writing = wire::ask(&dsn, statement);
    tokio::pin!(writing);
    let early = tokio::time::timeout(Duration::from_millis(2500), &mut writing).await;
    assert!(early.is_err(), "it was acknowledged without the archive: {early:?}");
    let page = until(cluster, "it is said", |page| page["durability"]["problem"].is_string()).await;
    assert_eq!(page["durability"]["mode"], "required", "{page:#}");
    std::fs::rename(&away, place).expect("they are on one file system");
    writing.await.expect("it is acknowledged once the archive is back");
    until(cluster, "all is well again", holds).await;
}

/// The repository goes away: writes wait for it no longer than they may, and wait for it again once it is back.
async fn outage(cluster: &Cluster) {
    let (place, away) = (cluster.path().join("archive"), cluster.root().join("away"));
    std::fs::rename(&place, &away).expect("they are on one file system");
    let begun = std::time::Instant::now();
    cluster.ask(cluster.read_write(), "INSERT INTO t VALUES (2)").await.expect("it is acknowledged after all");
    let took = begun.elapsed();
    // What was acknowledged is nowhere but here, and that is said at once.
    let page = status(cluster).await;
    assert_eq!(page["durability"]["holds"], false, "acknowledged after {took:?}: {page:#}");
    assert_ne!(page["repositories"][0]["tail"]["awaited"], true, "{page:#}");
    assert!(took >= Duration::from_millis(500), "it did not wait for the repository: {took:?}");
    let shown = cluster.verb(&["archive", "status"]).await;
    assert!(shown.ok().contains("commits do NOT wait for every repository at the moment"), "{shown}");
    health::wait(cluster, PATIENCE, "the leader's problem is told", |_, rows| {
        let told = |row: &Value| row["problem"].as_str().is_some_and(|problem| problem.contains("archive"));
        (!rows.iter().any(told)).then(|| format!("{rows:?}"))
    })
    .await;
    cluster.ask(cluster.read_write(), "INSERT INTO t VALUES (3)").await.expect("writes go on");
    std::fs::rename(&away, &place).expect("they are on one file system");
    until(cluster, "commits wait again", holds).await;
}

/// The primary's agent dies first, and with it the tail; then everything else, while clients still write. What they remember.
async fn destroy(cluster: &mut Cluster) -> Book {
    let leader = health::leader(cluster).await;
    // No proxy stands between, which would die first.
    let dsn = cluster.dsn(cluster.postgres_port(&leader));
    let deadline = Duration::from_secs(20);
    let options = Options { writers: 4, every: Duration::from_millis(2), deadline, ..Options::new(dsn) };
    let ledger = Ledger::start(options).await.expect("the cluster takes writes");
    let begun = std::time::Instant::now();
    while ledger.progress().0 < 200 {
        assert!(begun.elapsed() < PATIENCE, "hardly anything is acknowledged: {:?}", ledger.progress());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    faults::kill(&[fault::agent(cluster, &leader)]);
    tokio::time::sleep(Duration::from_millis(150)).await;
    cluster.process().signal(Signal::KILL);
    let members = cluster.names().into_iter().flat_map(|name| faults::node_processes(&cluster.member(&name)));
    faults::kill(&members.collect::<Vec<i32>>());
    faults::kill(&faults::node_processes(&cluster.path()));
    ledger.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_with_the_whole_cluster() {
    let mut cluster = Plan::new("durable").archive().start().await;
    cluster.be_patient().await;
    until(&cluster, "the repository is open", |page| page["repositories"][0]["open"] == true).await;
    assert!(names(&cluster).await.starts_with("ANY 1 ("), "the rule of three members");
    set(&cluster, "durability_timeout", &json!(1)).await;
    set(&cluster, "durability", &json!("preferred")).await;
    until(&cluster, "commits wait", holds).await;
    let (named, rule) = (names(&cluster).await, cluster.verb(&["status"]).await.ok().to_owned());
    assert!(named.starts_with("ANY 3 (\"matriarch_tail@") && named.matches("matriarch_tail@").count() == 2, "{named}");
    assert!(rule.contains("any 1 of"), "the rule among members is as it was: {rule}");
    table(&cluster).await;
    cluster.verb(&["backup"]).await.ok();
    outage(&cluster).await;
    rules(&cluster).await;
    required(&cluster, &cluster.path().join("archive")).await;
    // Whoever leads, and whatever changes in the rule.
    cluster.verb(&["switchover", "--force"]).await.ok();
    health::well(&cluster, PATIENCE).await;
    until(&cluster, "commits wait for the new primary's tail", holds).await;
    let metrics = wire::http(cluster.api_port(&health::leader(&cluster).await), "GET", "/metrics", None, "").await;
    assert!(metrics.expect("it answers").body.contains("matriarch_archive_durable{"), "it is not counted");
    let archive = cluster.root().join("archive.yml");
    std::fs::write(&archive, cluster.verb(&["config", "show"]).await.ok()).expect("there is room");

    let book = destroy(&mut cluster).await;
    move_data(&cluster, "data", "data.destroyed");
    let target = cluster.root().join("restored");
    let verdict = restored(&cluster, &archive, &target, &book).await;
    let rows = book.summary().acknowledged;
    eprintln!("{rows} rows were acknowledged");
    assert!(verdict.lost.is_empty(), "{} of {rows} acknowledged rows are lost", verdict.lost.len());
}

/// The directories that the cluster archives into: the one it began with, and more.
async fn repositories(cluster: &Cluster, count: usize) -> Vec<PathBuf> {
    let more = (1..count).map(|number| cluster.root().join(format!("repository-{number}")));
    let places: Vec<PathBuf> = std::iter::once(cluster.path().join("archive")).chain(more).collect();
    if count > 1 {
        for place in &places[1..] {
            std::fs::create_dir(place).expect("there is room");
        }
        let section: Vec<Value> = places.iter().map(|place| json!({ "location": place })).collect();
        set(cluster, "repositories", &json!(section)).await;
        cluster.verb(&["archive", "init"]).await.ok();
    }
    until(cluster, "every repository is open", |page| {
        let rows = page["repositories"].as_array().map(Vec::as_slice).unwrap_or_default();
        rows.len() == count && rows.iter().all(|row| row["open"] == true)
    })
    .await;
    places
}

/// Another make of cluster, destroyed in the same way: each repository alone gives back all that was acknowledged.
async fn lost_and_nothing_with_it(name: &'static str, major: u32, members: u8, count: usize) {
    let Some(bins) = postgres::bins(major) else { return };
    let mut cluster = Plan::new(name).bins(bins).members(members).archive().start().await;
    cluster.be_patient().await;
    let places = repositories(&cluster, count).await;
    set(&cluster, "durability", &json!("required")).await;
    until(&cluster, "commits wait", holds).await;
    let named = names(&cluster).await;
    let tails = named.matches("matriarch_tail@").count();
    assert!(tails >= count && tails.is_multiple_of(count), "{count} repositories: {named}");
    table(&cluster).await;
    cluster.verb(&["backup"]).await.ok();
    required(&cluster, &places[count - 1]).await;
    let archive = cluster.root().join("archive.yml");
    std::fs::write(&archive, cluster.verb(&["config", "show"]).await.ok()).expect("there is room");

    let book = destroy(&mut cluster).await;
    move_data(&cluster, "data", "data.destroyed");
    for (number, place) in places.iter().enumerate() {
        let (target, place) = (cluster.root().join(format!("restored-{number}")), place.display().to_string());
        let verdict = restored_from(&cluster, &archive, &["--repository", &place], &target, &book).await;
        let rows = book.summary().acknowledged;
        assert!(verdict.lost.is_empty(), "{} of {rows} acknowledged rows are not in {place}", verdict.lost.len());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nor_with_a_single_member_and_two_repositories() {
    lost_and_nothing_with_it("durable-alone", 16, 1, 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nor_with_two_members_of_the_newest() {
    lost_and_nothing_with_it("durable-newest", 18, 2, 1).await;
}
