//! Where the members of a cluster agree: the distributed configuration store.
//!
//! Owns: the [`Store`] trait and its types ([`store`]), what can go wrong ([`error`]), the engines
//! ([`memory`] for tests, [`sqlite`] for several processes on one host, [`etcd`], [`consul`]), the clock that leases are
//! counted on ([`clock`]) and the suite that every engine must pass ([`conformance`]).
//! Must not: know what a leader or a member is, decide anything, or retry on its own; keys and values
//! are opaque text here. Start reading at [`Store`].

pub mod clock;
pub mod conformance;
pub mod consul;
pub mod error;
pub mod etcd;
pub mod memory;
pub mod rhythm;
pub mod sqlite;
pub mod store;

pub use clock::boot_clock_ms;
pub use consul::ConsulStore;
pub use error::StoreError;
pub use etcd::EtcdStore;
pub use memory::MemoryStore;
pub use sqlite::SqliteStore;
pub use store::{Committed, Compare, Entry, LeaseId, Revision, Snapshot, Store, Txn, Write};
