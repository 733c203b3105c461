//! Physical replication as a client: WAL as it is written, byte for byte.
//!
//! Own code on the wire protocol, since tokio-postgres knows neither replication sessions nor copies in both directions.
//! A [`Replication`] runs the commands of a walsender; [`Replication::stream`] makes a [`WalStream`] of it, whose events
//! are WAL, keepalives, and the end of the timeline. Everything a server sends is bounded and checked ([`message`],
//! [`copy`]): garbage is an error.
//!
//! Without TLS: for the instance on the same host (Unix socket), or plain TCP.

mod answer;
mod connection;
mod copy;
mod error;
mod login;
mod message;
mod stream;
mod wire;

pub use answer::{Identity, NextTimeline, SlotPosition};
pub use connection::{Replication, Target};
pub use copy::Positions;
pub use error::ReplicationError;
pub use message::ServerSaid;
pub use stream::{Event, WalStream};
