//! What of a data directory's WAL waits to be archived, and what is kept of it when the directory changes its history.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use matriarch_archive::wal::{Segment, WalName};
use matriarch_core::Lsn;
use matriarch_postgres::history::History;

/// One file that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Where it is.
    pub path: PathBuf,
    /// Since when.
    pub since: SystemTime,
    /// It was kept from a data directory that has changed its history.
    pub kept: bool,
}

/// The folder beside the data (or beside `pg_wal`, if that is elsewhere) in which WAL is kept that a rewind or a copy
/// would remove.
pub fn kept_folder(data_dir: &Path) -> PathBuf {
    let own = data_dir.join("pg_wal");
    let real = fs::canonicalize(&own).unwrap_or_else(|_| own.clone());
    let inside = fs::canonicalize(data_dir).is_ok_and(|data| real.starts_with(data));
    let mut name = if inside || !own.exists() { data_dir.as_os_str() } else { real.as_os_str() }.to_owned();
    name.push(".unarchived");
    name.into()
}

/// What PostgreSQL has marked as ready to be archived, and what was kept, in the order in which it is to be archived:
/// histories before segments of their timelines.
pub fn waiting(data_dir: &Path) -> io::Result<Vec<(WalName, Waiting)>> {
    let mut found = BTreeMap::new();
    for (name, path) in files(&data_dir.join("pg_wal/archive_status"))? {
        let Some(name) = name.strip_suffix(".ready").and_then(|name| name.parse::<WalName>().ok()) else { continue };
        let since = modified(&path);
        let path = data_dir.join("pg_wal").join(name.to_string());
        found.insert(name, Waiting { path, since, kept: false });
    }
    for (name, path) in files(&kept_folder(data_dir))? {
        let Ok(name) = name.parse::<WalName>() else { continue };
        let since = modified(&path);
        found.entry(name).or_insert(Waiting { path, since, kept: true });
    }
    let mut found: Vec<_> = found.into_iter().collect();
    found.sort_by_key(|(name, _)| !matches!(name, WalName::History(_)));
    Ok(found)
}

fn modified(path: &Path) -> SystemTime {
    fs::metadata(path).and_then(|metadata| metadata.modified()).unwrap_or_else(|_| SystemTime::now())
}

fn files(folder: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let named = |entry: fs::DirEntry| Some((entry.file_name().to_str()?.to_owned(), entry.path()));
    entries.filter_map(|entry| entry.map(named).transpose()).collect()
}

/// PostgreSQL's own note that a file need not be archived any more, for a standby, whose archiver does not run.
pub fn mark_done(data_dir: &Path, name: &WalName) -> io::Result<()> {
    let folder = data_dir.join("pg_wal/archive_status");
    match fs::rename(folder.join(format!("{name}.ready")), folder.join(format!("{name}.done"))) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// Before a rewind or a copy: links everything that is ready to be archived into the folder of kept WAL. Returns how many
/// files wait there now.
pub fn keep(data_dir: &Path) -> io::Result<usize> {
    let ready = waiting(data_dir)?;
    let folder = kept_folder(data_dir);
    for (name, waiting) in ready.iter().filter(|(_, waiting)| !waiting.kept) {
        fs::create_dir_all(&folder)?;
        match fs::hard_link(&waiting.path, folder.join(name.to_string())) {
            Ok(()) => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::NotFound) => {}
            Err(_) => copy(&waiting.path, &folder, name)?,
        }
    }
    Ok(ready.len())
}

/// After it: what the directory still has under another name of ours would be overwritten by PostgreSQL when it uses the
/// file again, so that becomes a copy.
pub fn settle(data_dir: &Path) -> io::Result<()> {
    let folder = kept_folder(data_dir);
    for (name, path) in files(&folder)? {
        if let Ok(name) = name.parse::<WalName>()
            && fs::metadata(&path)?.nlink() > 1
        {
            copy(&path, &folder, &name)?;
        }
    }
    Ok(())
}

fn copy(from: &Path, folder: &Path, name: &WalName) -> io::Result<()> {
    let part = folder.join(format!("{name}.part"));
    fs::copy(from, &part)?;
    fs::File::open(&part)?.sync_all()?;
    fs::rename(part, folder.join(name.to_string()))
}

