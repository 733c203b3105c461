//! The certificates that a member uses, and when they end.

use std::path::Path;

use jiff::Timestamp;
use matriarch_api::CertificateRow;
use matriarch_config::{LocalConfig, Store};
use x509_parser::pem::Pem;

const DAY: i64 = 86_400;
/// Purposes of certificates that servers show: the first of the file is their own, the rest its chain.
const SERVER: &str = "server";
const REST: &str = "restapi";

/// Every certificate that the local configuration names: the server's, the authorities, the roles' own, and what the store is
/// shown, and what the API and its clients have; of a file with several the one that ends first (of a server's file the first, which
/// is its own). A file that cannot be read
/// has a row that says so. Reads the files.
pub fn certificates(config: &LocalConfig) -> Vec<CertificateRow> {
    let local = &config.postgresql;
    let mut named: Vec<(String, &Path)> = Vec::new();
    if let Some(tls) = &local.tls {
        named.push((SERVER.to_owned(), &tls.cert_file));
        named.extend(tls.ca_file.iter().map(|file| ("ca".to_owned(), file.as_path())));
    }
    let authentication = &local.authentication;
    for (name, role) in [("replication", &authentication.replication), ("rewind", authentication.rewind())] {
        named.extend(role.sslcert.iter().map(|file| (name.to_owned(), file.as_path())));
        named.extend(role.sslrootcert.iter().map(|file| (format!("{name} ca"), file.as_path())));
    }
    let (restapi, ctl) = (&config.restapi, &config.ctl);
    for (purpose, file) in
        [(REST, &restapi.certfile), ("restapi ca", &restapi.cafile), ("ctl", &ctl.certfile), ("ctl ca", &ctl.cacert)]
    {
        named.extend(file.iter().map(|file| (purpose.to_owned(), file.as_path())));
    }
    let (cert, ca) = match &config.store {
        Store::Etcd(etcd) => (&etcd.cert, &etcd.cacert),
        Store::Consul(consul) => (&consul.cert, &consul.cacert),
        Store::Sqlite { .. } => (&None, &None),
    };
    for (purpose, file) in [("store", cert), ("store ca", ca)] {
        named.extend(file.iter().map(|file| (purpose.to_owned(), file.as_path())));
    }
    let now = Timestamp::now();
    named.into_iter().map(|(purpose, path)| row(purpose, path, now)).collect()
}

/// Of the certificates in a file the one that ends last: whose it is, and its first and last moment. None when there is none.
pub(crate) fn last(path: &Path) -> Option<(String, Timestamp, Timestamp)> {
    let bytes = std::fs::read(path).ok()?;
    let found = Pem::iter_from_buffer(&bytes).flatten().filter_map(|pem| {
        let certificate = pem.parse_x509().ok()?;
        let (begin, end) = (certificate.validity().not_before, certificate.validity().not_after);
        let time = |time: x509_parser::time::ASN1Time| Timestamp::from_second(time.timestamp()).ok();
        Some((certificate.subject().to_string(), time(begin)?, time(end)?))
    });
    found.max_by_key(|(.., end)| *end)
}

/// What a person must do about certificates, if anything: those that have ended, or cannot be read.
pub fn problem(rows: &[CertificateRow]) -> Option<String> {
    let row = rows.iter().find(|row| row.not_after.is_empty() || row.days_left < 0)?;
    let CertificateRow { purpose, path, subject, not_after, .. } = row;
    Some(match not_after.as_str() {
        "" => format!("the {purpose} certificate {path} cannot be used: {subject}"),
        _ => format!("the {purpose} certificate {path} ({subject}) expired at {not_after}: replace it and reload"),
    })
}

fn row(purpose: String, path: &Path, now: Timestamp) -> CertificateRow {
    let found = std::fs::read(path).map_err(|error| error.to_string()).and_then(|bytes| read(&bytes, &purpose));
    let path = path.display().to_string();
    match found {
        Ok((subject, end)) => CertificateRow {
            purpose,
            path,
            subject,
            not_after: end.to_string(),
            days_left: (end.as_second() - now.as_second()).div_euclid(DAY),
        },
        Err(reason) => CertificateRow { purpose, path, subject: reason, ..CertificateRow::default() },
    }
}

