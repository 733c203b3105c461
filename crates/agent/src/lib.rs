//! The agent: one member's shell around the pure decision.
//!
//! Owns: the loop that observes, decides and acts ([`Shell`]), the leases ([`storage`]), PostgreSQL's jobs
//! ([`jobs`]), a new cluster from a backup ([`restored`]) or a dump ([`dumped`]), one that goes back ([`in_place`]), a member from a backup ([`from_backup`]), the guard process ([`guard`]), heartbeats between agents ([`heartbeat`]),
//! what outlives a restart ([`lasting`]), the address that follows the primary ([`virtual_ip`]), WAL on its way to the archive
//! ([`archive`]) and commits that wait for it (`durability`), whose turn it is to take a scheduled backup or dump ([`chores`]), and what the API shows and does ([`shared`], [`rest`]).
//! Must not: decide anything about who leads; that is `matriarch_core::decide`'s. Start reading at [`Shell::run`].

pub mod archive;
pub mod certificates;
pub mod chores;
mod claim;
mod conf_files;
mod copy;
mod data_dir;
pub mod dumped;
mod durability;
mod event;
mod from_backup;
pub mod guard;
pub mod heartbeat;
pub mod in_place;
mod instance;
mod jobs;
mod lasting;
pub mod network;
mod options;
mod policy;
mod postgres_log;
pub mod rest;
pub mod restored;
pub mod shared;
mod shared_config;
mod shell;
mod sighting;
mod slots;
mod storage;
pub mod view;
pub mod virtual_ip;

pub use heartbeat::Heartbeats;
pub use options::Options;
pub use rest::AgentBackend;
pub use shared::Shared;
pub use shell::{Ending, Shell};
