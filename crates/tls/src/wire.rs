//! A connection with TLS or without.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

/// Both kinds, so that whoever speaks over one need not care.
#[derive(Debug)]
pub enum Wire {
    /// Without TLS.
    Plain(TcpStream),
    /// With it, from either side.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Wire {
    /// The peer has shown a certificate, and it was found good.
    pub fn is_certified(&self) -> bool {
        match self {
            Wire::Plain(_) => false,
            Wire::Tls(stream) => stream.get_ref().1.peer_certificates().is_some_and(|shown| !shown.is_empty()),
        }
    }

    /// Sends without waiting; false when the kernel did not take all of it, after which the connection is of no use.
    pub fn send_now(&mut self, bytes: &[u8]) -> bool {
        match self {
            Wire::Plain(stream) => stream.try_write(bytes).is_ok_and(|written| written == bytes.len()),
            Wire::Tls(stream) => {
                // Nobody waits for room: whoever gets none gives the connection up. What else the task did in its turn does not
                // count against this.
                let send = tokio::task::unconstrained(poll_fn(|context| {
                    let mut stream = Pin::new(stream.as_mut());
                    let written = stream.as_mut().poll_write(context, bytes);
                    Poll::Ready(
                        matches!(written, Poll::Ready(Ok(written)) if written == bytes.len())
                            && matches!(stream.poll_flush(context), Poll::Ready(Ok(()))),
                    )
                }));
                matches!(pin!(send).poll(&mut Context::from_waker(Waker::noop())), Poll::Ready(true))
            }
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Wire::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Wire::Tls(stream) => Pin::new(stream.as_mut()).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Wire::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Wire::Tls(stream) => Pin::new(stream.as_mut()).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Wire::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Wire::Tls(stream) => Pin::new(stream.as_mut()).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Wire::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Wire::Tls(stream) => Pin::new(stream.as_mut()).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Wire::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Wire::Tls(stream) => Pin::new(stream.as_mut()).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Wire::Plain(stream) => stream.is_write_vectored(),
            Wire::Tls(stream) => stream.is_write_vectored(),
        }
    }
}
