//! The way to a member: connect, greet, and wait for its first answer.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use crate::config::ProxyConfig;
use crate::frames::{Answer, first_answer};
use crate::opening::SSL_REQUEST;
use crate::proxy_protocol::{self, Origin};
use crate::routes::Backend;

/// A connection to a member.
pub(crate) enum Server {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Server {
    /// Connects through the Unix socket if the member has one and `tcp_only` is not set, else over TCP.
    pub async fn connect(backend: &Backend, tcp_only: bool, config: &ProxyConfig, origin: Origin) -> io::Result<Self> {
        let mut server = match &backend.unix_socket {
            // The path may be stale (the member restarted elsewhere); TCP then tells the truth.
            Some(path) if !tcp_only => match UnixStream::connect(path).await {
                Ok(stream) => Server::Unix(stream),
                Err(_) => Server::Tcp(tcp(&backend.tcp, config).await?),
            },
            _ => Server::Tcp(tcp(&backend.tcp, config).await?),
        };
        if config.send_proxy_protocol {
            server.write_all(&proxy_protocol::encode(origin)).await?;
        }
        Ok(server)
    }

    pub async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Server::Tcp(stream) => stream.write_all(bytes).await,
            Server::Unix(stream) => stream.write_all(bytes).await,
        }
    }

    /// Appends what is there; 0 means the member closed.
    async fn read(&mut self, into: &mut Vec<u8>) -> io::Result<usize> {
        match self {
            Server::Tcp(stream) => stream.read_buf(into).await,
            Server::Unix(stream) => stream.read_buf(into).await,
        }
    }

    /// Waits until the member closes, for a cancel request to have been taken.
    pub async fn closed(&mut self) {
        let mut sink = Vec::new();
        while sink.len() < 1024 && matches!(self.read(&mut sink).await, Ok(1..)) {}
    }

    /// Sends the startup packet and waits for the first answer that the client must see.
    /// `Err` says in words why the member takes no session now.
    pub async fn start(&mut self, startup: &[u8]) -> Result<Vec<u8>, String> {
        self.write_all(startup).await.map_err(|e| e.to_string())?;
        let mut answer = Vec::with_capacity(1024);
        loop {
            match self.read(&mut answer).await {
                Ok(0) => return Err("it closed the connection before it answered".to_owned()),
                Ok(_) => {}
                Err(error) => return Err(error.to_string()),
            }
            match first_answer(&answer) {
                Answer::More => {}
                Answer::Forward => return Ok(answer),
                Answer::NotNow(message) => return Err(message),
            }
        }
    }

    /// Asks for TLS. `Ok(false)` means the member has none.
    pub async fn request_tls(&mut self) -> Result<bool, String> {
        self.write_all(&SSL_REQUEST).await.map_err(|e| e.to_string())?;
        let mut answer = [0];
        let n = match self {
            Server::Tcp(stream) => stream.read(&mut answer).await,
            Server::Unix(stream) => stream.read(&mut answer).await,
        };
        match (n, answer[0]) {
            (Ok(1), b'S') => Ok(true),
            (Ok(1), b'N') => Ok(false),
            (Ok(_), _) => Err("it answered a TLS request with neither yes nor no".to_owned()),
            (Err(error), _) => Err(error.to_string()),
        }
    }

    /// The nonblocking descriptor, no longer known to the async runtime.
    pub fn into_fd(self) -> io::Result<OwnedFd> {
        Ok(match self {
            Server::Tcp(stream) => stream.into_std()?.into(),
            Server::Unix(stream) => stream.into_std()?.into(),
        })
    }
}

async fn tcp(target: &str, config: &ProxyConfig) -> io::Result<TcpStream> {
    let connect = async {
        match target.parse::<SocketAddr>() {
            Ok(address) => TcpStream::connect(address).await,
            Err(_) => TcpStream::connect(target).await,
        }
    };
    let stream = tokio::time::timeout(config.connect_timeout, connect).await.map_err(|_| {
        io::Error::new(io::ErrorKind::TimedOut, format!("no connection within {:?}", config.connect_timeout))
    })??;
    // While nobody listens on a port of the ephemeral range, a connect to it on the same host can get that very
    // port as its own and so meet itself; the server could then not even start.
    if stream.local_addr()? == stream.peer_addr()? {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    tune(&stream);
    Ok(stream)
}

/// No waiting for more bytes to send together, and probes so that a peer that vanished is noticed.
pub(crate) fn tune(stream: &TcpStream) {
    let keepalive =
        TcpKeepalive::new().with_time(Duration::from_secs(30)).with_interval(Duration::from_secs(10)).with_retries(3);
    let socket = SockRef::from(stream);
    // Either fails only on a socket that is already dead, which the next read will tell.
    let _ = socket.set_tcp_nodelay(true);
    let _ = socket.set_tcp_keepalive(&keepalive);
}
