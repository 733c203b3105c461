//! The tail: WAL that has not filled a segment yet, in small pieces, so that the loss of a whole cluster costs a second and
//! not `archive_timeout`.
//!
//! [`run`] streams WAL from a server and puts it away as [`Chunk`]s, one after the other: a chunk is put only once the one
//! before it is held, so there is never a gap behind which something lies. [`Joiner`] makes the beginnings of segments
//! of them again. Complete segments come from the archiver as ever; retention removes the chunks they supersede.

mod chunk;
mod error;
mod join;
mod prefix;
mod resume;
mod store;
mod writer;

pub use chunk::Chunk;
pub use error::TailError;
pub use join::{Joined, Joiner};
pub use writer::{Ended, Progress, Settings, Start, run};
