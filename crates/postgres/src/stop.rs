//! Stopping PostgreSQL: clean if it will, by force if it will not.

use std::path::Path;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::time::timeout;

use crate::postmaster::Postmaster;
use crate::process::{self, KillError};
use crate::sql::Sql;

/// How to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopMode {
    /// Sessions are ended, a shutdown checkpoint is written and sent to the replicas.
    Fast {
        /// Run a CHECKPOINT first, for at most this long, so that the one at shutdown has little to do.
        checkpoint: Option<Duration>,
        /// How long the clean way may take; then it is forced.
        deadline: Duration,
    },
    /// Everything is ended at once; the next start recovers.
    Immediate,
}

/// What was needed in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StoppedBy {
    /// It was gone already.
    Nobody,
    /// A clean shutdown.
    Fast,
    /// An immediate one (SIGQUIT).
    Immediate,
    /// SIGKILL for every process.
    Kill,
}

/// How a stop went. When this is returned, no process of the data directory is left.
#[derive(Clone, Copy, Debug)]
pub struct StopReport {
    /// What was needed.
    pub by: StoppedBy,
    /// The postmaster's exit status, if it was our child.
    pub exit: Option<ExitStatus>,
    /// How long it took.
    pub took: Duration,
}

/// Time for an immediate shutdown and for SIGKILL to work; the postmaster itself waits 5 s for its children.
const FORCE: Duration = Duration::from_secs(6);

/// Stops the postmaster and confirms that no process of `data_dir` is left.
pub async fn stop(
    postmaster: &Postmaster,
    data_dir: &Path,
    sql: Option<&Sql>,
    mode: StopMode,
) -> Result<StopReport, KillError> {
    let begun = Instant::now();
    let by = end_postmaster(postmaster, sql, mode).await;
    // Also after a clean exit: orphans of a crash before it would still write.
    let killed = process::kill_tree_async(data_dir, FORCE).await?;
    let by = if killed > 0 { StoppedBy::Kill } else { by };
    Ok(StopReport { by, exit: postmaster.wait_exit().await, took: begun.elapsed() })
}

async fn end_postmaster(postmaster: &Postmaster, sql: Option<&Sql>, mode: StopMode) -> StoppedBy {
    if !postmaster.is_alive() {
        return StoppedBy::Nobody;
    }
    if let StopMode::Fast { checkpoint, deadline } = mode {
        if let (Some(limit), Some(sql)) = (checkpoint, sql)
            && let Err(error) = sql.checkpoint(limit).await
        {
            tracing::warn!(%error, "stopping without the checkpoint before");
        }
        if signal_and_wait(postmaster, Signal::INT, deadline).await {
            return StoppedBy::Fast;
        }
        tracing::warn!(?deadline, "PostgreSQL did not stop in time, forcing it");
    }
    if signal_and_wait(postmaster, Signal::QUIT, FORCE).await { StoppedBy::Immediate } else { StoppedBy::Kill }
}

async fn signal_and_wait(postmaster: &Postmaster, signal: Signal, limit: Duration) -> bool {
    postmaster.signal(signal).is_ok() && timeout(limit, postmaster.wait_exit()).await.is_ok()
}
