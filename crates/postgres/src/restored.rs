//! A data directory that is restored instead of made: begun beside its place, recovered by itself, and put there.

use std::path::{Path, PathBuf};
use std::time::Duration;

use matriarch_core::{Incarnation, Lsn};

use crate::bootstrap::{self, InitdbError};
use crate::files::FileError;
use crate::instance::Instance;
use crate::postmaster::StartError;
use crate::process::KillError;
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

/// Starts PostgreSQL there by itself until recovery is over, gives our roles the passwords of the configuration, and stops it.
/// Says where recovery ended.
pub async fn recover(instance: &Instance, dir: &Path, log: &Path) -> Result<Lsn, RestoredError> {
    let alone = Instance {
        data_dir: dir.to_owned(),
        // Whoever waits at the member's own socket must not get in without a password.
        run_dir: instance.run_dir.join("r"),
        listen_addresses: Vec::new(),
        passfile: None,
        ..instance.clone()
    };
    let server = scratch::start(&alone, &[], log).await?;
    let sql = server.ready().await.map_err(|error| refined(error, instance))?;
    let reached = reached(&sql).await?;
    roles::create_roles(&sql, instance).await?;
    roles::set_passwords(&sql, instance).await?;
    drop(sql);
    server.stop(STOP).await?;
    Ok(reached)
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
    // Some keep it outside of the data directory, so that no backup has it.
    if !dir.join("postgresql.conf").exists() {
        instance.write_in(dir, "postgresql.conf", b"")?;
    }
    include::ensure_in(instance, dir)?;
    let incarnation = incarnation::renew_in(instance, dir)?;
    staging::place(instance)?;
    Ok(incarnation)
}
