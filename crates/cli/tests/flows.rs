//! Verbs that change something: questions, refusals, progress and exit codes.

mod common;

use common::*;
use matriarch_api::*;
use serde_json::json;

fn switchover(leader: &str, candidate: Option<&str>) -> Command {
    Command::Switchover { leader: leader.into(), candidate: candidate.map(str::to_owned), scheduled_at: None }
}

#[tokio::test]
async fn switchover_asks_for_candidate_and_confirmation() {
    let cluster = cluster().await;
    let (out, err, code) = cluster.run("switchover", Person::answering(&[1, 1])).await;
    assert_eq!(code, 0, "{err}");
    assert_eq!(cluster.asked(), [("a".to_owned(), switchover("a", Some("b")))]);
    assert!(err.contains("new work is held") && err.contains("b leads (epoch 22)"), "{err}");
    let took = out.strip_prefix("Successfully switched over to \"b\" (").and_then(|rest| rest.split_once(" s)"));
    assert!(took.is_some_and(|(seconds, _)| seconds.parse::<f64>().is_ok_and(|seconds| seconds < 60.0)), "{out}");
    assert!(out.contains("| b      | 127.0.0.1:5433 | Leader"), "{out}");
}

#[tokio::test]
async fn switchover_does_nothing_without_a_yes() {
    let cluster = cluster().await;
    let (_, err, code) = cluster.run("switchover", Person::answering(&[0, 0])).await;
    assert!(code == 64 && err.contains("not confirmed"), "{err}");
    let (_, err, code) = cluster.run("switchover", Person::absent()).await;
    assert!(code == 64 && err.contains("--force"), "{err}");
    let (_, err, code) = cluster.run("switchover --candidate z --force", Person::absent()).await;
    assert!(code == 65 && err.contains("choose one of: b, c"), "{err}");
    let (_, err, code) = cluster.run("switchover --leader b --force", Person::absent()).await;
    assert!(code == 75 && err.contains("'a' leads"), "{err}");
    let (_, err, code) = cluster.run("switchover --scheduled soon --force", Person::absent()).await;
    assert!(code == 65 && err.contains("ISO 8601"), "{err}");
    assert_eq!(cluster.asked(), []);
    cluster.world.cluster.lock().unwrap().matriarch.leader = None;
    let (_, err, code) = cluster.run("switchover --force", Person::absent()).await;
    assert!(code == 75 && err.contains("failover --candidate"), "{err}");
}

#[tokio::test]
async fn switchover_by_force_asks_nothing() {
    let cluster = cluster().await;
    let (out, err, code) = cluster.run("switchover --force -o json", Person::absent()).await;
    assert_eq!(code, 0, "{err}");
    let answer: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(answer["leader"], "b");
    assert_eq!(cluster.asked(), [("a".to_owned(), switchover("a", None))]);
    assert_eq!(cluster.ok("switchover --cancel").await, "done\n");
}

#[tokio::test]
async fn failover_needs_a_candidate_and_warns() {
    let cluster = cluster().await;
    let (_, err, code) = cluster.run("failover --force", Person::absent()).await;
    assert!(code == 64 && err.contains("--candidate with one of: b, c"), "{err}");
    let (_, _, code) = cluster.run("failover", Person::answering(&[0, 1])).await;
    assert_eq!(code, 0);
    assert_eq!(
        cluster.asked(),
        [("b".to_owned(), Command::Failover { candidate: "b".into(), accept_data_loss: false })]
    );
}

#[tokio::test]
async fn loss_is_accepted_by_typing_the_name_of_the_cluster() {
    let cluster = cluster().await;
    let line = "failover --candidate b --accept-data-loss";
    let (_, err, code) = cluster.run(line, Person::typing(&[])).await;
    assert!(code == 75 && err.contains("a leads"), "{err}");
    {
        let mut seen = cluster.world.cluster.lock().unwrap();
        seen.matriarch.leader = None;
        seen.members[2].expired = true;
        let known = KnownRow { member: "c".into(), timeline: 3, lsn: 0x5000, at: "2026-11-21T10:00:00Z".into() };
        seen.matriarch.known = vec![known];
    }
    let (_, err, code) = cluster.run(line, Person::absent()).await;
    assert!(code == 64 && err.contains("--force") && err.contains("0/5000"), "{err}");
    let (_, err, code) = cluster.run(line, Person::typing(&["yes"])).await;
    assert!(code == 64 && err.contains("nothing was done"), "{err}");
    assert_eq!(cluster.asked(), []);
    let (_, err, code) = cluster.run(line, Person::typing(&["demo"])).await;
    assert_eq!(code, 0, "{err}");
    let expected = Command::Failover { candidate: "b".into(), accept_data_loss: true };
    assert_eq!(cluster.asked(), [("b".to_owned(), expected)]);
}

#[tokio::test]
async fn restart_goes_replicas_first_and_stops_at_a_failure() {
    let cluster = cluster().await;
    let (out, err, code) = cluster.run("restart a b", Person::answering(&[1])).await;
    assert_eq!(code, 0, "{err}");
    let names: Vec<String> = cluster.asked().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["b", "a"], "{out}");
    let (_, err, code) = cluster.run("restart z", Person::absent()).await;
    assert!(code == 65 && err.contains("there are: a, b, c"), "{err}");
    let (_, _, code) = cluster.run("restart", Person::absent()).await;
    assert_eq!(code, 64);
    *cluster.world.fail.lock().unwrap() = Some(CommandError::Failed("it did not start".into()));
    let (out, err, code) = cluster.run("restart a b --force --timeout 2min", Person::absent()).await;
    assert!(code == 75 && out.contains("it did not start") && err.contains("stopped here"), "{out}{err}");
    let asked = cluster.asked();
    assert_eq!(asked.len(), 1, "{asked:?}");
    assert!(matches!(&asked[0].1, Command::Restart(request) if request.timeout.unwrap().as_secs() == 120));
}

