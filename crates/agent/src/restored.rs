//! A new cluster from a backup: what stands in for initdb when the configuration names one.
//!
//! ```text
//! find backup and WAL ── room? ── restore beside the data directory's place, all WAL put there
//!   ── PostgreSQL recovers it by itself, our roles get their passwords ── into its place, unclaimed
//! ```
//! Then the member founds the cluster as after initdb, and the others copy from it. What is cut off anywhere is swept and begun
//! anew. It has a thread and a runtime of its own, since it may take hours and must not come between the loop and its lease.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use matriarch_archive::base::Summary;
use matriarch_archive::configured::{Configured, ORIGIN, Origin};
use matriarch_archive::door::{Door, Foreign};
use matriarch_archive::progress::Progress;
use matriarch_archive::restore::{self, AtTarget, Held, Options, Plan, Wanted};
use matriarch_postgres::{Instance, files, restored, volumes};
use tokio::sync::oneshot;

/// How long one call is repeated while a store does not answer; the whole is tried again anyway.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// Beside files and WAL: the end of recovery.
const SPARE: u64 = 64 << 20;
/// Packs that are read at a time.
pub(crate) const WORKERS: usize = 4;
/// How often it tells how far it is.
pub(crate) const TELL: Duration = Duration::from_secs(30);

/// How often it is looked whether one that was given up has ended.
const TURN_LOOK: Duration = Duration::from_millis(20);

/// One at a time: what one that was given up still writes must not get into the next one's directory.
static TURN: Mutex<()> = Mutex::new(());

/// Where the backup is.
#[derive(Clone, Debug)]
pub enum Whence {
    /// An archive of ours.
    Archive {
        /// The archive that is read.
        section: Box<matriarch_config::Archive>,
        /// Name of the cluster whose backup it is.
        cluster: String,
        /// It is this very cluster's: what is archived from now on continues its history.
        own: bool,
        /// Only this incarnation of it.
        incarnation: Option<String>,
    },
    /// Another tool's repository.
    Foreign(Box<Foreign>),
}

/// What is restored.
#[derive(Clone, Debug)]
pub struct Order {
    /// From where.
    pub whence: Whence,
    /// How far, and from which backup.
    pub wanted: Wanted,
    /// Other places of tablespaces.
    pub tablespaces: Vec<(String, PathBuf)>,
}

/// What went wrong, in words.
pub type Failed = Box<dyn std::error::Error + Send + Sync>;

/// Restores into the instance's data directory, which must be free.
///
/// # Errors
/// In words. Nothing is in the directory's place then.
pub async fn perform(instance: &Arc<Instance>, order: &Arc<Order>, log: &Path) -> Result<(), String> {
    let (instance, order, log) = (instance.clone(), order.clone(), log.to_owned());
    let answer = apart(move || async move { restore(&instance, &order, &log).await })?;
    answer.await.unwrap_or_else(|_| Err("its thread ended".to_owned()))
}

/// Does what takes long on a thread and a runtime of its own, once what was begun before it has ended; given up when nobody waits
/// for the answer any more.
///
/// # Errors
/// When there is no thread for it.
pub(crate) fn apart<T, Work>(
    work: impl FnOnce() -> Work + Send + 'static,
) -> Result<oneshot::Receiver<Result<T, String>>, String>
where
    T: Send + 'static,
    Work: Future<Output = Result<T, Failed>>,
{
    let (mut done, answer) = oneshot::channel();
    let all = move || {
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        if done.is_closed() {
            // What came before it in turn is not to be undone by it.
            return;
        }
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return drop(done.send(Err(error.to_string()))),
        };
        let outcome = runtime.block_on(async {
            tokio::select! {
                outcome = work() => Some(outcome.map_err(|error| error.to_string())),
                () = done.closed() => None,
            }
        });
        // Whatever it still writes ends before the next one's turn.
        drop(runtime);
        if let Some(outcome) = outcome {
            let _ = done.send(outcome);
        }
    };
    let thread = std::thread::Builder::new().name("restore".to_owned());
    thread.spawn(all).map_err(|error| format!("its thread cannot be started: {error}"))?;
    Ok(answer)
}

/// Waits until what was begun by [`apart`] and given up has ended. Not on a thread: an agent that stops would have to wait for it.
pub(crate) async fn turn() {
    while matches!(TURN.try_lock(), Err(TryLockError::WouldBlock)) {
        tokio::time::sleep(TURN_LOOK).await;
    }
}

