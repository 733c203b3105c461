//! The etcd engine: gRPC of etcd's third API, on servers that the agents and proxies of a cluster share. Start at
//! [`EtcdStore::open`].
//!
//! ```text
//!  Store calls ── client: a server that answers, a session ──> one HTTP/2 connection ──> etcd
//!                    ^ leaves it                                    │ watch, signs of life
//!                    └──────────────── watch task <─────────────────┘──> watch::Receiver<Revision>
//! ```
//!
//! Leases: etcd counts whole seconds and grants no fewer than its election timeout allows (2 by default), so what it grants
//! may live longer than asked for, never shorter; it also gives every lease its full time again when its own leader changes.
//! Whoever holds a lease counts what it asked for.

mod client;
mod endpoint;
mod fault;
mod grpc;
mod login;
mod options;
mod proto;
mod srv;
mod txn;
mod watch;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch as news;
use tokio::task::AbortHandle;

use crate::error::StoreError;
use crate::store::{Committed, LeaseId, Revision, Snapshot, Store, Txn};
use client::{Client, Method};
pub use endpoint::{Endpoint, Servers};
use grpc::Fault;
pub use options::{EtcdOptions, Password, User};
use proto::{
    Done, LeaseGrantRequest, LeaseGrantResponse, LeaseRequest, LeaseTtlResponse, RangeRequest, RangeResponse,
    TxnResponse,
};

const fn method(path: &'static str, repeatable: bool, streamed: bool) -> Method {
    Method { path, repeatable, streamed }
}
const RANGE: Method = method("/etcdserverpb.KV/Range", true, false);
const TXN: Method = method("/etcdserverpb.KV/Txn", false, false);
/// Granting twice leaves a lease that nobody uses and that ends by itself.
const GRANT: Method = method("/etcdserverpb.Lease/LeaseGrant", true, false);
const KEEP_ALIVE: Method = method("/etcdserverpb.Lease/LeaseKeepAlive", true, true);
const REVOKE: Method = method("/etcdserverpb.Lease/LeaseRevoke", true, false);
const TIME_TO_LIVE: Method = method("/etcdserverpb.Lease/LeaseTimeToLive", true, false);

/// A handle to one cluster (prefix of keys) in etcd. Dropping it ends its watch and its connection.
pub struct EtcdStore {
    client: Arc<Client>,
    prefix: String,
    news: news::Sender<Revision>,
    /// The newest revision that any answer named.
    seen: AtomicU64,
    watcher: AbortHandle,
}

impl EtcdStore {
    /// A handle on the keys that begin with `prefix`, as in `/service/demo/`. It connects when it is used, so that an
    /// agent can start while the store is away; certificates that cannot be read are an error at once.
    ///
    /// Must be called within a tokio runtime.
    pub fn open(options: EtcdOptions, prefix: &str) -> Result<EtcdStore, StoreError> {
        let place = format!("etcd:{} prefix {prefix}", options.servers);
        let tls = match &options.servers {
            Servers::Listed(endpoints) => endpoints.iter().any(|endpoint| endpoint.tls),
            Servers::Srv { .. } => options.tls != matriarch_tls::TlsFiles::default(),
        };
        if tls {
            let unusable = |reason| StoreError::Unavailable { place: place.clone(), reason };
            options.tls.client_config(&[b"h2"]).map_err(unusable)?;
        }
        let client = Arc::new(Client::new(options, place));
        let news = news::Sender::new(0);
        let watcher = tokio::spawn(watch::follow(Arc::clone(&client), prefix.to_owned(), news.clone())).abort_handle();
        Ok(EtcdStore { client, prefix: prefix.to_owned(), news, seen: AtomicU64::new(0), watcher })
    }

    fn place(&self) -> &str {
        &self.client.place
    }

    fn known(&self) -> Revision {
        self.seen.load(Ordering::SeqCst).max(*self.news.borrow())
    }

    /// Takes the revision of an answer into account. `before` is what was known when its question was asked: etcd never
    /// answers with less, unless it was put back to an older copy.
    fn learn(&self, before: Revision, found: Revision) {
        self.seen.fetch_max(found, Ordering::SeqCst);
        if found < before {
            tracing::error!(
                store = self.place(),
                seen = before,
                found,
                "the store went back, as if it was restored from an older copy or made anew: what was written since is gone"
            );
            self.seen.store(found, Ordering::SeqCst);
            self.news.send_replace(found);
        }
    }

    fn read_failed(&self, fault: Fault) -> StoreError {
        fault::of_read(self.place(), fault)
    }

    fn malformed(&self) -> Fault {
        Fault::NoAnswer("the answer does not fit the question: is this etcd?".to_owned())
    }

