//! What a data directory is, without starting it: `pg_controldata` and a look at the files.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use matriarch_core::{Lsn, Timeline};

use crate::blocking;
use crate::files::FileError;
use crate::instance::Instance;
use crate::staging;
use crate::tool::{self, ToolError};

/// State of a cluster as its control file tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClusterState {
    /// initdb has not finished.
    StartingUp,
    /// A primary that was shut down cleanly.
    ShutDown,
    /// A standby that was shut down cleanly.
    ShutDownInRecovery,
    /// A primary that was stopping and did not finish.
    ShuttingDown,
    /// A primary that crashed while it was recovering.
    InCrashRecovery,
    /// A standby that runs, or that did not shut down cleanly.
    InArchiveRecovery,
    /// A primary that runs, or that crashed.
    InProduction,
}

impl ClusterState {
    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "starting up" => ClusterState::StartingUp,
            "shut down" => ClusterState::ShutDown,
            "shut down in recovery" => ClusterState::ShutDownInRecovery,
            "shutting down" => ClusterState::ShuttingDown,
            "in crash recovery" => ClusterState::InCrashRecovery,
            "in archive recovery" => ClusterState::InArchiveRecovery,
            "in production" => ClusterState::InProduction,
            _ => return None,
        })
    }

    /// Whether it was a standby when this was written.
    pub fn is_standby(self) -> bool {
        matches!(self, ClusterState::ShutDownInRecovery | ClusterState::InArchiveRecovery)
    }

    /// Whether it was shut down cleanly.
    pub fn is_clean(self) -> bool {
        matches!(self, ClusterState::ShutDown | ClusterState::ShutDownInRecovery)
    }
}

/// The parts of the control file that we use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlData {
    /// Version of the control file's layout.
    pub pg_control_version: u32,
    /// Identity that all members of one cluster share.
    pub system_identifier: u64,
    /// State when last written.
    pub state: ClusterState,
    /// Timeline of the latest checkpoint.
    pub timeline: Timeline,
    /// Where the latest checkpoint record starts.
    pub checkpoint_lsn: Lsn,
    /// Where recovery starts.
    pub redo_lsn: Lsn,
    /// How far a standby must replay before it is consistent; zero on a primary.
    pub min_recovery_lsn: Lsn,
    /// Timeline of that position; 0 on a primary.
    pub min_recovery_timeline: Timeline,
    /// Whether pages have checksums.
    pub data_checksums: bool,
    /// Whether hint-bit changes are logged in full.
    pub wal_log_hints: bool,
    /// Bytes of a WAL segment.
    pub wal_segment_size: u64,
    /// The settings that a standby must not undercut, by name.
    pub limits: BTreeMap<&'static str, u32>,
}

impl ControlData {
    /// A (timeline, position) that the local WAL surely reaches: at least one byte into the latest checkpoint record,
    /// or the position a standby must replay to. The end of the WAL may be further; [`crate::wal::local_end`] reads it.
    pub fn reached(&self) -> (Timeline, Lsn) {
        let checkpoint = (self.timeline, Lsn(self.checkpoint_lsn.0 + 1));
        checkpoint.max((self.min_recovery_timeline, self.min_recovery_lsn))
    }