fn read(bytes: &[u8], purpose: &str) -> Result<(String, Timestamp), String> {
    let mut found = Vec::new();
    for pem in Pem::iter_from_buffer(bytes) {
        let pem = pem.map_err(|error| format!("it is not a PEM file: {error}"))?;
        if pem.label != "CERTIFICATE" {
            continue;
        }
        let certificate = pem.parse_x509().map_err(|error| format!("it holds no X.509 certificate: {error}"))?;
        let end = Timestamp::from_second(certificate.validity().not_after.timestamp());
        found.push((certificate.subject().to_string(), end.map_err(|error| error.to_string())?));
    }
    let own = [SERVER, REST].contains(&purpose);
    let chosen = if own { found.into_iter().next() } else { found.into_iter().min_by_key(|one| one.1) };
    chosen.ok_or_else(|| "it holds no certificate".to_owned())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn config(dir: &Path) -> LocalConfig {
        let file = |name: &str| dir.join(name);
        LocalConfig::from_json(&serde_json::json!({
            "scope": "main", "name": "a", "sqlite": {"path": "/s/store.db"},
            "postgresql": {
                "listen": "127.0.0.1:5432", "data_dir": "/d/data",
                "tls": {"cert_file": file("server.crt"), "key_file": file("server.key"), "ca_file": file("ca.crt")},
            },
        }))
        .unwrap()
    }

    fn make(dir: &Path, name: &str, days: &str) {
        let (key, cert) = (dir.join(format!("{name}.key")), dir.join(format!("{name}.crt")));
        let mut command = Command::new("openssl");
        command.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", days]);
        command.arg("-subj").arg(format!("/CN={name}")).arg("-keyout").arg(key).arg("-out").arg(cert);
        let done = command.output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }

    #[test]
    fn tells_whose_and_how_long() {
        let dir = tempfile::tempdir().unwrap();
        make(dir.path(), "server", "10");
        make(dir.path(), "ca", "400");
        let rows = certificates(&config(dir.path()));
        let short: Vec<_> = rows.iter().map(|row| (row.purpose.as_str(), row.subject.as_str())).collect();
        assert_eq!(short, [("server", "CN=server"), ("ca", "CN=ca")]);
        // Whether a second has passed since decides about the last day.
        assert!((9..=10).contains(&rows[0].days_left) && (399..=400).contains(&rows[1].days_left), "{rows:?}");
        assert!(rows[0].not_after.ends_with('Z'), "{rows:?}");
        assert_eq!(problem(&rows), None);
    }

    #[test]
    fn what_the_store_is_shown_is_told_too() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| dir.path().join(name);
        make(dir.path(), "agent", "10");
        let mut json = serde_json::json!({
            "scope": "main", "name": "a",
            "etcd3": {"hosts": ["10.0.0.1:2379"], "protocol": "https", "cert": file("agent.crt"), "key": file("agent.key")},
            "postgresql": {"listen": "127.0.0.1:5432", "data_dir": "/d/data"},
        });
        let told = |json: &serde_json::Value| {
            let rows = certificates(&LocalConfig::from_json(json).unwrap());
            rows.into_iter().map(|row| (row.purpose, row.subject)).collect::<Vec<_>>()
        };
        assert_eq!(told(&json), [("store".to_owned(), "CN=agent".to_owned())]);
        json["etcd3"]["cacert"] = serde_json::json!(file("none.crt"));
        assert!(
            matches!(told(&json).as_slice(), [_, (ca, reason)] if ca == "store ca" && reason.contains("No such file"))
        );
    }

    #[test]
    fn what_has_ended_or_is_no_certificate_is_a_problem() {
        let dir = tempfile::tempdir().unwrap();
        make(dir.path(), "server", "10");
        make(dir.path(), "ca", "10");
        let later = Timestamp::now() + jiff::SignedDuration::from_hours(24 * 20);
        let expired = row("server".into(), &dir.path().join("server.crt"), later);
        assert!(expired.days_left < -9, "{expired:?}");
        assert!(problem(&[expired]).unwrap().contains("(CN=server) expired at"));

        std::fs::write(dir.path().join("server.crt"), "no certificate").unwrap();
        std::fs::remove_file(dir.path().join("ca.crt")).unwrap();
        let rows = certificates(&config(dir.path()));
        assert_eq!(rows[0].subject, "it holds no certificate");
        assert!(rows[1].subject.contains("No such file"), "{rows:?}");
        assert!(problem(&rows).unwrap().contains("server.crt cannot be used: it holds no certificate"));
    }
}
