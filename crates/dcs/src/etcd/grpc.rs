//! gRPC over one HTTP/2 connection: as much of it as etcd's API needs. What may have reached the server and what certainly
//! has not is kept apart to the last, since the truth about a write depends on it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::client::SendRequest;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use prost::Message;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::endpoint::Endpoint;

/// A single message may be as large as the server sends; frames of it arrive within this window.
const WINDOW: u32 = 1 << 20;

/// Why a call has no answer, or a bad one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// It certainly did not reach a server that would act on it.
    NotSent(String),
    /// It was sent, and nobody knows what became of it.
    NoAnswer(String),
    /// The server said no.
    Status(Status),
}

/// A server's refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Status {
    pub code: u32,
    pub message: String,
}

/// What goes with every call.
#[derive(Clone, Debug, Default)]
pub(super) struct Metadata {
    pub token: Option<String>,
}

/// A connection to one server; it ends with its last user.
pub(super) struct Connection {
    pub endpoint: Endpoint,
    sender: SendRequest<Bytes>,
    /// Why it is over, once it is.
    over: Arc<watch::Sender<Option<String>>>,
    /// When the server's process last answered a question.
    answered: Mutex<Instant>,
    driver: AbortHandle,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Connection {
    /// Connects, and waits until the server's process has answered: the kernel accepts for a stopped one too.
    pub async fn open(endpoint: Endpoint, tls: Option<Arc<ClientConfig>>) -> Result<Connection, String> {
        Connection::try_open(endpoint, tls).await.map_err(explained)
    }

    async fn try_open(endpoint: Endpoint, tls: Option<Arc<ClientConfig>>) -> Result<Connection, String> {
        let address = (endpoint.host.as_str(), endpoint.port);
        let tcp = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
        tune(&tcp).map_err(|error| error.to_string())?;
        let Some(tls) = tls else {
            // A server that wants TLS hangs up without a word.
            let hint = |reason| format!("{reason} (does it want TLS?)");
            return Connection::start(endpoint, tcp).await.map_err(hint);
        };
        let name = ServerName::try_from(endpoint.host.clone()).map_err(|error| error.to_string())?;
        let stream =
            tokio_rustls::TlsConnector::from(tls).connect(name, tcp).await.map_err(|error| error.to_string())?;
        // A server that refuses a client's certificate says why and hangs up; a write that fails may be noticed before that.
        let hint = |reason: String| match reason.contains("alert") {
            true => reason,
            false => format!("{reason} (does it refuse our client certificate, or that we have none?)"),
        };
        Connection::start(endpoint, stream).await.map_err(hint)
    }

    async fn start<Io>(endpoint: Endpoint, io: Io) -> Result<Connection, String>
    where
        Io: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(WINDOW).initial_connection_window_size(WINDOW).max_header_list_size(64 << 10);
        let (sender, mut driver) = builder.handshake(io).await.map_err(|error| said(&error))?;
        let mut ping = driver.ping_pong().expect("nobody took it before");
        let over = Arc::new(watch::Sender::new(None));
        let tell = Arc::clone(&over);
        let driver = tokio::spawn(async move {
            let reason =
                driver.await.map_or_else(|error| said(&error), |()| "the server closed the connection".to_owned());
            tell.send_if_modified(|over| over.is_none() && over.replace(reason).is_none());
        });
        let answered = Mutex::new(Instant::now());
        let connection = Connection { endpoint, sender, over, answered, driver: driver.abort_handle() };
        match ping.ping(h2::Ping::opaque()).await {
            Ok(_) => Ok(connection),
            // The driver knows more: a refused client certificate shows up there.
            Err(error) => Err(connection.reason().unwrap_or_else(|| said(&error))),
        }
    }

    /// Ends it for everybody who uses it.
    pub fn fail(&self, reason: &str) {
        self.over.send_if_modified(|over| over.is_none() && over.replace(reason.to_owned()).is_none());
    }

