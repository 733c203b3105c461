//! The listener: bounded in connections, in time and in memory per connection, so that slow or hostile clients cost
//! little and end soon.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use matriarch_tls::{Refused, ServerTls, Wire};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

use crate::auth::Certified;

/// Bounds of the listener and of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at a time; further ones wait in the kernel's queue.
    pub connections: usize,
    /// Time from the start of a connection, or from the previous answer, to the end of the next request's headers.
    pub headers: Duration,
    /// Life of a connection after which it is closed between two requests.
    pub life: Duration,
    /// Time a command may take before the answer is "status unknown".
    pub command: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections: 64,
            headers: Duration::from_secs(5),
            life: Duration::from_secs(300),
            command: Duration::from_secs(70),
        }
    }
}

/// Time that connections get to finish once they are asked to end.
const GRACE: Duration = Duration::from_secs(2);
/// Buffer of a connection. Health checks need a few hundred bytes; hyper's own limit is 400 KiB.
const BUFFER: usize = 16 << 10;
/// Pause after the system has run out of file descriptors or memory: nothing signals when there are some again.
const EXHAUSTED: Duration = Duration::from_millis(100);

/// [`serve_with`] under [`Limits::default`].
pub async fn serve(
    listener: TcpListener,
    router: Router,
    tls: Option<Arc<ServerTls>>,
    shutdown: impl Future<Output = ()> + Send,
) -> io::Result<()> {
    serve_with(listener, router, tls, shutdown, Limits::default()).await
}

/// Answers requests, with TLS or without, until `shutdown`, then lets those under way finish for two seconds.
///
/// Errors: only when the listening socket itself is broken.
pub async fn serve_with(
    listener: TcpListener,
    router: Router,
    tls: Option<Arc<ServerTls>>,
    shutdown: impl Future<Output = ()> + Send,
    limits: Limits,
) -> io::Result<()> {
    let slots = Arc::new(Semaphore::new(limits.connections));
    let (stop, stopping) = watch::channel(false);
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let slot = tokio::select! {
            () = &mut shutdown => break,
            slot = slots.clone().acquire_owned() => slot.expect("the semaphore is never closed"),
        };
        let accepted = tokio::select! {
            () = &mut shutdown => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let (router, tls, stopping) = (router.clone(), tls.clone(), stopping.clone());
                tokio::spawn(async move {
                    if let Some(wire) = open(stream, tls, &limits).await {
                        connection(wire, router, stopping, limits).await;
                    }
                    drop(slot);
                });
            }
            Err(failure) if concerns_one_connection(&failure) => {}
            Err(failure) if exhausted(&failure) => {
                tracing::warn!(%failure, "cannot accept connections; raise the limit of open files");
                tokio::time::sleep(EXHAUSTED).await;
            }
            Err(failure) => return Err(failure),
        }
    }
    drop(listener);
    stop.send_replace(true);
    // All slots are free once every connection has ended.
    let all = u32::try_from(limits.connections).unwrap_or(u32::MAX);
    let _ = tokio::time::timeout(GRACE, slots.acquire_many(all)).await;
    Ok(())
}

/// Shakes hands, if there is TLS, in the time that a request's headers have.
async fn open(stream: TcpStream, tls: Option<Arc<ServerTls>>, limits: &Limits) -> Option<Wire> {
    // Answers are small and written at once: waiting to fill a packet would only delay them.
    let _ = stream.set_nodelay(true);
    let Some(tls) = tls else { return Some(Wire::Plain(stream)) };
    let from = stream.peer_addr().map_or_else(|_| "nobody".to_owned(), |address| address.ip().to_string());
    // In a box, so that connections without TLS do not carry the room for it.
    match tokio::time::timeout(limits.headers, Box::pin(tls.accept(stream))).await {
        Ok(Ok(wire)) => Some(wire),
        Ok(Err(Refused { reason, certificate: true })) => {
            tracing::warn!("a client at {from} is refused: {reason} (restapi.verify_client)");
            None
        }
        Ok(Err(Refused { reason, certificate: false })) => {
            tracing::debug!("no TLS with {from}: {reason}");
            None
        }
        Err(_) => {
            tracing::debug!("no TLS with {from}: the handshake takes more than {:?}", limits.headers);
            None
        }
    }
}

async fn connection(wire: Wire, router: Router, mut stopping: watch::Receiver<bool>, limits: Limits) {
    let certified = wire.is_certified().then_some(Certified);
    let inner = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: Request<Incoming>| {
        if let Some(certified) = certified {
            request.extensions_mut().insert(certified);
        }
        inner.call(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.headers)
        .max_buf_size(BUFFER)
        .half_close(true)
        .serve_connection(TokioIo::new(wire), service)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        // An error is the client's: garbage, a reset, or a timeout. hyper has answered it where it could.
        ended = &mut connection => {
            if let Err(failure) = ended {
                tracing::debug!(%failure, "connection ended");
            }
            return;
        }
        _ = stopping.wait_for(|stop| *stop) => {}
        () = tokio::time::sleep(limits.life) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = tokio::time::timeout(limits.command + GRACE, connection).await;
}

fn concerns_one_connection(failure: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(failure.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

fn exhausted(failure: &io::Error) -> bool {
    // EMFILE and ENFILE have no stable ErrorKind; the numbers are Linux's, which is all that is supported.
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    matches!(failure.raw_os_error(), Some(ENFILE | EMFILE)) || failure.kind() == io::ErrorKind::OutOfMemory
}
