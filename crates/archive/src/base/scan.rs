//! What of a data directory belongs into a backup.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Where a restored directory keeps what its `restore_command` fetches WAL from.
pub use matriarch_postgres::conf::RESTORE_SOURCE as SOURCE;

use super::page::relation_file;
use crate::restore::{NOTES, RECORD, WRITTEN};

/// Folders whose content PostgreSQL makes anew; they must be there.
const EMPTIED: [&str; 8] =
    ["pg_wal", "pg_replslot", "pg_dynshmem", "pg_notify", "pg_serial", "pg_snapshots", "pg_stat_tmp", "pg_subtrans"];
/// Files of the top folder that belong to the running server, to another backup, or to this very copy.
const LEFT_OUT: [&str; 15] = [
    "postmaster.pid",
    "postmaster.opts",
    "backup_label",
    "backup_label.old",
    "tablespace_map",
    "tablespace_map.old",
    "current_logfiles",
    "current_logfiles.tmp",
    "postgresql.auto.conf.tmp",
    "backup_manifest",
    "standby.signal",
    SOURCE,
    RECORD,
    NOTES,
    WRITTEN,
];
/// Copied by itself, last.
pub const CONTROL: &str = "global/pg_control";

/// A file to copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Below the data directory, `pg_tblspc/<oid>/…` for what lies in a tablespace.
    pub path: String,
    /// Bytes when it was seen.
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
    /// For a file of a relation: which gigabyte of it.
    pub segment: Option<u32>,
}

impl Found {
    /// Whether the log tells of every change of its blocks: a relation's main fork. The free space map is not logged, and where
    /// the visibility map was cut off, some releases tell wrongly.
    pub fn is_main(&self) -> bool {
        let name = self.path.rsplit('/').next().unwrap_or_default();
        self.segment.is_some() && relation_file(name).is_some_and(|file| file.fork == "main")
    }
}

/// A folder to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folder {
    /// Below the data directory; empty for itself.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
}

/// Everything that a backup copies.
#[derive(Clone, Debug, Default)]
pub struct Scan {
    /// Folders, each after the one it lies in.
    pub folders: Vec<Folder>,
    /// Files.
    pub files: Vec<Found>,
}

/// A folder that could not be read.
#[derive(Debug, thiserror::Error)]
#[error("could not read {path}: {source}", path = path.display())]
pub struct ScanError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// Lists a data directory that is in use: what vanishes meanwhile is left out.
pub fn scan(data: &Path) -> Result<Scan, ScanError> {
    let mut scan = Scan::default();
    walk(data, "", &mut scan)?;
    Ok(scan)
}

fn walk(data: &Path, below: &str, scan: &mut Scan) -> Result<(), ScanError> {
    let folder = data.join(below);
    let failed = |source| ScanError { path: folder.clone(), source };
    let gone = |error: &io::Error| !below.is_empty() && error.kind() == io::ErrorKind::NotFound;
    let listed = fs::metadata(&folder).and_then(|meta| Ok((meta.permissions().mode() & 0o777, fs::read_dir(&folder)?)));
    let (mode, entries) = match listed {
        Err(error) if gone(&error) => return Ok(()),
        listed => listed.map_err(failed)?,
    };
    scan.folders.push(Folder { path: below.to_owned(), mode });
    if EMPTIED.contains(&below) {
        return Ok(());
    }
    let mut names = Vec::new();
    for entry in entries {
        match entry {
            // PostgreSQL names nothing of its own in another encoding; what users put there is theirs.
            Ok(entry) => names.extend(entry.file_name().into_string()),
            Err(error) if gone(&error) => {}
            Err(error) => return Err(failed(error)),
        }
    }
    names.sort();
    let unlogged: BTreeSet<String> = names
        .iter()
        .filter_map(|name| relation_file(name).filter(|file| file.fork == "init").map(|file| file.relation.to_owned()))
        .collect();
    for name in names.iter().filter(|name| !is_left_out(below, name, &unlogged)) {
        let path = if below.is_empty() { name.clone() } else { format!("{below}/{name}") };
        visit(data, below, name, path, scan)?;
    }
    Ok(())
}

fn visit(data: &Path, below: &str, name: &str, path: String, scan: &mut Scan) -> Result<(), ScanError> {
    let full = data.join(&path);
    // A tablespace is a link that is followed; pg_wal may be one. Any other link is the administrator's and is followed
    // too, since what it points at is part of what PostgreSQL sees here.
    let meta = match fs::metadata(&full) {
        Ok(meta) => meta,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(ScanError { path: full, source }),
    };
    if meta.is_dir() {
        return walk(data, &path, scan);
    }
    if meta.is_file() {
        let in_relations = below == "global" || below.starts_with("base/") || below.starts_with("pg_tblspc/");
        let segment = in_relations.then(|| relation_file(name)).flatten().map(|file| file.segment);
        scan.files.push(Found { path, size: meta.size(), mode: meta.permissions().mode() & 0o777, segment });
    }
    Ok(())
}

fn is_left_out(below: &str, name: &str, unlogged: &BTreeSet<String>) -> bool {
    if name.starts_with("pgsql_tmp") || name.starts_with("pg_internal.init") {
        return true;
    }
    if below.is_empty() {
        return LEFT_OUT.contains(&name) || name == "recovery.signal";
    }
    if below == "global" && name == "pg_control" {
        return true;
    }
    // `t3_16384`: a temporary relation of backend 3.
    let temporary = name.strip_prefix('t').and_then(|rest| rest.split_once('_')).is_some_and(|(backend, rest)| {
        !backend.is_empty() && backend.bytes().all(|byte| byte.is_ascii_digit()) && relation_file(rest).is_some()
    });
    let reset = relation_file(name).is_some_and(|file| file.fork != "init" && unlogged.contains(file.relation));
    temporary || reset
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_out_what_must_not_be_restored() {
        let dir = tempfile::tempdir().unwrap();
        for path in [
            "PG_VERSION",
            "postmaster.pid",
            "global/pg_control",
            "global/1262",
            "global/pg_internal.init",
            "base/5/1259",
            "base/5/1259_vm",
            "base/5/1259.1",
            "base/5/t3_16400",
            "base/5/16500",
            "base/5/16500_fsm",
            "base/5/16500_init",
            "base/pgsql_tmp/pgsql_tmp1.0",
            "pg_wal/000000010000000000000001",
            "pg_wal/archive_status/x",
            "pg_stat_tmp/x",
            "pg_xact/0000",
            "backup_label",
            "standby.signal",
            "matriarch_restoring.json",
            "conf.d/mine.conf",
        ] {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "x").unwrap();
        }
        let scan = scan(dir.path()).unwrap();
        let files: Vec<&str> = scan.files.iter().map(|file| file.path.as_str()).collect();
        let kept = [
            "PG_VERSION",
            "base/5/1259",
            "base/5/1259.1",
            "base/5/1259_vm",
            "base/5/16500_init",
            "conf.d/mine.conf",
            "global/1262",
            "pg_xact/0000",
        ];
        assert_eq!(files, kept);
        assert_eq!(scan.files[2].segment, Some(1));
        let folders: Vec<&str> = scan.folders.iter().map(|folder| folder.path.as_str()).collect();
        assert_eq!(folders, ["", "base", "base/5", "conf.d", "global", "pg_stat_tmp", "pg_wal", "pg_xact"]);
    }
}
