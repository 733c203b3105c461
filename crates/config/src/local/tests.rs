//! Files as people write them, right and wrong.

mod pooler;
mod problems;
mod restapi;
mod stores;

use std::ffi::OsString;
use std::io::Write;

use tempfile::NamedTempFile;

use super::*;
use crate::ConfigError;

const GOOD: &str = "\
scope: main
name: db1
sqlite: {path: /var/lib/matriarch/store.db}
restapi:
  authentication: {username: admin, password: hunter2-api}
postgresql:
  listen: '*:5432'
  connect_address: db1.example:5432
  data_dir: /data/db1
  authentication:
    superuser: {password: hunter2-super}
    replication: {password: hunter2-replication, sslmode: require}
tags: {nofailover: yes, rack: r1, age: 7}
bootstrap:
  initdb: [encoding: UTF8, data-checksums, {locale: C.UTF-8, wal-segsize: 64}]
";

fn file(text: impl AsRef<[u8]>) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(text.as_ref()).unwrap();
    file
}

fn load(text: impl AsRef<[u8]>, variables: &[(&str, &str)]) -> Result<LocalConfig, ConfigError> {
    let environment =
        |name: &str| variables.iter().find(|(variable, _)| *variable == name).map(|(_, value)| OsString::from(value));
    LocalConfig::load_with(file(text).path(), &environment)
}

/// The message for a bad file, without the file's name.
fn error(text: impl AsRef<[u8]>) -> String {
    let file = file(text);
    let error = LocalConfig::load_with(file.path(), &|_| None).unwrap_err().to_string();
    error.replace(&file.path().display().to_string(), "FILE")
}

/// The problems in the good file with a change made to it.
fn problems(from: &str, to: &str) -> Vec<String> {
    assert!(GOOD.contains(from), "{from:?} is not in the file");
    match load(GOOD.replacen(from, to, 1), &[]) {
        Err(ConfigError::Invalid { problems, .. }) => problems.0.iter().map(ToString::to_string).collect(),
        other => panic!("{from:?} -> {to:?}: {other:?}"),
    }
}

#[test]
fn a_good_file_is_read_with_defaults() {
    let config = load(GOOD, &[]).unwrap();
    assert_eq!(config.prefix(), "/service/main/");
    assert_eq!(config.log, Log { level: LogLevel::Info, format: LogFormat::Text, postgresql: PostgresLog::Stream });
    assert_eq!(config.restapi.connect_address.to_string(), "127.0.0.1:8008");
    assert_eq!(config.store, Store::Sqlite { path: "/var/lib/matriarch/store.db".into() });
    assert_eq!(config.postgresql.run_dir(), Path::new("/data/db1.run"));
    assert_eq!(config.postgresql.pgpass, None);
    assert_eq!(config.postgresql.authentication.replication.username, "replicator");
    assert_eq!(config.postgresql.authentication.rewind().username, "postgres");
    assert!(!config.tags.may_lead());
    assert_eq!(Value::Object(config.tags.to_json()), serde_json::json!({"nofailover": true, "rack": "r1", "age": 7}));
    let options: Vec<String> = config.bootstrap.initdb.iter().map(|o| format!("{}={:?}", o.name, o.value)).collect();
    assert_eq!(
        options,
        ["encoding=Some(\"UTF8\")", "data-checksums=None", "locale=Some(\"C.UTF-8\")", "wal-segsize=Some(\"64\")"]
    );
    assert_eq!(config.bootstrap.dcs, serde_json::json!({}));
    assert_eq!(config.bootstrap.restore, None);
    assert_eq!(config.proxy, None);
}

#[test]
fn a_cluster_from_a_backup() {
    let restore = "bootstrap:\n  restore:\n    to: 2026-11-22T05:00:00Z\n    scope: other\n    tablespace: [fast=/srv/fast]\n    \
        archive: {repositories: [{location: /srv/archive}]}\n";
    let restore = load(GOOD.replacen("bootstrap:\n", restore, 1), &[]).unwrap().bootstrap.restore.unwrap();
    let time = crate::RestoreTarget::Time("2026-11-22T05:00:00Z".parse().unwrap());
    assert_eq!((restore.to, restore.scope.as_deref()), (time, Some("other")));
    assert_eq!(
        (restore.timeline, restore.no_tail, restore.tablespace),
        (None, false, vec!["fast=/srv/fast".to_owned()])
    );
    assert_eq!(restore.archive.unwrap().repositories[0].location.to_string(), "/srv/archive");
    let from = "bootstrap:\n  restore:\n    from: {tool: walg, location: s3://b/p, endpoint: 'http://127.0.0.1:1', allow_http: true}\n";
    let from = load(GOOD.replacen("bootstrap:\n", from, 1), &[]).unwrap().bootstrap.restore.unwrap().from.unwrap();
    assert_eq!((from.tool.as_str(), from.location.to_string()), ("walg", "s3://b/p".to_owned()));
    assert_eq!(
        (from.repository().endpoint.as_deref(), from.repository().path_style),
        (Some("http://127.0.0.1:1"), true)
    );
}

