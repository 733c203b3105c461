//! A cluster of real Patroni becomes one of Matriarch: node by node under a running PostgreSQL, and after a stop of everything.

use std::process::Command;
use std::time::{Duration, Instant};

use matriarch_testkit::dir::TestDir;
use matriarch_testkit::etcd::{self, EtcdCluster, Plan as EtcdPlan};
use matriarch_testkit::ledger::{Ledger, Options, Outcome as Row, verify};
use matriarch_testkit::ports::Port;
use matriarch_testkit::process::{self, Running};
use matriarch_testkit::{faults, postgres, user};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::slots::Slot;
use crate::harness::{Outcome, PATIENCE, Subject, health, verb, wire};
use crate::patronictl::program;

/// Of our own users.
const PASSWORD: &str = "of-patroni";
const NAMES: [&str; 3] = ["p1", "p2", "p3"];
/// The shortest that Patroni takes, in seconds.
const TTL: u64 = 20;

/// Three members, each run by Patroni or by an agent of ours in the same place, over one etcd.
struct Site {
    programs: [Option<Running>; 3],
    postgres: [Port; 3],
    rest: [Port; 3],
    store: EtcdCluster,
    dir: TestDir,
    _slot: Slot,
}

impl Subject for Site {
    fn names(&self) -> Vec<String> {
        NAMES.map(str::to_owned).to_vec()
    }

    fn writes(&self) -> String {
        let ports = self.postgres.each_ref().map(ToString::to_string).join(",");
        format!(
            "host=127.0.0.1,127.0.0.1,127.0.0.1 port={ports} user=postgres password={PASSWORD} dbname=postgres target_session_attrs=read-write"
        )
    }

    fn direct(&self, name: &str) -> String {
        let port = &self.postgres[index(name)];
        format!("host=127.0.0.1 port={port} user=postgres password={PASSWORD} dbname=postgres")
    }

    async fn verb(&self, arguments: &[&str]) -> Outcome {
        let config = self.file("p1", "agent.yml");
        let all: Vec<&str> = ["--config", &config].into_iter().chain(arguments.iter().copied()).collect();
        verb::run(self.dir.path(), self.dir.path(), &all, &[]).await
    }
}

fn index(name: &str) -> usize {
    NAMES.iter().position(|known| *known == name).expect("one of the three")
}

impl Site {
    /// Patroni runs all three, as its documentation has it: no rule for the Unix socket, and that in a place of its own.
    async fn start(dir: &'static str) -> Site {
        let slot = Slot::take();
        let dir = TestDir::new(dir);
        let store = EtcdPlan::new(etcd::current()).start(&dir);
        let (postgres, rest) = (Port::reserve_many(), Port::reserve_many());
        let mut site = Site { programs: [None, None, None], postgres, rest, store, dir, _slot: slot };
        for name in NAMES {
            site.dir.create(name);
            site.write_files(name);
        }
        let text = format!(
            "scope: demo\netcd3: {{hosts: '{}'}}\nrestapi: {{authentication: {{username: patroni, password: {PASSWORD}}}}}\n",
            site.store.hosts()
        );
        std::fs::write(site.dir.join("patronictl.yml"), text).expect("the folder is there");
        // The first one makes the cluster.
        site.run_patroni("p1");
        process::eventually("p1 makes the cluster", PATIENCE, || !site.key("initialize").is_empty());
        site.run_patroni("p2");
        site.run_patroni("p3");
        let streams = |record: &Value| record["replication_state"] == "streaming";
        site.until_recorded("p1 leads and two stream", |records| {
            records.iter().filter(|record| streams(record)).count() == 2
                && site.key("leader").trim_end().ends_with("p1")
        });
        site
    }

    fn file(&self, name: &str, file: &str) -> String {
        self.dir.join(name).join(file).display().to_string()
    }

