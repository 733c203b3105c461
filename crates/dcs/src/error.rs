//! What can go wrong with a store, each with the place and what to do about it.

use std::path::PathBuf;

use crate::store::{LeaseId, Revision};

/// Why a store could not do what was asked.
///
/// Only [`StoreError::Indeterminate`] leaves open whether a write happened; after any other error it
/// certainly did not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The store cannot be reached or written now; nothing was applied. Worth another try.
    #[error("the store {place} is not available, nothing was written: {reason}")]
    Unavailable { place: String, reason: String },

    /// The write may or may not have been applied: read again before doing anything that depends on it.
    #[error("the store {place} failed while writing, and the write may or may not have happened: {reason}")]
    Indeterminate { place: String, reason: String },

    /// The lease has expired, was revoked, or was never granted by this store.
    #[error("lease {} in the store {place} has expired or was revoked; ask for a new one", lease.0)]
    LeaseGone { place: String, lease: LeaseId },

    /// The key or value is one that not every engine can keep.
    #[error("the key {key:?} cannot be stored: {why}")]
    Invalid { key: String, why: String },

    /// There is no store file, and this call does not create one.
    #[error("there is no {}: check the path of the store, or start the cluster that creates it", path.display())]
    Missing { path: PathBuf },

    /// The file exists and is something else. It was not changed.
    #[error("{} is not a Matriarch store ({found}): it was left alone; name another file", path.display())]
    NotOurs { path: PathBuf, found: String },

    /// The file was written by a newer Matriarch.
    #[error(
        "the store {} has schema version {found}, this binary knows up to {known}: use the newer matriarch binary",
        path.display()
    )]
    NewerSchema { path: PathBuf, found: i64, known: i64 },

    /// The file is ours and damaged.
    #[error(
        "the store {} is damaged ({detail}): stop every process that uses it, keep a copy of it, then restore it \
         from a backup or remove it together with its -wal and -shm files to start with an empty one",
        path.display()
    )]
    Corrupt { path: PathBuf, detail: String },

    /// The store has forgotten commits that this handle has seen.
    #[error(
        "the store {place} went back from revision {seen} to {found}, as if it was restored from an older copy or \
         its -wal file was removed: stop its users and find out which copy is right"
    )]
    WentBack { place: String, seen: Revision, found: Revision },

    /// The disk or quota is full; nothing was applied.
    #[error("no space left for the store {place}, nothing was written: free space on its file system")]
    NoSpace { place: String },

    /// The store's quota is used up; nothing was applied, and reading and renewing go on.
    #[error(
        "the store {place} is full (its alarm NOSPACE is raised), nothing was written: free space there (etcdctl compact, \
         etcdctl defrag) or raise its quota, then clear the alarm (etcdctl alarm disarm)"
    )]
    Full { place: String },

    /// The store does not accept who we are, or what we may do; nothing was applied.
    #[error("the store {place} refuses us, nothing was written: {reason}; check the user, its password and its roles")]
    Denied { place: String, reason: String },

    /// The operating system forbids it.
    #[error("no permission for the store {}: {reason}", path.display())]
    Permission { path: PathBuf, reason: String },

    /// SQLite's locks and shared memory do not work between hosts.
    #[error(
        "the store {} lies on {kind}, where several processes cannot share it safely: use a local file system",
        path.display()
    )]
    NetworkFileSystem { path: PathBuf, kind: String },
}

impl StoreError {
    /// Whether a write that ended with this error may have been applied all the same.
    pub fn may_have_applied(&self) -> bool {
        matches!(self, Self::Indeterminate { .. })
    }

    /// Whether the store answered and took nothing: a person has to make room, or give rights back.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::NoSpace { .. } | Self::Full { .. } | Self::Denied { .. } | Self::Permission { .. })
    }

    /// Whether the same call may succeed later without a person doing something.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::Indeterminate { .. } | Self::NoSpace { .. } | Self::Full { .. })
    }
}
