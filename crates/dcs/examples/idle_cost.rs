//! What an idle handle on a SQLite store costs: `cargo run --release -p matriarch-dcs --example idle_cost [seconds]`.
//!
//! Two handles in one process, as an agent and its neighbour: one renews a lease of 5 s every 1.6 s.

use std::time::Duration;

use matriarch_dcs::{SqliteStore, Store, Txn};

/// CPU time of all threads so far, in milliseconds.
fn cpu_ms() -> f64 {
    let tasks = std::fs::read_dir("/proc/self/task").expect("proc is mounted");
    let nanos = tasks.filter_map(|task| {
        let stat = std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
        stat.split_whitespace().next()?.parse::<u64>().ok()
    });
    nanos.sum::<u64>() as f64 / 1e6
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("proc is mounted");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("every process has a size");
    line.trim().trim_end_matches(" kB").parse().expect("a number of kilobytes")
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let seconds = std::env::args().nth(1).map_or(Ok(60), |text| text.parse::<u64>())?;
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("store.db");
    let before = resident_kib();
    let (leader, replica) = (SqliteStore::open(&path, "demo").await?, SqliteStore::open(&path, "demo").await?);
    let lease = leader.grant(Duration::from_secs(5)).await?;
    leader.commit(Txn::new().put_leased("leader", "a", lease)).await?;
    replica.read().await?;

    let quiet = seconds / 2;
    // The blocking pool's thread ends by itself after 10 s, and takes its counted time along.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let start = cpu_ms();
    for _ in 0..seconds - quiet {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let idle = cpu_ms() - start;
    println!("idle: {:.2} ms of CPU a minute for two handles", idle * 60.0 / (seconds - quiet) as f64);

    let lease = leader.grant(Duration::from_secs(5)).await?;
    let (start, rounds) = (cpu_ms(), (quiet as f64 / 1.6).ceil() as u32);
    for _ in 0..rounds {
        leader.keep_alive(lease).await?;
        tokio::time::sleep(Duration::from_millis(1600)).await;
    }
    let busy = cpu_ms() - start;
    println!("renewing: {:.2} ms of CPU a minute for two handles", busy * 60.0 / (f64::from(rounds) * 1.6));
    println!("resident: {} KiB for two handles, of {} KiB in all", resident_kib() - before, resident_kib());
    Ok(())
}
