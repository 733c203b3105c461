//! Clients of a proxy that connect again when they are sent away between two transactions, and see no other error.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use tokio::task::JoinSet;
use tokio_postgres::{Client, NoTls};

use crate::harness::{Cluster, PATIENCE};
use crate::pgbouncer::until;

/// A session as the application's role, through this port.
pub async fn session(cluster: &Cluster, port: u16) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(&cluster.dsn(port), NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// Clients at work.
pub struct Crowd {
    clients: JoinSet<Result<u64, String>>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    done: AtomicU64,
    over: AtomicBool,
}

impl Crowd {
    /// Starts so many, on a table of their own.
    pub async fn start(cluster: &Cluster, size: usize) -> Crowd {
        cluster.ask(cluster.read_write(), "CREATE TABLE crowd (n int)").await.expect("the primary serves");
        let shared = Arc::new(Shared::default());
        let mut clients = JoinSet::new();
        for _ in 0..size {
            clients.spawn(work(cluster.dsn(cluster.read_write()), shared.clone()));
        }
        Crowd { clients, shared }
    }

    /// Waits until they have done more work.
    ///
    /// # Panics
    /// When one of them has seen an error.
    pub async fn works(&mut self) {
        let enough = self.shared.done.load(Relaxed) + 200;
        let done = self.shared.clone();
        let working = until("the crowd works", async || (done.done.load(Relaxed) > enough).then_some(()));
        tokio::select! {
            () = working => {}
            Some(ended) = self.clients.join_next() => panic!("a client has ended: {ended:?}"),
        }
    }

    /// Ends them; how often they were sent away.
    ///
    /// # Panics
    /// When one of them has seen an error.
    pub async fn conclude(mut self) -> u64 {
        self.shared.over.store(true, Relaxed);
        let mut away = 0;
        while let Some(ended) = self.clients.join_next().await {
            away += ended.expect("clients do not panic").unwrap_or_else(|error| panic!("{error}"));
        }
        away
    }
}

async fn work(dsn: String, shared: Arc<Shared>) -> Result<u64, String> {
    let mut away = 0;
    while !shared.over.load(Relaxed) {
        let connected = tokio::time::timeout(PATIENCE, tokio_postgres::connect(&dsn, NoTls)).await;
        let (client, connection) = match connected {
            Ok(Ok(pair)) => pair,
            Ok(Err(error)) => return Err(format!("a new connection: {error:?}")),
            Err(_) => return Err("a new connection hangs".to_owned()),
        };
        tokio::spawn(connection);
        while !shared.over.load(Relaxed) {
            if client.simple_query("BEGIN").await.is_err() {
                away += 1;
                break;
            }
            for statement in ["INSERT INTO crowd VALUES (1)", "COMMIT"] {
                let done = client.simple_query(statement).await;
                done.map_err(|error| format!("inside a transaction, {statement}: {error:?}"))?;
            }
            shared.done.fetch_add(1, Relaxed);
        }
    }
    Ok(away)
}

/// How often something was logged by the agents.
pub fn logged(cluster: &Cluster, words: &str) -> usize {
    let logs = cluster.names().into_iter().map(|name| cluster.member(&name).join("agent.log"));
    logs.map(|log| std::fs::read_to_string(log).unwrap_or_default().matches(words).count()).sum()
}

/// Waits until a session was ended from the other side.
pub async fn ended(client: &Client) {
    until("the session is ended", async || client.is_closed().then_some(())).await;
}