    /// Which of several leases is the one that is gone; the first if that cannot be found out.
    async fn gone_of(&self, leases: &[LeaseId]) -> LeaseId {
        for lease in leases.iter().filter(|_| leases.len() > 1) {
            let question = LeaseRequest { id: lease.0.cast_signed() };
            let left = self.client.call::<LeaseTtlResponse>(TIME_TO_LIVE, &question).await;
            if left.is_ok_and(|left| left.ttl < 0) {
                return *lease;
            }
        }
        leases[0]
    }

    async fn commit_failed(&self, fault: Fault, txn: &Txn) -> StoreError {
        let leases: Vec<LeaseId> = txn.leases().collect();
        match fault {
            Fault::Status(status) if status.lease_gone() && !leases.is_empty() => {
                StoreError::LeaseGone { place: self.place().to_owned(), lease: self.gone_of(&leases).await }
            }
            fault => fault::of_write(self.place(), fault),
        }
    }
}

impl Drop for EtcdStore {
    fn drop(&mut self) {
        self.watcher.abort();
    }
}

#[async_trait]
impl Store for EtcdStore {
    async fn read(&self) -> Result<Snapshot, StoreError> {
        let key = self.prefix.as_bytes().to_vec();
        let question = RangeRequest { range_end: txn::after_prefix(&key), key, keys_only: false };
        let before = self.known();
        let answer: RangeResponse =
            self.client.call(RANGE, &question).await.map_err(|fault| self.read_failed(fault))?;
        let header = answer.header.ok_or_else(|| self.read_failed(self.malformed()))?;
        let revision = header.revision.cast_unsigned();
        self.learn(before, revision);
        let relative = |kv: &proto::KeyValue| {
            let key = String::from_utf8_lossy(&kv.key);
            Some((key.strip_prefix(&self.prefix)?.to_owned(), txn::entry(kv)))
        };
        Ok(Snapshot { revision, entries: answer.kvs.iter().filter_map(relative).collect() })
    }

    async fn is_under(&self, key: &str, lease: LeaseId) -> Result<bool, StoreError> {
        let key = format!("{}{key}", self.prefix).into_bytes();
        let question = RangeRequest { key, range_end: Vec::new(), keys_only: true };
        let before = self.known();
        let answer: RangeResponse =
            self.client.call(RANGE, &question).await.map_err(|fault| self.read_failed(fault))?;
        let header = answer.header.ok_or_else(|| self.read_failed(self.malformed()))?;
        self.learn(before, header.revision.cast_unsigned());
        Ok(answer.kvs.iter().any(|kv| txn::entry(kv).lease == Some(lease)))
    }

    async fn commit(&self, txn: Txn) -> Result<Committed, StoreError> {
        txn.check()?;
        let before = self.known();
        let answer: TxnResponse = match self.client.call(TXN, &txn::request(&self.prefix, &txn)).await {
            Ok(answer) => answer,
            Err(fault) => return Err(self.commit_failed(fault, &txn).await),
        };
        let outcome = txn::outcome(&txn, &answer);
        let (committed, revision) = outcome.ok_or_else(|| fault::of_write(self.place(), self.malformed()))?;
        self.learn(before, revision);
        if committed.applied().is_some() {
            watch::tell(&self.news, revision, false);
        }
        Ok(committed)
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        let whole = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
        let question =
            LeaseGrantRequest { ttl: i64::try_from(whole.clamp(1, 9_000_000_000)).expect("within the range") };
        let granted = self.client.call::<LeaseGrantResponse>(GRANT, &question).await;
        let granted = granted.map_err(|fault| self.read_failed(fault))?;
        if granted.id == 0 || !granted.error.is_empty() {
            return Err(StoreError::Unavailable { place: self.place().to_owned(), reason: granted.error });
        }
        Ok(LeaseId(granted.id.cast_unsigned()))
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        let question = LeaseRequest { id: lease.0.cast_signed() };
        match self.client.call::<LeaseTtlResponse>(KEEP_ALIVE, &question).await {
            Ok(renewed) if renewed.ttl > 0 => Ok(()),
            Ok(_) => Err(StoreError::LeaseGone { place: self.place().to_owned(), lease }),
            Err(Fault::Status(status)) if status.lease_gone() => {
                Err(StoreError::LeaseGone { place: self.place().to_owned(), lease })
            }
            Err(fault) => Err(self.read_failed(fault)),
        }
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        let question = LeaseRequest { id: lease.0.cast_signed() };
        match self.client.call::<Done>(REVOKE, &question).await {
            Ok(_) => Ok(()),
            Err(Fault::Status(status)) if status.lease_gone() => Ok(()),
            Err(fault) => Err(fault::of_write(self.place(), fault)),
        }
    }

    fn watch(&self) -> news::Receiver<Revision> {
        self.news.subscribe()
    }

    fn describe(&self) -> String {
        self.place().to_owned()
    }
}
