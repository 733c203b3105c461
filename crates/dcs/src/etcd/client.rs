//! One client for all calls of a handle: finds a server that answers, stays with it, and leaves it when it does not.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use prost::Message;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use super::endpoint::Endpoint;
use super::grpc::{Connection, Fault, decode};
use super::login;
use super::options::EtcdOptions;

/// A method of the API.
#[derive(Clone, Copy, Debug)]
pub(super) struct Method {
    pub path: &'static str,
    /// Asking twice is as good as once.
    pub repeatable: bool,
    /// The server keeps the call open after its answer.
    pub streamed: bool,
}

/// Before the next server is tried beside one that has not answered yet.
const STAGGER: Duration = Duration::from_millis(250);
/// Before a question is repeated to servers that have no leader.
const PAUSE: Duration = Duration::from_millis(100);

pub(super) struct Client {
    pub options: EtcdOptions,
    /// For messages.
    pub place: String,
    current: Mutex<Option<Arc<Connection>>>,
    pub(super) session: login::Shared,
    /// Where the next search for a server begins.
    turn: AtomicUsize,
}

impl Client {
    pub fn new(options: EtcdOptions, place: String) -> Client {
        // Handles spread over the servers by chance.
        let turn = AtomicUsize::new(rand::random_range(0..64));
        Client { options, place, current: Mutex::default(), session: login::Shared::default(), turn }
    }

    /// Asks, and asks again where that is safe, for as long as the limit for a request allows.
    pub async fn call<A: Message + Default>(
        self: &Arc<Self>,
        method: Method,
        question: &impl Message,
    ) -> Result<A, Fault> {
        let (question, deadline) = (question.encode_to_vec(), Instant::now() + self.options.request_timeout);
        let mut logged_in_again = false;
        loop {
            let fault = match self.attempt(method, &question, deadline).await {
                Ok(answer) => return decode(answer),
                Err(fault) => fault,
            };
            let time_left = Instant::now() + PAUSE < deadline;
            match &fault {
                Fault::Status(status) if status.wants_login() && !logged_in_again && self.options.user.is_some() => {
                    logged_in_again = true;
                    self.forget_token(deadline).await;
                }
                Fault::Status(status)
                    if time_left && (status.try_elsewhere() || method.repeatable && status.ask_again()) =>
                {
                    tokio::time::sleep(PAUSE).await;
                }
                Fault::NoAnswer(_) if time_left && method.repeatable => {}
                _ => return Err(fault),
            }
        }
    }

    /// Asks once. A server that does not answer, or cannot, is left.
    async fn attempt(
        self: &Arc<Self>,
        method: Method,
        question: &[u8],
        deadline: Instant,
    ) -> Result<bytes::Bytes, Fault> {
        let connection = self.connection().await?;
        let with = self.metadata(&connection, deadline).await?;
        let left = deadline.saturating_duration_since(Instant::now());
        // A repeatable question gives up early, so that there is time to ask another server.
        let limit = if method.repeatable { left.min(self.options.attempt_timeout) } else { left };
        let answer = if method.streamed {
            timeout(limit, async { connection.stream(method.path, question, &with).await?.first_message().await })
                .await
                .unwrap_or_else(|_| Err(Fault::NoAnswer(format!("no answer within {:.1} s", limit.as_secs_f64()))))
        } else {
            connection.unary(method.path, question, &with, limit).await
        };
        match &answer {
            Ok(_) => connection.heard(),
            Err(Fault::NotSent(reason) | Fault::NoAnswer(reason)) => self.leave(&connection, reason).await,
            Err(Fault::Status(status)) if status.ask_again() => self.leave(&connection, &status.message).await,
            _ => {}
        }
        answer.map_err(|fault| at(&connection.endpoint, fault))
    }

    /// The connection in use, or a new one.
    pub async fn connection(&self) -> Result<Arc<Connection>, Fault> {
        let mut current = self.current.lock().await;
        if let Some(connection) = current.as_ref().filter(|connection| !connection.is_over()) {
            return Ok(Arc::clone(connection));
        }
        *current = None;
        let connection = Arc::new(self.connect().await.map_err(Fault::NotSent)?);
        tracing::debug!(store = %self.place, server = %connection.endpoint, "connected");
        *current = Some(Arc::clone(&connection));
        Ok(connection)
    }

    /// Gives up a connection, for everybody who uses it; the next search begins with another server.
    pub async fn leave(&self, connection: &Arc<Connection>, reason: &str) {
        connection.fail(reason);
        let mut current = self.current.lock().await;
        if current.as_ref().is_some_and(|current| Arc::ptr_eq(current, connection)) {
            *current = None;
            self.turn.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The first server that answers, in turn; each gets a head start before the next is tried beside it.
    async fn connect(&self) -> Result<Connection, String> {
        let mut endpoints =
            timeout(self.options.connect_timeout * 3, self.options.servers.find(&self.options.resolv_conf))
                .await
                .unwrap_or_else(|_| Err("its servers could not be looked up in time".to_owned()))?;
        let turn = self.turn.load(Ordering::Relaxed) % endpoints.len();
        endpoints.rotate_left(turn);
        let tls = match endpoints.iter().any(|endpoint| endpoint.tls) {
            true => Some(self.options.tls.client_config(&[b"h2"])?),
            false => None,
        };
        let (mut attempts, mut reasons, limit) = (JoinSet::new(), Vec::new(), self.options.connect_timeout);
        for endpoint in endpoints {
            let (name, tls) = (endpoint.to_string(), tls.clone().filter(|_| endpoint.tls));
            attempts.spawn(async move {
                let opened = timeout(limit, Connection::open(endpoint, tls)).await;
                opened
                    .unwrap_or_else(|_| Err(format!("no answer within {:.1} s", limit.as_secs_f64())))
                    .map_err(|reason| format!("{name}: {reason}"))
            });
            while let Ok(Some(ended)) = timeout(STAGGER, attempts.join_next()).await {
                match ended.map_err(|error| error.to_string()).flatten() {
                    Ok(connection) => return Ok(connection),
                    Err(reason) => reasons.push(reason),
                }
            }
        }
        while let Some(ended) = attempts.join_next().await {
            match ended.map_err(|error| error.to_string()).flatten() {
                Ok(connection) => return Ok(connection),
                Err(reason) => reasons.push(reason),
            }
        }
        self.turn.fetch_add(1, Ordering::Relaxed);
        Err(reasons.join("; "))
    }

    /// Waits for a connection, at most as long as a request may take.
    pub async fn connection_in_time(&self) -> Result<Arc<Connection>, Fault> {
        let deadline = Instant::now() + self.options.request_timeout;
        let late = |_| Err(Fault::NotSent("no connection in time".to_owned()));
        timeout_at(deadline, self.connection()).await.unwrap_or_else(late)
    }
}

/// Says which server it was.
fn at(endpoint: &Endpoint, fault: Fault) -> Fault {
    match fault {
        Fault::NotSent(reason) => Fault::NotSent(format!("{endpoint}: {reason}")),
        Fault::NoAnswer(reason) => Fault::NoAnswer(format!("{endpoint}: {reason}")),
        Fault::Status(status) => Fault::Status(status),
    }
}
