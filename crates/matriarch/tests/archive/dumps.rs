//! `dump` as a person uses it: a server, a repository and a file.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use matriarch_cli::code;
use matriarch_testkit::faults;
use matriarch_testkit::postgres::{self, Installation};
use matriarch_testkit::server::Server;
use matriarch_testkit::volume::Volume;
use serde_json::{Value, json};
use tokio::process::Child;

use crate::harness::site::{Site, connect};
use crate::harness::verb::{self, Outcome};
use crate::harness::{Cluster, PATIENCE, Plan, fault, wire};

/// A database whose name wants to be quoted everywhere.
const ODD: &str = "we ird's \"db\"=1";
const SHOP: &str = "create schema \"o'dd \"\"schema\"\"\" authorization app; \
    create table \"o'dd \"\"schema\"\"\".\"Ta ble\" (id int primary key, \"co l\" text); \
    insert into \"o'dd \"\"schema\"\"\".\"Ta ble\" select g, repeat(md5(g::text), 20) from generate_series(1, 5000) g; \
    alter table \"o'dd \"\"schema\"\"\".\"Ta ble\" owner to app; \
    create view public.v as select count(*) as n from \"o'dd \"\"schema\"\"\".\"Ta ble\"; \
    create sequence s start 42; grant select on public.v to \"re'ad \"\"er\"\"\"; \
    select lo_from_bytea(4711, convert_to(repeat('large ', 100000), 'UTF8')); alter large object 4711 owner to app;";
/// Everything of the database that must come back, in one row of text.
const PROOF: &str = "select concat_ws('|', \
    (select count(*) from \"o'dd \"\"schema\"\"\".\"Ta ble\"), \
    (select md5(string_agg(t::text, ',' order by id)) from \"o'dd \"\"schema\"\"\".\"Ta ble\" t), \
    (select md5(lo_get(4711))), (select lomowner::regrole from pg_largeobject_metadata), \
    (select relowner::regrole from pg_class where relname = 'Ta ble'), (select n from public.v), nextval('s'), \
    has_table_privilege('re''ad \"er\"', 'public.v', 'select'), \
    (select pg_get_userbyid(datdba) from pg_database where datname = current_database()))";

impl Site {
    /// With roles and databases that want to be quoted everywhere.
    async fn new(installation: &Installation) -> Site {
        let site = Site::empty("dumps", installation, "").await;
        let client = connect(&site.server, "postgres").await;
        for statement in [
            "create role app login password 'hush' connection limit 7",
            "create role \"re'ad \"\"er\"\"\"",
            "grant \"re'ad \"\"er\"\"\" to app",
            "comment on role app is 'it''s; -- ours'",
            "create database shop owner app",
            "alter database shop set work_mem = '7MB'",
            "alter role app set search_path = 'a\\', 'b;'",
            "create database \"we ird's \"\"db\"\"=1\"",
        ] {
            client.batch_execute(statement).await.unwrap();
        }
        connect(&site.server, "shop").await.batch_execute(SHOP).await.unwrap();
        connect(&site.server, ODD).await.batch_execute("create table t as select 1 as x").await.unwrap();
        site
    }

    async fn other(&self, name: &str) -> Server {
        Server::create(&self.installation, &self.dir, name, "").await.unwrap()
    }

    /// With what leads to a server.
    async fn at(&self, server: &Server, words: &[&str]) -> Outcome {
        let (dsn, bins) = (server.dsn(), self.installation.bins.display().to_string());
        self.run(&[words, &["--dsn", &dsn, "--bin-dir", &bins, "-o", "json"]].concat()).await
    }

    async fn dump(&self, options: &[&str]) -> String {
        let taken = self.at(&self.server, &[&["dump"][..], options].concat()).await.json();
        taken[0]["dump"].as_str().unwrap().to_owned()
    }

