//! What an incremental backup builds upon: the newest earlier backup on the way to the present that is whole.

use std::collections::BTreeMap;
use std::path::Path;

use matriarch_core::Timeline;
use tokio_postgres::Client;

use super::changes::Changes;
use super::compare::Taken;
use super::list;
use super::manifest::{FoundBy, Increment, Line, Manifest, Summary};
use super::marker::{Marker, UnderWay};
use super::session::{self, Server, Started};
use super::{BackupError, summaries};
use crate::archive::Archive;
use crate::format::hex;
use crate::packs;
use crate::repository::RepositoryError;
use crate::restore::{History, Holder};
use crate::wal::WalName;

/// A backup that would build upon more is a full one: a manifest names all of them in its header.
const LONGEST: usize = 400;

/// The backup that this one builds upon, and what is known of the time since.
#[derive(Debug)]
pub struct Basis {
    pub parent: Manifest,
    /// Without them, everything is read.
    pub changes: Result<Changes, String>,
}

/// The server that is backed up, in backup mode.
pub struct Site<'a> {
    pub archive: &'a Archive,
    pub client: &'a Client,
    pub server: &'a Server,
    pub data: &'a Path,
    pub started: &'a Started,
}

/// Looks for it. The inner error: why there is none, so that a full backup is taken.
pub async fn find(site: &Site<'_>, under_way: &UnderWay, marker: Marker) -> Result<Result<Basis, String>, BackupError> {
    let Site { archive, client, server, started, .. } = site;
    let timeline = session::timeline(client).await?;
    let history = history(site, timeline).await?;
    let backups = match list::list(archive).await {
        Ok(backups) => backups,
        Err(error) => return unless_away(error),
    };
    let newest = match newest(&backups, &history, server) {
        Ok(newest) => newest,
        Err(why) => return Ok(Err(why)),
    };
    let needs: Vec<String> = std::iter::once(&newest.backup).chain(newest.needs()).cloned().collect();
    if needs.len() > LONGEST {
        return Ok(Err(format!("backup {} builds upon {LONGEST} others already", newest.backup)));
    }
    // From here on retention leaves them alone; then it is looked whether it had.
    under_way.say(&Marker { needs, ..marker }).await?;
    let parent = match list::manifest(archive, &newest.backup).await {
        Ok(parent) => parent,
        Err(error) => return unless_away(error),
    };
    if let Err(error) = packs::check(archive, &parent).await {
        return unless_away(error).map(|found: Result<Basis, String>| {
            found.map_err(|why| format!("backup {} cannot be built upon: {why}", parent.summary.backup))
        });
    }
    let changes = match comparable(&parent.summary, server, started) {
        Ok(()) => summaries::read(client, server.version, &history, parent.summary.start_lsn, started.lsn).await?,
        Err(why) => Err(why),
    };
    Ok(Ok(Basis { parent, changes }))
}

/// An outage is no reason to take a full backup, which could not be stored either.
fn unless_away<T>(error: RepositoryError) -> Result<Result<T, String>, BackupError> {
    match error {
        RepositoryError::Corrupt { .. } | RepositoryError::Absent { .. } | RepositoryError::NoKey { .. } => {
            Ok(Err(error.to_string()))
        }
        error => Err(error.into()),
    }
}

/// The newest backup of this database on the way to the present.
fn newest<'a>(backups: &'a [Summary], history: &History, server: &Server) -> Result<&'a Summary, String> {
    let same = |one: &Summary| {
        one.system_identifier == server.system_identifier.to_string() && one.major == server.version / 10_000
    };
    let passed = |one: &&Summary| same(one) && history.passes(one.timeline, one.stop_lsn);
    backups.iter().rev().find(passed).ok_or_else(|| match backups.last() {
        None => "there is no earlier backup".to_owned(),
        Some(last) if !same(last) => format!("backup {} is of another database", last.backup),
        Some(last) => format!(
            "backup {} ended at {} on timeline {}, which is not on the way to timeline {}",
            last.backup, last.stop_lsn, last.timeline, history.timeline
        ),
    })
}

/// Whether what the log tells is enough to know which of the parent's blocks are as they were.
fn comparable(parent: &Summary, server: &Server, started: &Started) -> Result<(), String> {
    if started.lsn < parent.stop_lsn {
        // It may hold pages that are newer than this backup.
        return Err(format!("this server is behind {}, where backup {} ended", parent.stop_lsn, parent.backup));
    }
    if parent.data_checksums != server.data_checksums {
        return Err("data checksums were switched on or off since then, which no log tells".to_owned());
    }
    Ok(())
}

/// How the server's timeline came to be, by its own files or by the archive.
async fn history(site: &Site<'_>, timeline: Timeline) -> Result<History, BackupError> {
    let path = site.data.join("pg_wal").join(WalName::History(timeline).to_string());
    let read = match tokio::fs::read_to_string(&path).await {
        Ok(text) => {
            return History::parse(timeline, &text).map_err(|error| BackupError::Unsupported(error.to_string()));
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Holder::from(site.archive).history(timeline).await
        }
        Err(source) => return Err(BackupError::Read { path, source }),
    };
    read.map_err(|error| BackupError::History(Box::new(error)))
}

