//! Timelines: which history a member's WAL belongs to.

use std::fs;
use std::path::{Path, PathBuf};

use matriarch_core::{Lsn, Timeline};

use crate::conninfo::Source;
use crate::files::{self, FileError};
use crate::instance::Instance;
use crate::tool::{self, ToolError};

/// The timelines that led to one timeline, oldest first, each with the position where it was left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History {
    /// The timeline this is the history of.
    pub timeline: Timeline,
    /// Its ancestors.
    pub ancestors: Vec<Ancestor>,
}

/// A timeline and where its successor in the history forked off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ancestor {
    /// The timeline that was left.
    pub timeline: Timeline,
    /// The first position that belongs to the next one.
    pub switch_lsn: Lsn,
}

/// How a member's WAL stands to the leader's history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Divergence {
    /// On the leader's timeline.
    Same,
    /// On an ancestor and not past its end: streaming will bring it over.
    Behind,
    /// It has WAL that the leader's history does not have, from `fork` on ([`Lsn::ZERO`] when that is unknown).
    Diverged {
        /// The last position in common.
        fork: Lsn,
    },
}

/// Text that is not a timeline history.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of the history of timeline {timeline} makes no sense: '{text}'; the file is damaged")]
pub struct BadHistory {
    /// Whose history.
    pub timeline: Timeline,
    /// Line number from 1.
    pub line: usize,
    /// The line.
    pub text: String,
}

impl History {
    /// The history of a timeline without ancestors.
    pub fn root(timeline: Timeline) -> Self {
        History { timeline, ancestors: Vec::new() }
    }

    /// Reads the text of `0000000N.history`.
    pub fn parse(timeline: Timeline, text: &str) -> Result<Self, BadHistory> {
        let mut ancestors: Vec<Ancestor> = Vec::new();
        for (index, line) in text.lines().enumerate() {
            if line.trim().is_empty() || line.trim_start().starts_with('#') {
                continue;
            }
            let mut fields = line.split_whitespace();
            let entry = fields.next().and_then(|t| t.parse().ok()).zip(fields.next().and_then(|l| l.parse().ok()));
            let last = ancestors.last().map_or(0, |ancestor| ancestor.timeline);
            match entry {
                Some((ancestor, switch_lsn)) if ancestor > last && ancestor < timeline => {
                    ancestors.push(Ancestor { timeline: ancestor, switch_lsn });
                }
                _ => return Err(BadHistory { timeline, line: index + 1, text: line.to_owned() }),
            }
        }
        Ok(History { timeline, ancestors })
    }

    /// Where the history leaves `timeline`; `None` when it never was on it, `Some(None)` when it still is.
    fn end_of(&self, timeline: Timeline) -> Option<Option<Lsn>> {
        if timeline == self.timeline {
            return Some(None);
        }
        self.ancestors.iter().find(|ancestor| ancestor.timeline == timeline).map(|ancestor| Some(ancestor.switch_lsn))
    }

    /// What the history file of a timeline below ours says: its part of our history.
    fn file_of(&self, timeline: Timeline) -> String {
        if !self.ancestors.iter().any(|ancestor| ancestor.timeline == timeline) {
            return PLACEHOLDER.to_owned();
        }
        let before = self.ancestors.iter().filter(|ancestor| ancestor.timeline < timeline);
        before
            .map(|ancestor| format!("{}\t{}\tcompleted by Matriarch\n", ancestor.timeline, ancestor.switch_lsn))
            .collect()
    }

    /// Name of the history file of a timeline.
    pub fn file_name(timeline: Timeline) -> String {
        format!("{timeline:08X}.history")
    }
}

/// The file of a timeline that is in nobody's history.
const PLACEHOLDER: &str = "# This timeline was never used (Matriarch): it only keeps its number from being taken.\n";

