//! What people say about a backup: hold it, and notes. Plain JSON beside the manifest, so that no key is needed.

use std::collections::BTreeMap;

use bytes::Bytes;
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::archive::Archive;
use crate::repository::RepositoryError;

/// A backup that retention does not remove.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// Since when.
    pub since: Timestamp,
    /// Until when; without it until it is released.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// Why.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

impl Hold {
    /// Whether it still counts.
    pub fn holds(&self, now: Timestamp) -> bool {
        self.until.is_none_or(|until| now < until)
    }
}

/// Notes by their keys.
pub type Notes = BTreeMap<String, String>;

/// Holds a backup, over an earlier hold.
pub async fn hold(archive: &Archive, backup: &str, hold: &Hold) -> Result<(), RepositoryError> {
    write(archive, backup, "hold.json", hold).await
}

/// Ends a hold; none is no error.
pub async fn release(archive: &Archive, backup: &str) -> Result<(), RepositoryError> {
    archive.repository().delete(&archive.place().of_backup(backup, "hold.json")).await
}

/// The hold of a backup, if it has one.
pub async fn hold_of(archive: &Archive, backup: &str) -> Result<Option<Hold>, RepositoryError> {
    read(archive, backup, "hold.json").await
}

/// Sets notes, and removes those that are set to nothing; returns all.
pub async fn annotate(archive: &Archive, backup: &str, changes: &Notes) -> Result<Notes, RepositoryError> {
    let mut notes = notes_of(archive, backup).await?;
    for (key, value) in changes {
        match value.is_empty() {
            true => notes.remove(key),
            false => notes.insert(key.clone(), value.clone()),
        };
    }
    write(archive, backup, "notes.json", &notes).await?;
    Ok(notes)
}

/// The notes of a backup.
pub async fn notes_of(archive: &Archive, backup: &str) -> Result<Notes, RepositoryError> {
    Ok(read(archive, backup, "notes.json").await?.unwrap_or_default())
}

async fn write(archive: &Archive, backup: &str, file: &str, value: &impl Serialize) -> Result<(), RepositoryError> {
    // Nothing is said about what is not there.
    archive.repository().size(&archive.place().manifest(backup)).await?;
    let name = archive.place().of_backup(backup, file);
    let json = serde_json::to_vec(value).map_err(|error| archive.repository().corrupt(&name, error.to_string()))?;
    archive.repository().put(&name, Bytes::from(json)).await
}

async fn read<T: DeserializeOwned>(archive: &Archive, backup: &str, file: &str) -> Result<Option<T>, RepositoryError> {
    let name = archive.place().of_backup(backup, file);
    match archive.repository().get(&name).await {
        Ok(json) => serde_json::from_slice(&json)
            .map(Some)
            .map_err(|error| archive.repository().corrupt(&name, format!("it cannot be read: {error}"))),
        Err(error) if error.is_absent() => Ok(None),
        Err(error) => Err(error),
    }
}
