//! Which backups there are.

use super::manifest::{Manifest, Summary};
use crate::archive::Archive;
use crate::format::{Kind, Outline};
use crate::layout::Place;
use crate::manifest;
use crate::repository::RepositoryError;

/// What has the name of a manifest.
pub type Found = manifest::Found<Outline>;

/// The backups of an incarnation, by the time they ended. Those that have no manifest (under way, or cut off) are none.
pub async fn list(archive: &Archive) -> Result<Vec<Summary>, RepositoryError> {
    manifest::list(archive, &archive.place().base_folder()).await
}

/// What a manifest's header says, which needs no key.
pub async fn outline(archive: &Archive, name: &str, size: u64) -> Result<Found, RepositoryError> {
    manifest::outline::<Summary>(archive, name, size).await
}

/// Whether the name's manifest says that there will be no such backup. What cannot be asked is not known to be so.
pub async fn is_abandoned(archive: &Archive, backup: &str) -> bool {
    let name = archive.place().manifest(backup);
    let Ok(size) = archive.repository().size(&name).await else { return false };
    matches!(outline(archive, &name, size).await, Ok(Found::Abandoned))
}

/// Whether anything lies under the name: a backup, one under way, or what one that was cut off has left. Needs no key.
pub async fn is_known(archive: &Archive, backup: &str) -> Result<bool, RepositoryError> {
    // A name that cannot be one is none.
    let Ok(place) = Place::new(archive.place().cluster(), backup) else { return Ok(false) };
    let backup = place.incarnation();
    match archive.repository().size(&archive.place().manifest(backup)).await {
        Ok(_) => return Ok(true),
        Err(error) if error.is_absent() => {}
        Err(error) => return Err(error),
    }
    let packs = format!("{}/{backup}", archive.place().pack_folder());
    Ok(!archive.repository().list(&packs).await?.is_empty())
}

/// The whole manifest of a backup.
pub async fn manifest(archive: &Archive, backup: &str) -> Result<Manifest, RepositoryError> {
    let name = archive.place().manifest(backup);
    let text = archive.get(Kind::Manifest, &name).await?;
    Manifest::parse(&text).map_err(|why| archive.repository().corrupt(&name, why))
}
