//! The in-memory engine: for tests and simulations, gone with the process.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;

use crate::clock::boot_clock_ms;
use crate::error::StoreError;
use crate::store::{Committed, Entry, LeaseId, Revision, Snapshot, Store, Txn, Write, ttl_ms};

/// Milliseconds on a clock that only grows.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// A store in this process's memory; clones are handles to the same store.
///
/// On the real clock leases end by themselves; on an injected one when [`MemoryStore::sweep`] or any
/// other call happens after their time, so that tests are deterministic.
#[derive(Clone)]
pub struct MemoryStore {
    shared: Arc<Shared>,
}

struct Shared {
    clock: Clock,
    expires_by_itself: bool,
    state: Mutex<State>,
    news: watch::Sender<Revision>,
}

#[derive(Default)]
struct State {
    revision: Revision,
    entries: BTreeMap<String, Entry>,
    leases: BTreeMap<LeaseId, Lease>,
    last_lease: u64,
}

#[derive(Clone, Copy)]
struct Lease {
    ttl_ms: u64,
    deadline_ms: u64,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryStore {
    /// An empty store on the boot clock.
    pub fn new() -> Self {
        Self::build(Arc::new(boot_clock_ms), true)
    }

    /// An empty store on `clock`, which gives milliseconds and must never go back.
    pub fn with_clock(clock: Clock) -> Self {
        Self::build(clock, false)
    }

    fn build(clock: Clock, expires_by_itself: bool) -> Self {
        let (news, _) = watch::channel(0);
        Self { shared: Arc::new(Shared { clock, expires_by_itself, state: Mutex::default(), news }) }
    }

    /// Ends the leases whose time is up, as any other call would.
    pub fn sweep(&self) {
        drop(self.shared.enter());
    }

    /// The earliest time at which a lease ends, in milliseconds of the store's clock.
    pub fn next_expiry(&self) -> Option<u64> {
        self.shared.lock().leases.values().map(|lease| lease.deadline_ms).min()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state with the leases that are over already gone.
    fn enter(&self) -> MutexGuard<'_, State> {
        let mut state = self.lock();
        let now = (self.clock)();
        let over = |lease: &Lease| lease.deadline_ms <= now;
        let gone: Vec<LeaseId> = state.leases.iter().filter(|(_, lease)| over(lease)).map(|(id, _)| *id).collect();
        if !gone.is_empty() && state.end_leases(&gone) {
            self.publish(&state);
        }
        state
    }

    fn publish(&self, state: &State) {
        self.news.send_if_modified(|known| std::mem::replace(known, state.revision) != state.revision);
    }
}

impl State {
    /// Removes the leases and their keys; true if a key went.
    fn end_leases(&mut self, gone: &[LeaseId]) -> bool {
        let before = self.entries.len();
        self.leases.retain(|id, _| !gone.contains(id));
        self.entries.retain(|_, entry| entry.lease.is_none_or(|lease| !gone.contains(&lease)));
        let changed = self.entries.len() != before;
        self.revision += Revision::from(changed);
        changed
    }

    /// Applies the writes at the next revision; true if they changed anything.
    fn apply(&mut self, writes: Vec<Write>) -> bool {
        let revision = self.revision + 1;
        let mut changed = false;
        for write in writes {
            match write {
                Write::Put { key, value, lease } => {
                    self.entries.insert(key, Entry { value, revision, lease });
                    changed = true;
                }
                Write::Delete { key } => changed |= self.entries.remove(&key).is_some(),
                Write::DeletePrefix { prefix } => {
                    let before = self.entries.len();
                    self.entries.retain(|key, _| !key.starts_with(&prefix));
                    changed |= self.entries.len() != before;
                }
            }
        }
        self.revision += Revision::from(changed);
        changed
    }
}

/// Waits for the end of `lease` and ends it, for as long as the store and the lease live.
async fn end_when_due(store: Weak<Shared>, id: LeaseId) {
    loop {
        let wait = {
            let Some(shared) = store.upgrade() else { return };
            let state = shared.enter();
            let Some(lease) = state.leases.get(&id) else { return };
            lease.deadline_ms.saturating_sub((shared.clock)())
        };
        tokio::time::sleep(Duration::from_millis(wait)).await;
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn read(&self) -> Result<Snapshot, StoreError> {
        let state = self.shared.enter();
        Ok(Snapshot { revision: state.revision, entries: state.entries.clone() })
    }

    async fn commit(&self, txn: Txn) -> Result<Committed, StoreError> {
        txn.check()?;
        let mut state = self.shared.enter();
        if let Some(failed) = txn.compares.iter().find(|compare| !compare.holds(state.entries.get(compare.key()))) {
            return Ok(Committed::Refused { key: failed.key().to_owned() });
        }
        if let Some(lease) = txn.leases().find(|lease| !state.leases.contains_key(lease)) {
            return Err(StoreError::LeaseGone { place: self.describe(), lease });
        }
        if state.apply(txn.writes) {
            self.shared.publish(&state);
        }
        Ok(Committed::Applied { revision: state.revision })
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        let id = {
            let mut state = self.shared.enter();
            let ttl_ms = ttl_ms(ttl);
            state.last_lease += 1;
            let id = LeaseId(state.last_lease);
            let deadline_ms = (self.shared.clock)().saturating_add(ttl_ms);
            state.leases.insert(id, Lease { ttl_ms, deadline_ms });
            id
        };
        if self.shared.expires_by_itself {
            tokio::spawn(end_when_due(Arc::downgrade(&self.shared), id));
        }
        Ok(id)
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        let mut state = self.shared.enter();
        let now = (self.shared.clock)();
        let Some(found) = state.leases.get_mut(&lease) else {
            return Err(StoreError::LeaseGone { place: self.describe(), lease });
        };
        found.deadline_ms = now.saturating_add(found.ttl_ms);
        Ok(())
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        let mut state = self.shared.enter();
        if state.end_leases(&[lease]) {
            self.shared.publish(&state);
        }
        Ok(())
    }

    fn watch(&self) -> watch::Receiver<Revision> {
        self.shared.news.subscribe()
    }

    fn describe(&self) -> String {
        "memory".to_owned()
    }
}
