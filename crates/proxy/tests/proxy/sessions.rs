//! Ordinary sessions on both ports, against a real primary and a real replica cloned through the proxy.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use matriarch_proxy::ProxyConfig;
use matriarch_testkit::dir::TestDir;
use matriarch_testkit::ports::Port;
use matriarch_testkit::process::Running;
use matriarch_testkit::server::Server;
use matriarch_testkit::{postgres, user};
use rustix::process::{Pid, Signal, kill_process};

use crate::router::{Router, backend, becomes, connect, until, value};
use crate::wire::{Fake, LIMIT, dial, exactly, greeting, packet, rest, send, startup};

/// Clones a replica through the read-write port, which takes a replication startup.
async fn clone_replica(dir: &TestDir, router: &Router) -> (Running, Port) {
    let bins = &postgres::any().bins;
    let data = dir.join("replica");
    let mut clone = user::command(bins.join("pg_basebackup"));
    clone.current_dir(dir.path()).arg("-D").arg(&data).args(["-h", "127.0.0.1", "-U", "postgres", "-c", "fast"]);
    clone.args(["-R", "--no-sync", "-X", "stream", "-p"]).arg(router.rw.port().to_string());
    let output = tokio::task::spawn_blocking(move || clone.output().unwrap()).await.unwrap();
    assert!(output.status.success(), "pg_basebackup through the proxy: {}", String::from_utf8_lossy(&output.stderr));
    let port = Port::reserve();
    let mut start = user::command(bins.join("postgres"));
    start.current_dir(&data).arg("-D").arg(&data).arg("-p").arg(port.to_string());
    let running = Running::start(start, &data.with_extension("log")).unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while connect(port.number()).await.is_err() {
        assert!(Instant::now() < deadline, "the replica did not start:\n{}", running.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    (running, port)
}

/// Runs psql with a connection string; returns what it printed.
async fn psql(dsn: String, sql: &'static str) -> Result<String, String> {
    let mut command = Command::new(postgres::any().bins.join("psql"));
    command.args(["-XAtq", "-c", sql, &dsn]).stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

#[tokio::test(flavor = "multi_thread")]
async fn both_ports_reach_the_right_member_and_libpq_habits_work() {
    let dir = TestDir::new("proxy-ports");
    let primary = Server::create(postgres::any(), &dir, "primary", "").await.unwrap();
    let router = Router::start(ProxyConfig::default()).await;
    router.primary(backend("a", primary.port()));
    let (_replica, port) = clone_replica(&dir, &router).await;
    router.route(|r| r.replicas.push(backend("b", port.number())));
    assert_eq!(router.ask(router.rw, "select pg_is_in_recovery()").await, "f");
    assert_eq!(router.ask(router.ro, "select pg_is_in_recovery()").await, "t");

    let (rw, ro) = (router.rw.port(), router.ro.port());
    for (attributes, in_recovery) in
        [("read-write", "f"), ("primary", "f"), ("standby", "t"), ("read-only", "t"), ("prefer-standby", "t")]
    {
        for ports in [format!("{rw},{ro}"), format!("{ro},{rw}")] {
            let dsn = format!(
                "host=127.0.0.1,127.0.0.1 port={ports} user=postgres dbname=postgres target_session_attrs={attributes}"
            );
            assert_eq!(psql(dsn.clone(), "select pg_is_in_recovery()").await, Ok(in_recovery.into()), "{dsn}");
        }
    }
    // A refusal of PostgreSQL's own reaches the client as it is.
    let dsn = format!("host=127.0.0.1 port={rw} user=postgres dbname=nowhere");
    assert!(psql(dsn, "select 1").await.unwrap_err().contains("database \"nowhere\" does not exist"));

    // Promotion: sessions of both ports that b or a served end, and b serves the read-write port.
    let reader = router.connect(router.ro).await.unwrap();
    let writer = router.connect(router.rw).await.unwrap();
    value(&connect(port.number()).await.unwrap(), "select pg_promote()").await;
    router.route(|r| {
        r.generation += 1;
        r.primary = Some(backend("b", port.number()));
        r.replicas = vec![];
    });
    for client in [reader, writer] {
        let deadline = Instant::now() + LIMIT;
        while !client.is_closed() && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(client.is_closed());
    }
    assert_eq!(router.ask(router.rw, "select current_setting('port')").await, port.to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unix_socket_is_used_and_a_stale_one_does_no_harm() {
    let dir = TestDir::new("proxy-unix");
    let sockets = dir.create("sockets");
    let settings = format!("unix_socket_directories = '{}'", sockets.display());
    let primary = Server::create(postgres::any(), &dir, "primary", &settings).await.unwrap();
    let router = Router::start(ProxyConfig::default()).await;
    let mut local = backend("a", primary.port());
    local.unix_socket = Some(sockets.join(format!(".s.PGSQL.{}", primary.port())));
    router.primary(local.clone());
    let peer = "select coalesce(inet_client_addr()::text, 'unix')";
    assert_eq!(router.ask(router.rw, peer).await, "unix");
    local.unix_socket = Some(sockets.join(".s.PGSQL.1"));
    router.primary(local);
    assert_eq!(router.ask(router.rw, peer).await, "127.0.0.1/32");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_request_ends_only_the_statement_it_names() {
    let dir = TestDir::new("proxy-cancel");
    let primary = Server::create(postgres::any(), &dir, "primary", "").await.unwrap();
    let router = Router::start(ProxyConfig::default()).await;
    router.primary(backend("a", primary.port()));
    let (one, two) = (router.connect(router.rw).await.unwrap(), router.connect(router.rw).await.unwrap());
    let cancel = one.cancel_token();
    let watcher = connect(primary.port()).await.unwrap();
    let under_way = "select count(*) from pg_stat_activity where query ~ 'pg_(sleep|advisory_lock)' \
                     and state = 'active' and pid <> pg_backend_pid()";
    // Under way until it is let go.
    watcher.batch_execute("select pg_advisory_lock(1)").await.unwrap();
    let other = tokio::spawn(async move { two.simple_query("select pg_advisory_lock(1)").await });
    let victim = tokio::spawn(async move { one.simple_query("select pg_sleep(600)").await });
    until(&watcher, under_way, "2").await;
    cancel.cancel_query(tokio_postgres::NoTls).await.unwrap();
    let error = victim.await.unwrap().unwrap_err();
    assert_eq!(error.code().unwrap().code(), "57014");
    until(&watcher, under_way, "1").await;
    watcher.batch_execute("select pg_advisory_unlock(1)").await.unwrap();
    other.await.unwrap().unwrap();
    becomes(&router.stats.read_write.cancels, 1).await;
    until(&watcher, under_way, "0").await;

    // psql does the same at Ctrl-C.
    let mut command = Command::new(postgres::any().bins.join("psql"));
    command.args(["-XAtq", "-c", "select pg_sleep(60)"]).stderr(Stdio::piped()).stdin(Stdio::null());
    command.arg(format!("host=127.0.0.1 port={} user=postgres dbname=postgres", router.rw.port()));
    let psql = command.spawn().unwrap();
    until(&watcher, under_way, "1").await;
    kill_process(Pid::from_raw(psql.id() as i32).unwrap(), Signal::INT).unwrap();
    let output = tokio::task::spawn_blocking(move || psql.wait_with_output().unwrap()).await.unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("canceling statement due to user request"));
}

#[tokio::test(flavor = "multi_thread")]
async fn cancel_keys_of_256_bytes_find_their_member_and_unknown_ones_find_all() {
    let router = Router::start(ProxyConfig::default()).await;
    let keys = [[vec![0, 0, 0, 1], vec![1; 256]].concat(), [vec![0, 0, 0, 1], vec![2; 256]].concat()];
    let (a, mut at_a) = Fake::greeting(keys[0].clone()).await;
    let (b, mut at_b) = Fake::greeting(keys[1].clone()).await;
    router.route(|r| r.replicas = vec![backend("a", a.port()), backend("b", b.port())]);
    let mut sessions = Vec::new();
    for _ in 0..4 {
        let mut session = send(router.ro, &startup()).await;
        exactly(&mut session, greeting(&keys[0]).len()).await;
        sessions.push(session);
    }
    assert_eq!((a.count(), b.count()), (2, 2), "spread evenly");
    // On whichever port a cancel request arrives, its key says where it belongs.
    for port in [router.ro, router.rw] {
        rest(&mut send(port, &packet(80_877_102, &keys[1])).await).await;
        assert_eq!(at_b.recv().await.unwrap(), keys[1]);
    }
    assert!(at_a.try_recv().is_err());
    rest(&mut send(router.ro, &packet(80_877_102, &[9; 8])).await).await;
    assert_eq!((at_a.recv().await.unwrap(), at_b.recv().await.unwrap()), (vec![9; 8], vec![9; 8]));
    // After the session its key is unknown again.
    drop(sessions);
    becomes(&router.stats.read_only.active, 0).await;
    rest(&mut send(router.ro, &packet(80_877_102, &keys[1])).await).await;
    assert_eq!(at_a.recv().await.unwrap(), keys[1]);
    drop(dial(router.ro).await);
}

/// Sessions end when a planned switchover begins, but each between two statements and outside any transaction.
#[tokio::test(flavor = "multi_thread")]
async fn a_switchover_that_begins_cuts_no_statement_off() {
    let dir = TestDir::new("proxy-hold");
    let primary = Server::create(postgres::any(), &dir, "primary", "").await.unwrap();
    let router = Router::start(ProxyConfig::default()).await;
    router.primary(backend("a", primary.port()));
    let (idle, busy, open) = (
        router.connect(router.rw).await.unwrap(),
        router.connect(router.rw).await.unwrap(),
        router.connect(router.rw).await.unwrap(),
    );
    open.batch_execute("begin; create table kept ()").await.unwrap();
    // Under way until it is let go.
    let direct = connect(primary.port()).await.unwrap();
    direct.batch_execute("select pg_advisory_lock(1)").await.unwrap();
    let statement = tokio::spawn(async move {
        let answer = value(&busy, "select 7 from pg_advisory_lock(1)").await;
        (answer, busy)
    });
    let under_way = "select count(*) from pg_stat_activity where query like 'select 7%' and state = 'active'";
    until(&direct, under_way, "1").await;
    router.route(|r| r.hold = true);
    ends(&idle).await;
    open.batch_execute("alter table kept add column x int").await.unwrap();
    assert!(!open.is_closed(), "its transaction is still open");
    direct.batch_execute("select pg_advisory_unlock(1)").await.unwrap();
    let (answer, busy) = statement.await.unwrap();
    assert_eq!(answer, "7", "the statement under way is answered");
    ends(&busy).await;
    open.batch_execute("commit").await.unwrap();
    ends(&open).await;

    let held = tokio::spawn({
        let to = router.rw.port();
        async move { value(&connect(to).await.unwrap(), "select count(*) from kept").await }
    });
    router.route(|r| r.hold = false);
    assert_eq!(held.await.unwrap(), "0", "what was committed is there");
    let after = router.connect(router.rw).await.unwrap();
    assert_eq!(value(&after, "select 1").await, "1");
    assert!(!after.is_closed());
}

async fn ends(client: &tokio_postgres::Client) {
    let deadline = Instant::now() + LIMIT;
    while !client.is_closed() {
        assert!(Instant::now() < deadline, "the session goes on");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
