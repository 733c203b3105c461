//! The REST interface with TLS and certificates for everybody who asks: a cluster that turns to it member by member, and whoever
//! asks it afterwards: verbs, members, Patroni's command line, HAProxy, and strangers.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use matriarch_cli::code;
use matriarch_testkit::certificates::Authority;
use matriarch_testkit::dir::TestDir;
use matriarch_testkit::etcd::{self, EtcdCluster, Plan as EtcdPlan};
use matriarch_testkit::faults;
use matriarch_testkit::observer::Probe;
use matriarch_testkit::process::eventually;
use rustix::process::Signal;
use serde_json::json;

use crate::doors::HaProxy;
use crate::harness::{Cluster, Outcome, PATIENCE, Plan, Subject, Witness, fault, health, verb};
use crate::patronictl::program;

const DAY: Duration = Duration::from_secs(86_400);

/// A cluster whose interfaces speak TLS, asked as an operator asks it: with the configuration of one member.
struct Secured {
    cluster: Cluster,
    authority: Authority,
    store: EtcdCluster,
    _dir: TestDir,
}

impl Subject for Secured {
    fn names(&self) -> Vec<String> {
        self.cluster.names()
    }

    fn writes(&self) -> String {
        self.cluster.writes()
    }

    fn direct(&self, name: &str) -> String {
        self.cluster.direct(name)
    }

    async fn verb(&self, arguments: &[&str]) -> Outcome {
        let config = text(&self.cluster.member("a").join("agent.yaml"));
        let all: Vec<&str> = ["--config", &config].into_iter().chain(arguments.iter().copied()).collect();
        verb::run(self.cluster.root(), &self.cluster.tmp, &all, &[]).await
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

impl Secured {
    /// Plain HTTP still; the certificates are there.
    async fn start() -> Secured {
        let dir = TestDir::new("api-tls-store");
        let store = EtcdPlan::new(etcd::current()).start(&dir);
        let cluster =
            Plan::new("api-tls").argument("--store").argument(&format!("etcd:{}", store.hosts())).start().await;
        cluster.be_patient().await;
        let authority = Authority::new(&dir.create("certificates"));
        for name in cluster.names().iter().map(String::as_str).chain(["person"]) {
            authority.issue(name, DAY);
        }
        Secured { cluster, authority, store, _dir: dir }
    }

    /// What an operator writes into a member's file.
    fn write(&self, name: &str) {
        self.cluster.rewrite(name, |local| {
            let restapi = &mut local["restapi"];
            restapi["certfile"] = json!(self.authority.cert(name));
            restapi["keyfile"] = json!(self.authority.key(name));
            restapi["cafile"] = json!(self.authority.ca());
            restapi["verify_client"] = json!("required");
        });
    }

    fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.cluster.member(name).join("agent.log")).unwrap_or_default()
    }

    /// The agent begins anew with its file as it is now; its PostgreSQL goes on.
    fn begin_anew(&self, name: &str) {
        let starts = || self.log(name).matches("agent of member").count();
        let before = starts();
        assert!(faults::signal(fault::agent(&self.cluster, name), Signal::USR2), "it runs");
        eventually(&format!("the agent of {name} begins anew"), PATIENCE, || starts() > before);
    }

    fn until_logged(&self, name: &str, words: &str, more_than: usize) {
        eventually(&format!("{name} logs '{words}'"), PATIENCE, || self.log(name).matches(words).count() > more_than);
    }

    /// A verb by the store's address, with this beside it.
    async fn by_store(&self, access: &[(&str, PathBuf)]) -> Outcome {
        let (store, token) = (format!("etcd:{}", self.store.hosts()), self.cluster.token());
        let mut words = vec!["--store", &store, "--scope", "demo", "--token", &token];
        let access: Vec<(&str, String)> = access.iter().map(|(name, file)| (*name, text(file))).collect();
        words.extend(access.iter().flat_map(|(name, file)| [*name, file.as_str()]));
        words.extend(["list", "-o", "json"]);
        verb::run(self.cluster.root(), &self.cluster.tmp, &words, &[]).await
    }

    /// Patroni's command line with a section `ctl`.
    fn patronictl(&self, arguments: &[&str]) -> String {
        let config = self.cluster.root().join("patronictl.yaml");
        let file = json!({
            "scope": "demo", "etcd3": {"hosts": self.store.hosts()},
            "restapi": {"authentication": {"username": "patroni", "password": self.cluster.token()}},
            "ctl": {
                "cacert": self.authority.ca(), "certfile": self.authority.cert("person"),
                "keyfile": self.authority.key("person"),
            },
        });
        std::fs::write(&config, file.to_string()).expect("the folder is there");
        let output = Command::new(program()).arg("-c").arg(&config).args(arguments).output().expect("patronictl runs");
        let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        assert!(output.status.success(), "patronictl {arguments:?}: {said}");
        said
    }
}

