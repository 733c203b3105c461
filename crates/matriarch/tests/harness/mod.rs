//! What every end-to-end test starts from: a real cluster made by `matriarch up`, and those who watch it.
//!
//! Owns: the cluster's life, of `matriarch up` ([`cluster`]) or on hosts of a lab ([`hosts`]), running the binary's verbs ([`verb`]), waiting until all is well
//! ([`health`]), the ledger and the observer around a fault ([`witness`]) and the faults themselves ([`fault`]).
//! Must not: end a process that is not of the cluster at hand, or know what a test is about.
//! Start at [`Cluster::start`].
// Each test program uses its own part of this.
#![allow(dead_code, unused_imports)]

pub mod archived;
pub mod cluster;
pub mod fault;
pub mod health;
pub mod hosts;
pub mod site;
pub mod slots;
pub mod storage;
pub mod strike;
pub mod trouble;
pub mod verb;
pub mod wire;
pub mod witness;

pub use cluster::{Cluster, Plan};
pub use fault::Fault;
pub use hosts::Hosts;
pub use verb::Outcome;
pub use witness::Witness;

use std::time::Duration;

/// How long anything that must come by itself may take, on a machine that is busy with other tests.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// A cluster as those who watch it see it.
// The futures are awaited where they are made.
#[allow(async_fn_in_trait)]
pub trait Subject {
    /// Its members.
    fn names(&self) -> Vec<String>;
    /// A connection string of the read-write port, as superuser.
    fn writes(&self) -> String;
    /// A connection string of one member, not through any router.
    fn direct(&self, name: &str) -> String;
    /// Runs a verb on it.
    async fn verb(&self, arguments: &[&str]) -> Outcome;
}
