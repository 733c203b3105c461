//! Whether the keys at hand open what a repository holds: asked while another key can still be named.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::archive::{Archive, ArchiveError};
use crate::base::{self, Found, Line};
use crate::configured::Configured;
use crate::format::{self, HEADER, Kind};
use crate::layout::Place;
use crate::repository::{Repository, RepositoryError};

/// The newest backup of a cluster in one repository.
#[derive(Debug)]
pub struct Newest {
    /// Its name.
    pub backup: String,
    /// Its incarnation.
    pub incarnation: String,
    /// When it ended.
    pub ended: Timestamp,
    /// To how many keys it is encrypted, each of which opens it; none: it is not encrypted.
    pub recipients: Option<usize>,
    /// Whether it can be read. None: it is encrypted, and there is no identity to try.
    pub opens: Option<Result<(), RepositoryError>>,
}

/// Finds it without a key, and opens its manifest and content of its first pack with the identities of `configured`; none when
/// there is no backup.
///
/// # Errors
/// When the repository cannot be looked at.
pub async fn newest(configured: &Configured, repository: &Repository) -> Result<Option<Newest>, ArchiveError> {
    let mut best: Option<(Timestamp, String, Archive, u64)> = None;
    for archive in configured.incarnations(repository).await? {
        for entry in repository.list(&archive.place().base_folder()).await? {
            let Some(backup) = name_of(&archive, &entry.name) else { continue };
            let outline = match base::outline(&archive, &entry.name, entry.size).await {
                Ok(Found::Whole(outline)) => outline,
                Ok(Found::Abandoned) => continue,
                // Retention or somebody else took it meanwhile.
                Err(error) if error.is_absent() => continue,
                Err(error) => return Err(error.into()),
            };
            if best.as_ref().is_none_or(|(ended, ..)| outline.stop_time > *ended) {
                best = Some((outline.stop_time, backup, archive.clone(), entry.size));
            }
        }
    }
    let Some((ended, backup, archive, size)) = best else { return Ok(None) };
    let recipients = recipients(&archive, &backup, size).await?;
    let opens = match recipients.is_some() && archive.identities().is_empty() {
        true => None,
        false => Some(open(&archive, &backup).await),
    };
    let incarnation = archive.place().incarnation().to_owned();
    Ok(Some(Newest { backup, incarnation, ended, recipients, opens }))
}

fn name_of(archive: &Archive, object: &str) -> Option<String> {
    let below = object.strip_prefix(&format!("{}/", archive.place().base_folder()))?;
    let backup = below.strip_suffix("/manifest")?;
    Place::new(archive.place().cluster(), backup).is_ok().then(|| backup.to_owned())
}

async fn recipients(archive: &Archive, backup: &str, size: u64) -> Result<Option<usize>, RepositoryError> {
    let name = archive.place().manifest(backup);
    let bytes = archive.repository().range(&name, 0..size.min(HEADER)).await?;
    let header = format::peek(&bytes).map_err(|error| archive.error(&name, error))?;
    Ok(header.key.as_deref().map(format::recipients_of))
}

/// Every object has a key of its own, so one frame of the files' content is opened as well: of the backup, and of each earlier one
/// that it needs, which may be encrypted to others.
async fn open(archive: &Archive, backup: &str) -> Result<(), RepositoryError> {
    let manifest = base::manifest(archive, backup).await?;
    let needs = manifest.summary.needs();
    let mut first: BTreeMap<&str, Spot> = BTreeMap::new();
    for line in &manifest.lines {
        let (of, spot) = match line {
            Line::Frame(pack, index, at, length, ..) => (Some(backup), (*pack, *index, *at, *length)),
            Line::Earlier(which, pack, index, at, length, ..) => {
                (needs.get(*which as usize).map(String::as_str), (*pack, *index, *at, *length))
            }
            Line::Folder(..) | Line::File(..) => continue,
        };
        if let Some(of) = of {
            first.entry(of).or_insert(spot);
        }
    }
    for (of, spot) in first {
        open_frame(archive, of, spot).await?;
    }
    Ok(())
}

/// Pack, number of the frame, where it is, its length.
type Spot = (u32, u32, u64, u64);

async fn open_frame(archive: &Archive, backup: &str, (pack, index, at, length): Spot) -> Result<(), RepositoryError> {
    let name = archive.place().pack(backup, pack);
    let header = archive.repository().range(&name, 0..at.min(HEADER)).await?;
    let bytes = archive.repository().range(&name, at..at + length).await?;
    let mut content = Vec::new();
    let opened = format::Reader::begin(&header, Kind::Pack, &name, archive.identities())
        .and_then(|(mut reader, _)| reader.frame(&bytes, index, &mut content));
    opened.map(drop).map_err(|error| archive.error(&name, error))
}
