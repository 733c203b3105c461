//! Logical dumps: what pg_dump and pg_dumpall tell of a server, stored as everything in an archive is.
//!
//! A dump exists once its manifest does, which comes last. It lies beside the WAL and the backups of its incarnation and depends on
//! neither. Start at [`take()`] and [`restore()`].

mod expire;
mod list;
mod look;
mod manifest;
mod read;
mod restore;
mod take;
mod write;

pub use expire::{Because, Kept, Plan, Policy, Step, plan, run};
pub use list::{list, manifest};
pub use look::{Lacking, Outlook, Prospect, Room, outlook};
pub use manifest::{Dumped, Format, Manifest, Summary};
pub use read::{Fault, Report, verify};
pub use restore::{Begun, Onto, Request, Restored, restore};
pub use take::{Options, take};

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use matriarch_postgres::dump as server;
use matriarch_postgres::tool::ToolError;

use crate::archive::Archive;
use crate::repository::RepositoryError;

/// A dump that was not taken, read, restored or removed.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    /// The server, or one of PostgreSQL's programs.
    #[error(transparent)]
    Server(#[from] server::DumpError),
    /// The repository.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    /// The server is not the one whose archive this is.
    #[error("the server has the system identifier {found}, and the archive is of {expected}")]
    Foreign {
        /// Of the server.
        found: String,
        /// Of the archive.
        expected: String,
    },
    /// What was asked for cannot be.
    #[error("{0}")]
    Refused(String),
    /// A file of ours.
    #[error("{path}: {source}", path = path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What the program has written could not be read, or not handed to it.
    #[error("lost contact with PostgreSQL's program: {0}")]
    Stream(#[source] io::Error),
    /// A thread ended by itself.
    #[error("a worker of the dump failed: {0}")]
    Worker(String),
    /// The repository was away for so long that the dump may have been taken for one that was given up.
    #[error(
        "the repository could not be told for {0:?} that this dump is under way; it may have been cleared away as one that was \
         cut off, so it is given up: take it again"
    )]
    Forgotten(Duration),
    /// No such dump.
    #[error("there is no dump '{0}'")]
    NoDump(String),
    /// It was there when it was begun to be read.
    #[error(
        "dump {dump} was removed from {repository} while it was read ('dump delete' or 'dump expire' by hand, or the agents by \
         archive.dumps); 'matriarch dump list' shows what is there: begin again with another one (what was missing first: {why})"
    )]
    Removed {
        /// Its name.
        dump: String,
        /// Where it was.
        repository: String,
        /// What could not be read.
        why: Box<RepositoryError>,
    },
    /// A dump that somebody takes.
    #[error("dump {0} is under way, or was until less than an hour ago; interrupt it first")]
    UnderWay(String),
}

impl From<ToolError> for DumpError {
    fn from(error: ToolError) -> DumpError {
        DumpError::Server(error.into())
    }
}

impl DumpError {
    /// What is missing of a dump that is not there any more is not damaged.
    async fn unless_removed(self, archive: &Archive, dump: &str) -> DumpError {
        match self {
            DumpError::Repository(why) if list::is_gone(archive, dump).await => DumpError::Removed {
                dump: dump.to_owned(),
                repository: archive.repository().name().to_owned(),
                why: Box::new(why),
            },
            error => error,
        }
    }

    fn file(path: &std::path::Path) -> impl FnOnce(io::Error) -> DumpError {
        let path = path.to_owned();
        move |source| DumpError::File { path, source }
    }
}
