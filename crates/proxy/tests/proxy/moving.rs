//! Another proxy takes over: whoever is connected, or connecting, notices nothing.

use std::time::Duration;

use matriarch_proxy::ProxyConfig;
use matriarch_testkit::dir::TestDir;
use matriarch_testkit::postgres;
use matriarch_testkit::server::Server;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_postgres::NoTls;

use crate::router::{Router, backend, becomes, connect, until, value};
use crate::wire::{Fake, LIMIT, dial, exactly, greeting, message, opening, packet, refusal, rest, send, startup};

const KEY: [u8; 8] = [7; 8];

/// Sends back what it is sent, after the greeting.
async fn echo() -> Fake {
    Fake::start(|_, mut stream| async move {
        opening(&mut stream).await;
        stream.write_all(&greeting(&KEY)).await.unwrap();
        let (mut from, mut to) = stream.split();
        let _ = tokio::io::copy(&mut from, &mut to).await;
        let _ = to.shutdown().await;
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_of_postgresql_go_on() {
    let dir = TestDir::new("proxy-move");
    let primary = Server::create(postgres::any(), &dir, "primary", "").await.unwrap();
    let mut router = Router::start(ProxyConfig::default()).await;
    router.primary(backend("a", primary.port()));
    let direct = connect(primary.port()).await.unwrap();
    let (idle, open, busy, victim) = (
        router.connect(router.rw).await.unwrap(),
        router.connect(router.rw).await.unwrap(),
        router.connect(router.rw).await.unwrap(),
        router.connect(router.rw).await.unwrap(),
    );
    idle.batch_execute("create temp table own as select 7 as n").await.unwrap();
    open.batch_execute("begin; create table t as select 8 as n").await.unwrap();
    let cancel = victim.cancel_token();
    // Under way until it is let go.
    direct.batch_execute("select pg_advisory_lock(1)").await.unwrap();
    let statement = tokio::spawn(async move { value(&busy, "select 9 from pg_advisory_lock(1)").await });
    let victim = tokio::spawn(async move { victim.simple_query("select pg_sleep(60)").await });
    let under_way = "select count(*) from pg_stat_activity where query ~ 'pg_(sleep|advisory_lock)' \
                     and state = 'active' and pid <> pg_backend_pid()";
    until(&direct, under_way, "2").await;
    for _ in 0..3 {
        router.exchange().await;
    }
    becomes(&router.stats.read_write.active, 4).await;
    assert_eq!(value(&idle, "select n from own").await, "7");
    assert_eq!(value(&open, "select n from t").await, "8");
    open.batch_execute("commit").await.unwrap();
    cancel.cancel_query(NoTls).await.unwrap();
    assert_eq!(victim.await.unwrap().unwrap_err().code().unwrap().code(), "57014");
    direct.batch_execute("select pg_advisory_unlock(1)").await.unwrap();
    assert_eq!(statement.await.unwrap(), "9");
    assert_eq!(router.ask(router.rw, "select n from t").await, "8");

    // They still end with the route that they were opened under, and between two statements when it is about to end.
    let before = open.simple_query("begin").await;
    assert!(before.is_ok());
    router.route(|routes| routes.hold = true);
    while !idle.is_closed() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    router.exchange().await;
    open.batch_execute("commit").await.unwrap();
    while !open.is_closed() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(value(&direct, "select count(*) from t").await, "1");
}

/// Every byte arrives once and in its order, at whatever moment the proxies change.
#[tokio::test(flavor = "multi_thread")]
async fn streams_lose_nothing() {
    let mut router = Router::start(ProxyConfig { relay_threads: 2, ..ProxyConfig::default() }).await;
    let fake = echo().await;
    router.primary(backend("a", fake.port()));
    let sessions: Vec<_> = (0..20u8)
        .map(|n| {
            let to = router.rw;
            tokio::spawn(async move {
                let mut client = send(to, &startup()).await;
                exactly(&mut client, greeting(&KEY).len()).await;
                let sent: Vec<u8> = (0..8_000_000u32).map(|i| (i / 7) as u8 ^ n).collect();
                let copy = sent.clone();
                let (mut from, mut to) = client.into_split();
                let writer = tokio::spawn(async move {
                    to.write_all(&copy).await.unwrap();
                    to.shutdown().await.unwrap();
                });
                let mut got = Vec::new();
                from.read_to_end(&mut got).await.unwrap();
                writer.await.unwrap();
                assert!(got == sent, "session {n} got other bytes back ({} of {})", got.len(), sent.len());
            })
        })
        .collect();
    let mut exchanges = 0;
    while !sessions.iter().all(tokio::task::JoinHandle::is_finished) {
        router.exchange().await;
        exchanges += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for session in sessions {
        session.await.unwrap();
    }
    assert!(exchanges > 1, "the streams were over too soon");
    becomes(&router.stats.read_write.active, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_keep_coming_see_no_error() {
    let dir = TestDir::new("proxy-movestorm");
    let primary = Server::create(postgres::any(), &dir, "primary", "").await.unwrap();
    let mut router = Router::start(ProxyConfig::default()).await;
    router.primary(backend("a", primary.port()));
    let stop = tokio_util::sync::CancellationToken::new();
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (stop, port) = (stop.clone(), router.rw.port());
            tokio::spawn(async move {
                let mut done = 0;
                while !stop.is_cancelled() {
                    let client = crate::router::connect(port).await.expect("a new connection failed");
                    assert_eq!(value(&client, "select 1").await, "1");
                    done += 1;
                }
                done
            })
        })
        .collect();
    for _ in 0..50 {
        router.exchange().await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    stop.cancel();
    for client in clients {
        assert!(client.await.unwrap() > 0);
    }
}

/// A session may be at any point of its start.
#[tokio::test(flavor = "multi_thread")]
async fn the_start_of_a_session_goes_on() {
    let mut router = Router::start(ProxyConfig::default()).await;
    // Not sent in full; refused encryption, and now the startup packet is awaited; waiting for a primary.
    let mut half = send(router.rw, &startup()[..10]).await;
    let mut waiting = send(router.rw, &[startup(), b"ahead".to_vec()].concat()).await;
    becomes(&router.stats.read_write.held, 1).await;
    let mut mute = dial(router.rw).await;
    router.exchange().await;
    becomes(&router.stats.read_write.held, 1).await;
    let fake = echo().await;
    router.primary(backend("a", fake.port()));
    let mut refused = send(router.rw, &packet(80_877_103, b"")).await;
    assert_eq!(exactly(&mut refused, 1).await, b"N");
    router.exchange().await;
    exactly(&mut waiting, greeting(&KEY).len()).await;
    assert_eq!(exactly(&mut waiting, 5).await, b"ahead");
    half.write_all(&startup()[10..]).await.unwrap();
    for client in [&mut refused, &mut mute] {
        client.write_all(&startup()).await.unwrap();
    }
    for client in [&mut half, &mut refused, &mut mute] {
        exactly(client, greeting(&KEY).len()).await;
    }

    // A server that has not answered is asked again, since the client has heard nothing.
    let asked = Fake::start(|number, mut stream| async move {
        let startup = opening(&mut stream).await;
        if number > 0 {
            stream.write_all(&greeting(&startup[..8])).await.unwrap();
        }
        let _ = stream.read_u8().await;
    })
    .await;
    router.primary(backend("b", asked.port()));
    let mut client = send(router.rw, &startup()).await;
    while asked.count() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    router.exchange().await;
    exactly(&mut client, greeting(&KEY).len()).await;
    assert_eq!(asked.count(), 2);

    // One that waits for a password has been heard: its session is kept, and counts as one that is being opened.
    let asking = Fake::start(|_, mut stream| async move {
        opening(&mut stream).await;
        stream.write_all(&message(b'R', &3u32.to_be_bytes())).await.unwrap();
        stream.read_u8().await.unwrap();
        stream.write_all(&greeting(&KEY)).await.unwrap();
        let _ = stream.read_u8().await;
    })
    .await;
    router.primary(backend("c", asking.port()));
    let mut client = send(router.rw, &startup()).await;
    exactly(&mut client, 9).await;
    router.exchange().await;
    becomes(&router.stats.read_write.opening, 1).await;
    client.write_all(b"p").await.unwrap();
    exactly(&mut client, greeting(&KEY).len()).await;
    becomes(&router.stats.read_write.opening, 0).await;
    assert_eq!(asking.count(), 1);
}

/// Nobody waits longer because proxies change, and what was read of a PROXY header is not read again.
#[tokio::test(flavor = "multi_thread")]
async fn bounds_and_introductions_stay() {
    let hold_timeout = Duration::from_secs(4);
    let mut router =
        Router::start(ProxyConfig { hold_timeout, accept_proxy_protocol: true, ..ProxyConfig::default() }).await;
    let line = b"PROXY TCP4 192.0.2.1 192.0.2.2 4000 5432\r\n";
    let mut split = send(router.rw, &line[..20]).await;
    let mut waiting = send(router.rw, &[&line[..], &startup()].concat()).await;
    becomes(&router.stats.read_write.held, 1).await;
    let ended = tokio::spawn(async move { rest(&mut waiting).await });
    let begun = std::time::Instant::now();
    while !ended.is_finished() {
        assert!(begun.elapsed() < LIMIT, "it waits for ever");
        router.exchange().await;
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    refusal(&ended.await.unwrap(), "57P03");
    let fake = echo().await;
    router.primary(backend("a", fake.port()));
    split.write_all(&[&line[20..], &startup()].concat()).await.unwrap();
    exactly(&mut split, greeting(&KEY).len()).await;
}
