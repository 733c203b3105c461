//! Sessions whose member leaves its role, and a proxy that stops.

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use matriarch_proxy::ProxyConfig;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::router::{Router, backend, becomes};
use crate::wire::{Fake, LIMIT, dial, exactly, greeting, message, opening, quiet, refusal, rest, send, startup};

const KEY: [u8; 8] = [7; 8];

async fn session(to: std::net::SocketAddr) -> TcpStream {
    let mut session = send(to, &startup()).await;
    exactly(&mut session, greeting(&KEY).len()).await;
    session
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deposed_primary_loses_its_sessions_at_once() {
    let router = Router::start(ProxyConfig::default()).await;
    let (a, _cancels) = Fake::greeting(KEY.to_vec()).await;
    router.primary(backend("a", a.port()));
    let mut session_1 = session(router.rw).await;
    let mut session_2 = session(router.rw).await;
    // A replica that comes ends nothing, and a planned switchover that begins ends no statement under way.
    for session in [&mut session_1, &mut session_2] {
        session.write_all(&message(b'Q', b"select 1\0")).await.unwrap();
    }
    router.route(|r| {
        r.hold = true;
        r.replicas.push(backend("b", 1));
    });
    assert!(quiet(&session_1).await);
    router.route(|r| r.generation += 1);
    refusal(&rest(&mut session_1).await, "57P01");
    refusal(&rest(&mut session_2).await, "57P01");
    assert_eq!(router.stats.read_write.cut.load(Relaxed), 2);
    becomes(&router.stats.read_write.active, 0).await;

    router.route(|r| r.hold = false);
    let mut session_3 = session(router.rw).await;
    router.route(|r| r.primary = None);
    refusal(&rest(&mut session_3).await, "57P01");
}

#[tokio::test(flavor = "multi_thread")]
async fn read_only_sessions_end_when_their_member_leaves_or_is_promoted() {
    let config = ProxyConfig { max_replica_lag_bytes: Some(1000), ..ProxyConfig::default() };
    let router = Router::start(config).await;
    let (a, _cancels) = Fake::greeting(KEY.to_vec()).await;
    router.route(|r| r.replicas = vec![backend("a", a.port())]);
    let mut one = session(router.ro).await;
    router.route(|r| r.replicas[0].lag_bytes = Some(5000));
    router.route(|r| r.replicas.push(backend("b", 1)));
    assert!(quiet(&one).await);
    router.route(|r| {
        r.primary = Some(backend("a", a.port()));
        r.replicas.clear();
    });
    refusal(&rest(&mut one).await, "57P01");
    router.route(|r| {
        r.primary = None;
        r.replicas = vec![backend("a", a.port())];
    });
    let mut two = session(router.ro).await;
    router.route(|r| r.replicas.clear());
    refusal(&rest(&mut two).await, "57P01");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_put_into_the_middle_of_a_message() {
    let router = Router::start(ProxyConfig::default()).await;
    let half = message(b'D', &[1; 1000])[..500].to_vec();
    let answer = [greeting(&KEY), half.clone()].concat();
    let sent = answer.clone();
    let fake = Fake::start(move |_, mut stream| {
        let sent = sent.clone();
        async move {
            opening(&mut stream).await;
            stream.write_all(&sent).await.unwrap();
            std::future::pending::<()>().await;
        }
    })
    .await;
    router.primary(backend("a", fake.port()));
    let mut client = send(router.rw, &startup()).await;
    exactly(&mut client, answer.len()).await;
    router.route(|r| r.primary = None);
    assert_eq!(rest(&mut client).await, b"", "an error here would be read as data");
}

#[tokio::test(flavor = "multi_thread")]
async fn draining_waits_for_sessions_and_then_cuts_them() {
    let drain_timeout = Duration::from_millis(1500);
    let config = ProxyConfig { drain_timeout, ..ProxyConfig::default() };
    let mut router = Router::start(config).await;
    let (a, _cancels) = Fake::greeting(KEY.to_vec()).await;
    router.primary(backend("a", a.port()));
    let mut stays = session(router.rw).await;
    let leaves = session(router.rw).await;
    let mut held = send(router.ro, &startup()).await;
    becomes(&router.stats.read_only.held, 1).await;
    let start = Instant::now();
    router.shutdown.cancel();
    while TcpStream::connect(router.rw).await.is_ok() {}
    // A machine that stood still for so long proves nothing here.
    assert!(quiet(&stays).await || start.elapsed() >= drain_timeout);
    drop(leaves);
    refusal(&rest(&mut stays).await, "57P01");
    refusal(&rest(&mut held).await, "57P01");
    assert!(start.elapsed() >= drain_timeout);
    (&mut router.task).await.unwrap().unwrap();
    assert_eq!(router.stats.read_write.cut.load(Relaxed), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn draining_ends_with_the_last_session() {
    let config = ProxyConfig { drain_timeout: LIMIT * 10, ..ProxyConfig::default() };
    let mut router = Router::start(config).await;
    let (a, _cancels) = Fake::greeting(KEY.to_vec()).await;
    router.primary(backend("a", a.port()));
    let last = session(router.rw).await;
    router.shutdown.cancel();
    drop(last);
    tokio::time::timeout(LIMIT, &mut router.task).await.expect("nobody is left to wait for").unwrap().unwrap();
    assert_eq!(router.stats.read_write.cut.load(Relaxed), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn dropping_the_future_stops_everything() {
    let router = Router::start(ProxyConfig::default()).await;
    let (a, _cancels) = Fake::greeting(KEY.to_vec()).await;
    router.primary(backend("a", a.port()));
    let mut one = session(router.rw).await;
    router.task.abort();
    rest(&mut one).await;
    while TcpStream::connect(router.rw).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(dial(a.address).await);
}
