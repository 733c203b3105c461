//! A typed client of the interface. Every request has its own connection and its own deadline.

mod error;

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use axum::http::{Method, Request, StatusCode, Uri, header};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use matriarch_tls::{PeerTls, Wire, explained};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::net::TcpStream;

pub use self::error::ClientError;
use crate::types::{
    ArchiveCheckRow, ArchiveStatus, BlowBody, ClusterStatus, DrillLog, DrillRecord, ErrorBody, FailoverBody,
    HistoryLine, MemberStatus, ReinitializeBody, RestartBody, StatusPage, SwitchoverBody,
};

/// Largest answer that is read.
const LIMIT: usize = 16 << 20;

/// One member's interface.
#[derive(Clone)]
pub struct Client {
    base: String,
    address: String,
    tls: Option<Tls>,
    authorization: Option<String>,
    connect: Duration,
    read: Duration,
    command: Duration,
}

/// How the member is spoken to if its address begins with `https://`.
#[derive(Clone)]
struct Tls {
    host: String,
    peer: PeerTls,
}

/// The answer to a command: Patroni's line of text, and whether it is done or scheduled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// HTTP status code: 200 done, 202 scheduled or accepted.
    pub status: u16,
    /// In words.
    pub text: String,
}

impl Client {
    /// A client of the agent at `base`: `http://host:port` or `https://host:port`, with or without a path such as `/patroni`.
    /// `authorization` is the value of its header ([`crate::authorization`]). With TLS the system's authorities are trusted and
    /// nothing is shown, unless [`Client::with_tls`] says otherwise.
    pub fn new(base: &str, authorization: Option<String>) -> Result<Self, ClientError> {
        let bad = |why: &str| ClientError::BadAddress { url: base.to_owned(), why: why.to_owned() };
        let uri: Uri = base.parse().map_err(|failure| bad(&format!("{failure}")))?;
        let secure = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(bad("it must start with http:// or https://")),
        };
        let authority =
            uri.authority().filter(|authority| !authority.host().is_empty()).ok_or_else(|| bad("no host"))?;
        let port = authority.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let address = format!("{}:{port}", authority.host());
        Ok(Client {
            base: format!("{}://{address}", if secure { "https" } else { "http" }),
            address,
            tls: secure.then(|| Tls { host: authority.host().to_owned(), peer: PeerTls::default() }),
            authorization,
            connect: Duration::from_secs(2),
            read: Duration::from_secs(5),
            command: Duration::from_secs(80),
        })
    }

    /// The same with other certificates, if the address begins with `https://`.
    pub fn with_tls(mut self, peer: PeerTls) -> Self {
        self.tls = self.tls.map(|tls| Tls { peer, ..tls });
        self
    }

    /// The same with other deadlines for connecting and for reading.
    pub fn with_timeouts(mut self, connect: Duration, read: Duration) -> Self {
        self.connect = connect;
        self.read = read;
        self
    }

    /// The same with another deadline for commands.
    pub fn with_command_timeout(mut self, command: Duration) -> Self {
        self.command = command;
        self
    }

    /// `http://host:port` or `https://host:port`.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// `GET /patroni`.
    pub async fn member(&self) -> Result<MemberStatus, ClientError> {
        self.get("/patroni").await
    }

    /// `GET /cluster`.
    pub async fn cluster(&self) -> Result<ClusterStatus, ClientError> {
        self.get("/cluster").await
    }

    /// `GET /status`.
    pub async fn status(&self) -> Result<StatusPage, ClientError> {
        self.get("/status").await
    }

    /// `GET /history`.
    pub async fn history(&self) -> Result<Vec<HistoryLine>, ClientError> {
        self.get("/history").await
    }

    /// `GET /drills`.
    pub async fn drills(&self) -> Result<DrillLog, ClientError> {
        self.get("/drills").await
    }

    /// `GET /config`.
    pub async fn config(&self) -> Result<Value, ClientError> {
        self.get("/config").await
    }

    /// `GET /failsafe`.
    pub async fn failsafe(&self) -> Result<BTreeMap<String, String>, ClientError> {
        self.get("/failsafe").await
    }

    /// `GET /metrics`.
    pub async fn metrics(&self) -> Result<String, ClientError> {
        Ok(self.ask(Method::GET, "/metrics", None, self.read).await?.text)
    }

    /// `GET /openapi.json`.
    pub async fn openapi(&self) -> Result<Value, ClientError> {
        self.get("/openapi.json").await
    }

    /// A health check: true for 200, false for 503.
    pub async fn health(&self, path: &str) -> Result<bool, ClientError> {
        let (status, bytes) = self.exchange(Method::GET, path, None, self.read).await?;
        match status {
            StatusCode::OK => Ok(true),
            StatusCode::SERVICE_UNAVAILABLE => Ok(false),
            _ => Err(self.refusal(path, status, &bytes)),
        }
    }

    /// `PATCH /config`: merges, null removes; answers the new configuration.
    pub async fn patch_config(&self, patch: &Value) -> Result<Value, ClientError> {
        self.config_of(Method::PATCH, patch).await
    }

    /// `PUT /config`: replaces; answers the new configuration.
    pub async fn put_config(&self, config: &Value) -> Result<Value, ClientError> {
        self.config_of(Method::PUT, config).await
    }

    /// `POST /reload`.
    pub async fn reload(&self) -> Result<Reply, ClientError> {
        self.ask(Method::POST, "/reload", None, self.command).await
    }

    /// `POST /restart`.
    pub async fn restart(&self, body: &RestartBody) -> Result<Reply, ClientError> {
        self.post("/restart", body).await
    }

    /// `DELETE /restart`.
    pub async fn cancel_restart(&self) -> Result<Reply, ClientError> {
        self.ask(Method::DELETE, "/restart", None, self.command).await
    }

    /// `POST /reinitialize`.
    pub async fn reinitialize(&self, body: &ReinitializeBody) -> Result<Reply, ClientError> {
        self.post("/reinitialize", body).await
    }

    /// `DELETE /members/{name}`.
    pub async fn forget(&self, member: &str) -> Result<Reply, ClientError> {
        self.ask(Method::DELETE, &format!("/members/{member}"), None, self.command).await
    }

    /// `POST /switchover`; answers when it is done.
    pub async fn switchover(&self, body: &SwitchoverBody) -> Result<Reply, ClientError> {
        self.post("/switchover", body).await
    }

    /// `DELETE /switchover`.
    pub async fn cancel_switchover(&self) -> Result<Reply, ClientError> {
        self.ask(Method::DELETE, "/switchover", None, self.command).await
    }

    /// `POST /failover`; answers when it is done.
    pub async fn failover(&self, body: &FailoverBody) -> Result<Reply, ClientError> {
        self.post("/failover", body).await
    }

    /// `POST /drill`: ends this primary as a crash would.
    pub async fn drill(&self, body: &BlowBody) -> Result<Reply, ClientError> {
        self.post("/drill", body).await
    }

    /// `POST /drills`.
    pub async fn keep_drill(&self, record: &DrillRecord) -> Result<Reply, ClientError> {
        self.post("/drills", record).await
    }

    /// `GET /archive`.
    pub async fn archive(&self) -> Result<ArchiveStatus, ClientError> {
        self.get("/archive").await
    }

    /// `POST /archive/check`.
    pub async fn check_archive(&self) -> Result<Vec<ArchiveCheckRow>, ClientError> {
        let reply = self.ask(Method::POST, "/archive/check", None, self.command).await?;
        self.parse("/archive/check", reply.text.as_bytes())
    }

    /// `POST /archive/init`.
    pub async fn init_archive(&self) -> Result<Vec<ArchiveCheckRow>, ClientError> {
        let reply = self.ask(Method::POST, "/archive/init", None, self.command).await?;
        self.parse("/archive/init", reply.text.as_bytes())
    }

    /// `POST /sigterm`.
    pub async fn stop(&self) -> Result<Reply, ClientError> {
        self.ask(Method::POST, "/sigterm", None, self.command).await
    }

    async fn config_of(&self, method: Method, body: &Value) -> Result<Value, ClientError> {
        let reply = self.ask(method, "/config", Some(body.to_string()), self.command).await?;
        self.parse("/config", reply.text.as_bytes())
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        let reply = self.ask(Method::GET, path, None, self.read).await?;
        self.parse(path, reply.text.as_bytes())
    }

    async fn post(&self, path: &str, body: &impl Serialize) -> Result<Reply, ClientError> {
        let body = serde_json::to_string(body).expect("bodies of requests have string keys and finite numbers only");
        self.ask(Method::POST, path, Some(body), self.command).await
    }

    fn parse<T: DeserializeOwned>(&self, path: &str, bytes: &[u8]) -> Result<T, ClientError> {
        let mut deserializer = serde_json::Deserializer::from_slice(bytes);
        serde_path_to_error::deserialize(&mut deserializer)
            .map_err(|failure| ClientError::BadAnswer { url: self.url(path), why: failure.to_string() })
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<String>,
        limit: Duration,
    ) -> Result<Reply, ClientError> {
        let (status, bytes) = self.exchange(method, path, body, limit).await?;
        if !status.is_success() {
            return Err(self.refusal(path, status, &bytes));
        }
        let text = String::from_utf8(bytes.to_vec())
            .map_err(|_| ClientError::BadAnswer { url: self.url(path), why: "not UTF-8".to_owned() })?;
        Ok(Reply { status: status.as_u16(), text })
    }

    fn refusal(&self, path: &str, status: StatusCode, bytes: &Bytes) -> ClientError {
        let url = self.url(path);
        let parsed = serde_json::from_slice::<ErrorBody>(bytes).ok().filter(|body| !body.error.is_empty());
        let text = String::from_utf8_lossy(bytes).trim().chars().take(1000).collect::<String>();
        let ErrorBody { error, remedy } = parsed.unwrap_or(ErrorBody { error: text, remedy: String::new() });
        if status == StatusCode::UNAUTHORIZED {
            return ClientError::Unauthorized { url, error, remedy };
        }
        let text = if remedy.is_empty() { error } else { format!("{error}; {remedy}") };
        ClientError::Refused { url, status: status.as_u16(), text }
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Option<String>,
        limit: Duration,
    ) -> Result<(StatusCode, Bytes), ClientError> {
        let timeout = |after| ClientError::Timeout { url: self.url(path), after };
        let unreachable = |source: io::Error| match explained(&source) {
            Some(why) => ClientError::Tls { url: self.url(path), why },
            None => ClientError::Unreachable { url: self.url(path), source },
        };
        let stream = match tokio::time::timeout(self.connect, TcpStream::connect(&self.address)).await {
            Ok(stream) => stream.map_err(unreachable)?,
            Err(_) => return Err(timeout(self.connect)),
        };
        let _ = stream.set_nodelay(true);
        let stream = match &self.tls {
            None => Wire::Plain(stream),
            Some(tls) => match tokio::time::timeout(limit, tls.peer.secure(&tls.host, stream)).await {
                Ok(secured) => secured.map_err(unreachable)?,
                Err(_) => return Err(timeout(limit)),
            },
        };
        match tokio::time::timeout(limit, self.speak(stream, method, path, body)).await {
            Ok(answer) => answer.map_err(unreachable),
            Err(_) => Err(timeout(limit)),
        }
    }

    async fn speak(
        &self,
        stream: Wire,
        method: Method,
        path: &str,
        body: Option<String>,
    ) -> io::Result<(StatusCode, Bytes)> {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, &self.address);
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        if let Some(authorization) = &self.authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        let request = request.body(Full::new(Bytes::from(body.unwrap_or_default()))).map_err(io::Error::other)?;
        let exchange = async {
            let response = sender.send_request(request).await.map_err(io::Error::other)?;
            let status = response.status();
            let body = Limited::new(response.into_body(), LIMIT).collect().await.map_err(io::Error::other)?;
            Ok((status, body.to_bytes()))
        };
        let mut exchange = std::pin::pin!(exchange);
        // The connection is driven here rather than in a task, so nothing outlives the deadline.
        tokio::select! {
            answer = &mut exchange => answer,
            ended = connection => {
                let answer = exchange.await;
                // A peer that does not accept our certificate says so to the connection, which may only then be written to.
                match ended.map_err(io::Error::other) {
                    Err(cause) if answer.is_err() && explained(&cause).is_some() => Err(cause),
                    _ => answer,
                }
            }
        }
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("base", &self.base)
            .field("authorization", &self.authorization.is_some())
            .finish()
    }
}
