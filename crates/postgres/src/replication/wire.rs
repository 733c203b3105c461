//! Frames over a socket. Waiting for one may be given up at any time without losing anything.

use std::io;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};

use super::message::{self, Malformed, Message};

/// A socket of any kind.
pub(super) trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Socket for T {}

/// How much is read at once, in bytes: a frame of WAL as walsenders make it, with its header.
const READ: usize = (128 << 10) + 64;
/// How much may wait to be sent before more is refused, in bytes.
const UNSENT: usize = 16 << 10;

/// What may go wrong while a frame is awaited.
#[derive(Debug, thiserror::Error)]
pub(super) enum WireError {
    /// The connection ended.
    #[error("{0}")]
    Lost(String),
    /// The other side does not speak the protocol.
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

/// A connection, frame by frame.
pub(super) struct Wire {
    reader: ReadHalf<Box<dyn Socket>>,
    writer: WriteHalf<Box<dyn Socket>>,
    input: BytesMut,
    output: BytesMut,
}

impl Wire {
    pub(super) fn new(socket: Box<dyn Socket>) -> Wire {
        let (reader, writer) = tokio::io::split(socket);
        Wire { reader, writer, input: BytesMut::new(), output: BytesMut::new() }
    }

    /// Where frames to be sent are appended; [`Wire::next`] sends them.
    pub(super) fn output(&mut self) -> &mut BytesMut {
        &mut self.output
    }

    /// Whether so much waits to be sent already that nothing should be added.
    pub(super) fn is_congested(&self) -> bool {
        self.output.len() > UNSENT
    }

    /// Sends what waits, and returns the next frame.
    pub(super) async fn next(&mut self) -> Result<Message, WireError> {
        loop {
            if let Some(message) = message::take(&mut self.input)? {
                return Ok(message);
            }
            let Wire { reader, writer, input, output } = self;
            input.reserve(READ);
            tokio::select! {
                // A server that always has more to say must hear from us all the same.
                biased;
                sent = writer.write_buf(output), if !output.is_empty() => {
                    // The server may have told us why before it hung up: read on.
                    if sent.is_err() {
                        output.clear();
                    }
                }
                read = reader.read_buf(input) => {
                    if read.map_err(|error| lost(&error))? == 0 {
                        return Err(WireError::Lost(ended(input)));
                    }
                }
            }
        }
    }

    /// Sends what waits, and reads nothing.
    pub(super) async fn send(&mut self) -> Result<(), WireError> {
        while !self.output.is_empty() {
            let sent = self.writer.write_buf(&mut self.output).await.map_err(|error| lost(&error))?;
            if sent == 0 {
                return Err(WireError::Lost("nothing more can be sent".into()));
            }
        }
        self.writer.flush().await.map_err(|error| lost(&error))
    }

    /// Ends the connection on our side.
    pub(super) async fn shut_down(&mut self) {
        // It is over either way.
        let _ = self.writer.shutdown().await;
    }
}

fn lost(error: &io::Error) -> WireError {
    WireError::Lost(error.to_string())
}

fn ended(input: &BytesMut) -> String {
    match input.len() {
        0 => "the server closed the connection".to_owned(),
        rest => format!("the server closed the connection in the middle of a frame, after {rest} bytes of it"),
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use tokio::io::ReadBuf;

    use super::*;

    async fn received(sent: &[u8]) -> Result<Message, WireError> {
        let (ours, mut theirs) = tokio::io::duplex(1 << 16);
        theirs.write_all(sent).await.unwrap();
        drop(theirs);
        Wire::new(Box::new(ours)).next().await
    }

    #[tokio::test]
    async fn other_protocols_are_refused() {
        for greeting in [&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], b"SSH-2.0-OpenSSH_9.2\r\n", b"\0\0\0\0\0\0\0\0"] {
            let error = received(greeting).await.unwrap_err();
            assert!(matches!(error, WireError::Malformed(_)), "{error}");
        }
        let error = received(b"Z\0\0").await.unwrap_err();
        assert!(matches!(&error, WireError::Lost(said) if said.contains("3 bytes")), "{error}");
    }

    /// Always has one more frame, and takes everything.
    struct Flood(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);

    impl AsyncRead for Flood {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            buf.put_slice(b"Z\0\0\0\x05I");
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for Flood {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            self.0.lock().unwrap().extend_from_slice(buf);
            Poll::Ready(Ok(buf.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn a_server_that_never_pauses_is_answered() {
        let sent = std::sync::Arc::default();
        let mut wire = Wire::new(Box::new(Flood(std::sync::Arc::clone(&sent))));
        wire.output().extend_from_slice(b"status");
        assert_eq!(wire.next().await.unwrap(), Message::Ready);
        assert_eq!(*sent.lock().unwrap(), b"status");
    }

    #[tokio::test]
    async fn a_large_frame_announced_takes_no_memory() {
        let (ours, mut theirs) = tokio::io::duplex(1 << 16);
        theirs.write_all(b"d\x7f\xff\xff\xff").await.unwrap();
        let mut wire = Wire::new(Box::new(ours));
        assert!(matches!(wire.next().await, Err(WireError::Malformed(_))));
        assert!(wire.input.capacity() < 4 * READ, "{}", wire.input.capacity());
    }
}
