//! Limits, ports in use, and the PROXY protocol.

use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;

use matriarch_proxy::{Proxy, ProxyConfig, ProxyError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

use crate::router::{Router, backend, becomes};
use crate::wire::{Fake, exactly, greeting, opening, packet, refusal, rest, send, startup};

const KEY: [u8; 8] = [7; 8];

#[tokio::test(flavor = "multi_thread")]
async fn one_connection_too_many_is_told_so_and_cancel_requests_still_pass() {
    let router = Router::start(ProxyConfig { max_connections: 2, ..ProxyConfig::default() }).await;
    let (fake, mut cancels) = Fake::greeting(KEY.to_vec()).await;
    router.primary(backend("a", fake.port()));
    let mut open = Vec::new();
    for _ in 0..2 {
        let mut client = send(router.rw, &startup()).await;
        exactly(&mut client, greeting(&KEY).len()).await;
        open.push(client);
    }
    let text = refusal(&rest(&mut send(router.rw, &startup()).await).await, "53300");
    assert!(text.contains("limit 2"), "{text}");
    rest(&mut send(router.rw, &packet(80_877_102, &KEY)).await).await;
    assert_eq!(cancels.recv().await.unwrap(), KEY);
    open.pop();
    becomes(&router.stats.read_write.active, 1).await;
    let mut client = send(router.rw, &startup()).await;
    exactly(&mut client, greeting(&KEY).len()).await;
}

#[tokio::test]
async fn a_port_in_use_is_named_with_its_remedy() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let config = ProxyConfig { read_only: Some(vec![address]), ..ProxyConfig::default() };
    let error = Proxy::bind(config).await.err().unwrap();
    assert!(matches!(error, ProxyError::PortInUse { .. }));
    let text = error.to_string();
    assert!(text.contains(&format!("{address} for the read-only port")) && text.contains("ss -ltnp"), "{text}");

    let elsewhere: SocketAddr = "192.0.2.1:0".parse().unwrap();
    let error = Proxy::bind(ProxyConfig { read_write: Some(vec![elsewhere]), ..ProxyConfig::default() }).await;
    assert!(matches!(error.err().unwrap(), ProxyError::Listen { .. }));
    let error = Proxy::bind(ProxyConfig::default()).await;
    assert!(matches!(error.err().unwrap(), ProxyError::NoPort));
}

#[tokio::test(flavor = "multi_thread")]
async fn proxy_protocol_headers_are_taken_and_passed_on() {
    let config = ProxyConfig { accept_proxy_protocol: true, send_proxy_protocol: true, ..ProxyConfig::default() };
    let router = Router::start(config).await;
    let (headers, mut received) = mpsc::unbounded_channel();
    let fake = Fake::start(move |_, mut stream| {
        let headers = headers.clone();
        async move {
            let mut header = [0; 28];
            stream.read_exact(&mut header).await.unwrap();
            headers.send(header).unwrap();
            opening(&mut stream).await;
            stream.write_all(&greeting(&KEY)).await.unwrap();
            std::future::pending::<()>().await;
        }
    })
    .await;
    router.primary(backend("a", fake.port()));
    let v2 = [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"[..], &[192, 0, 2, 1, 192, 0, 2, 2, 0x10, 0, 0x15, 0x38]].concat();
    for header in [&b"PROXY TCP4 192.0.2.1 192.0.2.2 4096 5432\r\n"[..], &v2] {
        let mut client = send(router.rw, &[header, &startup()].concat()).await;
        exactly(&mut client, greeting(&KEY).len()).await;
        assert_eq!(received.recv().await.unwrap()[..], v2);
    }
    let text = refusal(&rest(&mut send(router.rw, &startup()).await).await, "08P01");
    assert!(text.contains("expected a PROXY protocol header"), "{text}");
    assert_eq!(router.stats.read_write.refused.load(Relaxed), 1);
}
