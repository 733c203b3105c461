//! Patroni's own command line on a cluster of ours over etcd: the layout in the store and the REST interface are what it
//! expects, verb by verb.

use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use matriarch_testkit::dir::TestDir;
use matriarch_testkit::etcd::{self, EtcdCluster, Plan as EtcdPlan};
use matriarch_testkit::faults;
use serde_json::Value;

use crate::harness::{Cluster, PATIENCE, Plan, fault, health};
use crate::tags::until;

/// A cluster over etcd with Patroni's command line before it.
struct Patronictl {
    cluster: Cluster,
    config: PathBuf,
    _store: EtcdCluster,
    _dir: TestDir,
}

impl Patronictl {
    async fn start(name: &'static str) -> Patronictl {
        let dir = TestDir::new("patronictl-store");
        let store = EtcdPlan::new(etcd::current()).start(&dir);
        let plan = Plan::new(name).argument("--store").argument(&format!("etcd:{}", store.hosts()));
        let cluster = plan.start().await;
        cluster.be_patient().await;
        let config = cluster.root().join("patronictl.yaml");
        let text = format!(
            "scope: demo\netcd3: {{hosts: '{}'}}\nrestapi: {{authentication: {{username: patroni, password: {}}}}}\n\
             postgresql: {{authentication: {{superuser: {{username: postgres, password: {}}}}}}}\n",
            store.hosts(),
            cluster.token(),
            cluster.password()
        );
        std::fs::write(&config, text).expect("the folder is there");
        Patronictl { cluster, config, _store: store, _dir: dir }
    }

    async fn run(&self, arguments: &[&str]) -> Output {
        self.run_with_input(arguments, "").await
    }

    async fn run_with_input(&self, arguments: &[&str], input: &str) -> Output {
        let mut command = Command::new(program());
        command.arg("-c").arg(&self.config).args(arguments).env("PGPASSWORD", self.cluster.password());
        let input = input.to_owned();
        tokio::task::spawn_blocking(move || {
            use std::io::Write as _;
            use std::process::Stdio;
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
            let mut child = command.spawn().expect("patronictl runs");
            let mut stdin = child.stdin.take().expect("it was asked for");
            stdin.write_all(input.as_bytes()).expect("it reads");
            drop(stdin);
            child.wait_with_output().expect("it ends")
        })
        .await
        .expect("it does not panic")
    }

