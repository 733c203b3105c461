//! The proxy as a whole: bind, accept, follow routes, drain, make way.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cancel::CancelKeys;
use crate::carry::{Asked, Carried, Departure, Luggage, Mover, Newcomer};
use crate::client::Client;
use crate::config::{ProxyConfig, ProxyError};
use crate::connect;
use crate::relay::{Handover, Relay, Tickets};
use crate::routes::{Binding, Port, Routes};
use crate::session::{self, Shared, changed, too_many};
use crate::stats::{Counted, Gauge, Stats};

/// Connections beyond `max_connections` that may be starting, so that cancel requests still get through.
const HEADROOM: usize = 256;
const BACKLOG: i32 = 4096;
/// Between two tries to accept while the process has no descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long a proxy that makes way waits for refusals and cancel requests to reach whom they are for.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// A bound proxy that does not serve yet.
pub struct Proxy {
    config: ProxyConfig,
    listeners: Vec<(Port, TcpListener)>,
    stats: Arc<Stats>,
    newcomers: Vec<Newcomer>,
    sessions: Vec<Carried>,
    mover: Mover,
    asked: Asked,
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
        Self::resume(config, Luggage::default()).await
    }

    /// Goes on where another proxy made way: with its connections, and on its sockets as far as they are for configured
    /// addresses. Routes must begin with [`Luggage::routes`]: what does not hold under them is cut.
    ///
    /// # Errors
    /// As [`Proxy::bind`]; the connections then end.
    pub async fn resume(config: ProxyConfig, luggage: Luggage) -> Result<Proxy, ProxyError> {
        let Luggage { listeners: mut bound, newcomers, sessions, .. } = luggage;
        let mut listeners = Vec::new();
        for (port, addresses) in [(Port::ReadWrite, &config.read_write), (Port::ReadOnly, &config.read_only)] {
            for &address in addresses.iter().flatten() {
                let listener = take(&mut bound, port, address).map_or_else(|| listen(address), TcpListener::from_std);
                let listener = listener.map_err(|source| match source.kind() {
                    io::ErrorKind::AddrInUse => ProxyError::PortInUse { address, port },
                    _ => ProxyError::Listen { address, port, source },
                })?;
                listeners.push((port, listener));
            }
        }
        if listeners.is_empty() {
            return Err(ProxyError::NoPort);
        }
        let (mover, asked) = Mover::new();
        Ok(Proxy { config, listeners, stats: Arc::default(), newcomers, sessions, mover, asked })
    }

    /// Asks this proxy to make way, while it runs.
    pub fn mover(&self) -> Mover {
        self.mover.clone()
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

    /// Serves until `shutdown`, then drains: no new connections, running sessions get `drain_timeout`. Ends at once, with
    /// everything left as it is, when it is asked to make way ([`Proxy::mover`]).
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
        let Proxy { mut config, listeners, stats, newcomers, sessions, mover, mut asked } = self;
        // With the last of the others nobody can ask any more.
        drop(mover);
        // What a semaphore can count; more sockets no process can have.
        config.max_connections = config.max_connections.min(u32::MAX as usize);
        config.hold_limit = config.hold_limit.min(u32::MAX as usize);
        let keys = Arc::new(CancelKeys::default());
        let relay = Relay::start(config.relay_threads, &routes, &stats, &keys).map_err(ProxyError::Relay)?;
        let shared = Arc::new(Shared {
            seats: Arc::new(Semaphore::new(config.max_connections)),
            holds: Arc::new(Semaphore::new(config.hold_limit)),
            stop: CancellationToken::new(),
            departure: Departure::default(),
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
        sessions.into_iter().for_each(|session| adopt(&shared, session));
        for newcomer in newcomers {
            let shared = Arc::clone(&shared);
            starting.spawn(async move { session::resume(&shared, newcomer).await });
        }
        helpers.spawn(follow(Arc::clone(&shared), routes));
        for (port, listener) in listeners {
            let (shared, starting) = (Arc::clone(&shared), starting.clone());
            helpers.spawn(accept(shared, port, listener, starting, shutdown.clone()));
        }
        tokio::select! {
            () = shutdown.cancelled() => drain(&shared, &starting).await,
            Some(answer) = asked.recv() => {
                // Whoever asked may be gone; everything then ends.
                let _ = answer.send(make_way(&shared, &starting, &helpers).await);
            }
        }
        helpers.close();
        helpers.wait().await;
        Ok(())
    }
}

/// Ends everything as it stands.
async fn make_way(shared: &Shared, starting: &TaskTracker, helpers: &TaskTracker) -> Luggage {
    shared.departure.leaving.cancel();
    helpers.close();
    helpers.wait().await;
    starting.close();
    // Those who leave do so at once.
    let _ = tokio::time::timeout(LAST_WORDS, starting.wait()).await;
    let sessions = shared.relay.pack().await;
    let routes = (**shared.routes.borrow()).clone();
    shared.departure.luggage(routes, sessions)
}

/// A socket of another proxy that listens there.
fn take(bound: &mut Vec<(Port, OwnedFd)>, port: Port, address: SocketAddr) -> Option<std::net::TcpListener> {
    let is_it = |(of, socket): &(Port, OwnedFd)| {
        let local = rustix::net::getsockname(socket).ok().and_then(|local| SocketAddr::try_from(local).ok());
        *of == port && local == Some(address)
    };
    let index = bound.iter().position(is_it)?;
    Some(bound.swap_remove(index).1.into())
}

/// Gives a session of another proxy to the relay.
fn adopt(shared: &Shared, session: Carried) {
    let Carried { client, server, to_client, to_server, state } = session;
    let binding = Binding { port: state.port, backend: Arc::new(state.member), reign: state.reign };
    let started = state.frames.as_ref().is_some_and(|frames| frames.started());
    let key = state.key.map(|key| shared.keys.remember(key.into(), &binding.backend));
    let tickets = Tickets {
        _active: Counted::new(&shared.stats, state.port, Gauge::Active),
        _spread: shared.spread.take(&binding.backend.name),
        _seat: Arc::clone(&shared.seats).try_acquire_owned().ok(),
        opening: (!started).then(|| Counted::new(&shared.stats, state.port, Gauge::Opening)),
        key,
    };
    let (halves, frames) = (state.halves, state.frames);
    shared.relay.adopt(Handover { client, server, to_client, to_server, halves, frames, binding, tickets });
}

/// Tells the relay of every change of routes, until the proxy stops.
async fn follow(shared: Arc<Shared>, mut routes: watch::Receiver<Arc<Routes>>) {
    loop {
        tokio::select! {
            () = changed(&mut routes) => shared.relay.recheck(),
            () = shared.stop.cancelled() => return,
            () = shared.departure.leaving.cancelled() => return,
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
            () = shared.departure.leaving.cancelled() => return shared.departure.leave_listener(port, listener),
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