/// The manifest's lines of what lies in earlier packs, and the backups that they need.
pub fn frames(parent: Option<&Manifest>, mut taken: Vec<Taken>) -> (Vec<String>, Vec<Line>) {
    let Some(parent) = parent else { return (Vec::new(), Vec::new()) };
    taken.sort_by_key(|one| (one.place.backup, one.place.pack, one.place.index));
    let name = |number: u32| match number {
        0 => Some(&parent.summary.backup),
        other => parent.summary.needs().get(other as usize - 1),
    };
    let mut needs: Vec<String> = Vec::new();
    let mut numbers: BTreeMap<u32, u32> = BTreeMap::new();
    let mut lines = Vec::with_capacity(taken.len());
    for Taken { place, digest, parts } in taken {
        let number = *numbers.entry(place.backup).or_insert_with(|| match name(place.backup) {
            Some(name) => {
                needs.push(name.clone());
                needs.len() as u32 - 1
            }
            // One that the parent does not name either: whoever reads it says so.
            None => u32::MAX,
        });
        lines.push(Line::Earlier(number, place.pack, place.index, place.at, place.length, hex(&digest), parts));
    }
    (needs, lines)
}

/// What the manifest says about it.
pub fn described(basis: &Basis, needs: Vec<String>, earlier: &[Line]) -> Increment {
    let parts = earlier.iter().filter_map(|line| if let Line::Earlier(.., parts) = line { Some(parts) } else { None });
    let used = |parts: &Vec<(u32, u64, u64)>| -> u64 {
        parts.iter().filter(|(file, ..)| *file != super::NOWHERE).map(|(.., length)| length).sum()
    };
    Increment {
        parent: basis.parent.summary.backup.clone(),
        needs,
        found_by: if basis.changes.is_ok() { FoundBy::Summaries } else { FoundBy::Digests },
        because: basis.changes.as_ref().err().cloned(),
        reused: parts.map(used).sum(),
    }
}

/// Whether everything that this backup builds upon is still a backup: its packs go only after its manifest.
pub async fn still_there(archive: &Archive, needs: &[String]) -> Result<(), BackupError> {
    for backup in needs {
        let name = archive.place().manifest(backup);
        let there = match archive.repository().size(&name).await {
            Ok(size) => matches!(list::outline(archive, &name, size).await?, list::Found::Whole(_)),
            Err(error) if error.is_absent() => false,
            Err(error) => return Err(error.into()),
        };
        if !there {
            return Err(BackupError::ParentGone { backup: backup.clone() });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;
    use matriarch_core::Lsn;

    fn backup(name: &str, timeline: Timeline, stop: u64) -> Summary {
        Summary {
            version: 1,
            backup: name.to_owned(),
            system_identifier: "7".to_owned(),
            major: 18,
            timeline,
            start_lsn: Lsn(stop - 10),
            stop_lsn: Lsn(stop),
            start_time: Timestamp::UNIX_EPOCH,
            stop_time: Timestamp::UNIX_EPOCH,
            from_standby: false,
            data_checksums: true,
            size: 0,
            stored: 0,
            packs: 0,
            backup_label: String::new(),
            control: String::new(),
            tablespaces: Vec::new(),
            damaged: Vec::new(),
            increment: None,
            fallback: None,
        }
    }

    fn server(system_identifier: u64) -> Server {
        Server {
            version: 180_001,
            system_identifier,
            is_standby: false,
            data_checksums: true,
            segment_size: 16 << 20,
            pages_per_file: 131_072,
            tablespaces: Vec::new(),
        }
    }

    #[test]
    fn only_what_lies_on_the_way_is_built_upon() {
        let history = History::parse(2, "1\t0/1F4\tx").unwrap();
        let all = [backup("one", 1, 400), backup("two", 1, 500), backup("astray", 1, 501)];
        let find =
            |backups: &[Summary], system| newest(backups, &history, &server(system)).map(|one| one.backup.clone());
        assert_eq!(find(&all, 7).unwrap(), "two", "timeline 1 was left at 500");
        let refused = find(&all[2..], 7).unwrap_err();
        assert!(refused.contains("astray") && refused.contains("not on the way to timeline 2"), "{refused}");
        assert!(find(&[backup("three", 3, 100)], 7).unwrap_err().contains("timeline 3"));
        assert_eq!(find(&[backup("now", 2, 900)], 7).unwrap(), "now");
        assert!(find(&all, 8).unwrap_err().contains("another database"));
        assert_eq!(find(&[], 7).unwrap_err(), "there is no earlier backup");
    }

    #[test]
    fn the_log_is_not_enough_where_it_does_not_tell_all() {
        let started = |lsn| Started { lsn: Lsn(lsn), time: Timestamp::UNIX_EPOCH };
        let parent = backup("one", 1, 400);
        comparable(&parent, &server(7), &started(400)).unwrap();
        assert!(comparable(&parent, &server(7), &started(399)).unwrap_err().contains("behind"));
        let without = Server { data_checksums: false, ..server(7) };
        assert!(comparable(&parent, &without, &started(400)).unwrap_err().contains("checksums"));
    }
}
