//! The store as its users see it: one trait, and the plain types that cross it.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;

use crate::error::StoreError;

/// Longest key that every engine takes, in bytes.
pub const MAX_KEY_BYTES: usize = 512;
/// Longest value that every engine takes, in bytes (Consul takes requests of 512 KiB, with values in base64).
pub const MAX_VALUE_BYTES: usize = 256 << 10;

/// A point in the store's history. It only grows, and each change of any key gets a new one.
pub type Revision = u64;

/// A lease: keys put under it vanish when its holder stops renewing it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub u64);

/// One key's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub value: String,
    /// The revision of its last write.
    pub revision: Revision,
    /// The lease it lives under, if any.
    pub lease: Option<LeaseId>,
}

/// Everything the store holds for one cluster, as it was at one revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    pub revision: Revision,
    /// Keys are relative to `/service/<scope>/`: `leader`, `members/a`.
    pub entries: BTreeMap<String, Entry>,
}

impl Snapshot {
    /// The entry under `key`.
    pub fn get(&self, key: &str) -> Option<&Entry> {
        self.entries.get(key)
    }

    /// The value under `key`.
    pub fn value(&self, key: &str) -> Option<&str> {
        self.entries.get(key).map(|entry| entry.value.as_str())
    }
}

/// A condition on the state just before the transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compare {
    /// The key does not exist.
    Absent { key: String },
    /// The key exists and was last written at this revision.
    Revision { key: String, revision: Revision },
    /// The key exists and holds this value.
    Value { key: String, value: String },
}

impl Compare {
    /// The key it looks at.
    pub fn key(&self) -> &str {
        match self {
            Self::Absent { key } | Self::Revision { key, .. } | Self::Value { key, .. } => key,
        }
    }

    /// Whether it holds for what is under its key now.
    pub fn holds(&self, entry: Option<&Entry>) -> bool {
        match (self, entry) {
            (Self::Absent { .. }, entry) => entry.is_none(),
            (_, None) => false,
            (Self::Revision { revision, .. }, Some(entry)) => entry.revision == *revision,
            (Self::Value { value, .. }, Some(entry)) => entry.value == *value,
        }
    }
}

/// One change of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Creates or replaces; a put without a lease takes the key out of the lease it was under.
    Put { key: String, value: String, lease: Option<LeaseId> },
    /// Removes the key if it is there.
    Delete { key: String },
    /// Removes every key that starts with the prefix (all of the cluster's keys for an empty prefix).
    DeletePrefix { prefix: String },
}

/// Conditions and changes: if all conditions hold, all changes happen at one revision, in order; else
/// none does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    pub compares: Vec<Compare>,
    pub writes: Vec<Write>,
}

impl Txn {
    /// A transaction that asks for nothing and changes nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Only if `key` does not exist.
    pub fn absent(mut self, key: impl Into<String>) -> Self {
        self.compares.push(Compare::Absent { key: key.into() });
        self
    }

    /// Only if `key` was last written at `revision`.
    pub fn revision(mut self, key: impl Into<String>, revision: Revision) -> Self {
        self.compares.push(Compare::Revision { key: key.into(), revision });
        self
    }

    /// Only if `key` holds `value`.
    pub fn value(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.compares.push(Compare::Value { key: key.into(), value: value.into() });
        self
    }

    /// Put `value` under `key`, to stay.
    pub fn put(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.writes.push(Write::Put { key: key.into(), value: value.into(), lease: None });
        self
    }

    /// Put `value` under `key` for as long as `lease` lives.
    pub fn put_leased(mut self, key: impl Into<String>, value: impl Into<String>, lease: LeaseId) -> Self {
        self.writes.push(Write::Put { key: key.into(), value: value.into(), lease: Some(lease) });
        self
    }

    /// Delete `key`.
    pub fn delete(mut self, key: impl Into<String>) -> Self {
        self.writes.push(Write::Delete { key: key.into() });
        self
    }

