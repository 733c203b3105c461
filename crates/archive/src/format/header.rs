//! What an object says about itself before its frames.

use jiff::Timestamp;
use matriarch_core::{Lsn, Timeline};
use serde::{Deserialize, Serialize};

use super::{FormatError, hex, sha256};

/// The first bytes of every object.
pub const MAGIC: &[u8; 8] = b"MATRIARC";
const VERSION: u32 = 1;
const LONGEST: usize = 64 << 10;
/// So many of the first bytes of an object hold all of its header.
pub const HEADER: u64 = LONGEST as u64 + 44;

/// What an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A WAL segment, a part of one, a timeline's history, or a backup label file.
    Wal,
    /// A piece of WAL below a segment.
    Tail,
    /// The manifest of a base backup.
    Manifest,
    /// Frames of files of base backups.
    Pack,
    /// The manifest of a logical dump.
    Dump,
    /// Takes the place of a manifest that will not come, so that it cannot come any more.
    Abandoned,
}

/// What a manifest says in the clear about its backup: what retention must know, which has no private key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outline {
    /// Timeline of start and stop.
    pub timeline: Timeline,
    /// Where recovery begins.
    pub start_lsn: Lsn,
    /// Where the copy is consistent.
    pub stop_lsn: Lsn,
    /// By the server's clock.
    pub start_time: Timestamp,
    /// By the server's clock.
    pub stop_time: Timestamp,
    /// The earlier backups in whose packs a part of it lies.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub needs: Vec<String>,
}

/// What the manifest of a dump says in the clear: retention goes by it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DumpOutline {
    /// When it began.
    pub began: Timestamp,
    /// When it was complete.
    pub ended: Timestamp,
    /// It was taken by the schedule, not by a person.
    pub scheduled: bool,
}

/// Size and digest of what all frames hold together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    /// Bytes.
    pub size: u64,
    /// SHA-256, 64 hexadecimal digits.
    pub sha256: String,
}

impl Content {
    /// Of these bytes.
    pub fn of(bytes: &[u8]) -> Content {
        Content { size: bytes.len() as u64, sha256: hex(&sha256(bytes)) }
    }
}

/// The header, JSON in the object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Version of the format, 1.
    pub version: u32,
    /// What it is.
    pub kind: Kind,
    /// Its name below the repository, so that a copy under another name is noticed.
    pub name: String,
    /// The data key, encrypted to the recipients (an age file, base64); frames are sealed with AES-256-GCM if it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The whole content, where it is known before the frames are written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<Content>,
    /// Of a manifest: its backup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<Outline>,
    /// Of a dump's manifest: the dump.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dump: Option<DumpOutline>,
}

impl Header {
    /// Of an object that is not sealed yet.
    pub fn new(kind: Kind, name: &str, content: Option<Content>) -> Header {
        Header { version: VERSION, kind, name: name.to_owned(), key: None, content, backup: None, dump: None }
    }

    /// The bytes before the first frame, and their digest.
    pub(super) fn to_bytes(&self) -> Result<(Vec<u8>, [u8; 32]), FormatError> {
        let json = serde_json::to_vec(self).map_err(|error| FormatError::Unwritable(error.to_string()))?;
        let length = u32::try_from(json.len()).ok().filter(|length| *length as usize <= LONGEST);
        let length = length.ok_or_else(|| FormatError::Unwritable("too many recipients for one header".into()))?;
        let mut bytes = Vec::with_capacity(json.len() + 44);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(&json);
        let digest = sha256(&bytes);
        bytes.extend_from_slice(&digest);
        Ok((bytes, digest))
    }

    /// Reads the header, and where the first frame begins, and the header's digest.
    pub(super) fn parse(object: &[u8]) -> Result<(Header, usize, [u8; 32]), FormatError> {
        let truncated = || FormatError::Truncated(format!("it has {} bytes, its header has more", object.len()));
        if object.get(..8).is_some_and(|magic| magic != MAGIC) {
            return Err(FormatError::Foreign("its first bytes are not MATRIARC".into()));
        }
        let length = object.get(8..12).and_then(|bytes| bytes.try_into().ok()).map(u32::from_le_bytes);
        let length = length.ok_or_else(truncated)? as usize;
        if length > LONGEST {
            return Err(FormatError::Damaged(format!("its header claims {length} bytes, more than any has")));
        }
        let end = 12 + length;
        let digest: [u8; 32] =
            object.get(end..end + 32).and_then(|bytes| bytes.try_into().ok()).ok_or_else(truncated)?;
        if sha256(&object[..end]) != digest {
            return Err(FormatError::Damaged("its header does not have the digest that follows it".into()));
        }
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let foreign = |error: serde_json::Error| FormatError::Foreign(format!("its header cannot be read: {error}"));
        let json = &object[12..end];
        let Versioned { version } = serde_json::from_slice(json).map_err(foreign)?;
        if version != VERSION {
            return Err(FormatError::Newer(version));
        }
        Ok((serde_json::from_slice(json).map_err(foreign)?, end + 32, digest))
    }

    pub(super) fn check(&self, kind: Kind, name: &str) -> Result<(), FormatError> {
        if self.kind == kind && self.name == name {
            return Ok(());
        }
        Err(FormatError::Renamed { found: format!("{:?} {}", self.kind, self.name).to_lowercase() })
    }
}