    /// Begins a verb that will not come to its end by itself.
    fn begin(&self, words: &[&str]) -> Child {
        let mut command = tokio::process::Command::new(verb::program());
        command.args(self.words(words)).current_dir(self.dir.path()).kill_on_drop(true);
        command.stdout(std::process::Stdio::null()).spawn().unwrap()
    }

    async fn listed(&self) -> Vec<Value> {
        self.run(&["dump", "list", "-o", "json"]).await.json().as_array().unwrap().clone()
    }

    /// The folder of all dumps.
    fn folder(&self) -> PathBuf {
        self.incarnation().join("dump")
    }
}

async fn text(server: &Server, database: &str, query: &str) -> String {
    connect(server, database).await.query_one(query, &[]).await.unwrap().get(0)
}

async fn databases(server: &Server) -> String {
    let query = "select string_agg(datname, '|' order by datname) from pg_database where not datistemplate";
    text(server, "postgres", query).await
}

/// The oldest and the newest version there is: contents, owners, large objects, roles, settings, odd names.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dumps_go_there_and_back() {
    let all = postgres::all_majors();
    for installation in [all.first().unwrap(), all.last().unwrap()] {
        let site = Site::new(installation).await;
        let proof = text(&site.server, "shop", PROOF).await.replace("|42|", "|43|");
        let first = site.dump(&[]).await;
        let listed = site.listed().await;
        assert_eq!(listed[0]["dump"], first.as_str());
        assert_eq!(listed[0]["databases"], json!(["postgres", "shop", ODD]), "{listed:?}");
        assert!(listed[0]["stored"].as_u64() < listed[0]["size"].as_u64(), "{listed:?}");
        let shown = site.run(&["dump", "show"]).await;
        assert!(shown.ok().contains(ODD) && shown.out.contains("app"), "{shown}");
        assert!(site.run(&["dump", "verify"]).await.ok().contains("are good"));

        let other = site.other("other").await;
        foretold(&site, &other, &first).await;
        let done = site.at(&other, &["dump", "restore"]).await.json();
        assert_eq!(done["databases"][1]["created"], true, "{done}");
        assert_eq!(text(&other, "shop", PROOF).await, proof, "PostgreSQL {}", installation.major);
        let roles = "select string_agg(concat_ws(',', rolname, rolpassword, rolconnlimit, rolcanlogin, \
            shobj_description(oid, 'pg_authid'), (select setconfig::text from pg_db_role_setting where setrole = a.oid), \
            pg_has_role('app', oid, 'member')), ';' order by rolname) from pg_authid a where oid >= 16384";
        assert_eq!(text(&other, "postgres", roles).await, text(&site.server, "postgres", roles).await);
        assert_eq!(text(&other, "shop", "show work_mem").await, "7MB");
        assert_eq!(text(&other, ODD, "select x::text from t").await, "1");

        onto(&site, &other, &proof).await;
        site.dump(&["--format", "directory", "--jobs", "2", "--database", "shop"]).await;
        let again = ["dump", "restore", "--jobs", "2", "--database", "shop=again"];
        site.at(&other, &again).await.ok();
        assert_eq!(text(&other, "again", PROOF).await, proof);
        let elsewhere = all.iter().rfind(|one| one.major != installation.major);
        let Some(elsewhere) = elsewhere else { continue };
        between_majors(&site, elsewhere, &first, &proof).await;
    }
}

