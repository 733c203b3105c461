//! `backup` and `restore` as a person uses them when everything else is gone: a server, a repository and a file.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};

use matriarch_archive::wal;
use matriarch_cli::code;
use matriarch_config::{Document, DynamicConfig};
use matriarch_testkit::faults;
use matriarch_testkit::postgres::{self, Installation};
use matriarch_testkit::server::Server;
use serde_json::json;
use tokio_postgres::Client;

use crate::harness::PATIENCE;
use crate::harness::site::{Site, connect};
use crate::harness::verb;

impl Site {
    /// With a table in a tablespace.
    pub async fn new(installation: &Installation) -> Site {
        let site = Site::empty("backup", installation, "wal_keep_size = 1GB\nautovacuum = off").await;
        let client = connect(&site.server, "postgres").await;
        let space = site.dir.create("space");
        client.batch_execute(&format!("create tablespace space location '{}'", space.display())).await.unwrap();
        client.batch_execute("create table marks (id bigint primary key) tablespace space").await.unwrap();
        site
    }

    async fn backup(&self) -> String {
        self.take(&["--full"]).await["backup"].as_str().unwrap().to_owned()
    }

    /// A backup, as it is told.
    pub async fn take(&self, options: &[&str]) -> serde_json::Value {
        let (data, dsn) = (self.server.data().display().to_string(), self.server.dsn());
        let words = ["backup", "--data-dir", &data, "--dsn", &dsn, "-o", "json"];
        let words: Vec<&str> = words.iter().chain(options).copied().collect();
        self.run(&words).await.json()[0].take()
    }

    /// Rows up to this number.
    pub async fn insert(&self, client: &Client, to: i64) {
        let insert =
            "insert into marks select g from generate_series((select coalesce(max(id), 0) + 1 from marks), $1) g";
        client.execute(insert, &[&to]).await.unwrap();
    }

    /// What the archiver does, which is not part of this test.
    pub async fn archive_wal(&self, client: &Client) {
        let last = text(client, "select pg_walfile_name(pg_switch_wal())").await;
        let yaml = std::fs::read_to_string(self.dir.join("archive.yml")).unwrap();
        let config = DynamicConfig::from_json(&Document::parse(&yaml).unwrap().value).unwrap();
        let configured =
            matriarch_archive::configured::Configured::new(&config.archive.unwrap(), "main", PATIENCE).unwrap();
        let row = client.query_one("select system_identifier::text from pg_control_system()", &[]).await.unwrap();
        let archives = configured.open_all(row.get(0)).await.unwrap();
        let query = "select name from pg_ls_waldir() where name ~ '^[0-9A-F]{24}$' and name <= $1";
        for row in client.query(query, &[&last]).await.unwrap() {
            let name: String = row.get(0);
            let file = self.server.data().join("pg_wal").join(&name);
            wal::push(&archives, &file, &name.parse().unwrap()).await.unwrap();
        }
    }

    /// Restores, starts, and counts the rows, which must be 1, 2, 3 … without a gap.
    pub async fn rows_of(&self, name: &str, options: &[&str]) -> i64 {
        let data = self.dir.join(name);
        let (path, space) = (data.display().to_string(), format!("space={}-space", data.display()));
        let words: Vec<&str> = ["restore", &path, "--tablespace", &space].iter().chain(options).copied().collect();
        self.run(&words).await.ok();
        self.rows_in(&data).await
    }