    /// Reads what `pg_controldata` printed under `LC_ALL=C`. The error names the line that is missing or odd.
    pub fn parse(text: &str) -> Result<ControlData, String> {
        let lines: BTreeMap<&str, &str> =
            text.lines().filter_map(|line| line.split_once(':')).map(|(key, value)| (key, value.trim())).collect();
        let get = |key: &str| lines.get(key).copied().ok_or_else(|| format!("pg_controldata printed no '{key}'"));
        let state = get("Database cluster state")?;
        let mut limits = BTreeMap::new();
        for (label, name) in LIMITS {
            limits.insert(name, number(label, get(label)?)?);
        }
        let system_identifier = number("Database system identifier", get("Database system identifier")?)?;
        if system_identifier == 0 {
            return Err("the control file has no system identifier, so it is damaged".into());
        }
        Ok(ControlData {
            pg_control_version: number("pg_control version number", get("pg_control version number")?)?,
            system_identifier,
            state: ClusterState::parse(state).ok_or_else(|| format!("unknown cluster state '{state}'"))?,
            timeline: number("TimeLineID", get("Latest checkpoint's TimeLineID")?)?,
            checkpoint_lsn: number("checkpoint location", get("Latest checkpoint location")?)?,
            redo_lsn: number("REDO location", get("Latest checkpoint's REDO location")?)?,
            min_recovery_lsn: number("minimum recovery location", get("Minimum recovery ending location")?)?,
            min_recovery_timeline: number("minimum recovery timeline", get("Min recovery ending loc's timeline")?)?,
            data_checksums: get("Data page checksum version")? != "0",
            wal_log_hints: get("wal_log_hints setting")? == "on",
            wal_segment_size: number("Bytes per WAL segment", get("Bytes per WAL segment")?)?,
            limits,
        })
    }
}

const LIMITS: [(&str, &str); 5] = [
    ("max_connections setting", "max_connections"),
    ("max_worker_processes setting", "max_worker_processes"),
    ("max_wal_senders setting", "max_wal_senders"),
    ("max_prepared_xacts setting", "max_prepared_transactions"),
    ("max_locks_per_xact setting", "max_locks_per_transaction"),
];

fn number<T: std::str::FromStr>(label: &str, text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("'{text}' is not a value for '{label}'"))
}

/// What stands in an instance's place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DataDirState {
    /// Nothing.
    Missing,
    /// An empty directory.
    Empty,
    /// Our own work that a crash cut short.
    Incomplete(Unfinished),
    /// Something that is not a usable data directory; the text says why.
    Garbage(String),
    /// A data directory of another major version than the programs'.
    OtherMajor {
        /// What its `PG_VERSION` says.
        found: String,
    },
    /// A data directory that can be started.
    Ready(ControlData),
}

/// Work of ours that was cut short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfinished {
    /// initdb or a clone; nothing is in place yet and what was built is swept at the next try.
    Build,
    /// pg_rewind: the directory mixes two histories and must be cloned again.
    Rewind,
}

/// A data directory that could not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// A file could not be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// `pg_controldata` could not be run.
    #[error(transparent)]
    Tool(#[from] ToolError),
}

/// Looks at the instance's data directory; changes nothing, and works while PostgreSQL runs.
pub async fn inspect(instance: &Instance) -> Result<DataDirState, InspectError> {
    let copy = instance.clone();
    if let Some(odd) = blocking::run(move || shape(&copy)).await? {
        return Ok(odd);
    }
    match read(instance).await {
        Ok(control) => Ok(DataDirState::Ready(control)),
        Err(ControlError::Unreadable(why)) => Ok(DataDirState::Garbage(why)),
        Err(ControlError::Tool(error)) => Err(error.into()),
    }
}

/// What the directory is, unless it looks like one that can be started. A dead disk makes this wait.
fn shape(instance: &Instance) -> Result<Option<DataDirState>, InspectError> {
    let dir = &instance.data_dir;
    let unbuilt =
        |state| if staging::is_unfinished(instance) { DataDirState::Incomplete(Unfinished::Build) } else { state };
    let mut entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Some(unbuilt(DataDirState::Missing))),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            return Ok(Some(DataDirState::Garbage("it is a file, not a directory".into())));
        }
        Err(error) => return Err(FileError::new("list", dir, error).into()),
    };
    if entries.next().is_none() {
        return Ok(Some(unbuilt(DataDirState::Empty)));
    }
    if staging::is_rewinding(instance) {
        return Ok(Some(DataDirState::Incomplete(Unfinished::Rewind)));
    }
    Ok(check_shape(instance, dir))
}

