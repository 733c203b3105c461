//! Rubbish on every port, wrong credentials, files that are not ours, and disks that are full: a clear message, and nothing
//! harmed.

use std::path::{Path, PathBuf};

use matriarch_testkit::disk::{Ballast, SmallDisk, garbage};
use matriarch_testkit::process::eventually;
use matriarch_testkit::{faults, user};

use crate::harness::fault::postmaster;
use crate::harness::{Cluster, PATIENCE, Plan, health, verb, wire};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rubbish_on_every_port() {
    let cluster = Cluster::start("rubbish").await;
    cluster.ask(cluster.read_write(), "create table kept as select 42 as answer").await.expect("writable");
    let before: Vec<i32> = cluster.names().iter().map(|name| postmaster(&cluster.data(name))).collect();
    let http = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec();
    // A startup packet that claims a length and ends early; one that claims too much; a cancel for nobody.
    let half = vec![0, 0, 0, 80, 0, 3, 0, 0, b'u', b's'];
    let huge = vec![0x7f, 0xff, 0xff, 0xff, 0, 3, 0, 0];
    let cancel = vec![0, 0, 0, 16, 4, 210, 22, 46, 0, 0, 0, 1, 0, 0, 0, 2];
    let ports: Vec<u16> = [cluster.read_write(), cluster.read_only()]
        .into_iter()
        .chain(cluster.names().iter().map(|name| cluster.api_port(name)))
        .collect();
    for (seed, port) in (1..).zip(ports) {
        for rubbish in [garbage(seed, 5000), http.clone(), half.clone(), huge.clone(), cancel.clone(), Vec::new()] {
            if let Err(error) = wire::throw(port, &rubbish, true).await {
                panic!("port {port}, {} bytes: {error:#}", rubbish.len());
            }
        }
    }
    let plain = wire::throw(cluster.read_write(), &http, false).await.expect("it answers or closes");
    let plain = String::from_utf8_lossy(&plain).into_owned();
    assert!(plain.contains("400") && plain.contains("this is a PostgreSQL port"), "{plain:?}");
    answers_oddities(&cluster).await;
    refuses_strangers(&cluster).await;
    health::well(&cluster, PATIENCE).await;
    let after: Vec<i32> = cluster.names().iter().map(|name| postmaster(&cluster.data(name))).collect();
    assert_eq!(after, before, "no PostgreSQL was restarted");
    assert_eq!(cluster.ask(cluster.read_write(), "select answer from kept").await.unwrap(), "42");
}

async fn answers_oddities(cluster: &Cluster) {
    let (port, token) = (cluster.api_port("a"), cluster.token());
    let ask = |method: &'static str, path: &'static str, body: &'static str| {
        let token = token.clone();
        async move { wire::http(port, method, path, Some(&token), body).await.expect("an HTTP answer") }
    };
    assert_eq!(ask("GET", "/no/such/thing", "").await.status, 404);
    assert_eq!(ask("DELETE", "/patroni", "").await.status, 405);
    let broken = ask("PATCH", "/config", "{\"ttl\": ").await;
    assert!((400..500).contains(&broken.status) && broken.body.contains("remedy"), "{broken:?}");
    let unknown = ask("PATCH", "/config", "{\"tll\": 5}").await;
    assert!((400..500).contains(&unknown.status) && unknown.body.contains("ttl"), "{unknown:?}");
    let list = ask("POST", "/switchover", "[1, 2]").await;
    assert!((400..500).contains(&list.status), "{list:?}");
}

async fn refuses_strangers(cluster: &Cluster) {
    for name in cluster.names() {
        let port = cluster.api_port(&name);
        for (token, status) in [(None, 401), (Some("wrong"), 401)] {
            for path in ["/restart", "/reinitialize", "/switchover", "/failover", "/reload"] {
                let answer = wire::http(port, "POST", path, token, "{}").await.expect("an HTTP answer");
                assert!(answer.status == status || answer.status == 403, "{path}: {answer:?}");
                assert!(answer.body.contains("credentials") && answer.body.contains("Bearer"), "{answer:?}");
            }
        }
        // Reads are open.
        assert_eq!(wire::http(port, "GET", "/patroni", None, "").await.expect("an HTTP answer").status, 200);
    }
    let stranger = cluster.root().join("stranger");
    std::fs::create_dir_all(&stranger).expect("it is ours");
    let text = std::fs::read_to_string(cluster.path().join("cluster.json")).expect("`up` has written it");
    std::fs::write(stranger.join("cluster.json"), text.replace(&cluster.token(), "wrong")).expect("it is ours");
    let dir = stranger.display().to_string();
    let denied = verb::run(cluster.root(), &cluster.tmp, &["--dir", &dir, "restart", "a", "--force"], &[]).await;
    denied.refused(77);
    assert!(denied.out.contains("credentials"), "{denied}");

    for port in [cluster.read_write(), cluster.read_only()] {
        let dsn = cluster.dsn(port).replace(&cluster.password(), "wrong");
        let error = format!("{:#}", wire::ask(&dsn, "select 1").await.expect_err("the password is wrong"));
        assert!(error.contains("password authentication failed for user \"postgres\""), "PostgreSQL's words: {error}");
        let dsn = cluster.dsn(port).replace("dbname=postgres", "dbname=nowhere");
        let error = format!("{:#}", wire::ask(&dsn, "select 1").await.expect_err("there is no such database"));
        assert!(error.contains("database \"nowhere\" does not exist"), "PostgreSQL's words: {error}");
    }
}

