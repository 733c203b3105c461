//! Connections to a Consul agent.

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use super::options::Endpoint;

/// How connections are made.
#[derive(Clone, Default)]
pub(super) struct Connector {}

impl Connector {
    /// What the `Host` header says.
    pub fn host_header(&self, endpoint: &Endpoint) -> String {
        match endpoint {
            Endpoint::Tcp { .. } => endpoint.to_string(),
            Endpoint::Unix(_) => "localhost".to_owned(),
        }
    }
}

/// Connects and shakes hands; the connection ends when the sender is dropped.
pub(super) async fn connect(_connector: &Connector, endpoint: &Endpoint) -> Result<SendRequest<Full<Bytes>>, String> {
    match endpoint {
        Endpoint::Unix(path) => over(UnixStream::connect(path).await.map_err(|error| error.to_string())?).await,
        Endpoint::Tcp { host, port } => {
            let stream = TcpStream::connect((host.as_str(), *port)).await.map_err(|error| error.to_string())?;
            // Requests are small, and each waits for its answer.
            let _ = stream.set_nodelay(true);
            over(stream).await
        }
    }
}

async fn over<S>(stream: S) -> Result<SendRequest<Full<Bytes>>, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    // It ends with the sender or with the peer; whoever waits for an answer hears why.
    tokio::spawn(async move {
        let _ = connection.await;
    });
    Ok(sender)
}
