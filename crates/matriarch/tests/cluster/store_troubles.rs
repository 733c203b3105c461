//! A real etcd in trouble under a running cluster: full, without our user, with a certificate that has ended, put back to an older
//! copy, wiped. No write fails, nobody is promoted, everybody says what is wrong, and once it is over all is well by itself.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use matriarch_testkit::dir::TestDir;
use matriarch_testkit::etcd::{self, EtcdCluster, Plan as EtcdPlan};
use matriarch_testkit::observer::Probe;
use serde_json::Value;

use crate::harness::{Cluster, PATIENCE, Plan, Witness, health, wire};

const DAY: Duration = Duration::from_secs(86_400);
/// Longer than a leader's lease lives,
const LEASE: Duration = Duration::from_secs(6);
/// and than the records of members and routers do.
const RECORDS: Duration = Duration::from_secs(11);
/// Who the agents are to etcd.
const USER: &str = "agents:hunter2";

/// With TLS and users; whoever shows the certificate `client`, as etcdctl does, may do everything.
fn store(dir: &TestDir) -> EtcdCluster {
    // What is asked of each login is another machine's concern.
    let plan = EtcdPlan::new(etcd::current()).tls().argument("--quota-backend-bytes=8388608");
    let store = plan.argument("--bcrypt-cost=4").start(dir);
    store.authority().issue("agent", DAY);
    for command in [
        &["user", "add", "root:root"][..],
        &["user", "grant-role", "root", "root"],
        &["user", "add", "client", "--no-password"],
        &["user", "grant-role", "client", "root"],
        &["role", "add", "clusters"],
        &["role", "grant-permission", "clusters", "--prefix=true", "readwrite", "/service/"],
        &["user", "add", USER],
        &["user", "grant-role", "agents", "clusters"],
        &["auth", "enable"],
    ] {
        store.must(command);
    }
    store
}

async fn start(store: &EtcdCluster, password: &Path) -> Cluster {
    let authority = store.authority();
    let text = |path: &Path| path.display().to_string();
    let access = [
        ("--store", format!("etcds:{}", store.hosts())),
        ("--store-cacert", text(&authority.ca())),
        ("--store-cert", text(&authority.cert("agent"))),
        ("--store-key", text(&authority.key("agent"))),
        ("--store-username", "agents".to_owned()),
        ("--store-password-file", text(password)),
    ];
    let plan = access.iter().fold(Plan::new("troubles"), |plan, (name, value)| plan.argument(name).argument(value));
    plan.start().await
}

/// A member's page, or null while it does not answer.
async fn page(cluster: &Cluster, name: &str, path: &str) -> Value {
    let answer = wire::http(cluster.api_port(name), "GET", path, None, "").await;
    answer.ok().and_then(|answer| serde_json::from_str(&answer.body).ok()).unwrap_or_default()
}

