//! What people and scripts see.

mod common;

use std::time::{Duration, Instant};

use common::*;
use matriarch_api::*;
use serde_json::Value;

/// Compares with a file beside this one; UPDATE_SNAPSHOTS=1 writes it.
fn snapshot(name: &str, text: &str) {
    let path = format!("{}/tests/snapshots/{name}.txt", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/snapshots");
        std::fs::create_dir_all(folder).and_then(|()| std::fs::write(&path, text)).expect("the checkout is writable");
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(kept == text, "{path} differs from what is shown; UPDATE_SNAPSHOTS=1 keeps this:\n{text}");
}

#[tokio::test]
async fn pages_for_people() {
    let cluster = cluster().await;
    for verb in ["list", "topology", "status", "history", "version"] {
        snapshot(verb, &cluster.ok(verb).await);
    }
    snapshot("list-tsv", &cluster.ok("list -o tsv").await);
    snapshot("config", &cluster.ok("config show").await);
    snapshot("history-yaml", &cluster.ok("-o yaml history").await);
    {
        let mut seen = cluster.world.cluster.lock().unwrap();
        seen.pause = true;
        seen.matriarch.leader = None;
        seen.members[0].role = "replica".into();
        seen.members[0].problem = Some("its disk is\nfull".into());
        seen.members[2].expired = true;
        seen.members[1].upstream = Some("c".into());
        seen.scheduled_switchover =
            Some(ScheduledSwitchover { at: "2026-12-24T03:00:00Z".into(), from: Some("a".into()), to: None });
        seen.matriarch.rule = Some(RuleView {
            voters: vec!["b".into()],
            needed: 1,
            established: false,
            previous: Some(PreviousRuleView { leader: "a".into(), voters: vec!["b".into(), "c".into()], needed: 1 }),
        });
        let store = seen.matriarch.store.as_mut().unwrap();
        (store.reachable, store.problem) = (false, Some("the store demo/store.db refuses us".into()));
    }
    for verb in ["list", "topology", "status"] {
        snapshot(&format!("{verb}-in-trouble"), &cluster.ok(verb).await);
    }
}

#[tokio::test]
async fn machines_get_data() {
    let cluster = cluster().await;
    let list: Value = serde_json::from_str(&cluster.ok("list -o json").await).unwrap();
    assert_eq!(list[0]["role"], "leader");
    assert_eq!(list[1]["replay_lag"], 1536);
    assert_eq!(list[2]["agent"], "silent");
    assert_eq!(list[2]["lag"], Value::Null);
    let status: Value = serde_json::from_str(&cluster.ok("status -o json").await).unwrap();
    assert_eq!(status["cluster"]["matriarch"]["epoch"], 17);
    assert_eq!(status["slots"]["a"][0]["name"], "b");
    assert_eq!(status["pending_restarts"][0]["member"], "c");
    let yaml = cluster.ok("status -o yaml").await;
    assert!(yaml.contains("lease_remaining_ms: 4200"), "{yaml}");
    let topology: Value = serde_json::from_str(&cluster.ok("topology -o json").await).unwrap();
    assert_eq!(topology[0]["followers"][1]["member"], "c");
    let dsn: Value = serde_json::from_str(&cluster.ok("dsn -o json").await).unwrap();
    let text =
        "postgresql://postgres@127.0.0.1:5432,127.0.0.1:5433,127.0.0.1:5434/postgres?target_session_attrs=read-write";
    assert_eq!(dsn["dsn"], text);
    assert_eq!(cluster.ok("dsn").await, format!("{text}\n"));
}

/// Runs it within a second: once in five times is enough, since the machine itself may stand still.
async fn within_a_second(cluster: &Cluster, line: &str) -> (String, u8) {
    let mut took = Vec::new();
    while took.len() < 5 {
        let begun = Instant::now();
        let (_, err, code) = cluster.run(line, Person::absent()).await;
        took.push(begun.elapsed());
        if begun.elapsed() < Duration::from_secs(1) {
            return (err, code);
        }
    }
    panic!("{line}: {took:?}");
}

#[tokio::test]
async fn a_dead_or_stopped_member_does_not_stall() {
    let mut cluster = cluster().await;
    let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", gone.local_addr().unwrap());
    drop(gone);
    cluster.target.members.push(matriarch_cli::Endpoint { name: "d".into(), api_url: url.clone() });
    cluster.target.members.push(matriarch_cli::Endpoint {
        name: "c".into(),
        api_url: { cluster.world.cluster.lock().unwrap().members[2].api_url.clone() },
    });
    let (err, code) = within_a_second(&cluster, "list").await;
    assert_eq!(code, 0, "{err}");

    cluster.target.members = vec![matriarch_cli::Endpoint { name: "d".into(), api_url: url }];
    let (err, code) = within_a_second(&cluster, "list").await;
    assert_eq!(code, 69);
    assert!(err.contains("d: http://127.0.0.1") && err.contains("matriarch up"), "{err}");
    cluster.target.members.clear();
    let (_, err, code) = cluster.run("status", Person::absent()).await;
    assert!(code == 69 && err.contains("--dir"), "{err}");
}

#[test]
fn every_verb_has_help() {
    use clap::CommandFactory;
    fn visit(command: &clap::Command) {
        assert!(command.get_about().is_some(), "{} has no description", command.get_name());
        for argument in command.get_arguments().filter(|argument| argument.get_id() != "help") {
            assert!(argument.get_help().is_some(), "{} {} has no help", command.get_name(), argument.get_id());
        }
        command.get_subcommands().for_each(visit);
    }
    let command = TestCli::command().about("a test");
    command.clone().debug_assert();
    visit(&command);
}
