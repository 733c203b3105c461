//! Files as operators leave them: right, wrong, and renewed under a server.

#![allow(clippy::unwrap_used, reason = "a test's helpers may fail as the test does")]

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use matriarch_testkit::certificates::Authority;
use matriarch_tls::{PeerTls, ServerFiles, ServerTls, TlsFiles, VerifyClient, Wire, explained};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const DAY: Duration = Duration::from_secs(86_400);

fn files(authority: &Authority, name: &str, verify: VerifyClient) -> ServerFiles {
    let (cert_file, key_file) = (authority.cert(name), Some(authority.key(name)));
    ServerFiles { cert_file, key_file, ca_file: Some(authority.ca()), verify }
}

fn peer(authority: &Authority, name: Option<&str>) -> PeerTls {
    let files = TlsFiles {
        ca_file: Some(authority.ca()),
        cert_file: name.map(|name| authority.cert(name)),
        key_file: name.map(|name| authority.key(name)),
    };
    PeerTls { files, insecure: false }
}

fn folder(dir: &Path, name: &str) -> Authority {
    let dir = dir.join(name);
    std::fs::create_dir(&dir).unwrap();
    Authority::new(&dir)
}

/// What comes of a byte each way, and on the server's side whether the client showed a certificate.
async fn talk(server: &Arc<ServerTls>, client: &PeerTls, host: &str) -> Result<bool, String> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = server.clone();
    let accepted = tokio::spawn(async move {
        let mut wire = server.accept(listener.accept().await.unwrap().0).await.map_err(|refused| refused.reason)?;
        let mut byte = [0];
        wire.read_exact(&mut byte).await.map_err(|error| error.to_string())?;
        assert!(wire.send_now(&byte));
        Ok::<bool, String>(wire.is_certified())
    });
    let mut byte = [7];
    let spoken = async {
        let stream = TcpStream::connect(address).await?;
        let mut wire: Wire = client.secure(host, stream).await?;
        wire.write_all(&byte).await?;
        wire.flush().await?;
        wire.read_exact(&mut byte).await
    };
    let spoken = spoken.await.map_err(|error| explained(&error).unwrap_or_else(|| error.to_string()));
    let accepted = accepted.await.unwrap();
    spoken.and(accepted)
}

#[tokio::test]
async fn both_sides_say_what_they_do_not_accept() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, theirs) = (folder(dir.path(), "ours"), folder(dir.path(), "theirs"));
    ours.issue("server", DAY);
    ours.issue("client", DAY);
    theirs.issue("client", DAY);
    ours.issue_until("late", SystemTime::now() - DAY);
    let open = |verify| ServerTls::open(files(&ours, "server", verify)).unwrap();
    let (none, optional, required) =
        (open(VerifyClient::None), open(VerifyClient::Optional), open(VerifyClient::Required));

    for (server, name, certified) in [
        (&none, None, false),
        (&none, Some("client"), false),
        (&optional, None, false),
        (&optional, Some("client"), true),
        (&required, Some("client"), true),
    ] {
        assert_eq!(
            talk(server, &peer(&ours, name), "127.0.0.1").await,
            Ok(certified),
            "{:?} {name:?}",
            server.verify()
        );
    }
    let foreign = PeerTls {
        files: TlsFiles { ca_file: Some(ours.ca()), ..peer(&theirs, Some("client")).files },
        insecure: false,
    };
    let late = || peer(&ours, Some("late"));
    for (server, client, host, words) in [
        (
            &required,
            peer(&ours, None),
            "localhost",
            "it wants a client's certificate (verify_client) and got none: name one",
        ),
        (&required, foreign.clone(), "localhost", "it does not accept our client certificate ("),
        (&optional, foreign, "localhost", "it does not accept our client certificate ("),
        (&required, late(), "localhost", "it does not accept our client certificate (CertificateExpired)"),
        (&none, peer(&theirs, None), "localhost", "signed by an authority that is not trusted: name that authority"),
        (&none, peer(&ours, None), "[::1]", "its certificate is for other names"),
    ] {
        let said = talk(server, &client, host).await.unwrap_err();
        assert!(said.contains(words), "{words}: {said}");
    }
    let own = dir.path().join("own.pem");
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=own"])
        .args(["-addext", "subjectAltName=DNS:localhost", "-keyout"])
        .arg(dir.path().join("own.key"))
        .arg("-out")
        .arg(&own)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let signed_by_itself = ServerFiles {
        cert_file: own.clone(),
        key_file: Some(dir.path().join("own.key")),
        ca_file: None,
        verify: VerifyClient::None,
    };
    let trusting = PeerTls { files: TlsFiles { ca_file: Some(own), ..TlsFiles::default() }, insecure: false };
    let said = talk(&ServerTls::open(signed_by_itself).unwrap(), &trusting, "localhost").await.unwrap_err();
    assert!(said.contains("that of an authority: sign one for it"), "{said}");

    let insecure = |name| PeerTls { insecure: true, ..peer(&theirs, name) };
    assert_eq!(talk(&none, &insecure(None), "elsewhere.example").await, Ok(false));
    let expired = ServerTls::open(files(&ours, "late", VerifyClient::None)).expect("a server serves all the same");
    let said = talk(&expired, &peer(&ours, None), "localhost").await.unwrap_err();
    assert!(said.contains("its certificate has expired"), "{said}");
}

