//! Writing the new directory.

mod learned;
mod left;

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt, chown, symlink};
use std::path::{Component, Path, PathBuf};
use std::sync::OnceLock;

use matriarch_postgres::conf;

use super::settings;
use super::{Options, PARTLY, RestoreError};
use crate::base::{CONTROL, Line, Manifest, Tablespace};
use learned::Learned;

/// The directory as it is to be.
#[derive(Debug)]
pub struct Tree {
    data: PathBuf,
    folders: Vec<(PathBuf, u32)>,
    /// `None` for one that vanished while it was backed up.
    files: Vec<Option<(PathBuf, u64, u32)>>,
    /// Link in `pg_tblspc` and what it points at.
    links: Vec<(PathBuf, PathBuf)>,
    /// Where tablespaces lie, by their object identifiers.
    tablespaces: BTreeMap<String, PathBuf>,
    learned: Learned,
    /// What is in it is learned while it is written.
    bare: bool,
    owner: Option<(u32, u32)>,
    /// Held while anything is written.
    lock: OnceLock<File>,
}

impl Tree {
    /// Lays the manifest's paths out under the new places. The error says what is wrong with the manifest.
    pub fn new(manifest: &Manifest, options: &Options) -> Result<Tree, String> {
        let mut tree = Tree::laid_out(&manifest.summary.tablespaces, options);
        for line in &manifest.lines {
            match line {
                Line::Folder(path, mode) => tree.folders.push((tree.locate(path)?, *mode)),
                Line::File(_, _, 0) => tree.files.push(None),
                Line::File(path, size, mode) => tree.files.push(Some((tree.locate(path)?, *size, *mode))),
                Line::Frame(..) | Line::Earlier(..) => {}
            }
        }
        Ok(tree)
    }

    fn laid_out(known: &[Tablespace], options: &Options) -> Tree {
        let mut tablespaces = BTreeMap::new();
        let mut links = Vec::new();
        for tablespace in known {
            let place = options.tablespaces.get(&tablespace.oid).cloned().unwrap_or(PathBuf::from(&tablespace.path));
            links.push((options.data.join(format!("pg_tblspc/{}", tablespace.oid)), place.clone()));
            tablespaces.insert(tablespace.oid.to_string(), place);
        }
        let (data, owner) = (options.data.clone(), options.owner);
        let (folders, files) = (Vec::new(), Vec::new());
        let (learned, bare, lock) = (Learned::default(), false, OnceLock::new());
        Tree { data, folders, files, links, tablespaces, learned, bare, owner, lock }
    }

    /// A path of a backup must not lead out of the place that it is restored to.
    fn locate(&self, path: &str) -> Result<PathBuf, String> {
        let inside = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
        if !inside {
            return Err(format!("'{path}' is no path of a data directory"));
        }
        let in_tablespace = path.strip_prefix("pg_tblspc/").map(|rest| rest.split_once('/').unwrap_or((rest, "")));
        Ok(match in_tablespace.and_then(|(oid, rest)| Some((self.tablespaces.get(oid)?, rest))) {
            Some((place, "")) => place.clone(),
            Some((place, rest)) => place.join(rest),
            None => self.data.join(path),
        })
    }

    /// Where tablespaces go, by their object identifiers.
    pub fn tablespaces(&self) -> &BTreeMap<String, PathBuf> {
        &self.tablespaces
    }

    fn places(&self) -> impl Iterator<Item = &PathBuf> {
        std::iter::once(&self.data).chain(self.links.iter().map(|(_, place)| place))
    }

    /// Refuses places that hold anything.
    fn free(&self) -> Result<(), RestoreError> {
        for place in self.places() {
            match fs::read_dir(place).map(|mut entries| entries.next().is_some()) {
                Ok(true) => return Err(RestoreError::NotEmpty { path: place.clone() }),
                Ok(false) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(RestoreError::write(place)(error)),
            }
        }
        Ok(())
    }

    /// Refuses places that lie in each other.
    fn apart(&self) -> Result<(), RestoreError> {
        for place in self.places() {
            let inside = self.places().find(|other| *other != place && place.starts_with(other));
            if let Some(other) = inside.or_else(|| self.places().filter(|other| *other == place).nth(1)) {
                let why = format!("{} lies in {}, where something else goes", place.display(), other.display());
                return Err(RestoreError::Place(format!("{why}; give each tablespace a place of its own")));
            }
        }
        Ok(())
    }

