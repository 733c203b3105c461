//! Other ways to the primary than our proxy: HAProxy as Patroni's documentation sets it up, and connection strings that
//! name every member.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use matriarch_testkit::ports::Port;
use matriarch_testkit::process::Running;

use crate::harness::{Cluster, Fault, PATIENCE, health};

/// HAProxy before a cluster: one door to the primary, one to the replicas.
pub struct HaProxy {
    process: Running,
    pub primary: Port,
    replicas: Port,
}

impl HaProxy {
    /// `check` goes to each server, beside the port of its check.
    pub fn start(cluster: &Cluster, check: &str) -> HaProxy {
        let [primary, replicas] = Port::reserve_many();
        let doors = [("primary", &primary, "option httpchk"), ("replicas", &replicas, "option httpchk GET /replica")];
        let mut text = "global\n    maxconn 100\n\ndefaults\n    mode tcp\n    retries 2\n    timeout client 30m\n    \
                        timeout connect 4s\n    timeout server 30m\n    timeout check 5s\n"
            .to_owned();
        for (name, port, option) in doors {
            let port = port.number();
            let _ = write!(
                text,
                "\nlisten {name}\n    bind 127.0.0.1:{port}\n    {option}\n    http-check expect status 200\n    \
                 default-server inter 1s fall 3 rise 2 on-marked-down shutdown-sessions\n"
            );
            for member in cluster.names() {
                let (server, api) = (cluster.postgres_port(&member), cluster.api_port(&member));
                let _ = writeln!(text, "    server {member} 127.0.0.1:{server} maxconn 100 check port {api} {check}");
            }
        }
        let file = cluster.root().join("haproxy.cfg");
        std::fs::write(&file, text).expect("the folder is there");
        let mut command = Command::new(haproxy());
        command.arg("-db").arg("-f").arg(&file);
        let process = Running::start(command, &cluster.root().join("haproxy.log")).expect("HAProxy starts");
        HaProxy { process, primary, replicas }
    }

    /// Asks through a door until the answer is as wanted.
    pub async fn until(&mut self, cluster: &Cluster, port: u16, statement: &str, wanted: &str) {
        let begun = Instant::now();
        loop {
            assert!(self.process.ended().is_none(), "HAProxy has ended:\n{}", self.process.log());
            let answer = cluster.ask(port, statement).await;
            if answer.as_ref().is_ok_and(|answer| answer == wanted) {
                return;
            }
            let late = begun.elapsed() > PATIENCE;
            assert!(!late, "'{statement}' through {port}: {answer:?}, not {wanted}\n{}", self.process.log());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// How the primary moves; after the last look nothing more happens.
const MOVES: [Option<Fault>; 3] = [Some(Fault::Switchover), Some(Fault::KillPostmaster), None];

async fn strike(cluster: &Cluster, fault: Option<Fault>) {
    if let Some(fault) = fault {
        fault.strike(cluster, 1).await.replaced();
        health::well(cluster, PATIENCE).await;
    }
}

fn haproxy() -> PathBuf {
    let places = ["/usr/sbin/haproxy", "/usr/local/sbin/haproxy", "/usr/bin/haproxy"].map(PathBuf::from);
    let found = places.into_iter().find(|place| place.exists());
    found.expect("HAProxy is missing: scripts/install-deps --test installs it")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn haproxy_follows_the_primary_by_patronis_health_checks() {
    let cluster = Cluster::start("haproxy").await;
    let mut haproxy = HaProxy::start(&cluster, "");
    let (primary, replicas) = (haproxy.primary.number(), haproxy.replicas.number());
    for (round, fault) in MOVES.into_iter().enumerate() {
        let leader = health::leader(&cluster).await;
        let port = cluster.postgres_port(&leader).to_string();
        haproxy.until(&cluster, primary, "show port", &port).await;
        haproxy.until(&cluster, replicas, "select pg_is_in_recovery()::text", "true").await;
        haproxy
            .until(&cluster, primary, &format!("create table if not exists round{round}(); select 'made'"), "made")
            .await;
        strike(&cluster, fault).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_string_of_all_members_finds_the_primary() {
    let cluster = Cluster::start("multihost").await;
    let hosts = ["127.0.0.1"; 3].join(",");
    let ports: Vec<String> = cluster.names().iter().map(|name| cluster.postgres_port(name).to_string()).collect();
    let psql = matriarch_testkit::postgres::any().bins.join("psql");
    let ask = |statement: &str| {
        let dsn = format!(
            "host={hosts} port={} user=postgres dbname=postgres target_session_attrs=read-write connect_timeout=30",
            ports.join(",")
        );
        let output = Command::new(&psql)
            .args(["-X", "-At", "-c", statement, &dsn])
            .env("PGPASSWORD", cluster.password())
            .output()
            .expect("psql runs");
        (output.status.success(), String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    for fault in MOVES {
        let leader = health::leader(&cluster).await;
        assert_eq!(ask("show port"), (true, cluster.postgres_port(&leader).to_string()));
        strike(&cluster, fault).await;
    }
}
