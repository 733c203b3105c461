//! Every key of the local configuration.

use serde_json::{Map, Value};

use super::initdb;
use super::rules;
use crate::address::{Address, Listen};
use crate::dynamic;
use crate::hba::{hba_line, ident_line};
use crate::parameters;
use crate::problem::Problems;
use crate::schema::{Effect, Key, Kind, Rule, absolute_path, key, one_line, refused};

const LATER: &str = "this store comes with a later release";
const USE_SQLITE: &str = "use `sqlite` for now";
const DYNAMIC: &str = "it belongs to the dynamic configuration, which is the same for every member";
const PUT_IN_DCS: &str = "put it under `bootstrap.dcs` (new clusters) or use `matriarch config set`";

/// The whole table.
pub(crate) const KEYS: &[Key] = &[
    key(
        "scope",
        Kind::Text { what: "a cluster name", check: scope_name },
        "Name of the cluster; the same on every host.",
    )
    .required()
    .effect(Effect::Restart)
    .env("MATRIARCH_SCOPE"),
    key(
        "namespace",
        Kind::Text { what: "a namespace", check: namespace },
        "Where clusters live in the store; the keys of this one are under `<namespace>/<scope>/`.",
    )
    .default("\"/service\"")
    .effect(Effect::Restart)
    .env("MATRIARCH_NAMESPACE"),
    key(
        "name",
        Kind::Text { what: "a member name", check: member_name },
        "Name of this member, unique within the cluster.",
    )
    .required()
    .effect(Effect::Restart)
    .env("MATRIARCH_NAME"),
    key("log", Kind::Section { keys: LOG, rule: None }, "The agent's log.").effect(Effect::Mixed),
    key("restapi", Kind::Section { keys: RESTAPI, rule: Some(rules::restapi as Rule) }, "The agent's REST API.")
        .effect(Effect::Restart),
    key("sqlite", Kind::Section { keys: SQLITE, rule: None }, "The store for members on one host: a SQLite file.")
        .default("null")
        .effect(Effect::Restart),
    key("bootstrap", Kind::Section { keys: BOOTSTRAP, rule: None }, "How a new cluster is made.")
        .effect(Effect::Bootstrap),
    key("postgresql", Kind::Section { keys: POSTGRESQL, rule: Some(rules::postgresql as Rule) }, "This PostgreSQL.")
        .effect(Effect::Mixed),
    key(
        "tags",
        Kind::Open { keys: TAGS, rule: Some(rules::tags as Rule) },
        "What is special about this member. Keys of your own are published with it.",
    ),
    key(
        "proxy",
        Kind::Section { keys: PROXY, rule: Some(rules::proxy as Rule) },
        "The routing proxy in this agent. Left out: no proxy.",
    )
    .default("null")
    .effect(Effect::Restart),
    refused("etcd", LATER, USE_SQLITE, &[]),
    refused("etcd3", LATER, USE_SQLITE, &[]),
    refused("consul", LATER, USE_SQLITE, &[]),
    refused("kubernetes", LATER, USE_SQLITE, &[]),
    refused("zookeeper", "this store is not supported", USE_SQLITE, &[]),
    refused("exhibitor", "this store is not supported", USE_SQLITE, &[]),
    refused("raft", "this store is not supported", USE_SQLITE, &[]),
    refused(
        "store",
        "there is no such section",
        "name the store itself, as in `sqlite: {path: /var/lib/matriarch/store.db}`",
        &[],
    ),
    refused(
        "dcs",
        "there is no such section here",
        "put the dynamic configuration under `bootstrap.dcs`, and name the store itself, as in `sqlite`",
        &[],
    ),
    refused(
        "watchdog",
        "hardware watchdogs are not supported yet; the guard stops PostgreSQL",
        "remove it",
        &["{\"mode\":\"off\"}"],
    ),
    refused("citus", "Citus clusters are not supported yet", "remove it", &[]),
    refused("ctl", "the command line needs no section of its own", "remove it", &[]),
    refused("callbacks", "callbacks are not supported yet", "remove it", &["{}"]),
];