#[test]
fn a_cluster_from_a_dump() {
    let dump = "bootstrap:\n  dump:\n    scope: other\n    databases: [shop]\n    jobs: 4\n    \
        archive: {repositories: [{location: /srv/archive}]}\n";
    let dump = load(GOOD.replacen("bootstrap:\n", dump, 1), &[]).unwrap().bootstrap.dump.unwrap();
    assert_eq!((dump.name, dump.scope.as_deref(), dump.jobs), (None, Some("other"), 4));
    assert_eq!((dump.databases, dump.no_tablespaces), (vec!["shop".to_owned()], false));
    assert_eq!(dump.archive.unwrap().repositories[0].location.to_string(), "/srv/archive");
}

#[test]
fn secrets_are_not_shown() {
    let config = load(GOOD, &[]).unwrap();
    let debug = format!("{config:?} {config:#?}");
    assert!(!debug.contains("hunter2"), "{debug}");
    assert_eq!(config.postgresql.authentication.superuser.password.unwrap().reveal(), "hunter2-super");
    for bad in [
        GOOD.replace("{password: hunter2-super}", "hunter2-super"),
        GOOD.replace("password: hunter2-super", "password: [hunter2-super]"),
        GOOD.replace("password: hunter2-super", "password: \"hunter2\\nsuper\""),
        GOOD.replace("password: hunter2-super", "pasword: hunter2-super"),
        GOOD.replace("password: hunter2-super", "password: *hunter2-super"),
        GOOD.replace("password: hunter2-super", "password: !hunter2 super"),
        GOOD.replace("password: hunter2-super", "password: @hunter2-super"),
        GOOD.replace("password: hunter2-super", "password: \"hunter2-super"),
        GOOD.replace("password: hunter2-super", "password: hunter2: super"),
    ] {
        let error = load(&bad, &[]).unwrap_err();
        let text = format!("{error} {error:?}");
        assert!(!text.contains("hunter2"), "{text}");
    }
}

#[test]
fn the_environment_wins_over_the_file() {
    let config = load(
        GOOD,
        &[
            ("MATRIARCH_NAME", "db9"),
            ("MATRIARCH_SUPERUSER_PASSWORD", "null: [#"),
            ("MATRIARCH_PROXY_READ_WRITE", "*:5000"),
            ("MATRIARCH_LOG_LEVEL", "DEBUG"),
        ],
    )
    .unwrap();
    assert_eq!(config.name.as_str(), "db9");
    assert_eq!(config.postgresql.authentication.superuser.password.unwrap().reveal(), "null: [#");
    assert_eq!(config.log.level, LogLevel::Debug);
    assert_eq!(config.proxy.unwrap().read_write.unwrap().socket_addrs(), ["0.0.0.0:5000".parse().unwrap()]);
    let error = load(GOOD, &[("MATRIARCH_RESTAPI_LISTEN", "nowhere")]).unwrap_err().to_string();
    assert!(
        error.ends_with("environment variable MATRIARCH_RESTAPI_LISTEN: restapi.listen: 'nowhere' is not an address: the port is missing, as in 127.0.0.1:5432; change the value"),
        "{error}"
    );
}

