//! Sessions encrypted from end to end; PostgreSQL of Debian, because the wheels have no TLS.

use std::process::{Command, Stdio};

use matriarch_proxy::ProxyConfig;
use matriarch_testkit::dir::TestDir;
use matriarch_testkit::postgres::{self, Installation};
use matriarch_testkit::server::Server;
use matriarch_testkit::user;
use rustix::process::{Pid, Signal, kill_process};

use crate::router::{Router, backend, connect, until};
use crate::wire::{LIMIT, exactly, packet, rest, send};

/// A PostgreSQL with a self-signed certificate, or `None` where neither PostgreSQL 15 nor openssl is to be had.
async fn server(dir: &TestDir) -> Option<Server> {
    let bins = postgres::bins(15)?;
    let installation = postgres::all_majors().iter().find(|i: &&Installation| i.bins == bins)?;
    let (key, certificate) = (dir.join("server.key"), dir.join("server.crt"));
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost", "-keyout"]);
    let made = openssl.arg(&key).arg("-out").arg(&certificate).stderr(Stdio::null()).status();
    if !made.is_ok_and(|s| s.success()) {
        matriarch_testkit::skipped("no openssl to make a certificate with");
        return None;
    }
    user::give(&key).unwrap();
    user::give(&certificate).unwrap();
    let settings = format!("ssl = on\nssl_key_file = '{}'\nssl_cert_file = '{}'", key.display(), certificate.display());
    Some(Server::create(installation, dir, "primary", &settings).await.unwrap())
}

fn psql(port: u16, mode: &str, sql: &str) -> Command {
    let mut command = Command::new("/usr/lib/postgresql/15/bin/psql");
    command.args(["-XAtq", "-c", sql]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.arg(format!("host=127.0.0.1 port={port} user=postgres dbname=postgres sslmode={mode}"));
    command
}

async fn run(mut command: Command) -> (String, String) {
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    (text(&output.stdout), text(&output.stderr))
}

const ENCRYPTED: &str = "select ssl from pg_stat_ssl where pid = pg_backend_pid()";

#[tokio::test(flavor = "multi_thread")]
async fn tls_passes_through_and_can_be_cancelled_and_cut() {
    let dir = TestDir::new("proxy-tls");
    let Some(mut primary) = server(&dir).await else { return };
    let router = Router::start(ProxyConfig::default()).await;
    let mut member = backend("a", primary.port());
    member.tls = true;
    router.primary(member.clone());
    let port = router.rw.port();
    for (mode, expected) in [("require", "t"), ("prefer", "t"), ("disable", "f")] {
        assert_eq!(run(psql(port, mode, ENCRYPTED)).await, (expected.into(), String::new()), "{mode}");
    }

    // The key of an encrypted session cannot be seen: its cancel request goes to all members of the port.
    let watcher = connect(primary.port()).await.unwrap();
    let sleeping = "select count(*) from pg_stat_activity where query like 'select pg_sleep%' and state = 'active'";
    let child = psql(port, "require", "select pg_sleep(60)").spawn().unwrap();
    until(&watcher, sleeping, "1").await;
    kill_process(Pid::from_raw(child.id() as i32).unwrap(), Signal::INT).unwrap();
    let output = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("canceling statement due to user request"));
    until(&watcher, sleeping, "0").await;

    // Cut: closed, since nobody but the ends could put a message into the stream.
    let child = psql(port, "require", "select pg_sleep(60)").spawn().unwrap();
    until(&watcher, sleeping, "1").await;
    router.route(|r| r.generation += 1);
    let output = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("SSL") || text.contains("closed the connection"), "{text}");

    // Held until the server is back, as a plain session would be.
    primary.stop(Signal::INT);
    let waiting = tokio::spawn(run(psql(port, "require", ENCRYPTED)));
    crate::router::becomes(&router.stats.read_write.held, 1).await;
    primary.start().await.unwrap();
    assert_eq!(waiting.await.unwrap().0, "t");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_has_no_tls_after_all_is_used_without() {
    let dir = TestDir::new("proxy-no-tls");
    let primary = Server::create(postgres::any(), &dir, "primary", "").await.unwrap();
    let router = Router::start(ProxyConfig::default()).await;
    let mut member = backend("a", primary.port());
    member.tls = true;
    router.primary(member);
    let mut client = send(router.rw, &packet(80_877_103, b"")).await;
    assert_eq!(exactly(&mut client, 1).await, b"N");
    drop(client);
    router.route(|r| r.primary = Some(backend("a", primary.port())));
    // TLS without asking, and a member without TLS: nothing it could be told would be understood.
    let hello = [&[0x16, 3, 1, 0, 200][..], &[0; 200]].concat();
    let mut client = send(router.rw, &hello).await;
    let closed = rest(&mut client);
    let _ = tokio::time::timeout(LIMIT, closed).await.expect("closed at once");
}
