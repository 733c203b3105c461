//! The restored directory beside the data: made, recovered and stopped again before anybody relies on it.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use matriarch_archive::progress::Progress;
use matriarch_core::{Incarnation, Lsn, Timeline};
use matriarch_postgres::{Instance, control, files, history, process, restored as recovered};
use tokio::sync::oneshot::{self, error::TryRecvError};

use crate::restored::{self, Failed, Order};

/// The memory is the running server's.
const BESIDE: [(&str, &str); 2] = [("huge_pages", "off"), ("shared_buffers", "128MB")];
const PROGRAMS_END: Duration = Duration::from_secs(10);

/// A directory that can take the data directory's place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prepared {
    /// Where it is.
    pub dir: PathBuf,
    /// Its identity.
    pub incarnation: Incarnation,
    /// Its timeline.
    pub timeline: Timeline,
    /// It still has to open one.
    pub to_promote: bool,
    /// The line of data that it is.
    pub line: String,
    /// What it is, for people.
    pub text: String,
}

/// A restore on its way; ended when it is dropped.
#[derive(Debug)]
pub struct Preparing {
    answer: oneshot::Receiver<Result<Prepared, String>>,
    progress: Progress,
}

/// Where it is built.
pub fn staged(data_dir: &Path) -> PathBuf {
    super::beside(data_dir, ".matriarch-restore")
}

impl Preparing {
    /// Begins. `timeline`: the number that the restored data opens, which nobody has used.
    ///
    /// # Errors
    /// When its thread cannot be started.
    pub fn begin(
        instance: &Arc<Instance>,
        order: Order,
        log: PathBuf,
        timeline: Timeline,
    ) -> Result<Preparing, String> {
        let progress = Progress::default();
        let (instance, counted) = (instance.clone(), progress.clone());
        let answer = restored::apart(move || async move { prepare(&instance, &order, &log, timeline, counted).await })?;
        Ok(Preparing { answer, progress })
    }

    /// How it ended, if it has.
    pub fn outcome(&mut self) -> Option<Result<Prepared, String>> {
        match self.answer.try_recv() {
            Ok(outcome) => Some(outcome),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Closed) => Some(Err("its thread ended".to_owned())),
        }
    }

    /// Bytes done, and bytes there are.
    pub fn progress(&self) -> (u64, u64) {
        (self.progress.done(), self.progress.total())
    }
}

async fn prepare(
    instance: &Instance,
    order: &Order,
    log: &Path,
    timeline: Timeline,
    progress: Progress,
) -> Result<Prepared, Failed> {
    let dir = staged(&instance.data_dir);
    movable(&instance.data_dir)?;
    let (found, plan) = restored::choose(order).await?;
    let segment = found.holder().segment_size();
    restored::fits(instance, &plan.summary)?;
    let spaces = restored::spaces(order, &plan.summary)?;
    clear(&dir)?;
    restored::room(instance, &plan, segment)?;
    files::make_dir(&dir, 0o700, instance.owner.as_ref())?;
    restored::mark_spaces(&dir, spaces.values())?;
    let line = restored::line(&plan);
    let mut options = restored::options(instance, order, &found, &plan, (&dir, spaces), &line)?;
    options.progress = progress;
    let (backup, target) = (&plan.summary.backup, &plan.target);
    tracing::info!(%backup, repository = found.repository(), %target, "restoring a backup in place");
    found.restore(&plan, &options).await?;

    let restored_one = Instance { data_dir: dir.clone(), ..instance.clone() };
    history::reserve(&restored_one, plan.history.timeline, timeline)?;
    let reached = recovered::recover(instance, &dir, &BESIDE, log).await?;
    if plan.falls_short(reached, segment) {
        return Err(short(reached, plan.until).into());
    }
    let incarnation = recovered::ready(instance, &dir)?;
    let control = control::read(&restored_one).await?;
    if control.timeline != timeline {
        return Err(format!("its recovery opened timeline {}, and {timeline} was reserved", control.timeline).into());
    }
    let text = format!("restored in place to {target} (reached {reached}) from backup {backup}");
    Ok(Prepared { dir, incarnation, timeline, to_promote: false, line, text })
}

fn short(reached: Lsn, until: Lsn) -> String {
    format!(
        "recovery ended at {reached} although the archive goes on to {until}: the WAL there is damaged ('matriarch backup verify \
         --wal' reads all of it); with --to {reached} the restore goes without what follows"
    )
}

/// What is a file system of its own cannot be renamed.
fn movable(data_dir: &Path) -> Result<(), Failed> {
    let above = data_dir.parent().unwrap_or(Path::new("/"));
    if std::fs::metadata(data_dir)?.dev() == std::fs::metadata(above)?.dev() {
        return Ok(());
    }
    let text = format!(
        "{} is a file system of its own, so nothing can take its place beside the old data: make data_dir a directory in it, or \
         restore into a new cluster (bootstrap.restore)",
        data_dir.display()
    );
    Err(text.into())
}

/// Ends and removes what an earlier try has left.
///
/// # Errors
/// When something of it stays.
pub fn clear(dir: &Path) -> Result<(), Failed> {
    process::kill_tree(dir, PROGRAMS_END)?;
    restored::clear_spaces(dir)?;
    files::remove_tree(dir)?;
    Ok(())
}