/// An agent that finds another cluster's data in its directory leaves it alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_data_directory() {
    let mut cluster = Cluster::start("foreign").await;
    let victim = health::replicas(&cluster).await.remove(0);
    cluster.stop();
    let data = cluster.data(&victim);
    let own = data.with_extension("own");
    std::fs::rename(&data, &own).expect("it is ours");
    let initdb = matriarch_testkit::postgres::any().bins.join("initdb");
    let made =
        user::command(initdb).args(["-U", "postgres", "-A", "trust", "-D"]).arg(cluster.tmp.join("data")).output();
    let made = made.expect("initdb runs");
    assert!(made.status.success(), "{made:?}");
    std::fs::write(cluster.tmp.join("data/precious"), "theirs").expect("it is ours");
    std::fs::rename(cluster.tmp.join("data"), &data).expect("it is ours");

    cluster.spawn();
    health::well_but(&cluster, &victim, PATIENCE).await;
    says(&cluster, &victim, &["belongs to another cluster", "system identifier"]).await;
    assert_eq!(std::fs::read_to_string(data.join("precious")).expect("it was left alone"), "theirs");
    assert_eq!(faults::postmaster(&data), None, "it is not started");
    cluster.ask(cluster.read_write(), "create table still_writable()").await.expect("the others go on");

    // Put right, it comes back by itself.
    std::fs::rename(&data, cluster.tmp.join("theirs")).expect("it is ours");
    std::fs::rename(&own, &data).expect("it is ours");
    health::well(&cluster, PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_none() {
    let mut cluster = Plan::new("store").members(1).start().await;
    cluster.stop();
    let store = cluster.path().join("store.db");
    let whole = std::fs::read(&store).expect("it is ours");
    let mut truncated = whole.clone();
    truncated.truncate(whole.len() / 2 + 100);
    let other = cluster.root().join("other.db");
    let connection = rusqlite::Connection::open(&other).expect("it can be made");
    connection.execute_batch("create table theirs (x); insert into theirs values (1)").expect("it can be written");
    drop(connection);
    let wrongs = [
        ("not SQLite", b"this is no database, only some text that somebody saved here\n".repeat(40)),
        ("not ours", std::fs::read(&other).expect("it is ours")),
        ("truncated", truncated),
    ];
    for (what, bytes) in wrongs {
        for extra in ["store.db-wal", "store.db-shm"] {
            let _ = std::fs::remove_file(cluster.path().join(extra));
        }
        std::fs::write(&store, &bytes).expect("it is ours");
        says_what_is_wrong(&mut cluster, what, &store).await;
        assert_eq!(std::fs::read(&store).expect("it is there"), bytes, "{what}: the file was changed");
    }
}

async fn says_what_is_wrong(cluster: &mut Cluster, what: &str, store: &Path) {
    cluster.spawn();
    let status = cluster.process().wait(PATIENCE);
    let said = cluster.said();
    assert!(!status.success(), "{what}: `up` was content: {said}");
    assert!(said.contains(&store.display().to_string()), "{what}: the file is not named: {said}");
    let remedies = ["restore", "remove", "move", "name another", "choose another"];
    assert!(remedies.iter().any(|word| said.contains(word)), "{what}: no remedy: {said}");
    assert!(faults::processes_of(&cluster.path()).is_empty(), "{what}: something still runs");
    let address = format!("sqlite:{}", store.display());
    let list = verb::run(cluster.root(), &cluster.tmp, &["--store", &address, "--scope", "demo", "list"], &[]).await;
    assert!(list.code != 0 && list.err.contains(&store.display().to_string()), "{what}: {list}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ports_in_use() {
    let mut cluster = Plan::new("ports").members(1).prepare();
    let bind = |port| std::net::TcpListener::bind(("127.0.0.1", port)).expect("the port is free");
    for port in [cluster.read_write(), cluster.read_only()] {
        let _taken = bind(port);
        cluster.spawn();
        assert!(!cluster.process().wait(PATIENCE).success(), "{}", cluster.said());
        let said = cluster.said();
        assert!(said.contains(&format!("port {port}")) && said.contains("--port"), "{said}");
        assert!(!cluster.data("a").exists(), "nothing was begun");
    }
    cluster.up().await;
    cluster.stop();
    // A known cluster keeps its ports.
    for port in [cluster.read_write(), cluster.api_port("a"), cluster.postgres_port("a")] {
        let _taken = bind(port);
        cluster.spawn();
        assert!(!cluster.process().wait(PATIENCE).success(), "{}", cluster.said());
        let said = cluster.said();
        assert!(said.contains(&format!("port {port}")) && said.contains("cluster.json"), "{said}");
    }
    cluster.up().await;
}

/// Two members are whole while the third has no room; with room again it comes back by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_space_for_a_replica() {
    let mut cluster = Plan::new("nospace").prepare();
    // The second member: which of them leads is settled by a race, so it may be the leader too.
    let member = cluster.member("b");
    std::fs::create_dir_all(&member).expect("it is ours");
    let Some(disk) = SmallDisk::mount(&member, 400).expect("tmpfs can be tried") else { return };
    cluster.up().await;
    if health::leader(&cluster).await == "b" {
        cluster.be_patient().await;
        cluster.verb(&["switchover", "--force"]).await.ok();
        health::well(&cluster, PATIENCE).await;
    }
    cluster.ask(cluster.read_write(), "create table filler (id bigint, text text)").await.expect("writable");
    let ballast = Ballast::fill(disk.path(), 400 << 20).expect("it can be filled");
    for round in 0..4 {
        let fill = format!("insert into filler select i, repeat('x', 500) from generate_series(1, 20000) i -- {round}");
        cluster.ask(cluster.read_write(), &fill).await.expect("the others acknowledge");
    }
    health::well_but(&cluster, "b", PATIENCE).await;
    // Its PostgreSQL's words, or those of its agent, which has something to write as well.
    says(&cluster, "b", &["free space"]).await;
    drop(ballast);
    health::well(&cluster, PATIENCE).await;
    cluster.stop();
    drop(disk);
}

/// Waits until a member tells what is wrong with it.
async fn says(cluster: &Cluster, member: &str, words: &[&str]) {
    health::wait(cluster, PATIENCE, "a clear message", |_, rows| {
        let row = rows.iter().find(|row| row["member"] == member)?;
        let problem = row["problem"].as_str().unwrap_or_default();
        let missing = words.iter().find(|word| !problem.contains(**word))?;
        Some(format!("{member} does not say '{missing}'"))
    })
    .await;
}

/// A store without room keeps nobody from reading and loses nothing; with room again the cluster goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_space_for_the_store() {
    let mut cluster = Plan::new("fullstore").members(1).prepare();
    let dir: PathBuf = cluster.path();
    let Some(disk) = SmallDisk::mount(&dir, 8).expect("tmpfs can be tried") else { return };
    // Only the store is on it; PostgreSQL and the logs have room.
    let elsewhere = cluster.root().join("elsewhere");
    std::fs::create_dir(&elsewhere).expect("it is ours");
    std::os::unix::fs::symlink(&elsewhere, cluster.member("a")).expect("it is ours");
    cluster.up().await;
    cluster.ask(cluster.read_write(), "create table kept as select 42 as answer").await.expect("writable");
    let ballast = Ballast::fill(disk.path(), 8 << 20).expect("it can be filled");
    says(&cluster, "a", &["the store takes no changes", "no space left", "free space"]).await;
    // Longer than a lease lives: PostgreSQL has been stopped, and nobody shouts about it many times a second.
    let log = cluster.member("a").join("agent.log");
    let lines = || std::fs::read_to_string(&log).unwrap_or_default().lines().count();
    let before = lines();
    tokio::time::sleep(std::time::Duration::from_secs(8)).await;
    assert!(lines() < before + 50, "the log is flooded");
    drop(ballast);
    health::well(&cluster, PATIENCE).await;
    eventually("it answers again", PATIENCE, || {
        std::net::TcpStream::connect(("127.0.0.1", cluster.read_write())).is_ok()
    });
    assert_eq!(cluster.ask(cluster.read_write(), "select answer from kept").await.unwrap(), "42");
    cluster.stop();
    drop(disk);
}