    /// Delete every key that starts with `prefix`.
    pub fn delete_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.writes.push(Write::DeletePrefix { prefix: prefix.into() });
        self
    }

    /// Refuses keys and values that some engine could not keep, so that all engines refuse the same.
    pub fn check(&self) -> Result<(), StoreError> {
        self.compares.iter().try_for_each(|compare| check_key(compare.key()))?;
        self.writes.iter().try_for_each(|write| match write {
            Write::Put { key, value, .. } => check_key(key).and_then(|()| check_value(key, value)),
            Write::Delete { key } => check_key(key),
            Write::DeletePrefix { .. } => Ok(()),
        })
    }

    /// The leases that its puts name.
    pub(crate) fn leases(&self) -> impl Iterator<Item = LeaseId> + '_ {
        self.writes.iter().filter_map(|write| match write {
            Write::Put { lease, .. } => *lease,
            Write::Delete { .. } | Write::DeletePrefix { .. } => None,
        })
    }
}

fn check_key(key: &str) -> Result<(), StoreError> {
    let why = if key.is_empty() {
        "a key must not be empty"
    } else if key.starts_with('/') {
        "a key is relative to the cluster and must not start with \"/\""
    } else if key.contains('\0') {
        "a key must not contain a NUL character"
    } else if key.len() > MAX_KEY_BYTES {
        "a key must not be longer than 512 bytes"
    } else {
        return Ok(());
    };
    Err(StoreError::Invalid { key: key.chars().take(80).collect(), why: why.to_owned() })
}

fn check_value(key: &str, value: &str) -> Result<(), StoreError> {
    let why = if value.len() > MAX_VALUE_BYTES {
        format!("its value has {} bytes, more than the {MAX_VALUE_BYTES} that every store takes", value.len())
    } else if value.contains('\0') {
        "its value contains a NUL character".to_owned()
    } else {
        return Ok(());
    };
    Err(StoreError::Invalid { key: key.to_owned(), why })
}

/// What became of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Committed {
    /// Every change is durable, at this revision. (A transaction that changed nothing gets the revision
    /// the store already had.)
    Applied { revision: Revision },
    /// Nothing was changed: this is the key of the first compare that did not hold.
    Refused { key: String },
}

impl Committed {
    /// The revision, if it was applied.
    pub fn applied(&self) -> Option<Revision> {
        match self {
            Self::Applied { revision } => Some(*revision),
            Self::Refused { .. } => None,
        }
    }
}

/// A handle to one cluster's part of a store.
///
/// Every call is linearizable: it sees all that was committed, through any handle, before it was made.
/// A call whose future is dropped may or may not still happen, as with [`StoreError::Indeterminate`].
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// The whole cluster at one revision.
    async fn read(&self) -> Result<Snapshot, StoreError>;

    /// Whether `key` is there and lives under `lease`, as [`Store::read`] would say.
    async fn is_under(&self, key: &str, lease: LeaseId) -> Result<bool, StoreError> {
        Ok(self.read().await?.get(key).is_some_and(|entry| entry.lease == Some(lease)))
    }

    /// Applies `txn` if all its compares hold. A put under a lease that is gone fails with
    /// [`StoreError::LeaseGone`] and applies nothing.
    async fn commit(&self, txn: Txn) -> Result<Committed, StoreError>;

    /// A new lease that lives for `ttl` from now.
    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError>;

    /// Lets the lease live for its full time again from now, without a new revision.
    /// [`StoreError::LeaseGone`] if it has expired or was never granted.
    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError>;

    /// Ends the lease and deletes its keys at once; nothing to do if it is gone already.
    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError>;

    /// The newest revision this handle has heard of. A change is a hint to read again, not a promise
    /// that every revision is seen; it also changes once when the store is lost.
    fn watch(&self) -> watch::Receiver<Revision>;

    /// Which store this is, for messages: `sqlite:/path/store.db scope demo`.
    fn describe(&self) -> String;
}

/// A lease's time in whole milliseconds: at least one, and far from overflowing any engine's clock.
pub(crate) fn ttl_ms(ttl: Duration) -> u64 {
    u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).clamp(1, u64::MAX / 4)
}
