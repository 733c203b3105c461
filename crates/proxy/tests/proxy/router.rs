//! A proxy under test, with a hand on its routes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use matriarch_proxy::{Backend, Luggage, Mover, Parts, Proxy, ProxyConfig, ProxyError, Routes, Stats};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_postgres::{Client, NoTls};
use tokio_util::sync::CancellationToken;

use crate::wire::LIMIT;

pub struct Router {
    pub rw: SocketAddr,
    pub ro: SocketAddr,
    pub stats: Arc<Stats>,
    routes: watch::Sender<Arc<Routes>>,
    pub shutdown: CancellationToken,
    pub task: JoinHandle<Result<(), ProxyError>>,
    config: ProxyConfig,
    mover: Mover,
}

impl Router {
    /// Starts a proxy on two free ports without any route.
    pub async fn start(config: ProxyConfig) -> Router {
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let config = ProxyConfig { read_write: Some(vec![any]), read_only: Some(vec![any]), ..config };
        let proxy = Proxy::bind(config.clone()).await.unwrap();
        let (addresses, stats, mover) = (proxy.addresses(), proxy.stats(), proxy.mover());
        let (rw, ro) = (addresses.read_write[0], addresses.read_only[0]);
        let config = ProxyConfig { read_write: Some(vec![rw]), read_only: Some(vec![ro]), ..config };
        let (routes, receiver) = watch::channel(Arc::default());
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(proxy.run(receiver, shutdown.clone()));
        Router { rw, ro, stats, routes, shutdown, task, config, mover }
    }

    /// Another proxy takes over everything, by way of what can be given to another process.
    pub async fn exchange(&mut self) {
        let luggage = self.mover.pack().await.expect("the proxy runs");
        (&mut self.task).await.unwrap().unwrap();
        assert_eq!(*luggage.routes(), **self.routes.borrow());
        let Parts { register, bytes, sockets } = luggage.into_parts();
        let register = serde_json::from_str(&serde_json::to_string(&register).unwrap()).unwrap();
        let luggage = Luggage::from_parts(Parts { register, bytes, sockets });
        let proxy = Proxy::resume(self.config.clone(), luggage).await.unwrap();
        (self.stats, self.mover) = (proxy.stats(), proxy.mover());
        self.task = tokio::spawn(proxy.run(self.routes.subscribe(), self.shutdown.clone()));
    }

    pub fn route(&self, change: impl FnOnce(&mut Routes)) {
        self.routes.send_modify(|routes| change(Arc::make_mut(routes)));
    }

    /// A new primary with a new generation.
    pub fn primary(&self, backend: Backend) {
        self.route(|r| {
            r.generation += 1;
            r.primary = Some(backend);
        });
    }

    pub async fn connect(&self, to: SocketAddr) -> Result<Client, tokio_postgres::Error> {
        connect(to.port()).await
    }

    pub async fn ask(&self, to: SocketAddr, sql: &str) -> String {
        let client = self.connect(to).await.unwrap();
        value(&client, sql).await
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub fn backend(name: &str, port: u16) -> Backend {
    Backend { name: name.into(), tcp: format!("127.0.0.1:{port}"), unix_socket: None, lag_bytes: Some(0), tls: false }
}

pub async fn connect(port: u16) -> Result<Client, tokio_postgres::Error> {
    let dsn = format!("host=127.0.0.1 port={port} user=postgres dbname=postgres");
    let (client, connection) = tokio_postgres::connect(&dsn, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// The single value of a query, as text.
pub async fn value(client: &Client, sql: &str) -> String {
    for message in client.simple_query(sql).await.unwrap() {
        if let tokio_postgres::SimpleQueryMessage::Row(row) = message {
            return row.get(0).unwrap().to_owned();
        }
    }
    panic!("{sql} gave no row");
}

/// Waits until a query answers what is wanted.
pub async fn until(client: &Client, sql: &str, wanted: &str) {
    let start = Instant::now();
    loop {
        let now = value(client, sql).await;
        if now == wanted {
            return;
        }
        assert!(start.elapsed() < LIMIT * 3, "{sql} gives {now}, wanted {wanted}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until a counter has a value.
pub async fn becomes(counter: &AtomicU64, wanted: u64) {
    let start = Instant::now();
    while counter.load(Relaxed) != wanted {
        let now = counter.load(Relaxed);
        assert!(start.elapsed() < LIMIT, "counter is {now}, wanted {wanted}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
