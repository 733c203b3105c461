//! First bytes that are no session start, on each port.

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use matriarch_proxy::ProxyConfig;
use tokio::io::AsyncWriteExt;

use crate::router::{Router, backend};
use crate::wire::{Fake, dial, exactly, greeting, packet, refusal, rest, send, startup};

const KEY: [u8; 8] = [7; 8];
const SSL: u32 = 80_877_103;
const GSS: u32 = 80_877_104;

async fn router(config: ProxyConfig) -> (Router, Fake) {
    let router = Router::start(config).await;
    let (fake, _cancels) = Fake::greeting(KEY.to_vec()).await;
    router.route(|r| {
        r.primary = Some(backend("a", fake.port()));
        r.replicas = vec![backend("b", fake.port())];
    });
    (router, fake)
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_is_answered_and_harms_nobody() {
    let (router, fake) = router(ProxyConfig::default()).await;
    for port in [router.rw, router.ro] {
        for garbage in [
            &b"\xff\xff\xff\xff\xff\xff\xff\xff"[..],
            b"\0\0\0\0",
            b"\0\0\x27\x11\0\x03\0\0",
            b"SSH-2.0-OpenSSH_9.2\r\n",
            &packet(0x0002_0000, b"old"),
            &packet(SSL, b"x"),
            &packet(80_877_102, b"123"),
            &[packet(SSL, b""), startup()].concat(),
            &[packet(GSS, b""), startup()].concat(),
        ] {
            refusal(&rest(&mut send(port, garbage).await).await, "08P01");
        }
        let http = rest(&mut send(port, b"GET /primary HTTP/1.1\r\nHost: x\r\n\r\n").await).await;
        assert!(http.starts_with(b"HTTP/1.1 400 ") && http.ends_with(b"the REST API listens elsewhere\n"));
        // A health check that only connects, one that sends half a packet, and one that resets.
        drop(dial(port).await);
        drop(send(port, &startup()[..7]).await);
        let mut session = send(port, &startup()).await;
        exactly(&mut session, greeting(&KEY).len()).await;
    }
    assert_eq!(fake.count(), 2, "nothing but sessions reaches a member");
}

#[tokio::test(flavor = "multi_thread")]
async fn encryption_requests_are_declined_one_by_one() {
    let (router, _fake) = router(ProxyConfig::default()).await;
    let mut client = send(router.rw, &packet(GSS, b"")).await;
    assert_eq!(exactly(&mut client, 1).await, b"N");
    client.write_all(&packet(SSL, b"")).await.unwrap();
    assert_eq!(exactly(&mut client, 1).await, b"N");
    client.write_all(&startup()).await.unwrap();
    exactly(&mut client, greeting(&KEY).len()).await;

    let mut client = dial(router.rw).await;
    for _ in 0..3 {
        client.write_all(&packet(GSS, b"")).await.unwrap();
        assert_eq!(exactly(&mut client, 1).await, b"N");
    }
    refusal(&rest(&mut client).await, "08P01");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tls_client_learns_why_there_is_nobody() {
    let config = ProxyConfig { hold_timeout: Duration::from_millis(100), ..ProxyConfig::default() };
    let router = Router::start(config).await;
    let mut client = send(router.rw, &packet(SSL, b"")).await;
    assert_eq!(exactly(&mut client, 1).await, b"N");
    client.write_all(&startup()).await.unwrap();
    refusal(&rest(&mut client).await, "57P03");
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_starts_end_in_time_and_do_not_delay_others() {
    let startup_timeout = Duration::from_secs(3);
    let (router, _fake) = router(ProxyConfig { startup_timeout, ..ProxyConfig::default() }).await;
    let on = async |port| {
        let mut slow: Vec<_> = Vec::new();
        for n in 0..200 {
            slow.push(send(port, &startup()[..n % 8]).await);
        }
        let start = Instant::now();
        let mut session = send(port, &startup()).await;
        exactly(&mut session, greeting(&KEY).len()).await;
        assert!(start.elapsed() < startup_timeout, "{:?}", start.elapsed());
        for client in &mut slow {
            let text = refusal(&rest(client).await, "08P01");
            assert!(text.contains("no complete startup packet within 3s"), "{text}");
        }
    };
    tokio::join!(on(router.rw), on(router.ro));
    assert_eq!(router.stats.read_write.refused.load(Relaxed), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_talks_ahead_is_heard_in_order() {
    let (router, _fake) = router(ProxyConfig::default()).await;
    router.route(|r| r.primary = None);
    let echo = Fake::start(|_, mut stream| async move {
        crate::wire::opening(&mut stream).await;
        stream.write_all(&greeting(&KEY)).await.unwrap();
        let (mut from, mut to) = stream.split();
        let _ = tokio::io::copy(&mut from, &mut to).await;
    })
    .await;
    let ahead: Vec<u8> = (0..100_000u32).flat_map(u32::to_be_bytes).collect();
    let mut client = send(router.rw, &startup()).await;
    let (mut from, mut to) = client.split();
    let write = async { to.write_all(&ahead).await.unwrap() };
    let read = async {
        router.primary(backend("c", echo.port()));
        let mut all = vec![0; greeting(&KEY).len() + ahead.len()];
        tokio::io::AsyncReadExt::read_exact(&mut from, &mut all).await.unwrap();
        all
    };
    let ((), all) = tokio::join!(write, read);
    assert!(all.ends_with(&ahead));
}
