//! Members whose copy from the archive is cut off, by a kill and by a full disk: it goes on with what is there.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use matriarch_testkit::dir::TestDir;
use matriarch_testkit::disk::{Ballast, SmallDisk};
use matriarch_testkit::faults;
use matriarch_testkit::middleman::{Fault, Middleman, Request};
use matriarch_testkit::s3::{BUCKET, KEYS, S3Server};
use serde_json::json;

use crate::clones::{agent_log, base_backups};
use crate::harness::{Cluster, PATIENCE, Plan, fault, health};
use crate::{arrives, configure, table, until, write};

/// Of each member, in MiB.
const DISK: u32 = 640;
/// What others leave on it: too little for a restore, and enough for logs.
const LEFT: u64 = 24 << 20;
/// Reads of packs that are answered before none is: about the half.
const READS: usize = 8;

fn is_read(request: &Request) -> bool {
    request.method == "GET" && !request.is_list() && request.target.contains("/pack/")
}

/// Bytes of packs that were asked for since it counts.
fn fetched(middleman: &Middleman) -> u64 {
    let length = |request: &Request| {
        let range = request.header("range").and_then(|range| range.strip_prefix("bytes=")?.split_once('-'));
        let (from, to) = range.expect("packs are read in ranges");
        to.parse::<u64>().expect("a number") + 1 - from.parse::<u64>().expect("a number")
    };
    middleman.seen().iter().filter(|request| is_read(request)).map(length).sum()
}

/// Everything of a member's data goes, and of the copy that is made then the store hands out a part.
async fn half_copied(cluster: &Cluster, name: &str, middleman: &Middleman) -> PathBuf {
    let (asked, data) = (Arc::new(AtomicUsize::new(0)), cluster.data(name));
    let counter = Arc::clone(&asked);
    middleman.plan(move |request| {
        let stalls = is_read(request) && counter.fetch_add(1, Ordering::Relaxed) >= READS;
        stalls.then_some(Fault::Hang(Duration::from_secs(5)))
    });
    fault::delete(&data);
    let building = data.with_extension("matriarch-new");
    let begun = Instant::now();
    let mut before = 0;
    // What was handed out is written then.
    loop {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let now = size(&building);
        if asked.load(Ordering::Relaxed) > READS && now == before && now > 1 << 20 {
            break;
        }
        before = now;
        assert!(begun.elapsed() < PATIENCE, "{name} is not made anew: {}", agent_log(cluster, name));
    }
    assert!(!data.join("PG_VERSION").exists(), "it was over before it could be cut off");
    building
}

/// Bytes of the files below.
fn size(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let of = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => size(&entry.path()),
        found => found.map_or(0, |meta| meta.len()),
    };
    entries.map(of).sum()
}

/// The member is well again, has fetched the rest only, and has everything.
async fn is_whole(cluster: &Cluster, name: &str, middleman: &Middleman, stored: u64) {
    health::well(cluster, PATIENCE).await;
    let (rest, log) = (fetched(middleman), agent_log(cluster, name));
    eprintln!("{rest} of {stored} bytes were fetched after it was cut off");
    assert!(rest > 0 && rest < stored * 3 / 4, "{rest} of {stored} bytes were fetched again: {log}");
    assert!(log.contains("a restore that was cut off goes on"), "{log}");
    assert_eq!(base_backups(cluster), 0, "{log}");
    let content = "SELECT count(*) || '|' || sum(hashtext(t::text)) FROM t";
    let expected = cluster.ask(cluster.read_write(), content).await.expect("the primary serves");
    arrives(cluster, name, &format!("SELECT ({content}) = '{expected}'")).await;
}

/// While there is no room nothing is fetched, nothing is removed and nothing crashes; with room it goes on by itself.
async fn over_a_full_disk(cluster: &Cluster, name: &str, middleman: &Middleman, stored: u64) {
    let building = half_copied(cluster, name, middleman).await;
    let (agent, tries) = (fault::agent(cluster, name), || agent_log(cluster, name).matches("Clone begins").count());
    let ballast = Ballast::leave(&cluster.member(name), LEFT, u64::from(DISK) << 20).expect("it can be filled");
    health::wait(cluster, PATIENCE, "what is missing is told", |_, rows| {
        let row = rows.iter().find(|row| row["member"] == name)?;
        let words = ["bytes free, and files and WAL need", "of them are there", ": free ", "it goes on by itself"];
        let problem = row["problem"].as_str().unwrap_or_default();
        (!words.iter().all(|word| problem.contains(word))).then(|| format!("{name} says '{problem}'"))
    })
    .await;
    middleman.well();
    let (before, begun) = (tries(), Instant::now());
    while tries() < before + 2 {
        assert!(begun.elapsed() < PATIENCE, "it is not tried again: {}", agent_log(cluster, name));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(fetched(middleman), 0, "it was fetched in vain");
    assert!(size(&building) > 1 << 20, "what is there was removed");
    drop(ballast);
    is_whole(cluster, name, middleman, stored).await;
    assert_eq!(fault::agent(cluster, name), agent, "the agent has crashed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_go_on_after_a_kill_and_with_room_again() {
    let dir = TestDir::new("cut-off-store");
    let mut cluster = Plan::new("cut-off").members(2).prepare();
    let mut disks = Vec::new();
    for name in cluster.names() {
        let Some(disk) = SmallDisk::mount(&cluster.member(&name), DISK).expect("mount runs") else { return };
        disks.push(disk);
    }
    cluster.up().await;
    cluster.be_patient().await;
    let server = S3Server::start(&dir).expect("the server starts");
    let middleman = Middleman::before(&server.endpoint()).expect("a port");
    let credentials = cluster.root().join("credentials");
    let text = format!("aws_access_key_id = {}\naws_secret_access_key = {}\n", KEYS.0, KEYS.1);
    std::fs::write(&credentials, text).expect("there is room");
    let section = json!({
        "repositories": [{
            "location": format!("s3://{BUCKET}/clones"), "endpoint": middleman.endpoint(), "allow_http": true,
            "region": "us-east-1", "credentials": credentials,
        }],
        "compression": "none", "clone": "when_possible",
    });
    configure(&cluster, &section).await;
    cluster.verb(&["archive", "init"]).await.ok();
    until(&cluster, "the repository is open", |page| page["repositories"][0]["open"] == true).await;
    cluster.verb(&["config", "set", "postgresql.parameters.log_replication_commands=\"on\""]).await.ok();
    table(&cluster).await;
    let fill = "INSERT INTO t SELECT n, repeat(md5(n::text), 6) FROM generate_series(1, 200000) n";
    cluster.ask(cluster.read_write(), fill).await.expect("the primary serves");
    let taken = cluster.verb(&["backup", "-o", "json"]).await.json();
    let stored = taken[0]["stored"].as_u64().expect("a number");
    write(&cluster, 1).await;

    let name = health::replicas(&cluster).await.remove(0);
    half_copied(&cluster, &name, &middleman).await;
    faults::kill(&[fault::agent(&cluster, &name)]);
    middleman.well();
    is_whole(&cluster, &name, &middleman, stored).await;
    over_a_full_disk(&cluster, &name, &middleman, stored).await;

    let root = cluster.root().to_owned();
    drop((cluster, disks));
    // What is mounted cannot be removed with the rest.
    if root.exists() {
        std::fs::remove_dir_all(root).expect("it is ours");
    }
}
