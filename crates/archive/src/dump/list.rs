//! Which dumps there are.

use super::DumpError;
use super::manifest::{Manifest, Summary};
use crate::archive::Archive;
use crate::format::{self, DumpOutline, FormatError, Kind};
use crate::layout::Place;
use crate::repository::RepositoryError;

/// Longer than any header.
const HEADER: u64 = 128 << 10;

/// What has the name of a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// A dump.
    Dump(DumpOutline),
    /// The mark that none will come.
    Abandoned,
}

/// The dumps of an incarnation, by the time they ended. Those that have no manifest (under way, or cut off) are none.
pub async fn list(archive: &Archive) -> Result<Vec<Summary>, RepositoryError> {
    let mut found = Vec::new();
    for entry in archive.repository().list(&archive.place().dump_folder()).await? {
        if !entry.name.ends_with("/manifest") {
            continue;
        }
        match summary(archive, &entry.name, entry.size).await {
            Ok(summary) => found.extend(summary),
            // Retention or somebody else took it meanwhile.
            Err(error) if error.is_absent() => {}
            Err(error) => return Err(error),
        }
    }
    found.sort_by(|one, other| (one.ended, &one.dump).cmp(&(other.ended, &other.dump)));
    Ok(found)
}

/// Reads the header and the first frame of a manifest; more only if they are longer than usual.
async fn summary(archive: &Archive, name: &str, size: u64) -> Result<Option<Summary>, RepositoryError> {
    let mut length = size.min(64 << 10);
    loop {
        let bytes = archive.repository().range(name, 0..length).await?;
        let read = || -> Result<Option<Vec<u8>>, FormatError> {
            if format::peek(&bytes)?.kind == Kind::Abandoned {
                return Ok(None);
            }
            let (mut reader, at) = format::Reader::begin(&bytes, Kind::Dump, name, archive.identities())?;
            let mut line = Vec::new();
            reader.frame(&bytes[at..], 0, &mut line)?;
            Ok(Some(line))
        };
        match read() {
            Ok(None) => return Ok(None),
            Ok(Some(line)) => {
                let line = line.strip_suffix(b"\n").unwrap_or(&line);
                return Summary::parse(line).map(Some).map_err(|why| archive.repository().corrupt(name, why));
            }
            Err(FormatError::Truncated(_)) if length < size => length = size.min(length * 4),
            Err(error) => return Err(archive.error(name, error)),
        }
    }
}

/// What a manifest's header says, which needs no key.
pub async fn outline(archive: &Archive, name: &str, size: u64) -> Result<Found, RepositoryError> {
    let bytes = archive.repository().range(name, 0..size.min(HEADER)).await?;
    let header = format::peek(&bytes).map_err(|error| archive.error(name, error))?;
    match (header.kind, header.dump) {
        (Kind::Abandoned, _) => Ok(Found::Abandoned),
        (Kind::Dump, Some(outline)) if header.name == name => Ok(Found::Dump(outline)),
        _ => Err(archive.repository().corrupt(name, "its header does not describe a dump of this name")),
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
