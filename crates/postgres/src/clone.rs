//! Copying a data directory from another member with pg_basebackup, and putting a copy, from wherever, in its place.

use std::path::{Path, PathBuf};

use matriarch_core::Incarnation;
use tokio::sync::watch;

use crate::conf;
use crate::conninfo::{self, Source};
use crate::files::{self, FileError};
use crate::incarnation;
use crate::include;
use crate::instance::{Instance, RunDirError};
use crate::owner::{self, OwnerError};
use crate::process::{self, KillError};
use crate::staging::{self, StagingError};
use crate::tool::{self, ToolError};

/// How far a clone is. The total is the source's estimate and may grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CloneProgress {
    /// Bytes received.
    pub done: u64,
    /// Bytes expected; 0 until the source has said.
    pub total: u64,
}

/// What becomes of a data directory that is in the way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OldData {
    /// It stays in place until the clone is complete, then it is removed: needs space for both.
    #[default]
    KeepUntilDone,
    /// It is removed first: for a file system that cannot hold both. If the clone then fails, nothing is left.
    RemoveFirst,
}

/// How to clone.
#[derive(Clone, Debug, Default)]
pub struct CloneOptions {
    /// What becomes of a data directory in the way.
    pub old_data: OldData,
    /// Physical slot on the source that holds back WAL until this member streams; it must exist.
    pub slot: Option<String>,
    /// Kilobytes per second to take at most.
    pub max_rate: Option<u32>,
    /// Further arguments for pg_basebackup.
    pub extra: Vec<String>,
}

