//! The one form that every object has: a header that says what it is, then frames that are compressed, sealed and
//! digested one by one. `docs/archive-format.md` describes it byte by byte; a change here is a change there.
//!
//! Start at [`seal`] and [`open`]; a pack is written by [`Writer`] as it comes into being and read frame by frame by
//! [`Reader`].

mod frame;
mod header;
mod key;
mod reader;
mod writer;

pub use frame::{Codec, FRAME};
pub use header::{Content, DumpOutline, HEADER, Header, Kind, Outline};
pub use key::{BadKey, Identities, Recipients, recipients_of};
pub use reader::{Reader, identity_of, open, peek};
pub use writer::{Style, Writer, seal};

use aws_lc_rs::digest;

/// An object that cannot be written or is not what it must be. The caller adds the repository.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// It does not begin as an object of ours does.
    #[error("it is not an object of Matriarch's archive: {0}")]
    Foreign(String),
    /// A newer program wrote it.
    #[error("it has version {0} of the format, and this program knows 1; use a newer one")]
    Newer(u32),
    /// It ends too early.
    #[error("it is truncated: {0}")]
    Truncated(String),
    /// Bytes are not those that were written, or not where they were.
    #[error("{0}")]
    Damaged(String),
    /// It says itself that it is another object.
    #[error("it says that it is {found}: it was renamed or copied over another")]
    Renamed {
        /// Kind and name of its header.
        found: String,
    },
    /// No identity was given, or none fits.
    #[error("{0}")]
    NoKey(String),
    /// Too much for one object, or a library that refused.
    #[error("it cannot be written: {0}")]
    Unwritable(String),
}

/// SHA-256 of bytes.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    out
}

/// Bytes as hexadecimal text.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
