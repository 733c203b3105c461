//! The file that says which incarnation of which member a data directory is.
//!
//! pg_basebackup and pg_rewind copy files they do not know, so the source's file arrives with the data. The file
//! therefore names its member: one that names somebody else counts as absent.

use std::fs;
use std::io;
use std::path::Path;

use matriarch_core::{Incarnation, MemberName};
use serde::{Deserialize, Serialize};

use crate::files::{self, FileError};
use crate::instance::Instance;

/// The file in the data directory.
pub const FILE: &str = "matriarch.incarnation";

#[derive(Serialize, Deserialize)]
struct Record {
    member: MemberName,
    incarnation: Incarnation,
}

/// The incarnation of the instance's data directory; `None` when there is no file, or one that was copied from
/// another member or is damaged: give it a new one with [`renew`].
pub fn read(instance: &Instance) -> Result<Option<Incarnation>, FileError> {
    let path = instance.data(FILE);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(FileError::new("read", &path, error)),
    };
    let record = serde_json::from_slice::<Record>(&text).ok();
    Ok(record.filter(|record| record.member == instance.name).map(|record| record.incarnation))
}

/// Gives the data directory a new random incarnation, durably.
pub fn renew(instance: &Instance) -> Result<Incarnation, FileError> {
    renew_in(instance, &instance.data_dir)
}

pub(crate) fn renew_in(instance: &Instance, dir: &Path) -> Result<Incarnation, FileError> {
    let incarnation = Incarnation::from_bits(rand::random());
    let record = Record { member: instance.name.clone(), incarnation: incarnation.clone() };
    let mut text = serde_json::to_vec(&record).expect("two strings always serialize");
    text.push(b'\n');
    files::write_atomic(&dir.join(FILE), &text, 0o600, instance.owner.as_ref())?;
    Ok(incarnation)
}
