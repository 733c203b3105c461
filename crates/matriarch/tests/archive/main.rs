//! WAL on its way from real clusters into repositories and back: under load, over failovers and through outages.

#[path = "../harness/mod.rs"]
mod harness;

mod clones;
mod clouds;
mod cut_off;
mod destroyed;
mod dumps;
mod durable;

use std::path::{Path, PathBuf};
use std::time::Duration;

use matriarch_archive::archive::Archive;
use matriarch_archive::format::{Identities, Kind};
use matriarch_archive::wal::{Segment, WalName};
use matriarch_config::Archive as Section;
use matriarch_core::Lsn;
use matriarch_testkit::faults;
use matriarch_testkit::s3::{BUCKET, KEYS, S3Server};
use serde_json::{Value, json};
use tokio::process::Command;

use harness::archived::{status, until};
use harness::{Cluster, PATIENCE, Plan, health, verb, wire};

const SIZE: u64 = 16 << 20;

/// Names an archive and restarts PostgreSQL for it, as a person does.
async fn configure(cluster: &Cluster, section: &Value) {
    cluster.verb(&["config", "set", &format!("archive={section}")]).await.ok();
    health::wait(cluster, PATIENCE, "a restart is pending", |_, rows| {
        let waits = rows.iter().all(|row| row["pending_restart"].as_bool() == Some(true));
        (!waits).then(|| format!("{rows:?}"))
    })
    .await;
    cluster.verb(&["restart", "--pending", "--force"]).await.ok();
    health::well(cluster, PATIENCE).await;
}

/// Fills segments, and ends the last of them.
async fn write(cluster: &Cluster, segments: u32) {
    for _ in 0..segments {
        let fill = "INSERT INTO t SELECT n, repeat('x', 200) FROM generate_series(1, 5000) n";
        cluster.ask(cluster.read_write(), fill).await.expect("the primary serves");
        cluster.ask(cluster.read_write(), "SELECT pg_switch_wal()").await.expect("the primary serves");
    }
}

async fn table(cluster: &Cluster) {
    cluster.ask(cluster.read_write(), "CREATE TABLE t (n int, x text)").await.expect("the primary serves");
}

/// The objects of the only incarnation in a directory, below `wal`.
fn objects(place: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![place.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.path() {
                path if path.is_dir() => folders.push(path),
                path => found.push(path.file_name().expect("it has one").to_string_lossy().into_owned()),
            }
        }
    }
    found.sort();
    found
}