    /// The server has answered.
    pub fn heard(&self) {
        *self.answered.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// For how long the server has answered nothing.
    pub fn quiet(&self) -> Duration {
        self.answered.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }

    /// Whether nothing more can be asked through it.
    pub fn is_over(&self) -> bool {
        self.over.borrow().is_some()
    }

    fn reason(&self) -> Option<String> {
        self.over.borrow().clone()
    }

    async fn ended(&self) -> String {
        let mut over = self.over.subscribe();
        over.wait_for(Option::is_some).await.ok().and_then(|reason| reason.clone()).unwrap_or_default()
    }

    /// Waits for an answer unless the connection ends before.
    pub async fn until_over<T>(&self, answer: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
        tokio::select! {
            answer = answer => answer,
            reason = self.ended() => Err(Fault::NoAnswer(reason)),
        }
    }

    /// One question, one answer.
    pub async fn unary(&self, path: &str, question: &[u8], with: &Metadata, limit: Duration) -> Result<Bytes, Fault> {
        let asked = async {
            // With its end, since a server may answer as soon as it has the question, and then takes no end any more.
            self.send(path, question, with, Some(limit), true).await?.only_message().await
        };
        tokio::select! {
            answer = self.until_over(asked) => answer,
            () = tokio::time::sleep(limit) => Err(Fault::NoAnswer(format!("no answer within {:.1} s", limit.as_secs_f64()))),
        }
    }

    /// Begins a call whose question stays open, with its first message.
    pub async fn stream(&self, path: &str, first: &[u8], with: &Metadata) -> Result<Call, Fault> {
        self.send(path, first, with, None, false).await
    }

    async fn send(
        &self,
        path: &str,
        question: &[u8],
        with: &Metadata,
        limit: Option<Duration>,
        is_last: bool,
    ) -> Result<Call, Fault> {
        let scheme = if self.endpoint.tls { "https" } else { "http" };
        let mut request = Request::post(format!("{scheme}://{}{path}", self.endpoint.authority()))
            .version(http::Version::HTTP_2)
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            // A server without a leader says so at once instead of holding the question back.
            .header("hasleader", "true");
        if let Some(limit) = limit {
            request = request.header("grpc-timeout", format!("{}m", limit.as_millis().max(1)));
        }
        if let Some(token) = &with.token {
            request = request.header("token", token);
        }
        let request = request.body(()).map_err(|error| Fault::NotSent(error.to_string()))?;
        let not_sent = |error: h2::Error| Fault::NotSent(self.reason().unwrap_or_else(|| said(&error)));
        let mut sender = self.sender.clone().ready().await.map_err(not_sent)?;
        let (response, sending) = sender.send_request(request, false).map_err(not_sent)?;
        let mut call = Call { response: Some(response), receiving: None, buffer: BytesMut::new(), sending };
        if let Err(error) = call.sending.send_data(frame(question), is_last) {
            // Refused by its headers alone: the answer says why.
            let refusal = call.message().await.err().filter(|fault| matches!(fault, Fault::Status(_)));
            return Err(refusal.unwrap_or_else(|| Fault::NotSent(said(&error))));
        }
        Ok(call)
    }
}

/// A call under way.
pub(super) struct Call {
    response: Option<h2::client::ResponseFuture>,
    receiving: Option<RecvStream>,
    buffer: BytesMut,
    pub sending: SendStream<Bytes>,
}

impl Call {
    /// Sends one more message.
    pub fn say(&mut self, message: &[u8]) -> Result<(), Fault> {
        self.sending.send_data(frame(message), false).map_err(|error| self.lost(&error))
    }

    /// The next message; none when the server has ended the call well. May be cancelled.
    pub async fn message(&mut self) -> Result<Option<Bytes>, Fault> {
        if let Some(response) = &mut self.response {
            let response = response.await.map_err(|error| lost(&error))?;
            self.response = None;
            self.receiving = begun(response)?;
        }
        loop {
            if let Some(message) = unframe(&mut self.buffer)? {
                return Ok(Some(message));
            }
            let Some(receiving) = &mut self.receiving else { return Ok(None) };
            match receiving.data().await {
                Some(Ok(data)) => {
                    // An error here means that the stream is over, which the next read tells better.
                    let _ = receiving.flow_control().release_capacity(data.len());
                    self.buffer.put(data);
                }
                Some(Err(error)) => return Err(lost(&error)),
                None => {
                    let trailers = receiving.trailers().await.map_err(|error| lost(&error))?;
                    self.receiving = None;
                    ended_well(trailers.as_ref())?;
                }
            }
        }
    }

    async fn only_message(&mut self) -> Result<Bytes, Fault> {
        let Some(message) = self.message().await? else {
            return Err(Fault::NoAnswer("the server ended the call without an answer".to_owned()));
        };
        // Only its end says that all went well.
        while self.message().await?.is_some() {}
        Ok(message)
    }

    /// Takes the first answer and leaves the rest: for calls that stay open on the server's side.
    pub async fn first_message(&mut self) -> Result<Bytes, Fault> {
        let ended = || Fault::NoAnswer("the server ended the call without an answer".to_owned());
        self.message().await?.ok_or_else(ended)
    }

