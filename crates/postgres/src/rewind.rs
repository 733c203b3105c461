//! Bringing a diverged data directory back to the leader's history with pg_rewind.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use matriarch_core::{Incarnation, Timeline};

use crate::conf;
use crate::conninfo::{self, Source};
use crate::control::{self, ControlError};
use crate::files::{self, FileError};
use crate::incarnation;
use crate::include;
use crate::instance::{Instance, RunDirError};
use crate::postmaster;
use crate::process::{self, KillError};
use crate::staging;
use crate::tool::{self, ToolError};

/// How a rewind ended well. Either way the directory is ready to start as a standby.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RewindOutcome {
    /// The local WAL had not gone past the fork.
    NotNeeded,
    /// Files were copied from the source; the directory has this new incarnation.
    Rewound(Incarnation),
}

/// A rewind that did not succeed, by what to do next.
#[derive(Debug, thiserror::Error)]
pub enum RewindError {
    /// Only a new clone helps.
    #[error("pg_rewind cannot bring {dir} back, it must be cloned again: {said}", dir = dir.display())]
    NeedsClone {
        /// The data directory.
        dir: PathBuf,
        /// What pg_rewind said.
        said: String,
    },
    /// The source cannot serve now; the data directory is unchanged: try again.
    #[error("{source_address} cannot serve pg_rewind now, try again: {said}")]
    SourceUnavailable {
        /// `host:port`.
        source_address: String,
        /// What pg_rewind said.
        said: String,
    },
    /// The source's certificate was not accepted; the data directory is unchanged.
    #[error(
        "{source_address} is not trusted: {said}; check that sslrootcert (or postgresql.tls.ca_file) holds the \
         authority that signed its certificate, that the certificate has not expired, and that it names this host"
    )]
    Untrusted {
        /// `host:port`.
        source_address: String,
        /// What pg_rewind said.
        said: String,
    },
    /// The source's control file is not on its new timeline yet; it needs a CHECKPOINT: try again.
    #[error(
        "{source_address} has not written a checkpoint on timeline {expected} yet; run CHECKPOINT there and try again"
    )]
    SourceNotCheckpointed {
        /// `host:port`.
        source_address: String,
        /// The leader's timeline.
        expected: Timeline,
    },
    /// The local PostgreSQL could not recover its data directory before the rewind.
    #[error("{dir} could not be recovered before pg_rewind: {said}", dir = dir.display())]
    LocalRecovery {
        /// The data directory.
        dir: PathBuf,
        /// What was said.
        said: String,
    },
    /// The file system is full; the data directory may be half rewound.
    #[error("no space for pg_rewind in {dir}: {said}; free space there", dir = dir.display())]
    NoSpace {
        /// The data directory.
        dir: PathBuf,
        /// What pg_rewind said.
        said: String,
    },
    /// pg_rewind did not run or said something unknown before it changed anything.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// The control file.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The run directory.
    #[error(transparent)]
    RunDir(#[from] RunDirError),
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// Leftover processes.
    #[error(transparent)]
    Kill(#[from] KillError),
}

/// The user's files that pg_rewind would overwrite with the source's.
const KEPT: [&str; 4] = ["postgresql.conf", "postgresql.auto.conf", "pg_hba.conf", "pg_ident.conf"];

/// Rewinds the instance's (stopped) data directory to follow `source`, whose timeline is `leader_timeline`.
///
/// Call it only for a member that has left the leader's history, and after the leader has run a CHECKPOINT on its
/// timeline. A directory that was not shut down cleanly is recovered first, by pg_rewind. A crash or a drop in the
/// middle leaves a mark, and the directory then shows as `Incomplete(Rewind)`.
pub async fn rewind(
    instance: &Instance,
    source: &Source,
    leader_timeline: Timeline,
) -> Result<RewindOutcome, RewindError> {
    process::kill_tree_async(&instance.data_dir, Duration::from_secs(10)).await?;
    instance.prepare_run_dir()?;
    let before = control::read(instance).await?;
    let kept = Kept::read(instance);
    // Single-user recovery, which pg_rewind runs, refuses to start as a standby.
    conf::remove_signals(instance)?;
    // And while something else has the number of the postmaster that died.
    postmaster::remove_stale_locks(instance)?;
    // Nor without the settings that it is to read.
    include::ensure(instance)?;
    staging::mark_rewinding(instance)?;
    match run(instance, source).await {
        Ok(said) if said.contains("no rewind required") => {
            staging::clear_rewinding(instance)?;
            conf::set_standby(instance)?;
            if before.timeline != leader_timeline && said.contains("on the same timeline") {
                return Err(RewindError::SourceNotCheckpointed {
                    source_address: address(source),
                    expected: leader_timeline,
                });
            }
            Ok(RewindOutcome::NotNeeded)
        }
        Ok(_) => {
            kept.restore(instance)?;
            include::ensure(instance)?;
            conf::set_standby(instance)?;
            let incarnation = incarnation::renew(instance)?;
            staging::clear_rewinding(instance)?;
            Ok(RewindOutcome::Rewound(incarnation))
        }
        Err(error) => {
            // pg_rewind announces the copy before its first change; until then the directory is as it was.
            let untouched = !error.stderr().contains(COPYING);
            if untouched {
                staging::clear_rewinding(instance)?;
                conf::set_standby(instance)?;
            }
            Err(explain(instance, source, error, untouched))
        }
    }
}

/// With `--progress`, printed after the plan is made and before the first file is touched.
const COPYING: &str = "need to copy";

async fn run(instance: &Instance, source: &Source) -> Result<String, ToolError> {
    let mut command = tool::command(instance, "pg_rewind", &instance.data_dir);
    command.env("PGPASSWORD", &instance.rewind.password);
    command.arg("-D").arg(&instance.data_dir).arg("--progress");
    command.arg(format!("--source-server={}", source.conninfo(&instance.rewind, &[("dbname", "postgres")])));
    let printed = tool::run(command, |_| ()).await?;
    // Which of the two a message goes to has changed between majors.
    Ok(format!("{}\n{}", printed.stdout, printed.stderr))
}

fn explain(instance: &Instance, source: &Source, error: ToolError, untouched: bool) -> RewindError {
    let all = error.stderr().to_owned();
    let has = |texts: &[&str]| texts.iter().any(|text| all.contains(text));
    let (dir, said) = (instance.data_dir.clone(), last_lines(&all));
    if has(&["No space left on device", "Disk quota exceeded"]) {
        return RewindError::NoSpace { dir, said };
    }
    if !untouched {
        return RewindError::NeedsClone { dir, said };
    }
    if conninfo::is_distrust(&said) {
        return RewindError::Untrusted { source_address: address(source), said };
    }
    if has(&["connection to server", "could not connect", "the database system is", "server closed the connection"])
        || has(&[
            "could not fetch",
            "password authentication failed",
            "no pg_hba.conf entry",
            "permission denied for function",
        ])
    {
        return RewindError::SourceUnavailable { source_address: address(source), said };
    }
    if has(&["postgres single-user mode", "single-user mode of target"]) {
        return RewindError::LocalRecovery { dir, said };
    }
    let hopeless = [
        "could not find common ancestor",
        "could not find previous WAL record",
        "could not read WAL record",
        "could not open file",
        "from different systems",
        "needs to use either data checksums or",
        "not compatible with this version",
        "unexpected control file",
        "invalid control file",
    ];
    if has(&hopeless) { RewindError::NeedsClone { dir, said } } else { RewindError::Tool(error) }
}

fn address(source: &Source) -> String {
    format!("{}:{}", source.host, source.port)
}

fn last_lines(said: &str) -> String {
    let lines: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(4)..].join("; ")
}

/// Small files of the user's, held in memory while pg_rewind runs; if we die meanwhile the directory is cloned anyway.
struct Kept(Vec<(&'static str, Vec<u8>)>);

impl Kept {
    fn read(instance: &Instance) -> Self {
        Kept(KEPT.iter().filter_map(|name| Some((*name, fs::read(instance.data(name)).ok()?))).collect())
    }

    fn restore(&self, instance: &Instance) -> Result<(), FileError> {
        for (name, content) in &self.0 {
            files::write_atomic(&instance.data(name), content, 0o600, instance.owner.as_ref())?;
        }
        Ok(())
    }
}
