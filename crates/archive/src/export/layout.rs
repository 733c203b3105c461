//! Which file goes into which tar: those of the data directory into `data`, those of a tablespace into one of its own, split where
//! they are large, so that several are written at a time.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use crate::base::{Line, Manifest};
use crate::packs::in_order::Contents;

/// The tars of the data directory.
pub const DATA: &str = "data";
/// No tar is begun for less, and none goes on for more (but for one file that is larger).
const LEAST: u64 = 64 << 20;
const MOST: u64 = 1 << 30;

/// A tar that is to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tar {
    /// `data`, or the object identifier of a tablespace.
    pub what: String,
    /// Which of several, from 0.
    pub number: u32,
    /// Path in the tar, and mode; only of the first.
    pub folders: Vec<(String, u32)>,
    /// By their numbers in the manifest.
    pub files: Vec<u32>,
    /// Whether the files that come last are in it.
    pub is_last: bool,
}

/// A file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    pub what: String,
    /// In the tar.
    pub path: String,
    pub size: u64,
    pub mode: u32,
}

#[derive(Default)]
struct Space {
    folders: Vec<(String, u32)>,
    files: Vec<u32>,
}

/// The tars, and all files of the manifest by their numbers. The error says what is wrong with it.
pub fn lay_out(manifest: &Manifest, contents: &Contents, workers: usize) -> Result<(Vec<Tar>, Vec<File>), String> {
    let known: Vec<String> = manifest.summary.tablespaces.iter().map(|space| space.oid.to_string()).collect();
    let mut spaces: BTreeMap<String, Space> =
        known.iter().cloned().chain([DATA.to_owned()]).map(|what| (what, Space::default())).collect();
    let mut files = Vec::new();
    for line in &manifest.lines {
        match line {
            Line::Folder(path, mode) => {
                let (what, path) = place(path, &known)?;
                spaces.entry(what).or_default().folders.push((path, *mode));
            }
            Line::File(path, size, mode) => {
                let (what, path) = place(path, &known)?;
                // One of mode 0 vanished while the backup was taken.
                if *mode != 0 {
                    spaces.entry(what.clone()).or_default().files.push(files.len() as u32);
                }
                files.push(File { what, path, size: *size, mode: *mode });
            }
            Line::Frame(..) | Line::Earlier(..) => {}
        }
    }
    let most = (manifest.summary.size / workers.max(1) as u64).clamp(LEAST, MOST);
    let mut tars = Vec::new();
    for (what, mut space) in spaces {
        space.files.sort_by_key(|file| contents.order(*file));
        tars.extend(split(&what, space, &files, most));
    }
    Ok((tars, files))
}

/// What is to be put where, and its path there; a path must not lead out of there.
fn place(path: &str, known: &[String]) -> Result<(String, String), String> {
    if !Path::new(path).components().all(|part| matches!(part, Component::Normal(_))) {
        return Err(format!("'{path}' is no path of a data directory"));
    }
    let in_space = path.strip_prefix("pg_tblspc/").map(|rest| rest.split_once('/').unwrap_or((rest, "")));
    Ok(match in_space.filter(|(oid, _)| known.iter().any(|known| known == oid)) {
        Some((oid, rest)) => (oid.to_owned(), rest.to_owned()),
        None => (DATA.to_owned(), path.to_owned()),
    })
}

fn split(what: &str, space: Space, files: &[File], most: u64) -> Vec<Tar> {
    let tar = |number| Tar { what: what.to_owned(), number, folders: Vec::new(), files: Vec::new(), is_last: false };
    let (mut tars, mut current, mut size) = (Vec::new(), Tar { folders: space.folders, ..tar(0) }, 0);
    for file in space.files {
        let own = files.get(file as usize).map_or(0, |file| file.size);
        if size > 0 && size + own > most {
            let next = tar(current.number + 1);
            tars.push(std::mem::replace(&mut current, next));
            size = 0;
        }
        size += own;
        current.files.push(file);
    }
    current.is_last = what == DATA;
    tars.push(current);
    tars
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tablespaces_have_tars_of_their_own() {
        let known = ["16384".to_owned()];
        let placed = |path: &str| place(path, &known);
        let own = |what: &str, path: &str| Ok((what.to_owned(), path.to_owned()));
        assert_eq!(placed("pg_tblspc/16384/PG_15/5/1"), own("16384", "PG_15/5/1"));
        assert_eq!(placed("pg_tblspc/16384"), own("16384", ""));
        assert_eq!(placed("pg_tblspc/16385/PG_15"), own(DATA, "pg_tblspc/16385/PG_15"), "one in place");
        assert_eq!(placed(""), own(DATA, ""));
        assert!(placed("../x").is_err() && placed("/etc/passwd").is_err() && placed("a/../../x").is_err());
    }

    #[test]
    fn large_ones_are_split_and_the_last_has_the_files_that_come_last() {
        let file = |size| File { what: DATA.to_owned(), path: "x".to_owned(), size, mode: 0o600 };
        let files = [file(5), file(8), file(3), file(20), file(0)];
        let space = || Space { folders: vec![("base".to_owned(), 0o700)], files: (0..5).collect() };
        let tars = split(DATA, space(), &files, 10);
        let held: Vec<&[u32]> = tars.iter().map(|tar| tar.files.as_slice()).collect();
        assert_eq!(held, [&[0][..], &[1], &[2], &[3], &[4]]);
        assert_eq!(tars.iter().map(|tar| tar.number).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
        assert_eq!(tars.iter().map(|tar| tar.is_last).collect::<Vec<_>>(), [false, false, false, false, true]);
        assert_eq!(tars.iter().map(|tar| tar.folders.len()).sum::<usize>(), tars[0].folders.len());
        assert_eq!(split("16384", Space::default(), &files, 10).len(), 1, "an empty tablespace has a tar as well");
        assert!(!split("16384", space(), &files, 10).iter().any(|tar| tar.is_last));
    }
}
