//! Garbage, slowness and floods on the port harm nobody.

#![allow(clippy::unwrap_used, reason = "a test's helpers may fail as the test does")]

mod common;

use std::time::{Duration, Instant};

use common::*;
use matriarch_api::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[tokio::test]
async fn garbage_is_harmless() {
    let server = start().await;
    let noise: Vec<u8> = (0..200_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let endless = [b"GET / HTTP/1.1\r\nX: ".as_slice(), &[b'x'; 100_000]].concat();
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(5000));
    for bytes in [
        noise.as_slice(),
        &endless,
        many.as_bytes(),
        b"\0\0\0\x08\x04\xd2\x16\x2f",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET http://[::1 HTTP/1.1\r\n\r\n",
        b"POST /switchover HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\n",
        b"POST /switchover HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /switchover HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET /%00%ff%fe?%00=%ff HTTP/1.0\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        server.raw(bytes, Duration::from_secs(3)).await;
        assert_eq!(
            server.get("/primary").await,
            200,
            "after {:?}",
            String::from_utf8_lossy(&bytes[..bytes.len().min(40)])
        );
    }
    assert_eq!(server.asked(), []);
}

#[tokio::test]
async fn slow_clients_are_cut_and_do_not_starve_others() {
    let limits = Limits { connections: 4, headers: Duration::from_millis(400), ..Limits::default() };
    let server = start_with(Auth::token(TOKEN), limits).await;
    let mut slow = Vec::new();
    for opening in ["GET /prim", "", "GET / HTTP/1.1\r\nX", "G", "", ""] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(opening.as_bytes()).await.unwrap();
        slow.push(stream);
    }
    let mut idle = TcpStream::connect(server.address).await.unwrap();
    idle.write_all(b"GET /primary HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(LIMIT, idle.read_to_end(&mut answer)).await.expect("the idle connection is ended").unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    for mut stream in slow {
        let mut rest = Vec::new();
        tokio::time::timeout(LIMIT, stream.read_to_end(&mut rest)).await.expect("slow clients are cut").ok();
    }
}

/// How long stopping takes with an idle connection.
async fn stopping() -> Duration {
    let server = start().await;
    let mut idle = TcpStream::connect(server.address).await.unwrap();
    idle.write_all(b"GET /primary HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let mut some = [0; 64];
    assert!(idle.read(&mut some).await.unwrap() > 0);
    let begun = Instant::now();
    server.stop.send(()).unwrap();
    server.ended.await.unwrap().unwrap();
    let took = begun.elapsed();
    assert!(TcpStream::connect(server.address).await.is_err());
    took
}

#[tokio::test]
async fn stopping_ends_idle_connections_and_frees_the_port() {
    let mut took = Vec::new();
    // Once in five times is enough, since the machine itself may stand still.
    while took.iter().all(|took| *took >= Duration::from_secs(1)) {
        assert!(took.len() < 5, "{took:?}");
        took.push(stopping().await);
    }
}

#[tokio::test]
async fn the_client_says_who_does_not_answer() {
    let deaf = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/patroni", deaf.local_addr().unwrap());
    let quick = Duration::from_millis(200);
    let client = Client::new(&url, None).unwrap().with_timeouts(quick, quick);
    let error = client.cluster().await.unwrap_err();
    assert!(error.is_away() && error.to_string().contains("/cluster did not answer within 200 ms"), "{error}");
    drop(deaf);
    let error = Client::new(&url, None).unwrap().cluster().await.unwrap_err();
    assert!(error.is_away() && error.to_string().contains("does not answer"), "{error}");
    for (bad, why) in [("https://", "https://"), ("a:1", "http://"), ("http://", "'http://'"), ("ftp://a", "http://")] {
        let error = Client::new(bad, None).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
}
