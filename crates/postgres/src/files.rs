//! Writing files so that a crash leaves the old or the new content, never a mixture.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use crate::owner::Owner;

/// A file operation that failed, with the file and what to look at.
#[derive(Debug, thiserror::Error)]
#[error("could not {action} {path}: {source}{remedy}", path = path.display(), remedy = remedy(source))]
pub struct FileError {
    action: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

impl FileError {
    pub(crate) fn new(action: &'static str, path: &Path, source: io::Error) -> Self {
        FileError { action, path: path.to_owned(), source }
    }

    /// The kind of the underlying system error.
    pub fn kind(&self) -> io::ErrorKind {
        self.source.kind()
    }
}

fn remedy(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; that file system is full: enlarge it, or delete what is not PostgreSQL's (old logs, dumps, core files); never \
             delete files in pg_wal"
        }
        io::ErrorKind::PermissionDenied => "; check the owner and mode of that path and of its parent directories",
        io::ErrorKind::ReadOnlyFilesystem => "; remount that file system read-write",
        io::ErrorKind::CrossesDevices | io::ErrorKind::ResourceBusy => {
            "; a data directory cannot itself be a mount point, use a directory below it"
        }
        _ => "",
    }
}

/// Gives `path`'s action and name to an I/O error.
pub(crate) trait Context<T> {
    fn doing(self, action: &'static str, path: &Path) -> Result<T, FileError>;
}

impl<T> Context<T> for io::Result<T> {
    fn doing(self, action: &'static str, path: &Path) -> Result<T, FileError> {
        self.map_err(|source| FileError::new(action, path, source))
    }
}

impl<T> Context<T> for rustix::io::Result<T> {
    fn doing(self, action: &'static str, path: &Path) -> Result<T, FileError> {
        self.map_err(|errno| FileError::new(action, path, errno.into()))
    }
}

/// Replaces `path` by `content` (temporary file, fsync, rename, fsync of the directory), owned by `owner` with `mode`.
/// Returns false, and touches nothing, when the file already has that content and mode.
pub fn write_atomic(path: &Path, content: &[u8], mode: u32, owner: Option<&Owner>) -> Result<bool, FileError> {
    let written = replace(path, content, mode, owner, true)?;
    if written {
        fsync_dir(parent(path))?;
    }
    Ok(written)
}

/// As [`write_atomic`], without waiting for the disk: for what is written anew whenever it is needed. Readers see the whole
/// of it; a power cut may leave an older content, or none.
pub fn write_passing(path: &Path, content: &[u8], mode: u32, owner: Option<&Owner>) -> Result<bool, FileError> {
    replace(path, content, mode, owner, false)
}

fn replace(path: &Path, content: &[u8], mode: u32, owner: Option<&Owner>, durable: bool) -> Result<bool, FileError> {
    if is_already(path, content, mode) {
        return Ok(false);
    }
    let temporary = beside(path, &format!(".tmp-{:08x}", rand::random::<u32>()));
    let written = write_new(&temporary, content, mode, owner)
        .and_then(|file| if durable { file.sync_all() } else { Ok(()) })
        .doing("write", &temporary)
        .and_then(|()| fs::rename(&temporary, path).doing("replace", path));
    if let Err(error) = written {
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    Ok(true)
}

fn is_already(path: &Path, content: &[u8], mode: u32) -> bool {
    let same_mode = fs::symlink_metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o777 == mode);
    same_mode && fs::read(path).is_ok_and(|old| old == content)
}

// The directory belongs to the unprivileged owner, so the file must be new: following a link there would let that
// owner choose what root overwrites.
fn write_new(path: &Path, content: &[u8], mode: u32, owner: Option<&Owner>) -> io::Result<File> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    if let Some(owner) = owner {
        fchown(&file, Some(owner.uid), Some(owner.gid))?;
    }
    // The umask may have taken bits from the mode given at open.
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.write_all(content)?;
    Ok(file)
}

/// Makes `path` (and its parents, which stay ours) a directory of `owner` with `mode`; an existing one only gets
/// owner and mode corrected.
pub fn make_dir(path: &Path, mode: u32, owner: Option<&Owner>) -> Result<(), FileError> {
    fs::DirBuilder::new().recursive(true).mode(0o755).create(parent(path)).doing("create", parent(path))?;
    match fs::DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => made.doing("create", path)?,
    }
    // Not through a link: in a directory of the owner's it could point root's chown anywhere.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir =
        File::from(rustix::fs::open(path, flags, Mode::empty()).doing("open (as a directory, not a link)", path)?);
    if let Some(owner) = owner {
        fchown(&dir, Some(owner.uid), Some(owner.gid)).doing("change the owner of", path)?;
    }
    dir.set_permissions(fs::Permissions::from_mode(mode)).doing("set the mode of", path)
}

/// Makes the entries of a directory durable.
pub fn fsync_dir(path: &Path) -> Result<(), FileError> {
    File::open(path).and_then(|dir| dir.sync_all()).doing("fsync", path)
}

/// Removes a file durably; true when there was one.
pub fn remove_durably(path: &Path) -> Result<bool, FileError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        removed => removed.doing("remove", path)?,
    }
    fsync_dir(parent(path))?;
    Ok(true)
}

/// Removes a directory tree (or a file, or a link, in its place); true when there was one.
pub fn remove_tree(path: &Path) -> Result<bool, FileError> {
    let removed = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Ok(found) if !found.is_dir() => fs::remove_file(path),
        _ => fs::remove_dir_all(path),
    };
    removed.doing("remove", path)?;
    Ok(true)
}

/// `path` with `suffix` added to its last component.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(suffix);
    path.with_file_name(name)
}

/// The directory that holds `path`; the current one for a bare name.
pub(crate) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) => Path::new("."),
        None => path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_once_and_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.conf");
        assert!(write_atomic(&path, b"one", 0o600, None).unwrap());
        assert!(!write_atomic(&path, b"one", 0o600, None).unwrap());
        assert!(write_atomic(&path, b"two", 0o600, None).unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "a temporary file was left");
    }

    #[test]
    fn a_link_is_replaced_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (target, link) = (dir.path().join("target"), dir.path().join("link"));
        fs::write(&target, "precious").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        write_atomic(&link, b"new", 0o600, None).unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"precious");
        assert_eq!(fs::read(&link).unwrap(), b"new");
    }

    #[test]
    fn errors_name_the_path() {
        let error = write_atomic(Path::new("/nonexistent/x"), b"", 0o600, None).unwrap_err().to_string();
        assert!(error.contains("/nonexistent/x"), "{error}");
    }
}