const LOG: &[Key] = &[
    key(
        "level",
        Kind::Choice(&["trace", "debug", "info", "warn", "warning", "error", "critical"]),
        "Least severity that is logged.",
    )
    .default("\"info\"")
    .env("MATRIARCH_LOG_LEVEL"),
    key("format", Kind::Choice(&["text", "json"]), "`text` for people, `json` (one object a line) for machines.")
        .default("\"text\"")
        .effect(Effect::Restart)
        .env("MATRIARCH_LOG_FORMAT"),
    key(
        "postgresql",
        Kind::Text { what: "`stream` or a path", check: stream_or_path },
        "Where PostgreSQL's own log goes: a file, or `stream` to send it line by line through the agent's log.",
    )
    .default("\"stream\"")
    .effect(Effect::Restart)
    .env("MATRIARCH_LOG_POSTGRESQL"),
    refused("type", "it is called `format` here", "write `format: text` or `format: json`", &["\"plain\""]),
    refused("dir", "the agent logs to standard error", "remove it; systemd or your supervisor keeps the log", &[]),
    refused("file_num", "the agent logs to standard error", "remove it", &[]),
    refused("file_size", "the agent logs to standard error", "remove it", &[]),
    refused("mode", "the agent logs to standard error", "remove it", &[]),
    refused("traceback_level", "there are no tracebacks", "remove it", &[]),
    refused("dateformat", "the format of the time is fixed", "remove it", &[]),
    refused("static_fields", "extra fields are not supported yet", "remove it", &[]),
    refused("max_queue_size", "there is no queue", "remove it", &[]),
    refused("loggers", "levels for parts of the agent are not supported yet", "use `level`", &[]),
];

const RESTAPI: &[Key] = &[
    key("listen", Kind::Text { what: "an address", check: bind_address }, "Address and port of the API.")
        .default("\"127.0.0.1:8008\"")
        .env("MATRIARCH_RESTAPI_LISTEN"),
    key(
        "connect_address",
        Kind::Text { what: "an address", check: peer_address },
        "Where other members reach the API; `listen` when that is one address others can use.",
    )
    .env("MATRIARCH_RESTAPI_CONNECT_ADDRESS"),
    key("token", Kind::Secret, "What clients must send (`Authorization: Bearer …`) to change something.")
        .env("MATRIARCH_RESTAPI_TOKEN"),
    key(
        "token_file",
        Kind::Text { what: "a path", check: absolute_path },
        "File that holds the token, instead of `token`.",
    )
    .env("MATRIARCH_RESTAPI_TOKEN_FILE"),
    key(
        "authentication",
        Kind::Section { keys: CREDENTIALS, rule: None },
        "Basic authentication, accepted beside the token, for tools made for Patroni.",
    )
    .default("null"),
    refused(
        "certfile",
        "TLS for the API is not supported yet",
        "remove it, and keep the API on a trusted network",
        &[],
    ),
    refused("keyfile", "TLS for the API is not supported yet", "remove it", &[]),
    refused("keyfile_password", "TLS for the API is not supported yet", "remove it", &[]),
    refused("cafile", "TLS for the API is not supported yet", "remove it", &[]),
    refused("ciphers", "TLS for the API is not supported yet", "remove it", &[]),
    refused("verify_client", "TLS for the API is not supported yet", "remove it", &["\"none\""]),
    refused("allowlist", "lists of allowed clients are not supported yet", "use a token", &["[]"]),
    refused("allowlist_include_members", "lists of allowed clients are not supported yet", "use a token", &["false"]),
    refused("http_extra_headers", "extra headers are not supported yet", "remove it", &[]),
    refused("https_extra_headers", "extra headers are not supported yet", "remove it", &[]),
    refused("request_queue_size", "the queue has a fixed size", "remove it", &[]),
    refused("server_tokens", "the API does not announce its version in headers", "remove it", &[]),
];

