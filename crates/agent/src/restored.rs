//! A new cluster from a backup: what stands in for initdb when the configuration names one.
//!
//! ```text
//! find backup and WAL ── what was left goes on, or is swept ── room?
//!   ── restore beside the data directory's place, all WAL put there
//!   ── PostgreSQL recovers it by itself, our roles get their passwords ── into its place, unclaimed
//! ```
//! Then the member founds the cluster as after initdb, and the others copy from it. What is cut off anywhere is swept and begun
//! anew, but for the files of a restore, which the next one goes on with. It has a thread and a runtime of its own, since it
//! may take hours and must not come between the loop and its lease.

mod ground;
mod spaces;

pub(crate) use ground::{Ground, NoRoom, Whose};
pub use spaces::settle;
pub(crate) use spaces::{clear_spaces, mark_spaces, spaces};

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use matriarch_archive::base::Summary;
use matriarch_archive::configured::{Configured, ORIGIN, Origin};
use matriarch_archive::door::{Door, Foreign};
use matriarch_archive::progress::Progress;
use matriarch_archive::restore::{self, AtTarget, Held, Options, Plan, Took, Wanted};
use matriarch_postgres::{Instance, restored};
use tokio::sync::oneshot;

/// How long one call is repeated while a store does not answer; the whole is tried again anyway.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// Packs that are read at a time.
pub(crate) const WORKERS: usize = 4;
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
    let ground = Ground { instance, plan: &plan, segment, spaces: &spaces, whose: Whose::Founder };
    let begun = Instant::now();
    let line = line(&plan);
    let options = |dir: &Path| options(instance, order, &found, &plan, (dir, spaces.clone()), &line);
    let (dir, took) = ground.fill(&found, options, |_| ()).await?;
    let Took { files, wal, there, fetched } = took;
    tracing::info!(?files, ?wal, there, fetched, "restored: PostgreSQL recovers it now");
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

/// Whether there is room for all of it.
pub(crate) fn room(instance: &Instance, plan: &Plan, segment: u64) -> Result<(), Failed> {
    let spaces = BTreeMap::new();
    Ground { instance, plan, segment, spaces: &spaces, whose: Whose::Founder }.room(0)
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