fn check_shape(instance: &Instance, dir: &Path) -> Option<DataDirState> {
    let garbage = |why: &str| Some(DataDirState::Garbage(why.to_owned()));
    let Ok(found) = fs::read_to_string(dir.join("PG_VERSION")) else {
        return garbage("it is not empty and has no PG_VERSION file, so PostgreSQL did not make it");
    };
    let found = found.trim();
    if found.is_empty() || !found.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return garbage("its PG_VERSION file holds no version");
    }
    if found != instance.binaries.version().major.to_string() {
        return Some(DataDirState::OtherMajor { found: found.to_owned() });
    }
    if let Some(missing) = ["global/pg_control", "base", "pg_wal", "pg_xact", "postgresql.conf"]
        .iter()
        .find(|name| !dir.join(name).exists())
    {
        return garbage(&format!("it has no {missing}"));
    }
    None
}

/// A control file that could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// `pg_controldata` ran and could make nothing of the file.
    #[error("the control file of the data directory cannot be used: {0}")]
    Unreadable(String),
    /// `pg_controldata` could not be run.
    #[error(transparent)]
    Tool(ToolError),
}

/// Reads the control file of the instance's data directory.
pub async fn read(instance: &Instance) -> Result<ControlData, ControlError> {
    match read_once(instance).await {
        // A running server may have been writing it at that moment.
        Err(ControlError::Unreadable(_)) => read_once(instance).await,
        done => done,
    }
}

async fn read_once(instance: &Instance) -> Result<ControlData, ControlError> {
    let mut command = tool::command(instance, "pg_controldata", Path::new("/"));
    command.arg("-D").arg(&instance.data_dir);
    match tool::run(command, |_| ()).await {
        // On standard output in older majors, on standard error in newer ones; it succeeds all the same.
        Ok(printed) if printed.stdout.contains("WARNING") || printed.stderr.contains("warning:") => {
            Err(ControlError::Unreadable("its checksum or its sizes are wrong, so it is damaged".into()))
        }
        Ok(printed) => ControlData::parse(&printed.stdout).map_err(ControlError::Unreadable),
        Err(ToolError::Failed { stderr, .. }) => Err(ControlError::Unreadable(stderr)),
        Err(error) => Err(ControlError::Tool(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRINTED: &str = "\
pg_control version number:            1300
Catalog version number:               202209061
Database system identifier:           7575123456789012345
Database cluster state:               in archive recovery
pg_control last modified:             Sat 21 Nov 2026 02:00:00 PM UTC
Latest checkpoint location:           0/3000110
Latest checkpoint's REDO location:    0/30000D8
Latest checkpoint's REDO WAL file:    000000020000000000000003
Latest checkpoint's TimeLineID:       2
Minimum recovery ending location:     0/3000200
Min recovery ending loc's timeline:   2
wal_level setting:                    replica
wal_log_hints setting:                on
max_connections setting:              100
max_worker_processes setting:         8
max_wal_senders setting:              10
max_prepared_xacts setting:           0
max_locks_per_xact setting:           64
track_commit_timestamp setting:       off
Bytes per WAL segment:                16777216
Data page checksum version:           1
";

    #[test]
    fn reads_what_pg_controldata_prints() {
        let control = ControlData::parse(PRINTED).unwrap();
        assert_eq!(control.system_identifier, 7575123456789012345);
        assert_eq!((control.timeline, control.checkpoint_lsn), (2, Lsn(0x300_0110)));
        assert!(control.state.is_standby() && !control.state.is_clean() && control.data_checksums);
        assert_eq!(control.limits["max_locks_per_transaction"], 64);
        assert_eq!(control.reached(), (2, Lsn(0x300_0200)));
    }

    #[test]
    fn says_which_line_is_wrong() {
        let error = ControlData::parse("Database cluster state: sleeping").unwrap_err();
        assert!(error.contains("max_connections"), "{error}");
        assert!(
            ControlData::parse(&PRINTED.replace("7575123456789012345", "0")).is_err(),
            "a zeroed file was accepted"
        );
        let error = ControlData::parse(&PRINTED.replace("0/3000110", "nowhere")).unwrap_err();
        assert!(error.contains("nowhere"), "{error}");
    }
}
