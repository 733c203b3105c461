//! Every key of the local configuration.

mod authentication;
pub(super) mod checks;
pub(super) mod consul;
pub(super) mod etcd;
mod pooler;
mod postgresql;
mod proxy;
mod virtual_ip;
mod watchdog;

use serde_json::{Map, Value};

use self::checks::{bind_address, member_name, namespace, peer_address, scope_name, stream_or_path};
use self::consul::CONSUL;
use self::etcd::{ETCD, ETCD3};
use self::postgresql::POSTGRESQL;
use self::proxy::PROXY;
use self::virtual_ip::VIRTUAL_IP;
use self::watchdog::WATCHDOG;
use super::dump;
use super::initdb;
use super::restore;
use super::rules;
use crate::dynamic;
use crate::problem::Problems;
use crate::schema::{Effect, Key, Kind, Rule, absolute_path, any_text, key, one_line, refused};

const LATER: &str = "this store comes with a later release";
const USE_ANOTHER: &str = "use `etcd3`, `consul` or `sqlite`";
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
    key(
        "ctl",
        Kind::Section { keys: CTL, rule: Some(rules::ctl as Rule) },
        "How members and verbs ask APIs that speak TLS.",
    )
    .effect(Effect::Restart),
    key("sqlite", Kind::Section { keys: SQLITE, rule: None }, "The store for members on one host: a SQLite file.")
        .default("null")
        .effect(Effect::Restart),
    key(
        "etcd3",
        Kind::Section { keys: ETCD3, rule: Some(rules::etcd as Rule) },
        "The store for members on several hosts: etcd, 3.4 or newer. Name exactly one store.",
    )
    .default("null")
    .effect(Effect::Restart),
    key("etcd", Kind::Section { keys: ETCD, rule: Some(rules::etcd as Rule) }, "Another name for `etcd3`.")
        .default("null")
        .effect(Effect::Restart),
    key(
        "consul",
        Kind::Section { keys: CONSUL, rule: Some(super::consul::rule as Rule) },
        "The store for members on several hosts: Consul. Name exactly one store.",
    )
    .default("null")
    .effect(Effect::Restart),
    key("bootstrap", Kind::Section { keys: BOOTSTRAP, rule: Some(restore::rule as Rule) }, "How a new cluster is made.")
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
    key(
        "virtual_ip",
        Kind::Section { keys: VIRTUAL_IP, rule: Some(super::virtual_ip::rule as Rule) },
        "An address that this host has while its member is the primary (Linux). Left out: none. PostgreSQL must listen on \
         every address.",
    )
    .default("null")
    .effect(Effect::Restart),
    key(
        "watchdog",
        Kind::Section { keys: WATCHDOG, rule: None },
        "A watchdog device (Linux) that resets this host when it hangs while its member leads, so that not even the guard can \
         act.",
    )
    .effect(Effect::Restart),
    refused("kubernetes", LATER, USE_ANOTHER, &[]),
    refused("zookeeper", "this store is not supported", USE_ANOTHER, &[]),
    refused("exhibitor", "this store is not supported", USE_ANOTHER, &[]),
    refused("raft", "this store is not supported", USE_ANOTHER, &[]),
    refused("store", "there is no such section", "name the store itself, as in `etcd3: {hosts: [10.0.0.1:2379]}`", &[]),
    refused(
        "dcs",
        "there is no such section here",
        "put the dynamic configuration under `bootstrap.dcs`, and name the store itself, as in `sqlite`",
        &[],
    ),
    refused("citus", "Citus clusters are not supported yet", "remove it", &[]),
    refused("callbacks", "callbacks are not supported yet", "remove it", &["{}"]),
];

