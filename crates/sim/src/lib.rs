//! A whole cluster in one thread of virtual time, around the real `decide`.
//!
//! Owns: a simulated store, PostgreSQL, network, disk, guard and agent shell ([`world`]), random schedules of faults
//! ([`schedule`]), the invariants of the design ([`check`], [`health`]), scenarios written as text ([`scenario`]), and bugs put in on
//! purpose to prove that the checks bite ([`mutation`], by the means of [`tamper`]); the program that kept a cluster before ours ([`others`]).
//! Must not: be linked into the product, read a clock, use threads or any randomness but its seed's. The same seed always
//! gives the same run. Start reading at [`world`], then [`schedule`].

pub mod adoption;
pub mod agent;
pub mod belongs;
pub mod check;
pub mod claim;
pub mod client;
pub mod clock;
pub mod directed;
pub mod disk;
pub mod event;
pub mod fault;
pub mod health;
pub mod heartbeat;
pub mod jobs;
pub mod mutate;
pub mod mutation;
pub mod node;
pub mod others;
pub mod postgres;
pub mod profile;
pub mod replication;
pub mod requests;
pub mod scenario;
pub mod schedule;
pub mod script;
pub mod server;
pub mod store;
pub mod tamper;
pub mod trap;
pub mod usurp;
pub mod wal;
pub mod watchdog;
pub mod world;
