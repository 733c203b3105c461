//! Files and folders that are learned while a backup is read: a tar does not say beforehand what is in it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Tree;
use crate::base::Tablespace;
use crate::door::Unfit;
use crate::restore::{Options, RestoreError, settings};

/// What was written so far.
#[derive(Debug, Default)]
pub(super) struct Learned(Mutex<Known>);

#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) folders: BTreeMap<PathBuf, u32>,
    pub(super) files: BTreeMap<PathBuf, u32>,
}

impl Learned {
    pub(super) fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Folders that PostgreSQL expects, of which a tool may keep none because nothing in them is kept.
const EXPECTED: [&str; 18] = [
    "base",
    "global",
    "pg_commit_ts",
    "pg_dynshmem",
    "pg_logical",
    "pg_logical/mappings",
    "pg_logical/snapshots",
    "pg_multixact",
    "pg_notify",
    "pg_replslot",
    "pg_serial",
    "pg_snapshots",
    "pg_stat",
    "pg_stat_tmp",
    "pg_subtrans",
    "pg_tblspc",
    "pg_twophase",
    "pg_wal",
];

/// Settings of the server that was backed up, as PostgreSQL, Patroni and CloudNativePG call their files.
pub(super) const SETTINGS: [&str; 4] =
    ["postgresql.conf", "postgresql.auto.conf", "postgresql.base.conf", "custom.conf"];

/// A file that is being written.
#[derive(Debug)]
pub struct NewFile {
    path: PathBuf,
    file: File,
}

impl NewFile {
    pub fn write_at(&mut self, bytes: &[u8], at: u64) -> Result<(), RestoreError> {
        self.file.write_all_at(bytes, at).map_err(RestoreError::write(&self.path))
    }

    pub fn set_len(&mut self, bytes: u64) -> Result<(), RestoreError> {
        self.file.set_len(bytes).map_err(RestoreError::write(&self.path))
    }

    pub fn write(&mut self, bytes: &[u8]) -> Result<(), RestoreError> {
        self.file.write_all(bytes).map_err(RestoreError::write(&self.path))
    }
}

impl Tree {
    /// A directory of which no more is known than its tablespaces.
    pub fn bare(tablespaces: &[Tablespace], options: &Options) -> Tree {
        let mut tree = Tree::laid_out(tablespaces, options);
        tree.folders = EXPECTED.iter().map(|name| (tree.data.join(name), 0o700)).collect();
        tree.bare = true;
        tree
    }

    /// Makes a folder, unless it is there.
    pub fn folder_at(&self, path: &str, mode: u32) -> Result<(), Unfit> {
        let place = self.found(path)?;
        self.parents(&place)?;
        self.folder(&place, mode)?;
        self.learned.known().folders.insert(place, mode);
        Ok(())
    }

    /// Begins a file; one that is there is begun anew.
    pub fn file_at(&self, path: &str, mode: u32) -> Result<NewFile, Unfit> {
        let place = self.found(path)?;
        self.parents(&place)?;
        let open = File::options().create(true).truncate(true).write(true).mode(0o600).open(&place);
        let file = open.map_err(RestoreError::write(&place))?;
        self.learned.known().files.insert(place.clone(), mode);
        Ok(NewFile { path: place, file })
    }

    /// A file that an earlier try may have written, to look at what it holds.
    pub fn left_at(&self, path: &str) -> Result<Option<File>, Unfit> {
        Ok(File::open(self.found(path)?).ok())
    }

    /// A file that an earlier try has written as it must be.
    pub fn keep_at(&self, path: &str, mode: u32) -> Result<(), Unfit> {
        let place = self.found(path)?;
        self.parents(&place)?;
        self.learned.known().files.insert(place, mode);
        Ok(())
    }

    /// A file that was written before, to be changed.
    pub fn known_at(&self, path: &str) -> Result<NewFile, Unfit> {
        let place = self.found(path)?;
        if !self.learned.known().files.contains_key(&place) {
            return Err(Unfit::Content(format!("{path} is to be changed, and no earlier backup has it")));
        }
        let file = File::options().write(true).open(&place).map_err(RestoreError::write(&place))?;
        Ok(NewFile { path: place, file })
    }

    fn found(&self, path: &str) -> Result<PathBuf, Unfit> {
        self.locate(path).map_err(Unfit::Content)
    }

    /// The folders above, which may be told of later or not at all.
    fn parents(&self, place: &Path) -> Result<(), RestoreError> {
        let is_top = |folder: &&Path| self.places().any(|top| top == folder);
        if is_top(&place) {
            return Ok(());
        }
        // An earlier try may have made them, and not synced.
        let above: Vec<&Path> = place.ancestors().skip(1).take_while(|folder| !is_top(folder)).collect();
        for folder in above.into_iter().rev() {
            if !folder.exists() {
                self.folder(folder, 0o700)?;
            }
            self.learned.known().folders.entry(folder.to_owned()).or_insert(0o700);
        }
        Ok(())
    }

    /// Takes out of the settings what binds them to the server that was backed up: one that is started here would write its own
    /// history among the files of that one's archive, or open that one's directory. Barman keeps files that lay elsewhere, and
    /// Patroni and CloudNativePG have files of their own beside PostgreSQL's.
    pub fn silence(&self) -> Result<(), RestoreError> {
        let here = [("hba_file", "pg_hba.conf"), ("ident_file", "pg_ident.conf")];
        let here = here.into_iter().filter(|(_, file)| self.data.join(file).exists());
        let here: Vec<&str> = here.map(|(setting, _)| setting).collect();
        for name in SETTINGS {
            let path = self.data.join(name);
            match fs::read_to_string(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(RestoreError::write(&path)(error)),
                Ok(text) => {
                    let mode = fs::metadata(&path).map_err(RestoreError::write(&path))?.permissions().mode() & 0o777;
                    self.place_with(name, settings::unbound(&text, &here).as_bytes(), mode)?;
                }
            }
        }
        Ok(())
    }
}
