//! What is where a data directory should be.

use matriarch_core::decide::{Data, DataFacts};
use matriarch_core::{Incarnation, Lsn, Timeline};

use crate::wal::Wal;

/// A data directory.
#[derive(Clone, Debug)]
pub struct Dir {
    /// PostgreSQL's identity of the cluster.
    pub system: String,
    /// Identity of this copy.
    pub incarnation: Option<Incarnation>,
    /// Its log.
    pub wal: Wal,
    /// The newest timeline of which it has a history file without a record: a promotion opened it, and was cut short.
    pub opened: Timeline,
    /// Timeline and start of the last checkpoint.
    pub checkpoint: (Timeline, Lsn),
    /// Shut down cleanly.
    pub clean: bool,
    /// Last ran as a standby.
    pub standby: bool,
    /// Made by our initdb and not announced yet.
    pub unclaimed: bool,
}

/// What is where the data directory should be.
#[derive(Clone, Debug)]
pub enum Disk {
    /// Nothing.
    Missing,
    /// Something that PostgreSQL cannot use.
    Garbage,
    /// The remains of a job of ours.
    Unfinished,
    /// A data directory.
    Ready(Box<Dir>),
}

impl Disk {
    /// The data directory, when there is a good one.
    pub fn dir(&self) -> Option<&Dir> {
        match self {
            Disk::Ready(dir) => Some(dir),
            _ => None,
        }
    }

    /// The data directory, to be changed.
    pub fn dir_mut(&mut self) -> Option<&mut Dir> {
        match self {
            Disk::Ready(dir) => Some(dir),
            _ => None,
        }
    }

    /// What the agent finds there.
    pub fn observe(&self) -> Data {
        match self {
            Disk::Missing => Data::Missing,
            Disk::Garbage => Data::Unusable("PG_VERSION is missing".to_owned()),
            Disk::Unfinished => Data::Unfinished,
            Disk::Ready(dir) => Data::Ready(DataFacts {
                system_identifier: dir.system.clone(),
                incarnation: dir.incarnation.clone(),
                timeline: dir.checkpoint.0,
                checkpoint: dir.checkpoint.1,
                clean: dir.clean,
                standby: dir.standby,
                unclaimed: dir.unclaimed,
            }),
        }
    }
}
