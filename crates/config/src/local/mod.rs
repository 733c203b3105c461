//! The local configuration: one YAML file for each agent, with overrides from the environment.

mod consul;
mod dump;
mod initdb;
pub(crate) mod keys;
pub(crate) mod load;
mod restore;
pub(crate) mod rules;
#[cfg(test)]
mod tests;
mod virtual_ip;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use self::consul::{Consul, ConsulConsistency};
pub use self::dump::BootstrapDump;
pub use self::restore::{BootstrapRestore, RestoreFrom};
pub use self::virtual_ip::{InterfaceAddress, VirtualIp};

use matriarch_core::MemberName;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::address::{Address, Listen, PoolerAddress};
use crate::check;
use crate::problem::Problems;
use crate::secret::Secret;
use crate::units::as_seconds;

/// The local configuration, every key filled in. Its `Debug` form shows no secrets.
///
/// Meanings, ranges and defaults: `docs/configuration.md`, which is made from the same table as the defaults here.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct LocalConfig {
    /// Name of the cluster.
    pub scope: String,
    /// Where clusters live in the store; begins with `/`, does not end with one.
    pub namespace: String,
    /// Name of this member.
    pub name: MemberName,
    /// The agent's log.
    pub log: Log,
    /// The agent's REST API.
    pub restapi: RestApi,
    /// How members and verbs ask the REST APIs of others.
    pub ctl: Ctl,
    /// The store.
    pub store: Store,
    /// How a new cluster is made.
    pub bootstrap: Bootstrap,
    /// This PostgreSQL.
    pub postgresql: LocalPostgres,
    /// What is special about this member.
    pub tags: Tags,
    /// The routing proxy in this agent, if any.
    pub proxy: Option<Proxy>,
    /// The address that follows the primary, if any.
    pub virtual_ip: Option<VirtualIp>,
    /// What resets this host when it hangs while it leads.
    pub watchdog: Watchdog,
}

/// A watchdog device.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Watchdog {
    /// Whether it is used.
    pub mode: WatchdogMode,
    /// The device.
    pub device: PathBuf,
    /// How long before the end of the lease a reset comes.
    #[serde(with = "as_seconds")]
    pub safety_margin: Duration,
}

/// Whether a watchdog is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WatchdogMode {
    /// Never opened.
    Off,
    /// Used when it works.
    Automatic,
    /// The member does not lead without it.
    Required,
}

/// The agent's log.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Log {
    /// Least severity that is logged.
    pub level: LogLevel,
    /// For people or for machines.
    pub format: LogFormat,
    /// Where PostgreSQL's own log goes.
    pub postgresql: PostgresLog,
}

/// Severities.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Everything.
    Trace,
    /// For finding a fault.
    Debug,
    /// What happens.
    Info,
    /// What a person should look at.
    #[serde(alias = "warning")]
    Warn,
    /// What went wrong.
    #[serde(alias = "critical")]
    Error,
}

/// Form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One line per event, for people.
    Text,
    /// One JSON object per line.
    Json,
}

/// Where PostgreSQL's own log goes.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(from = "String")]
pub enum PostgresLog {
    /// Line by line through the agent's log.
    Stream,
    /// Into this file.
    File(PathBuf),
}

/// The agent's REST API.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct RestApi {
    /// What to bind; [`Listen::socket_addrs`] is never empty here.
    pub listen: Listen,
    /// Where other members reach it.
    pub connect_address: Address,
    /// What clients must send to change something.
    pub token: Option<Secret>,
    /// File that holds the token instead.
    pub token_file: Option<PathBuf>,
    /// Basic authentication, accepted beside the token.
    pub authentication: Option<Credentials>,
    /// Certificate of the API with its chain; plain HTTP when none.
    pub certfile: Option<PathBuf>,
    /// Its key; in `certfile` when none.
    pub keyfile: Option<PathBuf>,
    /// Authorities of clients' certificates.
    pub cafile: Option<PathBuf>,
    /// Who must show a certificate.
    pub verify_client: VerifyClient,
}

/// Who must show a certificate to the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VerifyClient {
    /// Nobody.
    None,
    /// Members, and whoever changes something.
    Optional,
    /// Everybody.
    Required,
}

/// How members and verbs ask the REST APIs of others.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Ctl {
    /// Authorities that are trusted; else `restapi.cafile`, else the system's.
    pub cacert: Option<PathBuf>,
    /// Client certificate; else `restapi.certfile`.
    pub certfile: Option<PathBuf>,
    /// Its key; in `certfile` when none.
    pub keyfile: Option<PathBuf>,
    /// Whatever certificate others show will do.
    pub insecure: bool,
}

impl RestApi {
    /// Where other members reach it.
    pub fn url(&self) -> String {
        let scheme = if self.certfile.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.connect_address)
    }
}

