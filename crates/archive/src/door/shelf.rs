//! What a tool's folder gives, whichever tool it is.

use std::collections::BTreeSet;
use std::fmt::Debug;

use async_trait::async_trait;
use matriarch_core::Timeline;

use super::Foreign;
use crate::base::Summary;
use crate::repository::{Repository, RepositoryError};
use crate::restore::{Last, Onto, RestoreError};
use crate::wal::{Segment, WalName};

/// A backup, and the first file of WAL that it needs.
#[derive(Clone, Debug)]
pub struct Known {
    pub summary: Summary,
    pub first_wal: String,
}

/// One cluster's backups and WAL, as one tool keeps them.
#[async_trait]
pub trait Shelf: Debug + Send + Sync {
    /// The repository below.
    fn repository(&self) -> &Repository;

    /// Which of several in it: `stanza main`.
    fn name(&self) -> String;

    /// Whose WAL it must be, as far as that is known before a survey.
    fn system_identifier(&self) -> Option<u64>;

    /// Whether reading needs a passphrase or a key.
    fn is_encrypted(&self) -> bool;

    /// An object that whoever fetches WAL must be able to read.
    fn proof(&self) -> Option<String>;

    /// Adds to the words by which it was opened what was found out.
    fn settle(&self, foreign: &mut Foreign);

    /// Its complete backups. One that is named decides where there is something to decide.
    async fn survey(&mut self, backup: Option<&str>) -> Result<Vec<Known>, RepositoryError>;

    /// Adds what the list does not tell: tablespaces, damaged pages.
    async fn describe(&self, summary: &mut Summary) -> Result<(), RepositoryError>;

    /// Writes the files of a backup but those that come last, which are the answer.
    async fn unpack(&self, summary: &Summary, onto: &Onto) -> Result<Last, RestoreError>;

    /// Timelines whose histories are listed.
    async fn timelines(&self) -> Result<BTreeSet<Timeline>, RepositoryError>;

    /// The segments of a timeline from one on, as they are listed.
    async fn listed(&self, from: Segment) -> Result<BTreeSet<Segment>, RepositoryError>;

    /// Fails unless a segment is there; absent only if that is proven.
    async fn find(&self, segment: Segment) -> Result<(), RepositoryError>;

    /// A file of the WAL.
    async fn wal(&self, name: &WalName) -> Result<Vec<u8>, RepositoryError>;
}
