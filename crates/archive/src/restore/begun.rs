//! The record of a restore under way, in the directory that it fills.
//!
//! It is the first thing in a new directory and goes when everything is there, after `pg_control`. By it a restore that was cut
//! off goes on where it was: of the same backup, to the same places, and by one process at a time.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Holder, RestoreError};
use crate::base::{CONTROL, Summary};
use crate::door::Tool;

/// Name of the record.
pub const RECORD: &str = "matriarch_restoring.json";

/// Which restore it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Version of this record, 1.
    format: u32,
    /// Name of the backup.
    backup: String,
    /// Where it is, for people.
    repository: String,
    /// Who made it, if it was another tool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tool: Option<Tool>,
    /// What tells it from others of that name: each repository has a copy of its own.
    identity: String,
    /// Where tablespaces go, by their object identifiers.
    tablespaces: BTreeMap<String, PathBuf>,
    /// When it began.
    began: Timestamp,
}

impl Record {
    /// Of a restore that begins now.
    pub fn new(holder: Holder<'_>, summary: &Summary, tablespaces: BTreeMap<String, PathBuf>) -> Record {
        let (repository, tool) = match holder {
            Holder::Archive(archive) => (archive.repository(), None),
            Holder::Stock(stock) => (stock.door().repository(), Some(stock.door().tool())),
        };
        Record {
            format: 1,
            backup: summary.backup.clone(),
            repository: repository.name().to_owned(),
            tool,
            identity: identity(summary),
            tablespaces,
            began: Timestamp::now(),
        }
    }

    /// Whether this one goes on with that one.
    fn goes_on_with(&self, left: &Record, data: &Path) -> Result<(), RestoreError> {
        if (&left.identity, left.tool) != (&self.identity, self.tool) {
            return Err(RestoreError::OtherBackup {
                path: data.to_owned(),
                left: format!("{} in {}, begun {:.0}", left.backup, left.repository, left.began),
                wanted: format!("{} in {}", self.backup, self.repository),
                options: left.options(self),
            });
        }
        let moved = self.tablespaces.iter().find(|(oid, place)| left.tablespaces.get(*oid) != Some(*place));
        let Some((oid, place)) = moved else { return Ok(()) };
        let before = left.tablespaces.get(oid).map(|place| place.display().to_string()).unwrap_or_default();
        let (data, place) = (data.display(), place.display());
        Err(RestoreError::Place(format!(
            "{data} holds an unfinished restore, for which tablespace {oid} went to {before}, and now it is to go to {place}: name \
             the same places (--tablespace) to go on, or empty {data} and {before} first"
        )))
    }
}

impl Record {
    /// By which a restore goes on with this one instead of `wanted`, as the verb takes them.
    fn options(&self, wanted: &Record) -> String {
        let place = self.repository.trim_start_matches("directory ");
        let backup = format!("--backup {}", self.backup);
        match (self.tool, wanted.tool) {
            (Some(tool), _) if (Some(tool), &self.repository) != (wanted.tool, &wanted.repository) => {
                format!("--from {tool}:{place} {backup}")
            }
            (Some(_), _) => backup,
            (None, None) if self.backup == wanted.backup => format!("--repository {place}"),
            (None, None) => backup,
            (None, Some(_)) => format!("{backup}, without --from"),
        }
    }
}

fn identity(summary: &Summary) -> String {
    let Summary { system_identifier, start_lsn, stop_lsn, start_time, stop_time, size, stored, packs, .. } = summary;
    format!("{system_identifier} {start_lsn} {stop_lsn} {start_time} {stop_time} {size} {stored} {packs}")
}

/// What is in the directory that a restore is to fill.
#[derive(Debug)]
pub enum Found {
    /// No restore that could be gone on with.
    Nothing,
    /// One that was cut off, and the lock on it.
    Unfinished(File),
}

/// Whether a restore was begun there that is not complete, and that can be gone on with.
pub fn is_unfinished(data: &Path) -> bool {
    data.join(RECORD).exists() && !data.join(CONTROL).exists()
}

/// Name of the backup whose restore was begun there and is not complete, as far as that can be read.
pub fn begun(data: &Path) -> Option<String> {
    let text = is_unfinished(data).then(|| fs::read(data.join(RECORD)).ok())??;
    serde_json::from_slice::<Record>(&text).ok().map(|record| record.backup)
}

/// Looks for a restore that this one goes on with.
///
/// # Errors
/// Another backup's, one of another place, one that another process is at.
pub fn find(data: &Path, wanted: &Record) -> Result<Found, RestoreError> {
    let path = data.join(RECORD);
    if data.join(CONTROL).exists() {
        // Complete, also where the record was not removed any more.
        return Ok(Found::Nothing);
    }
    let mut file = match File::options().read(true).write(true).open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
        opened => opened.map_err(RestoreError::write(&path))?,
    };
    lock(&file, data)?;
    let mut text = String::new();
    file.read_to_string(&mut text).map_err(RestoreError::write(&path))?;
    let left: Record = match serde_json::from_str(&text) {
        Ok(left) => left,
        // Cut off before it was written.
        Err(_) if is_alone(data).map_err(RestoreError::write(data))? => {
            fs::remove_file(&path).map_err(RestoreError::write(&path))?;
            return Ok(Found::Nothing);
        }
        Err(error) => {
            let (path, data) = (path.display(), data.display());
            let why = format!("{path} cannot be read ({error}), so nobody knows what was restored there; empty {data}");
            return Err(RestoreError::Place(why));
        }
    };
    wanted.goes_on_with(&left, data)?;
    Ok(Found::Unfinished(file))
}

/// Leaves the record in a directory that has nothing yet; the lock on it.
pub fn leave(data: &Path, record: &Record) -> Result<File, RestoreError> {
    let path = data.join(RECORD);
    let write = || -> io::Result<File> {
        let mut file = File::options().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
        file.write_all(&serde_json::to_vec_pretty(record)?)?;
        file.sync_all()?;
        File::open(data)?.sync_all()?;
        Ok(file)
    };
    match write() {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(RestoreError::Busy { path: data.to_owned() }),
        Err(error) => Err(RestoreError::write(&path)(error)),
        Ok(file) => {
            lock(&file, data)?;
            Ok(file)
        }
    }
}

/// It goes with the file's last handle, so with the process at the latest.
fn lock(file: &File, data: &Path) -> Result<(), RestoreError> {
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => Err(RestoreError::Busy { path: data.to_owned() }),
        // There are file systems without locks; two restores in one directory are a rare mistake.
        Ok(()) | Err(TryLockError::Error(_)) => Ok(()),
    }
}

fn is_alone(data: &Path) -> io::Result<bool> {
    Ok(fs::read_dir(data)?.count() == 1)
}
