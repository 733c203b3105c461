//! Files of the write-ahead log, into the archive and out of it.
//!
//! Start at [`push`] and [`fetch`].

mod fetch;
mod header;
mod name;
mod push;
pub(crate) mod records;

pub use fetch::{FetchError, content, fetch};
pub(crate) use fetch::{read, write};
pub use header::BadSegment;
pub(crate) use header::{check as check_segment, system_of};
pub use name::{BadWalName, Segment, WalName};
pub use push::{PushError, push};