/// A promotion that cannot open the timeline that is reserved for it.
#[derive(Debug, thiserror::Error)]
pub enum ReserveError {
    /// Somebody has opened it.
    #[error("timeline {timeline} is taken: {file} is there", file = file.display())]
    Taken {
        /// Which.
        timeline: Timeline,
        /// Its history.
        file: PathBuf,
    },
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// The history of the own timeline.
    #[error(transparent)]
    Read(#[from] HistoryError),
}

/// Makes the next promotion open timeline `next`: PostgreSQL takes the first number above its own, `own`, for which it
/// finds no history, so it is shown one for each number below `next`.
///
/// They stay: a replica that follows asks its primary for the history of every number between its own and the primary's,
/// and cannot stream when one is missing. A copy of a primary (`pg_basebackup`) lacks those of its ancestors: they are
/// completed from its own.
pub fn reserve(instance: &Instance, own: Timeline, next: Timeline) -> Result<(), ReserveError> {
    let folder = instance.data("pg_wal");
    let file = folder.join(History::file_name(next));
    if file.exists() {
        return Err(ReserveError::Taken { timeline: next, file });
    }
    let known = if own > 1 { read(instance, own)? } else { Some(History::root(own)) };
    for timeline in 2..next {
        let path = folder.join(History::file_name(timeline));
        if path.exists() {
            continue;
        }
        let text = match &known {
            Some(known) => known.file_of(timeline),
            None if timeline > own => PLACEHOLDER.to_owned(),
            None => continue,
        };
        files::write_atomic(&path, text.as_bytes(), 0o600, instance.owner.as_ref())?;
    }
    Ok(())
}

/// Removes what [`reserve`] made for a promotion that did not come about: a server that starts would take the newest
/// history it finds for its own future, and give up.
pub fn forget_reserved(instance: &Instance) -> Result<(), FileError> {
    let Ok(entries) = fs::read_dir(instance.data("pg_wal")) else { return Ok(()) };
    let histories = entries.flatten().map(|entry| entry.path());
    let (unused, opened): (Vec<_>, Vec<_>) = histories
        .filter(|path| path.extension().is_some_and(|ending| ending == "history"))
        .partition(|path| fs::read_to_string(path).is_ok_and(|text| text == PLACEHOLDER));
    let newest = opened.iter().filter_map(|path| path.file_name()).max();
    for path in unused.iter().filter(|path| path.file_name() > newest) {
        files::remove_durably(path)?;
    }
    Ok(())
}

/// Compares a member's end of WAL with the leader's history. `member` is the member's own history if known; it only
/// serves to find the fork when the member is on a timeline that the leader never was on.
pub fn divergence(member: &History, member_lsn: Lsn, leader: &History) -> Divergence {
    match leader.end_of(member.timeline) {
        Some(None) => Divergence::Same,
        Some(Some(end)) if member_lsn <= end => Divergence::Behind,
        Some(Some(end)) => Divergence::Diverged { fork: end },
        None => Divergence::Diverged { fork: fork(member, leader) },
    }
}

/// The last position that two histories have in common; zero when they share no timeline.
pub fn fork(one: &History, other: &History) -> Lsn {
    let common = one.ancestors.iter().rev().find_map(|ancestor| {
        let other_end = other.end_of(ancestor.timeline)?;
        Some(other_end.map_or(ancestor.switch_lsn, |end| end.min(ancestor.switch_lsn)))
    });
    common.unwrap_or(Lsn::ZERO)
}

/// A history that could not be had.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// It could not be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// It is damaged.
    #[error(transparent)]
    Bad(#[from] BadHistory),
    /// The other server did not give it.
    #[error("could not get the history of timeline {timeline} from {source_address}: {source}")]
    Fetch {
        /// Which.
        timeline: Timeline,
        /// `host:port`.
        source_address: String,
        /// What psql said.
        #[source]
        source: ToolError,
    },
}

/// Reads a timeline's history from the instance's `pg_wal`; `None` when there is no such file (timeline 1 has none,
/// and needs none).
pub fn read(instance: &Instance, timeline: Timeline) -> Result<Option<History>, HistoryError> {
    if timeline <= 1 {
        return Ok(Some(History::root(timeline)));
    }
    let path = instance.data("pg_wal").join(History::file_name(timeline));
    match fs::read_to_string(&path) {
        Ok(text) => Ok(Some(History::parse(timeline, &text)?)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(FileError::new("read", &path, error).into()),
    }
}

/// Asks a server for a timeline's history over the replication protocol, as the replication user.
pub async fn fetch(instance: &Instance, source: &Source, timeline: Timeline) -> Result<History, HistoryError> {
    if timeline <= 1 {
        return Ok(History::root(timeline));
    }
    let mut command = tool::command(instance, "psql", Path::new("/"));
    command.env("PGPASSWORD", &instance.replication.password);
    command.args(["--no-psqlrc", "--no-password", "--tuples-only", "--no-align", "--field-separator=|"]);
    command.arg("-d").arg(source.conninfo(&instance.replication, &[("replication", "1")]));
    command.arg("-c").arg(format!("TIMELINE_HISTORY {timeline}"));
    let fail = |source_error| HistoryError::Fetch {
        timeline,
        source_address: format!("{}:{}", source.host, source.port),
        source: source_error,
    };
    let printed = tool::run(command, |_| ()).await.map_err(fail)?;
    let content = printed.stdout.split_once('|').map_or("", |(_, content)| content);
    Ok(History::parse(timeline, content)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const THREE: &str = "1\t0/3000000\tno recovery target specified\n\n2\t0/5000000\tno recovery target specified\n";

    #[test]
    fn reads_history_files() {
        let history = History::parse(3, THREE).unwrap();
        assert_eq!(history.ancestors[1], Ancestor { timeline: 2, switch_lsn: Lsn(0x500_0000) });
        assert_eq!(History::parse(3, "x").unwrap_err().line, 1);
        assert!(History::parse(2, "2\t0/1\tx").is_err(), "a timeline is not its own ancestor");
        assert_eq!(History::file_name(26), "0000001A.history");
    }

    #[test]
    fn tells_behind_from_diverged() {
        let leader = History::parse(3, THREE).unwrap();
        let at = |timeline, lsn| divergence(&History::root(timeline), Lsn(lsn), &leader);
        assert_eq!(at(3, 0x900_0000), Divergence::Same);
        assert_eq!(at(2, 0x500_0000), Divergence::Behind);
        assert_eq!(at(2, 0x500_0001), Divergence::Diverged { fork: Lsn(0x500_0000) });
        assert_eq!(at(1, 0x400_0000), Divergence::Diverged { fork: Lsn(0x300_0000) });
        assert_eq!(at(4, 0x400_0000), Divergence::Diverged { fork: Lsn::ZERO });
    }

    #[test]
    fn finds_the_fork_of_siblings() {
        let leader = History::parse(3, "1\t0/3000000\tx").unwrap();
        let member = History::parse(2, "1\t0/2000000\tx").unwrap();
        assert_eq!(divergence(&member, Lsn(0x900_0000), &leader), Divergence::Diverged { fork: Lsn(0x200_0000) });
        let child = History::parse(4, "1\t0/3000000\tx\n3\t0/7000000\tx").unwrap();
        assert_eq!(fork(&child, &leader), Lsn(0x700_0000));
    }
}
