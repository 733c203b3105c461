//! Where a repository lies and how its objects are compressed, as people write it.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::nearest::nearest;
use crate::schema::one_line;

/// Where a repository lies, as people write it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum ArchiveLocation {
    /// A directory on every host: a mounted file system.
    Directory(PathBuf),
    /// `s3://bucket/prefix`.
    S3 {
        /// The bucket.
        bucket: String,
        /// Path below it, may be empty.
        prefix: String,
    },
    /// `gs://bucket/prefix`.
    Gcs {
        /// The bucket.
        bucket: String,
        /// Path below it, may be empty.
        prefix: String,
    },
    /// `azure://account/container/prefix`.
    Azure {
        /// Storage account.
        account: String,
        /// The container.
        container: String,
        /// Path below it, may be empty.
        prefix: String,
    },
}

/// How objects are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Compression {
    /// Not at all.
    None,
    /// LZ4.
    Lz4,
    /// Zstandard of a level, 1 to 19.
    Zstd(i32),
}

impl FromStr for ArchiveLocation {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        one_line(text)?;
        if text.starts_with('/') {
            return Ok(ArchiveLocation::Directory(text.into()));
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err("it must begin with '/', s3://, gs:// or azure://".to_owned());
        };
        let rest = rest.trim_end_matches('/');
        let (first, below) = rest.split_once('/').unwrap_or((rest, ""));
        let is_bad = |part: &str| part.is_empty() || part == "." || part == "..";
        if first.is_empty() || !below.is_empty() && below.split('/').any(is_bad) {
            return Err("a part of its path is empty, '.' or '..'".to_owned());
        }
        let (first, below) = (first.to_owned(), below.to_owned());
        match scheme {
            "s3" => Ok(ArchiveLocation::S3 { bucket: first, prefix: below }),
            "gs" => Ok(ArchiveLocation::Gcs { bucket: first, prefix: below }),
            "azure" if below.is_empty() => Err("it needs a container, as in azure://account/container".to_owned()),
            "azure" => {
                let (container, prefix) = below.split_once('/').unwrap_or((&below, ""));
                Ok(ArchiveLocation::Azure {
                    account: first,
                    container: container.to_owned(),
                    prefix: prefix.to_owned(),
                })
            }
            other => match nearest(other, ["s3", "gs", "azure"]) {
                Some(near) => Err(format!("there is no {other}://; did you mean {near}://?")),
                None => Err(format!("there is no {other}://; known are s3://, gs:// and azure://, or a path")),
            },
        }
    }
}

impl fmt::Display for ArchiveLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let below = |prefix: &str| if prefix.is_empty() { String::new() } else { format!("/{prefix}") };
        match self {
            ArchiveLocation::Directory(path) => write!(f, "{}", path.display()),
            ArchiveLocation::S3 { bucket, prefix } => write!(f, "s3://{bucket}{}", below(prefix)),
            ArchiveLocation::Gcs { bucket, prefix } => write!(f, "gs://{bucket}{}", below(prefix)),
            ArchiveLocation::Azure { account, container, prefix } => {
                write!(f, "azure://{account}/{container}{}", below(prefix))
            }
        }
    }
}

impl FromStr for Compression {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let level = match text {
            "none" => return Ok(Compression::None),
            "lz4" => return Ok(Compression::Lz4),
            "zstd" => Some(3),
            other => other.strip_prefix("zstd:").and_then(|level| level.parse().ok()),
        };
        let level = level.filter(|level| (1..=19).contains(level));
        level.map(Compression::Zstd).ok_or_else(|| "known are zstd, zstd:1 to zstd:19, lz4 and none".to_owned())
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Compression::None => f.write_str("none"),
            Compression::Lz4 => f.write_str("lz4"),
            Compression::Zstd(level) => write!(f, "zstd:{level}"),
        }
    }
}

macro_rules! as_text {
    ($name:ident) => {
        impl TryFrom<String> for $name {
            type Error = String;

            fn try_from(text: String) -> Result<Self, String> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> String {
                value.to_string()
            }
        }
    };
}

as_text!(ArchiveLocation);
as_text!(Compression);
