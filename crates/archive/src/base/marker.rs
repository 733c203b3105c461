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
use tokio::sync::Mutex as AsyncMutex;
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
    /// The earlier backups that it builds upon.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub needs: Vec<String>,
}

/// A backup under way. Dropped, it is renewed no more.
#[derive(Debug)]
pub struct UnderWay {
    told: Arc<Told>,
    renewing: JoinHandle<()>,
}

/// What is told, and since when.
#[derive(Debug)]
struct Told {
    archive: Archive,
    name: String,
    /// Held while it is written, so that an older one never comes last.
    json: AsyncMutex<Bytes>,
    renewed: Mutex<Instant>,
}

impl Marker {
    /// Of a backup that begins now.
    pub fn new(floor: Lsn) -> Marker {
        Marker { format: 1, floor, started: Timestamp::now(), needs: Vec::new() }
    }
}

/// Leaves the mark, and renews it from now on.
pub async fn begin(archive: &Archive, backup: &str, marker: &Marker) -> Result<UnderWay, BackupError> {
    Ok(keep_up(archive, archive.place().of_backup(backup, "running.json"), marker).await?)
}

/// Leaves any such mark, and renews it from now on.
pub(crate) async fn keep_up(
    archive: &Archive,
    name: String,
    marker: &impl Serialize,
) -> Result<UnderWay, RepositoryError> {
    let (json, renewed) = (AsyncMutex::new(Bytes::new()), Mutex::new(Instant::now()));
    let told = Arc::new(Told { archive: archive.clone(), name, json, renewed });
    told.say(marker).await?;
    let telling = Arc::clone(&told);
    let renewing = tokio::spawn(async move {
        loop {
            tokio::time::sleep(RENEWAL).await;
            let json = telling.json.lock().await;
            if let Err(error) = telling.write(&json).await {
                tracing::warn!(%error, "the mark of a backup under way could not be renewed");
            }
        }
    });
    Ok(UnderWay { told, renewing })
}

impl Told {
    async fn say(&self, marker: &impl Serialize) -> Result<(), RepositoryError> {
        let repository = self.archive.repository();
        let bytes = serde_json::to_vec(marker).map_err(|error| repository.corrupt(&self.name, error.to_string()))?;
        let mut json = self.json.lock().await;
        *json = Bytes::from(bytes);
        self.write(&json).await
    }

    async fn write(&self, json: &Bytes) -> Result<(), RepositoryError> {
        let before = Instant::now();
        self.archive.repository().put(&self.name, json.clone()).await?;
        *self.renewed.lock().unwrap_or_else(PoisonError::into_inner) = before;
        Ok(())
    }
}

impl UnderWay {
    /// Says something else from now on.
    pub(crate) async fn say(&self, marker: &impl Serialize) -> Result<(), RepositoryError> {
        self.told.say(marker).await
    }

    /// Whether nobody can have taken it for cut off. There is room for clocks that differ by some minutes.
    pub fn check(&self) -> Result<(), BackupError> {
        let silent = self.silent();
        if silent < GRACE / 2 { Ok(()) } else { Err(BackupError::Forgotten { silent }) }
    }

    /// For how long nobody was told of it.
    pub fn silent(&self) -> Duration {
        self.told.renewed.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }

    /// The manifest is there: it speaks for itself.
    pub async fn end(self) {
        self.renewing.abort();
        if let Err(error) = self.told.archive.repository().delete(&self.told.name).await {
            tracing::debug!(%error, "the mark of a finished backup was left behind");
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.renewing.abort();
    }
}
