//! The Consul engine: keys under a prefix, leases by sessions. Start at [`ConsulStore::open`].
//!
//! ```text
//!  read    GET /v1/kv/<prefix>?recurse&consistent        one state, confirmed by a majority
//!  commit  PUT /v1/txn                                   compares and changes, all or nothing (plan.rs)
//!  lease   session with Behavior=delete, no lock-delay   renewed by PUT /v1/session/renew/<id> (session.rs)
//!  watch   GET /v1/kv/<prefix>?keys&index=N&wait=…       a blocking query on its own connection (watch.rs)
//! ```
//!
//! A revision is Consul's Raft index. A lease lives longer than asked for: see [`ConsulStore::open`].

mod answer;
mod connect;
mod horizon;
mod http;
mod options;
mod plan;
mod query;
mod service;
mod session;
mod watch;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch as news;
use tokio::task::AbortHandle;

pub use options::{Consistency, ConsulOptions, DEFAULT_PORT, Endpoint, TlsFiles, Token};
pub use service::{Instance, ServiceOptions, ServiceRole, follow, service_name};

use crate::clock::boot_clock_ms;
use crate::error::StoreError;
use crate::store::{Committed, Compare, Entry, LeaseId, Revision, Snapshot, Store, Txn};
use answer::{Failure, Pair, TxnAnswer, is_denied};
use horizon::Horizon;
use http::{Answer, Ask, Client};
use plan::{Known, MAX_OPERATIONS, NotApplied, Plan};
use query::Query;
use session::Sessions;

/// How often a transaction with value compares is begun again because somebody else wrote between its read and its
/// write.
const ATTEMPTS: usize = 32;

/// A handle to one cluster's keys in a Consul. Dropping it ends its watch.
pub struct ConsulStore {
    shared: Arc<Shared>,
    watcher: AbortHandle,
}

/// What the calls and the watch have in common.
struct Shared {
    client: Client,
    query: Query,
    /// What all keys begin with, such as `service/demo/`.
    prefix: String,
    place: String,
    news: news::Sender<Revision>,
    horizon: Mutex<Horizon>,
    sessions: Sessions,
}

impl ConsulStore {
    /// A handle to the keys under `prefix` (such as `/service/demo/`; a leading slash is dropped, as Consul's keys have
    /// none). Nothing is asked yet, so this succeeds while Consul is away; certificates that cannot be read are an error at
    /// once. Must be called within a tokio runtime.
    ///
    /// Consul keeps no session shorter than the `session_ttl_min` of its servers (10 s by default), and ends one after
    /// twice its time, or later when its leader changes. A lease therefore ends between `ttl` (never before) and twice
    /// the greater of `ttl` and `session_ttl_min` after its last renewal.
    pub fn open(options: ConsulOptions, prefix: &str) -> Result<Self, StoreError> {
        let prefix = prefix.trim_start_matches('/').to_owned();
        let place = format!("{} scope {}", options.place(), prefix.trim_end_matches('/'));
        if options.endpoints.is_empty() {
            return Err(StoreError::Unavailable { place, reason: "no address of Consul is configured".to_owned() });
        }
        if let Some(tls) = &options.tls {
            connect::check(tls).map_err(|reason| StoreError::Unavailable { place: place.clone(), reason })?;
        }
        let shared = Arc::new(Shared {
            query: Query::new(&options, &prefix),
            client: Client::new(options),
            prefix,
            place,
            news: news::Sender::new(0),
            horizon: Mutex::new(Horizon::default()),
            sessions: Sessions::default(),
        });
        let watcher = tokio::spawn(watch::run(Arc::downgrade(&shared), shared.news.clone())).abort_handle();
        Ok(Self { shared, watcher })
    }
}

impl Drop for ConsulStore {
    fn drop(&mut self) {
        self.watcher.abort();
    }
}

#[async_trait]
impl Store for ConsulStore {
    async fn read(&self) -> Result<Snapshot, StoreError> {
        self.shared.read().await
    }