/// A user name and its password.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Credentials {
    /// User name.
    pub username: String,
    /// Password.
    pub password: Secret,
}

/// The store.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Store {
    /// A SQLite file on this host.
    Sqlite {
        /// The file.
        path: PathBuf,
    },
    /// etcd.
    Etcd(Etcd),
    /// Consul.
    Consul(Consul),
}

/// How etcd is reached.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Etcd {
    /// Its servers; empty if `srv` is given.
    pub hosts: Vec<Address>,
    /// The domain whose SRV records name them.
    pub srv: Option<String>,
    /// What follows the service's name in them.
    pub srv_suffix: Option<String>,
    /// Whether the servers in `hosts` speak TLS.
    pub tls: bool,
    /// Authorities that are trusted, if given.
    pub cacert: Option<PathBuf>,
    /// Client certificate.
    pub cert: Option<PathBuf>,
    /// Its key, if it is not in the same file.
    pub key: Option<PathBuf>,
    /// Whom to log in as.
    pub username: Option<String>,
    /// The password,
    pub password: Option<Secret>,
    /// or the file that holds it.
    pub password_file: Option<PathBuf>,
}

/// How a new cluster is made.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Bootstrap {
    /// The first dynamic configuration, as written; valid.
    pub dcs: Value,
    /// Options of initdb, in order.
    pub initdb: Vec<InitdbOption>,
    /// From a backup instead.
    pub restore: Option<BootstrapRestore>,
    /// From a dump, after initdb.
    pub dump: Option<BootstrapDump>,
}

/// One option of initdb.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct InitdbOption {
    /// Its name without dashes.
    pub name: String,
    /// Its value, if it takes one.
    pub value: Option<String>,
}

/// This PostgreSQL.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct LocalPostgres {
    /// `listen_addresses` and `port`.
    pub listen: Listen,
    /// Where other members and the proxies reach it.
    pub connect_address: Address,
    /// The data directory.
    pub data_dir: PathBuf,
    /// Directory of PostgreSQL's programs, if given.
    pub bin_dir: Option<PathBuf>,
    /// The system's user it runs as, if given.
    pub user: Option<String>,
    /// Directory of its Unix socket, if given.
    pub run_dir: Option<PathBuf>,
    /// Where the password file is written, if given.
    pub pgpass: Option<PathBuf>,
    /// Roles that Matriarch uses.
    pub authentication: Authentication,
    /// TLS of the server, if any.
    pub tls: Option<Tls>,
    /// Parameters for this member alone.
    pub parameters: BTreeMap<String, String>,
    /// Lines of `pg_hba.conf` instead of the shared ones.
    pub pg_hba: Option<Vec<String>>,
    /// Lines of `pg_ident.conf` instead of the shared ones.
    pub pg_ident: Option<Vec<String>>,
}

/// TLS of the server.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Tls {
    /// Certificate chain of the server.
    pub cert_file: PathBuf,
    /// Its private key.
    pub key_file: PathBuf,
    /// Authorities that are trusted.
    pub ca_file: Option<PathBuf>,
    /// Matriarch's own roles must use TLS.
    pub require: bool,
}

/// Roles that Matriarch uses.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Authentication {
    /// The agent's own connections.
    pub superuser: Role,
    /// What replicas stream with.
    pub replication: Role,
    /// What `pg_rewind` connects with; the superuser when none.
    pub rewind: Option<Role>,
    /// What poolers learn the roles' passwords with; not made when none.
    pub pooler: Option<Credentials>,
}

/// A role and how it connects to other members.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Role {
    /// Name of the role.
    pub username: String,
    /// Its password, if it has one.
    pub password: Option<Secret>,
    /// libpq's `sslmode`.
    pub sslmode: Option<String>,
    /// Client certificate.
    pub sslcert: Option<PathBuf>,
    /// Its key.
    pub sslkey: Option<PathBuf>,
    /// Certificates that are trusted.
    pub sslrootcert: Option<PathBuf>,
    /// Revoked certificates.
    pub sslcrl: Option<PathBuf>,
    /// libpq's `channel_binding`.
    pub channel_binding: Option<String>,
}

/// What is special about a member.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Tags {
    /// Never becomes leader. See [`Tags::may_lead`].
    pub nofailover: bool,
    /// Preference among equals, if given.
    pub failover_priority: Option<u32>,
    /// Never a voter.
    pub nosync: bool,
    /// Preference among voters when their order counts, if given; 0: never a voter.
    pub sync_priority: Option<u32>,
    /// What dies together with it.
    pub zone: Option<String>,
    /// Gets no read-only sessions.
    pub noloadbalance: bool,
    /// New members prefer to clone from it.
    pub clonefrom: bool,
    /// Backups and dumps that may be taken of any member are taken of others.
    pub nobackup: bool,
    /// Streams from this member instead of the leader.
    pub replicatefrom: Option<MemberName>,
    /// Streams from nobody: WAL comes through `restore_command`.
    pub nostream: bool,
    /// The user's own.
    pub custom: BTreeMap<String, Value>,
}

