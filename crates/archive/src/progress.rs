//! How far something long is, for who looks on.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes that are done, and bytes there are; clones count together.
#[derive(Clone, Debug, Default)]
pub struct Progress(Arc<Count>);

#[derive(Debug, Default)]
struct Count {
    done: AtomicU64,
    total: AtomicU64,
    there: AtomicU64,
}

impl Progress {
    /// Bytes that are done.
    pub fn done(&self) -> u64 {
        self.0.done.load(Ordering::Relaxed)
    }

    /// Bytes there are in all; 0 while that is not known.
    pub fn total(&self) -> u64 {
        self.0.total.load(Ordering::Relaxed)
    }

    /// Those of the bytes that are done which an earlier try has done.
    pub fn there(&self) -> u64 {
        self.0.there.load(Ordering::Relaxed)
    }

    /// Bytes that an earlier try has done.
    pub(crate) fn found(&self, bytes: u64) {
        self.0.there.fetch_add(bytes, Ordering::Relaxed);
        self.add(bytes);
    }

    pub(crate) fn add(&self, bytes: u64) {
        self.0.done.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn expect(&self, bytes: u64) {
        self.0.total.fetch_add(bytes, Ordering::Relaxed);
    }
}
