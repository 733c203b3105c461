//! Making a new, empty cluster.

use std::path::{Path, PathBuf};

use matriarch_core::Incarnation;

use crate::files::{self, FileError};
use crate::incarnation;
use crate::include;
use crate::instance::{Instance, RunDirError};
use crate::owner::{self, OwnerError};
use crate::staging::{self, StagingError};
use crate::tool::{self, ToolError};

/// What a new cluster looks like.
#[derive(Clone, Debug)]
pub struct InitdbOptions {
    /// Locale of the cluster, `C.UTF-8` by default.
    pub locale: String,
    /// Encoding of the databases, `UTF8` by default.
    pub encoding: String,
    /// Whether pages have checksums; on by default. Without them pg_rewind depends on `wal_log_hints`, which is set.
    pub data_checksums: bool,
    /// Further arguments for initdb.
    pub extra: Vec<String>,
}

impl Default for InitdbOptions {
    fn default() -> Self {
        InitdbOptions { locale: "C.UTF-8".into(), encoding: "UTF8".into(), data_checksums: true, extra: Vec::new() }
    }
}

/// A cluster that could not be made; nothing was put in place.
#[derive(Debug, thiserror::Error)]
pub enum InitdbError {
    /// The directory's place is taken or cannot be prepared.
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
    /// initdb failed.
    #[error("initdb could not make {dir}: {source}{remedy}", dir = dir.display(), remedy = remedy(source))]
    Initdb {
        /// The data directory.
        dir: PathBuf,
        /// What it said.
        #[source]
        source: ToolError,
    },
}

fn remedy(source: &ToolError) -> &'static str {
    let said = source.stderr();
    if said.contains("invalid locale name") {
        "; install that locale or choose another (locale: C always works)"
    } else if said.contains("No space left on device") {
        "; free space on that file system"
    } else {
        ""
    }
}

/// Runs initdb beside the data directory's place and moves the result there; a crash leaves nothing in place and is
/// swept at the next try. The place must be free or an empty directory. Starts nothing.
pub async fn initdb(instance: &Instance, options: &InitdbOptions) -> Result<Incarnation, InitdbError> {
    let dir = begin(instance).await?;
    make_in(instance, options, &dir).await?;
    include::ensure_in(instance, &dir)?;
    let incarnation = incarnation::renew_in(instance, &dir)?;
    staging::place(instance)?;
    Ok(incarnation)
}

/// Runs initdb in the empty directory that [`crate::restored::begin`] has made beside the place.
pub async fn make_in(instance: &Instance, options: &InitdbOptions, dir: &Path) -> Result<(), InitdbError> {
    let password = PasswordFile::write(instance)?;
    let mut command = tool::command(instance, "initdb", dir);
    command.args(arguments(instance, options, dir, &password.0));
    let run = tool::run(command, |_| ()).await;
    drop(password);
    if let Err(source) = run {
        staging::sweep(instance).await?;
        return Err(InitdbError::Initdb { dir: instance.data_dir.clone(), source });
    }
    Ok(())
}

/// An empty directory beside the place, which must be free.
pub(crate) async fn begin(instance: &Instance) -> Result<PathBuf, InitdbError> {
    check_place(instance)?;
    Ok(staging::begin(instance).await?)
}

/// What an earlier try has left beside the place, if it can be gone on with.
pub(crate) async fn left(instance: &Instance, goes_on: fn(&Path) -> bool) -> Result<Option<PathBuf>, InitdbError> {
    check_place(instance)?;
    Ok(staging::left(instance, goes_on).await?)
}

fn check_place(instance: &Instance) -> Result<(), InitdbError> {
    if staging::is_occupied(&instance.data_dir) {
        return Err(StagingError::Occupied { dir: instance.data_dir.clone() }.into());
    }
    if let Some(owner) = &instance.owner {
        owner::check_reachable(&instance.data_dir, owner)?;
        owner::check_reachable(&instance.run_dir, owner)?;
    }
    Ok(instance.prepare_run_dir()?)
}

fn arguments(instance: &Instance, options: &InitdbOptions, dir: &Path, password: &Path) -> Vec<String> {
    let mut arguments = vec![
        format!("--pgdata={}", dir.display()),
        format!("--username={}", instance.superuser.username),
        format!("--pwfile={}", password.display()),
        "--auth=scram-sha-256".to_owned(),
        format!("--encoding={}", options.encoding),
        format!("--locale={}", options.locale),
        // Start-up errors are recognised by their English text.
        "--lc-messages=C".to_owned(),
    ];
    if options.data_checksums {
        arguments.push("--data-checksums".to_owned());
    } else if instance.binaries.version().major >= 18 {
        arguments.push("--no-data-checksums".to_owned());
    }
    arguments.extend(options.extra.iter().cloned());
    arguments
}

/// The superuser's password in a file of the owner's, gone when dropped.
struct PasswordFile(PathBuf);

impl PasswordFile {
    fn write(instance: &Instance) -> Result<Self, FileError> {
        let file = PasswordFile(instance.run_dir.join("initdb.password"));
        let line = format!("{}\n", instance.superuser.password);
        files::write_atomic(&file.0, line.as_bytes(), 0o600, instance.owner.as_ref())?;
        Ok(file)
    }
}

impl Drop for PasswordFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
