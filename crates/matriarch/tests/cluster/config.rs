//! `matriarch config`: dynamic configuration reaches every PostgreSQL, and what is wrong is refused before it does harm.

use std::path::PathBuf;

use matriarch_testkit::executable;
use matriarch_testkit::process::eventually;

use crate::harness::{Cluster, Outcome, PATIENCE, health};

const USAGE: u8 = 64;
const CONFIG: u8 = 78;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn configuration_reaches_every_member() {
    let cluster = Cluster::start("config").await;
    cluster.be_patient().await;
    cluster.verb(&["config", "set", "postgresql.parameters.work_mem=8MB"]).await.ok();
    everywhere(&cluster, "show work_mem", "8MB").await;
    let shown = cluster.verb(&["config", "show"]).await;
    assert!(shown.ok().contains("work_mem: 8MB"), "{shown}");

    cluster.verb(&["config", "set", "postgresql.parameters.max_connections=123"]).await.ok();
    pending(&cluster, 3).await;
    cluster.verb(&["restart", "--pending", "--force"]).await.ok();
    pending(&cluster, 0).await;
    health::well(&cluster, PATIENCE).await;
    everywhere(&cluster, "show max_connections", "123").await;
    cluster.verb(&["config", "set", "postgresql.parameters.work_mem=null"]).await.ok();
    everywhere(&cluster, "show work_mem", "4MB").await;

    is_refused(&cluster).await;
    edits(&cluster).await;
    checks_files(&cluster).await;
}

/// Waits until a statement gives the same answer on every member.
async fn everywhere(cluster: &Cluster, statement: &str, wanted: &str) {
    for name in cluster.names() {
        let port = cluster.postgres_port(&name);
        let begun = std::time::Instant::now();
        loop {
            let answer = cluster.ask(port, statement).await;
            if answer.as_ref().is_ok_and(|answer| answer == wanted) {
                break;
            }
            assert!(begun.elapsed() < PATIENCE, "{statement} on {name}: {answer:?}, not {wanted}");
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }
}

async fn pending(cluster: &Cluster, wanted: usize) {
    health::wait(cluster, PATIENCE, "members with a pending restart", |_, rows| {
        let count = rows.iter().filter(|row| row["pending_restart"] == true).count();
        (count != wanted).then(|| format!("{count} instead of {wanted}"))
    })
    .await;
}

async fn is_refused(cluster: &Cluster) {
    let before = cluster.verb(&["config", "show"]).await.ok().to_owned();
    for (change, words) in [
        ("synchronous_mod=quorum", &["synchronous_mod", "synchronous_mode"][..]),
        ("postgresql.paramters.work_mem=8MB", &["paramters", "parameters"]),
        ("maximum_lag_on_failover=soon", &["maximum_lag_on_failover"]),
        ("postgresql.parameters.primary_conninfo=x", &["primary_conninfo"]),
    ] {
        cluster.verb(&["config", "set", change]).await.refused_naming(CONFIG, words);
    }
    cluster.verb(&["config", "set", "work_mem"]).await.refused_naming(USAGE, &["KEY=VALUE"]);
    assert_eq!(cluster.verb(&["config", "show"]).await.ok(), before, "nothing was changed");
}

async fn edit_by(cluster: &Cluster, script: &str, arguments: &[&str]) -> Outcome {
    let editor: PathBuf = cluster.root().join("editor");
    executable::script(&editor, &format!("#!/bin/sh\n{script}\n"), 0o755);
    let editor = editor.display().to_string();
    let all: Vec<&str> = ["config", "edit"].iter().chain(arguments).copied().collect();
    cluster.verb_with(&all, &[("EDITOR", &editor)]).await
}

async fn edits(cluster: &Cluster) {
    cluster.verb(&["config", "edit"]).await.refused_naming(USAGE, &["EDITOR"]);
    let add = |text: &str| format!("printf '{text}\\n' >> \"$1\"");
    edit_by(cluster, &add("ttl: 7"), &[]).await.refused_naming(USAGE, &["--force"]);
    edit_by(cluster, &add("ttl: 7"), &["--force"]).await.ok();
    let kept = cluster.verb(&["config", "show"]).await.ok().to_owned();
    assert!(kept.contains("ttl: 7"), "{kept}");
    edit_by(cluster, &add("loop_wayt: 3"), &["--force"]).await.refused_naming(CONFIG, &["loop_wayt", "loop_wait"]);
    edit_by(cluster, &add("[unclosed"), &["--force"]).await.refused(CONFIG);
    let quit = edit_by(cluster, "exit 3", &["--force"]).await;
    assert!(quit.code != 0 && quit.err.contains("nothing was sent"), "{quit}");
    assert!(edit_by(cluster, "true", &["--force"]).await.ok().contains("nothing was changed"));
    assert_eq!(cluster.verb(&["config", "show"]).await.ok(), kept, "nothing was changed");
}

async fn checks_files(cluster: &Cluster) {
    let good = cluster.member("a").join("agent.yaml");
    let check = |file: PathBuf| async move { cluster.verb(&["config", "check", &file.display().to_string()]).await };
    check(good.clone()).await.ok();
    let text = std::fs::read_to_string(&good).expect("`up` has written it");
    let bad = cluster.root().join("bad.yaml");
    let write = |text: &str| std::fs::write(&bad, text).expect("it is ours");

    write(&text.replace("data_dir:", "data_dri:"));
    let unknown = check(bad.clone()).await;
    unknown.refused(CONFIG);
    let all = unknown.out.clone() + &unknown.err;
    assert!(all.contains("data_dri") && all.contains("data_dir") && all.contains("line"), "{unknown}");

    write(&text.replace("name: a\n", "name: {x: 1}\n"));
    let wrong = check(bad.clone()).await;
    wrong.refused(CONFIG);
    for words in ["line 2", "name: expected", "found a section"] {
        assert!(wrong.out.contains(words), "no '{words}': {wrong}");
    }
    write("scope: [unclosed");
    check(bad.clone()).await.refused(CONFIG);
    let missing = check(cluster.root().join("missing.yaml")).await;
    missing.refused_naming(CONFIG, &["missing.yaml"]);

    // An agent refuses the same file, and PostgreSQL is not touched.
    write(&text.replace("listen: ", "lisen: "));
    let path = bad.display().to_string();
    let agent = cluster.verb(&["agent", "--config", &path]).await;
    assert!(agent.code != 0 && agent.err.contains("lisen") && agent.err.contains("listen"), "{agent}");
    eventually("a still runs", PATIENCE, || matriarch_testkit::faults::postmaster(&cluster.data("a")).is_some());
}
