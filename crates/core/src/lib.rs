//! The pure heart of Matriarch: what a cluster is and what to do about it.
//!
//! Owns: positions in the write-ahead log ([`lsn`]), names ([`name`]), the records members keep in the
//! store ([`record`]), the durability rule ([`rule`]), the failure detector ([`heartbeat`]), what a look at a
//! standby proves ([`settling`]) and the decision function ([`decide`]).
//! Must not: read a clock, do I/O, use randomness or be async. Everything it knows arrives in one
//! observation; everything it wants leaves as actions. Start reading at [`decide`].

pub mod decide;
pub mod heartbeat;
pub mod lsn;
pub mod name;
pub mod record;
pub mod rule;
pub mod settling;
pub mod transaction;

pub use lsn::{Lsn, Timeline};
pub use name::{Incarnation, MemberName};
pub use rule::Rule;