/// Nobody hears who has turned to TLS before they know the authority themselves, and nothing comes of that; no write fails.
async fn turns_member_by_member(site: &Secured) {
    let witness = Witness::patient(site, Probe::Status).await;
    let leader = health::leader(site).await;
    let replicas = health::replicas(site).await;
    site.cluster.names().iter().for_each(|name| site.write(name));
    site.begin_anew(&leader);
    site.until_logged(
        &replicas[0],
        &format!("'{leader}' takes no heartbeats of ours, so failover waits for the lease"),
        0,
    );
    for name in &replicas {
        let heard = || site.log(name).matches("is heard").count();
        let before = heard();
        site.begin_anew(name);
        site.until_logged(name, "is heard", before);
    }
    health::well(site, PATIENCE).await;
    assert_eq!(health::leader(site).await, leader, "nobody took over");
    let summary = witness.conclude(site).await;
    assert_eq!((summary.refused, summary.unknown, summary.connect_errors), (0, 0, 0), "{summary:?}");
}

/// Whoever has no certificate, or another authority's, is told so.
async fn strangers_are_refused(site: &Secured) {
    let elsewhere = TestDir::new("api-tls-foreign");
    let foreign = Authority::new(elsewhere.path());
    foreign.issue("person", DAY);
    let ca = || ("--cacert", site.authority.ca());
    let shown = |authority: &Authority| [("--cert", authority.cert("person")), ("--key", authority.key("person"))];
    let [cert, key] = shown(&site.authority);
    let rows = site.by_store(&[ca(), cert, key]).await;
    let rows = rows.json();
    let streaming = rows.as_array().into_iter().flatten().filter(|row| row["state"] == "streaming");
    assert_eq!(streaming.count(), 2, "{rows}");
    let refused = |words: &'static str| {
        move |outcome: Outcome| outcome.refused_naming(code::PERMISSION, &["https://127.0.0.1:", words])
    };
    refused("it wants a client's certificate (verify_client) and got none")(site.by_store(&[ca()]).await);
    let [cert, key] = shown(&foreign);
    refused("it does not accept our client certificate")(site.by_store(&[ca(), cert, key]).await);
    refused("authority that is not trusted")(site.by_store(&[("--cacert", foreign.ca())]).await);
}

/// A garbled certificate is told and changes nothing, a renewed one counts without a restart.
async fn is_renewed(site: &Secured) {
    let problem = |words: Option<&'static str>| {
        health::wait(site, PATIENCE, "the state of the certificate", move |_, rows| {
            let problem =
                rows.iter().find(|row| row["member"] == "b").map(|row| row["problem"].clone()).unwrap_or_default();
            let fits = match words {
                Some(words) => problem.as_str().is_some_and(|problem| problem.contains(words)),
                None => problem.is_null(),
            };
            (!fits).then(|| format!("b tells {problem}"))
        })
    };
    std::fs::write(site.authority.cert("b"), "half of a certi").expect("it is ours");
    problem(Some("REST API: what was read before stays in use")).await;
    site.authority.issue("b", 3 * DAY);
    // It would be noticed without that.
    site.verb(&["reload", "b"]).await.ok();
    problem(None).await;
    let status = site.verb(&["status"]).await;
    assert!(status.ok().contains("restapi"), "its days are counted: {status}");
}

/// A node that is lost is noticed over TLS, at once.
async fn fails_over(site: &Secured) {
    let leader = health::leader(site).await;
    let before: Vec<(String, usize)> = health::replicas(site)
        .await
        .into_iter()
        .map(|name| (name.clone(), site.log(&name).matches("the leader is suspected").count()))
        .collect();
    let parts = [fault::agent(&site.cluster, &leader), fault::guard(&site.cluster, &leader)];
    let postmaster = fault::postmaster(&site.cluster.data(&leader));
    faults::kill(&[parts[0], parts[1], postmaster]);
    eventually("somebody suspects the leader", PATIENCE, || {
        before.iter().any(|(name, count)| site.log(name).matches("the leader is suspected").count() > *count)
    });
    health::well(site, PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_turns_to_tls_and_everybody_who_may_asks_it() {
    let site = Secured::start().await;
    turns_member_by_member(&site).await;
    strangers_are_refused(&site).await;

    let leader = health::leader(&site).await;
    let candidate = health::replicas(&site).await.remove(0);
    let moved = site.patronictl(&["switchover", "demo", "--leader", &leader, "--candidate", &candidate, "--force"]);
    assert!(moved.contains(&format!("Successfully switched over to \"{candidate}\"")), "{moved}");
    health::well(&site, PATIENCE).await;
    assert_eq!(health::leader(&site).await, candidate);

    is_renewed(&site).await;
    // HAProxy wants the certificate and its key in one file.
    let bundle = site.cluster.root().join("haproxy.pem");
    let parts = [site.authority.cert("person"), site.authority.key("person")];
    let parts = parts.map(|file| std::fs::read_to_string(file).expect("it is ours"));
    std::fs::write(&bundle, parts.concat()).expect("the folder is there");
    let check = format!("check-ssl verify required ca-file {} crt {}", text(&site.authority.ca()), text(&bundle));
    let mut haproxy = HaProxy::start(&site.cluster, &check);
    let door = haproxy.primary.number();
    haproxy.until(&site.cluster, door, "show port", &site.cluster.postgres_port(&candidate).to_string()).await;
    fails_over(&site).await;
    let leader = health::leader(&site).await;
    haproxy.until(&site.cluster, door, "show port", &site.cluster.postgres_port(&leader).to_string()).await;
}
