//! Small servers of a test's own: a thread for each connection, in the clear or with TLS.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::certificates::Authority;

/// A connection.
pub(crate) trait Stream: Read + Write + Send {}

impl<T: Read + Write + Send> Stream for T {}

/// With what a server proves who it is.
#[derive(Clone, Debug)]
pub struct Tls(Arc<ServerConfig>);

impl Tls {
    /// By a certificate that the authority has issued under this name.
    pub fn of(authority: &Authority, name: &str) -> Result<Tls> {
        let chain = CertificateDer::pem_file_iter(authority.cert(name))?.collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_file(authority.key(name))?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        Ok(Tls(Arc::new(config.with_no_client_auth().with_single_cert(chain, key)?)))
    }
}

/// Serves until it is dropped.
pub(crate) struct Listening {
    port: u16,
    scheme: &'static str,
    closed: Arc<AtomicBool>,
}

impl Listening {
    /// Has `serve` speak with each client, with TLS if that is given. It is told how to learn whether the handle is still there; its
    /// error is a connection that broke.
    pub fn start(
        tls: Option<Tls>,
        serve: impl Fn(Box<dyn Stream>, &dyn Fn() -> bool) -> Result<()> + Send + Sync + 'static,
    ) -> Result<Listening> {
        let scheme = if tls.is_some() { "https" } else { "http" };
        let mut listening = Listening::plain(move |stream, open| serve(secured(stream, tls.clone())?, open))?;
        listening.scheme = scheme;
        Ok(listening)
    }

    /// The same with connections as they come.
    pub fn plain(
        serve: impl Fn(TcpStream, &dyn Fn() -> bool) -> Result<()> + Send + Sync + 'static,
    ) -> Result<Listening> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listening")?;
        let port = listener.local_addr()?.port();
        let closed = Arc::new(AtomicBool::new(false));
        let (ended, serve) = (Arc::clone(&closed), Arc::new(serve));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if ended.load(Ordering::Acquire) {
                    return;
                }
                let (ended, serve) = (Arc::clone(&ended), Arc::clone(&serve));
                std::thread::spawn(move || {
                    let open = || !ended.load(Ordering::Acquire);
                    drop(stream.set_nodelay(true).map_err(anyhow::Error::from).and_then(|()| serve(stream, &open)));
                });
            }
        });
        Ok(Listening { port, scheme: "http", closed })
    }

    /// `http://127.0.0.1:port`, or with `https`.
    pub fn endpoint(&self) -> String {
        format!("{}://127.0.0.1:{}", self.scheme, self.port)
    }
}

fn secured(stream: TcpStream, tls: Option<Tls>) -> Result<Box<dyn Stream>> {
    Ok(match tls {
        Some(tls) => Box::new(StreamOwned::new(ServerConnection::new(tls.0)?, stream)),
        None => Box::new(stream),
    })
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.closed.store(true, Ordering::Release);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
    }
}