/// A clone that did not succeed. The data directory is as before (unless [`OldData::RemoveFirst`] was asked for).
#[derive(Debug, thiserror::Error)]
pub enum CloneError {
    /// The source cannot be reached or is not ready: try again, or take another source.
    #[error("cannot clone from {source_address}: {said}")]
    SourceUnavailable {
        /// `host:port`.
        source_address: String,
        /// What pg_basebackup said.
        said: String,
    },
    /// The source refused the replication user.
    #[error(
        "{source_address} refuses user '{user}': {said}; check the password in the configuration and the source's \
         pg_hba rules"
    )]
    Refused {
        /// `host:port`.
        source_address: String,
        /// The replication user.
        user: String,
        /// What pg_basebackup said.
        said: String,
    },
    /// The source's certificate was not accepted.
    #[error(
        "{source_address} is not trusted: {said}; check that sslrootcert (or postgresql.tls.ca_file) holds the \
         authority that signed its certificate, that the certificate has not expired, and that it names this host"
    )]
    Untrusted {
        /// `host:port`.
        source_address: String,
        /// What pg_basebackup said.
        said: String,
    },
    /// The slot asked for does not exist on the source yet.
    #[error("{source_address} has no replication slot '{slot}'; its leader creates it, try again")]
    NoSlot {
        /// `host:port`.
        source_address: String,
        /// The slot.
        slot: String,
    },
    /// The file system is full.
    #[error(
        "no space for a clone beside {dir}: {said}; free space there, or let the old data directory be removed first",
        dir = dir.display()
    )]
    NoSpace {
        /// The data directory.
        dir: PathBuf,
        /// What pg_basebackup said.
        said: String,
    },
    /// The copy has another major version, or none.
    #[error("{source_address} runs another PostgreSQL major version ({found}) than this member ({ours})")]
    OtherMajor {
        /// `host:port`.
        source_address: String,
        /// The source's `PG_VERSION`.
        found: String,
        /// Our major.
        ours: u32,
    },
    /// PostgreSQL still runs in the data directory that is to be replaced.
    #[error("PostgreSQL still runs in {dir} (process {pid}); stop it before cloning over it", dir = dir.display())]
    Running {
        /// The data directory.
        dir: PathBuf,
        /// One of its processes.
        pid: u32,
    },
    /// Anything else pg_basebackup said.
    #[error("could not clone from {source_address}: {source}")]
    Tool {
        /// `host:port`.
        source_address: String,
        /// What it said.
        #[source]
        source: ToolError,
    },
    /// The directories could not be prepared or exchanged.
    #[error(transparent)]
    Staging(#[from] StagingError),
    /// The owner cannot get there.
    #[error(transparent)]
    Owner(#[from] OwnerError),
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

/// Clones `source` beside the data directory and then puts the copy in its place, with `standby.signal` and a new
/// incarnation. Whatever was there (nothing, garbage, old data) is removed once the clone is complete. PostgreSQL must
/// not be running there. Dropping the future kills pg_basebackup and leaves the old state.
pub async fn clone_from(
    instance: &Instance,
    source: &Source,
    options: &CloneOptions,
    progress: &watch::Sender<CloneProgress>,
) -> Result<Incarnation, CloneError> {
    let dir = begin(instance).await?;
    if options.old_data == OldData::RemoveFirst {
        staging::remove_current(instance).await?;
    }
    progress.send_replace(CloneProgress::default());
    let mut command = tool::command(instance, "pg_basebackup", &dir);
    // libpq finds the password here; a command line would show it to every user of the host.
    command.env("PGPASSWORD", &instance.replication.password);
    command.arg("-D").arg(&dir).arg("-d").arg(source.conninfo(&instance.replication, &[]));
    command.args(["--wal-method=stream", "--checkpoint=fast", "--progress", "--no-password", "--no-manifest"]);
    if let Some(slot) = &options.slot {
        command.arg(format!("--slot={slot}"));
    }
    if let Some(rate) = options.max_rate {
        command.arg(format!("--max-rate={rate}k"));
    }
    command.args(&options.extra);
    let run = tool::run(command, |line| {
        if let Some(now) = parse_progress(line) {
            progress.send_replace(now);
        }
    });
    if let Err(error) = run.await {
        staging::sweep(instance).await?;
        return Err(explain(instance, source, options, error));
    }
    finish(instance, source, dir).await
}

/// An empty directory beside the instance's, to build a copy in; what an earlier try left is ended and removed. PostgreSQL must not
/// be running on the instance's own.
pub async fn begin(instance: &Instance) -> Result<PathBuf, CloneError> {
    check_place(instance).await?;
    Ok(staging::begin(instance).await?)
}

/// The directory of [`begin`] as an earlier try has left it, if `goes_on` says that it can be gone on with. What still runs there
/// is ended.
pub async fn left(instance: &Instance, goes_on: fn(&Path) -> bool) -> Result<Option<PathBuf>, CloneError> {
    check_place(instance).await?;
    Ok(staging::left(instance, goes_on).await?)
}

async fn check_place(instance: &Instance) -> Result<(), CloneError> {
    if let Some(pid) = process::tree_async(&instance.data_dir).await.first() {
        return Err(CloneError::Running { dir: instance.data_dir.clone(), pid: *pid });
    }
    if let Some(owner) = &instance.owner {
        owner::check_reachable(&instance.data_dir, owner)?;
        owner::check_reachable(&instance.run_dir, owner)?;
    }
    Ok(instance.prepare_run_dir()?)
}

/// Puts the copy that was built in the directory of [`begin`] in the instance's place, as a standby with a new incarnation. Whatever
/// was there is removed. Not to be dropped for another copy before it has returned.
pub async fn place(instance: &Instance, dir: &Path) -> Result<Incarnation, CloneError> {
    if !dir.join("postgresql.conf").exists() {
        // Some keep it outside of the data directory, so that no backup has it.
        instance.write_in(dir, "postgresql.conf", b"")?;
    }
    include::ensure_in(instance, dir)?;
    files::remove_durably(&dir.join(conf::RECOVERY_SIGNAL))?;
    instance.write_in(dir, conf::STANDBY_SIGNAL, b"")?;
    let incarnation = incarnation::renew_in(instance, dir)?;
    staging::replace(instance)?;
    staging::sweep(instance).await?;
    Ok(incarnation)
}

async fn finish(instance: &Instance, source: &Source, dir: PathBuf) -> Result<Incarnation, CloneError> {
    let found = std::fs::read_to_string(dir.join("PG_VERSION")).unwrap_or_default();
    let ours = instance.binaries.version().major;
    if found.trim() != ours.to_string() {
        staging::sweep(instance).await?;
        let found = found.trim().to_owned();
        return Err(CloneError::OtherMajor { source_address: address(source), found, ours });
    }
    place(instance, &dir).await
}

fn address(source: &Source) -> String {
    format!("{}:{}", source.host, source.port)
}

fn explain(instance: &Instance, source: &Source, options: &CloneOptions, error: ToolError) -> CloneError {
    let said = error.stderr().to_owned();
    let has = |text: &str| said.contains(text);
    let source_address = address(source);
    if has("No space left on device") || has("Disk quota exceeded") {
        return CloneError::NoSpace { dir: instance.data_dir.clone(), said: last_lines(&said) };
    }
    if let Some(slot) = options.slot.as_ref().filter(|slot| has(&format!("replication slot \"{slot}\" does not exist")))
    {
        return CloneError::NoSlot { source_address, slot: slot.clone() };
    }
    if conninfo::is_distrust(&said) {
        return CloneError::Untrusted { source_address, said: last_lines(&said) };
    }
    if has("password authentication failed")
        || has("no pg_hba.conf entry")
        || has("no password supplied")
        || has("pg_hba.conf rejects")
    {
        let user = instance.replication.username.clone();
        return CloneError::Refused { source_address, user, said: last_lines(&said) };
    }
    let unreachable =
        ["connection to server", "could not connect", "the database system is", "server closed the connection"];
    if unreachable.iter().any(|text| has(text)) {
        return CloneError::SourceUnavailable { source_address, said: last_lines(&said) };
    }
    CloneError::Tool { source_address, source: error }
}

/// The end of a message without progress lines.
fn last_lines(said: &str) -> String {
    let lines: Vec<&str> =
        said.lines().map(str::trim).filter(|line| !line.is_empty() && parse_progress(line).is_none()).collect();
    lines[lines.len().saturating_sub(4)..].join("; ")
}

/// Reads `  23456/45678 kB (51%), 0/1 tablespace`.
fn parse_progress(line: &str) -> Option<CloneProgress> {
    let (done, rest) = line.trim_start().split_once('/')?;
    let (total, _) = rest.split_once(" kB (")?;
    Some(CloneProgress { done: done.parse::<u64>().ok()? * 1024, total: total.parse::<u64>().ok()? * 1024 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_progress_and_nothing_else() {
        let of = |line| parse_progress(line).map(|p| (p.done / 1024, p.total / 1024));
        assert_eq!(of("  23456/45678 kB (51%), 0/1 tablespace"), Some((23456, 45678)));
        assert_eq!(of("45688/45678 kB (100%), 1/1 tablespace"), Some((45688, 45678)));
        assert_eq!(of("pg_basebackup: error: could not write to file \"base/1\": x"), None);
        assert_eq!(last_lines("1/2 kB (50%), 0/1 tablespace\npg_basebackup: error: x\n"), "pg_basebackup: error: x");
    }
}