const CREDENTIALS: &[Key] = &[
    key("username", Kind::Text { what: "a user name", check: one_line }, "User name.")
        .required()
        .env("MATRIARCH_RESTAPI_USERNAME"),
    key("password", Kind::Secret, "Password.").required().env("MATRIARCH_RESTAPI_PASSWORD"),
];

const SQLITE: &[Key] = &[key(
    "path",
    Kind::Text { what: "a path", check: absolute_path },
    "The file. Every member of the cluster must be on this host and use the same one; not on a network file system.",
)
.required()
.effect(Effect::Restart)
.env("MATRIARCH_SQLITE_PATH")];

const BOOTSTRAP: &[Key] = &[
    key(
        "dcs",
        Kind::Other { what: "the first dynamic configuration", read: first_dynamic },
        "The dynamic configuration that a new cluster begins with. Later changes are made with `matriarch config`.",
    )
    .default("{}")
    .effect(Effect::Bootstrap),
    key(
        "initdb",
        Kind::Other { what: "a list of initdb options", read: initdb::read },
        "Options of initdb, as in `- encoding: UTF8` and `- data-checksums`. UTF8 and checksums are the default.",
    )
    .default("[]")
    .effect(Effect::Bootstrap),
    refused("method", "other ways to make a cluster are not supported yet", "remove it", &["\"initdb\""]),
    refused("users", "users are not made at bootstrap", "create them with SQL once the cluster is up", &["{}"]),
    refused("pg_hba", "the rules are the same for every member", "put it under `bootstrap.dcs.postgresql.pg_hba`", &[]),
    refused(
        "post_bootstrap",
        "a script after bootstrap is not supported yet",
        "run it against the read-write port",
        &[],
    ),
    refused("post_init", "a script after bootstrap is not supported yet", "run it against the read-write port", &[]),
];

