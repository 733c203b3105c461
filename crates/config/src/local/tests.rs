//! Files as people write them, right and wrong.

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
fn problems_say_where_they_are() {
    let mut wrong = Vec::new();
    for (from, to, expected) in [
        (
            "scope: main",
            "scoope: main",
            &[
                "line 1, column 1: scoope: unknown key; did you mean 'scope'?",
                "scope: required, but missing; add it to the file or set MATRIARCH_SCOPE",
            ][..],
        ),
        (
            "name: db1",
            "name: 'db 1'",
            &[
                "line 2, column 1: name: 'db 1' is not a member name: 'db 1' cannot be a member name: only a-z, A-Z, 0-9, '_', '.' and '-' are allowed; change the value",
            ],
        ),
        (
            "name: db1",
            "name: 1",
            &[
                "line 2, column 1: name: expected a member name, found 1; put the value in quotes if it is meant as text",
            ],
        ),
        (
            "sqlite: {path: /var/lib/matriarch/store.db}",
            "kubernetes: {namespace: default}",
            &["line 3, column 1: kubernetes: this store comes with a later release; use `etcd3`, `consul` or `sqlite`"],
        ),
        (
            "sqlite: {path: /var/lib/matriarch/store.db}",
            "sqlite: {path: /var/lib/matriarch/store.db}\netcd3: {hosts: [a:2379]}",
            &[
                "line 4, column 1: etcd3: `sqlite` is configured too, and a cluster has one store; keep the one that all members use",
            ],
        ),
        (
            "sqlite: {path: /var/lib/matriarch/store.db}\n",
            "",
            &[
                "line 1, column 1: no store is configured; add one, as in `etcd3: {hosts: [10.0.0.1:2379]}`, or for members on one host `sqlite: {path: /var/lib/matriarch/store.db}`",
            ],
        ),
        (
            "  connect_address: db1.example:5432\n",
            "",
            &[
                "line 6, column 1: postgresql.connect_address: required, since `listen` is a wildcard that others cannot connect to; add it, as in `connect_address: 10.0.0.1:5432`",
            ],
        ),
        (
            "db1.example:5432",
            "'*:5432'",
            &[
                "line 8, column 3: postgresql.connect_address: '*:5432' is not an address: others cannot connect to a wildcard; change the value",
            ],
        ),
        (
            "data_dir: /data/db1",
            "data_dir: data/db1",
            &[
                "line 9, column 3: postgresql.data_dir: 'data/db1' is not a path: it must begin with '/'; change the value",
            ],
        ),
        (
            "/var/lib/matriarch/store.db",
            "/data/db1/store.db",
            &[
                "line 3, column 10: sqlite.path: it lies in the data directory, which is emptied before a clone; choose another place",
            ],
        ),
        (
            "sslmode: require",
            "sslmode: verify-full",
            &[
                "line 12, column 5: postgresql.authentication.replication.sslrootcert: required by this sslmode; add the certificates that are trusted",
            ],
        ),
        (
            "nofailover: yes",
            "nofailver: yes",
            &["line 13, column 8: tags.nofailver: unknown key; did you mean 'nofailover'?"],
        ),
        (
            "rack: r1",
            "failover_priority: 2",
            &["line 13, column 25: tags.failover_priority: it contradicts `nofailover: true`; keep one of them"],
        ),
        (
            "rack: r1",
            "rack: [r1]",
            &["line 13, column 25: tags.rack: expected text, a number, true or false, found a list; change the value"],
        ),
        (
            "encoding: UTF8",
            "encodng: UTF8",
            &[
                "line 15, column 12: bootstrap.initdb[0].encodng: 'encodng' is not an option of initdb that can be set here; did you mean 'encoding'?",
            ],
        ),
        (
            "data-checksums",
            "pwfile: /x",
            &[
                "line 15, column 28: bootstrap.initdb[1].pwfile: 'pwfile' belongs to Matriarch; use postgresql.authentication.superuser.password",
            ],
        ),
        (
            "bootstrap:\n",
            "bootstrap:\n  dcs: {tll: 5}\n",
            &["line 15, column 9: bootstrap.dcs.tll: unknown key; did you mean 'ttl'?"],
        ),
        (
            "bootstrap:\n",
            "bootstrap:\n  restore: {to: latest}\n",
            &[
                "line 15, column 3: bootstrap.restore: it names no archive; add `archive: {repositories: [{location: …}]}` here or under `bootstrap.dcs`",
            ],
        ),
        (
            "bootstrap:\n",
            "bootstrap:\n  restore: {scope: other, from: {tool: tar, location: /a}}\n",
            &[
                "line 15, column 34: bootstrap.restore.from.tool: expected one of pgbackrest, walg, barman, found 'tar'; change the value",
            ],
        ),
        (
            "bootstrap:\n",
            "bootstrap:\n  restore: {from: {tool: walg, location: s3://a, endpoint: 'http://b'}}\n",
            &[
                "line 15, column 50: bootstrap.restore.from.endpoint: it is not encrypted on its way; use https://, or set `allow_http: true` for a store on this host or in a network of its own",
            ],
        ),
        (
            "bootstrap:\n",
            "bootstrap:\n  restore: {scope: other, from: {tool: walg, location: /a}}\n",
            &[
                "line 15, column 13: bootstrap.restore.scope: it says nothing about another tool's repository; remove it, or `from`",
            ],
        ),
        (
            "bootstrap:\n",
            "bootstrap:\n  dump: {name: x}\n  restore: {archive: {repositories: [{location: /a}]}}\n",
            &[
                "line 15, column 3: bootstrap.dump: it names no archive; add `archive: {repositories: [{location: …}]}` here or under `bootstrap.dcs`",
                "line 15, column 3: bootstrap.dump: a cluster is made from a backup or from a dump; remove it, or remove `restore`",
            ],
        ),
        (
            "bootstrap:\n",
            "bootstrap:\n  restore: {to: yesterday, archive: {repositories: [{location: /a}]}}\n",
            &[
                "line 15, column 13: bootstrap.restore.to: 'yesterday' is not a target: expected latest, immediate, a time with its zone (2026-12-24T03:00:00+01:00), a position (0/3000148), xid=NUMBER or name=RESTORE_POINT; change the value",
            ],
        ),
        (
            "bootstrap:\n",
            "bootstrap:\n  restore: {too: latest, tablespace: [x=y], archive: {repositories: [{location: /a}]}}\n",
            &[
                "line 15, column 13: bootstrap.restore.too: unknown key; did you mean 'to'?",
                "line 15, column 39: bootstrap.restore.tablespace[0]: this is not NAME=DIRECTORY: it must begin with '/'; correct the line",
            ],
        ),
        (
            "bootstrap:\n",
            "proxy: {read_write: '127.0.0.1:5432'}\nbootstrap:\n",
            &["line 14, column 9: proxy.read_write: 5432 is also the port of postgresql.listen; choose another port"],
        ),
        (
            "bootstrap:\n",
            "virtual_ip: {address: 10.0.0.5, interface: eth0}\nbootstrap:\n",
            &[
                "line 14, column 14: virtual_ip.address: '10.0.0.5' is not an address with its prefix: the length of the network's prefix is missing, as in 10.0.0.5/24 or 2001:db8::5/64; change the value",
            ],
        ),
        (
            "bootstrap:\n",
            "virtual_ip: {address: 10.0.0.5/33, interface: eth 0}\nbootstrap:\n",
            &[
                "line 14, column 14: virtual_ip.address: '10.0.0.5/33' is not an address with its prefix: what stands after '/' must be a number from 1 to 32; change the value",
                "line 14, column 36: virtual_ip.interface: 'eth 0' is not an interface: it must be the name of an interface as `ip link` shows it: 1 to 15 characters; change the value",
            ],
        ),
        (
            "bootstrap:\n",
            "virtual_ip: {address: 10.0.0.5/24, interface: eth0, label: web}\nbootstrap:\n",
            &[
                "line 14, column 53: virtual_ip.label: it must begin with 'eth0:' and have at most 15 characters; change it, as in `label: eth0:pg`, or remove it",
            ],
        ),
        (
            "bootstrap:\n",
            "virtual_ip: {address: '2001:db8::5/64', interface: eth0, label: 'eth0:pg'}\nbootstrap:\n",
            &["line 14, column 58: virtual_ip.label: addresses of IPv6 have no labels; remove it"],
        ),
        (
            "bootstrap:\n",
            "virtual_ip: {address: 127.0.0.1/8, interface: lo}\nbootstrap:\n",
            &[
                "line 14, column 14: virtual_ip.address: '127.0.0.1/8' is not an address with its prefix: it must be an address that one host of the network can have; change the value",
            ],
        ),
        (
            "postgresql:\n  listen: '*:5432'\n  connect_address: db1.example:5432\n",
            "virtual_ip: {address: 10.0.0.5/24, interface: eth0}\npostgresql:\n  listen: 10.0.0.1:5432\n",
            &[
                "line 8, column 3: postgresql.listen: 10.0.0.5 (virtual_ip.address) comes when this member leads, and PostgreSQL would not listen on it; write `listen: '*:5432'` and this host's own address in `connect_address`",
            ],
        ),
        (
            "postgresql:\n  listen: '*:5432'\n  connect_address: db1.example:5432\n",
            "virtual_ip: {address: 10.0.0.5/24, interface: eth0}\npostgresql:\n  listen: '*:5432'\n  connect_address: 10.0.0.5:5432\n",
            &[
                "line 9, column 3: postgresql.connect_address: it is virtual_ip.address, which is another member's as soon as that leads; give this host's own address",
            ],
        ),
        (
            "bootstrap:\n",
            "proxy: {}\nbootstrap:\n",
            &[
                "line 14, column 1: proxy: the proxy has no port; add `read_write`, `read_only` or both, as in `read_write: 127.0.0.1:5000`, or a PgBouncer as `pooler`",
            ],
        ),
        (
            "bootstrap:\n",
            "proxy: {read_only: db1:1}\nbootstrap:\n",
            &[
                "line 14, column 9: proxy.read_only: 'db1:1' is not an address: the host must be an IP address, 'localhost' or '*'; change the value",
            ],
        ),
        (
            "postgresql:\n",
            "postgresql:\n  parameters: {max_connections: 5}\n",
            &[
                "line 7, column 16: postgresql.parameters.max_connections: it must be the same on every member; set it in the dynamic configuration with `matriarch config set`",
            ],
        ),
        (
            "postgresql:\n",
            "postgresql:\n  callbacks: {on_start: /x}\n",
            &["line 7, column 3: postgresql.callbacks: callbacks are not supported yet; remove it"],
        ),
    ] {
        let found = problems(from, to);
        if found != expected {
            wrong.push(format!("{from:?} -> {to:?}:\n  found    {found:?}\n  expected {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
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

/// The store of the good file with another section in the place of `sqlite`.
fn etcd(section: &str, variables: &[(&str, &str)]) -> Etcd {
    let text = GOOD.replace("sqlite: {path: /var/lib/matriarch/store.db}", section);
    match load(text, variables).unwrap_or_else(|error| panic!("{section}: {error}")).store {
        Store::Etcd(etcd) => etcd,
        other => panic!("{section}: {other:?}"),
    }
}

fn hosts(etcd: &Etcd) -> Vec<String> {
    etcd.hosts.iter().map(ToString::to_string).collect()
}

#[test]
fn etcd_is_named_in_all_the_ways_that_patroni_knows() {
    for section in [
        "etcd3: {hosts: [a:2379, 'b:12379']}",
        "etcd3: {hosts: 'a:2379, b:12379'}",
        "etcd: {hosts: [a, 'b:12379'], protocol: http}",
    ] {
        let etcd = etcd(section, &[]);
        assert_eq!((hosts(&etcd), etcd.tls), (vec!["a:2379".to_owned(), "b:12379".to_owned()], false), "{section}");
    }
    for section in [
        "etcd3: {host: 'a:1', protocol: https}",
        "etcd3: {url: 'https://a:1/'}",
        "etcd3: {url: 'https://a:1', cacert: /ca}",
    ] {
        let etcd = etcd(section, &[]);
        assert_eq!((hosts(&etcd), etcd.tls), (vec!["a:1".to_owned()], true), "{section}");
    }
    let found = etcd("etcd3: {srv: example.org, srv_suffix: blue, cacert: /ca, username: u, password_file: /p}", &[]);
    assert!(found.hosts.is_empty());
    assert_eq!((found.srv.as_deref(), found.srv_suffix.as_deref()), (Some("example.org"), Some("blue")));
}

#[test]
fn etcd_is_overridden_by_the_environment() {
    let variables = [("MATRIARCH_ETCD3_HOSTS", "c:1,d:2"), ("MATRIARCH_ETCD3_PASSWORD", "hunter2")];
    let found = etcd("etcd3: {hosts: a, username: u}", &variables);
    assert_eq!(hosts(&found), ["c:1", "d:2"]);
    assert!(!format!("{found:?}").contains("hunter2"));
    assert_eq!(hosts(&etcd("# none in the file", &[("MATRIARCH_ETCD_HOST", "e:3")])), ["e:3"]);
}

#[test]
fn what_is_wrong_with_etcd_is_told() {
    for (section, wanted) in [
        ("etcd3: {}", "etcd3: no server is named; add `hosts`"),
        ("etcd3: {hosts: a, srv: example.org}", "etcd3.srv: `hosts` is given too; keep one of them"),
        ("etcd3: {hosts: []}", "etcd3.hosts: expected a list of HOST:PORT, or text with commas"),
        ("etcd3: {hosts: ['a b']}", "etcd3.hosts: 'a b' is not an address"),
        (
            "etcd3: {hosts: a, cacert: /ca}",
            "etcd3.cacert: the servers are spoken to without TLS; add `protocol: https`",
        ),
        ("etcd3: {url: 'a:1'}", "etcd3.url: 'a:1' is not a URL: it must begin with http:// or https://"),
        ("etcd3: {url: 'http://a:1', protocol: https}", "etcd3.protocol: the URL says http; make them the same"),
        ("etcd3: {hosts: a, username: u}", "etcd3.password: required with `username`"),
        ("etcd3: {hosts: a, password: p}", "etcd3.username: required with a password"),
        ("etcd3: {hosts: a, host: 'b:1'}", "etcd3.host: `hosts` is given too"),
        ("etcd3: {hosts: a, srv_suffix: x}", "etcd3.srv_suffix: there is no `srv`"),
        ("etcd3: {hosts: a, protocol: https, key: /k}", "etcd3.key: there is no `cert`"),
        ("etcd3: {hosts: a, passwort: p}", "etcd3.passwort: unknown key; did you mean 'password'?"),
    ] {
        let problems = problems("sqlite: {path: /var/lib/matriarch/store.db}", section);
        assert!(problems.iter().any(|problem| problem.contains(wanted)), "{section}: {problems:?}");
    }
}

/// The store of the good file with a section `consul` in the place of `sqlite`.
fn consul(section: &str, variables: &[(&str, &str)]) -> Consul {
    let text = GOOD.replace("sqlite: {path: /var/lib/matriarch/store.db}", section);
    match load(text, variables).unwrap_or_else(|error| panic!("{section}: {error}")).store {
        Store::Consul(consul) => consul,
        other => panic!("{section}: {other:?}"),
    }
}

#[test]
fn consul_is_named_in_all_the_ways_that_patroni_knows() {
    for (section, hosts, tls) in [
        ("consul: {}", "127.0.0.1:8500", false),
        ("consul: {host: a}", "a:8500", false),
        ("consul: {host: 'a:1'}", "a:1", false),
        ("consul: {host: a, port: 1}", "a:1", false),
        ("consul: {port: 1}", "127.0.0.1:1", false),
        ("consul: {host: a, scheme: https, verify: true}", "a:8500", true),
        ("consul: {url: 'https://a'}", "a:8500", true),
        ("consul: {url: 'http://a:1/'}", "a:1", false),
        ("consul: {hosts: [a, 'b:1']}", "a:8500,b:1", false),
        ("consul: {hosts: 'a,b:1'}", "a:8500,b:1", false),
        ("consul: {host: '[::1]'}", "[::1]:8500", false),
        ("consul: {socket: /run/consul.sock}", "", false),
    ] {
        let found = consul(section, &[]);
        let named: Vec<String> = found.hosts.iter().map(ToString::to_string).collect();
        assert_eq!((named.join(",").as_str(), found.tls), (hosts, tls), "{section}");
    }
    let section = "consul: {register_service: on, service_tags: [x, y], service_check_interval: 10s, checks: serfHealth, \
                   consistency: stale, token: hunter2}";
    let found = consul(section, &[("MATRIARCH_CONSUL_SERVICE_TAGS", "z")]);
    assert!(found.register_service && !format!("{found:?}").contains("hunter2"));
    assert_eq!((found.service_tags, found.checks), (vec!["z".to_owned()], vec!["serfHealth".to_owned()]));
    assert_eq!(found.service_check_interval, std::time::Duration::from_secs(10));
    assert_eq!(found.consistency, ConsulConsistency::Stale);
}

#[test]
fn what_is_wrong_with_consul_is_told() {
    for (section, wanted) in [
        ("consul: {host: a, hosts: b}", "consul.hosts: `host` is given too; keep one of them"),
        ("consul: {socket: consul.sock}", "consul.socket"),
        ("consul: {socket: /s, scheme: https}", "consul.scheme: a socket is spoken to without TLS"),
        ("consul: {hosts: []}", "consul.hosts: no server is named"),
        ("consul: {hosts: ['a b']}", "consul.hosts: 'a b' is not an address"),
        ("consul: {url: 'a:1'}", "consul.url: 'a:1' is not a URL: it must begin with http:// or https://"),
        ("consul: {url: 'http://a:1', scheme: https}", "consul.scheme: the URL says http; make them the same"),
        ("consul: {url: 'http://a:1', port: 2}", "consul.port: `url` says where the agent is; remove it"),
        ("consul: {host: 'a:1', port: 2}", "consul.port: `host` has a port too"),
        ("consul: {host: a, cacert: /ca}", "consul.cacert: the agent is spoken to without TLS; add `scheme: https`"),
        ("consul: {scheme: https, key: /k}", "consul.key: there is no `cert`"),
        ("consul: {token: t, token_file: /t}", "consul.token_file: `token` is given too"),
        ("consul: {verify: false}", "consul.verify: the agent's certificate is always verified"),
        ("consul: {consistency: eventual}", "consul.consistency"),
        ("consul: {service_tag: x}", "consul.service_tag: unknown key; did you mean 'service_tags'?"),
    ] {
        let problems = problems("sqlite: {path: /var/lib/matriarch/store.db}", section);
        assert!(problems.iter().any(|problem| problem.contains(wanted)), "{section}: {problems:?}");
    }
}

#[test]
fn a_pooler_beside_the_agent() {
    let role = "superuser: {password: hunter2-super}\n    pooler: {password: hunter2-pooler}";
    let section = "proxy:\n  pooler: {read_write: '*:6432', settings: {default_pool_size: 40, so_keepalive: true}, \
                   addresses: ['p1:6432/app,b'], admin: {username: boss, password: hunter2-admin}}\ntags:";
    let text = GOOD.replace("superuser: {password: hunter2-super}", role).replace("tags:", section);
    let config = load(text, &[]).unwrap();
    assert!(!format!("{config:?}").contains("hunter2"));
    assert_eq!(config.postgresql.authentication.pooler.as_ref().unwrap().username, "matriarch_pooler");
    let pooler = config.proxy.as_ref().and_then(|proxy| proxy.pooler.as_ref()).unwrap();
    assert_eq!(config.postgresql.pooler_dir(pooler), Path::new("/data/db1.pooler"));
    assert_eq!(pooler.settings, BTreeMap::from([("default_pool_size", "40"), ("so_keepalive", "1")].map(texts)));
    assert_eq!((pooler.addresses[0].address.port, pooler.addresses[0].databases.len()), (6432, 2));
}

fn texts((name, value): (&str, &str)) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

#[test]
fn what_is_wrong_with_a_pooler_is_told() {
    for (section, wanted) in [
        ("{read_write: '*:6432'}", "proxy.pooler: it must know the roles' passwords; add a role for it"),
        ("{auth_file: /users}", "proxy.pooler: there is no PgBouncer; add `read_write: 0.0.0.0:6432`"),
        ("{addresses: ['p1:6432']}", "proxy.pooler.admin: required with `addresses`"),
        ("{admin: {username: a, password: b}, auth_file: /u, read_only: '*:1'}", "proxy.pooler.admin: there are no"),
        ("{addresses: ['p1']}", "'p1' is no address of a PgBouncer (the port is missing"),
        (
            "{read_write: '*:5432', auth_file: /u}",
            "proxy.pooler.read_write: 5432 is also the port of postgresql.listen",
        ),
        ("{read_write: '*:6432', auth_file: /data/db1/u}", "proxy.pooler.auth_file: it lies in the data directory"),
        (
            "{read_write: '*:6432', auth_file: /u, setings: {}}",
            "proxy.pooler.setings: unknown key; did you mean 'settings'?",
        ),
        (
            "{read_write: '*:6432', auth_file: /u, settings: {auth_query: x}}",
            "proxy.pooler.settings.auth_query: PgBouncer's auth_query belongs to Matriarch; Matriarch keeps",
        ),
        ("{read_write: '*:6432', auth_file: /u, settings: {a: [1]}}", "proxy.pooler.settings.a: expected text"),
    ] {
        let problems = problems("tags:", &format!("proxy: {{pooler: {section}}}\ntags:"));
        assert!(problems.iter().any(|problem| problem.contains(wanted)), "{section}: {problems:?}");
    }
    let role = "superuser: {password: x}\n    pooler: {username: postgres, password: x}";
    let found = problems("superuser: {password: hunter2-super}", role);
    assert!(
        found.iter().any(|problem| problem.contains("pooler.username: it is also the role `superuser`")),
        "{found:?}"
    );
}
