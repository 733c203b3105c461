//! A data directory that is restored instead of made: begun beside its place, recovered by itself, and put there.

use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

use matriarch_core::{Incarnation, Lsn, Timeline};
use tokio_postgres::Config;

use crate::bootstrap::{self, InitdbError};
use crate::control::{self, ClusterState, ControlError};
use crate::dump::Access;
use crate::files::{self, Context, FileError};
use crate::instance::Instance;
use crate::postmaster::StartError;
use crate::process::{self, KillError};
use crate::sql::{Sql, SqlError};
use crate::staging::{self, StagingError};
use crate::{incarnation, include, roles, scratch};

/// For a clean stop after recovery.
const STOP: Duration = Duration::from_secs(60);
/// For one question.
const ANSWER: Duration = Duration::from_secs(30);
/// SQLSTATE of a role that does not exist.
const NO_ROLE: &str = "28000";

/// A restored directory that could not be made a member's.
#[derive(Debug, thiserror::Error)]
pub enum RestoredError {
    /// PostgreSQL did not get through recovery.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The superuser of the configuration is not in the restored data.
    #[error(
        "the restored cluster has no superuser '{0}': name the one it has as postgresql.authentication.superuser.username, on every \
         host"
    )]
    NoSuperuser(String),
    /// PostgreSQL did not do what was asked.
    #[error(transparent)]
    Sql(#[from] SqlError),
    /// It does not say where recovery ended.
    #[error("PostgreSQL says '{0}' when asked where recovery ended")]
    Reached(String),
    /// It ended, and not as one that has replayed what it was to.
    #[error("recovery was to end at {until} and left the data directory {state}")]
    Unfinished {
        /// Where it was to end.
        until: String,
        /// State of the data directory.
        state: String,
    },
    /// The control file.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// It could not be stopped.
    #[error(transparent)]
    Stop(#[from] KillError),
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// It could not be put in its place.
    #[error(transparent)]
    Place(#[from] StagingError),
}

/// An empty directory beside the instance's, to restore into; what an earlier try left is ended and removed. The place must be
/// free or an empty directory.
pub async fn begin(instance: &Instance) -> Result<PathBuf, InitdbError> {
    bootstrap::begin(instance).await
}

/// The directory of [`begin`] as an earlier try has left it, if `goes_on` says that it can be gone on with. What still runs there
/// is ended.
pub async fn left(instance: &Instance, goes_on: fn(&Path) -> bool) -> Result<Option<PathBuf>, InitdbError> {
    bootstrap::left(instance, goes_on).await
}

/// Starts PostgreSQL there by itself until recovery is over, gives our roles the passwords of the configuration, and stops it.
/// Says where recovery ended. `settings` win over those of the files.
pub async fn recover(
    instance: &Instance,
    dir: &Path,
    settings: &[(&str, &str)],
    log: &Path,
) -> Result<Lsn, RestoredError> {
    let server = scratch::start(&alone(instance, dir), settings, log).await?;
    let sql = server.ready().await.map_err(|error| refined(error, instance))?;
    let reached = reached(&sql).await?;
    roles::create_roles(&sql, instance).await?;
    roles::set_passwords(&sql, instance).await?;
    drop(sql);
    server.stop(STOP).await?;
    Ok(reached)
}

/// Writes a file at the top of a directory that is being built, for the instance's owner.
///
/// # Errors
/// When it cannot be written.
pub fn write(instance: &Instance, dir: &Path, name: &str, content: &[u8]) -> Result<(), FileError> {
    instance.write_in(dir, name, content).map(drop)
}

/// Starts PostgreSQL there by itself until it has replayed the WAL in the directory up to the first record at or after `until`
/// (without one: until the data is consistent), and has ended as a standby does that is stopped. It does not promote.
///
/// # Errors
/// When recovery ends before that, with its last messages.
pub async fn replay(
    instance: &Instance,
    dir: &Path,
    until: Option<Lsn>,
    timeline: Timeline,
    log: &Path,
) -> Result<(), RestoredError> {
    let (timeline, position) = (timeline.to_string(), until.map(|lsn| lsn.to_string()));
    let target = match &position {
        Some(position) => ("recovery_target_lsn", position.as_str()),
        None => ("recovery_target", "immediate"),
    };
    let settings = [
        // What is not found by it is looked for in pg_wal.
        ("restore_command", "false"),
        ("recovery_target_timeline", timeline.as_str()),
        ("recovery_target_action", "shutdown"),
        target,
    ];
    let alone = alone(instance, dir);
    let server = scratch::start(&alone, &settings, log).await?;
    server.ended().await?;
    process::kill_tree_async(dir, STOP).await?;
    let state = control::read(&alone).await?.state;
    if state != ClusterState::ShutDownInRecovery {
        let until = position.unwrap_or_else(|| "its first consistent moment".to_owned());
        return Err(RestoredError::Unfinished { until, state: format!("{state:?}") });
    }
    Ok(())
}

/// Starts PostgreSQL there by itself with these settings, lets `work` fill it, gives our roles the passwords of the configuration,
/// and stops it.
pub async fn fill<E: From<RestoredError>>(
    instance: &Instance,
    dir: &Path,
    log: &Path,
    settings: &[(&str, &str)],
    work: impl AsyncFnOnce(Access) -> Result<(), E>,
) -> Result<(), E> {
    let alone = alone(instance, dir);
    let server = scratch::start(&alone, settings, log).await.map_err(RestoredError::from)?;
    let sql = server.ready().await.map_err(|error| refined(error, instance))?;
    let mut config = Config::new();
    config.host_path(&alone.run_dir).port(alone.port).user(&alone.superuser.username);
    work(Access::new(alone.binaries.clone(), config)).await?;
    roles::create_roles(&sql, instance).await.map_err(RestoredError::from)?;
    roles::set_passwords(&sql, instance).await.map_err(RestoredError::from)?;
    drop(sql);
    server.stop(STOP).await.map_err(RestoredError::from)?;
    Ok(())
}

fn alone(instance: &Instance, dir: &Path) -> Instance {
    Instance {
        data_dir: dir.to_owned(),
        // Whoever waits at the member's own socket must not get in without a password.
        run_dir: instance.run_dir.join("r"),
        listen_addresses: Vec::new(),
        passfile: None,
        ..instance.clone()
    }
}

fn refined(error: StartError, instance: &Instance) -> RestoredError {
    match error {
        StartError::Connect(SqlError::Connect { code: Some(code), .. }) if code == NO_ROLE => {
            RestoredError::NoSuperuser(instance.superuser.username.clone())
        }
        error => error.into(),
    }
}

async fn reached(sql: &Sql) -> Result<Lsn, RestoredError> {
    let rows = sql.query("say where recovery ended", "SELECT pg_last_wal_replay_lsn()::text", ANSWER).await?;
    let text = rows.into_iter().flatten().next().flatten().unwrap_or_default();
    text.parse().map_err(|_| RestoredError::Reached(text))
}

/// Makes it this member's, with an identity of its own, and puts it in the data directory's place.
pub fn finish(instance: &Instance, dir: &Path) -> Result<Incarnation, RestoredError> {
    let incarnation = ready(instance, dir)?;
    staging::place(instance)?;
    Ok(incarnation)
}

/// Makes it this member's, with an identity of its own; it stays where it is.
pub fn ready(instance: &Instance, dir: &Path) -> Result<Incarnation, RestoredError> {
    // Some keep it outside of the data directory, so that no backup has it.
    if !dir.join("postgresql.conf").exists() {
        instance.write_in(dir, "postgresql.conf", b"")?;
    }
    include::ensure_in(instance, dir)?;
    Ok(incarnation::renew_in(instance, dir)?)
}

/// Makes a directory that was put aside this member's again, under a new identity: it starts as a standby, to be promoted.
///
/// # Errors
/// When it cannot be written.
pub fn revive(instance: &Instance, dir: &Path) -> Result<Incarnation, RestoredError> {
    instance.write_in(dir, "standby.signal", b"")?;
    Ok(incarnation::renew_in(instance, dir)?)
}

/// Puts `incoming` in the data directory's place, and what was there at `outgoing`, which must be free. Cut off anywhere, it is
/// done by the next call. Not on another thread: when it has returned, nothing changes any more.
///
/// # Errors
/// The renames. Nothing is lost then.
pub fn change_places(data_dir: &Path, incoming: &Path, outgoing: &Path) -> Result<(), FileError> {
    if fs::symlink_metadata(incoming).is_err() {
        return Err(FileError::new("find", incoming, io::ErrorKind::NotFound.into()));
    }
    // Else this is what an earlier call has begun.
    if fs::symlink_metadata(data_dir).is_ok() {
        if fs::symlink_metadata(outgoing).is_ok() {
            return Err(FileError::new("move the data directory to", outgoing, io::ErrorKind::AlreadyExists.into()));
        }
        fs::rename(data_dir, outgoing).doing("move aside", data_dir)?;
    }
    fs::rename(incoming, data_dir).doing("put in the data directory's place", incoming)?;
    files::fsync_dir(files::parent(data_dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_change_places_and_a_second_call_finishes_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let [data, new, old] = ["data", "new", "old"].map(|name| dir.path().join(name));
        for (path, text) in [(&data, "old"), (&new, "new")] {
            fs::create_dir(path).unwrap();
            fs::write(path.join("is"), text).unwrap();
        }
        let is = |path: &Path| fs::read_to_string(path.join("is")).unwrap_or_default();
        // Cut off after the first rename.
        fs::rename(&data, &old).unwrap();
        change_places(&data, &new, &old).unwrap();
        assert_eq!((is(&data), is(&old), new.exists()), ("new".to_owned(), "old".to_owned(), false));
        // Nothing to come, and nowhere to go: all stays.
        assert!(change_places(&data, &new, &dir.path().join("free")).is_err());
        assert!(change_places(&data, &old, &old).is_err());
        assert_eq!((is(&data), is(&old)), ("new".to_owned(), "old".to_owned()));
        let newer = dir.path().join("newer");
        change_places(&data, &old, &newer).unwrap();
        assert_eq!((is(&data), is(&newer)), ("old".to_owned(), "new".to_owned()));
    }
}
