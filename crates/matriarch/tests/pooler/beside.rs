//! PgBouncer in the agents, asked for in their files: nobody starts it, and nobody runs SQL for it.

use matriarch_config::{Document, to_yaml};
use matriarch_testkit::faults;
use matriarch_testkit::ports::Port;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{Cluster, PATIENCE, Plan, fault, health, verb, wire};
use crate::pgbouncer::{Bench, Foreign, alive, until};
use crate::{cluster, switch_over};

/// What the agents make by themselves.
const ROLE: &str = "matriarch_pooler";

pub fn log(cluster: &Cluster, name: &str) -> String {
    std::fs::read_to_string(cluster.member(name).join("agent.log")).unwrap_or_default()
}

/// Changes a member's file.
pub fn edit(cluster: &Cluster, name: &str, change: impl FnOnce(&mut Value)) {
    let file = cluster.member(name).join("agent.yaml");
    let text = std::fs::read_to_string(&file).expect("`up` has written it");
    let mut config = Document::parse(&text).expect("`up` writes YAML").value;
    change(&mut config);
    std::fs::write(&file, to_yaml(&config)).expect("the folder is ours");
}

/// Adds the pooler and its role to a member's file.
fn configure(cluster: &Cluster, name: &str, port: u16) {
    edit(cluster, name, |config| {
        config["postgresql"]["authentication"]["pooler"] = json!({"username": ROLE, "password": "it's \"quoted\""});
        let pooler = json!({"read_write": format!("127.0.0.1:{port}"), "settings": {"default_pool_size": 30}});
        config["proxy"] = json!({"drain_timeout": 1, "pooler": pooler});
    });
}

/// Has the agent begin anew, with its file as it is now; PostgreSQL goes on.
pub async fn begin_anew(cluster: &Cluster, name: &str) {
    let starts = || log(cluster, name).matches("agent of member").count();
    let before = starts();
    assert!(faults::signal(fault::agent(cluster, name), Signal::USR2), "it runs");
    until(&format!("the agent of {name} begins anew"), async || (starts() > before).then_some(())).await;
    health::well(cluster, PATIENCE).await;
}

pub async fn enters(port: u16, role: &str, password: &str) -> anyhow::Result<String> {
    let dsn = format!("host=127.0.0.1 port={port} user={role} password={password} dbname=app");
    wire::ask(&dsn, "SELECT current_user").await
}

