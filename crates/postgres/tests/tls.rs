//! Streaming and cloning over TLS between two servers.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{LONG, Lab, Node, caught_up, majors, until, value};
use matriarch_postgres::clone::{CloneError, CloneOptions, CloneProgress, clone_from};
use matriarch_postgres::conf::{self, ServerTls, Settings};
use matriarch_postgres::rewind::{RewindError, rewind};
use matriarch_postgres::{Source, StartAs, check, hba};

fn openssl(arguments: &[&str]) {
    let done = Command::new("openssl").args(arguments).output().unwrap();
    assert!(done.status.success(), "openssl {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
}

/// An authority and, signed by it, a certificate for 127.0.0.1.
struct Authority {
    ca: PathBuf,
    cert: PathBuf,
    key: PathBuf,
}

impl Authority {
    fn new(dir: &Path, name: &str, node: &Node) -> Authority {
        let path = |what: &str| dir.join(format!("{name}-{what}"));
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        let (ca, ca_key, cert, key, request, names) =
            (path("ca.crt"), path("ca.key"), path("server.crt"), path("server.key"), path("csr"), path("ext"));
        let subject = format!("/CN=authority {name}");
        let new_ca = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"];
        openssl(&[&new_ca[..], &["-subj", &subject, "-keyout", &text(&ca_key), "-out", &text(&ca)]].concat());
        let new_key = ["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=server"];
        openssl(&[&new_key[..], &["-keyout", &text(&key), "-out", &text(&request)]].concat());
        std::fs::write(&names, "subjectAltName=IP:127.0.0.1").unwrap();
        let (request, names) = (text(&request), text(&names));
        let sign = ["x509", "-req", "-in", &request, "-extfile", &names, "-days", "1", "-CAcreateserial"];
        openssl(&[&sign[..], &["-CA", &text(&ca), "-CAkey", &text(&ca_key), "-out", &text(&cert)]].concat());
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
        if let Some(owner) = &node.instance.owner {
            chown(&key, Some(owner.uid), Some(owner.gid)).unwrap();
        }
        for readable in [&ca, &cert] {
            std::fs::set_permissions(readable, std::fs::Permissions::from_mode(0o644)).unwrap();
        }
        Authority { ca, cert, key }
    }

    fn server(&self) -> ServerTls {
        ServerTls { cert_file: self.cert.clone(), key_file: self.key.clone(), ca_file: Some(self.ca.clone()) }
    }
}

fn source(node: &Node, mode: &str, ca: Option<&Path>) -> Source {
    let mut source = node.source();
    source.options.insert("sslmode".into(), mode.into());
    source.options.extend(ca.map(|ca| ("sslrootcert".to_owned(), ca.to_str().unwrap().to_owned())));
    source
}

/// Wheels are built without TLS.
async fn has_tls(node: &Node) -> bool {
    let mut effective = conf::effective(&node.instance, &Settings::default()).unwrap();
    effective.insert("ssl".into(), "on".into());
    node.instance.prepare_run_dir().unwrap();
    let refused = check::take_out_refused(&node.instance, &mut effective).await.unwrap();
    !refused.iter().any(|error| error.name.as_deref() == Some("ssl"))
}

#[tokio::test]
async fn members_stream_over_tls_and_know_whom_they_trust() {
    for binaries in majors() {
        let lab = Lab::new(&binaries);
        let (mut a, mut b) = (lab.node("a"), lab.node("b"));
        a.bootstrap_only().await;
        if !has_tls(&a).await {
            eprintln!("skipped: PostgreSQL {} here has no TLS", binaries.version().major);
            continue;
        }
        let (ours, other) = (Authority::new(lab.path(), "ours", &a), Authority::new(lab.path(), "other", &a));
        a.settings.tls = Some(ours.server());
        let (_a_postmaster, a_sql) = a.start(StartAs::Primary).await;
        matriarch_postgres::roles::create_roles(&a_sql, &a.instance).await.unwrap();
        let rules = hba::Rules { require_tls: true, ..hba::Rules::default() };
        assert_eq!(hba::install(&a.instance, &rules, &a_sql).await.unwrap(), []);
        a_sql.reload().await.unwrap();
        a_sql.create_slot("b").await.unwrap();

        let (progress, _watch) = tokio::sync::watch::channel(CloneProgress::default());
        let options = CloneOptions { extra: vec!["--no-sync".into()], ..CloneOptions::default() };
        until("plain connections are refused", async || {
            let plain = clone_from(&b.instance, &source(&a, "disable", None), &options, &progress).await;
            matches!(&plain, Err(CloneError::Refused { said, .. }) if said.contains("pg_hba.conf rejects"))
        })
        .await;
        let stranger = source(&a, "verify-full", Some(&other.ca));
        let error = clone_from(&b.instance, &stranger, &options, &progress).await.unwrap_err();
        assert!(matches!(&error, CloneError::Untrusted { .. }), "{error}");
        for part in ["certificate", "sslrootcert", "ca_file", "127.0.0.1"] {
            assert!(error.to_string().contains(part), "no '{part}' in: {error}");
        }

        let trusted = source(&a, "verify-full", Some(&ours.ca));
        clone_from(&b.instance, &trusted, &options, &progress).await.unwrap();
        b.follow(&a);
        b.settings.upstream.as_mut().unwrap().source = trusted;
        let (b_postmaster, b_sql) = b.start(StartAs::Standby).await;
        caught_up(&a_sql, &b_sql).await;
        let query = "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_replication USING (pid)";
        assert_eq!(value(&a_sql, query).await, "t");

        // Trust that is lost later is told in the log of the replica.
        b.settings.upstream.as_mut().unwrap().source = stranger.clone();
        b.write_files();
        b_sql.reload().await.unwrap();
        until("the replica says that it does not trust the primary", async || {
            b_postmaster.log_tail().contains("certificate verify failed")
        })
        .await;
        drop(b_sql);
        matriarch_postgres::process::kill_tree_async(&b.instance.data_dir, LONG).await.unwrap();
        let error = rewind(&b.instance, &stranger, 1).await.unwrap_err();
        assert!(matches!(&error, RewindError::Untrusted { .. }), "{error}");
    }
}
