//! An address that follows the primary: a client on another host, which keeps what it once learned about the network,
//! always ends up at the primary and nowhere else.

use std::time::Instant;

use matriarch_testkit::faults;
use matriarch_testkit::lab::Node;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::hosts::{Family, Plan};
use crate::harness::{Hosts, PATIENCE, Subject, health, verb};

/// Waits until something is as it should be.
async fn until(what: &str, mut wrong: impl FnMut() -> Option<String>) {
    let begun = Instant::now();
    while let Some(wrong) = wrong() {
        assert!(begun.elapsed() < PATIENCE, "not after {PATIENCE:?}: {what}: {wrong}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

fn ip(node: &Node, words: &[&str]) -> Value {
    let output = node.inside("ip").arg("-json").args(words).output().expect("ip runs");
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
}

fn hardware_address(node: &Node) -> String {
    ip(node, &["link", "show", "dev", "host0"])[0]["address"].as_str().expect("it has one").to_owned()
}

/// The members whose hosts have the address.
fn holders(hosts: &Hosts) -> Vec<String> {
    let has = |name: &String| {
        let all = ip(hosts.node(name), &["address", "show", "dev", "host0"]);
        let all = all[0]["addr_info"].as_array().cloned().unwrap_or_default();
        all.iter().any(|address| address["local"] == hosts.virtual_ip().as_str())
    };
    hosts.names().into_iter().filter(has).collect()
}

/// What the client's host believes: the hardware address behind the virtual one.
fn believed(hosts: &Hosts) -> Option<String> {
    let entries = ip(hosts.client(), &["neighbour", "show", &hosts.virtual_ip(), "dev", "host0"]);
    Some(entries[0]["lladdr"].as_str()?.to_owned())
}

/// What the client's host once knew it goes on believing; nothing but an announcement changes its mind in time.
fn be_stubborn(client: &Node, family: &str) {
    let times = [("base_reachable_time_ms", 36_000_000), ("gc_stale_time", 36_000), ("delay_first_probe_time", 36_000)];
    for (key, time) in times {
        let write = format!("echo {time} >/proc/sys/net/{family}/neigh/host0/{key}");
        let status = client.inside("sh").args(["-c", &write]).status();
        assert!(status.expect("a shell runs").success(), "{key}");
    }
}

/// Whether the client, through the address, gets to this member as a primary that takes writes.
fn reaches(hosts: &Hosts, member: &str) -> Result<(), String> {
    let mut psql = hosts.client().inside(&hosts.bins().join("psql").display().to_string());
    psql.env("PGPASSWORD", "secret").env("PGCONNECT_TIMEOUT", "2");
    psql.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-h", &hosts.virtual_ip(), "-U", "postgres", "-d", "postgres"]);
    psql.args(["-c", "CREATE TEMP TABLE t (x int)", "-c", "SHOW data_directory"]);
    let output = psql.output().expect("psql runs");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let there = out.trim() == hosts.data(member).display().to_string();
    if there { Ok(()) } else { Err(format!("{} {}", out.trim(), err.trim())) }
}

/// Only the agent and its guard may change the network: not PostgreSQL, nor what it starts.
fn keeps_privileges_to_itself(hosts: &Hosts, member: &str) {
    let capabilities = |pid: i32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("CapPrm:")).expect("the kernel tells");
        u64::from_str_radix(line.trim(), 16).expect("it is a number")
    };
    let postmaster = faults::postmaster(&hosts.data(member)).expect("it runs");
    assert_eq!(capabilities(postmaster), 0, "PostgreSQL");
    assert_ne!(capabilities(hosts.agent(member).expect("it runs")), 0, "the agent");
}

/// Waits until the client is at the given member.
async fn follows(hosts: &Hosts, member: &str) {
    let right = hardware_address(hosts.node(member));
    until(&format!("the client is at {member}"), || {
        let learned = believed(hosts);
        reaches(hosts, member).err().or_else(|| {
            let now = believed(hosts);
            (now.as_ref() != Some(&right)).then(|| format!("it believes {learned:?}, then {now:?}; right is {right}"))
        })
    })
    .await;
}

/// Waits until nobody but the given member has it.
async fn alone(hosts: &Hosts, member: &str) {
    until(&format!("{member} alone has the address"), || {
        let holders = holders(hosts);
        (holders != [member]).then(|| format!("{holders:?}"))
    })
    .await;
}

/// Waits until a member that is not `old` leads.
async fn other_leader(hosts: &Hosts, old: &str) -> String {
    let begun = Instant::now();
    loop {
        let rows = health::rows(hosts).await.unwrap_or_default();
        let mut leaders = rows.iter().filter(|row| row["role"] == "leader" && row["state"] == "running");
        if let Some(new) = leaders.find_map(|row| row["member"].as_str().filter(|name| *name != old)) {
            return new.to_owned();
        }
        assert!(begun.elapsed() < PATIENCE, "not after {PATIENCE:?}: another leader than {old}: {rows:?}");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}

fn plan(name: &'static str, family: Family) -> Plan {
    // A planned move is not to be called off on a busy machine.
    let dynamic = json!({"switchover_hold_timeout": 30});
    Plan { virtual_ip: Some(family), dynamic, ..Plan::new(name) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_of_ipv6_follows_the_primary() {
    let Some(hosts) = plan("address6", Family::V6).start().await else { return };
    ip(hosts.client(), &["address", "add", "fd00:213::63/64", "dev", "host0", "nodad"]);
    be_stubborn(hosts.client(), "ipv6");
    let first = health::leader(&hosts).await;
    follows(&hosts, &first).await;
    hosts.verb(&["switchover", "--force"]).await.ok();
    let second = other_leader(&hosts, &first).await;
    follows(&hosts, &second).await;
    alone(&hosts, &second).await;

    // What stands still answers in IPv6, too.
    hosts.node(&second).freeze().expect("it can be frozen");
    let third = other_leader(&hosts, &second).await;
    follows(&hosts, &third).await;
    let frozen = hardware_address(hosts.node(&second));
    until("the other owner is named", || {
        let log = hosts.log(&third);
        (!log.contains(&format!("also answered for by {frozen}"))).then_some(log)
    })
    .await;
    hosts.node(&second).thaw().expect("it can be thawed");
    alone(&hosts, &third).await;
    health::well(&hosts, PATIENCE).await;
}

#[test]
fn what_an_address_needs_is_said_at_the_start() {
    let Some(hosts) = plan("address-needs", Family::V4).prepare() else { return };
    let node = hosts.node("a");
    let config = hosts.config("a");
    let refused = |capabilities: &[&str], words: &[&str]| {
        let mut agent = node.command_with(verb::program(), capabilities);
        let output = agent.args(["agent", "--config"]).arg(&config).current_dir("/").output().expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && words.iter().all(|word| said.contains(word)), "{words:?}: {said}");
    };
    refused(&[], &["virtual_ip", "CAP_NET_ADMIN", "CAP_NET_RAW", "AmbientCapabilities"]);
    refused(&["net_admin"], &["CAP_NET_RAW (to tell the neighbours of it)"]);
    let text = std::fs::read_to_string(&config).expect("it was written");
    let other = text.replace("\"host0\"", "\"nowhere0\"").replace("host0:pg", "nowhere0:pg");
    std::fs::write(&config, other).expect("it is ours");
    refused(&["net_admin", "net_raw"], &["virtual_ip.interface", "no interface nowhere0", "host0, lo"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_follows_the_primary() {
    let Some(mut hosts) = plan("address", Family::V4).start().await else { return };
    be_stubborn(hosts.client(), "ipv4");
    let first = health::leader(&hosts).await;
    follows(&hosts, &first).await;
    alone(&hosts, &first).await;
    keeps_privileges_to_itself(&hosts, &first);

    // A planned switchover.
    hosts.verb(&["switchover", "--force"]).await.ok();
    let second = other_leader(&hosts, &first).await;
    follows(&hosts, &second).await;
    alone(&hosts, &second).await;
    health::well(&hosts, PATIENCE).await;

    // An agent that is killed and started again takes over what runs, the address included.
    faults::kill(&[hosts.agent(&second).expect("it runs")]);
    health::well(&hosts, PATIENCE).await;
    follows(&hosts, &second).await;
    alone(&hosts, &second).await;

    // A host that loses its power. Its kernel goes on here, and so the address stays on it until its agent is back.
    hosts.power_cut(std::slice::from_ref(&second), 1);
    let third = other_leader(&hosts, &second).await;
    follows(&hosts, &third).await;
    hosts.boot(&second);
    alone(&hosts, &third).await;
    follows(&hosts, &third).await;
    health::well(&hosts, PATIENCE).await;

    // One that stands still: its kernel even answers for the address, which the new primary says.
    hosts.node(&third).freeze().expect("it can be frozen");
    let fourth = other_leader(&hosts, &third).await;
    follows(&hosts, &fourth).await;
    assert!(holders(&hosts).contains(&third), "its kernel has it as before");
    let frozen = hardware_address(hosts.node(&third));
    until("the other owner is named", || {
        let log = hosts.log(&fourth);
        let said = log.lines().any(|line| line.contains("also answered for by") && line.contains(&frozen));
        (!said).then_some(log)
    })
    .await;
    hosts.node(&third).thaw().expect("it can be thawed");
    alone(&hosts, &fourth).await;
    follows(&hosts, &fourth).await;
    health::well(&hosts, PATIENCE).await;

    // An agent that hangs: the guard takes the address with PostgreSQL.
    let agent = hosts.agent(&fourth).expect("it runs");
    assert!(faults::signal(agent, Signal::STOP));
    let fifth = other_leader(&hosts, &fourth).await;
    alone(&hosts, &fifth).await;
    follows(&hosts, &fifth).await;
    assert_eq!(hosts.agent(&fourth), Some(agent), "the agent has stood still all the time");
    assert!(hosts.log(&fourth).contains("guard: "), "it was the guard");
    assert!(faults::signal(agent, Signal::CONT));
    health::well(&hosts, PATIENCE).await;

    // One that becomes another program keeps the address, and what it takes to give it up.
    let agent = hosts.agent(&fifth).expect("it runs");
    let starts = || hosts.log(&fifth).matches("agent of member").count();
    let before = starts();
    assert!(faults::signal(agent, Signal::USR2));
    until("another program in the agent", || (starts() == before).then(|| "the old one goes on".to_owned())).await;
    health::well(&hosts, PATIENCE).await;
    assert_eq!(hosts.agent(&fifth), Some(agent));
    alone(&hosts, &fifth).await;
    follows(&hosts, &fifth).await;

    // One that is told to stop takes it away itself.
    assert!(faults::signal(hosts.agent(&fifth).expect("it runs"), Signal::TERM));
    let sixth = other_leader(&hosts, &fifth).await;
    follows(&hosts, &sixth).await;
    alone(&hosts, &sixth).await;
    health::well(&hosts, PATIENCE).await;
}