/// What a restore would do to a server, and to one where something stands in the way; nothing is written.
async fn foretold(site: &Site, other: &Server, dump: &str) {
    let dry = ["dump", "restore", "--dry-run"];
    let page = site.at(other, &dry).await.json();
    assert_eq!((page["dump"].as_str(), page["possible"].as_bool()), (Some(dump), Some(true)), "{page}");
    assert_eq!(page["made"]["roles"], json!(["app", "re'ad \"er\""]), "{page}");
    assert_eq!(page["missing"]["roles"], json!([]), "{page}");
    let of = |page: &Value, name: &str| {
        let found = page["databases"].as_array().unwrap().iter().find(|one| one["database"] == name);
        found.unwrap_or_else(|| panic!("no {name}: {page}")).clone()
    };
    let shop = of(&page, "shop");
    assert_eq!((shop["into"].as_str(), shop["exists"].as_bool()), (Some("shop"), Some(false)), "{page}");
    assert!(shop["size"].as_u64() > Some(500_000) && of(&page, "postgres")["exists"] == true, "{page}");
    let staged = [&dry[..], &["--jobs", "2", "--no-roles", "--database", "shop=x"]].concat();
    let page = site.at(other, &staged).await.json();
    assert!(page["room"]["needed"].as_u64() > page["size"].as_u64(), "{page}");
    assert_eq!((&page["made"]["roles"], &page["missing"]["roles"][0]), (&json!([]), &json!("app")), "{page}");
    let passing = [&dry[..], &["--database", "shop", "--map-owner", "app=postgres"]].concat();
    assert_eq!(site.at(other, &passing).await.json()["passing_roles"], json!(["app"]));
    assert_eq!(databases(other).await, "postgres");
    assert_eq!(text(other, "postgres", "select count(*)::text from pg_roles where oid >= 16384").await, "0");

    // Everything that stands in the way at once, and the same without the option.
    let blocked = ["--database", "shop=shop", "--database", "postgres=shop", "--owner", "nobody"];
    let refused = site.at(&site.server, &[&dry[..], &blocked].concat()).await;
    let told = ["'shop' is not empty", "would become 'shop'", "no role 'nobody'"];
    refused.refused_naming(code::DATA, &told);
    let page: Value = serde_json::from_str(&refused.out).unwrap();
    assert!(page["possible"] == false && of(&page, "shop")["objects"].as_u64() > Some(3), "{page}");
    site.at(&site.server, &[&["dump", "restore"], &blocked[..]].concat()).await.refused_naming(code::DATA, &told);
    let (dsn, bins) = (other.dsn(), site.installation.bins.display().to_string());
    let shown = site.run(&[&dry[..], &["--dsn", &dsn, "--bin-dir", &bins]].concat()).await;
    assert!(shown.ok().contains("would be made: app") && shown.out.contains("an empty database"), "{shown}");
    let pack = site.folder().join(dump).join("000000");
    let away = site.dir.join("away");
    std::fs::rename(&pack, &away).unwrap();
    site.at(other, &[&dry[..], &["--owner", "postgres"]].concat())
        .await
        .refused_naming(code::DATA, &["000000", "missing"]);
    std::fs::rename(&away, &pack).unwrap();
}

/// A newer version takes it, an older one is refused before anything is written.
async fn between_majors(site: &Site, elsewhere: &Installation, dump: &str, proof: &str) {
    let server = Server::create(elsewhere, &site.dir, "elsewhere", "").await.unwrap();
    let (dsn, bins) = (server.dsn(), elsewhere.bins.display().to_string());
    let restored = site.run(&["dump", "restore", dump, "--dsn", &dsn, "--bin-dir", &bins]).await;
    if elsewhere.major > site.installation.major {
        restored.ok();
        assert_eq!(text(&server, "shop", PROOF).await, proof);
    } else {
        restored.refused_naming(code::DATA, &["an older one cannot read it"]);
        assert_eq!(databases(&server).await, "postgres");
    }
}

/// Who owns what of a database, and the database.
const OWNERS: &str = "select string_agg(distinct relowner::regrole::text, ',') || ',' || pg_get_userbyid(datdba) \
    from pg_class, pg_database where datname = current_database() and pg_class.oid >= 16384 \
    and relnamespace <> 'pg_toast'::regnamespace group by datdba";