    fn write_files(&self, name: &str) {
        let home = self.dir.join(name);
        let address = |ports: &[Port; 3]| format!("127.0.0.1:{}", ports[index(name)]);
        let user = |name: &str| json!({"username": name, "password": PASSWORD});
        let ours = json!({
            "scope": "demo", "name": name, "etcd3": {"hosts": self.store.hosts()},
            "restapi": {
                "listen": address(&self.rest), "connect_address": address(&self.rest),
                "authentication": {"username": "patroni", "password": PASSWORD},
            },
            "postgresql": {
                "listen": address(&self.postgres), "connect_address": address(&self.postgres),
                "data_dir": home.join("data"), "bin_dir": postgres::any().bins,
                "authentication": {"superuser": user("postgres"), "replication": user("replicator"), "rewind": user("rewinder")},
            },
        });
        let mut patroni = ours.clone();
        patroni["bootstrap"] = json!({
            "dcs": {
                "ttl": TTL, "loop_wait": 1, "retry_timeout": 3, "maximum_lag_on_failover": 1_048_576,
                "postgresql": {
                    "use_pg_rewind": true, "use_slots": true,
                    "parameters": {"wal_level": "replica", "hot_standby": "on", "max_connections": 60},
                },
            },
            "initdb": [{"encoding": "UTF8"}, {"locale": "C"}, "data-checksums"],
        });
        let postgresql = &mut patroni["postgresql"];
        postgresql["pgpass"] = json!(home.join("pgpass"));
        postgresql["pg_hba"] = json!([
            "host replication replicator 127.0.0.1/32 scram-sha-256",
            "host all all 127.0.0.1/32 scram-sha-256"
        ]);
        postgresql["parameters"] = json!({"unix_socket_directories": ".."});
        // JSON is YAML.
        for (file, content) in [("agent.yml", ours), ("patroni.yml", patroni)] {
            let path = home.join(file);
            std::fs::write(&path, content.to_string()).expect("the folder is there");
            user::give(&path).expect("it is ours to give");
        }
    }

    fn run_patroni(&mut self, name: &str) {
        let mut command = user::command(program().with_file_name("patroni"));
        command.arg("patroni.yml").current_dir(self.dir.join(name)).env("HOME", self.dir.path());
        let log = self.dir.join(name).join("patroni.log");
        self.programs[index(name)] = Some(Running::start(command, &log).expect("Patroni runs"));
    }

    fn run_agent(&mut self, name: &str) {
        let mut command = Command::new(verb::program());
        command
            .args(["agent", "--config", "agent.yml"])
            .current_dir(self.dir.join(name))
            .env("TMPDIR", self.dir.path());
        let log = self.dir.join(name).join("agent.log");
        self.programs[index(name)] = Some(Running::start(command, &log).expect("the binary runs"));
    }

    /// Ends Patroni, or our agent, as systemd does.
    fn stop(&mut self, name: &str) {
        let mut running = self.programs[index(name)].take().expect("it runs");
        running.signal(Signal::TERM);
        running.wait(PATIENCE);
    }

