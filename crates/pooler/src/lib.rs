//! PgBouncer in front of the cluster: configured, started and supervised by us, or run by others and only paused.
//!
//! Owns: PgBouncer's configuration and process ([`Own`]), its admin console, and when it is paused, pointed elsewhere and
//! resumed ([`attend()`]). Must not: read or write the store, or decide who is primary: it is told by [`Outlook`] and
//! tells by [`Report`].
//! Start at [`control`].

mod attend;
mod console;
pub mod control;
mod cut;
mod pause;
mod point;
mod process;
mod secrets;
pub mod settings;

pub use attend::attend;
pub use console::Admin;
pub use control::{Outlook, Pooler, Report, Server};
pub use process::{Own, PoolerError, find_program};
pub use secrets::Secrets;
pub use settings::{PoolerConfig, Serves};
