//! The client's socket while a session starts: opening packets in, short answers out.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::opening::{self, Opening, OpeningError};
use crate::proxy_protocol::{self, Origin};
use crate::report::Report;

/// What a client may send ahead while it waits. More stays in the kernel, which then slows the client.
const AHEAD_MAX: usize = 16 * 1024;
/// An error the client does not take within this time is not worth a socket.
const REFUSAL_TIME: Duration = Duration::from_secs(2);

/// A connection that has not become a session yet.
pub(crate) struct Client {
    stream: TcpStream,
    /// Bytes received and not yet consumed.
    ahead: Vec<u8>,
    /// The opening packet that was consumed and that nobody has answered yet.
    unanswered: Vec<u8>,
    /// Whom the connection speaks for: the peer, or what its PROXY header says.
    pub origin: Origin,
}

/// Why the start ended without a session.
#[derive(Debug)]
pub(crate) enum Ended {
    /// The client went away; nobody is left to tell.
    Gone,
    /// The client is told.
    Refused(Report),
    /// An HTTP client is told in its own protocol.
    Http,
}

impl From<OpeningError> for Ended {
    fn from(error: OpeningError) -> Self {
        match error {
            OpeningError::Http => Ended::Http,
            other => Ended::Refused(Report::protocol(other.to_string())),
        }
    }
}

impl Client {
    pub fn new(stream: TcpStream, peer: SocketAddr) -> Self {
        let destination = stream.local_addr().unwrap_or(peer);
        Self::resume(stream, Origin { source: peer, destination }, Vec::new())
    }

    /// A connection that has sent `ahead` already.
    pub fn resume(stream: TcpStream, origin: Origin, ahead: Vec<u8>) -> Self {
        Self { stream, ahead, unanswered: Vec::new(), origin }
    }

    /// Reads the PROXY protocol header, which must be there.
    pub async fn proxy_header(&mut self) -> Result<(), Ended> {
        loop {
            match proxy_protocol::parse(&self.ahead) {
                Ok(Some((length, origin))) => {
                    self.ahead.drain(..length);
                    self.origin = origin.unwrap_or(self.origin);
                    return Ok(());
                }
                Ok(None) => self.read_more(proxy_protocol::HEADER_MAX).await?,
                Err(error) => return Err(Ended::Refused(Report::protocol(error.to_string()))),
            }
        }
    }

    /// Reads the next opening packet. Returns it with its bytes.
    pub async fn opening(&mut self) -> Result<(Opening, Vec<u8>), Ended> {
        loop {
            if let Some((opening, length)) = opening::parse(&self.ahead)? {
                let packet: Vec<u8> = self.ahead.drain(..length).collect();
                if matches!(opening, Opening::Ssl | Opening::GssEnc) && !self.ahead.is_empty() {
                    // Plain bytes behind an encryption request are how a third party would smuggle some in.
                    return Err(Ended::Refused(Report::protocol("received unencrypted data after encryption request")));
                }
                self.unanswered.clone_from(&packet);
                return Ok((opening, packet));
            }
            self.read_more(opening::OPENING_MAX).await?;
        }
    }

    async fn read_more(&mut self, limit: usize) -> Result<(), Ended> {
        loop {
            self.stream.readable().await.map_err(|_| Ended::Gone)?;
            let room = limit.saturating_sub(self.ahead.len()).clamp(1, 1024);
            match self.try_read(room) {
                Ok(0) => return Err(Ended::Gone),
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Err(Ended::Gone),
            }
        }
    }

    fn try_read(&mut self, room: usize) -> io::Result<usize> {
        let mut chunk = [0; 1024];
        let n = self.stream.try_read(&mut chunk[..room.min(1024)])?;
        self.ahead.extend_from_slice(&chunk[..n]);
        Ok(n)
    }

    /// Resolves when the client goes away; what it sends meanwhile is kept for the server.
    pub async fn gone(&mut self) {
        while self.ahead.len() < AHEAD_MAX {
            if self.stream.readable().await.is_err() {
                return;
            }
            match self.try_read(1024) {
                Ok(0) => return,
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return,
                _ => {}
            }
        }
        std::future::pending::<()>().await;
    }

    /// Answers an encryption request.
    pub async fn answer(&mut self, byte: u8) -> Result<(), Ended> {
        self.stream.write_all(&[byte]).await.map_err(|_| Ended::Gone)?;
        self.unanswered.clear();
        Ok(())
    }

    /// Tells the client why there will be no session, and closes.
    pub async fn refuse(mut self, ended: &Ended) {
        let text = match ended {
            Ended::Gone => return,
            Ended::Refused(report) => report.encode(),
            Ended::Http => http_refusal().into_bytes(),
        };
        let farewell = async {
            self.stream.write_all(&text).await?;
            self.stream.shutdown().await?;
            // Closing with unread bytes would reset the connection and take the message back: read them first.
            self.ahead.clear();
            self.gone().await;
            io::Result::Ok(())
        };
        // A client that neither reads nor closes is left to the kernel.
        let _ = tokio::time::timeout(REFUSAL_TIME, farewell).await;
    }

    /// Gives up the socket and everything that nobody has answered: as if it had only just been received.
    pub fn into_unanswered(mut self) -> (TcpStream, Vec<u8>) {
        self.unanswered.append(&mut self.ahead);
        (self.stream, self.unanswered)
    }

    /// Gives up the socket and what was received but not consumed.
    pub fn into_parts(self) -> (TcpStream, Vec<u8>) {
        (self.stream, self.ahead)
    }
}

fn http_refusal() -> String {
    let body = format!("{}\n", OpeningError::Http);
    format!(
        "HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}
