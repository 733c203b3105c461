//! A cluster on a machine that has no time for it: pgbench on every core, and nothing wrong. Nobody may take over.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use matriarch_testkit::observer::Probe;
use matriarch_testkit::process::Running;
use matriarch_testkit::{postgres, user};
use rustix::process::Signal;
use serde_json::Value;

use crate::harness::hosts::Plan;
use crate::harness::{Hosts, PATIENCE, Subject, Witness, health};
use crate::number;

/// From one look at the cluster to the next.
const EVERY: Duration = Duration::from_secs(5);

fn pgbench() -> PathBuf {
    let mut all = postgres::all_majors().iter().map(|found| found.bins.join("pgbench"));
    all.find(|program| program.exists()).expect("some PostgreSQL comes with pgbench")
}

fn bench(hosts: &Hosts, arguments: &[&str]) -> Command {
    let mut command = user::command(pgbench());
    command.args(arguments).arg(hosts.writes()).current_dir(hosts.dir().path());
    command
}

/// Two pgbench with so many clients each, one that reads as fast as it can and one that writes, until told to end.
fn load(hosts: &Hosts, clients: u64, cores: usize) -> Vec<Running> {
    if clients == 0 {
        eprintln!("no pgbench: the machine is busy with other things");
        return Vec::new();
    }
    let made = bench(hosts, &["-i", "-q", "-s", "10"]).output().expect("pgbench runs");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let (clients, jobs) = (clients.to_string(), cores.to_string());
    let long = "1000000";
    let reads = bench(hosts, &["-S", "-n", "-M", "prepared", "-c", &clients, "-j", &jobs, "-T", long]);
    let writes = bench(hosts, &["-n", "-c", &clients, "-j", &jobs, "-T", long]);
    let log = |name: &str| -> PathBuf { Path::new(hosts.dir().path()).join(name) };
    let start = |command, name| Running::start(command, &log(name)).expect("pgbench runs");
    vec![start(reads, "reads.log"), start(writes, "writes.log")]
}

/// Who leads, and on which timeline: a takeover changes one or both.
async fn lead(hosts: &Hosts) -> Option<(String, Value)> {
    let rows = health::rows(hosts).await.ok()?;
    let leader = rows.into_iter().find(|row| row["role"] == "leader")?;
    Some((leader["member"].as_str()?.to_owned(), leader["timeline"].clone()))
}

fn idle_ticks() -> Option<(u64, u64)> {
    let text = std::fs::read_to_string("/proc/stat").ok()?;
    let fields: Vec<u64> =
        text.lines().next()?.split_whitespace().skip(1).filter_map(|word| word.parse().ok()).collect();
    Some((fields.get(3)? + fields.get(4)?, fields.iter().take(8).sum()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "MATRIARCH_SOAK_MINUTES minutes, 60 by default: `make saturated` runs it"]
async fn nobody_takes_over_on_a_saturated_machine() {
    let minutes = number("MATRIARCH_SOAK_MINUTES").unwrap_or(60);
    let Some(hosts) = Plan::new("saturated").start().await else { return };
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    let clients = number("MATRIARCH_SOAK_CLIENTS").unwrap_or(4 * cores as u64);
    let pgbench = load(&hosts, clients, cores);
    health::well(&hosts, PATIENCE).await;
    let before = lead(&hosts).await.expect("there is a leader");
    let witness = Witness::patient(&hosts, Probe::Write).await;
    let (begun, ticks) = (Instant::now(), idle_ticks());
    let end = begun + Duration::from_secs(60 * minutes);
    let mut said = begun;
    while Instant::now() < end {
        tokio::time::sleep(EVERY).await;
        if let Some(now) = lead(&hosts).await {
            let at = begun.elapsed().as_secs_f64();
            assert_eq!(now, before, "somebody took over after {at:.0} s, and nothing was wrong");
        }
        if said.elapsed() >= Duration::from_secs(60) {
            said = Instant::now();
            let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
            let (at, pause) = (begun.elapsed().as_secs() / 60, witness.longest_pause_since(0.0));
            eprintln!("{at} of {minutes} min: load {}, longest pause so far {pause:.2} s", load.trim());
        }
    }
    if let (Some((idle, all)), Some((idle_before, all_before))) = (idle_ticks(), ticks) {
        eprintln!(
            "cores idle {:.1} % of the time",
            100.0 * (idle - idle_before) as f64 / (all - all_before).max(1) as f64
        );
    }
    for process in &pgbench {
        process.signal(Signal::TERM);
    }
    drop(pgbench);
    health::well(&hosts, PATIENCE).await;
    assert_eq!(lead(&hosts).await, Some(before), "somebody took over");
    let summary = witness.conclude(&hosts).await;
    eprintln!("{minutes} min: {summary:?}");
    let failed = (summary.refused, summary.unknown, summary.connect_errors, summary.idle_cuts);
    assert_eq!(failed, (0, 0, 0, 0), "{summary:?}");
}
