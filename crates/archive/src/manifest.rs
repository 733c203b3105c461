//! What the manifests of backups and of dumps have in common: JSON, one value a line, the first of them a summary with a frame of
//! its own, and a header that repeats in the clear what retention goes by.

use jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::archive::Archive;
use crate::format::{self, FormatError, HEADER, Header, Kind};
use crate::repository::RepositoryError;

/// The first line.
pub trait First: Serialize + DeserializeOwned {
    /// What it is of, for people.
    const WHAT: &'static str;
    /// Of the object.
    const KIND: Kind;
    /// What the header repeats.
    type Outline;

    /// From a header, if it is of such a manifest.
    fn outlined(header: Header) -> Option<Self::Outline>;

    /// Version of the manifest.
    fn version(&self) -> u32;

    /// When it was complete, and its name.
    fn place(&self) -> (Timestamp, &str);

    /// Reads the line.
    fn parse(line: &[u8]) -> Result<Self, String> {
        let first: Self = serde_json::from_slice(line).map_err(|error| format!("line 1: {error}"))?;
        match first.version() {
            1 => Ok(first),
            newer => Err(format!("it has version {newer}, and this program knows 1; use a newer one")),
        }
    }
}

/// A whole manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest<S, L> {
    /// The first line.
    pub summary: S,
    /// Folders and files, then frames: of a backup in the order of their packs, of a dump in that of the files.
    pub lines: Vec<L>,
}

impl<S: First, L: Serialize + DeserializeOwned> Manifest<S, L> {
    /// The text: JSON, one value a line. The length of the first line, which gets a frame of its own.
    pub fn to_text(&self) -> Result<(Vec<u8>, usize), String> {
        let mut text = serde_json::to_vec(&self.summary).map_err(|error| error.to_string())?;
        text.push(b'\n');
        let first = text.len();
        for line in &self.lines {
            serde_json::to_writer(&mut text, line).map_err(|error| error.to_string())?;
            text.push(b'\n');
        }
        Ok((text, first))
    }

    /// Reads the text.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        let mut lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let summary = S::parse(lines.next().unwrap_or_default())?;
        let parse =
            |(number, line)| serde_json::from_slice(line).map_err(|error| format!("line {}: {error}", number + 2));
        let lines = lines.enumerate().map(parse).collect::<Result<_, _>>()?;
        Ok(Manifest { summary, lines })
    }
}

/// What has the name of a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found<O> {
    /// A backup or a dump.
    Whole(O),
    /// The mark that none will come.
    Abandoned,
}

/// All below a folder that have a manifest, by the time they ended. Those that have none (under way, or cut off) are none.
pub async fn list<S: First>(archive: &Archive, folder: &str) -> Result<Vec<S>, RepositoryError> {
    let mut found: Vec<S> = Vec::new();
    for entry in archive.repository().list(folder).await? {
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
    found.sort_by(|one, other| one.place().cmp(&other.place()));
    Ok(found)
}

/// Reads the header and the first frame; more only if they are longer than usual.
async fn summary<S: First>(archive: &Archive, name: &str, size: u64) -> Result<Option<S>, RepositoryError> {
    let mut length = size.min(64 << 10);
    loop {
        let bytes = archive.repository().range(name, 0..length).await?;
        let read = || -> Result<Option<Vec<u8>>, FormatError> {
            if format::peek(&bytes)?.kind == Kind::Abandoned {
                return Ok(None);
            }
            let (mut reader, at) = format::Reader::begin(&bytes, S::KIND, name, archive.identities())?;
            let mut line = Vec::new();
            reader.frame(&bytes[at..], 0, &mut line)?;
            Ok(Some(line))
        };
        match read() {
            Ok(None) => return Ok(None),
            Ok(Some(line)) => {
                let line = line.strip_suffix(b"\n").unwrap_or(&line);
                return S::parse(line).map(Some).map_err(|why| archive.repository().corrupt(name, why));
            }
            Err(FormatError::Truncated(_)) if length < size => length = size.min(length * 4),
            Err(error) => return Err(archive.error(name, error)),
        }
    }
}

/// What a manifest's header says, which needs no key.
pub async fn outline<S: First>(archive: &Archive, name: &str, size: u64) -> Result<Found<S::Outline>, RepositoryError> {
    let bytes = archive.repository().range(name, 0..size.min(HEADER)).await?;
    let header = format::peek(&bytes).map_err(|error| archive.error(name, error))?;
    let is_its = header.kind == S::KIND && header.name == name;
    match (header.kind, S::outlined(header)) {
        (Kind::Abandoned, _) => Ok(Found::Abandoned),
        (_, Some(outline)) if is_its => Ok(Found::Whole(outline)),
        _ => {
            let why = format!("its header does not describe a {} of this name", S::WHAT);
            Err(archive.repository().corrupt(name, why))
        }
    }
}