    /// Runs a verb that must succeed, and gives back what it printed.
    async fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments).await;
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "patronictl {arguments:?}:\n{out}\n{err}");
        out
    }

    /// Runs a verb until it prints what is wanted.
    async fn until(&self, arguments: &[&str], wanted: impl Fn(&str) -> bool) -> String {
        let begun = Instant::now();
        loop {
            let out = self.ok(arguments).await;
            if wanted(&out) {
                return out;
            }
            assert!(begun.elapsed() < PATIENCE, "patronictl {arguments:?} does not come to say it:\n{out}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    async fn well(&self) -> String {
        health::well(&self.cluster, PATIENCE).await;
        health::leader(&self.cluster).await
    }

    /// patronictl writes past the members: they refuse the configuration that they cannot read, say so and keep the last good
    /// one, and an agent that knows none goes on without the key.
    async fn misspells_a_key(&self, replica: &str) {
        self.ok(&["edit-config", "demo", "--force", "-s", "synchronous_mod=on", "-p", "work_mem=9MB"]).await;
        assert!(self.ok(&["show-config", "demo"]).await.contains("synchronous_mod: "), "it is in the store");
        let is_told = |why: &'static str| {
            health::wait(&self.cluster, PATIENCE, "every member says what it refuses", move |_, rows| {
                let says = |row: &Value, words: &str| row["problem"].as_str().is_some_and(|text| text.contains(words));
                let all = rows.iter().all(|row| says(row, "synchronous_mod: "));
                (!all || !rows.iter().any(|row| says(row, why))).then(|| format!("not all, or none says '{why}'"))
            })
        };
        is_told("the last good one stays").await;
        for name in self.cluster.names() {
            let shown = self.cluster.ask(self.cluster.postgres_port(&name), "SHOW work_mem").await;
            assert_eq!(shown.expect("it answers"), "8MB", "{name}");
        }
        let agent = fault::agent(&self.cluster, replica);
        faults::kill(&[agent]);
        is_told("without what is refused").await;
        until(&self.cluster, replica, "SHOW work_mem", |shown| shown == "9MB").await;

        self.ok(&["edit-config", "demo", "--force", "-s", "synchronous_mod=null", "-p", "work_mem=8MB"]).await;
        for name in self.cluster.names() {
            until(&self.cluster, &name, "SHOW work_mem", |shown| shown == "8MB").await;
        }
        self.well().await;
    }

    /// What was changed in a member's own file is in force on that member.
    async fn reloads_what_changed(&self, leader: &str, replica: &str) {
        let setting = "SHOW log_min_duration_statement";
        self.cluster.rewrite(replica, |local| {
            local["postgresql"]["parameters"]["log_min_duration_statement"] = serde_json::json!("71s");
        });
        let told = self.ok(&["reload", "demo", replica, "--force"]).await;
        assert!(told.contains(&format!("Reload request received for member {replica}")), "{told}");
        until(&self.cluster, replica, setting, |shown| shown == "71s").await;
        let other = self.cluster.ask(self.cluster.postgres_port(leader), setting).await;
        assert_ne!(other.expect("it answers"), "71s", "nobody else was asked");
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Installed by `scripts/install-deps --test`.
pub fn program() -> PathBuf {
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let caches = [
        std::env::var_os("MATRIARCH_CACHE").map(PathBuf::from),
        Some(PathBuf::from("/var/cache/matriarch")),
        std::env::var_os("XDG_CACHE_HOME").map(|dir| PathBuf::from(dir).join("matriarch")),
        Some(home.join(".cache/matriarch")),
    ];
    let places = caches.into_iter().flatten().map(|cache| cache.join("bench/patroni-4.1.5/bin/patronictl"));
    places.into_iter().find(|place| place.exists()).expect("patronictl is missing: scripts/install-deps --test")
}

/// The row of a member in a table.
fn row<'a>(table: &'a str, member: &str) -> &'a str {
    let of = |line: &&str| line.split('|').nth(1).is_some_and(|cell| cell.trim().trim_start_matches("+ ") == member);
    table.lines().find(of).unwrap_or_else(|| panic!("no row of {member} in:\n{table}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn patronictl_reads_the_cluster() {
    let patroni = Patronictl::start("patroni-reads").await;
    let leader = patroni.well().await;
    let cluster = &patroni.cluster;
    let port = |member: &str| cluster.postgres_port(member).to_string();

    let replicas = health::replicas(cluster).await;
    // What members tell through the store may come a moment after what they say themselves.
    let streams = |list: &str| replicas.iter().all(|member| row(list, member).contains("streaming"));
    let list = patroni.until(&["list"], |list| row(list, &leader).contains("Leader") && streams(list)).await;
    for member in replicas {
        assert!(row(&list, &member).contains(&port(&member)), "{list}");
    }
    let topology = patroni.ok(&["topology", "demo"]).await;
    let second = health::replicas(cluster).await[1].clone();
    assert!(row(&topology, &leader).contains("Leader"), "{topology}");
    assert!(topology.contains(&format!("| + {second} ")), "replicas hang below their leader:\n{topology}");

    assert_eq!(patroni.ok(&["dsn", "demo"]).await.trim(), format!("host=127.0.0.1 port={}", port(&leader)));
    let replica = patroni.ok(&["dsn", "demo", "-r", "replica"]).await;
    assert!(replica.contains("port=") && !replica.contains(&port(&leader)), "{replica}");

    let query = ["query", "demo", "-U", "postgres", "-c", "select pg_is_in_recovery()", "-r"];
    for (role, answer) in [("leader", "False"), ("replica", "True")] {
        let out = patroni.ok(&[&query[..], &[role]].concat()).await;
        assert!(out.contains(answer), "{role}: {out}");
    }
    let version = patroni.ok(&["version", "demo"]).await;
    for member in cluster.names() {
        assert!(version.contains(&format!("{member}: Patroni 4.")), "{version}");
    }
    assert!(version.contains("PostgreSQL 1"), "{version}");
    let json = patroni.ok(&["list", "-f", "json"]).await;
    let members: serde_json::Value = serde_json::from_str(&json).expect("it is JSON");
    assert_eq!(members.as_array().map(Vec::len), Some(3), "{json}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn patronictl_configures_pauses_and_restarts() {
    let patroni = Patronictl::start("patroni-changes").await;
    let leader = patroni.well().await;
    let replica = health::replicas(&patroni.cluster).await[0].clone();

    patroni.ok(&["edit-config", "demo", "--force", "-s", "synchronous_mode=quorum", "-p", "work_mem=8MB"]).await;
    let shown = patroni.ok(&["show-config", "demo"]).await;
    assert!(shown.contains("work_mem: 8MB") && shown.contains("synchronous_mode: quorum"), "{shown}");
    patroni.until(&["list"], |list| row(list, &replica).contains("Quorum Standby")).await;
    let work_mem = ["query", "demo", "-U", "postgres", "-c", "show work_mem", "-r", "leader"];
    patroni.until(&work_mem, |out| out.contains("8MB")).await;
    patroni.misspells_a_key(&replica).await;
    patroni.reloads_what_changed(&leader, &replica).await;
    let restarted = patroni.ok(&["restart", "demo", &replica, "--force"]).await;
    assert!(restarted.contains(&format!("Success: restart on member {replica}")), "{restarted}");
    patroni.well().await;

    patroni.ok(&["restart", "demo", &leader, "--force", "--scheduled", "2099-01-01T00:00"]).await;
    patroni.until(&["list"], |list| row(list, &leader).contains("2099-01-01")).await;
    let flushed = patroni.ok(&["flush", "demo", "restart", "--force"]).await;
    assert!(flushed.contains(&format!("Success: flush scheduled restart for member {leader}")), "{flushed}");

    patroni.ok(&["pause", "demo", "--wait"]).await;
    patroni.until(&["list"], |list| list.contains("Maintenance mode: on")).await;
    patroni.ok(&["resume", "demo", "--wait"]).await;
    patroni.until(&["list"], |list| !list.contains("Maintenance mode")).await;

    let data = patroni.cluster.data(&replica).join("matriarch.incarnation");
    let before = std::fs::read_to_string(&data).ok();
    let reinit = patroni.ok(&["reinit", "demo", &replica, "--force", "--wait"]).await;
    assert!(reinit.contains(&format!("completed on: {replica}")), "{reinit}");
    patroni.well().await;
    assert_ne!(std::fs::read_to_string(&data).ok(), before, "its data was made anew before `--wait` ended");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn patronictl_moves_the_primary_and_removes_the_cluster() {
    let mut patroni = Patronictl::start("patroni-moves").await;
    let first = patroni.well().await;
    patroni
        .cluster
        .ask(patroni.cluster.read_write(), "create table kept as select 42 as answer")
        .await
        .expect("writable");
    let moved = patroni.ok(&["switchover", "demo", "--force"]).await;
    assert!(moved.contains("Successfully switched over to"), "{moved}");
    let second = patroni.well().await;
    assert_ne!(first, second);
    let moved = patroni.ok(&["failover", "demo", "--force", "--candidate", &first]).await;
    assert!(moved.contains(&format!("Successfully failed over to \"{first}\"")), "{moved}");
    assert_eq!(patroni.well().await, first);
    let history = patroni.ok(&["history", "demo"]).await;
    assert!(row(&history, "1").contains(&second) && row(&history, "2").contains(&first), "{history}");

    patroni.ok(&["switchover", "demo", "--force", "--scheduled", "2099-01-01T00:00"]).await;
    patroni.until(&["list"], |list| list.contains("Switchover scheduled at: 2099-01-01")).await;
    patroni.ok(&["flush", "demo", "switchover", "--force"]).await;
    patroni.until(&["list"], |list| !list.contains("Switchover scheduled")).await;
    let kept = patroni.cluster.ask(patroni.cluster.read_write(), "select answer from kept").await;
    assert_eq!(kept.unwrap(), "42");

    // Patroni's tool asks for the cluster's name, a sentence, and the leader's name.
    patroni.cluster.stop();
    let answers = "demo\nYes I am aware\n";
    let output = patroni.run_with_input(&["remove", "demo"], answers).await;
    assert!(output.status.success(), "{}\n{}", text(&output.stdout), text(&output.stderr));
    let left = patroni.ok(&["list"]).await;
    assert!(left.contains("uninitialized"), "{left}");
}
