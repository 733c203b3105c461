//! Who holds what is restored: an archive of ours, or another tool's repository.

use std::collections::BTreeSet;

use matriarch_core::Timeline;

use super::{History, Options, Plan, RestoreError, Took};
use crate::archive::{Archive, ArchiveError};
use crate::base::{self, Summary};
use crate::door::Stock;
use crate::repository::RepositoryError;
use crate::wal::{self, Segment, WalName};

/// The holder of backups and WAL.
#[derive(Clone, Copy, Debug)]
pub enum Holder<'a> {
    /// Ours; it may have a tail too.
    Archive(&'a Archive),
    /// Another tool's.
    Stock(&'a Stock),
}

impl<'a> From<&'a Archive> for Holder<'a> {
    fn from(archive: &'a Archive) -> Holder<'a> {
        Holder::Archive(archive)
    }
}

impl<'a> From<&'a Stock> for Holder<'a> {
    fn from(stock: &'a Stock) -> Holder<'a> {
        Holder::Stock(stock)
    }
}

impl<'a> Holder<'a> {
    /// Bytes of a segment.
    pub fn segment_size(self) -> u64 {
        match self {
            Holder::Archive(archive) => archive.incarnation().segment_size,
            Holder::Stock(stock) => stock.segment_size(),
        }
    }

    pub(super) fn archive(self) -> Option<&'a Archive> {
        match self {
            Holder::Archive(archive) => Some(archive),
            Holder::Stock(_) => None,
        }
    }

    /// Whose backups they are, for messages.
    pub(super) fn whose(self) -> String {
        match self {
            Holder::Archive(archive) => {
                let place = archive.place();
                format!("{} in incarnation {}", place.cluster(), place.incarnation())
            }
            Holder::Stock(stock) => stock.door().name(),
        }
    }

    /// Complete backups, the oldest first.
    pub(super) async fn backups(self) -> Result<Vec<Summary>, RestoreError> {
        match self {
            Holder::Archive(archive) => Ok(base::list(archive).await?),
            Holder::Stock(stock) => Ok(stock.backups().to_vec()),
        }
    }

    /// Timelines whose histories are listed.
    pub async fn timelines(self) -> Result<BTreeSet<Timeline>, RepositoryError> {
        let archive = match self {
            Holder::Stock(stock) => return stock.door().timelines().await,
            Holder::Archive(archive) => archive,
        };
        let entries = archive.repository().list(&archive.place().history_folder()).await?;
        let timeline = |name: &str| match name.rsplit('/').next()?.parse() {
            Ok(WalName::History(timeline)) => Some(timeline),
            _ => None,
        };
        Ok(entries.iter().filter_map(|entry| timeline(&entry.name)).collect())
    }

    /// How a timeline came to be.
    pub async fn history(self, timeline: Timeline) -> Result<History, RestoreError> {
        if timeline <= 1 {
            return Ok(History::root(timeline));
        }
        match self.find(&WalName::History(timeline)).await? {
            Some(text) => Ok(History::parse(timeline, &String::from_utf8_lossy(&text))?),
            // A cluster whose archive began on this timeline.
            None => Ok(History::root(timeline)),
        }
    }

    /// The segments of a timeline from one on, as they are listed, which proves nothing.
    pub(super) async fn listed(self, from: Segment) -> Result<BTreeSet<Segment>, RestoreError> {
        let archive = match self {
            Holder::Stock(stock) => return Ok(stock.door().listed(from).await?),
            Holder::Archive(archive) => archive,
        };
        let place = archive.place();
        let from = (place.wal_of(from.timeline), place.wal(&WalName::Segment(from)));
        let entries = archive.repository().list_after(&from.0, Some(&from.1)).await?;
        let segments = entries.iter().filter_map(|entry| match entry.name.rsplit('/').next()?.parse() {
            Ok(WalName::Segment(segment)) => Some(segment),
            _ => None,
        });
        Ok(segments.collect())
    }

    /// Whether a segment is there, by asking for it.
    pub(super) async fn has(self, segment: Segment) -> Result<bool, RestoreError> {
        match self {
            Holder::Stock(stock) => Ok(stock.door().has(segment).await?),
            Holder::Archive(archive) => {
                match archive.repository().size(&archive.place().wal(&WalName::Segment(segment))).await {
                    Ok(_) => Ok(true),
                    Err(error) if error.is_absent() => Ok(false),
                    Err(error) => Err(error.into()),
                }
            }
        }
    }

    /// A file of the WAL.
    pub(super) async fn wal(self, name: &WalName) -> Result<Vec<u8>, RestoreError> {
        match self {
            Holder::Archive(archive) => Ok(wal::read(archive, name).await?),
            Holder::Stock(stock) => Ok(stock.door().wal(name).await?),
        }
    }

    /// A file of the WAL that may be absent.
    pub(super) async fn find(self, name: &WalName) -> Result<Option<Vec<u8>>, RestoreError> {
        match self.wal(name).await {
            Ok(content) => Ok(Some(content)),
            Err(RestoreError::Archive(ArchiveError::Repository(error))) if error.is_absent() => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// What was chosen to restore from.
#[derive(Debug)]
pub enum Held {
    /// An archive of ours.
    Archive(Box<Archive>),
    /// Another tool's repository.
    Stock(Box<Stock>),
}

impl Held {
    /// For planning.
    pub fn holder(&self) -> Holder<'_> {
        match self {
            Held::Archive(archive) => Holder::Archive(archive),
            Held::Stock(stock) => Holder::Stock(stock),
        }
    }

    /// The repository, as people write it.
    pub fn repository(&self) -> &str {
        match self {
            Held::Archive(archive) => archive.repository().name(),
            Held::Stock(stock) => stock.door().repository().name(),
        }
    }

    /// Which of several there: an incarnation, or what the tool has instead.
    pub fn part(&self) -> String {
        match self {
            Held::Archive(archive) => archive.place().incarnation().to_owned(),
            Held::Stock(stock) => stock.door().name(),
        }
    }

    /// Restores what was planned.
    pub async fn restore(&self, plan: &Plan, options: &Options) -> Result<Took, RestoreError> {
        match self {
            Held::Archive(archive) => super::restore(archive, plan, options).await,
            Held::Stock(stock) => super::restore_from(stock, plan, options).await,
        }
    }
}
