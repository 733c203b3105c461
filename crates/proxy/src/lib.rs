//! The router: one port that always reaches the primary, one that spreads over the replicas.
//!
//! Owns: listeners, the start of a PostgreSQL session (encryption requests, startup, cancel keys),
//! holding new sessions while there is no primary, and moving bytes. Must not: know the store, decide
//! who is primary, or look into a session after its first `ReadyForQuery` beyond message boundaries.
//! Routes arrive through a `watch` channel; whoever knows the cluster feeds it.
//!
//! Start reading at [`Proxy::run`] (`proxy.rs`); one connection's life is `session.rs` (async: up to the
//! server's first answer) and then `relay/` (plain epoll threads: nothing but bytes). How all of it goes on in another
//! program is `carry.rs`.
//!
//! ```text
//! accept -> opening packets -> route? --no--> held (bounded) --route change--+
//!                               |yes                                         |
//!                               v                                            |
//!                     connect, startup, first answer --refused/57P03--> held-+
//!                               |
//!                               v
//!                   relay thread (cut when its route ends)
//! ```

mod attempt;
mod cancel;
mod carry;
mod client;
mod config;
mod connect;
mod frames;
mod opening;
mod proxy;
mod proxy_protocol;
mod relay;
mod report;
mod routes;
mod session;
mod spread;
mod stats;

pub use carry::{Luggage, Mover, Parts, Register};
pub use config::{ProxyConfig, ProxyError};
pub use proxy::{Addresses, Proxy};
pub use routes::{Backend, Port, Routes};
pub use stats::{PortStats, Stats};
