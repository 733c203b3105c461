//! One connection from accept to the relay: opening packets, choice of a member, holding, first answer.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::attempt::{Want, Won, attempt};
use crate::cancel::{self, CancelKeys};
use crate::carry::{Departure, Guest, Newcomer};
use crate::client::{Client, Ended};
use crate::config::ProxyConfig;
use crate::connect::Server;
use crate::frames::Frames;
use crate::opening::Opening;
use crate::proxy_protocol::Origin;
use crate::relay::{Half, Handover, Relay, Tickets};
use crate::report::Report;
use crate::routes::{Backend, Binding, Port, Routes, choose};
use crate::spread::{Seat, Spread};
use crate::stats::{Counted, Gauge, Stats};

/// What all connections of a proxy share.
pub(crate) struct Shared {
    pub config: ProxyConfig,
    pub stats: Arc<Stats>,
    pub spread: Arc<Spread>,
    pub keys: Arc<CancelKeys>,
    pub routes: watch::Receiver<Arc<Routes>>,
    pub relay: Relay,
    /// One permit per connection, up to `max_connections`.
    pub seats: Arc<Semaphore>,
    /// One permit per held connection, up to `hold_limit`.
    pub holds: Arc<Semaphore>,
    /// The drain time is over: whatever has not become a session by now is refused.
    pub stop: CancellationToken,
    /// Another program takes the process over.
    pub departure: Departure,
}

/// A member that gave what was wanted.
struct Found {
    won: Won,
    binding: Binding,
    spread: Seat,
    opening: Counted,
}

/// Everything the relay needs, but the client.
struct Ready {
    server: Server,
    /// The member's first bytes for the client; `None` when the session is encrypted end to end.
    answer: Option<Vec<u8>>,
    binding: Binding,
    spread: Seat,
    opening: Counted,
    seat: Option<OwnedSemaphorePermit>,
}

impl From<Ready> for Opened {
    fn from(ready: Ready) -> Self {
        Opened::Session(Box::new(ready))
    }
}

/// What the opening packets came to.
enum Opened {
    Session(Box<Ready>),
    Cancel(Box<[u8]>),
}

/// A connection's place among the held ones.
struct Held {
    _permit: OwnedSemaphorePermit,
    _gauge: Counted,
}

struct Start<'a> {
    shared: &'a Shared,
    port: Port,
    client: Client,
    /// Its PROXY protocol header has been read, or none is expected.
    introduced: bool,
    routes: watch::Receiver<Arc<Routes>>,
    deadline: Option<Instant>,
    held: Option<Held>,
    /// Members that failed since the last wait.
    failed: Vec<String>,
    /// The member last tried and why it did not take the session.
    obstacle: Option<(Arc<Backend>, String)>,
}

/// Serves one connection until it has become a session of the relay or has ended.
pub(crate) async fn serve(shared: &Shared, port: Port, client: Client) {
    Start::new(shared, port, client).run().await;
}

/// Goes on with a connection of another proxy.
pub(crate) async fn resume(shared: &Shared, newcomer: Newcomer) {
    let Newcomer { socket, sent, guest } = newcomer;
    // It fails only on a descriptor that is dead.
    let Ok(stream) = TcpStream::from_std(socket.into()) else { return };
    let origin = Origin { source: guest.source, destination: guest.destination };
    let mut start = Start::new(shared, guest.port, Client::resume(stream, origin, sent));
    start.introduced = guest.introduced;
    start.deadline = guest.patience.map(|patience| Instant::now() + patience);
    start.run().await;
}

impl<'a> Start<'a> {
    fn new(shared: &'a Shared, port: Port, client: Client) -> Self {
        let (routes, introduced) = (shared.routes.clone(), !shared.config.accept_proxy_protocol);
        let (held, failed) = (None, Vec::new());
        Self { shared, port, client, introduced, routes, deadline: None, held, failed, obstacle: None }
    }
}

