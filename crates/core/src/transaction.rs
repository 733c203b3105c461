//! A change of the store: compares that must all hold, then writes that all happen.

use serde::Serialize;

use crate::record::{SyncRecord, Versioned, key};

/// What must hold for a transaction to be applied.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Compare {
    /// The key does not exist.
    Absent {
        /// Relative key.
        key: String,
    },
    /// The key was last written at this revision.
    Revision {
        /// Relative key.
        key: String,
        /// Store revision of its last write.
        revision: u64,
    },
}

/// Whose life a key is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Life {
    /// Stays until deleted.
    Permanent,
    /// Goes with the leader lease of this agent.
    LeaderLease,
    /// Goes with the membership lease of this agent.
    MemberLease,
}

/// One write.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Write {
    /// Sets a key.
    Put {
        /// Relative key.
        key: String,
        /// Text, mostly JSON.
        value: String,
        /// Whose life it is bound to.
        life: Life,
    },
    /// Removes a key.
    Delete {
        /// Relative key.
        key: String,
    },
}

/// All compares hold and all writes happen, or nothing does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Txn {
    /// Conditions.
    pub compares: Vec<Compare>,
    /// Effects.
    pub writes: Vec<Write>,
}

impl Txn {
    /// An empty transaction.
    pub fn new() -> Self {
        Txn::default()
    }

    /// Holds only if the key does not exist.
    pub fn absent(mut self, key: &str) -> Self {
        self.compares.push(Compare::Absent { key: key.to_owned() });
        self
    }

    /// Holds only if the key was last written at `revision`.
    pub fn unchanged(mut self, key: &str, revision: u64) -> Self {
        self.compares.push(Compare::Revision { key: key.to_owned(), revision });
        self
    }

    /// [`Txn::unchanged`] for a key that was seen, [`Txn::absent`] for one that was not.
    pub fn as_seen(self, key: &str, seen: Option<u64>) -> Self {
        match seen {
            Some(revision) => self.unchanged(key, revision),
            None => self.absent(key),
        }
    }

    /// Writes text.
    pub fn put_text(mut self, key: &str, value: impl Into<String>, life: Life) -> Self {
        self.writes.push(Write::Put { key: key.to_owned(), value: value.into(), life });
        self
    }

    /// Writes a record as JSON.
    pub fn put<T: Serialize>(self, key: &str, value: &T) -> Self {
        let text = serde_json::to_string(value).expect("records have string keys and finite numbers only");
        self.put_text(key, text, Life::Permanent)
    }

    /// Writes `sync` anew if it is still as seen. Every writer of the record comes through here, so that its serial number
    /// tells older from newer ones also in a store that went back in time.
    pub fn rewrite_sync(self, seen: &Versioned<SyncRecord>, next: SyncRecord) -> Self {
        let next = SyncRecord { serial: seen.value.serial + 1, ..next.with_patroni_fields() };
        self.unchanged(key::SYNC, seen.revision).put(key::SYNC, &next)
    }

    /// Removes a key.
    pub fn delete(mut self, key: &str) -> Self {
        self.writes.push(Write::Delete { key: key.to_owned() });
        self
    }

    /// Whether it writes keys bound to the leader lease.
    pub fn needs_leader_lease(&self) -> bool {
        self.writes.iter().any(|write| matches!(write, Write::Put { life: Life::LeaderLease, .. }))
    }
}