/// Into a server that has things of its own.
async fn onto(site: &Site, other: &Server, proof: &str) {
    let refused = site.at(other, &["dump", "restore", "--database", "shop"]).await;
    refused.refused_naming(code::DATA, &["'shop' is not empty", "objects", "--clean"]);
    connect(other, "shop")
        .await
        .batch_execute("drop view v; create table mine (); alter role app connection limit 9")
        .await
        .unwrap();
    site.at(other, &["dump", "restore", "--database", "shop", "--clean", "--jobs", "2"]).await.ok();
    assert_eq!(text(other, "shop", PROOF).await, proof);
    let own = "select concat_ws('|', (select rolconnlimit from pg_roles where rolname = 'app'), to_regclass('mine'))";
    assert_eq!(text(other, "shop", own).await, "9|mine", "what is there and not in the dump stays");
    site.at(other, &["dump", "restore", "--database", "shop", "--add"])
        .await
        .refused_naming(code::DATA, &["already exists"]);
    assert_eq!(text(other, "shop", own).await, "9|mine", "all of it or nothing");

    // Names that are free, and other owners.
    connect(other, "postgres").await.batch_execute("create role tester").await.unwrap();
    let renamed = format!("{ODD}=other odd\" name");
    let done = site.at(other, &["dump", "restore", "--database", "shop=copy", "--database", &renamed]).await.json();
    assert_eq!(done["databases"][1]["into"], "other odd\" name", "{done}");
    assert_eq!(text(other, "copy", PROOF).await, proof);
    site.at(other, &["dump", "restore", "--database", "shop=mapped", "--map-owner", "app=tester"]).await.ok();
    assert_eq!(text(other, "mapped", OWNERS).await, "postgres,tester,tester");
    site.at(other, &["dump", "restore", "--database", "shop=owned", "--owner", "tester"]).await.ok();
    assert_eq!(text(other, "owned", OWNERS).await, "tester,tester");
    // A role that is not there is there for as long as it takes.
    let third = site.other("third").await;
    site.at(&third, &["dump", "restore", "--database", "shop", "--map-owner", "app=postgres"]).await.ok();
    assert_eq!(text(&third, "shop", OWNERS).await, "postgres,postgres");
    let made = "select string_agg(rolname, ',') from pg_roles where oid >= 16384";
    assert_eq!(text(&third, "postgres", made).await, "re'ad \"er\"");
    drop(third);
    let nobody = site.at(other, &["dump", "restore", "--database", "shop=x", "--owner", "nobody"]).await;
    nobody.refused_naming(code::DATA, &["no role 'nobody'"]);
    let missing = site.at(other, &["dump", "restore", "--database", "shoop"]).await;
    missing.refused_naming(code::DATA, &["no database 'shoop'", ODD]);
    assert!(!databases(other).await.contains("|x|"));
}