async fn restore(instance: &Instance, order: &Order, log: &Path) -> Result<(), Failed> {
    let (found, plan) = choose(order).await?;
    let segment = found.holder().segment_size();
    let summary = &plan.summary;
    fits(instance, summary)?;
    let spaces = spaces(order, summary)?;
    room(instance, &plan, segment)?;
    let dir = restored::begin(instance).await?;
    clear_spaces(&instance.data_dir)?;
    mark_spaces(&instance.data_dir, spaces.values())?;
    let (backup, target) = (&summary.backup, &plan.target);
    tracing::info!(%backup, repository = found.repository(), %target, "restoring a backup for the new cluster");

    let options = options(instance, order, &found, &plan, (&dir, spaces), &line(&plan))?;
    let begun = Instant::now();
    let took = {
        let mut work = std::pin::pin!(found.restore(&plan, &options));
        loop {
            tokio::select! {
                took = &mut work => break took?,
                () = tokio::time::sleep(TELL) => {
                    tracing::info!(done = options.progress.done(), bytes = options.progress.total(), "restoring");
                }
            }
        }
    };
    tracing::info!(files = ?took.files, wal = ?took.wal, "restored: PostgreSQL recovers it now");
    let reached = restored::recover(instance, &dir, &[], log).await?;
    if plan.falls_short(reached, segment) {
        return Err(format!(
            "recovery ended at {reached} although the archive goes on to {}: the WAL there is damaged ('matriarch backup verify \
             --wal' reads all of it); with `to: {reached}` in bootstrap.restore the cluster is made without what follows",
            plan.until
        )
        .into());
    }
    restored::finish(instance, &dir)?;
    tracing::info!(%reached, took = ?begun.elapsed(), "the new cluster's data directory is restored");
    Ok(())
}

/// Whether the programs that are here can run it.
pub(crate) fn fits(instance: &Instance, summary: &Summary) -> Result<(), Failed> {
    let ours = instance.binaries.version().major;
    if summary.major == ours {
        return Ok(());
    }
    let text = format!("backup {} is of PostgreSQL {}, and the programs are of {ours}", summary.backup, summary.major);
    Err(format!("{text}: name the right ones as postgresql.bin_dir").into())
}

/// Name of the incarnation that begins with a restore now.
pub(crate) fn line(plan: &Plan) -> String {
    let now = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ");
    format!("{}-{now}", plan.summary.system_identifier)
}