    fn lost(&self, error: &h2::Error) -> Fault {
        lost(error)
    }
}

/// The answer's beginning: its body, or a refusal that came without one.
fn begun(response: Response<RecvStream>) -> Result<Option<RecvStream>, Fault> {
    if response.headers().contains_key("grpc-status") {
        ended_well(Some(response.headers()))?;
        return Ok(None);
    }
    if !response.status().is_success() {
        let message = format!("HTTP status {}: is this etcd's client port?", response.status());
        return Err(Fault::Status(Status { code: code::UNAVAILABLE, message }));
    }
    Ok(Some(response.into_body()))
}

fn ended_well(trailers: Option<&HeaderMap>) -> Result<(), Fault> {
    let text = |name: &str| trailers.and_then(|all| all.get(name)).and_then(|value| value.to_str().ok());
    match text("grpc-status").map(str::parse::<u32>) {
        Some(Ok(0)) => Ok(()),
        Some(Ok(code)) => {
            let message = text("grpc-message").map(percent_decoded).unwrap_or_default();
            Err(Fault::Status(Status { code, message }))
        }
        _ => Err(Fault::NoAnswer("the server ended the call without a status".to_owned())),
    }
}

/// Codes of gRPC that we look at.
pub(super) mod code {
    pub const INVALID_ARGUMENT: u32 = 3;
    pub const NOT_FOUND: u32 = 5;
    pub const ALREADY_EXISTS: u32 = 6;
    pub const PERMISSION_DENIED: u32 = 7;
    pub const RESOURCE_EXHAUSTED: u32 = 8;
    pub const FAILED_PRECONDITION: u32 = 9;
    pub const OUT_OF_RANGE: u32 = 11;
    pub const UNIMPLEMENTED: u32 = 12;
    pub const UNAVAILABLE: u32 = 14;
    pub const UNAUTHENTICATED: u32 = 16;
}

fn lost(error: &h2::Error) -> Fault {
    // The one word of HTTP/2 that promises that nothing was done.
    if error.is_reset() && error.is_remote() && error.reason() == Some(Reason::REFUSED_STREAM) {
        return Fault::NotSent(said(error));
    }
    Fault::NoAnswer(said(error))
}

/// TLS speaks of alerts and certificates without saying whose.
fn explained(reason: String) -> String {
    if reason.contains("received fatal alert") {
        return format!("the server refuses our client certificate, or that we have none ({reason})");
    }
    if reason.contains("invalid peer certificate") {
        return format!("the server's certificate is not accepted ({reason})");
    }
    if reason.contains("InvalidContentType") {
        return format!("the server does not speak TLS ({reason})");
    }
    reason
}

fn said(error: &h2::Error) -> String {
    error.get_io().map_or_else(|| error.to_string(), ToString::to_string)
}

fn frame(message: &[u8]) -> Bytes {
    let length = u32::try_from(message.len()).expect("keys and values are limited to about a megabyte");
    let mut framed = BytesMut::with_capacity(5 + message.len());
    framed.put_u8(0);
    framed.put_u32(length);
    framed.put_slice(message);
    framed.freeze()
}

fn unframe(buffer: &mut BytesMut) -> Result<Option<Bytes>, Fault> {
    let Some((head, rest)) = buffer.split_at_checked(5) else { return Ok(None) };
    if head[0] != 0 {
        return Err(Fault::NoAnswer("the server compresses, which nobody asked for".to_owned()));
    }
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
    if rest.len() < length {
        return Ok(None);
    }
    buffer.advance(5);
    Ok(Some(buffer.split_to(length).freeze()))
}

/// Reads a message; what cannot be read was no answer.
pub(super) fn decode<T: Message + Default>(bytes: Bytes) -> Result<T, Fault> {
    T::decode(bytes).map_err(|error| Fault::NoAnswer(format!("the answer cannot be read ({error}): is this etcd?")))
}

fn percent_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let hex = |at: usize| bytes.get(at).and_then(|byte| char::from(*byte).to_digit(16));
    let (mut out, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while at < bytes.len() {
        match (bytes[at], hex(at + 1), hex(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push(u8::try_from(high * 16 + low).expect("two hexadecimal digits"));
                at += 3;
            }
            (byte, ..) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// A peer that vanished without a word is noticed by the kernel too, for connections that nobody asks anything.
fn tune(tcp: &TcpStream) -> std::io::Result<()> {
    tcp.set_nodelay(true)?;
    let socket = SockRef::from(tcp);
    let keepalive =
        TcpKeepalive::new().with_time(Duration::from_secs(5)).with_interval(Duration::from_secs(2)).with_retries(3);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(Duration::from_secs(10)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_out_as_they_went_in_however_they_are_cut() {
        let whole: Vec<u8> = [&b"one"[..], b"", &[7; 300]].iter().flat_map(|message| frame(message).to_vec()).collect();
        for cut in 0..whole.len() {
            let (mut buffer, mut found) = (BytesMut::new(), Vec::new());
            for part in [&whole[..cut], &whole[cut..]] {
                buffer.put_slice(part);
                while let Some(message) = unframe(&mut buffer).unwrap() {
                    found.push(message);
                }
            }
            assert_eq!(found, [Bytes::from_static(b"one"), Bytes::new(), Bytes::from(vec![7; 300])], "cut at {cut}");
        }
    }

    #[test]
    fn messages_of_statuses_are_decoded() {
        assert_eq!(percent_decoded("lease%3A gone%2"), "lease: gone%2");
        assert_eq!(percent_decoded("%C3%BC%zz"), "ü%zz");
    }
}