/// Wrong keys, damage, lost servers, and ends before the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dumps_that_go_wrong_leave_nothing() {
    let site = Site::new(postgres::any()).await;
    let none = site.run(&["dump", "verify"]).await;
    none.refused_naming(code::DATA, &["holds nothing of cluster"]);
    let nowhere = site.run(&["dump", "--dsn", "host=127.0.0.1 port=1 user=x"]).await;
    nowhere.refused_naming(code::UNAVAILABLE, &["could not connect"]);
    let unknown = site.at(&site.server, &["dump", "--database", "shoop"]).await;
    unknown.refused_naming(code::DATA, &["no database 'shoop'", "shop"]);

    // It waits for a lock, and is ended there: by force it leaves a mark, asked to end it leaves nothing.
    let locker = connect(&site.server, "shop").await;
    locker
        .batch_execute("begin; lock table \"o'dd \"\"schema\"\"\".\"Ta ble\" in access exclusive mode")
        .await
        .unwrap();
    let waits = "select count(*)::text from pg_locks where not granted";
    let (dsn, bins) = (site.server.dsn(), site.installation.bins.display().to_string());
    for (signal, left) in [("-KILL", 1), ("-INT", 1)] {
        let mut child = site.begin(&["dump", "--dsn", &dsn, "--bin-dir", &bins]);
        let begun = std::time::Instant::now();
        let before = text(&site.server, "postgres", waits).await;
        while text(&site.server, "postgres", waits).await == before || names(&site.folder()).is_empty() {
            assert!(child.try_wait().unwrap().is_none() && begun.elapsed() < PATIENCE, "it does not wait");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        end(&mut child, signal).await;
        assert_eq!(names(&site.folder()).len(), left, "{signal}");
    }
    assert!(site.listed().await.is_empty());
    let under_way = names(&site.folder()).remove(0);
    site.run(&["dump", "delete", &under_way, "--force"]).await.refused_naming(code::TEMPORARY, &["under way"]);
    let kept = site.run(&["dump", "expire", "-o", "json"]).await.json();
    assert_eq!(kept[0]["under_way"][0], under_way.as_str(), "{kept}");
    locker.batch_execute("rollback").await.unwrap();

    // The program's own words, and nothing in the repository.
    let limited = "create role limited login; grant pg_read_server_files to limited; \
        grant execute on function pg_read_file(text, bigint, bigint, boolean) to limited";
    connect(&site.server, "postgres").await.batch_execute(limited).await.unwrap();
    let dsn = dsn.replace("postgres ", "limited ");
    let denied = site.run(&["dump", "--dsn", &dsn, "--bin-dir", &bins, "--no-globals"]).await;
    denied.refused_naming(code::DATA, &["pg_dump", "permission denied"]);
    assert!(site.listed().await.is_empty());

    let dump = site.dump(&["--no-globals"]).await;
    damaged(&site, &dump).await;
    restores(&site).await;
    site.run(&["dump", "expire", "--keep", "1"]).await.ok();
    assert_eq!(site.listed().await.len(), 1, "what a person took stays");
    let second = site.dump(&["--database", "postgres"]).await;
    let expired = site.run(&["dump", "expire", "--keep", "1", "--by-hand", "-o", "json"]).await.json();
    assert_eq!(
        (expired[0]["expired"][0].as_str(), expired[0]["kept"][0]["dump"].as_str()),
        (Some(&*dump), Some(&*second))
    );
    assert!(!names(&site.folder()).contains(&dump));
    site.run(&["dump", "delete", &second]).await.refused_naming(code::USAGE, &["--force"]);
    site.run(&["dump", "delete", &second, "--force"]).await.ok();
    assert!(site.listed().await.is_empty());
}

async fn damaged(site: &Site, dump: &str) {
    let key = site.dir.join("other.txt").display().to_string();
    let other = site.run(&["dump", "verify", "--identity", &key]).await;
    other.refused_naming(code::PERMISSION, &["encrypted to other recipients"]);
    let path = site.folder().join(dump).join("000000");
    let whole = std::fs::read(&path).unwrap();
    let mut flipped = whole.clone();
    let middle = whole.len() / 2;
    flipped[middle] ^= 1;
    for (bytes, told) in [(flipped, "does not have its digest"), (whole[..middle].to_vec(), "truncated")] {
        std::fs::write(&path, bytes).unwrap();
        let report = site.run(&["dump", "verify", dump]).await;
        report.refused_naming(code::DATA, &[dump, "is damaged"]);
        assert!(report.out.contains("shop") && report.out.contains(told), "{report}");
        let refused = site.at(&site.server, &["dump", "restore", "--database", "shop=broken"]).await;
        refused.refused_naming(code::DATA, &[told]);
        assert!(!databases(&site.server).await.contains("broken"), "a half-made database is left");
    }
    std::fs::write(&path, whole).unwrap();
    site.run(&["dump", "verify", dump]).await.ok();
}

