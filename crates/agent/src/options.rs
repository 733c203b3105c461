//! What one agent is told at its start; from the local configuration file.

use std::collections::BTreeMap;
use std::path::PathBuf;

use matriarch_core::MemberName;
use matriarch_postgres::Instance;
use matriarch_postgres::bootstrap::InitdbOptions;
use serde_json::Value;

/// Everything local; what all members share lives in the store's `config`.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name of the cluster.
    pub scope: String,
    /// PostgreSQL on this host.
    pub instance: Instance,
    /// `host:port` under which other members and clients reach PostgreSQL.
    pub postgres_address: String,
    /// `http://host:port` under which the API is reached.
    pub api_url: String,
    /// PostgreSQL's log.
    pub postgres_log: PathBuf,
    /// Further libpq options for replication, clone and rewind (`sslmode`, …).
    pub libpq: BTreeMap<String, String>,
    /// Parameters of this member alone; they win over the cluster's.
    pub parameters: BTreeMap<String, String>,
    /// Tags.
    pub tags: BTreeMap<String, Value>,
    /// How a new cluster is made.
    pub initdb: InitdbOptions,
    /// Dynamic configuration for a new cluster.
    pub bootstrap_config: Option<Value>,
    /// The program whose `guard` verb is the guard: this very binary.
    pub program: PathBuf,
    /// Where the guard listens.
    pub guard_socket: PathBuf,
    /// Identity of this host: proxies on the same host may use Unix sockets.
    pub host_id: String,
    /// Our users must use TLS.
    pub require_tls: bool,
}

impl Options {
    /// This member.
    pub fn name(&self) -> &MemberName {
        &self.instance.name
    }
}