/// The routing proxy; at least one of the two ports or a pooler is given.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Proxy {
    /// Where sessions reach the primary; [`Listen::socket_addrs`] is never empty here.
    pub read_write: Option<Listen>,
    /// Where sessions reach the replicas; likewise.
    pub read_only: Option<Listen>,
    /// Most sessions on both ports together.
    pub max_connections: usize,
    /// How long a new session waits for a member.
    #[serde(with = "as_seconds")]
    pub hold_timeout: Duration,
    /// Most sessions that wait at the same time.
    pub hold_limit: usize,
    /// Bytes a replica may be behind and still get new sessions.
    pub maximum_lag: u64,
    /// The read-only port uses the primary while no replica will do.
    pub read_only_falls_back: bool,
    /// Limit for one connect to a member.
    #[serde(with = "as_seconds")]
    pub connect_timeout: Duration,
    /// Limit for a client's startup packet.
    #[serde(with = "as_seconds")]
    pub startup_timeout: Duration,
    /// How long open sessions may go on while the proxy stops.
    #[serde(with = "as_seconds")]
    pub drain_timeout: Duration,
    /// Connections begin with a PROXY protocol header.
    pub accept_proxy_protocol: bool,
    /// Members are sent a PROXY protocol header.
    pub send_proxy_protocol: bool,
    /// PgBouncer beside it, if any.
    pub pooler: Option<Pooler>,
}

/// PgBouncers: of our own, with at least one port and a way to learn passwords, or registered.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Pooler {
    /// Where our own serves the primary; [`Listen::socket_addrs`] is never empty here.
    pub read_write: Option<Listen>,
    /// Where our own serves a replica; likewise.
    pub read_only: Option<Listen>,
    /// Directory of its files, if given.
    pub dir: Option<PathBuf>,
    /// PgBouncer's settings.
    pub settings: BTreeMap<String, String>,
    /// PgBouncer's program, if given.
    pub program: Option<PathBuf>,
    /// The system's user it runs as, if given.
    pub user: Option<String>,
    /// File of roles and secrets, instead of `authentication.pooler`.
    pub auth_file: Option<PathBuf>,
    /// Those that others run.
    pub addresses: Vec<PoolerAddress>,
    /// Their admin user; there when `addresses` has any.
    pub admin: Option<Credentials>,
}

impl From<String> for PostgresLog {
    fn from(text: String) -> PostgresLog {
        if text == "stream" { PostgresLog::Stream } else { PostgresLog::File(text.into()) }
    }
}

impl LocalPostgres {
    /// How a role connects to other members: libpq's options. The server's own authority is trusted unless the role
    /// names another.
    pub fn libpq(&self, role: &Role) -> BTreeMap<String, String> {
        let path = |path: Option<&PathBuf>| path.map(|path| path.to_string_lossy().into_owned());
        let ca = self.tls.as_ref().and_then(|tls| tls.ca_file.as_ref());
        let required = self.tls.as_ref().is_some_and(|tls| tls.require);
        let mode = match (&role.sslmode, ca) {
            (Some(mode), _) => Some(mode.clone()),
            (None, Some(_)) => Some("verify-ca".to_owned()),
            (None, None) => required.then(|| "require".to_owned()),
        };
        let encrypted = mode.as_deref().is_none_or(|mode| mode != "disable");
        let options = [
            ("sslmode", mode),
            ("sslcert", path(role.sslcert.as_ref())),
            ("sslkey", path(role.sslkey.as_ref())),
            ("sslrootcert", path(role.sslrootcert.as_ref().or(ca.filter(|_| encrypted)))),
            ("sslcrl", path(role.sslcrl.as_ref())),
            ("channel_binding", role.channel_binding.clone()),
        ];
        options.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
    }
}

impl Authentication {
    /// What `pg_rewind` connects with.
    pub fn rewind(&self) -> &Role {
        self.rewind.as_ref().unwrap_or(&self.superuser)
    }
}

impl Tags {
    /// Whether this member may become leader.
    pub fn may_lead(&self) -> bool {
        !self.nofailover && self.failover_priority != Some(0)
    }

