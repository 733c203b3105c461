//! Where a Consul is and how it wants to be asked.

use std::path::PathBuf;

pub use crate::etcd::Password as Token;
pub use matriarch_tls::TlsFiles;

/// Port on which a Consul agent serves HTTP unless told otherwise.
pub const DEFAULT_PORT: u16 = 8500;

/// One address of a Consul agent's HTTP interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// Host name or address (an IPv6 address without brackets), and port.
    Tcp {
        /// Name or address.
        host: String,
        /// Port.
        port: u16,
    },
    /// A Unix socket, as Consul's `addresses { http = "unix://…" }` makes one.
    Unix(PathBuf),
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// How fresh the answers to the *watch* must be. What decisions rest on is always read consistently.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Consistency {
    /// The leader answers, without asking the other servers whether it still is the leader.
    #[default]
    Default,
    /// The leader answers after a majority has confirmed it.
    Consistent,
    /// Any server answers, also one that is cut off from the others.
    Stale,
}

/// Everything that is needed to use a Consul.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConsulOptions {
    /// Agents or servers, tried in turn; at least one.
    pub endpoints: Vec<Endpoint>,
    /// TLS towards the TCP addresses, with these files; plain HTTP when none.
    pub tls: Option<TlsFiles>,
    /// ACL token, or the file that holds it, which is read for each request.
    pub token: Option<Token>,
    /// Datacenter whose store is used; that of the agent if none is named.
    pub datacenter: Option<String>,
    /// Namespace (Consul Enterprise).
    pub namespace: Option<String>,
    /// Admin partition (Consul Enterprise).
    pub partition: Option<String>,
    /// For the watch.
    pub consistency: Consistency,
    /// Health checks that end a lease when they fail. None is safe; `serfHealth` is Consul's own default.
    pub checks: Vec<String>,
}

impl ConsulOptions {
    /// One agent without TLS or token.
    pub fn at(endpoint: Endpoint) -> Self {
        Self { endpoints: vec![endpoint], ..Self::default() }
    }

    /// `consul:HOST:PORT`, or `consuls:` with TLS, for messages.
    pub(super) fn place(&self) -> String {
        let all: Vec<_> = self.endpoints.iter().map(ToString::to_string).collect();
        let scheme = if self.tls.is_some() { "consuls" } else { "consul" };
        format!("{scheme}:{}", all.join(","))
    }
}
