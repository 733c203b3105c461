//! Removing what nobody needs any more.
//!
//! [`plan`] says what is kept and why, and lists the removals one by one; [`run`] does them. They come in an order
//! in which one can stop after any: a backup's manifest goes before its packs, and WAL goes last, the oldest first. What is
//! left over by a stop is found again by the next plan. Neither needs a private key.
//!
//! WAL stays from the oldest backup that is kept on. One that is only held, or only needed by a later one, keeps the WAL
//! between its start and its end. What an incremental backup builds upon stays as long as it does: whoever begins one says so
//! before it looks ([`crate::base`]), and whoever removes looks before and after a manifest goes.

mod chains;
mod keep;
mod needs;
mod single;
mod sweep;

pub use keep::{Because, Policy};
pub use single::plan_without;
pub use sweep::{Kept, Plan, Step, plan, run};

use crate::repository::RepositoryError;
use crate::restore::RestoreError;

/// A removal that was not planned or not done.
#[derive(Debug, thiserror::Error)]
pub enum RetentionError {
    /// Nothing would be kept.
    #[error("a retention of no backup at all would remove everything; keep one at least")]
    KeepsNothing,
    /// A backup that somebody holds.
    #[error("backup {0} is held; release it first (matriarch backup hold --release {0})")]
    Held(String),
    /// Others would not be whole without it.
    #[error(
        "backup {backup} is needed by {}, which build upon it; remove them first, or all together (matriarch backup delete \
         --with-children {backup})", .by.join(", ")
    )]
    Needed {
        /// Its name.
        backup: String,
        /// Those that need it, the oldest first.
        by: Vec<String>,
    },
    /// A backup that somebody takes.
    #[error("backup {0} is under way, or was until less than an hour ago; interrupt it first")]
    UnderWay(String),
    /// No such backup.
    #[error("there is no backup '{0}'")]
    NoBackup(String),
    /// The repository, or something in it that cannot be understood: then nothing is removed.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    /// A timeline's history.
    #[error(transparent)]
    Restore(#[from] Box<RestoreError>),
}
