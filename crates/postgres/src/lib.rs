//! One local PostgreSQL instance, majors 13 to 18: its files, its processes and its SQL.
//!
//! Owns: the data directory from nothing to running ([`bootstrap`], [`restored`], [`clone`], [`rewind`], [`control`],
//! [`incarnation`]), the files we add to it ([`conf`], [`hba`], tried out by [`check`]), a server that another program has started ([`foreign`]), the postmaster and every process under it
//! ([`postmaster`], [`process`], [`stop`]), a server for a recovery alone ([`scratch`]), dumps by its programs ([`dump`]), the server's log ([`server_log`]), the volumes below ([`volumes`]), one superuser connection
//! ([`sql`]), and streams of its WAL ([`replication`]).
//! Must not: decide anything (the agent does), talk to the store, or reimplement what PostgreSQL's own tools do.
//! Every child runs as [`Owner`] when we are root, in a clean environment, with its messages kept for errors.
//! Start reading at [`Instance`], then [`control::inspect`] and [`postmaster::start`].

pub mod binaries;
mod blocking;
pub mod bootstrap;
pub mod check;
pub mod clone;
pub mod conf;
pub mod conninfo;
pub mod control;
pub mod dump;
pub mod files;
pub mod foreign;
pub mod greeting;
pub mod hba;
pub mod history;
pub mod incarnation;
mod include;
pub mod instance;
pub mod leader;
pub mod owner;
pub mod pooler_role;
pub mod postmaster;
pub mod probe;
pub mod process;
pub mod readiness;
pub mod replication;
pub mod restored;
pub mod rewind;
pub mod roles;
pub mod scratch;
pub mod server_log;
pub mod sql;
pub mod staging;
pub mod stop;
pub mod tool;
pub mod volumes;
pub mod wal;

pub use binaries::Binaries;
pub use clone::clone_from;
pub use conf::Settings;
pub use conninfo::Source;
pub use control::{ClusterState, ControlData, DataDirState, inspect};
pub use instance::{Credentials, Instance};
pub use owner::Owner;
pub use postmaster::{Postmaster, StartAs, adopt, start};
pub use probe::Probe;
pub use sql::{Sql, SqlError};