    async fn commit(&self, txn: Txn) -> Result<Committed, StoreError> {
        txn.check()?;
        self.shared.commit(&txn).await
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        self.shared.grant(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.shared.keep_alive(lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.shared.revoke(lease).await
    }

    fn watch(&self) -> news::Receiver<Revision> {
        self.shared.news.subscribe()
    }

    fn describe(&self) -> String {
        self.shared.place.clone()
    }
}

impl Shared {
    /// Reads everything, as confirmed by a majority of the servers. A store that went back in time shows what it holds,
    /// at a lower revision than before: what to make of it is for the caller to decide.
    async fn read(&self) -> Result<Snapshot, StoreError> {
        let before = self.horizon.lock().expect("nobody panics while holding this lock").clone();
        let answer = self.ask_read(self.query.everything()).await?;
        let (index, mut snapshot) = self.snapshot(&answer).await?;
        let now = boot_clock_ms();
        let mut horizon = self.horizon.lock().expect("nobody panics while holding this lock");
        match before.check(index, &snapshot, now) {
            Ok(revision) => {
                snapshot.revision = revision;
                horizon.read(&snapshot, now);
                self.announce(revision);
            }
            Err((seen, found)) => {
                tracing::error!(
                    store = %self.place, seen, found,
                    "the store went back, as if it was restored from an older copy or made anew: what was written since \
                     is gone"
                );
                horizon.begin(&snapshot, now);
                self.news.send_replace(index);
            }
        }
        Ok(snapshot)
    }

    /// Makes a snapshot of a listing, and sees to it that a listing cut short by a lack of permission is none.
    async fn snapshot(&self, answer: &Answer) -> Result<(Revision, Snapshot), StoreError> {
        let unusable = |reason: String| self.unavailable(reason);
        if answer.headers.contains_key("x-consul-results-filtered-by-acls") {
            return Err(unusable(
                "the token may not read every key under the prefix; give it key:read there".to_owned(),
            ));
        }
        let index = answer.number("x-consul-index").filter(|index| *index > 0);
        let index =
            index.ok_or_else(|| unusable(format!("no index in the answer; is this a Consul? {}", answer.status)))?;
        if answer.status.as_u16() == 404 {
            // For a request without a token Consul does not say that it hid keys, but it says so for a single one.
            let single = self.ask(&Ask::get(self.query.prefix_itself())).await.map_err(|f| unusable(f.reason()))?;
            return match single.status.as_u16() {
                200 | 404 => Ok((index, Snapshot::default())),
                _ => Err(unusable(Failure::told(&single).reason())),
            };
        }
        let pairs: Vec<Pair> = parse(&answer.body).map_err(unusable)?;
        let mut entries = BTreeMap::new();
        for pair in pairs {
            let Some(key) = pair.key.strip_prefix(&self.prefix).filter(|key| !key.is_empty()) else { continue };
            let value = pair.text().map_err(|error| unusable(format!("the value of {key}: {error}")))?;
            let lease = pair.session.as_deref().filter(|id| !id.is_empty()).map(session::lease_of);
            entries.insert(key.to_owned(), Entry { value, revision: pair.modify_index, lease });
            if let (Some(lease), Some(id)) = (lease, pair.session) {
                self.sessions.learn(lease, id);
            }
        }
        Ok((index, Snapshot { revision: index, entries }))
    }

    async fn commit(&self, txn: &Txn) -> Result<Committed, StoreError> {
        let reads_first = txn.writes.is_empty() || txn.compares.iter().any(|c| matches!(c, Compare::Value { .. }));
        for _ in 0..ATTEMPTS {
            let mut indexes = BTreeMap::new();
            if reads_first {
                let seen = self.read().await?;
                if let Some(failed) = first_failed(txn, &seen) {
                    return Ok(failed);
                }
                if txn.writes.is_empty() {
                    return Ok(Committed::Applied { revision: seen.revision });
                }
                for (number, compare) in txn.compares.iter().enumerate() {
                    indexes.insert(number, seen.get(compare.key()).map_or(0, |entry| entry.revision));
                }
            }
            let mut sessions = BTreeMap::new();
            for lease in txn.leases() {
                match self.session_of(lease).await? {
                    Some(id) => sessions.insert(lease, id),
                    None => return self.without_lease(txn, lease).await,
                };
            }
            let plan = Plan::new(&self.prefix, txn, &Known { indexes: &indexes, sessions: &sessions });
            if plan.len() > MAX_OPERATIONS {
                let why = format!("a change of {} operations is more than Consul takes ({MAX_OPERATIONS})", plan.len());
                let key =
                    txn.writes.first().map_or(String::new(), |write| format!("{write:?}").chars().take(80).collect());
                return Err(StoreError::Invalid { key, why });
            }
            match self.apply(txn, &plan).await? {
                Ok(revision) => return Ok(Committed::Applied { revision }),
                // Written by somebody else since the read, perhaps with the same value.
                Err(NotApplied::Compare(n)) if matches!(txn.compares[n], Compare::Value { .. }) => {}
                Err(NotApplied::Compare(n)) => return Ok(Committed::Refused { key: txn.compares[n].key().to_owned() }),
                Err(NotApplied::Lease(lease)) => {
                    self.sessions.forget(lease);
                    return Err(self.lease_gone(lease));
                }
                Err(NotApplied::Other(words)) if is_denied(&words) => {
                    return Err(self.unavailable(format!("{words}; the token needs key:write on the cluster's prefix")));
                }
                Err(NotApplied::Other(words)) => return Err(self.unavailable(words)),
            }
        }
        Err(self.unavailable("other writers were faster each time".to_owned()))
    }

    /// Sends the transaction.
    async fn apply(&self, txn: &Txn, plan: &Plan) -> Result<Result<Revision, NotApplied>, StoreError> {
        let body = plan.body(self.client.options.namespace.as_deref(), self.client.options.partition.as_deref());
        let answer = self.ask(&Ask::put(self.query.txn(), body.into())).await.map_err(|f| self.failed_write(f))?;
        let status = answer.status.as_u16();
        if status != 200 && status != 409 {
            return Err(self.failed_write(Failure::told(&answer)));
        }
        let told: TxnAnswer = parse(&answer.body).map_err(|reason| self.failed_write(Failure::Maybe(reason)))?;
        if status == 409 {
            return Ok(Err(plan.not_applied(told.errors.as_deref().unwrap_or_default())));
        }
        let nothing = || {
            self.failed_write(Failure::Maybe(
                "the answer names no index; may the token read the keys it writes?".to_owned(),
            ))
        };
        let revision = Plan::applied(&told).ok_or_else(nothing)?;
        self.horizon.lock().expect("nobody panics while holding this lock").wrote(txn, revision);
        self.announce(revision);
        Ok(Ok(revision))
    }

    /// The answer to a put under a lease that is gone: a compare that does not hold is told first.
    async fn without_lease(&self, txn: &Txn, lease: LeaseId) -> Result<Committed, StoreError> {
        let seen = self.read().await?;
        first_failed(txn, &seen).map_or_else(|| Err(self.lease_gone(lease)), Ok)
    }

    async fn ask(&self, ask: &Ask) -> Result<Answer, Failure> {
        self.client.ask(ask).await.map_err(Failure::of)
    }

    /// Asks for a listing: 200, or 404 when there is nothing.
    async fn ask_read(&self, path: String) -> Result<Answer, StoreError> {
        let answer = self.ask(&Ask::get(path)).await.map_err(|failure| self.unavailable(failure.reason()))?;
        match answer.status.as_u16() {
            200 | 404 => Ok(answer),
            _ => Err(self.unavailable(Failure::told(&answer).reason())),
        }
    }

    fn announce(&self, revision: Revision) {
        self.news.send_if_modified(|known| {
            let newer = revision > *known;
            *known = revision.max(*known);
            newer
        });
    }

    fn unavailable(&self, reason: String) -> StoreError {
        StoreError::Unavailable { place: self.place.clone(), reason }
    }

    fn failed_write(&self, failure: Failure) -> StoreError {
        let place = self.place.clone();
        match failure {
            Failure::Nothing(reason) => StoreError::Unavailable { place, reason },
            Failure::Maybe(reason) => StoreError::Indeterminate { place, reason },
        }
    }

    fn lease_gone(&self, lease: LeaseId) -> StoreError {
        StoreError::LeaseGone { place: self.place.clone(), lease }
    }
}

fn first_failed(txn: &Txn, seen: &Snapshot) -> Option<Committed> {
    let failed = txn.compares.iter().find(|compare| !compare.holds(seen.get(compare.key())))?;
    Some(Committed::Refused { key: failed.key().to_owned() })
}

fn parse<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    serde_json::from_slice(body).map_err(|error| format!("an answer that is not Consul's: {error}"))
}
