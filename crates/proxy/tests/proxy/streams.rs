//! Large and lopsided streams: nothing lost, nothing reordered, bounded memory.

use std::process::{Command, Stdio};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use matriarch_proxy::ProxyConfig;
use matriarch_testkit::dir::TestDir;
use matriarch_testkit::postgres;
use matriarch_testkit::server::Server;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::router::{Router, backend, becomes, connect, value};
use crate::wire::{Fake, LIMIT, error, exactly, greeting, opening, rest, send, startup};

const KEY: [u8; 8] = [7; 8];

fn psql(port: u16, sql: &str) -> Command {
    let mut command = Command::new(postgres::any().bins.join("psql"));
    command.args(["-XAtq", "-c", sql]).arg(format!("host=127.0.0.1 port={port} user=postgres dbname=postgres"));
    command
}

/// Copies a table out to a reader that pauses, and the same bytes in again.
#[tokio::test(flavor = "multi_thread")]
async fn copy_both_ways_with_a_slow_reader() {
    let dir = TestDir::new("proxy-copy");
    let sockets = dir.create("sockets");
    let settings = format!("unix_socket_directories = '{}'", sockets.display());
    let primary = Server::create(postgres::any(), &dir, "primary", &settings).await.unwrap();
    let direct = connect(primary.port()).await.unwrap();
    let rows = "select g, repeat(md5(g::text), 30) as t from generate_series(1, 60000) g";
    direct.batch_execute(&format!("create table a as {rows}; create table b (like a)")).await.unwrap();

    for unix in [false, true] {
        let router = Router::start(ProxyConfig::default()).await;
        let mut member = backend("a", primary.port());
        member.unix_socket = unix.then(|| sockets.join(format!(".s.PGSQL.{}", primary.port())));
        router.primary(member);
        let port = router.rw.port();
        let mut out = psql(port, "copy a to stdout").stdout(Stdio::piped()).spawn().unwrap();
        let moved = &router.stats.read_write.bytes_to_client;
        let mut before = u64::MAX;
        while before != moved.load(Relaxed) || before == 0 {
            before = moved.load(Relaxed);
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        assert!(before < 16 << 20, "a reader that stops must stop the writer: {before} bytes moved");
        let mut copy = psql(port, "truncate b; copy b from stdin");
        copy.stdin(out.stdout.take().unwrap());
        let status = tokio::task::spawn_blocking(move || copy.status().unwrap()).await.unwrap();
        assert!(status.success() && out.wait().unwrap().success());
        assert!(moved.load(Relaxed) > 57_000_000 && router.stats.read_write.bytes_to_server.load(Relaxed) > 57_000_000);
        let sum = |table| format!("select md5(string_agg(g || t, ',' order by g)) || count(*) from {table}");
        assert_eq!(value(&direct, &sum("a")).await, value(&direct, &sum("b")).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_half_closed_client_still_gets_its_answer() {
    let router = Router::start(ProxyConfig::default()).await;
    let fake = Fake::start(|_, mut stream| async move {
        opening(&mut stream).await;
        stream.write_all(&greeting(&KEY)).await.unwrap();
        let mut asked = Vec::new();
        stream.read_to_end(&mut asked).await.unwrap();
        stream.write_all(&asked.repeat(1000)).await.unwrap();
    })
    .await;
    router.primary(backend("a", fake.port()));
    let mut client = send(router.rw, &startup()).await;
    exactly(&mut client, greeting(&KEY).len()).await;
    client.write_all(&[5; 3000]).await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(rest(&mut client).await, vec![5; 3_000_000]);
    becomes(&router.stats.read_write.active, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_words_of_a_server_reach_the_client() {
    let router = Router::start(ProxyConfig::default()).await;
    let words = error("57P05", "terminating connection due to idle-session timeout");
    let sent = words.clone();
    let fake = Fake::start(move |_, mut stream| {
        let sent = sent.clone();
        async move {
            opening(&mut stream).await;
            stream.write_all(&greeting(&KEY)).await.unwrap();
            stream.read_u8().await.unwrap();
            stream.write_all(&sent).await.unwrap();
        }
    })
    .await;
    router.primary(backend("a", fake.port()));
    for _ in 0..50 {
        let mut client = send(router.rw, &startup()).await;
        exactly(&mut client, greeting(&KEY).len()).await;
        client.write_all(b"Q").await.unwrap();
        assert_eq!(rest(&mut client).await, words);
    }
    becomes(&router.stats.read_write.active, 0).await;
}

/// Many sessions at once, each both talking and listening, in pieces of all sizes.
#[tokio::test(flavor = "multi_thread")]
async fn many_sessions_keep_their_bytes_apart() {
    let router = Router::start(ProxyConfig { relay_threads: 2, ..ProxyConfig::default() }).await;
    let fake = Fake::start(|_, mut stream| async move {
        opening(&mut stream).await;
        stream.write_all(&greeting(&KEY)).await.unwrap();
        let (mut from, mut to) = stream.split();
        let _ = tokio::io::copy(&mut from, &mut to).await;
        let _ = to.shutdown().await;
    })
    .await;
    router.primary(backend("a", fake.port()));
    let sessions: Vec<_> = (0..40u8)
        .map(|n| {
            let to = router.rw;
            tokio::spawn(async move {
                let mut client = send(to, &startup()).await;
                exactly(&mut client, greeting(&KEY).len()).await;
                let sent: Vec<u8> = (0..1_000_000u32).map(|i| (i / 7) as u8 ^ n).collect();
                let copy = sent.clone();
                let (mut from, mut to) = client.into_split();
                let writer = tokio::spawn(async move {
                    let mut left = &copy[..];
                    let mut piece = 1 + usize::from(n);
                    while !left.is_empty() {
                        let (now, later) = left.split_at(piece.min(left.len()));
                        to.write_all(now).await.unwrap();
                        left = later;
                        piece = piece * 7 % 90_001 + 1;
                    }
                    to.shutdown().await.unwrap();
                });
                let mut got = Vec::new();
                from.read_to_end(&mut got).await.unwrap();
                writer.await.unwrap();
                assert!(got == sent, "session {n} got other bytes back ({} of {})", got.len(), sent.len());
            })
        })
        .collect();
    for session in sessions {
        tokio::time::timeout(LIMIT * 3, session).await.unwrap().unwrap();
    }
}
