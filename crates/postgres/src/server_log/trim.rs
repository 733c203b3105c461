//! Shortening a log from the front while the server goes on appending to it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, OFlags, fallocate};

/// Whole blocks can be cut off the front of a file; this is a multiple of every file system's.
const BLOCK: u64 = 1024 * 1024;

/// Cuts at most `length` bytes off the front of the log and returns how many. ext4 and xfs do that without losing what
/// is written meanwhile. Elsewhere the file is emptied once everything in it may go, and a line written in that very
/// moment may be lost.
pub fn drop_front(path: &Path, length: u64) -> io::Result<u64> {
    let file = writable(path)?;
    let end = file.metadata()?.len();
    let whole = length.min(end.saturating_sub(1)) / BLOCK * BLOCK;
    if cut(&file, whole) {
        return Ok(whole);
    }
    if length < end {
        return Ok(0);
    }
    file.set_len(0)?;
    Ok(end)
}

fn writable(path: &Path) -> io::Result<File> {
    // In a directory of the server's user a link could point anywhere.
    OpenOptions::new().write(true).custom_flags(OFlags::NOFOLLOW.bits() as i32).open(path)
}

fn cut(file: &File, whole: u64) -> bool {
    whole > 0 && fallocate(file, FallocateFlags::COLLAPSE_RANGE, 0, whole).is_ok()
}

/// Moves the log's content to `<path>.1` when it has more than `limit` bytes, after moving that to `<path>.2` and so on
/// up to `keep`, the oldest of which goes. Returns whether it did. Blocks for as long as copying takes.
pub fn rotate(path: &Path, limit: u64, keep: u32) -> io::Result<bool> {
    let Ok(found) = fs::symlink_metadata(path) else { return Ok(false) };
    if !found.is_file() || found.len() <= limit {
        return Ok(false);
    }
    for number in (1..keep).rev() {
        match fs::rename(numbered(path, number), numbered(path, number + 1)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    let mut source = File::open(path)?;
    let mut target = create_like(&numbered(path, 1), &found)?;
    let whole = (found.len() - 1) / BLOCK * BLOCK;
    io::copy(&mut (&mut source).take(whole), &mut target)?;
    let log = writable(path)?;
    if !cut(&log, whole) {
        io::copy(&mut source, &mut target)?;
        log.set_len(0)?;
    }
    Ok(true)
}

fn create_like(path: &Path, like: &fs::Metadata) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    fchown(&file, Some(like.uid()), Some(like.gid()))?;
    Ok(file)
}

fn numbered(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn appender(path: &Path) -> File {
        OpenOptions::new().append(true).create(true).open(path).unwrap()
    }

    #[test]
    fn nothing_is_lost_or_doubled() {
        for size in [100, 3 * BLOCK as usize + 100] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("log");
            let mut log = appender(&path);
            let text: Vec<u8> = (0..size).map(|index| (index % 251) as u8).collect();
            log.write_all(&text).unwrap();
            assert!(!rotate(&path, size as u64, 2).unwrap(), "it is not over the limit");
            assert!(rotate(&path, size as u64 - 1, 2).unwrap());
            log.write_all(b"more").unwrap();
            let both = [fs::read(numbered(&path, 1)).unwrap(), fs::read(&path).unwrap()].concat();
            assert_eq!(both, [&text[..], b"more"].concat());
            assert!(fs::metadata(&path).unwrap().len() <= BLOCK + 4);
        }
    }

    #[test]
    fn only_so_many_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = appender(&path);
        for round in 0..5 {
            write!(log, "round {round}").unwrap();
            assert!(rotate(&path, 3, 2).unwrap());
        }
        let mut names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["log", "log.1", "log.2"]);
        assert_eq!(fs::read_to_string(numbered(&path, 2)).unwrap(), "round 3");
        assert!(!rotate(&dir.path().join("none"), 3, 2).unwrap());
    }

    #[test]
    fn what_was_read_goes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = appender(&path);
        log.write_all(&vec![7; 2 * BLOCK as usize + 5]).unwrap();
        let gone = drop_front(&path, 2 * BLOCK + 5).unwrap();
        assert!(gone == 2 * BLOCK || gone == 2 * BLOCK + 5, "{gone}");
        assert_eq!(fs::metadata(&path).unwrap().len(), 2 * BLOCK + 5 - gone);
        log.write_all(b"x").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), 2 * BLOCK + 6 - gone);
    }
}
