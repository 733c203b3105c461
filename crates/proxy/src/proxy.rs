//! The proxy as a whole: bind, accept, follow routes, drain.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cancel::CancelKeys;
use crate::client::Client;
use crate::config::{ProxyConfig, ProxyError};
use crate::connect;
use crate::relay::Relay;
use crate::routes::{Port, Routes};
use crate::session::{self, Shared, changed, too_many};
use crate::stats::Stats;

/// Connections beyond `max_connections` that may be starting, so that cancel requests still get through.
const HEADROOM: usize = 256;
const BACKLOG: i32 = 4096;
/// Between two tries to accept while the process has no descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A bound proxy that does not serve yet.
pub struct Proxy {
    config: ProxyConfig,
    listeners: Vec<(Port, TcpListener)>,
    stats: Arc<Stats>,
}

/// Where a proxy listens (with the real ports, where 0 was asked for).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Addresses {
    /// Addresses of the read-write port.
    pub read_write: Vec<SocketAddr>,
    /// Addresses of the read-only port.
    pub read_only: Vec<SocketAddr>,
}

impl Proxy {
    /// Listens on all configured addresses. Connections queue in the kernel until [`Proxy::run`].
    ///
    /// # Errors
    /// When no port is configured or an address cannot be had; nothing is bound then.
    pub async fn bind(config: ProxyConfig) -> Result<Proxy, ProxyError> {
        let mut listeners = Vec::new();
        for (port, addresses) in [(Port::ReadWrite, &config.read_write), (Port::ReadOnly, &config.read_only)] {
            for &address in addresses.iter().flatten() {
                let listener = listen(address).map_err(|source| match source.kind() {
                    io::ErrorKind::AddrInUse => ProxyError::PortInUse { address, port },
                    _ => ProxyError::Listen { address, port, source },
                })?;
                listeners.push((port, listener));
            }
        }
        if listeners.is_empty() {
            return Err(ProxyError::NoPort);
        }
        Ok(Proxy { config, listeners, stats: Arc::default() })
    }

    /// Where it listens.
    pub fn addresses(&self) -> Addresses {
        let of = |port| {
            let own = self.listeners.iter().filter(|(p, _)| *p == port);
            own.filter_map(|(_, listener)| listener.local_addr().ok()).collect()
        };
        Addresses { read_write: of(Port::ReadWrite), read_only: of(Port::ReadOnly) }
    }

    /// The counters; they stay readable while the proxy runs and after.
    pub fn stats(&self) -> Arc<Stats> {
        Arc::clone(&self.stats)
    }

    /// Serves until `shutdown`, then drains: no new connections, running sessions get `drain_timeout`.
    ///
    /// If the sender of `routes` goes away, the last routes stay in force.
    ///
    /// # Errors
    /// When the relay threads cannot be started.
    pub async fn run(
        self,
        routes: watch::Receiver<Arc<Routes>>,
        shutdown: CancellationToken,
    ) -> Result<(), ProxyError> {
        let Proxy { mut config, listeners, stats } = self;
        // What a semaphore can count; more sockets no process can have.
        config.max_connections = config.max_connections.min(u32::MAX as usize);
        config.hold_limit = config.hold_limit.min(u32::MAX as usize);
        let keys = Arc::new(CancelKeys::default());
        let relay = Relay::start(config.relay_threads, &routes, &stats, &keys).map_err(ProxyError::Relay)?;
        let shared = Arc::new(Shared {
            seats: Arc::new(Semaphore::new(config.max_connections)),
            holds: Arc::new(Semaphore::new(config.hold_limit)),
            stop: CancellationToken::new(),
            spread: Arc::default(),
            config,
            stats,
            keys,
            routes: routes.clone(),
            relay,
        });
        // Whoever drops this future stops the proxy too.
        let _stop = shared.stop.clone().drop_guard();
        let starting = TaskTracker::new();
        let helpers = TaskTracker::new();
        helpers.spawn(follow(Arc::clone(&shared), routes));
        for (port, listener) in listeners {
            let (shared, starting) = (Arc::clone(&shared), starting.clone());
            helpers.spawn(accept(shared, port, listener, starting, shutdown.clone()));
        }
        shutdown.cancelled().await;
        drain(&shared, &starting).await;
        helpers.close();
        helpers.wait().await;
        Ok(())
    }
}

/// Tells the relay of every change of routes, until the proxy stops.
async fn follow(shared: Arc<Shared>, mut routes: watch::Receiver<Arc<Routes>>) {
    loop {
        tokio::select! {
            () = changed(&mut routes) => shared.relay.recheck(),
            () = shared.stop.cancelled() => return,
        }
    }
}

async fn accept(
    shared: Arc<Shared>,
    port: Port,
    listener: TcpListener,
    starting: TaskTracker,
    shutdown: CancellationToken,
) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.cancelled() => return,
            () = shared.stop.cancelled() => return,
        };
        match accepted {
            Ok((stream, peer)) => welcome(&shared, port, stream, peer, &starting),
            // The client gave up between its packet and our call.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                tracing::warn!(%port, %error, "cannot accept a connection; raise the limit on open files (`ulimit -n`) if it is reached");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn welcome(shared: &Arc<Shared>, port: Port, stream: TcpStream, peer: SocketAddr, starting: &TaskTracker) {
    let stats = shared.stats.of(port);
    stats.accepted.fetch_add(1, Relaxed);
    connect::tune(&stream);
    if starting.len() >= shared.config.max_connections.saturating_add(HEADROOM) {
        stats.refused.fetch_add(1, Relaxed);
        // Not worth a task: the kernel takes the message or nobody does.
        let _ = stream.try_write(&too_many(shared.config.max_connections).encode());
        return;
    }
    let shared = Arc::clone(shared);
    starting.spawn(async move { session::serve(&shared, port, Client::new(stream, peer)).await });
}

/// Lets running sessions end, for a while; then cuts the rest.
async fn drain(shared: &Shared, starting: &TaskTracker) {
    starting.close();
    let time = shared.config.drain_timeout;
    tracing::info!(?time, "the proxy takes no new connections and waits for its sessions to end");
    let all_seats = u32::try_from(shared.config.max_connections).unwrap_or(u32::MAX);
    let ended = async {
        starting.wait().await;
        // Every session holds a seat until its end.
        let _ = shared.seats.acquire_many(all_seats).await;
    };
    if tokio::time::timeout(time, ended).await.is_err() {
        tracing::info!("the drain time is over; cutting the remaining sessions");
    }
    shared.stop.cancel();
    shared.relay.cut_all();
    starting.wait().await;
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    // A restarted proxy takes its port back at once, although old connections linger in TIME_WAIT.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}
