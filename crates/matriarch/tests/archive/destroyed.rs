//! A whole cluster is destroyed under writes, and what its repository gives back is compared with what was acknowledged.

use std::path::Path;
use std::time::Duration;

use matriarch_testkit::faults;
use matriarch_testkit::ledger::{Book, Ledger, Options, Verdict, verify};
use matriarch_testkit::server::Server;
use rustix::process::Signal;

use crate::harness::{Cluster, PATIENCE, Plan, wire};
use crate::until;

/// How often, and how many seconds of acknowledged writes may be missing.
struct Course {
    times: u32,
    loss: f64,
}

impl Course {
    /// `MATRIARCH_DESTROYED=10` for as often, on a machine that does nothing else. Beside other tests the agent may come to the tail
    /// later than it wants to.
    fn new() -> Course {
        match std::env::var("MATRIARCH_DESTROYED").ok().and_then(|times| times.parse().ok()) {
            Some(times) => Course { times, loss: 2.0 },
            None => Course { times: 3, loss: 6.0 },
        }
    }
}

/// Everything of the cluster dies at one moment. What the clients remember, and when that was.
async fn destroy(cluster: &mut Cluster, round: u32) -> (Book, f64) {
    let dsn = cluster.dsn(cluster.read_write());
    let options = Options { writers: 4, every: Duration::from_millis(2), ..Options::new(dsn) };
    let ledger = Ledger::start(options).await.expect("the cluster takes writes");
    // At another moment between two chunks of the tail each time.
    tokio::time::sleep(Duration::from_millis(3000 + u64::from(round) * 170)).await;
    let at = ledger.now();
    cluster.process().signal(Signal::KILL);
    let members = cluster.names().into_iter().flat_map(|name| faults::node_processes(&cluster.member(&name)));
    faults::kill(&members.collect::<Vec<i32>>());
    faults::kill(&faults::node_processes(&cluster.path()));
    (ledger.stop().await, at)
}

/// Moves every data directory away, or back.
pub fn move_data(cluster: &Cluster, from: &str, to: &str) {
    for name in cluster.names() {
        let member = cluster.member(&name);
        std::fs::rename(member.join(from), member.join(to)).expect("it is ours");
    }
}

/// Restores, starts, and compares.
pub async fn restored(cluster: &Cluster, archive: &Path, target: &Path, book: &Book) -> Verdict {
    restored_from(cluster, archive, &[], target, book).await
}

/// The same with more words to `restore`.
pub async fn restored_from(cluster: &Cluster, archive: &Path, more: &[&str], target: &Path, book: &Book) -> Verdict {
    let (archive, data) = (archive.display().to_string(), target.display().to_string());
    let words = ["restore", &data, "--archive", &archive, "--scope", "demo", "--place-wal"];
    cluster.verb(&[&words, more].concat()).await.ok();
    let trust = cluster.root().join("trust.conf");
    std::fs::write(&trust, "host all all 127.0.0.1/32 trust\n").expect("there is room");
    let alone = "listen_addresses = '127.0.0.1'\nunix_socket_directories = ''\narchive_mode = off";
    let settings = format!("hba_file = '{}'\n{alone}", trust.display());
    let server = Server::of(cluster.installation(), target, &settings).await.expect("what was restored starts");
    // It serves reads before it is at the end.
    let begun = std::time::Instant::now();
    let recovering = || async { wire::ask(&server.dsn(), "SELECT pg_is_in_recovery()").await };
    while recovering().await.map_or(true, |answer| answer == "t") {
        assert!(begun.elapsed() < PATIENCE, "its recovery does not end");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let verdict = verify(&server.dsn(), book).await.expect("it answers");
    assert!(verdict.duplicates.is_empty() && verdict.unexpected.is_empty(), "{verdict:?}");
    assert!(verdict.present > 0, "nothing of this round is there: {verdict:?}");
    verdict
}

/// How many seconds before the end the oldest missing acknowledgement was.
async fn missing(cluster: &Cluster, archive: &Path, target: &Path, book: &Book, at: f64) -> f64 {
    let verdict = restored(cluster, archive, target, book).await;
    let lost = book.entries.iter().filter(|entry| verdict.lost.contains(&entry.id));
    lost.map(|entry| at - entry.ended).fold(0.0, f64::max)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_destroyed_cluster_loses_moments() {
    let course = Course::new();
    let mut cluster = Plan::new("destroyed").archive().start().await;
    until(&cluster, "the repository is open", |page| page["repositories"][0]["open"] == true).await;
    cluster.verb(&["backup"]).await.ok();
    // All that is needed besides the repository, kept elsewhere.
    let archive = cluster.root().join("archive.yml");
    let shown = cluster.verb(&["config", "show"]).await.ok().to_owned();
    std::fs::write(&archive, shown).expect("there is room");
    for round in 0..course.times {
        let (book, at) = destroy(&mut cluster, round).await;
        move_data(&cluster, "data", "data.destroyed");
        let target = cluster.root().join(format!("restored-{round}"));
        let loss = missing(&cluster, &archive, &target, &book, at).await;
        let rows = book.summary().acknowledged;
        eprintln!("destroyed after {rows} acknowledged rows: those of the last {loss:.2} s are missing");
        assert!(loss <= course.loss, "acknowledged {loss:.2} s before the end, and lost");
        std::fs::remove_dir_all(&target).expect("it is ours");
        move_data(&cluster, "data.destroyed", "data");
        cluster.up().await;
    }
}
