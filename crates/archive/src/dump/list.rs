//! Which dumps there are.

use super::DumpError;
use super::manifest::{Manifest, Summary};
use crate::archive::Archive;
use crate::format::{DumpOutline, Kind};
use crate::layout::Place;
use crate::manifest;
use crate::repository::RepositoryError;

/// What has the name of a manifest.
pub type Found = manifest::Found<DumpOutline>;

/// The dumps of an incarnation, by the time they ended. Those that have no manifest (under way, or cut off) are none.
pub async fn list(archive: &Archive) -> Result<Vec<Summary>, RepositoryError> {
    manifest::list(archive, &archive.place().dump_folder()).await
}

/// What a manifest's header says, which needs no key.
pub async fn outline(archive: &Archive, name: &str, size: u64) -> Result<Found, RepositoryError> {
    manifest::outline::<Summary>(archive, name, size).await
}

/// Whether a dump is one no more: its manifest went first. What cannot be asked is not known to be so.
pub async fn is_gone(archive: &Archive, dump: &str) -> bool {
    let name = archive.place().dump_manifest(dump);
    match archive.repository().size(&name).await {
        Ok(size) => matches!(outline(archive, &name, size).await, Ok(Found::Abandoned)),
        Err(error) => error.is_absent(),
    }
}

/// The whole manifest of a dump.
pub async fn manifest(archive: &Archive, dump: &str) -> Result<Manifest, DumpError> {
    // A name that cannot be one is none.
    if Place::new(archive.place().cluster(), dump).is_err() {
        return Err(DumpError::NoDump(dump.to_owned()));
    }
    let name = archive.place().dump_manifest(dump);
    let text = match archive.get(Kind::Dump, &name).await {
        Err(error) if error.is_absent() => return Err(DumpError::NoDump(dump.to_owned())),
        text => text?,
    };
    Manifest::parse(&text).map_err(|why| archive.repository().corrupt(&name, why).into())
}
