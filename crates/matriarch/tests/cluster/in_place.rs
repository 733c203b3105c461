//! A running cluster goes back to an earlier moment by one command, and returns; agents are killed on the way.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use matriarch_agent::in_place::{InPlace, KEY, Phase};
use matriarch_dcs::{SqliteStore, Store};
use matriarch_testkit::{faults, user};

use crate::harness::verb;
use crate::harness::{Cluster, PATIENCE, Plan, fault, health};

const USAGE: u8 = 64;
const DATA: u8 = 65;
const TEMPORARY: u8 = 75;

/// Rows 1 and 2 before the target, 3 after it, a backup before all; the target.
async fn prepare(cluster: &Cluster) -> String {
    cluster.be_patient().await;
    sql(cluster, "create table kept (id int primary key)").await;
    sql(cluster, "insert into kept values (1)").await;
    cluster.verb(&["backup"]).await.ok();
    sql(cluster, "insert into kept values (2)").await;
    let target = sql(cluster, "select pg_current_wal_insert_lsn()::text").await;
    sql(cluster, "insert into kept values (3)").await;
    target
}

async fn sql(cluster: &Cluster, statement: &str) -> String {
    let begun = Instant::now();
    loop {
        match cluster.ask(cluster.read_write(), statement).await {
            Ok(answer) => return answer,
            // The proxy has sent it to a primary that was just about to stop.
            Err(error) => assert!(begun.elapsed() < PATIENCE, "{statement}: {error:#}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn rows(cluster: &Cluster) -> String {
    sql(cluster, "select string_agg(id::text, ',' order by id) from kept").await
}

/// On every member, once it has replayed what the primary has.
async fn rows_everywhere(cluster: &Cluster, expected: &str) {
    assert_eq!(rows(cluster).await, expected);
    for name in cluster.names() {
        let begun = Instant::now();
        loop {
            let query = "select string_agg(id::text, ',' order by id) from kept";
            let found = cluster.ask(cluster.postgres_port(&name), query).await;
            if found.as_ref().is_ok_and(|found| found == expected) {
                break;
            }
            assert!(begun.elapsed() < PATIENCE, "on {name}: {found:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Waits until the archive has what was written before.
async fn reachable(cluster: &Cluster, target: &str) {
    let begun = Instant::now();
    loop {
        let dry = cluster.verb(&["restore", "--in-place", "--to", target, "--dry-run", "-o", "json"]).await;
        if dry.code == 0 {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "{dry}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn put_aside(cluster: &Cluster) -> Vec<PathBuf> {
    let folders = cluster.names().into_iter().map(|name| cluster.member(&name));
    let entries = folders.flat_map(|folder| std::fs::read_dir(folder).expect("it is there").flatten());
    entries.map(|entry| entry.path()).filter(|path| path.display().to_string().contains("data.before-")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_cluster_goes_back_and_returns() {
    let cluster = Plan::new("in-place").archive().start().await;
    let target = prepare(&cluster).await;
    reachable(&cluster, &target).await;
    // Nothing is begun that cannot be done, and nothing without a word.
    let late = cluster.verb(&["restore", "--in-place", "--to", "2199-01-01T00:00:00Z", "--yes"]).await;
    late.refused_naming(DATA, &["2199"]);
    let asked = cluster.verb(&["restore", "--in-place", "--to", &target]).await;
    asked.refused_naming(USAGE, &["--yes", "Every PostgreSQL of demo stops", "Copied by", "Lost"]);
    cluster.verb(&["restore", "--undo", "--yes"]).await.refused_naming(DATA, &["no data is kept"]);
    rows_everywhere(&cluster, "1,2,3").await;

    let done = cluster.verb(&["restore", "--in-place", "--to", &target, "--yes"]).await;
    assert!(done.ok().contains("the data before that is kept in"), "{done}");
    health::well(&cluster, PATIENCE).await;
    rows_everywhere(&cluster, "1,2").await;
    let [kept] = &put_aside(&cluster)[..] else { panic!("{:?}", put_aside(&cluster)) };
    assert!(done.out.contains(&kept.display().to_string()), "{done}");
    let list = cluster.verb(&["list"]).await;
    assert!(list.ok().contains(&kept.display().to_string()) && list.out.contains("--undo"), "{list}");
    let history = cluster.verb(&["history", "-o", "json"]).await.json();
    let last = history.as_array().and_then(|lines| lines.last()).cloned().unwrap_or_default();
    assert!(last["reason"].as_str().is_some_and(|reason| reason.starts_with("restored in place")), "{history}");
    let again = cluster.verb(&["restore", "--in-place", "--to", &target, "--yes"]).await;
    again.refused_naming(TEMPORARY, &["--confirm", "--undo"]);

    // The new line has an archive of its own, from which the cluster can be restored as well.
    sql(&cluster, "insert into kept values (4)").await;
    cluster.verb(&["backup"]).await.ok();
    let incarnations = cluster.verb(&["backup", "list", "-o", "json"]).await.json();
    let names: Vec<&str> =
        incarnations.as_array().into_iter().flatten().filter_map(|row| row["incarnation"].as_str()).collect();
    assert!(names.len() == 2 && names[1].starts_with(names[0]) && names[0] != names[1], "{incarnations}");

    let undone = cluster.verb(&["restore", "--undo", "--yes"]).await;
    assert!(undone.ok().contains("Undone"), "{undone}");
    health::well(&cluster, PATIENCE).await;
    rows_everywhere(&cluster, "1,2,3").await;
    sql(&cluster, "insert into kept values (5)").await;
    let confirmed = cluster.verb(&["restore", "--confirm", "--yes"]).await;
    assert!(confirmed.ok().contains("was removed"), "{confirmed}");
    assert_eq!(put_aside(&cluster), Vec::<PathBuf>::new());
    rows_everywhere(&cluster, "1,2,3,5").await;
}

/// A tablespace of the restored data goes to another place; the old one belongs to the data that is kept.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tablespace_goes_to_another_place_and_back() {
    let cluster = Plan::new("in-place-space").members(1).archive().start().await;
    let (old, new) = (cluster.root().join("space"), cluster.root().join("space-new"));
    std::fs::create_dir(&old).expect("there is room");
    user::give(&old).expect("it is ours");
    sql(&cluster, &format!("create tablespace space location '{}'", old.display())).await;
    sql(&cluster, "create table spaced tablespace space as select 7 as n").await;
    let target = prepare(&cluster).await;
    sql(&cluster, "drop table spaced").await;
    reachable(&cluster, &target).await;
    let location = "select pg_tablespace_location(oid) from pg_tablespace where spcname = 'space'";

    let restore = ["restore", "--in-place", "--to", &target, "--yes"];
    cluster.verb(&restore).await.refused_naming(TEMPORARY, &[&old.display().to_string(), "not empty", "--tablespace"]);
    assert_eq!(sql(&cluster, location).await, old.display().to_string(), "nothing was changed");
    let elsewhere = format!("space={}", new.display());
    cluster.verb(&[&restore[..], &["--tablespace", elsewhere.as_str()][..]].concat()).await.ok();
    health::well(&cluster, PATIENCE).await;
    assert_eq!(rows(&cluster).await, "1,2");
    assert_eq!(sql(&cluster, "select n::text from spaced").await, "7");
    assert_eq!(sql(&cluster, location).await, new.display().to_string());
    sql(&cluster, "insert into spaced values (8)").await;

    cluster.verb(&["restore", "--undo", "--yes"]).await.ok();
    health::well(&cluster, PATIENCE).await;
    assert_eq!(rows(&cluster).await, "1,2,3");
    assert_eq!(sql(&cluster, location).await, old.display().to_string());
    assert_eq!(sql(&cluster, "select coalesce(to_regclass('spaced')::text, 'none')").await, "none");
    cluster.verb(&["restore", "--confirm", "--yes"]).await.ok();
    assert_eq!(put_aside(&cluster), Vec::<PathBuf>::new());
}

async fn record(store: &SqliteStore) -> InPlace {
    let snapshot = store.read().await.expect("it can be read");
    snapshot.value(KEY).map(|text| serde_json::from_str(text).expect("it is ours")).unwrap_or_default()
}

/// Asks for a restore, and looks on until it is in this phase, or over.
async fn begun(cluster: &Cluster, store: &SqliteStore, target: &str, phase: Phase) -> tokio::process::Child {
    let before = record(store).await.request.map(|request| request.id);
    let path = cluster.path().display().to_string();
    let mut command = tokio::process::Command::new(verb::program());
    command.args(["--dir", &path, "restore", "--in-place", "--to", target, "--yes"]).current_dir(cluster.root());
    command.env("TMPDIR", &cluster.tmp).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    let asking = command.kill_on_drop(true).spawn().expect("the binary runs");
    let since = Instant::now();
    loop {
        let request = record(store).await.request.filter(|request| Some(&request.id) != before.as_ref());
        if request.is_some_and(|request| request.phase == phase || request.phase.is_over()) {
            return asking;
        }
        assert!(since.elapsed() < PATIENCE, "it does not get to {phase:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn open(cluster: &Cluster) -> SqliteStore {
    SqliteStore::open_existing(&cluster.path().join("store.db"), "/service/demo/").await.expect("it is there")
}

/// Whatever it was about, and with a replica away: the cluster is whole again by itself, as before, or restored.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_may_die_at_every_step() {
    let cluster = Plan::new("in-place-killed").archive().start().await;
    let target = prepare(&cluster).await;
    reachable(&cluster, &target).await;
    let store = open(&cluster).await;
    let mut ended = Vec::new();
    for (phase, whole) in [(Phase::Restoring, false), (Phase::Stopping, false), (Phase::Replacing, true)] {
        let leader = health::leader(&cluster).await;
        let away = faults::node_processes(&cluster.member(&health::replicas(&cluster).await[0]));
        faults::freeze(&away);
        let mut asking = begun(&cluster, &store, &target, phase).await;
        match whole {
            true => faults::kill(&faults::node_processes(&cluster.member(&leader))),
            false => faults::kill(&[fault::agent(&cluster, &leader)]),
        }
        asking.wait().await.expect("it ends by itself");
        faults::thaw(&away);
        health::well(&cluster, PATIENCE).await;
        let request = record(&store).await.request.expect("it was asked for");
        assert!(request.phase.is_over(), "{request:?}");
        rows_everywhere(&cluster, if request.phase == Phase::Done { "1,2" } else { "1,2,3" }).await;
        assert_eq!(put_aside(&cluster).len(), usize::from(request.phase == Phase::Done));
        ended.push(request.phase);
        if request.phase == Phase::Done {
            break;
        }
    }
    assert_eq!((ended.first(), ended.last()), (Some(&Phase::Failed), Some(&Phase::Done)), "{ended:?}");
}

/// The host that alone had the restored data is lost: a person takes up the line before it, which the others still have.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_line_before_can_be_taken_up_when_the_restored_data_is_lost() {
    let cluster = Plan::new("in-place-lost").members(2).archive().start().await;
    let target = prepare(&cluster).await;
    reachable(&cluster, &target).await;
    let store = open(&cluster).await;
    let (leader, replica) = (health::leader(&cluster).await, health::replicas(&cluster).await.remove(0));
    drop(begun(&cluster, &store, &target, Phase::Replacing).await);
    faults::freeze(&faults::node_processes(&cluster.member(&leader)));
    health::wait(&cluster, PATIENCE, "nobody leads", |_, rows| {
        rows.iter().any(|row| row["role"] == "leader").then(|| "somebody leads".to_owned())
    })
    .await;
    // What the replica has counts no more, so it does not take over by itself.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(store.read().await.expect("it can be read").value("leader").is_none());
    let given_up = cluster.verb(&["restore", "--undo", "--yes"]).await;
    assert!(given_up.ok().contains("counts again"), "{given_up}");
    assert_eq!(health::leader(&cluster).await, replica);
    assert_eq!(rows(&cluster).await, "1,2,3");
    for entry in std::fs::read_dir(cluster.member(&leader)).expect("it is there").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name == "data" || name.starts_with("data.before-") || name == "data.matriarch-restore" {
            std::fs::rename(entry.path(), cluster.member(&leader).join(format!("lost-{name}"))).expect("it is ours");
        }
    }
    faults::kill(&faults::node_processes(&cluster.member(&leader)));
    health::well(&cluster, PATIENCE).await;
    rows_everywhere(&cluster, "1,2,3").await;
}