/// A restore that is interrupted leaves an empty database empty.
async fn restores(site: &Site) {
    connect(&site.server, "postgres").await.batch_execute("create database held").await.unwrap();
    let locker = connect(&site.server, "held").await;
    locker.batch_execute("begin; lock table pg_namespace in share mode").await.unwrap();
    let (dsn, bins) = (site.server.dsn(), site.installation.bins.display().to_string());
    let words = ["dump", "restore", "--database", "shop=held", "--dsn", &dsn, "--bin-dir", &bins];
    let mut child = site.begin(&words);
    let waits = "select count(*)::text from pg_locks where not granted and relation = 'pg_namespace'::regclass";
    let begun = std::time::Instant::now();
    while text(&site.server, "held", waits).await == "0" {
        assert!(child.try_wait().unwrap().is_none() && begun.elapsed() < PATIENCE, "it does not wait");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    end(&mut child, "-INT").await;
    locker.batch_execute("rollback").await.unwrap();
    let own = "select count(*)::text from pg_class where oid >= 16384";
    let begun = std::time::Instant::now();
    while text(
        &site.server,
        "held",
        "select count(*)::text from pg_stat_activity where application_name = 'matriarch dump'",
    )
    .await
        != "0"
    {
        assert!(begun.elapsed() < PATIENCE, "a session is left");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(text(&site.server, "held", own).await, "0");
    site.at(&site.server, &["dump", "restore", "--database", "shop=held"]).await.ok();
    removed_meanwhile(site).await;
}

/// One that is removed while it is restored is told as that, and what is half made goes.
async fn removed_meanwhile(site: &Site) {
    let dump = site.dump(&["--no-globals"]).await;
    connect(&site.server, "postgres").await.batch_execute("create database awaited").await.unwrap();
    let locker = connect(&site.server, "awaited").await;
    locker.batch_execute("begin; lock table pg_namespace in share mode").await.unwrap();
    let words = ["dump", "restore", &dump, "--database", "shop=awaited", "--database", "postgres=never"];
    let removing = async {
        let waits = "select count(*)::text from pg_locks where not granted and relation = 'pg_namespace'::regclass";
        let begun = std::time::Instant::now();
        while text(&site.server, "awaited", waits).await == "0" {
            assert!(begun.elapsed() < PATIENCE, "it does not wait");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        site.run(&["dump", "delete", &dump, "--force"]).await.ok();
        locker.batch_execute("rollback").await.unwrap();
    };
    let (refused, ()) = tokio::join!(site.at(&site.server, &words), removing);
    refused.refused_naming(code::DATA, &[&dump, "was removed from", "while it was read", "matriarch dump list"]);
    assert!(!databases(&site.server).await.contains("never"), "a half-made database is left");
}

/// On a cluster that `up` has made: by a schedule, and back into the primary.
pub async fn by_a_schedule(cluster: &Cluster) {
    super::set(cluster, "dumps", &json!({"schedule": "* * * * * *", "keep": 1})).await;
    let expires = |page: &Value| page["dumps"]["last"]["expired"].as_u64() >= Some(1);
    let page = super::until(cluster, "old dumps expire", expires).await;
    let last = &page["dumps"]["last"];
    assert_eq!(last["from_standby"], true, "{page:#}");
    assert_ne!(last["member"], page["leader"], "a replica spares the primary: {page:#}");
    let metrics = wire::http(cluster.api_port("a"), "GET", "/metrics", None, "").await.expect("it answers").body;
    assert!(metrics.contains("matriarch_dump_last_timestamp_seconds{"), "{metrics}");

    super::set(cluster, "dumps", &json!({"schedule": "* * * * * *", "databases": ["absent"]})).await;
    let page = super::until(cluster, "a failure", |page| page["dumps"]["failures"].as_u64() >= Some(1)).await;
    let why = page["dumps"]["last_failure"]["why"].as_str().unwrap();
    assert!(why.contains("no database 'absent'"), "{why}");
    let status = cluster.verb(&["archive", "status"]).await;
    assert!(status.ok().contains("Last dump:") && status.out.contains("Dump failure:"), "{status}");
    super::set(cluster, "dumps", &Value::Null).await;
    let listed = cluster.verb(&["dump", "list", "-o", "json"]).await.json();
    let kept = listed.as_array().unwrap();
    assert!(kept.len() <= 2 && kept.iter().all(|dump| dump["scheduled"] == true), "{listed}");
    cluster.verb(&["dump", "restore", "--database", "postgres=copied"]).await.ok();
    let made = cluster.ask(cluster.read_write(), "SELECT count(*) FROM pg_database WHERE datname = 'copied'").await;
    assert_eq!(made.unwrap(), "1");
    cluster.ask(cluster.read_write(), "CREATE ROLE only_in_the_dump").await.unwrap();
    let rows = cluster.ask(cluster.read_write(), "SELECT count(*) FROM t").await.unwrap();
    cluster.verb(&["dump"]).await.ok();
    begun_anew(cluster, &rows).await;
}

/// Dumps of which more is there than a mark that none will come.
fn names(folder: &Path) -> Vec<String> {
    let inside = |path: &Path| std::fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    let has_more = |path: &PathBuf| inside(path).any(|file| !file.ends_with("manifest"));
    let name = |path: PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
    inside(folder).filter(has_more).map(name).collect()
}

async fn end(child: &mut Child, signal: &str) {
    let pid = child.id().unwrap().to_string();
    assert!(std::process::Command::new("kill").args([signal, &pid]).status().unwrap().success());
    assert!(!tokio::time::timeout(PATIENCE, child.wait()).await.unwrap().unwrap().success());
}

/// A new cluster is made of the newest dump before its members are copied, although the agent that is at it is killed half-way.
pub async fn begun_anew(cluster: &Cluster, tables: &str) {
    let place = cluster.path().join("archive");
    let file = cluster.root().join("dump.yml");
    let section = json!({"dump": {"scope": "demo", "jobs": 2, "archive": {"repositories": [{"location": place}]}}});
    std::fs::write(&file, matriarch_config::to_yaml(&section)).unwrap();
    let plan =
        Plan::new("from-a-dump").beside().members(2).argument("--from-dump").argument(&file.display().to_string());
    let copy = plan.argument("--name").argument("copy").prepare();
    let volume = Volume::mount(&copy.path(), 2048).expect("it can be mounted");
    // So that it ends before its volume does.
    let mut copy = copy;
    copy.spawn();
    let begun = std::time::Instant::now();
    let is_filled = |name: &String| copy.data(name).with_extension("matriarch-new").join("matriarch_dump").exists();
    let first = loop {
        if let Some(name) = copy.names().into_iter().find(is_filled) {
            break name;
        }
        assert!(begun.elapsed() < PATIENCE, "nobody restores: {}", copy.said());
        tokio::time::sleep(Duration::from_millis(2)).await;
    };
    faults::kill(&[fault::agent(&copy, &first)]);
    assert!(!copy.data(&first).join("PG_VERSION").exists(), "it was over before it could be cut off");
    let left = copy.data(&first).with_extension("matriarch-new");
    if volume.is_some() && left.exists() {
        // As much as a longer try would have left: beside it there is no room for another one.
        let allocated = std::process::Command::new("fallocate").args(["-l", "1700M"]).arg(left.join("left")).status();
        assert!(allocated.unwrap().success());
    }
    copy.ready().await;
    assert_eq!(copy.ask(copy.read_write(), "SELECT count(*) FROM t").await.unwrap(), tables);
    assert_eq!(copy.ask(copy.read_only(), "SELECT count(*) FROM t").await.unwrap(), tables);
    let left = copy.names().into_iter().filter(|name| copy.data(name).join("matriarch_dump").exists()).count();
    assert_eq!(left, 0);
    let role = "SELECT count(*) FROM pg_roles WHERE rolname = 'only_in_the_dump'";
    assert_eq!(copy.ask(copy.read_write(), role).await.unwrap(), "1");
    let root = copy.root().to_owned();
    drop((copy, volume));
    // What is mounted cannot be removed with the rest.
    if root.exists() {
        std::fs::remove_dir_all(root).unwrap();
    }
}
