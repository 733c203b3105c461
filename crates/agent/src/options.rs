//! What one agent is told at its start; from the local configuration file.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use matriarch_config::{LocalConfig, VirtualIp, Watchdog};
use matriarch_core::MemberName;
use matriarch_core::record::NOSTREAM;
use matriarch_postgres::Instance;
use matriarch_postgres::bootstrap::InitdbOptions;
use matriarch_postgres::conf::ServerTls as PostgresTls;
use matriarch_tls::ServerTls;
use serde_json::Value;

use crate::dumped;
use crate::restored::Order;

/// Everything local; what all members share lives in the store's `config`.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name of the cluster.
    pub scope: String,
    /// PostgreSQL on this host.
    pub instance: Instance,
    /// `host:port` under which other members and clients reach PostgreSQL.
    pub postgres_address: String,
    /// `http://host:port` or `https://host:port` under which the API is reached.
    pub api_url: String,
    /// What the API shows and trusts, if it speaks TLS.
    pub api_tls: Option<Arc<ServerTls>>,
    /// PostgreSQL's log.
    pub postgres_log: PathBuf,
    /// The log goes on through the agent's; else it is a file for people.
    pub stream_postgres_log: bool,
    /// Further libpq options for replication and clone (`sslmode`, …).
    pub libpq: BTreeMap<String, String>,
    /// Likewise for rewind.
    pub rewind_libpq: BTreeMap<String, String>,
    /// Parameters of this member alone; they win over the cluster's.
    pub parameters: BTreeMap<String, String>,
    /// Lines of `pg_hba.conf` for this member alone, instead of the cluster's.
    pub pg_hba: Option<Vec<String>>,
    /// Lines of `pg_ident.conf`, likewise.
    pub pg_ident: Option<Vec<String>>,
    /// TLS of this PostgreSQL.
    pub tls: Option<PostgresTls>,
    /// Tags.
    pub tags: BTreeMap<String, Value>,
    /// How a new cluster is made.
    pub initdb: InitdbOptions,
    /// From which backup instead.
    pub restore: Option<Arc<Order>>,
    /// What it is filled with after initdb.
    pub dump: Option<Arc<dumped::Order>>,
    /// Dynamic configuration for a new cluster.
    pub bootstrap_config: Option<Value>,
    /// The program whose `guard` verb is the guard: this very binary.
    pub program: PathBuf,
    /// Where the guard listens.
    pub guard_socket: PathBuf,
    /// Where PostgreSQL's `archive_command` and `restore_command` reach the agent.
    pub archive_socket: PathBuf,
    /// Identity of this host: proxies on the same host may use Unix sockets.
    pub host_id: String,
    /// The address that follows the primary.
    pub virtual_ip: Option<VirtualIp>,
    /// What resets this host when it hangs while it leads.
    pub watchdog: Watchdog,
    /// Our users must use TLS.
    pub require_tls: bool,
    /// Something starts this agent again when it dies.
    pub supervised: bool,
    /// The local configuration file, to be read again when asked; none in tests.
    pub config_file: Option<PathBuf>,
}

impl Options {
    /// Takes over what a changed local configuration may change while the agent runs. Returns the keys whose change
    /// waits for the agent's restart.
    pub fn reload(&mut self, old: &LocalConfig, new: &LocalConfig) -> Vec<&'static str> {
        self.parameters = new.postgresql.parameters.clone();
        self.pg_hba = new.postgresql.pg_hba.clone();
        self.pg_ident = new.postgresql.pg_ident.clone();
        self.tags = new.tags.to_json().into_iter().collect();
        let (mine, theirs) = (&old.postgresql, &new.postgresql);
        let changes = [
            ("scope", old.scope != new.scope),
            ("namespace", old.namespace != new.namespace),
            ("name", old.name != new.name),
            ("log", old.log != new.log),
            ("restapi", old.restapi != new.restapi),
            ("ctl", old.ctl != new.ctl),
            ("store", old.store != new.store),
            ("proxy", old.proxy != new.proxy),
            ("virtual_ip", old.virtual_ip != new.virtual_ip),
            ("watchdog", old.watchdog != new.watchdog),
            ("postgresql.listen", mine.listen != theirs.listen),
            ("postgresql.connect_address", mine.connect_address != theirs.connect_address),
            ("postgresql.data_dir", mine.data_dir != theirs.data_dir),
            ("postgresql.bin_dir", mine.bin_dir != theirs.bin_dir),
            ("postgresql.user", mine.user != theirs.user),
            ("postgresql.run_dir", mine.run_dir != theirs.run_dir),
            ("postgresql.pgpass", mine.pgpass != theirs.pgpass),
            ("postgresql.authentication", mine.authentication != theirs.authentication),
            ("postgresql.tls", mine.tls != theirs.tls),
        ];
        changes.into_iter().filter(|(_, changed)| *changed).map(|(key, _)| key).collect()
    }

    /// Tagged `nostream`: WAL comes through `restore_command` alone.
    pub fn from_archive(&self) -> bool {
        self.tags.get(NOSTREAM) == Some(&Value::Bool(true))
    }

    /// PostgreSQL's command for WAL: `wal-push %p` or `wal-fetch %f %p` of this very program.
    pub fn wal_command(&self, verb: &str) -> String {
        // For the shell, and before it for PostgreSQL, to which a % means something.
        let quoted = |path: &PathBuf| {
            let text = path.to_string_lossy().replace('%', "%%").replace('\'', "'\\''");
            format!("'{text}'")
        };
        let (program, socket) = (quoted(&self.program), quoted(&self.archive_socket));
        format!("{program} {verb} --socket {socket}")
    }

    /// This member.
    pub fn name(&self) -> &MemberName {
        &self.instance.name
    }
}
