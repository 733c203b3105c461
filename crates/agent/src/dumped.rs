//! A new cluster from a dump: what follows initdb when the configuration names one.
//!
//! ```text
//! find the dump ── what was left is swept ── room?
//!   ── initdb beside the data directory's place ── PostgreSQL there, reaching nothing
//!   ── roles and tablespaces, then each database ── our roles get their passwords ── into its place, unclaimed
//! ```
//! Then the member founds the cluster as after initdb alone, and the others copy from it. What is cut off anywhere is swept and
//! begun anew.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use matriarch_archive::archive::Archive;
use matriarch_archive::configured::Configured;
use matriarch_archive::dump::{self, DumpError, Manifest, Request};
use matriarch_archive::progress::Progress;
use matriarch_postgres::bootstrap::{self, InitdbOptions};
use matriarch_postgres::{Instance, files, restored as place, volumes};

use crate::restored::{Failed, apart};

/// How long one call is repeated while a store does not answer; the whole is tried again anyway.
const PATIENCE: Duration = Duration::from_secs(30);
/// Beside what the dump has.
const SPARE: u64 = 64 << 20;
/// How often it tells how far it is.
const TELL: Duration = Duration::from_secs(30);
/// Below the data directory that is being filled, so that it is swept with that.
const SCRATCH: &str = "matriarch_dump";
/// What makes it faster and is not kept: nobody follows this server, and nothing is archived.
const SETTINGS: [(&str, &str); 3] =
    [("wal_level", "minimal"), ("max_wal_size", "4GB"), ("maintenance_work_mem", "256MB")];

/// What is restored.
#[derive(Clone, Debug)]
pub struct Order {
    /// The archive that is read.
    pub section: matriarch_config::Archive,
    /// Name of the cluster whose dump it is.
    pub cluster: String,
    /// Only this incarnation of it.
    pub incarnation: Option<String>,
    /// Name of the dump; the newest without it.
    pub name: Option<String>,
    /// Only these databases; none named: all.
    pub databases: Vec<String>,
    /// No tablespace is made.
    pub no_tablespaces: bool,
    /// Sessions side by side.
    pub jobs: u16,
}

/// Fills the instance's data directory, which must be free.
///
/// # Errors
/// In words. Nothing is in the directory's place then.
pub async fn perform(
    instance: &Arc<Instance>,
    initdb: &InitdbOptions,
    order: &Arc<Order>,
    log: &Path,
) -> Result<(), String> {
    let (instance, order, initdb, log) = (instance.clone(), order.clone(), initdb.clone(), log.to_owned());
    let answer = apart(move || async move { fill(&instance, &initdb, &order, &log).await })?;
    answer.await.unwrap_or_else(|_| Err("its thread ended".to_owned()))
}

async fn fill(instance: &Instance, initdb: &InitdbOptions, order: &Order, log: &Path) -> Result<(), Failed> {
    let (archive, manifest) = choose(order).await?;
    let summary = &manifest.summary;
    let begun = Instant::now();
    // What an earlier try has left takes room.
    let dir = place::begin(instance).await?;
    room(instance, summary.size)?;
    bootstrap::make_in(instance, initdb, &dir).await?;
    tracing::info!(dump = %summary.dump, repository = archive.repository().name(), "restoring a dump for the new cluster");
    let scratch = dir.join(SCRATCH);
    files::make_dir(&scratch, 0o700, None)?;
    let request = Request {
        databases: order.databases.iter().map(|name| (name.clone(), name.clone())).collect(),
        globals: true,
        no_tablespaces: order.no_tablespaces,
        jobs: order.jobs,
        scratch: scratch.clone(),
        progress: Progress::default(),
        ..Request::default()
    };
    place::fill(instance, &dir, log, &SETTINGS, async |access| -> Result<(), Failed> {
        let mut work = std::pin::pin!(dump::restore(&archive, &manifest, &access, &request));
        loop {
            tokio::select! {
                done = &mut work => return Ok(done.map(drop)?),
                () = tokio::time::sleep(TELL) => {
                    tracing::info!(done = request.progress.done(), bytes = request.progress.total(), "restoring");
                }
            }
        }
    })
    .await?;
    files::remove_tree(&scratch)?;
    place::finish(instance, &dir)?;
    tracing::info!(took = ?begun.elapsed(), "the new cluster's data directory is filled");
    Ok(())
}

async fn choose(order: &Order) -> Result<(Archive, Manifest), Failed> {
    let configured = Configured::new(&order.section, &order.cluster, PATIENCE)?;
    let mut failed: Option<Failed> = None;
    for repository in configured.repositories().await {
        let found = async {
            let mut found = configured.incarnations(&repository?).await?;
            found.retain(|one| order.incarnation.as_deref().is_none_or(|name| name == one.place().incarnation()));
            newest(found, order.name.as_deref()).await
        };
        match found.await {
            Ok(found) => return Ok(found),
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    let error = failed.unwrap_or_else(|| "the archive has no repository".into());
    Err(format!("cluster '{}' cannot be made from a dump: {error}", order.cluster).into())
}

async fn newest(archives: Vec<Archive>, name: Option<&str>) -> Result<(Archive, Manifest), Failed> {
    let mut found = Vec::new();
    for archive in archives {
        for summary in dump::list(&archive).await? {
            found.push((archive.clone(), summary));
        }
    }
    found.retain(|(_, summary)| name.is_none_or(|name| name == summary.dump));
    let newest = found.into_iter().max_by_key(|(_, summary)| summary.ended);
    let missing = || match name {
        Some(name) => DumpError::NoDump(name.to_owned()).to_string(),
        None => "it has no dump".to_owned(),
    };
    let (archive, summary) = newest.ok_or_else(missing)?;
    let manifest = dump::manifest(&archive, &summary.dump).await?;
    Ok((archive, manifest))
}

fn room(instance: &Instance, size: u64) -> Result<(), Failed> {
    let beside = instance.data_dir.parent().unwrap_or(Path::new("/"));
    let free = volumes::free(beside).map_err(|error| format!("{}: {error}", beside.display()))?;
    if free < size + SPARE {
        let text = format!("{} has {free} bytes free, and the dump alone needs {}", beside.display(), size + SPARE);
        return Err(format!("{text}: free some").into());
    }
    Ok(())
}