pub fn pgbouncer(cluster: &Cluster, name: &str, port: u16) -> Option<i32> {
    let file = cluster.member(name).join("data.pooler").join(port.to_string()).join("pgbouncer.pid");
    std::fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// A role that is made now can log in everywhere soon, which needs the pooler's own role.
async fn a_new_role_enters(cluster: &Cluster, ports: &[Port], name: &str) {
    let make = format!("CREATE ROLE {name} LOGIN PASSWORD 'secret-{name}'");
    cluster.ask(cluster.read_write(), &make).await.expect("the primary serves");
    for port in ports {
        let password = format!("secret-{name}");
        let who = until(name, async || enters(port.number(), name, &password).await.ok()).await;
        assert_eq!(who, name);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_run_pgbouncer_and_make_its_role_in_a_cluster_that_is_there() {
    let mut cluster = cluster("agentpool").await;
    let names = cluster.names();
    let ports: Vec<Port> = names.iter().map(|_| Port::reserve()).collect();
    for (name, port) in names.iter().zip(&ports) {
        configure(&cluster, name, port.number());
    }
    for name in &names {
        begin_anew(&cluster, name).await;
    }
    for port in &ports {
        let who = until("the role of an application enters", async || enters(port.number(), "app", "hush").await.ok());
        assert_eq!(who.await, "app");
        assert!(enters(port.number(), "app", "wrong").await.is_err());
    }
    a_new_role_enters(&cluster, &ports, "before").await;

    // Clients of all three see no error in a switchover; the next leader puts right what was changed about the role.
    let spoil = format!("ALTER ROLE {ROLE} PASSWORD 'spoilt'");
    cluster.ask(cluster.read_write(), &spoil).await.expect("the primary serves");
    Bench::tables(&cluster, ports[0].number());
    let benches: Vec<Bench> = ports.iter().map(|port| Bench::start(&cluster, port.number(), 10)).collect();
    for bench in &benches {
        bench.works().await;
    }
    let leader = switch_over(&cluster).await;
    for bench in benches {
        bench.works().await;
        bench.conclude();
    }
    a_new_role_enters(&cluster, &ports, "after").await;
    assert!(log(&cluster, &leader).contains("made the role 'matriarch_pooler' for poolers"));

    // An agent that begins anew goes on with the PgBouncer that runs.
    let find = |name: &String, port: &Port| pgbouncer(&cluster, name, port.number()).expect("it runs");
    let first = find(&names[0], &ports[0]);
    begin_anew(&cluster, &names[0]).await;
    until("adopted", async || log(&cluster, &names[0]).contains("adopted the PgBouncer").then_some(())).await;
    assert_eq!(find(&names[0], &ports[0]), first);
    assert_eq!(enters(ports[0].number(), "app", "hush").await.expect("it serves"), "app");

    let all: Vec<i32> = names.iter().zip(&ports).map(|(name, port)| find(name, port)).collect();
    assert!(all.iter().all(|pid| alive(*pid)));
    cluster.stop();
    assert!(!all.into_iter().any(alive), "PgBouncers end with their agents");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_pause_a_pgbouncer_that_is_registered_in_their_files() {
    let cluster = cluster("agentpoolreg").await;
    let foreign = Foreign::start(&cluster);
    until("the registered pooler serves", async || foreign.ask("SELECT 1").await.ok()).await;
    // Several may know of the same one.
    for name in ["a", "b"] {
        edit(&cluster, name, |config| {
            let admin = json!({"username": "admin", "password": "secret"});
            let addresses = [format!("127.0.0.1:{}", foreign.port())];
            config["proxy"] = json!({"pooler": {"addresses": addresses, "admin": admin}});
        });
        begin_anew(&cluster, name).await;
    }
    until("it is known", async || {
        let status = cluster.verb(&["status"]).await;
        (status.out.contains("pooler") && !status.out.contains("in trouble")).then_some(())
    })
    .await;
    Bench::tables(&cluster, foreign.port());
    let bench = Bench::start(&cluster, foreign.port(), 20);
    bench.works().await;
    switch_over(&cluster).await;
    bench.works().await;
    bench.conclude();
    for name in ["a", "b"] {
        assert!(log(&cluster, name).contains("paused the pooler at"), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_says_what_is_wrong_with_its_pooler() {
    let cluster = Plan::new("agentpoolbad").members(1).start().await;
    let text = std::fs::read_to_string(cluster.member("a").join("agent.yaml")).expect("it is there");
    let good = Document::parse(&text).expect("it is YAML").value;
    let ports = [Port::reserve(), Port::reserve(), Port::reserve()];
    let [postgres, api, pooler] = ports.each_ref().map(|port| format!("127.0.0.1:{}", port.number()));
    for (more, role, words) in [
        (
            json!({"settings": {"auth_file": "/x"}}),
            true,
            "proxy.pooler.settings.auth_file: PgBouncer's auth_file belongs",
        ),
        (json!({"program": "/nope"}), true, "proxy.pooler: PgBouncer is not installed: there is no pgbouncer in /nope"),
        (json!({}), false, "proxy.pooler: it must know the roles' passwords; add a role for it, as in"),
    ] {
        // A member of its own beside the one that runs.
        let mut config = good.clone();
        config["name"] = json!("z");
        config["postgresql"]["listen"] = json!(postgres);
        config["postgresql"]["data_dir"] = json!(cluster.root().join("z"));
        config["restapi"]["listen"] = json!(api);
        if role {
            config["postgresql"]["authentication"]["pooler"] = json!({"password": "x"});
        }
        config["proxy"] = json!({"pooler": more});
        config["proxy"]["pooler"]["read_write"] = json!(pooler);
        let file = cluster.root().join("z.yaml");
        std::fs::write(&file, to_yaml(&config)).expect("the folder is ours");
        let arguments = ["agent", "--config", &file.display().to_string()];
        let refused = verb::run(cluster.root(), &cluster.tmp, &arguments, &[]).await;
        assert!(refused.code != 0 && refused.err.contains(words), "{words}: {refused}");
    }
}