/// The complete segments of a primary's own history that lie on timelines it has left: what a primary before it may have
/// failed to archive.
pub fn inherited(data_dir: &Path, history: &History, size: u64) -> io::Result<Vec<(Segment, PathBuf)>> {
    let mut found = Vec::new();
    for (name, path) in files(&data_dir.join("pg_wal"))? {
        let Ok(WalName::Segment(segment)) = name.parse::<WalName>() else { continue };
        let end = Lsn(segment.start(size).0 + size);
        let is_ours = history
            .ancestors
            .iter()
            .any(|ancestor| ancestor.timeline == segment.timeline && end <= ancestor.switch_lsn);
        if is_ours && fs::metadata(&path)?.len() == size {
            found.push((segment, path));
        }
    }
    found.sort();
    Ok(found)
}

/// Histories as their primaries wrote them: what was made up here to keep a number, or to complete a copy, is not the file
/// that the archive is to have.
pub fn is_original(history: &Path) -> bool {
    fs::read_to_string(history).is_ok_and(|text| !text.contains("Matriarch"))
}

/// The first position of what waits, for the WAL that must stay: none when nothing does.
pub fn oldest(names: impl Iterator<Item = WalName>, size: u64) -> Option<Lsn> {
    let start = |name| match name {
        WalName::Segment(segment) | WalName::Partial(segment) => Some(segment.start(size)),
        WalName::History(_) | WalName::Backup(..) => None,
    };
    names.filter_map(start).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 1 << 20;

    fn data() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("data/pg_wal/archive_status")).unwrap();
        folder
    }

    fn put(data: &Path, name: &str, length: u64) {
        fs::write(data.join("pg_wal").join(name), vec![1; length as usize]).unwrap();
    }

    fn ready(data: &Path, name: &str) {
        fs::write(data.join("pg_wal/archive_status").join(format!("{name}.ready")), "").unwrap();
    }

    #[test]
    fn histories_come_first_and_kept_wal_counts() {
        let folder = data();
        let data = folder.path().join("data");
        for name in ["000000010000000000000004", "000000010000000000000003", "00000002.history"] {
            put(&data, name, 3);
            ready(&data, name);
        }
        fs::write(data.join("pg_wal/archive_status/000000010000000000000002.done"), "").unwrap();
        let names = |data: &Path| {
            let all = waiting(data).unwrap();
            all.iter()
                .map(|(name, waiting)| format!("{name}{}", if waiting.kept { " kept" } else { "" }))
                .collect::<Vec<_>>()
        };
        let expected = ["00000002.history", "000000010000000000000003", "000000010000000000000004"];
        assert_eq!(names(&data), expected);
        assert_eq!(keep(&data).unwrap(), 3);
        assert_eq!(names(&data), expected, "once each");
        // A rewind removes some, and leaves others, which are used again.
        fs::remove_file(data.join("pg_wal/000000010000000000000003")).unwrap();
        fs::remove_dir_all(data.join("pg_wal/archive_status")).unwrap();
        settle(&data).unwrap();
        fs::write(data.join("pg_wal/000000010000000000000004"), "again").unwrap();
        assert_eq!(names(&data), expected.map(|name| format!("{name} kept")));
        for (_, waiting) in waiting(&data).unwrap() {
            assert_eq!(fs::read(waiting.path).unwrap(), [1; 3]);
        }
        let start = oldest(waiting(&data).unwrap().into_iter().map(|(name, _)| name), SIZE);
        assert_eq!(start, Some(Lsn(3 * SIZE)));
    }

    #[test]
    fn only_whole_segments_of_the_own_history_are_inherited() {
        let folder = data();
        let data = folder.path().join("data");
        let history = History::parse(4, "1\t0/250000\tx\n3\t0/500000\tx").unwrap();
        for name in [
            "000000010000000000000001",
            "000000010000000000000002",
            "000000020000000000000003",
            "000000030000000000000004",
            "000000030000000000000005",
            "000000040000000000000005",
            "000000030000000000000004.partial",
        ] {
            put(&data, name, SIZE);
        }
        put(&data, "000000030000000000000003", SIZE - 1);
        let found = inherited(&data, &history, SIZE).unwrap();
        let found: Vec<String> = found.iter().map(|(segment, _)| segment.to_string()).collect();
        assert_eq!(found, ["000000010000000000000001", "000000030000000000000004"]);
    }
}
