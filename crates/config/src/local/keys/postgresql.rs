//! Keys of `postgresql`, its roles aside.

use super::authentication::AUTHENTICATION;
use super::checks::{listen_address, peer_address, socket_dir};
use crate::hba::{hba_line, ident_line};
use crate::local::rules;
use crate::parameters;
use crate::schema::{Effect, Key, Kind, Rule, absolute_path, key, one_line, refused};

const DYNAMIC: &str = "it belongs to the dynamic configuration, which is the same for every member";
const PUT_IN_DCS: &str = "put it under `bootstrap.dcs` (new clusters) or use `matriarch config set`";

pub(super) const POSTGRESQL: &[Key] = &[
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
        "Where the password file for replication is written; in `run_dir` when left out.",
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
        "tls",
        Kind::Section { keys: TLS, rule: Some(rules::tls as Rule) },
        "TLS of this PostgreSQL: for clients and for the members that stream from it.",
    )
    .default("null")
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

const TLS: &[Key] = &[
    key(
        "cert_file",
        Kind::Text { what: "a path", check: absolute_path },
        "Certificate of this server, with its chain.",
    )
    .required()
    .effect(Effect::Restart)
    .env("MATRIARCH_POSTGRESQL_TLS_CERT_FILE"),
    key(
        "key_file",
        Kind::Text { what: "a path", check: absolute_path },
        "Its private key; it must belong to the user PostgreSQL runs as, with mode 0600.",
    )
    .required()
    .effect(Effect::Restart)
    .env("MATRIARCH_POSTGRESQL_TLS_KEY_FILE"),
    key(
        "ca_file",
        Kind::Text { what: "a path", check: absolute_path },
        "Authorities that are trusted: by this server for client certificates, and by this member for the servers it \
         streams from (`sslmode: verify-ca` unless `authentication` says otherwise).",
    )
    .effect(Effect::Restart)
    .env("MATRIARCH_POSTGRESQL_TLS_CA_FILE"),
    key("require", Kind::Bool, "Matriarch's own roles must use TLS, also towards this server.")
        .default("false")
        .effect(Effect::Restart),
];