#[test]
fn what_cannot_be_used_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let authority = folder(dir.path(), "ours");
    authority.issue("server", DAY);
    authority.issue("other", DAY);
    let good = files(&authority, "server", VerifyClient::Required);
    let file = |name: &str, text: &str| {
        std::fs::write(dir.path().join(name), text).unwrap();
        dir.path().join(name)
    };
    let empty = file("empty.pem", "");
    let broken = file("broken.pem", "-----BEGIN CERTIFICATE-----\nMIIB\n");
    let locked = dir.path().join("locked.key");
    let made = Command::new("openssl")
        .args(["pkcs8", "-topk8", "-v2", "aes-256-cbc", "-passout", "pass:x", "-in"])
        .arg(authority.key("server"))
        .arg("-out")
        .arg(&locked)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    for (wrong, words) in [
        (
            ServerFiles { cert_file: dir.path().join("none.pem"), ..good.clone() },
            "none.pem cannot be read: No such file",
        ),
        (ServerFiles { cert_file: empty.clone(), ..good.clone() }, "empty.pem holds no certificate"),
        (ServerFiles { cert_file: broken, ..good.clone() }, "broken.pem holds no usable certificate"),
        (ServerFiles { key_file: Some(empty.clone()), ..good.clone() }, "empty.pem holds no private key"),
        (ServerFiles { key_file: Some(locked), ..good.clone() }, "has a password, which is not supported: take it off"),
        (ServerFiles { key_file: Some(authority.key("other")), ..good.clone() }, "other.key are no pair"),
        (ServerFiles { key_file: None, ..good.clone() }, "server.pem holds no private key"),
        (ServerFiles { ca_file: Some(empty), ..good.clone() }, "empty.pem holds no certificate"),
        (ServerFiles { ca_file: None, ..good.clone() }, "no file names the authorities"),
    ] {
        let said = ServerTls::open(wrong).unwrap_err();
        assert!(said.contains(words), "{words}: {said}");
    }
    // Both in one file, as many tools make them.
    let both =
        ["server.pem", "server.key"].map(|name| std::fs::read_to_string(dir.path().join("ours").join(name)).unwrap());
    ServerTls::open(ServerFiles { cert_file: file("both.pem", &both.concat()), key_file: None, ..good }).unwrap();
}

#[tokio::test]
async fn a_renewed_certificate_counts_and_a_garbled_one_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, next) = (folder(dir.path(), "ours"), folder(dir.path(), "next"));
    ours.issue("server", DAY);
    let server = ServerTls::open(files(&ours, "server", VerifyClient::None)).unwrap();
    assert_eq!(talk(&server, &peer(&ours, None), "localhost").await, Ok(false));

    // Half of it is there: the certificate is the next one's, the key is not yet.
    next.issue("server", DAY);
    std::fs::copy(next.cert("server"), ours.cert("server")).unwrap();
    server.look();
    let problem = server.problem().unwrap();
    assert!(problem.contains("what was read before stays in use") && problem.contains("are no pair"), "{problem}");
    assert_eq!(talk(&server, &peer(&ours, None), "localhost").await, Ok(false), "it has the one of before");
    std::fs::write(ours.cert("server"), "garbage").unwrap();
    server.look();
    assert!(server.problem().unwrap().contains("server.pem holds no certificate"));

    std::fs::copy(next.cert("server"), ours.cert("server")).unwrap();
    std::fs::copy(next.key("server"), ours.key("server")).unwrap();
    // Nobody says so: it is noticed by a connection, a second after the last look.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(talk(&server, &peer(&next, None), "localhost").await, Ok(false), "it has the new one");
    assert_eq!(server.problem(), None);
}
