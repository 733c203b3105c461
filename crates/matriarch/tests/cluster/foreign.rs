//! `restore --from`: what another tool has archived, as a person who leaves it restores it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::{Duration, Instant};

use matriarch_cli::code;
use matriarch_testkit::dir::TestDir;
use matriarch_testkit::pgbackrest::PgBackRest;
use matriarch_testkit::postgres;
use matriarch_testkit::server::Server;
use serde_json::json;
use tokio_postgres::{Client, NoTls};

use crate::harness::verb::{self, Outcome};
use crate::harness::{PATIENCE, Plan};

async fn connect(server: &Server) -> Client {
    let (client, connection) = tokio_postgres::connect(&server.dsn(), NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

async fn until(client: &Client, condition: &str) {
    let begun = Instant::now();
    while !client.query_one(condition, &[]).await.unwrap().get::<_, bool>(0) {
        assert!(begun.elapsed() < PATIENCE, "{condition}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn run(dir: &TestDir, words: &[&str]) -> Outcome {
    verb::run(dir.path(), dir.path(), words, &[]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stanza_of_pgbackrest_is_restored_and_refused() {
    let installation = postgres::all_majors().iter().find(|found| found.major == 15);
    let (Some(program), Some(installation)) = (PgBackRest::program(), installation) else {
        matriarch_testkit::skipped(
            "pgBackRest and PostgreSQL 15 are needed; scripts/install-deps --test installs them",
        );
        return;
    };
    let dir = TestDir::new("foreign");
    let server = Server::create(installation, &dir, "data", &PgBackRest::settings(&dir)).await.unwrap();
    let repository = dir.create("repository").display().to_string();
    let pgbackrest = PgBackRest::begin(program, &dir, &server, &format!("repo1-path={repository}")).await.unwrap();
    let client = connect(&server).await;
    client.batch_execute("create table marks as select generate_series(1, 10) id").await.unwrap();
    let from = format!("pgbackrest:{repository}");
    let target = dir.join("restored").display().to_string();
    let empty = run(&dir, &["restore", &target, "--from", &from]).await;
    empty.refused_naming(code::DATA, &["no complete backup", "stanza s", &repository]);
    pgbackrest.run(&["--type=full", "backup"]).unwrap();
    client.batch_execute("insert into marks values (11)").await.unwrap();
    client.batch_execute("select pg_create_restore_point('before'); delete from marks").await.unwrap();
    let last: String = client.query_one("select pg_walfile_name(pg_switch_wal())", &[]).await.unwrap().get(0);
    until(&client, &format!("select coalesce(last_archived_wal, '') >= '{last}' from pg_stat_archiver")).await;

    let dry = run(&dir, &["restore", &target, "--from", &from, "--to", "name=before", "--dry-run", "-o", "json"]).await;
    let page = dry.json();
    assert_eq!((page["tool"].as_str(), page["part"].as_str()), (Some("pgbackrest"), Some("stanza s")), "{page}");
    assert!(page["segments"].as_u64() >= Some(1) && page["window"]["to"].is_string(), "{page}");
    assert!(!dir.join("restored").exists(), "nothing was written");
    let shown = run(&dir, &["restore", &target, "--from", &from, "--to", "name=before"]).await;
    assert!(shown.ok().contains("made by pgbackrest"), "{shown}");
    // Beside the server that goes on; it fetches WAL by the binary.
    let restored = Server::of(installation, &dir.join("restored"), "").await.unwrap();
    let again = connect(&restored).await;
    until(&again, "select not pg_is_in_recovery()").await;
    assert_eq!(again.query_one("select count(*) from marks", &[]).await.unwrap().get::<_, i64>(0), 11);
    until(&again, "select current_setting('archive_mode') = 'off'").await;
    drop(restored);

    // A drill takes it as well, and a new cluster begins with it.
    let query = "select count(*) = 11 from marks";
    let bins = installation.bins.display().to_string();
    let drill = [
        "drill",
        "restore",
        "--from",
        &from,
        "--to",
        "name=before",
        "--query",
        query,
        "--bin-dir",
        &bins,
        "-o",
        "json",
    ];
    let done = run(&dir, &drill).await.json();
    assert_eq!(
        (done[0]["result"].as_str(), done[0]["restore"]["checks"].as_array().is_some()),
        (Some("passed"), true),
        "{done}"
    );
    let file = dir.join("restore.yml");
    let section = json!({"restore": {"to": "name=before", "from": {"tool": "pgbackrest", "location": repository}}});
    std::fs::write(&file, matriarch_config::to_yaml(&section)).unwrap();
    let plan = Plan::new("from-pgbackrest").beside().bins(installation.bins.clone());
    let cluster = plan.argument("--restore").argument(&file.display().to_string()).start().await;
    assert_eq!(cluster.ask(cluster.read_write(), "SELECT count(*) FROM marks").await.unwrap(), "11");
    drop(cluster);

    run(&dir, &["restore", &target, "--from", &from]).await.refused_naming(code::DATA, &["is not empty"]);
    let new = dir.join("new").display().to_string();
    let late = run(&dir, &["restore", &new, "--from", &from, "--to", "2199-01-01T00:00:00Z"]).await;
    late.refused_naming(code::DATA, &["does not reach", "latest"]);
    let other = run(&dir, &["restore", &new, "--from", &from, "--stanza", "main"]).await;
    other.refused_naming(code::CONFIG, &["no stanza 'main'", "there are s"]);
    let nowhere = run(&dir, &["restore", &new, "--from", "pgbackrest:/nonexistent"]).await;
    nowhere.refused_naming(code::CONFIG, &["/nonexistent is not a directory"]);
    run(&dir, &["restore", &new, "--from", "tar:/srv"]).await.refused_naming(code::USAGE, &["'tar'", "pgbackrest"]);
    run(&dir, &["restore", &new, "--stanza", "s"]).await.refused_naming(code::USAGE, &["--from"]);
    let running = run(&dir, &["restore", "--in-place", "--from", &from]).await;
    running.refused_naming(code::USAGE, &["--from restores into a directory"]);
    let both = run(&dir, &["restore", &new, "--from", &from, "--incarnation", "x"]).await;
    both.refused_naming(code::USAGE, &["--incarnation"]);
    assert!(!dir.join("new").exists(), "what was refused leaves nothing");
}
