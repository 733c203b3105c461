//! Beginning in a directory, or going on in one that an unfinished restore has left.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs::{self, File, FileType};
use std::io;
use std::path::{Path, PathBuf};

use matriarch_postgres::conf;

use super::learned::SETTINGS;
use super::{Tree, is_link_to, sync_folder};
use crate::base::{CONTROL, SOURCE};
use crate::configured::ORIGIN;
use crate::restore::begun::{self, Found, RECORD, Record};
use crate::restore::there::NOTES;
use crate::restore::written::WRITTEN;
use crate::restore::{PARTLY, RestoreError};
use crate::wal::WalName;

/// What a restore writes at the top beside the files of the backup.
const OURS: [&str; 9] =
    [RECORD, NOTES, WRITTEN, "backup_label", "recovery.signal", "postgresql.auto.conf", conf::FILE, SOURCE, ORIGIN];

/// What may lie where a restore goes on, and nothing else; `None`: any.
struct Known<'a> {
    folders: Option<HashSet<&'a Path>>,
    files: Option<HashSet<&'a Path>>,
    links: HashMap<&'a Path, &'a Path>,
}

impl Tree {
    /// Makes the folders and links, in an empty place or where a restore of this record was cut off; whether it was. From here on
    /// no other restore can begin there, until the last handle of this tree is gone.
    pub fn begin(&self, record: &Record) -> Result<bool, RestoreError> {
        self.apart()?;
        let (lock, goes_on) = match begun::find(&self.data, record)? {
            Found::Unfinished(lock) => {
                self.no_strangers()?;
                (lock, true)
            }
            Found::Nothing => {
                self.free()?;
                self.folder(&self.data, 0o700)?;
                (begun::leave(&self.data, record)?, false)
            }
        };
        // Only set here, and once.
        let _ = self.lock.set(lock);
        self.make()?;
        Ok(goes_on)
    }

    /// Everything is there: nobody has to go on.
    pub fn done(&self) -> Result<(), RestoreError> {
        if self.lock.get().is_none() {
            return Ok(());
        }
        for name in [NOTES, WRITTEN, RECORD] {
            remove(&self.data.join(name))?;
        }
        sync_folder(&self.data)
    }

    /// What somebody else has put there would become part of the cluster.
    fn no_strangers(&self) -> Result<(), RestoreError> {
        // What else may be there is only known in the end, but nothing is written through a link.
        let (folders, files) = match self.bare {
            true => (None, None),
            false => {
                let places = self.links.iter().map(|(_, place)| place.as_path());
                let folders = self.folders.iter().map(|(path, _)| path.as_path()).chain(places).collect();
                (Some(folders), Some(self.files.iter().flatten().map(|(path, ..)| path.as_path()).collect()))
            }
        };
        self.nothing_but(&Known { folders, files, links: self.known_links() })
    }

    /// The same once all is there that is learned while it is written.
    pub fn no_more_than_learned(&self) -> Result<(), RestoreError> {
        let learned = self.learned.known();
        let files = Some(learned.files.keys().map(PathBuf::as_path).collect());
        self.nothing_but(&Known { folders: None, files, links: self.known_links() })
    }

    fn known_links(&self) -> HashMap<&Path, &Path> {
        self.links.iter().map(|(link, place)| (link.as_path(), place.as_path())).collect()
    }

    fn nothing_but(&self, known: &Known<'_>) -> Result<(), RestoreError> {
        let places = self.links.iter().map(|(_, place)| place.as_path());
        let mut rest: Vec<PathBuf> = places.chain([self.data.as_path()]).map(Path::to_path_buf).collect();
        while let Some(folder) = rest.pop() {
            let entries = match fs::read_dir(&folder) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                entries => entries.map_err(RestoreError::write(&folder))?,
            };
            for entry in entries {
                let entry = entry.map_err(RestoreError::write(&folder))?;
                let (path, kind) = (entry.path(), entry.file_type().map_err(RestoreError::write(&folder))?);
                if !self.is_known(known, &path, kind) {
                    return Err(RestoreError::Stranger { path, data: self.data.clone() });
                }
                if kind.is_dir() {
                    rest.push(path);
                }
            }
        }
        Ok(())
    }

    fn is_known(&self, known: &Known<'_>, path: &Path, kind: FileType) -> bool {
        if kind.is_dir() {
            return known.folders.as_ref().is_none_or(|folders| folders.contains(path));
        }
        if kind.is_symlink() {
            return known.links.get(path).is_some_and(|place| is_link_to(path, place));
        }
        kind.is_file() && (known.files.as_ref().is_none_or(|files| files.contains(path)) || self.is_ours(path))
    }

    fn is_ours(&self, path: &Path) -> bool {
        let Some(name) = path.strip_prefix(&self.data).ok().and_then(Path::to_str) else { return false };
        let whole = name.strip_suffix(PARTLY);
        if let Some(wal) = name.strip_prefix("pg_wal/") {
            return wal.strip_suffix(PARTLY).unwrap_or(wal).parse::<WalName>().is_ok();
        }
        // The control file itself would be the end of the restore.
        whole == Some(CONTROL) || OURS.contains(&whole.unwrap_or(name))
    }

    /// Removes what the try before has added to the backup's files and this one may not: it is written anew where it is wanted.
    /// And WAL that the target of before needed and this one does not, and what was half written.
    pub fn tidy(&self, keep: &BTreeSet<String>) -> Result<(), RestoreError> {
        for name in ["backup_label", "recovery.signal", SOURCE, ORIGIN] {
            let path = self.data.join(name);
            if !self.files.iter().flatten().any(|(listed, ..)| *listed == path) {
                remove(&path)?;
            }
        }
        for name in SETTINGS {
            remove(&self.data.join(format!("{name}{PARTLY}")))?;
        }
        let folder = self.data.join("pg_wal");
        for entry in fs::read_dir(&folder).map_err(RestoreError::write(&folder))? {
            let entry = entry.map_err(RestoreError::write(&folder))?;
            let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
            if is_file && !entry.file_name().to_str().is_some_and(|name| keep.contains(name)) {
                fs::remove_file(entry.path()).map_err(RestoreError::write(&entry.path()))?;
            }
        }
        Ok(())
    }

    /// A segment of WAL that lies in its place.
    pub fn placed(&self, name: &str) -> Option<Vec<u8>> {
        fs::read(self.data.join("pg_wal").join(name)).ok()
    }

    /// A file, to look at what it holds.
    pub fn open(&self, file: u32) -> Option<File> {
        let (path, ..) = self.files.get(file as usize)?.as_ref()?;
        File::open(path).ok()
    }

    /// Removes a file, so that it is written from its beginning.
    pub fn begin_anew(&self, file: u32) -> Result<(), RestoreError> {
        let Some(Some((path, ..))) = self.files.get(file as usize) else { return Ok(()) };
        remove(path)
    }
}

/// Removes a file that may not be there.
fn remove(path: &Path) -> Result<(), RestoreError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.map_err(RestoreError::write(path)),
    }
}
