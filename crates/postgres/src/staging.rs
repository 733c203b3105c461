//! Building a data directory beside its place and putting it there in one step.
//!
//! Beside `<data>` we own three names: `<data>.matriarch-new` (being built), `<data>.matriarch-old` (the one moved
//! aside) and `<data>.matriarch-rewinding` (a mark that pg_rewind is at work). A crash leaves the old directory in
//! place, or the new one; what is left over is swept at the next try.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::blocking;
use crate::files::{self, Context, FileError, beside, fsync_dir, parent};
use crate::instance::Instance;
use crate::process::{self, KillError};

const TOOLS_END: Duration = Duration::from_secs(10);

/// The directory being built.
pub(crate) fn new_dir(instance: &Instance) -> PathBuf {
    beside(&instance.data_dir, ".matriarch-new")
}

fn old_dir(instance: &Instance) -> PathBuf {
    beside(&instance.data_dir, ".matriarch-old")
}

fn rewinding(instance: &Instance) -> PathBuf {
    beside(&instance.data_dir, ".matriarch-rewinding")
}

/// Whether something we were building is left over.
pub(crate) fn is_unfinished(instance: &Instance) -> bool {
    new_dir(instance).exists()
}

/// Whether a rewind was begun and not finished.
pub(crate) fn is_rewinding(instance: &Instance) -> bool {
    rewinding(instance).exists()
}

/// Marks durably that the data directory is about to be changed by pg_rewind.
pub(crate) fn mark_rewinding(instance: &Instance) -> Result<(), FileError> {
    files::write_atomic(
        &rewinding(instance),
        b"pg_rewind was started on the data directory beside this file\n",
        0o600,
        None,
    )?;
    Ok(())
}

/// Takes the mark away.
pub(crate) fn clear_rewinding(instance: &Instance) -> Result<(), FileError> {
    files::remove_durably(&rewinding(instance)).map(|_| ())
}

/// A place that could not be cleared or filled.
#[derive(Debug, thiserror::Error)]
pub enum StagingError {
    /// A file operation.
    #[error(transparent)]
    File(#[from] FileError),
    /// Programs of an earlier try that do not end.
    #[error("could not end what an earlier try left running: {0}")]
    Kill(#[from] KillError),
    /// Something is in the way that we must not remove.
    #[error(
        "{dir} is not empty and is kept as it is; move it away, or give another data directory", dir = dir.display()
    )]
    Occupied {
        /// The data directory.
        dir: PathBuf,
    },
}

/// Ends and removes what an earlier try left, and makes an empty directory of the owner's to build in.
pub(crate) async fn begin(instance: &Instance) -> Result<PathBuf, StagingError> {
    let instance = instance.clone();
    blocking::run(move || begin_now(&instance)).await
}

/// What an earlier try has left, if `goes_on` says that it can be gone on with; the programs that it has left are ended.
pub(crate) async fn left(instance: &Instance, goes_on: fn(&Path) -> bool) -> Result<Option<PathBuf>, StagingError> {
    let instance = instance.clone();
    blocking::run(move || {
        let dir = new_dir(&instance);
        process::kill_tree(&dir, TOOLS_END)?;
        Ok(goes_on(&dir).then_some(dir))
    })
    .await
}

fn begin_now(instance: &Instance) -> Result<PathBuf, StagingError> {
    let dir = new_dir(instance);
    process::kill_tree(&dir, TOOLS_END)?;
    sweep_now(instance)?;
    files::make_dir(&dir, 0o700, instance.owner.as_ref())?;
    Ok(dir)
}

/// Removes what we built and what we moved aside; the data directory itself stays.
pub(crate) async fn sweep(instance: &Instance) -> Result<(), FileError> {
    let instance = instance.clone();
    blocking::run(move || sweep_now(&instance)).await
}

fn sweep_now(instance: &Instance) -> Result<(), FileError> {
    files::remove_tree(&new_dir(instance))?;
    // Between the two renames of `replace` the moved-aside directory is the only one there is.
    if instance.data_dir.exists() {
        files::remove_tree(&old_dir(instance))?;
    }
    Ok(())
}

/// Puts the new directory where nothing, or an empty directory, is.
pub(crate) fn place(instance: &Instance) -> Result<(), StagingError> {
    let data = &instance.data_dir;
    match fs::rename(new_dir(instance), data) {
        Err(error) if matches!(error.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::NotADirectory) => {
            return Err(StagingError::Occupied { dir: data.clone() });
        }
        renamed => renamed.doing("rename the new data directory to", data)?,
    }
    Ok(fsync_dir(parent(data))?)
}

/// Puts the new directory in place of whatever is there; [`sweep`] then removes that. Not on another thread: when its
/// caller is dropped, the directory must not change any more.
pub(crate) fn replace(instance: &Instance) -> Result<(), StagingError> {
    let (data, new) = (&instance.data_dir, new_dir(instance));
    if fs::symlink_metadata(data).is_err() {
        place(instance)?;
    } else if renameat_with(CWD, &new, CWD, data, RenameFlags::EXCHANGE).is_err() {
        // Some file systems (NFS) cannot exchange; then a crash in between leaves only the moved-aside directory.
        files::remove_tree(&old_dir(instance))?;
        fs::rename(data, old_dir(instance)).doing("move aside", data)?;
        place(instance)?;
    }
    fsync_dir(parent(data))?;
    Ok(clear_rewinding(instance)?)
}

/// Removes whatever is in the data directory's place, for a file system that cannot hold two copies.
pub(crate) async fn remove_current(instance: &Instance) -> Result<(), FileError> {
    let aside = old_dir(instance);
    let leftover = aside.clone();
    blocking::run(move || files::remove_tree(&leftover)).await?;
    match fs::rename(&instance.data_dir, &aside) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        renamed => renamed.doing("move aside", &instance.data_dir)?,
    }
    // Renamed first, so that a crash while deleting never leaves half a data directory in place.
    blocking::run(move || files::remove_tree(&aside)).await?;
    fsync_dir(parent(&instance.data_dir))
}

/// Whether a directory exists and has entries.
pub(crate) fn is_occupied(dir: &Path) -> bool {
    fs::read_dir(dir).map_or_else(|_| fs::symlink_metadata(dir).is_ok(), |mut entries| entries.next().is_some())
}
