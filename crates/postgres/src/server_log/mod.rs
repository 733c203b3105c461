//! PostgreSQL's own log: read as it grows ([`Follower`]), entry by entry ([`Entry`]), and kept from filling the disk
//! ([`trim`]).
//!
//! The server writes to a file and not to a pipe, so that it outlives its agent. All majors write the same text there;
//! [`PREFIX`] makes it one that a program can read without doubt.

mod entry;
mod follow;
pub mod trim;

pub(crate) use entry::readable;
pub use entry::{Entry, PREFIX, Reader};
pub use follow::Follower;