const POSTGRESQL: &[Key] = &[
    key(
        "listen",
        Kind::Text { what: "an address", check: listen_address },
        "Addresses (separated by commas) and port that PostgreSQL listens on.",
    )
    .required()
    .effect(Effect::Restart)
    .env("MATRIARCH_POSTGRESQL_LISTEN"),
    key(
        "connect_address",
        Kind::Text { what: "an address", check: peer_address },
        "Where other members and the proxies reach this PostgreSQL; `listen` when that has an address others can use.",
    )
    .effect(Effect::Restart)
    .env("MATRIARCH_POSTGRESQL_CONNECT_ADDRESS"),
    key(
        "data_dir",
        Kind::Text { what: "a path", check: absolute_path },
        "The data directory. Matriarch makes it, and empties it before a clone.",
    )
    .required()
    .effect(Effect::Restart)
    .env("MATRIARCH_POSTGRESQL_DATA_DIR"),
    key(
        "bin_dir",
        Kind::Text { what: "a path", check: absolute_path },
        "Directory of initdb, postgres, pg_rewind …; found by itself when left out.",
    )
    .effect(Effect::Restart)
    .env("MATRIARCH_POSTGRESQL_BIN_DIR"),
    key(
        "user",
        Kind::Text { what: "a user of this host", check: one_line },
        "The system's user PostgreSQL runs as when the agent runs as root; `postgres` when left out.",
    )
    .effect(Effect::Restart)
    .env("MATRIARCH_POSTGRESQL_USER"),
    key(
        "run_dir",
        Kind::Text { what: "a directory for a socket", check: socket_dir },
        "Directory of the Unix socket (`unix_socket_directories`); beside the data directory when left out.",
    )
    .effect(Effect::Restart)
    .env("MATRIARCH_POSTGRESQL_RUN_DIR"),
    key(
        "pgpass",
        Kind::Text { what: "a path", check: absolute_path },
        "Where the password file for replication is written; beside the data directory when left out.",
    )
    .effect(Effect::Restart)
    .env("MATRIARCH_POSTGRESQL_PGPASS"),
    key(
        "authentication",
        Kind::Section { keys: AUTHENTICATION, rule: Some(rules::authentication as Rule) },
        "Roles that Matriarch makes at bootstrap and uses.",
    )
    .effect(Effect::Restart),
    key(
        "parameters",
        Kind::Parameters(parameters::read_local),
        "PostgreSQL's parameters for this member alone; they win over those of the dynamic configuration.",
    )
    .default("{}")
    .effect(Effect::Mixed),
    key(
        "pg_hba",
        Kind::Lines { what: "a line of pg_hba.conf", check: hba_line },
        "Lines of pg_hba.conf for this member alone, instead of those of the dynamic configuration.",
    ),
    key(
        "pg_ident",
        Kind::Lines { what: "a line of pg_ident.conf", check: ident_line },
        "Lines of pg_ident.conf for this member alone, instead of those of the dynamic configuration.",
    ),
    refused("use_pg_rewind", DYNAMIC, PUT_IN_DCS, &["true"]),
    refused("use_slots", DYNAMIC, PUT_IN_DCS, &["true"]),
    refused("remove_data_directory_on_rewind_failure", DYNAMIC, PUT_IN_DCS, &["true"]),
    refused("remove_data_directory_on_diverged_timelines", DYNAMIC, PUT_IN_DCS, &["true"]),
    refused("use_unix_socket", "the agent always uses the Unix socket", "remove it", &["true"]),
    refused("use_unix_socket_repl", "the agent always uses the Unix socket", "remove it", &["true"]),
    refused("proxy_address", "the proxy is part of the agent", "use `proxy`", &[]),
    refused("config_dir", "configuration outside the data directory is not supported yet", "use `data_dir`", &[]),
    refused("bin_name", "other names for programs are not supported yet", "use `bin_dir`", &["{}"]),
    refused("database", "the agent connects to the database `postgres`", "remove it", &["\"postgres\""]),
    refused("callbacks", "callbacks are not supported yet", "remove it", &["{}"]),
    refused(
        "create_replica_methods",
        "other ways to clone are not supported yet",
        "remove it",
        &["[\"basebackup\"]", "[]"],
    ),
    refused("basebackup", "options for the clone are not supported yet", "remove it", &["[]", "{}"]),
    refused(
        "recovery_conf",
        "recovery settings are parameters since PostgreSQL 12",
        "put restore_command under `parameters`",
        &["{}"],
    ),
    refused("custom_conf", "postgresql.conf itself stays yours", "include the file there", &[]),
    refused("pre_promote", "a check before promotion is not supported yet", "remove it", &[]),
    refused("before_stop", "a command before the stop is not supported yet", "remove it", &[]),
    refused(
        "pg_ctl_timeout",
        "Matriarch starts PostgreSQL itself",
        "use `primary_start_timeout` of the dynamic configuration",
        &[],
    ),
];

const AUTHENTICATION: &[Key] = &[
    key(
        "superuser",
        Kind::Section {
            keys: &role("\"postgres\"", "MATRIARCH_SUPERUSER_USERNAME", "MATRIARCH_SUPERUSER_PASSWORD"),
            rule: None,
        },
        "The superuser: the agent's own connections.",
    )
    .effect(Effect::Restart),
    key(
        "replication",
        Kind::Section {
            keys: &role("\"replicator\"", "MATRIARCH_REPLICATION_USERNAME", "MATRIARCH_REPLICATION_PASSWORD"),
            rule: None,
        },
        "The role that replicas stream with.",
    )
    .effect(Effect::Restart),
    key(
        "rewind",
        Kind::Section {
            keys: &role("\"rewind_user\"", "MATRIARCH_REWIND_USERNAME", "MATRIARCH_REWIND_PASSWORD"),
            rule: None,
        },
        "The role for pg_rewind; the superuser when left out.",
    )
    .default("null")
    .effect(Effect::Restart),
];

