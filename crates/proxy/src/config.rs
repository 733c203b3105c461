//! What the operator of a proxy may choose, and what can go wrong when it starts.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use crate::routes::Port;

/// Settings of one proxy. `Default` listens nowhere: set at least one of the two ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyConfig {
    /// Addresses of the read-write port (sessions reach the primary); `None` turns it off.
    pub read_write: Option<Vec<SocketAddr>>,
    /// Addresses of the read-only port (sessions reach replicas); `None` turns it off.
    pub read_only: Option<Vec<SocketAddr>>,
    /// How long a new connection waits for a usable member before it is refused with 57P03.
    pub hold_timeout: Duration,
    /// How many connections may wait at the same time; the next one is refused with 53300.
    pub hold_limit: usize,
    /// How many connections both ports together may have, waiting ones included.
    pub max_connections: usize,
    /// A replica that is further behind gets no new read-only sessions; `None` means any lag will do.
    pub max_replica_lag_bytes: Option<u64>,
    /// Limit for one TCP connect to a member.
    pub connect_timeout: Duration,
    /// Limit for a client to send its complete startup packet.
    pub startup_timeout: Duration,
    /// Whether the read-only port uses the primary while there is no replica within the lag limit.
    pub read_only_falls_back_to_primary: bool,
    /// Every connection must begin with a PROXY protocol header (version 1 or 2) from a trusted upstream.
    pub accept_proxy_protocol: bool,
    /// Send a PROXY protocol version 2 header to the member. PostgreSQL itself does not understand it; some
    /// poolers do.
    pub send_proxy_protocol: bool,
    /// How long a stopping proxy lets open sessions go on before it cuts them with 57P01.
    pub drain_timeout: Duration,
    /// Threads that move bytes. One carries about as much as two CPU cores of PostgreSQL can answer; a second one
    /// keeps sessions moving while the first waits for its turn, for 3 µs of CPU time a transaction (`bench/routing`).
    pub relay_threads: usize,
}

impl Default for ProxyConfig {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            read_write: None,
            read_only: None,
            hold_timeout: Duration::from_secs(30),
            hold_limit: 10_000,
            max_connections: 10_000,
            max_replica_lag_bytes: Some(64 * 1024 * 1024),
            connect_timeout: Duration::from_secs(2),
            startup_timeout: Duration::from_secs(10),
            read_only_falls_back_to_primary: false,
            accept_proxy_protocol: false,
            send_proxy_protocol: false,
            drain_timeout: Duration::from_secs(10),
            relay_threads: cores.clamp(1, 4),
        }
    }
}

/// Why a proxy could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// Another program has the port.
    #[error(
        "cannot listen on {address} for the {port} port: the address is already in use; \
         find its owner with `ss -ltnp 'sport = :{}'` and stop it, or choose another port", address.port()
    )]
    PortInUse {
        /// The address that was asked for.
        address: SocketAddr,
        /// Which of the two ports it was meant for.
        port: Port,
    },
    /// The address cannot be listened on for another reason.
    #[error("cannot listen on {address} for the {port} port: {source}; check that the address belongs to this host")]
    Listen {
        /// The address that was asked for.
        address: SocketAddr,
        /// Which of the two ports it was meant for.
        port: Port,
        /// The system's answer.
        source: io::Error,
    },
    /// Neither port was asked for.
    #[error("the proxy has no port to listen on; give an address for the read-write port, the read-only port, or both")]
    NoPort,
    /// The kernel refused a thread, an epoll instance or an eventfd.
    #[error("cannot start the proxy's relay threads: {0}; check the limits on threads and open files (`ulimit -u -n`)")]
    Relay(io::Error),
}
