//! A connection to another agent, and what trying for one tells.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use matriarch_api::heartbeat::{MEMBER, PATH, PROTOCOL, SCOPE};
use matriarch_core::heartbeat::Port;
use matriarch_tls::{SPEAKS_TLS, Wire, explained};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::frame::{Beat, LONGEST, Live};
use super::{Heartbeats, Target};

/// How long a port may take to answer.
const CONNECT: Duration = Duration::from_millis(1000);
/// How long an agent may take to admit us.
const ADMISSION: Duration = Duration::from_millis(2000);
/// Longest answer to the request for admission.
const HEAD: usize = 4096;

/// What an attempt came to.
pub enum Attempt {
    /// Admitted.
    Up(Link),
    /// The agent's port, and PostgreSQL's when that one refused.
    Failed(Port, Port),
    /// It answers and does not want us: why.
    Refused(String),
    /// It is there, and no TLS comes about with it: why.
    NoTls(String),
}

/// A connection over which heartbeats go.
pub struct Link {
    stream: Wire,
    buffer: Box<[u8; LONGEST]>,
    filled: usize,
}

impl Link {
    /// Sends without waiting; false when the connection is of no use any more.
    pub fn send(&mut self, beat: &Beat) -> bool {
        // Half a line cannot be taken back, and a peer that does not read for so long is as good as gone.
        self.stream.send_now(beat.line().as_bytes())
    }

    /// The next answer; may be dropped and called again.
    pub async fn next(&mut self) -> io::Result<Live> {
        loop {
            if let Some(length) = self.buffer[..self.filled].iter().position(|byte| *byte == b'\n') {
                let live = std::str::from_utf8(&self.buffer[..length]).ok().and_then(Live::parse);
                self.buffer.copy_within(length + 1..self.filled, 0);
                self.filled -= length + 1;
                return live.ok_or_else(|| io::Error::other("it says what is not understood"));
            }
            if self.filled == self.buffer.len() {
                return Err(io::Error::other("it says what is too long"));
            }
            // A read that is dropped has taken nothing.
            match self.stream.read(&mut self.buffer[self.filled..]).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => self.filled += count,
            }
        }
    }
}

/// Tries for a connection, and PostgreSQL's port when the agent's refuses.
pub async fn attempt(hub: Arc<Heartbeats>, target: Arc<Target>) -> Attempt {
    let admitted = match connect(&target.agent).await {
        Ok(stream) => timeout(ADMISSION, ask(&hub, &target, stream)).await.unwrap_or(Err(Attempt::silent())),
        Err(port) => Err(Attempt::Failed(port, Port::Silent)),
    };
    match admitted {
        Ok(link) => Attempt::Up(link),
        Err(Attempt::Failed(Port::Refuses, _)) => Attempt::Failed(Port::Refuses, port(&target.postgres).await),
        Err(failed) => failed,
    }
}

/// How both ports answer now.
pub async fn probe(target: Arc<Target>) -> (Port, Port) {
    tokio::join!(port(&target.agent), port(&target.postgres))
}

async fn port(address: &str) -> Port {
    connect(address).await.map_or_else(|port| port, |_| Port::Accepts)
}

async fn connect(address: &str) -> Result<TcpStream, Port> {
    match timeout(CONNECT, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(port_of(&error)),
        Err(_) => Err(Port::Silent),
    }
}

fn port_of(error: &io::Error) -> Port {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionRefused, ConnectionReset, UnexpectedEof};
    match error.kind() {
        ConnectionRefused | ConnectionReset | ConnectionAborted | BrokenPipe | UnexpectedEof => Port::Refuses,
        _ => Port::Silent,
    }
}

impl Attempt {
    fn silent() -> Attempt {
        Attempt::Failed(Port::Silent, Port::Silent)
    }
}

impl From<io::Error> for Attempt {
    /// Whoever speaks, and with whom no TLS comes about, is there.
    fn from(error: io::Error) -> Attempt {
        match explained(&error) {
            Some(why) => Attempt::NoTls(why),
            None => Attempt::Failed(port_of(&error), Port::Silent),
        }
    }
}

/// Asks to be admitted.
async fn ask(hub: &Heartbeats, target: &Target, stream: TcpStream) -> Result<Link, Attempt> {
    stream.set_nodelay(true)?;
    let mut stream = match target.tls {
        true => {
            let host = target.agent.rsplit_once(':').map_or(target.agent.as_str(), |(host, _)| host);
            Box::pin(hub.peers.secure(host, stream)).await?
        }
        false => Wire::Plain(stream),
    };
    let authorization =
        hub.authorization.as_ref().map(|value| format!("Authorization: {value}\r\n")).unwrap_or_default();
    let request = format!(
        "GET {PATH} HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: {PROTOCOL}\r\n{SCOPE}: {}\r\n{MEMBER}: {}\r\n\
         {authorization}\r\n",
        target.agent, hub.scope, hub.name
    );
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    let mut head = Vec::with_capacity(512);
    // Nothing but the head can come before we have spoken.
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if stream.read_buf(&mut head).await? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        if head.len() > HEAD {
            return Err(Attempt::Refused("its answer to our heartbeat is too long".to_owned()));
        }
    }
    let text = String::from_utf8_lossy(&head);
    let (first, rest) = text.split_once("\r\n").unwrap_or((&text, ""));
    if first.starts_with("HTTP/1.1 101") {
        return Ok(Link { stream, buffer: Box::new([0; LONGEST]), filled: 0 });
    }
    let body = rest.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    let said = serde_json::from_str::<serde_json::Value>(body).ok();
    let said = said.as_ref().and_then(|said| said["error"].as_str()).unwrap_or(first);
    if said == SPEAKS_TLS {
        return Err(Attempt::NoTls(said.to_owned()));
    }
    let remedy = match first.split(' ').nth(1) {
        Some("401") => "; give all members the same restapi.token or restapi.authentication",
        Some("403") => "; name one with ctl.certfile and ctl.keyfile",
        _ => "",
    };
    Err(Attempt::Refused(format!("{said}{remedy}")))
}