const fn role(name: &'static str, name_variable: &'static str, password_variable: &'static str) -> [Key; 12] {
    [
        key("username", Kind::Text { what: "a role name", check: role_name }, "Name of the role.")
            .default(name)
            .effect(Effect::Restart)
            .env(name_variable),
        key("password", Kind::Secret, "Its password.").effect(Effect::Restart).env(password_variable),
        key(
            "sslmode",
            Kind::Choice(&["disable", "allow", "prefer", "require", "verify-ca", "verify-full"]),
            "TLS between members.",
        )
        .effect(Effect::Restart),
        key("sslcert", Kind::Text { what: "a path", check: absolute_path }, "Client certificate.")
            .effect(Effect::Restart),
        key("sslkey", Kind::Text { what: "a path", check: absolute_path }, "Key of the client certificate.")
            .effect(Effect::Restart),
        key("sslrootcert", Kind::Text { what: "a path", check: absolute_path }, "Certificates that are trusted.")
            .effect(Effect::Restart),
        key("sslcrl", Kind::Text { what: "a path", check: absolute_path }, "Revoked certificates.")
            .effect(Effect::Restart),
        key("channel_binding", Kind::Choice(&["disable", "prefer", "require"]), "SCRAM channel binding.")
            .effect(Effect::Restart),
        refused("sslcrldir", "directories of revoked certificates are not supported yet", "use `sslcrl`", &[]),
        refused("gssencmode", "GSSAPI between members is not supported", "remove it", &["\"disable\""]),
        refused("sslnegotiation", "direct TLS is not supported yet", "remove it", &["\"postgres\""]),
        refused("sslpassword", "keys with a password are not supported yet", "remove the password from the key", &[]),
    ]
}

const TAGS: &[Key] = &[
    key("nofailover", Kind::Bool, "This member never becomes leader.").default("false"),
    key(
        "failover_priority",
        Kind::Integer { min: 0, max: 1000 },
        "Among members with the same data the highest takes over; 0 is the same as `nofailover`.",
    ),
    key("nosync", Kind::Bool, "This member is never a voter of the synchronous rule.").default("false"),
    key("noloadbalance", Kind::Bool, "No read-only sessions: `/replica` answers 503, the proxy leaves it out.")
        .default("false"),
    key("clonefrom", Kind::Bool, "New members prefer to clone from this one.").default("false"),
    key(
        "replicatefrom",
        Kind::Text { what: "a member name", check: member_name },
        "Stream from this member instead of the leader.",
    ),
    refused("nostream", "members that only read the archive are not supported yet", "remove it", &["false"]),
    refused("sync_priority", "an order among voters is not supported yet", "use `nosync`", &[]),
];

const PROXY: &[Key] = &[
    key(
        "read_write",
        Kind::Text { what: "an address", check: bind_address },
        "Address and port whose sessions reach the primary.",
    )
    .env("MATRIARCH_PROXY_READ_WRITE"),
    key(
        "read_only",
        Kind::Text { what: "an address", check: bind_address },
        "Address and port whose sessions reach the replicas.",
    )
    .env("MATRIARCH_PROXY_READ_ONLY"),
    key("max_connections", Kind::Integer { min: 1, max: 1_000_000 }, "Most sessions on both ports together.")
        .default("10000"),
    key(
        "hold_timeout",
        Kind::Seconds { min: 0.0, max: 3600.0 },
        "How long a new session waits while there is no member for it, before it is refused.",
    )
    .default("30"),
    key("hold_limit", Kind::Integer { min: 0, max: 1_000_000 }, "Most sessions that wait at the same time.")
        .default("10000"),
    key(
        "maximum_lag",
        Kind::Bytes { min: 0, max: 1 << 62 },
        "A replica that is further behind gets no new read-only sessions.",
    )
    .default("67108864"),
    key("read_only_falls_back", Kind::Bool, "The read-only port uses the primary while no replica will do.")
        .default("false"),
    key("connect_timeout", Kind::Seconds { min: 0.05, max: 300.0 }, "Limit for one connect to a member.").default("2"),
    key("startup_timeout", Kind::Seconds { min: 0.1, max: 300.0 }, "Limit for a client to send its startup packet.")
        .default("10"),
    key(
        "drain_timeout",
        Kind::Seconds { min: 0.0, max: 3600.0 },
        "How long open sessions may go on while the proxy stops.",
    )
    .default("10"),
    key(
        "accept_proxy_protocol",
        Kind::Bool,
        "Each connection must begin with a PROXY protocol header from a balancer in front.",
    )
    .default("false"),
    key(
        "send_proxy_protocol",
        Kind::Bool,
        "Send a PROXY protocol header (version 2) to the member; poolers may want it.",
    )
    .default("false"),
];

