//! Members that are made from a backup instead of the leader.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use matriarch_archive::format::Identities;
use matriarch_testkit::{faults, user};
use serde_json::{Value, json};

use crate::harness::{Cluster, PATIENCE, Plan, fault, health, wire};
use crate::{arrives, set, table, until, until_there, write};

/// How often a member's server was asked for a base backup.
pub fn base_backups(cluster: &Cluster) -> usize {
    let log = |name: &String| std::fs::read_to_string(cluster.member(name).join("postgresql.log")).unwrap_or_default();
    cluster.names().iter().map(|name| log(name).matches("replication command: BASE_BACKUP").count()).sum()
}

pub fn agent_log(cluster: &Cluster, name: &str) -> String {
    std::fs::read_to_string(cluster.member(name).join("agent.log")).unwrap_or_default()
}

async fn incarnation(cluster: &Cluster, name: &str) -> Value {
    let page = wire::http(cluster.api_port(name), "GET", "/patroni", None, "").await.expect("it answers").body;
    let page: Value = serde_json::from_str(&page).expect("it is JSON");
    assert!(page["matriarch"]["incarnation"].is_string(), "{page:#}");
    page["matriarch"]["incarnation"].clone()
}

/// The member has nothing any more, and its agent dies while it makes it anew.
async fn lose(cluster: &Cluster, name: &str) {
    let data = cluster.data(name);
    fault::delete(&data);
    let begun = Instant::now();
    let building = data.with_extension("matriarch-new");
    while !building.exists() {
        assert!(begun.elapsed() < PATIENCE, "{name} is not made anew: {}", agent_log(cluster, name));
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    faults::kill(&[fault::agent(cluster, name)]);
    assert!(!data.join("PG_VERSION").exists(), "it looks like a member's data, and is not whole");
}

/// One byte in the middle of every pack.
fn damage(packs: &Path) {
    for pack in std::fs::read_dir(packs).expect("there are some").flatten() {
        let mut content = std::fs::read(pack.path()).expect("it is ours");
        let middle = content.len() / 2;
        content[middle] ^= 1;
        std::fs::write(pack.path(), content).expect("it is ours");
    }
}

async fn count(cluster: &Cluster) -> String {
    cluster.ask(cluster.read_write(), "SELECT count(*) FROM t").await.expect("the primary serves")
}

/// The folder of the packs of a backup.
async fn packs(cluster: &Cluster, backup: &str) -> PathBuf {
    let page = until(cluster, "its name is known", |page| page["incarnation"].is_string()).await;
    let incarnation = page["incarnation"].as_str().expect("a name");
    cluster.path().join("archive/demo").join(incarnation).join("pack").join(backup)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_are_made_from_a_backup_and_the_leader_is_spared() {
    let mut cluster = Plan::new("clones").archive().start().await;
    cluster.be_patient().await;
    until(&cluster, "the repository is open", |page| page["repositories"][0]["open"] == true).await;
    cluster.verb(&["config", "set", "postgresql.parameters.log_replication_commands=\"on\""]).await.ok();
    set(&cluster, "clone", &json!("when_possible")).await;
    table(&cluster).await;
    let taken = cluster.verb(&["backup", "-o", "json"]).await.json();
    let backup = taken[0]["backup"].as_str().expect("a name").to_owned();
    write(&cluster, 2).await;
    let told = format!("copied from backup {backup}");

    // A member without data joins, although its agent dies over it.
    let joins = health::replicas(&cluster).await.remove(0);
    let before = incarnation(&cluster, &joins).await;
    lose(&cluster, &joins).await;
    health::well(&cluster, PATIENCE).await;
    assert_eq!(base_backups(&cluster), 0, "{}", agent_log(&cluster, &joins));
    assert!(agent_log(&cluster, &joins).contains(&told), "{}", agent_log(&cluster, &joins));
    assert_ne!(incarnation(&cluster, &joins).await, before);
    let whole = format!("SELECT count(*) = {} FROM t", count(&cluster).await);
    arrives(&cluster, &joins, &whole).await;

    // The backup is of a timeline that the leader has left.
    cluster.verb(&["switchover", "--force", "--candidate", &joins]).await.ok();
    health::well(&cluster, PATIENCE).await;
    until_there(&cluster.path().join("archive"), "00000002.history").await;
    write(&cluster, 1).await;
    let anew = health::replicas(&cluster).await.remove(0);
    cluster.verb(&["reinit", &anew, "--force", "--wait"]).await.ok();
    health::well(&cluster, PATIENCE).await;
    assert_eq!(base_backups(&cluster), 0, "{}", agent_log(&cluster, &anew));
    assert!(agent_log(&cluster, &anew).contains(&told), "{}", agent_log(&cluster, &anew));
    let whole = format!("SELECT count(*) = {} FROM t", count(&cluster).await);
    arrives(&cluster, &anew, &whole).await;

    let backup = without_its_key(&cluster, &anew).await;
    arrives(&cluster, &anew, &whole).await;

    // What is damaged is not used, and nobody has to see to it.
    damage(&packs(&cluster, &backup).await);
    cluster.verb(&["reinit", &anew, "--force", "--wait"]).await.ok();
    health::well(&cluster, PATIENCE).await;
    assert_eq!(base_backups(&cluster), 2, "{}", agent_log(&cluster, &anew));
    let log = agent_log(&cluster, &anew);
    assert!(
        log.contains("the archive does not serve to copy from") && log.contains(&format!("pack/{backup}")),
        "{log}"
    );
    arrives(&cluster, &anew, &whole).await;
    stops_at_once(&mut cluster, &anew).await;
}

/// A host that cannot open the newest backup copies from the leader, and says which key it lacks. The name of that backup.
async fn without_its_key(cluster: &Cluster, name: &str) -> String {
    let (identity, recipient) = Identities::generate();
    let (file, away) = (cluster.root().join("key.txt"), cluster.root().join("key.away"));
    std::fs::write(&file, identity).expect("there is room");
    user::give(&file).expect("it is ours");
    set(cluster, "encryption", &json!({ "recipients": [recipient], "identity_file": file })).await;
    let taken = cluster.verb(&["backup", "-o", "json"]).await.json();
    std::fs::rename(&file, &away).expect("it is ours");
    cluster.verb(&["reinit", name, "--force", "--wait"]).await.ok();
    health::well(cluster, PATIENCE).await;
    let log = agent_log(cluster, name);
    assert_eq!(base_backups(cluster), 1, "{log}");
    let why = log.lines().rfind(|line| line.contains("the archive does not serve to copy from"));
    assert!(why.is_some_and(|why| why.contains(&file.display().to_string())), "{log}");
    std::fs::rename(&away, &file).expect("it is ours");
    taken[0]["backup"].as_str().expect("a name").to_owned()
}

/// A copy that would take a minute holds up nobody who stops the agent.
async fn stops_at_once(cluster: &mut Cluster, name: &str) {
    let place = cluster.path().join("archive");
    set(cluster, "repositories", &json!([{ "location": place, "download_limit": 65536 }])).await;
    cluster.verb(&["reinit", name, "--force"]).await.ok();
    let building = cluster.data(name).with_extension("matriarch-new").join("base");
    let begun = Instant::now();
    while !building.exists() {
        assert!(begun.elapsed() < PATIENCE, "{name} is not made anew: {}", agent_log(cluster, name));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    cluster.stop();
    let log = agent_log(cluster, name);
    assert!(log.contains("Clone is given up"), "{log}");
}