#[test]
fn broken_files_are_explained() {
    for (text, expected) in [
        ("", "FILE, line 1, column 1: the document is empty; write at least one key, as in `scope: main`"),
        ("# only\n", "FILE, line 1, column 1: the document is empty; write at least one key, as in `scope: main`"),
        (
            "scope: a\nscope: b\n",
            "FILE, line 2, column 1: the key 'scope' is here for the second time; keep one of them",
        ),
        ("a: &x 1\n<<: *x\n", "FILE, line 2, column 1: merge keys (`<<`) are not supported; write the keys out"),
        (
            "a: *x\n",
            "FILE, line 1, column 4: `*` begins an alias, but no such anchor exists; put the text in quotes if it begins with *",
        ),
        ("a: &x [*x]\n", "FILE, line 1, column 8: this alias stands inside its own anchor; write the value out"),
        (
            "a: !vault x\n",
            "FILE, line 1, column 11: this tag (`!…`) does not fit here; remove the tag, or put the text in quotes",
        ),
        (
            "a: 1\n---\nb: 1\n",
            "FILE, line 2, column 1: a second document begins here; keep one document in the file and remove the `---`",
        ),
    ] {
        assert_eq!(error(text), expected, "{text:?}");
    }
    let tab = error("a:\n\tb: 1\n");
    assert!(
        tab.starts_with("FILE, line 2, ") && tab.ends_with("indent with spaces, YAML does not allow tabs there"),
        "{tab}"
    );
    assert!(error(b"a: \xff\n").starts_with("FILE is not text (byte 3 is not UTF-8, or is zero)"));
    assert!(error(b"\0\0\0").starts_with("FILE is not text (byte 0"));
    assert!(error("a".repeat(2 << 20)).starts_with("FILE is larger than 1048576 bytes"));
    let missing = LocalConfig::load("/nonexistent/x.yaml").unwrap_err().to_string();
    assert!(missing.starts_with("cannot read /nonexistent/x.yaml: No such file"), "{missing}");
    let directory = LocalConfig::load("/").unwrap_err().to_string();
    assert!(directory.contains("Is a directory"), "{directory}");
    assert!(LocalConfig::load("/dev/zero").unwrap_err().to_string().contains("is larger than"));
}

#[test]
fn half_a_file_is_never_accepted_silently_broken() {
    for end in 0..GOOD.len() {
        if let Err(error) = load(&GOOD[..end], &[]) {
            assert!(!error.to_string().contains("a bug"), "cut at {end}: {error}");
        }
    }
}

#[test]
fn bombs_do_not_go_off() {
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
    for level in 1..20 {
        let before = level - 1;
        let aliases = vec![format!("*a{before}"); 9].join(", ");
        bomb.push_str(&format!("a{level}: &a{level} [{aliases}]\n"));
    }
    assert!(error(bomb).contains("the aliases expand to too much"));
    let chain: String = (1..200).map(|i| format!("b{i}: &b{i} [[[[*b{}]]]]\n", i - 1)).collect();
    assert!(error(format!("b0: &b0 x\n{chain}")).contains("the aliases expand to too much"));
    for deep in ["[".repeat(5000), "{a: ".repeat(5000), "- ".repeat(5000), "? ".repeat(5000)] {
        error(deep);
    }
    let wide = format!("scope: [{}]", "x,".repeat(400_000));
    assert!(error(wide).contains("too large or nested too deeply"));
}

#[test]
fn a_trusted_authority_is_used_by_replicas_too() {
    let tls = "postgresql:\n  tls: {cert_file: /tls/c, key_file: /tls/k, ca_file: /tls/ca, require: true}";
    let config = load(GOOD.replacen("postgresql:", tls, 1), &[]).unwrap().postgresql;
    let libpq = |role: &Role| config.libpq(role).into_iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>();
    assert_eq!(libpq(&config.authentication.replication), ["sslmode=require", "sslrootcert=/tls/ca"]);
    assert_eq!(libpq(&config.authentication.superuser), ["sslmode=verify-ca", "sslrootcert=/tls/ca"]);
    let found =
        problems("sslmode: require}\n", "sslmode: prefer}\n  tls: {cert_file: /c, key_file: /c, require: true}\n");
    assert!(found.iter().any(|text| text.contains("it is the certificate's file")), "{found:?}");
    let found =
        problems("sslmode: require}\n", "sslmode: prefer}\n  tls: {cert_file: /c, key_file: /k, require: true}\n");
    assert!(found.iter().any(|text| text.contains("'prefer' contradicts")), "{found:?}");
    let found =
        problems("  data_dir: /data/db1\n", "  data_dir: /data/db1\n  tls: {cert_file: /c, key_file: /data/db1/k}\n");
    assert!(found.iter().any(|text| text.contains("emptied before a clone")), "{found:?}");
}