/// Waits until a member's page is as it should be.
async fn until(cluster: &Cluster, name: &str, path: &str, what: &str, fits: impl Fn(&Value) -> bool) {
    let begun = Instant::now();
    loop {
        let page = page(cluster, name, path).await;
        if fits(&page) {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "{what}, says {name}: {page:#}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Capital letters apart.
fn says(problem: &Value, words: &str) -> bool {
    problem.as_str().is_some_and(|problem| problem.to_lowercase().contains(words))
}

/// A cluster under a witness, and what must not change.
struct Ward {
    cluster: Cluster,
    leader: String,
    replicas: Vec<String>,
    epoch: u64,
}

impl Ward {
    async fn new(cluster: Cluster) -> Ward {
        let (leader, replicas) = (health::leader(&cluster).await, health::replicas(&cluster).await);
        let epoch = page(&cluster, &leader, "/cluster").await["matriarch"]["epoch"].as_u64().expect("it leads");
        Ward { cluster, leader, replicas, epoch }
    }

    /// `list`, `status` and every member's API say what is wrong.
    async fn is_told(&self, words: &str) {
        health::wait(&self.cluster, PATIENCE, "`list` tells the trouble", |_, rows| {
            let row = rows.iter().find(|row| row["member"] == self.leader.as_str());
            let problem = row.map(|row| row["problem"].clone()).unwrap_or_default();
            (!says(&problem, words)).then(|| format!("{} says {problem}, not '{words}'", self.leader))
        })
        .await;
        let status = self.cluster.verb(&["status"]).await;
        let line = status.ok().lines().find(|line| line.starts_with("Store:")).unwrap_or_default().to_lowercase();
        assert!(line.contains(words), "`status` tells the trouble: {line}");
        for name in self.cluster.names() {
            until(&self.cluster, &name, "/patroni", words, |page| says(&page["matriarch"]["problem"], words)).await;
            let store = |page: &Value| page["matriarch"]["store"].clone();
            until(&self.cluster, &name, "/cluster", words, |page| says(&store(page)["problem"], words)).await;
            until(&self.cluster, &name, "/cluster", "engine", |page| store(page)["engine"] == "etcd").await;
        }
    }

    /// Nobody else becomes a primary for so long.
    async fn goes_on(&self, time: Duration) {
        let begun = Instant::now();
        while begun.elapsed() < time {
            for name in &self.replicas {
                let port = self.cluster.postgres_port(name);
                let said = self.cluster.ask(port, "SELECT pg_is_in_recovery()").await;
                assert_eq!(said.unwrap_or_else(|_| "t".to_owned()), "t", "{name} was promoted");
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Without anybody's help, with the leader and the epoch that it had.
    async fn is_well(&self, after: &str, witness: &Witness) {
        witness.writes_again(after).await;
        health::well(&self.cluster, PATIENCE).await;
        assert_eq!(health::leader(&self.cluster).await, self.leader, "after {after}");
        let page = page(&self.cluster, &self.leader, "/cluster").await;
        assert_eq!(page["matriarch"]["epoch"], self.epoch, "after {after}");
        assert!(page["matriarch"]["store"]["problem"].is_null(), "after {after}: {page:#}");
        let failed = failures(witness);
        assert_eq!(failed, (0, 0, 0, 0), "after {after}: {:?}", witness.so_far());
    }

    /// What was changed since the copy was made is there again, and routers are known.
    async fn has_what_it_had(&self) {
        let (cluster, leader) = (&self.cluster, &self.leader);
        until(cluster, leader, "/config", "the newest configuration", |page| page["switchover_hold_timeout"] == 30)
            .await;
        until(cluster, leader, "/history", "the whole history", |page| page[0][4] == leader.as_str()).await;
        until(cluster, leader, "/cluster", "the proxy", |page| page["matriarch"]["routers"][0].is_object()).await;
    }

    /// How often its leader has written the records anew.
    fn mended(&self) -> usize {
        let log = std::fs::read_to_string(self.cluster.member(&self.leader).join("agent.log")).unwrap_or_default();
        log.matches(&format!("writing the records of epoch {} anew", self.epoch)).count()
    }
}

/// Refused, unknown, not connected, cut while idle.
fn failures(witness: &Witness) -> (u64, u64, u64, u64) {
    let summary = witness.so_far();
    (summary.refused, summary.unknown, summary.connect_errors, summary.idle_cuts)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_in_trouble_costs_no_write_and_promotes_nobody() {
    let dir = TestDir::new("etcd-troubles");
    let mut store = store(&dir);
    let password = dir.join("password");
    std::fs::write(&password, "hunter2\n").expect("the folder is ours");
    let cluster = start(&store, &password).await;
    let copy = dir.join("copy");
    store.save(&copy);
    // The copy knows neither this nor the next epoch: its leader is a replica by then.
    cluster.be_patient().await;
    cluster.verb(&["switchover", "--force"]).await.ok();
    health::well(&cluster, PATIENCE).await;
    let ward = Ward::new(cluster).await;
    let witness = Witness::patient(&ward.cluster, Probe::Status).await;

    store.fill();
    ward.is_told("is full (its alarm nospace is raised)").await;
    ward.goes_on(LEASE).await;
    store.make_room();
    ward.is_well("a full store", &witness).await;

    store.must(&["user", "delete", "agents"]);
    ward.is_told("refuses us").await;
    ward.goes_on(RECORDS).await;
    store.must(&["user", "add", USER]);
    store.must(&["user", "grant-role", "agents", "clusters"]);
    ward.is_well("credentials that were taken away", &witness).await;

    // Connections that are open go on: it counts once they are cut.
    store.authority().issue_until("agent", SystemTime::now() - DAY);
    store.kill_all();
    store.start_all();
    ward.is_told("certificate").await;
    ward.goes_on(LEASE).await;
    store.authority().issue("agent", DAY);
    ward.is_well("a certificate that had ended", &witness).await;

    let before = ward.mended();
    store.restore(Some(&copy));
    ward.has_what_it_had().await;
    ward.is_well("an older copy", &witness).await;
    let once = ward.mended();
    assert!(once > before, "the leader of the newest epoch mends it");
    store.must(&["del", "--prefix", "/service/demo/"]);
    ward.goes_on(Duration::from_secs(1)).await;
    ward.has_what_it_had().await;
    ward.is_well("a store that was wiped", &witness).await;
    assert!(ward.mended() > once, "and again");
    witness.conclude(&ward.cluster).await;
}