    fn patronictl(&self, arguments: &[&str]) -> String {
        let output = Command::new(program()).arg("-c").arg(self.dir.join("patronictl.yml")).args(arguments).output();
        let output = output.expect("patronictl runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "patronictl {arguments:?}: {said}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// A key and its value as etcd's own tool prints them.
    fn key(&self, name: &str) -> String {
        self.store.must(&["get", &format!("/service/demo/{name}")])
    }

    /// Waits for what Patroni's members say in their records.
    fn until_recorded(&self, what: &str, wanted: impl Fn(&[Value]) -> bool) {
        process::eventually(what, PATIENCE, || {
            let records = self.store.must(&["get", "--prefix", "--print-value-only", "/service/demo/members/"]);
            let records: Vec<Value> = records.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
            wanted(&records)
        });
    }

    /// Waits until the agent of a member says all of these as its problem.
    async fn tells(&self, name: &str, words: &[&str]) {
        let begun = Instant::now();
        loop {
            let answer = wire::http(self.rest[index(name)].number(), "GET", "/patroni", None, "").await;
            let page: Value =
                answer.ok().and_then(|answer| serde_json::from_str(&answer.body).ok()).unwrap_or_default();
            let problem = page["matriarch"]["problem"].as_str().unwrap_or_default();
            if words.iter().all(|word| problem.contains(word)) {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "{name} does not say {words:?}: {page}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    fn postmasters(&self) -> Vec<Option<i32>> {
        NAMES.iter().map(|name| faults::postmaster(&self.dir.join(name).join("data"))).collect()
    }

    async fn ledger(&self) -> Ledger {
        let options = Options {
            every: Duration::from_millis(20),
            deadline: Duration::from_secs(5),
            ..Options::new(self.writes())
        };
        Ledger::start(options).await.expect("the primary takes writes")
    }

    /// What a load balancer sees of a member that has the primary.
    async fn is_taken_for_primary(&self, name: &str) -> bool {
        let answer = wire::http(self.rest[index(name)].number(), "OPTIONS", "/primary", None, "").await;
        answer.is_ok_and(|answer| answer.status == 200)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn is_taken_over_node_by_node_while_postgresql_runs() {
    let mut site = Site::start("from-patroni").await;
    let ledger = site.ledger().await;
    let postmasters = site.postmasters();
    assert!(postmasters.iter().all(Option::is_some), "{postmasters:?}");
    let said = site.patronictl(&["pause", "demo", "--wait"]);
    assert!(said.contains("Success: cluster management is paused"), "{said}");

    // The primary's node first, and one Patroni stays for longer than the keys of the others live.
    for name in ["p1", "p2"] {
        site.stop(name);
        site.run_agent(name);
    }
    site.tells("p1", &["another program (version 4.1.5)", "'p3'", "patronictl pause"]).await;
    let begun = Instant::now();
    while !site.key("leader").is_empty() {
        assert!(begun.elapsed() < PATIENCE, "Patroni's leader key does not end");
        assert!(site.is_taken_for_primary("p1").await, "load balancers lose the primary");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    site.tells("p1", &["another program (version 4.1.5) runs 'p3' of this cluster"]).await;
    site.tells("p2", &["another program (version 4.1.5) runs 'p3' of this cluster"]).await;
    assert!(site.is_taken_for_primary("p1").await, "load balancers lose the primary");
    assert_eq!(
        site.store.must(&["get", "--print-value-only", "/service/demo/leader"]).trim(),
        "",
        "nobody has taken the lead"
    );
    // Asked to stop, an agent leaves what is not its own.
    site.stop("p2");
    site.run_agent("p2");
    site.stop("p3");
    // It ends by itself, as those of the others have: no need to wait for that once more.
    site.store.must(&["del", "/service/demo/members/p3"]);
    site.run_agent("p3");

    health::well(&site, PATIENCE).await;
    assert_eq!(health::leader(&site).await, "p1", "the primary stays where it is");
    assert_eq!(site.postmasters(), postmasters, "PostgreSQL was left alone on every node");
    let until_here = ledger.so_far();
    let bad = until_here.entries.iter().filter(|entry| entry.outcome != Row::Acknowledged).count();
    let gap = until_here.gap_within(0.0, until_here.lasted);
    eprintln!("taken over: writes paused {:.3} s at most", gap.seconds);
    assert!(bad == 0 && gap.seconds < 2.0, "clients noticed: {bad} rows failed, {gap:?}, {:?}", until_here.errors);

    // From here on it is a cluster like any other.
    site.verb(&["resume"]).await.ok();
    site.verb(&["switchover", "--candidate", "p2", "--force"]).await.ok();
    health::well(&site, PATIENCE).await;
    faults::kill(&faults::node_processes(&site.dir.join("p2")));
    site.programs[1] = None;
    ledger.writes_again(PATIENCE).await.expect("a voter takes over");
    site.run_agent("p2");
    health::well(&site, PATIENCE).await;
    // A copy of the one whose PostgreSQL has not been restarted since: what was done to let us in must not come along.
    if health::leader(&site).await != "p3" {
        site.verb(&["switchover", "--candidate", "p3", "--force"]).await.ok();
        health::well(&site, PATIENCE).await;
    }
    site.verb(&["reinit", "p2", "--force", "--wait"]).await.ok();
    health::well(&site, PATIENCE).await;
    site.verb(&["restart", "--force"]).await.ok();
    health::well(&site, PATIENCE).await;
    for name in NAMES {
        let own = site.dir.join(name).join("data/matriarch_hba.conf").display().to_string();
        assert_eq!(wire::ask(&site.direct(name), "SHOW hba_file").await.expect("it answers"), own);
        let rules = std::fs::read_to_string(site.file(name, "data/pg_hba.conf")).expect("it is there");
        assert!(!rules.contains("Matriarch"), "{name}: {rules}");
    }
    let book = ledger.stop().await;
    let verdict = verify(&site.writes(), &book).await.expect("the primary answers");
    assert!(verdict.is_clean() && verdict.present > 100, "{verdict:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_stop_of_everything_only_the_last_primary_founds() {
    let mut site = Site::start("from-patroni-cold").await;
    let ledger = site.ledger().await;
    // Stopped well, p1 leaves data of a primary that is none any more.
    site.stop("p1");
    let successor = || site.key("leader").lines().last().filter(|name| *name != "p1").map(str::to_owned);
    process::eventually("another leads", PATIENCE, || successor().is_some());
    let last = successor().expect("it was waited for");
    process::eventually("it records where timeline 1 ended", PATIENCE, || site.key("history").contains("[[1,"));
    ledger.writes_again(PATIENCE).await.expect("the new primary takes writes");
    let book = ledger.stop().await;
    let (last, other) = if last == "p2" { ("p2", "p3") } else { ("p3", "p2") };
    site.stop(other);
    site.stop(last);
    // Members' records end by themselves within Patroni's ttl.
    site.store.must(&["del", "--prefix", "/service/demo/members/"]);

    site.run_agent("p1");
    site.run_agent(other);
    site.tells("p1", &["timeline 1", "timeline 2", "'history'"]).await;
    site.tells(other, &["a replica's"]).await;
    site.run_agent(last);
    health::well(&site, PATIENCE).await;
    assert_eq!(health::leader(&site).await, last);
    let verdict = verify(&site.writes(), &book).await.expect("the primary answers");
    assert!(verdict.is_clean() && verdict.present > 10, "{verdict:?}");
}
