//! Requests to Consul: a few kept connections, and for every failure whether the request may have been carried out.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::TrySendError;
use hyper::{HeaderMap, Method, StatusCode};
use tokio::time::timeout;

use super::connect::{Connection, connect, host_header};
use super::options::ConsulOptions;

/// Largest answer that is read.
const LIMIT: usize = 64 << 20;
/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(1);
/// How long an address may take to answer a read while there is another one to ask.
const IMPATIENT: Duration = Duration::from_millis(900);
/// How long an answer may take otherwise. (Consul itself holds requests for up to 7 s while it has no leader.)
const PATIENT: Duration = Duration::from_millis(2_500);
/// Idle connections that are kept.
const KEPT: usize = 4;

/// What is asked: a path with its query, and a body for PUT.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    pub method: Method,
    pub path: String,
    pub body: Bytes,
    /// How long the answer may take; `None` for the usual.
    pub within: Option<Duration>,
}

impl Ask {
    pub fn get(path: String) -> Self {
        Self { method: Method::GET, path, body: Bytes::new(), within: None }
    }

    pub fn put(path: String, body: Bytes) -> Self {
        Self { method: Method::PUT, path, body, within: None }
    }
}

/// An answer, whatever its status.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    /// The body as text for a message, on one line.
    pub fn text(&self) -> String {
        let text = String::from_utf8_lossy(&self.body);
        text.trim().chars().take(300).map(|c| if c.is_control() { ' ' } else { c }).collect()
    }

    /// A header that is a number.
    pub fn number(&self, header: &str) -> Option<u64> {
        self.headers.get(header)?.to_str().ok()?.parse().ok()
    }
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NoAnswer {
    /// The request never left: it certainly had no effect.
    NotSent(String),
    /// It left, and what became of it is unknown.
    Lost(String),
}

/// A client of one Consul, reached by any of its addresses.
pub(super) struct Client {
    pub options: ConsulOptions,
    /// The address used now, as an index that only grows.
    current: AtomicUsize,
    idle: Mutex<Vec<(usize, Connection)>>,
}

impl Client {
    pub fn new(options: ConsulOptions) -> Self {
        Self { options, current: AtomicUsize::new(0), idle: Mutex::new(Vec::new()) }
    }

    /// Sends a request to the address used now. One that was not sent, and a read that failed in any way, is tried at the
    /// other addresses too.
    pub async fn ask(&self, ask: &Ask) -> Result<Answer, NoAnswer> {
        let mut last = NoAnswer::NotSent("no address".to_owned());
        for _ in &self.options.endpoints {
            let attempt = Attempt::new(self);
            match self.ask_one(attempt.at % self.options.endpoints.len(), ask).await {
                Ok(answer) if answer.status.is_server_error() => {
                    // Left undone: the next request goes elsewhere. A write is not repeated here, since only the caller
                    // can tell from the words whether it may have happened.
                    drop(attempt);
                    if ask.method != Method::GET || self.options.endpoints.len() == 1 {
                        return Ok(answer);
                    }
                    last = NoAnswer::Lost(format!("{}: {}", answer.status, answer.text()));
                }
                Ok(answer) => {
                    attempt.done();
                    return Ok(answer);
                }
                Err(failed @ NoAnswer::Lost(_)) if ask.method != Method::GET => return Err(failed),
                Err(failed) => last = failed,
            }
        }
        Err(last)
    }

    async fn ask_one(&self, index: usize, ask: &Ask) -> Result<Answer, NoAnswer> {
        let impatient = self.options.endpoints.len() > 1 && ask.method == Method::GET;
        let limit = ask.within.unwrap_or(if impatient { IMPATIENT } else { PATIENT });
        let endpoint = &self.options.endpoints[index];
        let mut request = self.request(index, ask)?;
        loop {
            let (mut connection, reused) = match self.kept(index) {
                Some(connection) => (connection, true),
                None => {
                    let made = timeout(CONNECT.min(limit), connect(self.options.tls.as_ref(), endpoint)).await;
                    let made = made.unwrap_or_else(|_| Err("no connection in time".to_owned()));
                    (made.map_err(|error| NoAnswer::NotSent(format!("{endpoint}: {error}")))?, false)
                }
            };
            let sent = timeout(limit, async {
                let response = connection.sender.try_send_request(request).await?;
                let (head, body) = response.into_parts();
                Ok((head, Limited::new(body, LIMIT).collect().await))
            });
            match sent.await {
                Ok(Ok((head, Ok(body)))) => {
                    self.keep(index, connection);
                    return Ok(Answer { status: head.status, headers: head.headers, body: body.to_bytes() });
                }
                Ok(Ok((_, Err(error)))) => return Err(NoAnswer::Lost(format!("{endpoint}: {error}"))),
                Ok(Err(failed)) => {
                    let mut failed: TrySendError<hyper::Request<Full<Bytes>>> = failed;
                    match failed.take_message() {
                        // A kept connection that was closed meanwhile took nothing: a new one is made.
                        Some(unsent) if reused => request = unsent,
                        unsent => {
                            let mut reason = format!("{endpoint}: {}", connection.end(failed.error()).await);
                            // A server that refuses a client's certificate says why and hangs up; the end of the
                            // connection may be noticed before its words.
                            if self.options.tls.is_some() && !reused && !reason.contains("certificate") {
                                reason.push_str(" (does it refuse our client certificate, or that we have none?)");
                            }
                            return Err(unsent.map_or(NoAnswer::Lost(reason.clone()), |_| NoAnswer::NotSent(reason)));
                        }
                    }
                }
                Err(_) => return Err(NoAnswer::Lost(format!("{endpoint}: no answer within {} ms", limit.as_millis()))),
            }
        }
    }

    fn request(&self, index: usize, ask: &Ask) -> Result<hyper::Request<Full<Bytes>>, NoAnswer> {
        let host = host_header(&self.options.endpoints[index]);
        let mut builder = hyper::Request::builder().method(&ask.method).uri(&ask.path).header("host", host);
        if let Some(token) = &self.options.token {
            builder = builder.header("x-consul-token", token.read().map_err(NoAnswer::NotSent)?);
        }
        builder.body(Full::new(ask.body.clone())).map_err(|error| NoAnswer::NotSent(error.to_string()))
    }

    fn kept(&self, index: usize) -> Option<Connection> {
        let mut idle = self.idle.lock().expect("nobody panics while holding this lock");
        idle.retain(|(_, connection)| !connection.sender.is_closed());
        let at = idle.iter().position(|(of, connection)| *of == index && connection.sender.is_ready())?;
        Some(idle.swap_remove(at).1)
    }

    fn keep(&self, index: usize, connection: Connection) {
        let mut idle = self.idle.lock().expect("nobody panics while holding this lock");
        if idle.len() < KEPT {
            idle.push((index, connection));
        }
    }
}

/// One request at one address. Unless it is done when dropped (it failed, or its caller would wait no longer), the next
/// request goes to the next address.
struct Attempt<'a> {
    client: &'a Client,
    at: usize,
    done: bool,
}

impl<'a> Attempt<'a> {
    fn new(client: &'a Client) -> Self {
        Self { client, at: client.current.load(Ordering::Relaxed), done: false }
    }

    fn done(mut self) {
        self.done = true;
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if !self.done {
            // Only if no other request has moved on already.
            let _ = self.client.current.compare_exchange(self.at, self.at + 1, Ordering::Relaxed, Ordering::Relaxed);
        }
    }
}