pub(crate) async fn choose(order: &Order) -> Result<(Held, Plan), Failed> {
    let (section, cluster, incarnation) = match &order.whence {
        Whence::Archive { section, cluster, incarnation, .. } => (section, cluster, incarnation),
        Whence::Foreign(foreign) => {
            let stock = Door::open(foreign, PATIENCE).await?.survey(order.wanted.backup.as_deref()).await?;
            let plan = stock.plan(&order.wanted).await?;
            return Ok((Held::Stock(Box::new(stock)), plan));
        }
    };
    let configured = Configured::new(section, cluster, PATIENCE)?;
    let several = section.repositories.len() > 1;
    let (mut offers, mut failed): (Vec<_>, Option<Failed>) = Default::default();
    for repository in configured.repositories().await {
        let found = async {
            let mut found = configured.incarnations(&repository?).await?;
            found.retain(|one| incarnation.as_deref().is_none_or(|name| name == one.place().incarnation()));
            let chosen = restore::choose(found, &order.wanted).await?;
            if several {
                // Another one may be whole.
                restore::check(&chosen.0, &chosen.1).await?;
            }
            Ok::<_, Failed>(chosen)
        };
        match found.await {
            Ok(offer) => offers.push(offer),
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    if let Some((archive, plan)) = restore::furthest(offers, &order.wanted.target) {
        return Ok((Held::Archive(Box::new(archive)), plan));
    }
    let error = failed.unwrap_or_else(|| "the archive has no repository".into());
    Err(format!("cluster '{cluster}' cannot be restored: {error}").into())
}

pub(crate) fn room(instance: &Instance, plan: &Plan, segment: u64) -> Result<(), Failed> {
    let beside = instance.data_dir.parent().unwrap_or(Path::new("/"));
    let needed = plan.summary.size + plan.wal(segment) + SPARE;
    let free = volumes::free(beside).map_err(|error| format!("{}: {error}", beside.display()))?;
    if free < needed {
        let text = format!("{} has {free} bytes free, and files and WAL need {needed}", beside.display());
        return Err(format!("{text}: free some, or begin with a later backup").into());
    }
    Ok(())
}

pub(crate) fn options(
    instance: &Instance,
    order: &Order,
    found: &Held,
    plan: &Plan,
    (dir, tablespaces): (&Path, BTreeMap<u32, PathBuf>),
    line: &str,
) -> Result<Options, Failed> {
    let origin = match (found, &order.whence) {
        (Held::Archive(archive), Whence::Archive { own: true, .. }) => plan.origin(archive, line),
        // What another cluster or another tool has archived is not in this one's part of an archive.
        _ => Origin { incarnation: line.to_owned(), parent: None },
    };
    Ok(Options {
        data: dir.to_owned(),
        tablespaces,
        restore_command: String::new(),
        // PostgreSQL's user need not be able to read keys and credentials.
        place_wal: true,
        files: vec![(ORIGIN.to_owned(), serde_json::to_string_pretty(&origin)?)],
        at_target: AtTarget::Promote,
        owner: instance.owner.as_ref().map(|owner| (owner.uid, owner.gid)),
        workers: WORKERS,
        progress: Progress::default(),
    })
}

pub(crate) fn spaces(order: &Order, summary: &Summary) -> Result<BTreeMap<u32, PathBuf>, Failed> {
    let mut places: BTreeMap<u32, PathBuf> =
        summary.tablespaces.iter().map(|space| (space.oid, PathBuf::from(&space.path))).collect();
    for (name, path) in &order.tablespaces {
        let Some(space) =
            summary.tablespaces.iter().find(|space| space.name == *name || space.oid.to_string() == *name)
        else {
            let known: Vec<&str> = summary.tablespaces.iter().map(|space| space.name.as_str()).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            return Err(format!(
                "a tablespace is to go elsewhere, and the backup has no tablespace '{name}'; it has {known}"
            )
            .into());
        };
        places.insert(space.oid, path.clone());
    }
    Ok(places)
}

/// Beside the data directory, until the cluster is founded: the tablespaces that a restore fills, which were empty before it.
fn mark(data_dir: &Path) -> PathBuf {
    let mut name = data_dir.as_os_str().to_owned();
    name.push(".restoring");
    PathBuf::from(name)
}

pub(crate) fn mark_spaces<'a>(data_dir: &Path, places: impl Iterator<Item = &'a PathBuf>) -> Result<(), Failed> {
    let places: Vec<&PathBuf> = places.collect();
    for place in &places {
        if std::fs::read_dir(place).is_ok_and(|mut entries| entries.next().is_some()) {
            let text = format!("{} is not empty; empty it, or name another place", place.display());
            return Err(format!("{text} for the tablespace (--tablespace, bootstrap.restore.tablespace)").into());
        }
    }
    if !places.is_empty() {
        files::write_atomic(&mark(data_dir), &serde_json::to_vec(&places)?, 0o600, None)?;
    }
    Ok(())
}

/// The cluster is founded on what was restored.
pub fn settle(data_dir: &Path) -> Result<(), files::FileError> {
    files::remove_durably(&mark(data_dir)).map(drop)
}

/// Empties the tablespaces of a restore that was cut off, or that no cluster was founded on.
pub fn clear_spaces(data_dir: &Path) -> Result<(), Failed> {
    let path = mark(data_dir);
    let text = match std::fs::read(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        text => text?,
    };
    for place in serde_json::from_slice::<Vec<PathBuf>>(&text)? {
        for entry in std::fs::read_dir(&place).into_iter().flatten() {
            files::remove_tree(&entry?.path())?;
        }
    }
    files::remove_durably(&path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tablespaces_that_were_begun_are_emptied_and_others_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let (data, begun, used) = (dir.path().join("data"), dir.path().join("begun"), dir.path().join("used"));
        std::fs::create_dir_all(used.join("PG_18_1")).unwrap();
        std::fs::create_dir(&begun).unwrap();
        let refused = mark_spaces(&data, [&begun, &used].into_iter()).unwrap_err().to_string();
        assert!(refused.contains(&used.display().to_string()) && refused.contains("is not empty"), "{refused}");
        mark_spaces(&data, [&begun, &dir.path().join("absent")].into_iter()).unwrap();
        std::fs::create_dir_all(begun.join("PG_18_1/5")).unwrap();
        clear_spaces(&data).unwrap();
        assert_eq!(std::fs::read_dir(&begun).unwrap().count(), 0);
        // A second time there is nothing to do, nor once the cluster is founded.
        std::fs::create_dir(begun.join("mine")).unwrap();
        clear_spaces(&data).unwrap();
        mark_spaces(&data, [&dir.path().join("absent")].into_iter()).unwrap();
        settle(&data).unwrap();
        clear_spaces(&data).unwrap();
        assert!(begun.join("mine").exists() && used.join("PG_18_1").exists());
    }
}