    /// Starts a restored directory.
    async fn rows_in(&self, data: &Path) -> i64 {
        let server = Server::of(&self.installation, data, "").await.unwrap();
        let client = connect(&server, "postgres").await;
        while client.query_one("select pg_is_in_recovery()", &[]).await.unwrap().get(0) {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        let row = client.query_one("select count(*), coalesce(max(id), 0) from marks", &[]).await.unwrap();
        let (count, newest): (i64, i64) = (row.get(0), row.get(1));
        assert_eq!(count, newest, "no row is missing");
        count
    }
}

async fn text(client: &Client, query: &str) -> String {
    client.query_one(query, &[]).await.unwrap().get(0)
}

/// Any file of the repository's packs of one backup.
pub fn pack(site: &Site, backup: &str) -> PathBuf {
    site.incarnation().join("pack").join(backup).join("000000")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backup_destroy_restore() {
    let mut site = Site::new(postgres::any()).await;
    let client = connect(&site.server, "postgres").await;
    site.insert(&client, 10).await;
    let first = site.backup().await;
    site.insert(&client, 20).await;
    let second = site.backup().await;
    site.insert(&client, 30).await;
    let marked = text(&client, "select pg_create_restore_point('before')::text").await;
    let clock = "select to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')";
    let time = text(&client, clock).await;
    let xid = text(&client, "insert into marks values (31) returning txid_current()::text").await;
    site.insert(&client, 40).await;
    site.archive_wal(&client).await;
    let list = site.run(&["backup", "list", "-o", "json"]).await.json();
    assert_eq!((list[0]["backup"].as_str(), list[1]["backup"].as_str()), (Some(&*first), Some(&*second)));
    assert!(site.run(&["backup", "list"]).await.ok().contains(&second));
    assert!(site.run(&["backup", "verify", "--wal"]).await.ok().contains("are good"));
    drop(client);
    faults::kill(&faults::node_processes(site.server.data()));
    site.server.stop(rustix::process::Signal::KILL);
    for gone in ["data", "space"] {
        std::fs::remove_dir_all(site.dir.join(gone)).unwrap();
    }

    let target = site.dir.join("dry").display().to_string();
    let dry = site.run(&["restore", &target, "--dry-run", "-o", "json"]).await.json();
    assert_eq!((dry["backup"].as_str(), dry["dry_run"].as_bool()), (Some(&*second), Some(true)));
    assert!(dry["window"]["to"].as_str().unwrap() > time.as_str() && dry["segments"].as_u64().unwrap() > 0, "{dry}");
    assert!(!Path::new(&target).exists(), "a dry run writes nothing");

    assert_eq!(site.rows_of("latest", &[]).await, 40);
    assert_eq!(site.rows_of("named", &["--to", "name=before", "--place-wal"]).await, 30);
    assert_eq!(site.rows_of("timed", &["--to", &time]).await, 30);
    assert_eq!(site.rows_of("at", &["--to", &marked]).await, 30);
    assert_eq!(site.rows_of("xid", &["--to", &format!("xid={xid}")]).await, 31);
    assert_eq!(site.rows_of("immediate", &["--to", "immediate", "--backup", &first]).await, 10);
    // Whoever archives from there does it under a name of its own.
    let origin = std::fs::read_to_string(site.dir.join("latest/matriarch_archive.json")).unwrap();
    assert!(origin.contains("parent"), "{origin}");

    practised(&site, &second, &time).await;
    leaving(&site, &second).await;
    refusals(&site, &first, &second, &time).await;
    keeping(&site, &first, &second).await;
}

/// In Barman's form, and back from there as whatever Barman has made.
async fn leaving(site: &Site, newest: &str) {
    let place = site.dir.create("barman");
    let location = place.display().to_string();
    let export = async |options: &[&str]| {
        let words = ["archive", "export", "barman", &location].iter().chain(options).copied().collect::<Vec<_>>();
        site.run(&words).await
    };
    let dry = export(&["--wal", "--dry-run", "-o", "json"]).await.json();
    assert_eq!((dry["backup"].as_str(), dry["server"].as_str()), (Some(newest), Some("main")), "{dry}");
    assert!(dry["segments"].as_u64() >= Some(1) && dry["written"].is_null() && dry["decrypted"] == true, "{dry}");
    assert_eq!(std::fs::read_dir(&place).unwrap().count(), 0, "a dry run writes nothing");
    let other = site.dir.join("other.txt").display().to_string();
    export(&["--identity", &other]).await.refused_naming(code::PERMISSION, &["cannot be opened"]);
    export(&["--server", "a/b"]).await.refused_naming(code::USAGE, &["'a/b'", "a server"]);
    export(&["--backup", "none"]).await.refused_naming(code::DATA, &["no backup 'none'", newest]);
    let told = export(&["--wal"]).await;
    assert!(told.ok().contains("exported as") && told.ok().contains("not there: let the store"), "{told}");
    export(&["--wal"]).await.refused_naming(code::DATA, &["already holds", newest, "--server"]);

    let back = site.dir.join("back");
    let (data, space) = (back.display().to_string(), format!("space={}-space", back.display()));
    let from = format!("barman:{location}");
    let words = ["restore", &data, "--from", &from, "--tablespace", &space, "--place-wal"];
    verb::run(site.dir.path(), site.dir.path(), &words, &[]).await.ok();
    assert_eq!(site.rows_in(&back).await, 40);
    let lost = ["restore", &data, "--endpoint", "http://127.0.0.1:1"];
    verb::run(site.dir.path(), site.dir.path(), &lost, &[]).await.refused_naming(code::USAGE, &["--from"]);
}

/// Restores in a place of its own that are asked and go away again.
async fn practised(site: &Site, newest: &str, time: &str) {
    let scratch = site.dir.create("scratch").display().to_string();
    let drill = async |options: &[&str]| {
        let words = ["drill", "restore", "--scratch", &scratch].iter().chain(options).copied().collect::<Vec<_>>();
        let outcome = site.run(&words).await;
        assert_eq!(std::fs::read_dir(&scratch).unwrap().count(), 0, "nothing is left: {outcome}");
        outcome
    };
    let dry = drill(&["--dry-run", "-o", "json"]).await.json();
    assert_eq!((dry["possible"].as_bool(), dry["plan"]["backup"].as_str()), (Some(true), Some(newest)), "{dry}");
    let alone = "select current_setting('listen_addresses') = '' and current_setting('archive_mode') = 'off' and \
        current_setting('max_wal_senders') = '0' and not pg_is_in_recovery() as alone";
    let asked = ["--query", "select count(*), max(id) from marks", "--query", alone, "-o", "json"];
    let done = drill(&asked).await.json();
    let (drill_of, figures) = (&done[0], &done[0]["restore"]);
    assert_eq!((drill_of["kind"].as_str(), drill_of["result"].as_str()), (Some("restore"), Some("passed")), "{done}");
    assert_eq!(figures["backup"].as_str(), Some(newest), "{done}");
    assert_eq!(drill_of["answers"][0]["rows"], json!([["40", "40"]]), "{done}");
    assert!(figures["databases"].as_u64() >= Some(2) && figures["relations"].as_u64() > Some(300), "{done}");
    assert!(
        figures["seconds"]["files"].as_f64() > Some(0.0) && figures["seconds"]["start"].as_f64() > Some(0.0),
        "{done}"
    );
    assert!(figures["reached"].is_string() && figures["reached_at"].is_string(), "{done}");

    let wrong = drill(&["--to", time, "--check", "never", "--query", "select count(*) = 40 from marks"]).await;
    wrong.refused_naming(code::SOFTWARE, &["not passed", "answered false"]);
    assert!(wrong.out.contains(newest) && wrong.out.contains("failed"), "{wrong}");
    let never = drill(&["--to", "name=never"]).await;
    never.refused_naming(code::SOFTWARE, &["never"]);
    let nowhere = site.run(&["drill", "restore", "--scratch", "/nonexistent"]).await;
    nowhere.refused_naming(code::TEMPORARY, &["/nonexistent", "nothing was done"]);
}

async fn refusals(site: &Site, first: &str, second: &str, time: &str) {
    let new = site.dir.join("refused").display().to_string();
    let late = site.run(&["restore", &new, "--to", "2199-01-01T00:00:00Z"]).await;
    late.refused_naming(code::DATA, &["2199", second, "the last transaction ended at"]);
    let early = site.run(&["restore", &new, "--to", "2001-01-01T00:00:00Z"]).await;
    early.refused_naming(code::DATA, &["2001", "the earliest ended at"]);
    site.run(&["restore", &new, "--to", "name=never"]).await.refused_naming(code::DATA, &["never"]);
    site.run(&["restore", &new, "--to", "yesterday"]).await.refused_naming(code::USAGE, &["with its zone"]);
    let key = site.dir.join("other.txt").display().to_string();
    let other = site.run(&["restore", &new, "--identity", &key]).await;
    other.refused_naming(code::PERMISSION, &["encrypted to other recipients"]);
    site.run(&["backup", "list", "--incarnation", "x"]).await.refused_naming(code::DATA, &["no incarnation 'x'"]);
    site.run(&["backup", "verify", "nothing"]).await.refused_naming(code::DATA, &["nothing", second]);
    let space = ["restore", &new, "--tablespace", "spice=/x"];
    site.run(&space).await.refused_naming(code::USAGE, &["spice", "it has space"]);
    assert!(!Path::new(&new).exists(), "nothing was begun");
    let full = site.dir.join("latest").display().to_string();
    let elsewhere = format!("space={}", site.dir.join("elsewhere").display());
    let refused = site.run(&["restore", &full, "--tablespace", &elsewhere]).await;
    refused.refused_naming(code::DATA, &["is not empty"]);

    let path = pack(site, second);
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    let damaged = site.run(&["backup", "verify", second]).await;
    damaged.refused_naming(code::DATA, &[second, "is damaged"]);
    assert!(damaged.out.contains("base/") && damaged.out.contains("truncated"), "{damaged}");
    let broken = site.dir.join("broken").display().to_string();
    let refused = site.run(&["restore", &broken, "--tablespace", &format!("space={broken}-space")]).await;
    refused.refused_naming(code::DATA, &["truncated"]);
    assert!(!Path::new(&broken).join("global/pg_control").exists(), "it cannot be started");
    std::fs::write(&path, whole).unwrap();
    // The older one is as good: it only replays more.
    let _ = (first, time);
    assert_eq!(site.rows_of("older", &["--backup", first]).await, 40);
}

async fn keeping(site: &Site, first: &str, second: &str) {
    site.run(&["backup", "hold", first, "--reason", "books"]).await.ok();
    site.run(&["backup", "annotate", second, "why=upgrade"]).await.ok();
    let shown = site.run(&["backup", "show", second, "-o", "json"]).await.json();
    assert_eq!(shown["notes"]["why"], "upgrade");
    site.run(&["backup", "delete", first, "--force"]).await.refused_naming(code::DATA, &["held", "--release"]);
    let kept = site.run(&["backup", "expire", "--keep", "1", "--dry-run", "-o", "json"]).await.json();
    assert_eq!(
        (kept[0]["kept"][0]["because"].as_str(), kept[0]["expired"].as_array().unwrap().len()),
        (Some("held"), 0)
    );
    site.run(&["backup", "hold", first, "--release"]).await.ok();
    let removed = site.run(&["backup", "expire", "--keep", "1", "-o", "json"]).await.json();
    assert_eq!(removed[0]["expired"][0], first);
    assert!(!pack(site, first).exists() && pack(site, second).exists());
    site.run(&["backup", "verify", "--wal"]).await.ok();
    site.run(&["backup", "delete", second]).await.refused_naming(code::USAGE, &["--force"]);
    site.run(&["backup", "delete", second, "--force"]).await.ok();
    let empty = site.run(&["restore", &site.dir.join("none").display().to_string()]).await;
    empty.refused_naming(code::DATA, &["no backup"]);
}

/// The other majors that are installed: one way there and back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_major_comes_back() {
    for installation in postgres::all_majors() {
        let site = Site::new(installation).await;
        let client = connect(&site.server, "postgres").await;
        let full = site.take(&["--incremental"]).await;
        assert_eq!(
            (full["kind"].as_str(), full["fallback"].as_str()),
            (Some("full"), Some("there is no earlier backup"))
        );
        let full = full["backup"].as_str().unwrap();
        site.insert(&client, 10).await;
        let increment = site.take(&["--incremental"]).await;
        assert_eq!((increment["kind"].as_str(), increment["parent"].as_str()), (Some("incremental"), Some(full)));
        let child = increment["backup"].as_str().unwrap();
        site.insert(&client, 20).await;
        site.archive_wal(&client).await;
        assert!(site.run(&["backup", "list"]).await.ok().contains(&format!("since {full}")));
        assert!(site.run(&["backup", "show", child]).await.ok().contains("everything read and compared"));
        let refused = site.run(&["backup", "delete", full, "--force"]).await;
        refused.refused_naming(code::DATA, &[child, "build upon it", "--with-children"]);
        assert_eq!(site.rows_of("latest", &[]).await, 20, "PostgreSQL {}", installation.major);
        site.run(&["drill", "restore", "--query", "select count(*) = 20 from marks"]).await.ok();
        site.run(&["backup", "delete", full, "--with-children", "--force"]).await.ok();
        assert_eq!(site.run(&["backup", "list", "-o", "json"]).await.json(), json!([]));
    }
}

/// Killed in the middle, a backup is none, and the next one is not disturbed; interrupted, it leaves nothing. A restore that
/// is killed wherever it may be cannot be started, or is complete; begun again it goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_stopped_is_not_taken_for_whole() {
    let site = Site::new(postgres::any()).await;
    let client = connect(&site.server, "postgres").await;
    client
        .batch_execute("create table large as select g, repeat(md5(g::text), 20) from generate_series(1, 200000) g")
        .await
        .unwrap();
    for (signal, left) in [("-KILL", true), ("-INT", false)] {
        let mut command = tokio::process::Command::new(verb::program());
        command.args(["backup", "--scope", "main", "--jobs", "1", "--dsn", &site.server.dsn(), "--archive"]);
        command
            .arg(site.dir.join("archive.yml"))
            .arg("--data-dir")
            .arg(site.server.data())
            .current_dir(site.dir.path());
        let packs = || {
            let folder = walk(&site.dir.join("repository/main"));
            folder.iter().filter(|path| path.to_string_lossy().contains("/pack/")).count()
        };
        let before = packs();
        let mut child = command.kill_on_drop(true).spawn().unwrap();
        while packs() == before {
            assert!(child.try_wait().unwrap().is_none(), "it was over before it could be stopped");
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        let pid = child.id().unwrap().to_string();
        assert!(std::process::Command::new("kill").args([signal, &pid]).status().unwrap().success());
        let ended = tokio::time::timeout(PATIENCE, child.wait()).await.unwrap().unwrap();
        assert!(!ended.success());
        assert_eq!(packs() > before, left, "{signal}");
    }
    assert_eq!(site.run(&["backup", "list", "-o", "json"]).await.json(), json!([]));
    let first = site.backup().await;
    cleared_away(&site, &first).await;
    site.run(&["backup", "verify"]).await.ok();
    restores_go_on(&site).await;
    interrupted(&site, &first).await;
}

/// What a killed backup has left goes once it must have been killed, half-written files included; nothing else goes.
async fn cleared_away(site: &Site, whole: &str) {
    let left = || {
        let packs = walk(&site.dir.join("repository/main")).into_iter();
        packs.map(|path| path.display().to_string()).filter(|path| path.contains("/pack/") && !path.contains(whole))
    };
    assert!(left().any(|path| path.contains('#')), "it was killed while it wrote: {:?}", left().collect::<Vec<_>>());
    let count = left().count();
    site.run(&["backup", "expire"]).await.ok();
    assert_eq!(left().count(), count, "it may be under way");
    let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(7200);
    for path in walk(&site.dir.join("repository/main")) {
        std::fs::File::options().write(true).open(path).unwrap().set_modified(long_ago).unwrap();
    }
    site.run(&["backup", "expire"]).await.ok();
    assert_eq!(left().collect::<Vec<_>>(), Vec::<String>::new());
    site.run(&["backup", "verify", whole]).await.ok();
}

async fn restores_go_on(site: &Site) {
    let mut gone_on = Vec::new();
    for (number, step) in
        ["", "base", "base/1", "pg_tblspc", "matriarch_archive.json", "backup_label"].iter().enumerate()
    {
        let data = site.dir.join(format!("killed-{number}"));
        let mut command = tokio::process::Command::new(verb::program());
        command.args(["restore", "--scope", "main", "--jobs", "1", "--tablespace"]);
        command.arg(format!("space={}-space", data.display())).arg(&data).arg("--archive");
        command.arg(site.dir.join("archive.yml")).current_dir(site.dir.path()).stdout(std::process::Stdio::null());
        let mut child = command.kill_on_drop(true).spawn().unwrap();
        while !data.join(step).exists() && child.try_wait().unwrap().is_none() {
            tokio::time::sleep(std::time::Duration::from_micros(200)).await;
        }
        child.kill().await.unwrap();
        let complete = data.join("recovery.signal").exists() && data.join("backup_label").exists();
        assert!(complete || !data.join("global/pg_control").exists(), "killed after {step}");
        if !data.join("global/pg_control").exists() {
            let (path, space) = (data.display().to_string(), format!("space={}-space", data.display()));
            let again = site.run(&["restore", &path, "--tablespace", &space, "-o", "json"]).await.json();
            assert!(again["there_already"].as_u64() <= again["size"].as_u64(), "{again}");
            gone_on.push(data);
        }
    }
    assert_eq!(site.rows_in(gone_on.last().expect("not all of them were over")).await, 0);
}

/// A restore that is ended by a person says how it goes on, and then goes on; of another backup it does not.
async fn interrupted(site: &Site, first: &str) {
    let mut slow = Document::parse(&std::fs::read_to_string(site.dir.join("archive.yml")).unwrap()).unwrap().value;
    slow["archive"]["repositories"][0]["download_limit"] = json!(2 << 20);
    let file = site.dir.join("slow.yml");
    std::fs::write(&file, matriarch_config::to_yaml(&slow)).unwrap();
    let (data, space) = (site.dir.join("interrupted"), site.dir.join("interrupted-space"));
    let (path, option) = (data.display().to_string(), format!("space={}", space.display()));
    let mut command = tokio::process::Command::new(verb::program());
    command.args(["restore", "--scope", "main", &path, "--tablespace", &option, "--archive"]).arg(&file);
    command.current_dir(site.dir.path()).stderr(std::process::Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().unwrap();
    while !walk(&data.join("base")).iter().any(|file| std::fs::metadata(file).is_ok_and(|meta| meta.len() > 1 << 20)) {
        assert!(child.try_wait().unwrap().is_none(), "it was over before it could be stopped");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let pid = child.id().unwrap().to_string();
    assert!(std::process::Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    let ended = tokio::time::timeout(PATIENCE, child.wait_with_output()).await.unwrap().unwrap();
    let told = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(i32::from(code::TEMPORARY)), "{told}");
    assert!(told.contains(&format!("--backup {first} goes on")), "{told}");

    let second = site.backup().await;
    let newest = site.run(&["restore", &path, "--tablespace", &option]).await;
    newest.refused_naming(code::DATA, &[first, &second, &format!("--backup {first}"), "or empty"]);
    // The WAL between the two is not archived.
    let same = |place: &str| {
        ["restore", &path, "--backup", first, "--to", "immediate", "--tablespace", place].map(str::to_owned)
    };
    let run = async |words: [String; 8]| site.run(&words.each_ref().map(String::as_str)).await;
    let moved = run(same("space=/nonexistent/space")).await;
    moved.refused_naming(code::DATA, &["/nonexistent/space", &space.display().to_string(), "--tablespace"]);
    let done = run(same(&option)).await;
    assert!(done.ok().contains("An earlier try had restored"), "{done}");
    assert_eq!(site.rows_in(&data).await, 0);
    run(same(&option)).await.refused_naming(code::DATA, &["is not empty"]);
}

/// Killed, a drill leaves its server and its directory to the next one; interrupted, it leaves nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drill_that_is_stopped_is_cleared_away() {
    let site = Site::new(postgres::any()).await;
    site.backup().await;
    let scratch = site.dir.create("scratch");
    let places = || std::fs::read_dir(&scratch).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    for (signal, left) in [("-KILL", 1), ("-INT", 0)] {
        let before = places();
        let mut command = tokio::process::Command::new(verb::program());
        command.args([
            "drill",
            "restore",
            "--scope",
            "main",
            "--query",
            "create table asked (); select pg_sleep(3600)",
        ]);
        command
            .args(["--check", "never", "--scratch"])
            .arg(&scratch)
            .arg("--archive")
            .arg(site.dir.join("archive.yml"));
        let mut child = command.current_dir(site.dir.path()).kill_on_drop(true).spawn().unwrap();
        let ready = |place: &PathBuf| {
            let lock = std::fs::read_to_string(place.join("data/postmaster.pid")).unwrap_or_default();
            lock.contains("ready")
        };
        while !places().iter().any(|place| !before.contains(place) && ready(place)) {
            assert!(child.try_wait().unwrap().is_none(), "it was over before it could be stopped");
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        let pid = child.id().unwrap().to_string();
        assert!(std::process::Command::new("kill").args([signal, &pid]).status().unwrap().success());
        let ended = tokio::time::timeout(PATIENCE, child.wait()).await.unwrap().unwrap();
        assert!(!ended.success());
        assert_eq!(places().len(), left, "{signal}");
    }
}

fn walk(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.path().is_dir() {
            true => found.extend(walk(&entry.path())),
            false => found.push(entry.path()),
        }
    }
    found
}