/// A replica may have less than before only once the primary has.
#[tokio::test]
async fn lowered_limits_restart_the_primary_first() {
    let cluster = cluster().await;
    let change = PendingChange { old_value: "100".into(), new_value: "50".into() };
    let reason = std::collections::BTreeMap::from([("max_connections".to_owned(), change)]);
    cluster.world.cluster.lock().unwrap().members[0].pending_restart_reason = reason;
    cluster.ok("restart a b --force").await;
    let names: Vec<String> = cluster.asked().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["a", "b"]);
}

#[tokio::test]
async fn only_what_fits_is_restarted() {
    let cluster = cluster().await;
    cluster.world.cluster.lock().unwrap().members[1].pending_restart = true;
    cluster.world.cluster.lock().unwrap().members[2].pending_restart = false;
    cluster.ok("restart --pending --force").await;
    let asked = cluster.asked();
    assert!(
        matches!(&asked[..], [(name, Command::Restart(request))] if name == "b" && request.only_pending),
        "{asked:?}"
    );
    cluster.ok("restart --role primary --force").await;
    assert_eq!(cluster.asked()[0].0, "a");
    cluster.ok("restart b --cancel").await;
    assert_eq!(cluster.asked(), [("b".to_owned(), Command::CancelRestart)]);
}

#[tokio::test]
async fn reinit_spares_the_leader() {
    let cluster = cluster().await;
    let (_, err, code) = cluster.run("reinit a --force", Person::absent()).await;
    assert!(code == 65 && err.contains("switch over first"), "{err}");
    cluster.ok("reinit b --force --from-leader --wait").await;
    let expected = Command::Reinitialize { force: true, from_leader: true };
    assert_eq!(cluster.asked(), [("b".to_owned(), expected)]);
    cluster.ok("reload a b").await;
    assert_eq!(cluster.asked().len(), 2);
}

#[tokio::test]
async fn pause_and_resume() {
    let cluster = cluster().await;
    assert_eq!(cluster.ok("pause --wait").await, "cluster 'demo' is paused\n");
    assert_eq!(cluster.asked(), [("a".to_owned(), Command::PatchConfig(json!({"pause": true})))]);
    assert!(cluster.ok("pause").await.contains("already"));
    assert!(cluster.ok("list").await.contains("Paused"));
    assert_eq!(cluster.ok("resume").await, "cluster 'demo' is resumed\n");
    assert_eq!(cluster.asked(), [("a".to_owned(), Command::PatchConfig(json!({"pause": null})))]);
}

#[tokio::test]
async fn config_set_sends_only_what_differs() {
    let cluster = cluster().await;
    let line = "config set postgresql.parameters.work_mem=8MB maximum_lag_on_failover=2097152";
    let out = cluster.ok(line).await;
    assert!(out.contains("-     work_mem: 4MB\n+     work_mem: 8MB"), "{out}");
    let patch = json!({"postgresql": {"parameters": {"work_mem": "8MB"}}, "maximum_lag_on_failover": 2097152});
    assert_eq!(cluster.asked(), [("a".to_owned(), Command::PatchConfig(patch))]);
    assert!(cluster.ok(line).await.contains("it is so already"));
    cluster.ok("config set maximum_lag_on_failover=null").await;
    assert_eq!(cluster.asked(), [("a".to_owned(), Command::PatchConfig(json!({"maximum_lag_on_failover": null})))]);
    for (line, code, text) in [
        ("config set work_mem", 64, "KEY=VALUE"),
        ("config set synchronous_mod=quorum", 78, "synchronous_mode"),
        ("config set maximum_lag_on_failover=much", 78, "maximum_lag_on_failover"),
    ] {
        let (_, err, actual) = cluster.run(line, Person::absent()).await;
        assert!(actual == code && err.contains(text), "{line}: {actual} {err}");
    }
    assert_eq!(cluster.asked(), []);
}

#[tokio::test]
async fn config_check_finds_mistakes_without_a_cluster() {
    let cluster = cluster().await;
    let file = tempfile::Builder::new().suffix(".yml").tempfile().unwrap();
    std::fs::write(file.path(), "synchronous_mode: quorum\nmaximum_lag_on_failovr: 1\n").unwrap();
    let (out, err, code) = cluster.run(&format!("config check {}", file.path().display()), Person::absent()).await;
    assert!(code == 78 && out.contains("line 2") && out.contains("maximum_lag_on_failover"), "{code} {out} {err}");
    std::fs::write(file.path(), "synchronous_mode: quorum\n").unwrap();
    cluster.ok(&format!("config check {}", file.path().display())).await;
    let (_, _, code) = cluster.run("config check /does/not/exist", Person::absent()).await;
    assert_eq!(code, 78);
}

#[tokio::test]
async fn a_wrong_token_is_no_permission() {
    let mut cluster = cluster().await;
    cluster.target.authorization = Some("Bearer wrong".into());
    let (_, err, code) = cluster.run("pause", Person::absent()).await;
    assert!(code == 77 && err.contains("token"), "{code} {err}");
}
