//! What an idle handle on etcd costs: `cargo run --release -p matriarch-dcs --example etcd_idle_cost HOST:PORT [seconds]`.
//!
//! One handle, as an agent has it: a watch, and a lease of 5 s that is renewed every 1.6 s.

use std::time::{Duration, Instant};

use matriarch_dcs::etcd::{Endpoint, EtcdOptions, Servers};
use matriarch_dcs::{EtcdStore, Store, Txn};

fn status(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("proc is mounted");
    let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("every process has it");
    line.trim().trim_end_matches(" kB").parse().expect("a number of kilobytes")
}

fn cpu_ms() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/schedstat").expect("proc is mounted");
    stat.split_whitespace().next().and_then(|text| text.parse::<f64>().ok()).expect("a number of nanoseconds") / 1e6
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let usage = "usage: etcd_idle_cost HOST:PORT [seconds]";
    let server = std::env::args().nth(1).ok_or(usage)?;
    let seconds = std::env::args().nth(2).map_or(Ok(60), |text| text.parse::<u64>())?;
    let (host, port) = server.rsplit_once(':').ok_or(usage)?;
    let before = status("VmRSS:");
    let endpoint = Endpoint { host: host.to_owned(), port: port.parse()?, tls: false };
    let store = EtcdStore::open(EtcdOptions::new(Servers::Listed(vec![endpoint])), "/service/idle-cost/")?;
    let lease = store.grant(Duration::from_secs(5)).await?;
    store.commit(Txn::new().put_leased("leader", "a", lease)).await?;
    store.read().await?;
    let (begun, cpu) = (Instant::now(), cpu_ms());
    while begun.elapsed() < Duration::from_secs(seconds) {
        store.keep_alive(lease).await?;
        tokio::time::sleep(Duration::from_millis(1600)).await;
    }
    let minutes = begun.elapsed().as_secs_f64() / 60.0;
    println!("renewing and watching: {:.1} ms of CPU a minute", (cpu_ms() - cpu) / minutes);
    println!("resident: {} KiB for the handle, of {} KiB in all", status("VmRSS:") - before, status("VmRSS:"));
    Ok(())
}