impl Start<'_> {
    async fn run(mut self) {
        let shared = self.shared;
        let opened = tokio::select! {
            biased;
            opened = self.open() => opened,
            // Nothing has been said to the client that a new start would not say.
            () = shared.departure.leaving.cancelled() => return self.leave(),
        };
        let ended = match opened {
            Ok(Opened::Cancel(key)) => return self.cancel(&key).await,
            Ok(Opened::Session(ready)) => return self.hand_over(*ready),
            Err(ended) => ended,
        };
        if let Ended::Refused(report) = &ended {
            self.shared.stats.of(self.port).refused.fetch_add(1, Relaxed);
            let peer = self.client.origin.source;
            tracing::debug!(port = %self.port, %peer, code = report.code, "refused: {}", report.message);
        }
        // A refused connection neither waits nor blocks others from waiting.
        self.held = None;
        self.client.refuse(&ended).await;
    }

    /// Another program goes on with the connection.
    fn leave(self) {
        let Origin { source, destination } = self.client.origin;
        let patience = self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let guest = Guest { port: self.port, source, destination, introduced: self.introduced, patience };
        let (socket, sent) = self.client.into_unanswered();
        // It fails only on a descriptor that is dead: then there is nobody to leave.
        if let Ok(socket) = socket.into_std() {
            self.shared.departure.leave_newcomer(Newcomer { socket: socket.into(), sent, guest });
        }
    }

    fn hand_over(self, ready: Ready) {
        let Ready { server, answer, binding, spread, opening, seat } = ready;
        let (client, to_server) = self.client.into_parts();
        let mut frames = answer.is_some().then(Frames::default);
        let to_client = answer.unwrap_or_default();
        let key = frames.as_mut().and_then(|frames| frames.observe(&to_client));
        let key = key.map(|key| self.shared.keys.remember(key, &binding.backend));
        let opening = Some(opening).filter(|_| !frames.as_ref().is_some_and(Frames::started));
        // Either fails only on a descriptor that is already dead: then there is nothing to relay.
        let (Ok(client), Ok(server)) = (client.into_std(), server.into_fd()) else { return };
        let active = Counted::new(&self.shared.stats, self.port, Gauge::Active);
        self.shared.relay.adopt(Handover {
            client: client.into(),
            server,
            frames,
            to_client,
            to_server,
            halves: [Half::default(); 2],
            binding,
            tickets: Tickets { _active: active, _spread: spread, _seat: seat, opening, key },
        });
    }

    /// Goes through the opening packets.
    async fn open(&mut self) -> Result<Opened, Ended> {
        if !self.introduced {
            in_time(self.shared, self.client.proxy_header()).await?;
            self.introduced = true;
        }
        let mut seat = None;
        let mut refusal = None;
        // Each encryption may be asked for once; then the startup packet must come.
        for _ in 0..3 {
            let (opening, packet) = in_time(self.shared, self.client.opening()).await?;
            match opening {
                Opening::Cancel(key) => return Ok(Opened::Cancel(key)),
                Opening::GssEnc => self.client.answer(b'N').await?,
                Opening::Ssl => match self.seated_attempt(&mut seat, Want::Tls).await {
                    Ok(Found { won: Won::Tls(server), binding, spread, opening }) => {
                        self.client.answer(b'S').await?;
                        return Ok(Ready { server, answer: None, binding, spread, opening, seat }.into());
                    }
                    Ok(_) => self.client.answer(b'N').await?,
                    // Clients show an error's text only after they have sent their startup packet.
                    Err(Ended::Refused(report)) => {
                        refusal = Some(report);
                        self.client.answer(b'N').await?;
                    }
                    Err(other) => return Err(other),
                },
                Opening::DirectTls => {
                    let found = self.seated_attempt(&mut seat, Want::DirectTls).await?;
                    // A client in the middle of a TLS handshake would not understand an ErrorResponse.
                    let Found { won: Won::Tls(server), binding, spread, opening } = found else {
                        return Err(Ended::Gone);
                    };
                    return Ok(Ready { server, answer: None, binding, spread, opening, seat }.into());
                }
                Opening::Startup => {
                    if let Some(report) = refusal {
                        return Err(Ended::Refused(report));
                    }
                    let found = self.seated_attempt(&mut seat, Want::Session(&packet)).await?;
                    let Found { won, binding, spread, opening } = found;
                    let Won::Session(server, answer) = won else { return Err(Ended::Gone) };
                    return Ok(Ready { server, answer: Some(answer), binding, spread, opening, seat }.into());
                }
            }
        }
        Err(Ended::Refused(Report::protocol("encryption was asked for more than once")))
    }

    async fn cancel(&mut self, key: &[u8]) {
        self.shared.stats.of(self.port).cancels.fetch_add(1, Relaxed);
        let routes = Arc::clone(&self.routes.borrow());
        let origin = self.client.origin;
        cancel::deliver(key, self.port, &self.shared.keys, &routes, &self.shared.config, origin).await;
    }

    /// Takes one of the proxy's connection seats first, unless it is already taken.
    async fn seated_attempt(
        &mut self,
        seat: &mut Option<OwnedSemaphorePermit>,
        want: Want<'_>,
    ) -> Result<Found, Ended> {
        if seat.is_none() {
            let free = Arc::clone(&self.shared.seats).try_acquire_owned();
            *seat = Some(free.map_err(|_| Ended::Refused(too_many(self.shared.config.max_connections)))?);
        }
        self.find_member(want).await
    }

    /// Tries members, and waits for better ones, until one gives what is wanted or a bound is reached.
    async fn find_member(&mut self, want: Want<'_>) -> Result<Found, Ended> {
        let shared = self.shared;
        let deadline = *self.deadline.get_or_insert_with(|| Instant::now() + shared.config.hold_timeout);
        let mut waits = 0;
        loop {
            // Before the look at the routes: whoever waits for the last one to be opened must not miss it.
            let opening = Counted::new(&shared.stats, self.port, Gauge::Opening);
            let routes = Arc::clone(&self.routes.borrow_and_update());
            let Some(binding) = choose(&routes, self.port, &self.failed, &shared.config, &shared.spread) else {
                drop(opening);
                self.wait(deadline, waits).await?;
                waits += 1;
                continue;
            };
            // Counted while it is being connected, so that a burst of connections spreads too.
            let spread = shared.spread.take(&binding.backend.name);
            let origin = self.client.origin;
            let cautious = self.held.is_some();
            let outcome = tokio::select! {
                outcome = attempt(want, &binding, cautious, &shared.config, origin) => Some(outcome),
                () = route_ends(&mut self.routes, &binding) => None,
                () = self.client.gone() => return Err(Ended::Gone),
                () = tokio::time::sleep_until(deadline) => return Err(Ended::Refused(self.silent(&binding.backend))),
                () = shared.stop.cancelled() => return Err(Ended::Refused(stopping())),
            };
            match outcome {
                Some(Ok(won)) => {
                    self.held = None;
                    return Ok(Found { won, binding, spread, opening });
                }
                Some(Err(reason)) => {
                    self.failed.push(binding.backend.name.clone());
                    self.obstacle = Some((binding.backend, reason));
                }
                // The new routes may hold a better one: no wait.
                None => self.obstacle = Some((binding.backend, "it left its role".to_owned())),
            }
        }
    }

    /// Waits for a route change, or a moment when a member has refused. Errors when a bound is reached.
    async fn wait(&mut self, deadline: Instant, waits: u32) -> Result<(), Ended> {
        let shared = self.shared;
        if self.held.is_none() {
            self.held = Some(self.hold()?);
        }
        // The more wait, the more seldom each asks: a starting server is not buried under attempts.
        let crowd = shared.stats.of(self.port).held.load(Relaxed);
        let pause = Duration::from_millis((20 + 10 * u64::from(waits.min(3)) + crowd / 10).min(1000));
        let refused = !self.failed.is_empty();
        tokio::select! {
            () = changed(&mut self.routes) => {}
            () = tokio::time::sleep(pause), if refused => {}
            () = self.client.gone() => return Err(Ended::Gone),
            () = tokio::time::sleep_until(deadline) => return Err(Ended::Refused(self.waited_too_long())),
            () = shared.stop.cancelled() => return Err(Ended::Refused(stopping())),
        }
        self.failed.clear();
        Ok(())
    }

    fn hold(&self) -> Result<Held, Ended> {
        let permit = Arc::clone(&self.shared.holds).try_acquire_owned().map_err(|_| {
            let limit = self.shared.config.hold_limit;
            let message = format!("too many connections already wait for a {} (limit {limit})", self.port.wants());
            Ended::Refused(
                Report::new("53300", message).hint("Try again in a moment; `matriarch list` shows the members."),
            )
        })?;
        self.shared.stats.of(self.port).held_total.fetch_add(1, Relaxed);
        Ok(Held { _permit: permit, _gauge: Counted::new(&self.shared.stats, self.port, Gauge::Held) })
    }

    /// The bound was reached while a member was asked. What it said before says more than that.
    fn silent(&mut self, backend: &Arc<Backend>) -> Report {
        if self.obstacle.as_ref().is_none_or(|(member, _)| member.name != backend.name) {
            self.obstacle = Some((Arc::clone(backend), "it did not answer".to_owned()));
        }
        self.waited_too_long()
    }

    fn waited_too_long(&self) -> Report {
        let time = self.shared.config.hold_timeout;
        let mut message = format!("no {} took the connection within {time:?}", self.port.wants());
        if let Some(problem) = &self.routes.borrow().problem {
            message.push_str(&format!("; {problem}"));
        }
        let report = match &self.obstacle {
            None => Report::new("57P03", message),
            Some((member, reason)) => {
                Report::new("57P03", format!("{message}; last tried {} at {}: {reason}", member.name, member.tcp))
            }
        };
        report.hint("`matriarch list` shows the members and their state.")
    }
}