const LOG: &[Key] = &[
    key(
        "level",
        Kind::Choice(&["trace", "debug", "info", "warn", "warning", "error", "critical"]),
        "Least severity that is logged.",
    )
    .default("\"info\"")
    .effect(Effect::Restart)
    .env("MATRIARCH_LOG_LEVEL"),
    key("format", Kind::Choice(&["text", "json"]), "`text` for people, `json` (one object a line) for machines.")
        .default("\"text\"")
        .effect(Effect::Restart)
        .env("MATRIARCH_LOG_FORMAT"),
    key(
        "postgresql",
        Kind::Text { what: "`stream` or a path", check: stream_or_path },
        "Where PostgreSQL's own log goes. A file: `.1` and `.2` beside it hold what came before, 64 MB each. `stream`: \
         through the agent's log, entry by entry with its fields (`log_line_prefix` is Matriarch's then).",
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
    key(
        "certfile",
        Kind::Text { what: "a path", check: absolute_path },
        "Certificate of the API with its chain, PEM: the API speaks TLS. Files are read again when they change; what cannot be \
         used then is an error in log and status, and what was read before stays in use.",
    )
    .env("MATRIARCH_RESTAPI_CERTFILE"),
    key(
        "keyfile",
        Kind::Text { what: "a path", check: absolute_path },
        "Its private key, without a password; in `certfile` when left out.",
    )
    .env("MATRIARCH_RESTAPI_KEYFILE"),
    key(
        "cafile",
        Kind::Text { what: "a path", check: absolute_path },
        "Authorities that sign clients' certificates; members trust them to sign each other's too, unless `ctl.cacert` is given.",
    )
    .env("MATRIARCH_RESTAPI_CAFILE"),
    key(
        "verify_client",
        Kind::Choice(&["none", "optional", "required"]),
        "Who must show a certificate that an authority in `cafile` has signed: nobody; `optional`: other members and whoever \
         changes something (`POST`, `PUT`, `PATCH`, `DELETE`); `required`: everybody, health checks too. Where no token and no user \
         is set, the certificate is enough to change something.",
    )
    .default("\"none\"")
    .env("MATRIARCH_RESTAPI_VERIFY_CLIENT"),
    refused(
        "keyfile_password",
        "keys with a password are not supported",
        "take it off ('openssl pkey -in FILE') and keep the key readable for the agent alone",
        &[],
    ),
    refused("ciphers", "the suites are those that TLS 1.2 and 1.3 have left as good", "remove it", &[]),
    refused("allowlist", "lists of allowed clients are not supported yet", "use a token", &["[]"]),
    refused("allowlist_include_members", "lists of allowed clients are not supported yet", "use a token", &["false"]),
    refused("http_extra_headers", "extra headers are not supported yet", "remove it", &[]),
    refused("https_extra_headers", "extra headers are not supported yet", "remove it", &[]),
    refused("request_queue_size", "the queue has a fixed size", "remove it", &[]),
    refused("server_tokens", "the API does not announce its version in headers", "remove it", &[]),
];

const CTL: &[Key] = &[
    key(
        "cacert",
        Kind::Text { what: "a path", check: absolute_path },
        "Authorities that are trusted, PEM; when left out `restapi.cafile`, and without that the system's.",
    )
    .env("MATRIARCH_CTL_CACERT"),
    key(
        "certfile",
        Kind::Text { what: "a path", check: absolute_path },
        "Client certificate, PEM; when left out that of `restapi`. Read again for each connection.",
    )
    .env("MATRIARCH_CTL_CERTFILE"),
    key(
        "keyfile",
        Kind::Text { what: "a path", check: absolute_path },
        "Its private key, without a password; in `certfile` when left out.",
    )
    .env("MATRIARCH_CTL_KEYFILE"),
    key(
        "insecure",
        Kind::Bool,
        "Believe whatever certificate the others show: whoever stands between can read and change all.",
    )
    .default("false")
    .env("MATRIARCH_CTL_INSECURE"),
    refused(
        "keyfile_password",
        "keys with a password are not supported",
        "take it off ('openssl pkey -in FILE') and keep the key readable for whoever asks alone",
        &[],
    ),
    refused("authentication", "what is sent is what `restapi` says", "put it under `restapi.authentication`", &[]),
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
    key(
        "restore",
        Kind::Section { keys: restore::RESTORE, rule: None },
        "The new cluster is made from a backup instead of by initdb, at a point in time, also from another cluster's archive. \
         The section must be the same on every host: whichever member comes first restores, and the others copy from it. It has \
         no effect once the cluster is there. All WAL that is replayed needs room beside the data for a while.",
    )
    .default("null")
    .effect(Effect::Bootstrap),
    key(
        "dump",
        Kind::Section { keys: dump::DUMP, rule: None },
        "After initdb, roles, tablespaces and databases of a dump are restored, also from another cluster's archive and from an \
         older version of PostgreSQL. Roles that initdb and Matriarch make keep their passwords. The section must be the same on \
         every host: whichever member comes first restores, and the others copy from it. It has no effect once the cluster is there.",
    )
    .default("null")
    .effect(Effect::Bootstrap),
    refused(
        "method",
        "a cluster is made by initdb, from a backup, or from a dump",
        "remove it, and for a backup add `restore`, for a dump `dump`",
        &["\"initdb\""],
    ),
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

const TAGS: &[Key] = &[
    key("nofailover", Kind::Bool, "This member never becomes leader.").default("false"),
    key(
        "failover_priority",
        Kind::Integer { min: 0, max: 1000 },
        "Among members with the same data the highest takes over; 0 is the same as `nofailover`.",
    ),
    key("nosync", Kind::Bool, "This member is never a voter of the synchronous rule.").default("false"),
    key(
        "sync_priority",
        Kind::Integer { min: 0, max: 1000 },
        "With `synchronous_mode: on`, voters with the highest are asked first; 0 is the same as `nosync`.",
    ),
    key(
        "zone",
        Kind::Text { what: "the name of a zone", check: any_text },
        "What dies together with this member: a rack, a site, an availability zone. See `synchronous_zones`.",
    ),
    key("noloadbalance", Kind::Bool, "No read-only sessions: `/replica` answers 503, the proxy leaves it out.")
        .default("false"),
    key("clonefrom", Kind::Bool, "New members prefer to clone from this one.").default("false"),
    key(
        "nobackup",
        Kind::Bool,
        "No scheduled backups and dumps are taken of this member, and `matriarch backup --from standby` passes it over.",
    )
    .default("false"),
    key(
        "replicatefrom",
        Kind::Text { what: "a member name", check: member_name },
        "Stream from this member instead of the leader.",
    ),
    key(
        "nostream",
        Kind::Bool,
        "This member does not stream: its WAL comes through `restore_command` (`postgresql.parameters`) alone. It is never a \
         voter and gets no slot.",
    )
    .default("false"),
];

/// The document itself is kept as it was written: that is what goes into the store.
fn first_dynamic(value: &Value, path: &str, problems: &mut Problems) -> Value {
    dynamic::normalize(value, path, problems);
    value.clone()
}

/// Across keys of the whole.
pub(crate) fn rule(config: &Map<String, Value>, path: &str, problems: &mut Problems) {
    rules::whole(config, path, problems);
}