    /// The tags as they are published: those that are set, and the user's own.
    pub fn to_json(&self) -> Map<String, Value> {
        let mut tags: Map<String, Value> = self.custom.clone().into_iter().collect();
        let flags = [
            ("nofailover", self.nofailover),
            ("nosync", self.nosync),
            ("noloadbalance", self.noloadbalance),
            ("clonefrom", self.clonefrom),
            ("nobackup", self.nobackup),
            ("nostream", self.nostream),
        ];
        tags.extend(flags.into_iter().filter(|(_, set)| *set).map(|(name, _)| (name.to_owned(), true.into())));
        tags.extend(self.failover_priority.map(|priority| ("failover_priority".to_owned(), priority.into())));
        tags.extend(self.sync_priority.map(|priority| ("sync_priority".to_owned(), priority.into())));
        tags.extend(self.zone.iter().map(|zone| ("zone".to_owned(), zone.as_str().into())));
        tags.extend(self.replicatefrom.iter().map(|name| ("replicatefrom".to_owned(), name.as_str().into())));
        tags
    }
}

impl LocalPostgres {
    /// Directory of the Unix socket: `run_dir`, or `<data_dir>.run` beside the data directory.
    pub fn run_dir(&self) -> PathBuf {
        self.run_dir.clone().unwrap_or_else(|| beside(&self.data_dir, ".run"))
    }

    /// Directory of the pooler's files: `proxy.pooler.dir`, or `<data_dir>.pooler` beside the data directory.
    pub fn pooler_dir(&self, pooler: &Pooler) -> PathBuf {
        pooler.dir.clone().unwrap_or_else(|| beside(&self.data_dir, ".pooler"))
    }
}

fn beside(data_dir: &Path, suffix: &str) -> PathBuf {
    let mut name = data_dir.components().as_path().as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

impl LocalConfig {
    /// Reads a local configuration that is already a value. The environment is not looked at.
    pub fn from_json(value: &Value) -> Result<LocalConfig, Problems> {
        let mut problems = Problems::default();
        let normal = normalize(value, &mut problems);
        problems.or(())?;
        // The error of serde would quote the value, which may hold a password; the path of a bug must do.
        serde_json::from_value(normal).map_err(|_| {
            let mut problems = Problems::default();
            problems.add("", "it passed the checks but cannot be read", "report this as a bug");
            problems
        })
    }

    /// The keys of this cluster in the store are under this prefix, which ends with `/`.
    pub fn prefix(&self) -> String {
        format!("{}/{}/", self.namespace, self.scope)
    }
}

/// Everything that is wrong with a local configuration.
pub(crate) fn validate(value: &Value) -> Vec<crate::Problem> {
    let mut problems = Problems::default();
    normalize(value, &mut problems);
    problems.0
}

fn normalize(value: &Value, problems: &mut Problems) -> Value {
    let mut normal = check::section(keys::KEYS, Some(keys::rule), value, "", problems);
    let Value::Object(config) = &mut normal else { return normal };
    for section in ["restapi", "postgresql"] {
        if let Some(Value::Object(section)) = config.get_mut(section) {
            announce(section);
        }
    }
    if let Some(Value::String(namespace)) = config.get_mut("namespace") {
        namespace.truncate(namespace.trim_end_matches('/').len());
    }
    for name in rules::STORES {
        let Some(Value::Object(mut section)) = config.remove(name) else { continue };
        let engine = if name == "etcd3" { "etcd" } else { name };
        match engine {
            "etcd" => servers(&mut section),
            "consul" => consul::normalize(&mut section),
            _ => {}
        }
        config.insert("store".to_owned(), Value::Object(Map::from_iter([(engine.to_owned(), section.into())])));
    }
    normal
}

/// Makes one list of etcd's servers of the ways to name them.
fn servers(etcd: &mut Map<String, Value>) {
    let url = etcd.remove("url").as_ref().and_then(Value::as_str).and_then(|url| keys::etcd::parse_url(url).ok());
    let tls = url.as_ref().map_or(etcd.get("protocol").is_some_and(|protocol| protocol == "https"), |(_, tls)| *tls);
    let one = etcd.remove("host").filter(Value::is_string).or(url.map(|(address, _)| address.to_string().into()));
    if let Some(one) = one {
        etcd.insert("hosts".to_owned(), Value::Array(vec![one]));
    }
    if etcd.get("hosts").is_none_or(Value::is_null) {
        etcd.insert("hosts".to_owned(), Value::Array(Vec::new()));
    }
    etcd.insert("tls".to_owned(), tls.into());
}

/// Fills in the address that others use.
fn announce(section: &mut Map<String, Value>) {
    if section.get("connect_address").is_none_or(Value::is_null) {
        let listen = section.get("listen").and_then(Value::as_str).and_then(|listen| listen.parse::<Listen>().ok());
        if let Some(address) = listen.and_then(|listen| listen.reachable()) {
            section.insert("connect_address".to_owned(), address.to_string().into());
        }
    }
}
