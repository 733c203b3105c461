//! The mark of a backup that is under way: retention keeps its hands off what it has written and off the WAL it will need.
//!
//! It is renewed every minute. One that was not renewed for an hour belongs to a backup that was cut off. Whoever clears
//! that away first takes the manifest's name ([`crate::format::Kind::Abandoned`]), so a backup that was only very slow
//! fails instead of becoming one without packs.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use jiff::Timestamp;
use matriarch_core::Lsn;
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;

use super::BackupError;
use crate::archive::Archive;
use crate::repository::RepositoryError;

/// A backup that was silent for so long was cut off.
pub const GRACE: Duration = Duration::from_secs(3600);
/// How often a backup says that it is under way.
pub const RENEWAL: Duration = Duration::from_secs(60);

/// The record `running.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marker {
    /// Version of this record, 1.
    pub format: u32,
    /// No WAL before this is needed.
    pub floor: Lsn,
    /// When it began, by the clock of the host that takes it.
    pub started: Timestamp,
}

/// A backup under way. Dropped, it is renewed no more.
#[derive(Debug)]
pub struct UnderWay {
    archive: Archive,
    name: String,
    renewed: Arc<Mutex<Instant>>,
    renewing: JoinHandle<()>,
}

/// Leaves the mark, and renews it from now on.
pub async fn begin(archive: &Archive, backup: &str, floor: Lsn) -> Result<UnderWay, BackupError> {
    let name = archive.place().of_backup(backup, "running.json");
    let marker = Marker { format: 1, floor, started: Timestamp::now() };
    Ok(keep_up(archive, name, &marker).await?)
}

/// Leaves any such mark, and renews it from now on.
pub(crate) async fn keep_up(
    archive: &Archive,
    name: String,
    marker: &impl Serialize,
) -> Result<UnderWay, RepositoryError> {
    let json = serde_json::to_vec(marker).map_err(|error| archive.repository().corrupt(&name, error.to_string()))?;
    let json = Bytes::from(json);
    let before = Instant::now();
    archive.repository().put(&name, json.clone()).await?;
    let renewed = Arc::new(Mutex::new(before));
    let (repository, object, told) = (archive.repository().clone(), name.clone(), Arc::clone(&renewed));
    let renewing = tokio::spawn(async move {
        loop {
            tokio::time::sleep(RENEWAL).await;
            let before = Instant::now();
            match repository.put(&object, json.clone()).await {
                Ok(()) => *told.lock().unwrap_or_else(PoisonError::into_inner) = before,
                Err(error) => tracing::warn!(%error, "the mark of a backup under way could not be renewed"),
            }
        }
    });
    Ok(UnderWay { archive: archive.clone(), name, renewed, renewing })
}

impl UnderWay {
    /// Whether nobody can have taken it for cut off. There is room for clocks that differ by some minutes.
    pub fn check(&self) -> Result<(), BackupError> {
        let silent = self.silent();
        if silent < GRACE / 2 { Ok(()) } else { Err(BackupError::Forgotten { silent }) }
    }

    /// For how long nobody was told of it.
    pub fn silent(&self) -> Duration {
        self.renewed.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }

    /// The manifest is there: it speaks for itself.
    pub async fn end(self) {
        self.renewing.abort();
        if let Err(error) = self.archive.repository().delete(&self.name).await {
            tracing::debug!(%error, "the mark of a finished backup was left behind");
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.renewing.abort();
    }
}