    /// Makes the folders and links that are not there.
    fn make(&self) -> Result<(), RestoreError> {
        for place in self.places() {
            self.folder(place, 0o700)?;
        }
        for (path, mode) in &self.folders {
            self.folder(path, *mode)?;
        }
        for (link, place) in &self.links {
            // The scan followed the link, so its folder may have been made in the link's place only if it was not listed.
            match symlink(place, link) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && is_link_to(link, place) => {}
                made => made.map_err(RestoreError::write(link))?,
            }
            if let Some((uid, gid)) = self.owner {
                std::os::unix::fs::lchown(link, Some(uid), Some(gid)).map_err(RestoreError::write(link))?;
            }
        }
        Ok(())
    }

    fn folder(&self, path: &Path, mode: u32) -> Result<(), RestoreError> {
        let make = || -> io::Result<()> {
            DirBuilder::new().recursive(true).mode(mode).create(path)?;
            fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
            self.owner.map_or(Ok(()), |(uid, gid)| chown(path, Some(uid), Some(gid)))
        };
        make().map_err(RestoreError::write(path))
    }

    pub fn write_at(&self, file: u32, offset: u64, bytes: &[u8]) -> Result<(), RestoreError> {
        let Some(Some((path, ..))) = self.files.get(file as usize) else { return Ok(()) };
        let open = File::options().create(true).truncate(false).write(true).mode(0o600).open(path);
        open.and_then(|opened| opened.write_all_at(bytes, offset)).map_err(RestoreError::write(path))
    }

    /// Gives every file its length, mode and owner, and syncs all.
    pub fn finish(&self) -> Result<(), RestoreError> {
        let learned = self.learned.known();
        let listed = self.files.iter().flatten().map(|(path, size, mode)| (path, Some(*size), *mode));
        for (path, size, mode) in listed.chain(learned.files.iter().map(|(path, mode)| (path, None, *mode))) {
            let finish = || -> io::Result<()> {
                let file = File::options().create(true).truncate(false).write(true).mode(0o600).open(path)?;
                size.map_or(Ok(()), |size| file.set_len(size))?;
                self.own(&file, mode)?;
                file.sync_all()
            };
            finish().map_err(RestoreError::write(path))?;
        }
        let listed = self.folders.iter().map(|(path, _)| path);
        for path in listed.chain(learned.folders.keys()).rev() {
            sync_folder(path)?;
        }
        Ok(())
    }

    fn own(&self, file: &File, mode: u32) -> io::Result<()> {
        if let Some((uid, gid)) = self.owner {
            std::os::unix::fs::fchown(file, Some(uid), Some(gid))?;
        }
        file.set_permissions(fs::Permissions::from_mode(mode))
    }

    /// Writes a file of the top folder.
    pub fn text(&self, name: &str, content: &str) -> Result<(), RestoreError> {
        self.place(name, content.as_bytes())
    }

    /// Writes a WAL segment.
    pub fn segment(&self, name: &str, content: &[u8]) -> Result<(), RestoreError> {
        self.place(name, content)
    }

    /// Adds the lines to `postgresql.auto.conf`, which PostgreSQL reads last.
    pub fn settings(&self, lines: &str) -> Result<(), RestoreError> {
        let path = self.data.join("postgresql.auto.conf");
        let old = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            read => read.map_err(RestoreError::write(&path))?,
        };
        self.place("postgresql.auto.conf", format!("{}{lines}", settings::without_ours(&old)).as_bytes())
    }

    /// What binds the settings to the directory and the part that the backup was taken of: who starts this one by hand would
    /// find no rules for connections where that was, wait for its voters, and archive in its name.
    pub fn unbind(&self) -> Result<(), RestoreError> {
        let path = self.data.join(conf::FILE);
        match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(RestoreError::write(&path)(error)),
            Ok(text) => {
                let data = std::path::absolute(&self.data).map_err(RestoreError::write(&self.data))?;
                self.place(conf::FILE, conf::elsewhere(&text, Some(&data)).as_bytes())
            }
        }
    }

    /// The last file: from here on PostgreSQL can be started.
    pub fn control(&self, content: &[u8]) -> Result<(), RestoreError> {
        self.place(CONTROL, content)
    }

    fn place(&self, name: &str, content: &[u8]) -> Result<(), RestoreError> {
        self.place_with(name, content, 0o600)
    }

    fn place_with(&self, name: &str, content: &[u8], mode: u32) -> Result<(), RestoreError> {
        let path = self.data.join(name);
        let temporary = self.data.join(format!("{name}{PARTLY}"));
        let write = || -> io::Result<()> {
            let file = File::options().create(true).truncate(true).write(true).mode(0o600).open(&temporary)?;
            file.write_all_at(content, 0)?;
            self.own(&file, mode)?;
            file.sync_all()?;
            fs::rename(&temporary, &path)
        };
        write().map_err(RestoreError::write(&path))?;
        sync_folder(path.parent().unwrap_or(&self.data))
    }
}

fn is_link_to(link: &Path, place: &Path) -> bool {
    fs::read_link(link).is_ok_and(|found| found == place)
}

fn sync_folder(path: &Path) -> Result<(), RestoreError> {
    File::open(path).and_then(|folder| folder.sync_all()).map_err(RestoreError::write(path))
}
