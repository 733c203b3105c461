//! The interface with TLS: who may, who may not and is told why, and clients that are no clients.

#![allow(clippy::unwrap_used, reason = "a test's helpers may fail as the test does")]

mod common;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::*;
use matriarch_api::*;
use matriarch_testkit::certificates::Authority;
use matriarch_tls::{PeerTls, ServerFiles, ServerTls, TlsFiles, VerifyClient};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const DAY: Duration = Duration::from_secs(86_400);

/// An authority with certificates of the interface and of a client.
fn authority(dir: &Path) -> Authority {
    let authority = Authority::new(dir);
    authority.issue("server", DAY);
    authority.issue("client", DAY);
    authority
}

fn server_tls(authority: &Authority, verify: VerifyClient) -> Option<Arc<ServerTls>> {
    let (cert_file, key_file) = (authority.cert("server"), Some(authority.key("server")));
    Some(ServerTls::open(ServerFiles { cert_file, key_file, ca_file: Some(authority.ca()), verify }).unwrap())
}

fn client(server: &Server, authority: &Authority, certificate: Option<&str>) -> Client {
    let authorization = matriarch_api::authorization(Some(TOKEN), None);
    client_with(server, authority, certificate, authorization)
}

fn client_with(
    server: &Server,
    authority: &Authority,
    certificate: Option<&str>,
    authorization: Option<String>,
) -> Client {
    let files = TlsFiles {
        ca_file: Some(authority.ca()),
        cert_file: certificate.map(|name| authority.cert(name)),
        key_file: certificate.map(|name| authority.key(name)),
    };
    let client = Client::new(&format!("https://localhost:{}", server.address.port()), authorization).unwrap();
    client.with_tls(PeerTls { files, insecure: false })
}

#[tokio::test]
async fn optional_asks_whoever_changes_something_and_members() {
    let dir = tempfile::tempdir().unwrap();
    let authority = authority(dir.path());
    let auth = Auth::token(TOKEN).with_certificates();
    let server = start_tls(auth, Limits::default(), server_tls(&authority, VerifyClient::Optional)).await;
    let (stranger, known) = (client(&server, &authority, None), client(&server, &authority, Some("client")));
    assert_eq!(stranger.member().await.unwrap().role, "primary");
    assert!(stranger.health("/primary").await.unwrap());
    let refused = stranger.reload().await.unwrap_err().to_string();
    assert!(refused.contains("403") && refused.contains("client certificate required"), "{refused}");
    assert_eq!(server.asked().len(), 0);
    assert_eq!(known.reload().await.unwrap().status, 202);
    assert_eq!(server.asked().len(), 1);
    let error = stranger.health("/heartbeat").await.unwrap_err().to_string();
    assert!(error.contains("client certificate required"), "{error}");
    let error = known.health("/heartbeat").await.unwrap_err().to_string();
    assert!(error.contains("426"), "{error}");
    let no_token = client_with(&server, &authority, Some("client"), None);
    assert!(matches!(no_token.reload().await, Err(ClientError::Unauthorized { .. })), "the token is asked for as well");
}

#[tokio::test]
async fn required_speaks_with_nobody_else_and_is_enough_without_a_token() {
    let dir = tempfile::tempdir().unwrap();
    let other = tempfile::tempdir().unwrap();
    let (authority, foreign) = (authority(dir.path()), self::authority(other.path()));
    let auth = Auth::accept(Vec::new(), None, Reads::Open).with_certificates();
    let server = start_tls(auth, Limits::default(), server_tls(&authority, VerifyClient::Required)).await;
    let error = client(&server, &authority, None).health("/primary").await.unwrap_err();
    assert!(matches!(&error, ClientError::Tls { why, .. } if why.contains("wants a client's certificate")), "{error}");
    let shown = TlsFiles {
        ca_file: Some(authority.ca()),
        cert_file: Some(foreign.cert("client")),
        key_file: Some(foreign.key("client")),
    };
    let stranger = client(&server, &authority, None).with_tls(PeerTls { files: shown, insecure: false });
    let error = stranger.health("/primary").await.unwrap_err().to_string();
    assert!(
        error.contains("https://localhost:") && error.contains("does not accept our client certificate"),
        "{error}"
    );
    let known = client_with(&server, &authority, Some("client"), None);
    assert!(known.health("/primary").await.unwrap());
    assert_eq!(known.reload().await.unwrap().status, 202);
    let error = client(&server, &foreign, None).health("/primary").await.unwrap_err().to_string();
    assert!(error.contains("authority that is not trusted"), "{error}");
    let unreadable = TlsFiles { cert_file: Some("/nonexistent.pem".into()), ..TlsFiles::default() };
    let error = known.with_tls(PeerTls { files: unreadable, insecure: true }).member().await.unwrap_err().to_string();
    assert!(error.contains("the certificate /nonexistent.pem cannot be read"), "{error}");
}

#[tokio::test]
async fn plain_http_and_tls_take_each_other_for_what_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let authority = authority(dir.path());
    let secured = start_tls(Auth::token(TOKEN), Limits::default(), server_tls(&authority, VerifyClient::None)).await;
    let plain = Client::new(&format!("http://{}", secured.address), None).unwrap();
    let error = plain.member().await.unwrap_err().to_string();
    assert!(error.contains("this port speaks TLS") && error.contains("https://"), "{error}");
    let unsecured = start().await;
    let error = client(&unsecured, &authority, None).member().await.unwrap_err();
    assert!(matches!(&error, ClientError::Tls { why, .. } if why.contains("does not speak TLS there")), "{error}");
    assert!(client(&secured, &authority, None).health("/primary").await.unwrap());
}

#[tokio::test]
async fn garbage_and_slow_handshakes_are_cut_and_starve_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let authority = authority(dir.path());
    let limits = Limits { connections: 4, headers: Duration::from_millis(400), ..Limits::default() };
    let server = start_tls(Auth::token(TOKEN), limits, server_tls(&authority, VerifyClient::Required)).await;
    let mut slow = Vec::new();
    for opening in [&b""[..], b"\x16\x03\x01\x02\x00\x01", b"\x16", b"", b"\x16\x03\x01\x40\x00", b""] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(opening).await.unwrap();
        slow.push(stream);
    }
    let begun = Instant::now();
    for garbage in [&[0u8; 5000][..], b"\xff\xfe\xfd", b"GET /primary HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x00\x02xx"] {
        server.raw(garbage, LIMIT).await;
    }
    for mut stream in slow {
        let mut rest = Vec::new();
        tokio::time::timeout(LIMIT, stream.read_to_end(&mut rest)).await.expect("slow clients are cut").ok();
    }
    assert!(begun.elapsed() < LIMIT, "{:?}", begun.elapsed());
    assert!(client(&server, &authority, Some("client")).health("/primary").await.unwrap());
}
