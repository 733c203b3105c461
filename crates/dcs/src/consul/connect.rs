//! Connections to a Consul agent: TCP with or without TLS, and Unix sockets.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::options::Endpoint;
use matriarch_tls::TlsFiles;

const PROTOCOL: &[&[u8]] = &[b"http/1.1"];

/// How long is waited for the reason why a connection has ended.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// An open connection; it ends when this is dropped.
pub(super) struct Connection {
    pub sender: SendRequest<Full<Bytes>>,
    ended: oneshot::Receiver<String>,
}

impl Connection {
    /// Why it has ended, for a message: a failed request says only that it did. (A peer that does not accept our
    /// certificate says so only after the first request was sent.)
    pub async fn end(&mut self, failed: &hyper::Error) -> String {
        match timeout(LAST_WORDS, &mut self.ended).await {
            Ok(Ok(reason)) if reason != failed.to_string() => format!("{failed}: {reason}"),
            _ => failed.to_string(),
        }
    }
}

/// Connects and shakes hands.
pub(super) async fn connect(tls: Option<&TlsFiles>, endpoint: &Endpoint) -> Result<Connection, String> {
    match endpoint {
        // Who may open the socket is up to its file's permissions; Consul speaks no TLS there unless it is told to.
        Endpoint::Unix(path) => over(UnixStream::connect(path).await.map_err(|error| error.to_string())?).await,
        Endpoint::Tcp { host, port } => {
            let stream = TcpStream::connect((host.as_str(), *port)).await.map_err(|error| error.to_string())?;
            // Requests are small, and each waits for its answer.
            let _ = stream.set_nodelay(true);
            let Some(files) = tls else { return over(stream).await };
            let name = ServerName::try_from(host.clone()).map_err(|error| format!("'{host}': {error}"))?;
            let connector = TlsConnector::from(files.client_config(PROTOCOL)?);
            over(connector.connect(name, stream).await.map_err(|error| error.to_string())?).await
        }
    }
}

/// Whether the files can be used, so that a mistake shows at the start.
pub(super) fn check(tls: &TlsFiles) -> Result<(), String> {
    tls.client_config(PROTOCOL).map(drop)
}

/// What the `Host` header says.
pub(super) fn host_header(endpoint: &Endpoint) -> String {
    match endpoint {
        Endpoint::Tcp { .. } => endpoint.to_string(),
        Endpoint::Unix(_) => "localhost".to_owned(),
    }
}

async fn over<S>(stream: S) -> Result<Connection, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    let (tell, ended) = oneshot::channel();
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            let cause = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
            let _ = tell.send(cause);
        }
    });
    Ok(Connection { sender, ended })
}
