//! The store's file as the operating system sees it: which inode it is, where it lies.
//!
//! Nothing here opens the database file: closing any descriptor of it would drop the POSIX locks that
//! SQLite holds for this process. `stat` and friends are harmless.

use std::ffi::OsString;
use std::fmt;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::error::StoreError;

/// Which store a handle belongs to; displayed in every message.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub path: PathBuf,
    pub scope: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sqlite:{} scope {}", self.path.display(), self.scope)
    }
}

/// The inode that was opened; the same path may lead to another one later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    /// The file that `path` leads to now.
    pub fn of(path: &Path) -> Result<Self, StoreError> {
        let meta = std::fs::metadata(path).map_err(|error| match error.kind() {
            ErrorKind::NotFound => StoreError::Missing { path: path.to_owned() },
            _ => StoreError::Permission { path: path.to_owned(), reason: error.to_string() },
        })?;
        let found = if meta.is_dir() {
            "it is a directory"
        } else if !meta.is_file() {
            "it is not a regular file"
        } else {
            return Self::of_regular(path, &meta);
        };
        Err(StoreError::NotOurs { path: path.to_owned(), found: found.to_owned() })
    }

    fn of_regular(path: &Path, meta: &std::fs::Metadata) -> Result<Self, StoreError> {
        if meta.len() == 0 {
            let detail = "it is empty, and a store never is".to_owned();
            return Err(StoreError::Corrupt { path: path.to_owned(), detail });
        }
        Ok(Self { device: meta.dev(), inode: meta.ino() })
    }

    /// Why the opened file is no longer the one under `path`, if it is not.
    pub fn lost(self, path: &Path) -> Option<String> {
        match std::fs::metadata(path) {
            Ok(meta) if meta.dev() == self.device && meta.ino() == self.inode => None,
            Ok(_) => Some(
                "its file was replaced by another one while in use: restart this process to use the new file"
                    .to_owned(),
            ),
            Err(error) if error.kind() == ErrorKind::NotFound => Some(
                "its file was removed or renamed while in use: put it back, or restart this process to use a new one"
                    .to_owned(),
            ),
            Err(error) => Some(format!("its file cannot be examined: {error}")),
        }
    }
}

/// `path` with `suffix` after the file name, as SQLite names its side files.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    PathBuf::from(name)
}

/// Refuses file systems on which the locks of two hosts do not see each other.
pub(super) fn check_file_system(path: &Path) -> Result<(), StoreError> {
    // Magic numbers of statfs(2), cut to 32 bits because CIFS's is negative on some targets.
    let kind = match rustix::fs::statfs(path).map(|found| found.f_type as u32) {
        Ok(0x0000_6969) => "NFS",
        Ok(0xff53_4d42 | 0xfe53_4d42 | 0x0000_517b) => "an SMB/CIFS share",
        Ok(0x00c3_6400) => "CephFS",
        Ok(0x0bd0_0bd0) => "Lustre",
        Ok(0x5346_414f | 0x6b41_4653) => "AFS",
        _ => return Ok(()),
    };
    Err(StoreError::NetworkFileSystem { path: path.to_owned(), kind: kind.to_owned() })
}

/// Refuses a file that this user may not read and write.
pub(super) fn check_access(path: &Path) -> Result<(), StoreError> {
    use rustix::fs::{Access, access};
    let refuse = |reason: &str| Err(StoreError::Permission { path: path.to_owned(), reason: reason.to_owned() });
    if access(path, Access::READ_OK | Access::WRITE_OK).is_err() {
        return refuse("this user needs to read and write it; run as its owner, or change its owner or mode");
    }
    let directory = path.parent().unwrap_or(Path::new("/"));
    if access(directory, Access::WRITE_OK | Access::EXEC_OK).is_err() {
        return refuse("this user needs to create files in its directory (-wal, -shm); change its owner or mode");
    }
    Ok(())
}