/// Waits until there is an object whose name ends so.
async fn until_there(place: &Path, name: &str) {
    let begun = std::time::Instant::now();
    while !objects(place).iter().any(|found| found.ends_with(name)) {
        assert!(begun.elapsed() < PATIENCE, "there is no {name}: {:?}", objects(place));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// There is no gap between the first segment of the first timeline and the last of the newest.
fn assert_continuous(names: &[String]) {
    let missing = missing(names);
    assert!(missing.is_none(), "{missing:?} is missing: {names:?}");
}

fn missing(names: &[String]) -> Option<String> {
    let segments: Vec<Segment> = names
        .iter()
        .filter_map(|name| match name.parse() {
            Ok(WalName::Segment(segment)) => Some(segment),
            _ => None,
        })
        .collect();
    let (first, last) = (segments.first().expect("there are some"), segments.last().expect("there are some"));
    let mut position = first.start(SIZE);
    while position <= last.start(SIZE) {
        if !segments.iter().any(|segment| segment.start(SIZE) == position) {
            return Some(position.to_string());
        }
        position = Lsn(position.0 + SIZE);
    }
    let mut histories = (first.timeline + 1..=last.timeline).map(|timeline| WalName::History(timeline).to_string());
    histories.find(|history| !names.contains(history))
}

/// Waits until there is no gap: what the primary before has not archived comes a file at a time, beside what waits. The names.
async fn until_continuous(place: &Path) -> Vec<String> {
    let begun = std::time::Instant::now();
    loop {
        let names = objects(place);
        match missing(&names) {
            None => return names,
            Some(missing) => assert!(begun.elapsed() < PATIENCE, "{missing} is missing: {names:?}"),
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Runs `wal-fetch` as somebody else's recovery would; its exit code and what it said.
async fn fetch(cluster: &Cluster, member: &str, name: &str, to: &Path) -> (i32, String) {
    let socket = cluster.member(member).join("data.run.archive");
    let mut command = Command::new(verb::program());
    command.current_dir(cluster.root()).arg("wal-fetch").arg("--socket").arg(socket).arg(name).arg(to);
    let output = command.output().await.expect("the binary runs");
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// The right key opens the newest backup, another one does not, and both are said while it can be mended.
async fn keys_are_proved(cluster: &Cluster, identities: &Path, public: &str) {
    let file = identities.display().to_string();
    let none = cluster.verb(&["archive", "check", "--identity", &file, "-o", "json"]).await.json();
    assert_eq!(none["backups"][0]["backup"], Value::Null, "{none:#}");
    cluster.verb(&["backup"]).await.ok();
    let page = cluster.verb(&["archive", "check", "--identity", &file, "-o", "json"]).await.json();
    let (row, line) = (&page["repositories"][0], &page["backups"][0]);
    assert_eq!(
        (row["ok"].as_bool(), row["recipients"].as_u64(), row["opens"].as_bool()),
        (Some(true), Some(1), Some(true))
    );
    assert_eq!((line["opens"].as_bool(), line["recipients"].as_u64()), (Some(true), Some(1)), "{page:#}");
    assert_eq!((page["public"][0].as_str(), page["is_recipient"].as_bool()), (Some(public), Some(true)), "{page:#}");
    cluster.verb(&["backup", "--incremental"]).await.ok();
    let after = cluster.verb(&["archive", "check", "--identity", &file, "-o", "json"]).await.json();
    assert_ne!(after["backups"][0]["backup"], line["backup"], "{after:#}");
    assert_eq!(after["backups"][0]["opens"].as_bool(), Some(true), "{after:#}");
    let other = cluster.root().join("other");
    std::fs::write(&other, Identities::generate().0).expect("there is room");
    let shut = cluster.verb(&["archive", "check", "--identity", &other.display().to_string()]).await;
    shut.refused_naming(77, &["does not open the newest backup", "recipients"]);
    assert!(shut.out.contains("encrypted to other recipients"), "{shut}");
    std::fs::write(&other, "# no key\n").expect("there is room");
    let empty = cluster.verb(&["archive", "check", "--identity", &other.display().to_string()]).await;
    empty.refused_naming(78, &["holds no key"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_segment_is_missing_after_a_failover_during_an_outage() {
    let cluster = Plan::new("archived").start().await;
    let place: PathBuf = cluster.root().join("repository");
    std::fs::create_dir(&place).expect("there is room");
    cluster.verb(&["archive", "status"]).await.refused_naming(78, &["no archive", "config edit"]);
    let (private, public) = Identities::generate();
    let identities = cluster.root().join("identities");
    std::fs::write(&identities, private).expect("there is room");
    let encryption = json!({ "recipients": [public], "identity_file": identities });
    let section = json!({ "repositories": [{ "location": place }], "encryption": encryption, "tail": 0 });
    configure(&cluster, &section).await;
    table(&cluster).await;
    write(&cluster, 4).await;
    let page = until(&cluster, "archived", |page| page["waiting"] == 0 && page["last_archived"].is_object()).await;
    assert_eq!(page["repositories"][0]["open"], true, "{page:#}");
    cluster.verb(&["archive", "check"]).await.ok();
    keys_are_proved(&cluster, &identities, &public).await;

    // What is there, what is proven not to be, and what nobody knows.
    let leader = health::leader(&cluster).await;
    let last = page["last_archived"]["file"].as_str().expect("a name").to_owned();
    let to = cluster.root().join("fetched");
    assert_eq!(fetch(&cluster, &leader, &last, &to).await.0, 0);
    let own = std::fs::read(cluster.data(&leader).join("pg_wal").join(&last)).expect("it is still there");
    assert!(std::fs::read(&to).expect("it was fetched") == own, "{last} came back changed");
    in_order(&cluster, &leader, last.parse().expect("a segment"), &to).await;
    let (code, said) = fetch(&cluster, &leader, "0000000900000000000000FF", &to).await;
    assert_eq!((code, said.as_str()), (1, ""));
    assert_eq!(fetch(&cluster, &leader, "nonsense", &to).await.0, 126);

    // The file system is unmounted; the primary dies before it is back.
    let away = cluster.root().join("away");
    std::fs::rename(&place, &away).expect("they are on one file system");
    let unknown = fetch(&cluster, &leader, &last, &to);
    // And where nobody is there to ask.
    let mut nobody = Command::new(verb::program());
    let nobody = nobody.args(["wal-push", "--socket", "/nonexistent/socket", "pg_wal/x"]).output();
    let trouble = async {
        write(&cluster, 3).await;
        let page = until(&cluster, "a failure", |page| page["last_failure"].is_object()).await;
        let why = page["last_failure"]["why"].as_str().expect("a reason");
        assert!(why.contains("mounted") && page["waiting"].as_u64() > Some(0), "{page:#}");
        assert!(page["repositories"][0]["problem"].is_string(), "{page:#}");
        cluster.verb(&["archive", "check"]).await.refused_naming(75, &["repository"]);
        faults::kill(&[harness::fault::postmaster(&cluster.data(&leader))]);
        health::wait(&cluster, PATIENCE, "another leader", |_, rows| {
            let other = rows.iter().any(|row| row["role"] == "Leader" && row["member"] != leader.as_str());
            let led = rows.iter().any(|row| row["role"] == "leader" && row["member"] != leader.as_str());
            (!other && !led).then(|| format!("{rows:?}"))
        })
        .await;
        health::well(&cluster, PATIENCE).await;
        write(&cluster, 1).await;
        cluster.be_patient().await;
        // A clean stop does not wait for the store either.
        cluster.verb(&["switchover", "--force"]).await.ok();
        health::well(&cluster, PATIENCE).await;
        write(&cluster, 1).await;
    };
    let ((code, said), nobody, ()) = tokio::join!(unknown, nobody, trouble);
    let nobody = nobody.expect("the binary runs");
    assert_eq!(nobody.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&nobody.stderr).contains("no agent answers"), "{nobody:?}");
    assert_eq!(code, 126, "an outage is not the end of the WAL: {said}");
    assert!(said.contains("not a repository") || said.contains("mounted"), "{said}");

    std::fs::rename(&away, &place).expect("they are on one file system");
    until(&cluster, "nothing waits", |page| page["waiting"] == 0 && page["last_failure"].is_null()).await;
    let names = until_continuous(&place).await;
    assert!(!names.iter().any(|name| name.contains("conflict")), "{names:?}");
    for name in cluster.names() {
        assert!(!cluster.member(&name).join("data.unarchived").read_dir().is_ok_and(|mut kept| kept.next().is_some()));
    }
    let metrics = wire::http(cluster.api_port("a"), "GET", "/metrics", None, "").await.expect("it answers").body;
    assert!(metrics.contains("matriarch_archive_waiting_files{"), "{metrics}");
    let rows = practise(&cluster, &place).await;
    gone_on_with(&cluster, &section, &rows).await;
}

/// Whoever asks for one segment after the other finds the next one ready, with the same content.
async fn in_order(cluster: &Cluster, member: &str, last: WalName, to: &Path) {
    let WalName::Segment(last) = last else { panic!("{last} is no segment") };
    let back = |count: u64| Segment::at(last.timeline, Lsn(last.start(SIZE).0 - count * SIZE), SIZE).to_string();
    let folder = cluster.data(member).join("pg_wal/matriarch.ahead");
    for name in [back(2), back(1)] {
        assert_eq!(fetch(cluster, member, &name, to).await.0, 0);
    }
    until_there(&folder, &back(0)).await;
    assert_eq!(fetch(cluster, member, &back(0), to).await.0, 0);
    let own = std::fs::read(cluster.data(member).join("pg_wal").join(back(0))).expect("it is still there");
    assert!(std::fs::read(to).expect("it was fetched") == own, "{} came back changed", back(0));
    assert!(!folder.join(back(0)).exists(), "it was moved and not copied");
}

/// Another cluster is made of that, although the agent that is at it is killed: the next one goes on.
async fn gone_on_with(cluster: &Cluster, section: &Value, rows: &str) {
    let file = cluster.root().join("restore.yml");
    let mut slow = section.clone();
    slow["repositories"][0]["download_limit"] = json!(4 << 20);
    let restore = json!({ "restore": { "scope": "demo", "archive": slow } });
    std::fs::write(&file, matriarch_config::to_yaml(&restore)).expect("there is room");
    let name = file.display().to_string();
    let plan = Plan::new("begun-anew").beside().members(2).argument("--restore").argument(&name);
    let mut copy = plan.argument("--name").argument("copy").prepare();
    copy.spawn();
    let begun = std::time::Instant::now();
    let is_filled = |name: &String| {
        let folder = copy.data(name).with_extension("matriarch-new").join("base/1");
        std::fs::read_dir(folder).is_ok_and(|mut files| files.next().is_some())
    };
    let first = loop {
        if let Some(name) = copy.names().into_iter().find(is_filled) {
            break name;
        }
        assert!(begun.elapsed() < PATIENCE, "nobody restores: {}", copy.said());
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    // The other one would begin a restore of its own.
    let others = copy.names().into_iter().filter(|name| *name != first);
    let others: Vec<_> = others.flat_map(|name| faults::node_processes(&copy.member(&name))).collect();
    faults::freeze(&others);
    faults::kill(&[harness::fault::agent(&copy, &first)]);
    assert!(!copy.data(&first).join("PG_VERSION").exists(), "it was over before it could be cut off");
    let file = copy.member(&first).join("agent.log");
    let log = || std::fs::read_to_string(&file).unwrap_or_default();
    while !log().contains("a restore that was cut off goes on") {
        assert!(begun.elapsed() < PATIENCE * 2, "it does not go on: {}", log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    faults::thaw(&others);
    copy.ready().await;
    assert!(log().contains("restored: PostgreSQL recovers it now") && !log().contains("there=0"), "{}", log());

    assert_eq!(copy.ask(copy.read_write(), "SELECT count(*) FROM t").await.expect("it serves"), rows);
    let both = "SELECT count(*) = 1 FROM pg_stat_replication WHERE state = 'streaming'";
    arrives(&copy, &health::leader(&copy).await, both).await;
    // It archives beside the one it came from, under a name of its own.
    configure(&copy, section).await;
    write(&copy, 1).await;
    let page = until(&copy, "archived", |page| page["waiting"] == 0 && page["last_archived"].is_object()).await;
    let (own, theirs) = (page["incarnation"].as_str(), status(cluster).await["incarnation"].clone());
    let theirs = theirs.as_str().expect("it archives");
    assert!(own.is_some_and(|own| own.starts_with(theirs) && own.len() > theirs.len()), "{own:?} beside {theirs}");
    let place = Path::new(section["repositories"][0]["location"].as_str().expect("a directory"));
    until_there(&place.join("copy"), ".history").await;
    until(cluster, "the first one goes on", |page| page["last_failure"].is_null()).await;
}

/// What was archived in all this can be restored, and every member tells of the proof. How many rows there are.
async fn practise(cluster: &Cluster, place: &Path) -> String {
    let taken = cluster.verb(&["backup", "-o", "json"]).await.json();
    let backup = taken[0]["backup"].as_str().expect("it has a name").to_owned();
    cluster.ask(cluster.read_write(), "INSERT INTO t VALUES (0)").await.expect("the primary serves");
    let rows = cluster.ask(cluster.read_write(), "SELECT count(*) FROM t").await.expect("the primary serves");
    let last = cluster.ask(cluster.read_write(), "SELECT pg_walfile_name(pg_switch_wal())").await;
    let last = last.expect("the primary serves");
    until_there(place, &last).await;
    let query = format!("SELECT count(*) = {rows} AS complete FROM t");
    let drill = ["drill", "restore", "--at-least-apart", "1h", "--query", &query, "-o", "json"];
    let done = cluster.verb(&drill).await.json();
    assert_eq!(
        (done[0]["result"].as_str(), done[0]["restore"]["backup"].as_str()),
        (Some("passed"), Some(&*backup)),
        "{done}"
    );
    assert!(done[0]["restore"]["segments"].as_u64() > Some(0), "{done}");
    cluster.verb(&drill).await.refused_naming(75, &["the last drill was at", "nothing was done"]);
    let history = cluster.verb(&["drill", "history", "-o", "json"]).await.json();
    assert_eq!(history[0]["restore"], done[0]["restore"], "{history}");
    let table = cluster.verb(&["drill", "history"]).await;
    assert!(table.ok().contains(&backup) && table.out.contains("passed"), "{table}");
    let metrics = wire::http(cluster.api_port("a"), "GET", "/metrics", None, "").await.expect("it answers").body;
    assert!(metrics.contains("matriarch_drill_last_restore_passed{"), "{metrics}");
    rows
}

/// Makes a member one that gets its WAL from the archive alone.
async fn from_archive(cluster: &Cluster, name: &str) {
    let change = |local: &mut Value| {
        local["tags"] = json!({ "nostream": true });
        local["postgresql"]["parameters"]["wal_retrieve_retry_interval"] = json!("200ms");
    };
    cluster.edit(name, change).await;
    health::wait(cluster, PATIENCE, "it follows through the archive", |_, rows| {
        let row = rows.iter().find(|row| row["member"] == name)?;
        (row["state"] != "in archive recovery" || !row["problem"].is_null()).then(|| format!("{row}"))
    })
    .await;
}

/// Waits until a member answers with true.
async fn arrives(cluster: &Cluster, name: &str, statement: &str) {
    let begun = std::time::Instant::now();
    loop {
        let answer = cluster.ask(cluster.postgres_port(name), statement).await;
        if answer.as_deref().is_ok_and(|answer| answer == "t") {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "{statement} on {name}: {answer:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Waits until the names of a folder's objects fit.
async fn until_listed(archive: &Archive, folder: &str, fits: impl Fn(&[String]) -> bool) {
    let begun = std::time::Instant::now();
    loop {
        let listed = archive.repository().list(folder).await.expect("it answers");
        let names: Vec<String> = listed.into_iter().map(|entry| entry.name).collect();
        if fits(&names) {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "{names:#?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn open(section: &Value, incarnation: &str) -> Archive {
    let config = matriarch_config::DynamicConfig::from_json(&json!({ "archive": section })).expect("it is valid");
    let section: Section = config.archive.expect("it is there");
    let configured = matriarch_archive::configured::Configured::new(&section, "demo", PATIENCE).expect("it is valid");
    configured.open_all(incarnation).await.expect("it was begun").remove(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_refuses_another_content_and_survives_an_outage() {
    let cluster = Plan::new("bucket").members(2).start().await;
    let leader = health::leader(&cluster).await;
    let reader = cluster.names().into_iter().find(|name| *name != leader).expect("there are two");
    let dir = matriarch_testkit::dir::TestDir::new("bucket-store");
    let mut server = S3Server::start(&dir).expect("the server starts");
    let credentials = cluster.root().join("credentials");
    let text = format!("[default]\naws_access_key_id = {}\naws_secret_access_key = {}\n", KEYS.0, KEYS.1);
    std::fs::write(&credentials, text).expect("there is room");
    let section = json!({
        "repositories": [{
            "location": format!("s3://{BUCKET}/pre/fix"), "endpoint": server.endpoint(), "allow_http": true,
            "region": "us-east-1", "credentials": credentials,
        }],
        "compression": "lz4",
    });
    configure(&cluster, &section).await;
    cluster.verb(&["archive", "init"]).await.ok();
    table(&cluster).await;
    from_archive(&cluster, &reader).await;
    write(&cluster, 3).await;
    let page = until(&cluster, "archived", |page| page["waiting"] == 0 && page["last_archived"].is_object()).await;

    // Somebody else has written what only this primary may write.
    let incarnation = page["incarnation"].as_str().expect("it is known");
    let archive = open(&section, incarnation).await;
    cluster.ask(cluster.read_write(), "INSERT INTO t VALUES (0)").await.expect("the next segment begins");
    let current = cluster.ask(cluster.read_write(), "SELECT pg_walfile_name(pg_current_wal_lsn())").await;
    let current: WalName = current.expect("it serves").parse().expect("a segment");
    let name = archive.place().wal(&current);
    archive.put_new(Kind::Wal, &name, vec![7; 1000].into()).await.expect("nobody has");
    write(&cluster, 1).await;
    let page = until(&cluster, "a refusal", |page| page["last_failure"].is_object()).await;
    let why = page["last_failure"]["why"].as_str().expect("a reason");
    assert!(why.contains("split brain") && why.contains("conflict-"), "{why}");
    assert_eq!(archive.get(Kind::Wal, &name).await.expect("it stays"), vec![7; 1000]);
    // A person has compared both.
    archive.repository().delete(&name).await.expect("it answers");
    until(&cluster, "taken after all", |page| page["waiting"] == 0).await;

    // What fills no segment is there within moments, and what fills one no longer twice.
    cluster.ask(cluster.read_write(), "INSERT INTO t VALUES (-1)").await.expect("the primary serves");
    let end = cluster.ask(cluster.read_write(), "SELECT pg_current_wal_flush_lsn()").await.expect("it serves");
    let end: Lsn = end.parse().expect("a position");
    until(&cluster, "the tail is stored", |page| {
        let stored = page["repositories"][0]["tail"]["stored"].as_str().and_then(|stored| stored.parse().ok());
        stored.is_some_and(|stored: Lsn| stored >= end)
    })
    .await;
    until_listed(&archive, &archive.place().tail_folder(), |chunks| {
        let segments: std::collections::BTreeSet<&str> =
            chunks.iter().filter_map(|name| name.rsplit('/').nth(1)).collect();
        (1..=2).contains(&segments.len())
    })
    .await;

    // Dumps go there as well, by the same credentials.
    let taken = cluster.verb(&["dump", "-o", "json"]).await.json();
    assert_eq!(taken[0]["repository"], format!("s3://{BUCKET}/pre/fix"), "{taken}");
    assert!(cluster.verb(&["dump", "verify"]).await.ok().contains("are good"));
    cluster.verb(&["dump", "restore", "--database", "postgres=copied"]).await.ok();
    // What others in this environment are is nothing to a repository with credentials of its own.
    let file = cluster.root().join("archive.yml");
    std::fs::write(&file, matriarch_config::to_yaml(&json!({ "archive": section }))).expect("there is room");
    let words = ["dump", "list", "--archive", &file.display().to_string(), "--scope", "demo", "-o", "json"];
    let others =
        [("AWS_SESSION_TOKEN", "of-somebody-else"), ("AWS_ACCESS_KEY_ID", "a"), ("AWS_SKIP_SIGNATURE", "true")];
    let listed = verb::run(cluster.root(), cluster.root(), &words, &others).await.json();
    assert_eq!(listed.as_array().map(Vec::len), Some(1), "{listed}");

    // The member that reads the archive has all of it, and goes on answering while there is no archive.
    arrives(&cluster, &reader, "SELECT count(*) > 15000 FROM t").await;
    server.stop();
    write(&cluster, 2).await;
    until(&cluster, "a failure", |page| page["last_failure"].is_object() && page["waiting"].as_u64() > Some(0)).await;
    cluster.ask(cluster.postgres_port(&reader), "SELECT count(*) FROM t").await.expect("it answers");
    let before =
        cluster.ask(cluster.postgres_port(&reader), "SELECT pg_postmaster_start_time()").await.expect("it answers");
    server.run().expect("it starts again");
    until(&cluster, "nothing waits", |page| page["waiting"] == 0 && page["last_failure"].is_null()).await;
    let listed = archive.repository().list(&archive.place().wal_of(1)).await.expect("it answers");
    let last = |name: &str| name.rsplit('/').next().unwrap_or_default().to_owned();
    let mut names: Vec<String> = listed.iter().map(|entry| last(&entry.name)).collect();
    names.retain(|name| !name.contains("conflict"));
    assert_continuous(&names);
    arrives(&cluster, &reader, "SELECT count(*) > 30000 FROM t").await;
    let after =
        cluster.ask(cluster.postgres_port(&reader), "SELECT pg_postmaster_start_time()").await.expect("it answers");
    assert_eq!(before, after, "an outage of the archive has ended a standby");
}

/// The names of all backups, and from when to when each was taken.
async fn backups(cluster: &Cluster) -> Vec<(String, String, String)> {
    let list = cluster.verb(&["backup", "list", "-o", "json"]).await.json();
    let text = |row: &Value, key: &str| row[key].as_str().expect("a text").to_owned();
    let rows = list.as_array().expect("a list").iter();
    rows.map(|row| (text(row, "backup"), text(row, "start_time"), text(row, "stop_time"))).collect()
}

/// Changes one key of the archive's section.
async fn set(cluster: &Cluster, key: &str, value: &Value) {
    cluster.verb(&["config", "set", &format!("archive.{key}={value}")]).await.ok();
}

/// Who is tagged is passed over, by a schedule of every second and by hand; when nobody is left, that is told.
async fn passed_over(cluster: &Cluster) {
    let leader = health::leader(cluster).await;
    let replicas: Vec<String> = cluster.names().into_iter().filter(|name| *name != leader).collect();
    for (tagged, next) in [(&replicas[0], &replicas[1]), (&replicas[1], &leader)] {
        cluster.tag(tagged, json!({ "nobackup": true })).await;
        until(cluster, "another member's turn", |page| page["backups"]["last"]["member"] == next.as_str()).await;
    }
    let refused = cluster.verb(&["backup", "--from", "standby"]).await;
    refused.refused_naming(69, &[&format!("{} are tagged `nobackup`", replicas.join(", "))]);
    cluster.tag(&leader, json!({ "nobackup": true })).await;
    // One that was begun before goes on, and is what is told then.
    let nobody = |page: &Value| page["backups"]["blocked"].is_string() && page["backups"]["running"].is_null();
    let page = until(cluster, "nobody is left", nobody).await;
    let all = format!("{} are tagged `nobackup`", cluster.names().join(", "));
    assert_eq!(page["backups"]["blocked"], all, "{page:#}");
    // Another agent may answer, a moment behind.
    let begun = std::time::Instant::now();
    loop {
        let said = cluster.verb(&["archive", "status"]).await;
        if said.ok().contains("no member may take it") {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "{said}");
    }
    for name in [&replicas[0], &replicas[1], &leader] {
        cluster.tag(name, json!({})).await;
    }
    let by_hand = cluster.verb(&["backup", "--from", "standby", "-o", "json"]).await.json();
    assert_eq!(by_hand[0]["from_standby"], true, "{by_hand}");
}

/// What `up` starts with: a repository that a first backup goes to and comes back from, and backups by a schedule.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_of_up_is_backed_up_by_hand_and_by_a_schedule() {
    let cluster = Plan::new("scheduled").archive().start().await;
    let page = until(&cluster, "the repository is open", |page| page["repositories"][0]["open"] == true).await;
    assert_eq!(page["members"].as_array().map(Vec::len), Some(3), "{page:#}");
    let begun = until(&cluster, "the daily backup has a time", |page| page["backups"]["next"].is_string()).await;
    assert_eq!(begun["backups"]["schedule"], "full @daily UTC", "{begun:#}");
    let rows = health::rows(&cluster).await.expect("somebody answers");
    assert!(rows.iter().all(|row| row["pending_restart"] != true), "it archives from the first start: {rows:?}");
    table(&cluster).await;
    let by_hand = cluster.verb(&["backup", "-o", "json"]).await.json();
    assert_eq!(by_hand[0]["from_standby"], false, "{by_hand}");
    cluster.ask(cluster.read_write(), "INSERT INTO t VALUES (1)").await.expect("the primary serves");
    let end = cluster.ask(cluster.read_write(), "SELECT pg_current_wal_flush_lsn()").await.expect("it serves");
    let end: Lsn = end.parse().expect("a position");
    until(&cluster, "the tail is stored", |page| {
        let stored = page["repositories"][0]["tail"]["stored"].as_str().and_then(|stored| stored.parse().ok());
        stored.is_some_and(|stored: Lsn| stored >= end)
    })
    .await;
    let restored = cluster.root().join("restored").display().to_string();
    let plan = cluster.verb(&["restore", &restored, "--dry-run", "-o", "json"]).await.json();
    assert_eq!(plan["backup"], by_hand[0]["backup"], "{plan}");

    // Due again and again, and never two at a time, by whichever member.
    set(&cluster, "retention", &Value::Null).await;
    set(&cluster, "schedule", &json!({ "full": "* * * * * *" })).await;
    let begun = std::time::Instant::now();
    let mut taken = backups(&cluster).await;
    while taken.len() < 3 {
        assert!(begun.elapsed() < PATIENCE, "{taken:?} {:#}", status(&cluster).await["backups"]);
        tokio::time::sleep(Duration::from_millis(300)).await;
        taken = backups(&cluster).await;
    }
    taken.sort_by(|one, other| one.1.cmp(&other.1));
    assert!(taken.is_sorted_by(|one, other| one.2 <= other.1), "they overlap: {taken:?}");
    let page = until(&cluster, "it is told", |page| page["backups"]["last"]["from_standby"] == true).await;
    let last = &page["backups"]["last"];
    assert_ne!(last["member"], page["leader"], "a replica spares the primary: {page:#}");
    let metrics = wire::http(cluster.api_port("a"), "GET", "/metrics", None, "").await.expect("it answers").body;
    assert!(metrics.contains("matriarch_backup_last_timestamp_seconds{"), "{metrics}");

    // What is not kept goes with the next one.
    set(&cluster, "retention", &json!({ "keep": 2 })).await;
    let page = until(&cluster, "old ones expire", |page| page["backups"]["last"]["expired"].as_u64() >= Some(1)).await;
    assert!(cluster.verb(&["archive", "status"]).await.ok().contains("Last backup:"), "{page:#}");
    passed_over(&cluster).await;

    // A failure is told, and tried again later; a schedule that is changed begins anew.
    let (place, away) = (cluster.path().join("archive"), cluster.root().join("away"));
    std::fs::rename(&place, &away).expect("they are on one file system");
    let page = until(&cluster, "a failure", |page| page["backups"]["failures"].as_u64() >= Some(1)).await;
    let failure = &page["backups"]["last_failure"];
    assert!(failure["why"].as_str().is_some_and(|why| why.contains("archive")), "{page:#}");
    let due = |page: &Value| page["backups"]["next"].as_str().and_then(|next| next.parse::<jiff::Timestamp>().ok());
    let at = failure["at"].as_str().and_then(|at| at.parse::<jiff::Timestamp>().ok()).expect("a time");
    assert!(due(&page).is_some_and(|due| due.duration_since(at).as_secs() >= 59), "{page:#}");
    std::fs::rename(&away, &place).expect("they are on one file system");
    let before = page["backups"]["last"]["backup"].clone();
    set(&cluster, "schedule", &json!({ "full": "*/2 * * * * *" })).await;
    until(&cluster, "another one", |page| {
        page["backups"]["last"]["backup"] != before && page["backups"]["failures"] == 0
    })
    .await;
    set(&cluster, "schedule", &json!({ "full": "@yearly" })).await;
    until(&cluster, "none is under way", |page| {
        page["backups"]["running"].is_null() && page["backups"]["schedule"] == "full @yearly UTC"
    })
    .await;
    let kept = backups(&cluster).await;
    assert!(kept.len() <= 3, "two, and one whose retention was not reached: {kept:?}");
    dumps::by_a_schedule(&cluster).await;

    // Between full ones, what has changed.
    set(&cluster, "schedule", &json!({ "full": "@yearly", "incremental": "* * * * * *" })).await;
    let page = until(&cluster, "an incremental one", |page| page["backups"]["last"]["incremental"] == true).await;
    let taken = page["backups"]["last"]["backup"].as_str().expect("a name").to_owned();
    assert!(cluster.verb(&["archive", "status"]).await.ok().contains("(incremental)"), "{page:#}");
    set(&cluster, "schedule", &Value::Null).await;
    let list = cluster.verb(&["backup", "list", "-o", "json"]).await.json();
    let one = list.as_array().expect("a list").iter().find(|row| row["backup"] == *taken).expect("it is kept");
    assert_eq!((one["kind"].as_str(), one["parent"].is_string()), (Some("incremental"), true), "{one}");
}