/// The document itself is kept as it was written: that is what goes into the store.
fn first_dynamic(value: &Value, path: &str, problems: &mut Problems) -> Value {
    dynamic::normalize(value, path, problems);
    value.clone()
}

fn scope_name(text: &str) -> Result<(), String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    if (1..=63).contains(&text.len()) && text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.chars().all(fits)
    {
        Ok(())
    } else {
        Err("it must have 1 to 63 of a-z, A-Z, 0-9, '_', '.' and '-', and begin with a letter or a digit".to_owned())
    }
}

fn namespace(text: &str) -> Result<(), String> {
    absolute_path(text)?;
    let fits = |c: char| c.is_ascii_alphanumeric() || "_.-/".contains(c);
    if text.chars().all(fits) && !text.contains("//") {
        Ok(())
    } else {
        Err("it may have letters, digits, '_', '.', '-' and single '/'".to_owned())
    }
}

fn member_name(text: &str) -> Result<(), String> {
    text.parse::<matriarch_core::MemberName>().map(drop).map_err(|error| error.to_string())
}

fn role_name(text: &str) -> Result<(), String> {
    one_line(text)?;
    if text.len() > 63 {
        Err("PostgreSQL allows 63 bytes".to_owned())
    } else if text.starts_with("pg_") {
        Err("PostgreSQL keeps names that begin with 'pg_' for itself".to_owned())
    } else {
        Ok(())
    }
}

fn stream_or_path(text: &str) -> Result<(), String> {
    if text == "stream" { Ok(()) } else { absolute_path(text) }
}

fn socket_dir(text: &str) -> Result<(), String> {
    absolute_path(text)?;
    // The kernel keeps 108 bytes for a socket's path, the last of them zero.
    if text.len() + "/.s.PGSQL.65535".len() > 107 {
        return Err("it is too long: the path of a Unix socket has at most 107 bytes".to_owned());
    }
    if text.contains(',') { Err("it may not have a comma".to_owned()) } else { Ok(()) }
}

fn listen_address(text: &str) -> Result<(), String> {
    text.parse::<Listen>().map(drop).map_err(|bad| bad.why().to_owned())
}

fn bind_address(text: &str) -> Result<(), String> {
    let listen = text.parse::<Listen>().map_err(|bad| bad.why().to_owned())?;
    if listen.socket_addrs().is_empty() {
        return Err("the host must be an IP address, 'localhost' or '*'".to_owned());
    }
    Ok(())
}

fn peer_address(text: &str) -> Result<(), String> {
    let address = text.parse::<Address>().map_err(|bad| bad.why().to_owned())?;
    if address.is_wildcard() { Err("others cannot connect to a wildcard".to_owned()) } else { Ok(()) }
}

/// Across keys of the whole.
pub(crate) fn rule(config: &Map<String, Value>, path: &str, problems: &mut Problems) {
    rules::whole(config, path, problems);
}