/// Resolves when `binding` no longer holds.
async fn route_ends(routes: &mut watch::Receiver<Arc<Routes>>, binding: &Binding) {
    loop {
        changed(routes).await;
        if !binding.holds(&routes.borrow_and_update()) {
            return;
        }
    }
}

/// Resolves at the next change of routes. Whoever feeds them may be gone; the last ones then stay.
pub(crate) async fn changed(routes: &mut watch::Receiver<Arc<Routes>>) {
    if routes.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

async fn in_time<T>(shared: &Shared, step: impl Future<Output = Result<T, Ended>>) -> Result<T, Ended> {
    let limit = shared.config.startup_timeout;
    tokio::select! {
        done = step => done,
        () = tokio::time::sleep(limit) => {
            Err(Ended::Refused(Report::protocol(format!("no complete startup packet within {limit:?}"))))
        }
        () = shared.stop.cancelled() => Err(Ended::Refused(stopping())),
    }
}

/// What clients of a stopping proxy are told.
pub(crate) fn stopping() -> Report {
    Report::new("57P01", "terminating connection because the proxy is shutting down")
        .hint("Connect again, through another proxy if there is one.")
}

/// What one connection too many is told.
pub(crate) fn too_many(limit: usize) -> Report {
    Report::new("53300", format!("too many connections through this proxy (limit {limit})"))
        .hint("Close idle connections, or raise the proxy's connection limit.")
}
