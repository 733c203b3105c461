//! Jobs: what decisions ask for and what takes time. Each runs in a task of its own and may be dropped at any point.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use matriarch_core::Timeline;
use matriarch_core::decide::{Job, JobFailure};
use matriarch_dcs::boot_clock_ms;
use matriarch_postgres::clone::CloneProgress;
use matriarch_postgres::control::{self, ControlError};
use matriarch_postgres::postmaster::{StartAs, StartError};
use matriarch_postgres::rewind::{RewindError, RewindOutcome};
use matriarch_postgres::stop::{StopMode, StopReport};
use matriarch_postgres::{
    Instance, Postmaster, Settings, Source, Sql, bootstrap, hba, history, postmaster, rewind, roles, stop,
};
use tokio::sync::watch;

use crate::claim;
use crate::conf_files::ConfFiles;
use crate::guard::GuardState;
use crate::{copy, dumped, from_backup, restored};

/// How long a standby may take to become consistent, and a primary to recover, before the agent stops waiting. The
/// server goes on; the agent then sees it become ready by itself.
const START_LIMIT: Duration = Duration::from_secs(60);
/// How long the checkpoint before a stop may take.
const CHECKPOINT_LIMIT: Duration = Duration::from_secs(30);
/// How often a stop looks whether the shutdown checkpoint is written; an ordinary one is over before the first look.
const SHUTDOWN_LOOK: Duration = Duration::from_millis(500);
/// A checkpoint that takes so long leaves the next one much to do, and clients wait for that one.
const LONG_CHECKPOINT: Duration = Duration::from_millis(150);
/// How long standbys may take for the end of a segment before a switchover.
const SEGMENT_LIMIT: Duration = Duration::from_secs(1);
/// Checkpoints before a switchover, at most.
const CHECKPOINTS: u32 = 3;
const SETTLE_LOOK: Duration = Duration::from_millis(5);
/// How long routers that do not announce themselves need to hear that they shall hold new work: one notification.
const HOLD_HEARD: Duration = Duration::from_millis(20);
/// How long a promotion may take.
const PROMOTE_LIMIT: Duration = Duration::from_secs(60);

/// All a job may need, copied when it starts.
#[derive(Clone)]
pub struct JobContext {
    pub instance: Arc<Instance>,
    pub log: PathBuf,
    pub settings: Settings,
    pub rules: hba::Rules,
    pub files: Arc<ConfFiles>,
    /// How long a clean stop may take before it is forced.
    pub stop_limit: Duration,
    /// How long standbys may take to receive the end of the WAL once it is written; `None`: for as long as the stop may.
    pub send_limit: Option<Duration>,
    pub initdb: bootstrap::InitdbOptions,
    /// A backup that stands in for initdb.
    pub restore: Option<Arc<restored::Order>>,
    /// A dump that follows initdb.
    pub dump: Option<Arc<dumped::Order>>,
    /// Whom to rewind to: the leader, when there is one.
    pub leader: Option<Source>,
    /// Whom to copy from: the leader, or a member that is there for it.
    pub clone_source: Option<Source>,
    /// An archive to copy from instead.
    pub from_backup: Option<Arc<from_backup::Order>>,
    /// The newest copy came from the archive and has not streamed yet.
    pub unproved: Arc<AtomicBool>,
    pub leader_timeline: Timeline,
    /// Our own timeline, and the one that is reserved for our promotion.
    pub timelines: Option<(Timeline, Timeline)>,
    pub postmaster: Option<Arc<Postmaster>>,
    pub sql: Option<Arc<Sql>>,
    /// Slots that a new primary makes before anything else.
    pub slots: Vec<String>,
    pub progress: Arc<watch::Sender<CloneProgress>>,
    /// Role for a restart.
    pub primary: bool,
    /// How long transactions under way may hold up a planned switchover.
    pub settle_limit: Duration,
    /// Routers have said that they hold new work; else they may not even have heard that they shall.
    pub held: bool,
    /// What the guard has confirmed; none while the cluster is paused, when it guards nothing.
    pub guard: Option<watch::Receiver<GuardState>>,
    /// Nobody works any more, and a checkpoint was made just before: the one at shutdown is all that a stop needs.
    pub settled: bool,
    /// WAL that is not archived yet is kept when the data directory changes its history.
    pub keeps_wal: bool,
}

impl JobContext {
    /// Somebody will end a primary that outlives its authority.
    fn is_guarded(&self) -> bool {
        self.guard.as_ref().is_none_or(|guard| guard.borrow().is_armed(boot_clock_ms()))
    }
}

/// What a job changed.
#[derive(Default)]
pub struct JobReport {
    /// The postmaster that now runs.
    pub started: Option<Arc<Postmaster>>,
    /// A connection to it.
    pub sql: Option<Arc<Sql>>,
    /// Every process is gone.
    pub stopped: bool,
    /// Words for the log.
    pub note: Option<String>,
}

type Done = Result<JobReport, JobFailure>;

/// Does a job. The files of a stopped instance may have changed afterwards.
pub async fn perform(job: Job, context: JobContext) -> Done {
    match job {
        Job::Initdb => initdb(&context).await,
        Job::StartPrimary => start(&context, StartAs::Primary).await,
        Job::StartStandby => start(&context, StartAs::Standby).await,
        Job::StopFast => stop_fast(&context).await,
        Job::StopImmediate => stop_immediate(&context).await,
        Job::Promote => promote(&context).await,
        Job::Clone => copy::copy(&context).await,
        Job::Rewind => rewind_to_leader(&context).await,
        Job::Restart => restart(&context).await,
        Job::Checkpoint => checkpoint(&context).await,
        Job::Settle => settle(&context).await,
    }
}

pub(crate) fn failed(error: impl std::fmt::Display) -> JobFailure {
    JobFailure { message: error.to_string(), hopeless: false }
}

fn hopeless(error: impl std::fmt::Display) -> JobFailure {
    JobFailure { message: error.to_string(), hopeless: true }
}

async fn initdb(context: &JobContext) -> Done {
    claim::mark(&context.instance).map_err(failed)?;
    match (&context.restore, &context.dump) {
        (Some(order), _) => restored::perform(&context.instance, order, &context.log).await.map_err(failed)?,
        (None, Some(order)) => {
            dumped::perform(&context.instance, &context.initdb, order, &context.log).await.map_err(failed)?;
        }
        (None, None) => drop(bootstrap::initdb(&context.instance, &context.initdb).await.map_err(failed)?),
    }
    Ok(JobReport::default())
}

async fn start(context: &JobContext, start_as: StartAs) -> Done {
    matriarch_postgres::process::kill_tree_async(&context.instance.data_dir, Duration::from_secs(10))
        .await
        .map_err(failed)?;
    let standby = start_as == StartAs::Standby;
    context.files.write_for_start(&context.settings, &context.rules, standby).await.map_err(unwritten)?;
    let (started, sql) = match start_once(context, start_as).await {
        Err(StartError::Exited { log, .. })
            if context.files.mend(&log, &context.settings, &context.rules, standby).await.map_err(failed)? =>
        {
            start_once(context, start_as).await
        }
        done => done,
    }
    .map_err(start_failure)?;
    context.files.started(&context.settings).await;
    if let (StartAs::Primary, Some(sql)) = (start_as, &sql) {
        become_primary(context, sql).await?;
    }
    Ok(JobReport { started: Some(started), sql, ..JobReport::default() })
}

/// Without a connection when it is not ready in time; it goes on starting then.
async fn start_once(
    context: &JobContext,
    start_as: StartAs,
) -> Result<(Arc<Postmaster>, Option<Arc<Sql>>), StartError> {
    let started = Arc::new(postmaster::start(&context.instance, start_as, &context.log).await?);
    // A guard whose deadline has passed while there was no process ends this one when it looks again. It may have died
    // meanwhile, or be of an earlier version, which looked once.
    if start_as == StartAs::Primary && !context.is_guarded() {
        tracing::warn!("the lease may have ended before PostgreSQL ran: ending it before it takes writes");
        let dir = &context.instance.data_dir;
        if let Err(error) = matriarch_postgres::process::kill_tree_async(dir, Duration::from_secs(10)).await {
            tracing::error!("{error}");
        }
    }
    match tokio::time::timeout(START_LIMIT, started.wait_ready(&context.instance)).await {
        Ok(ready) => Ok((started, Some(Arc::new(ready?)))),
        Err(_) => Ok((started, None)),
    }
}

/// A control file that cannot be read is the data's fault.
fn unwritten(error: Box<dyn std::error::Error + Send + Sync>) -> JobFailure {
    JobFailure { hopeless: error.is::<ControlError>(), message: error.to_string() }
}

/// What a primary needs before clients come: our users (a no-op when they exist) and the members' slots.
async fn become_primary(context: &JobContext, sql: &Sql) -> Result<(), JobFailure> {
    let names = [&context.instance.replication.username, &context.instance.rewind.username];
    let list = names.map(|name| roles::quote_literal(name)).join(", ");
    let query = format!("SELECT count(*) FROM pg_roles WHERE rolname IN ({list})");
    let limit = Duration::from_secs(5);
    let found = sql.query("look for our users", &query, limit).await.map_err(failed)?;
    let count = found.first().and_then(|row| row.first().cloned().flatten());
    if count.as_deref() != Some("2") {
        roles::create_roles(sql, &context.instance).await.map_err(failed)?;
    }
    for slot in &context.slots {
        sql.create_slot(slot).await.map_err(failed)?;
    }
    Ok(())
}

/// Some failures lie outside the data directory: copying the data again would not mend them.
fn start_failure(error: StartError) -> JobFailure {
    match &error {
        StartError::Exited { remedy, log, .. } if remedy.is_empty() => {
            let outside = ["No space left", "Permission denied", "Cannot allocate memory", "could not bind"];
            JobFailure { hopeless: !outside.iter().any(|text| log.contains(text)), message: error.to_string() }
        }
        StartError::Control(_) => hopeless(error),
        StartError::Connect(refusal) if refusal.is_damage() => hopeless(error),
        _ => failed(error),
    }
}

async fn stop_fast(context: &JobContext) -> Done {
    let checkpoint = (!context.settled).then_some(CHECKPOINT_LIMIT);
    let mode = StopMode::Fast { checkpoint, deadline: context.stop_limit };
    let Some(limit) = context.send_limit else { return stop_by(context, mode).await };
    tokio::select! {
        done = stop_by(context, mode) => done,
        () = sends_for(&context.instance, limit) => {
            let text = "a standby has not taken the end of the WAL in time: ending its walsender with all the rest";
            tracing::warn!(?limit, "{text}");
            stop_by(context, StopMode::Immediate).await
        }
    }
}

/// Comes to an end when the shutdown checkpoint was written so long ago. What runs after it are walsenders, each until its
/// standby has confirmed all of it: one that stands still would hold them up until `wal_sender_timeout`, or without a limit.
async fn sends_for(instance: &Instance, limit: Duration) {
    loop {
        tokio::time::sleep(SHUTDOWN_LOOK).await;
        if matches!(control::read(instance).await, Ok(control) if control.state.is_clean()) {
            return tokio::time::sleep(limit).await;
        }
    }
}

/// Waits until no client has a statement or a transaction under way, so that a planned switchover cuts none off.
async fn settle(context: &JobContext) -> Done {
    let Some(sql) = &context.sql else {
        return Err(failed("there is no connection to PostgreSQL to look at sessions by"));
    };
    let query = "SELECT pid, usename, application_name, extract(epoch FROM now() - xact_start)::bigint \
                 FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() \
                 AND state NOT IN ('idle', 'disabled') ORDER BY xact_start NULLS LAST LIMIT 1";
    let end = Instant::now() + context.settle_limit;
    if !context.held {
        // Until routers have heard of it, clients begin new statements over sessions that look idle.
        tokio::time::sleep(HOLD_HEARD).await;
    }
    loop {
        let rows = sql.query("look for transactions under way", query, CHECKPOINT_LIMIT).await.map_err(failed)?;
        let Some(row) = rows.first() else { return Ok(JobReport::default()) };
        if Instant::now() >= end {
            let text = |index: usize| row.get(index).cloned().flatten().unwrap_or_default();
            let limit = context.settle_limit.as_secs_f64();
            return Err(failed(format!(
                "the transaction of process {} (role {}, application '{}'), {} s old, did not end within {limit} s \
                 (switchover_hold_timeout); end it, or raise the limit",
                text(0),
                text(1),
                text(2),
                text(3),
            )));
        }
        tokio::time::sleep(SETTLE_LOOK).await;
    }
}

async fn stop_immediate(context: &JobContext) -> Done {
    stop_by(context, StopMode::Immediate).await
}

async fn stop_by(context: &JobContext, mode: StopMode) -> Done {
    let data_dir = &context.instance.data_dir;
    let note = match &context.postmaster {
        Some(postmaster) => {
            let report: StopReport =
                stop::stop(postmaster, data_dir, context.sql.as_deref(), mode).await.map_err(failed)?;
            format!("stopped by {:?} in {} ms", report.by, report.took.as_millis())
        }
        None => {
            let killed = matriarch_postgres::process::kill_tree_async(data_dir, Duration::from_secs(10))
                .await
                .map_err(failed)?;
            format!("{killed} processes killed")
        }
    };
    Ok(JobReport { stopped: true, note: Some(note), ..JobReport::default() })
}

async fn promote(context: &JobContext) -> Done {
    let Some(sql) = &context.sql else { return Err(failed("there is no connection to PostgreSQL to promote it by")) };
    let Some((own, next)) = context.timelines.filter(|(own, next)| own < next) else {
        return Err(failed("no timeline is reserved for the promotion"));
    };
    history::reserve(&context.instance, own, next).map_err(failed)?;
    sql.promote(PROMOTE_LIMIT).await.map_err(failed)?;
    let opened = sql.probe(PROMOTE_LIMIT).await.map_err(failed)?.timeline;
    if opened != next {
        // Another member may have opened it too, and PostgreSQL tells timelines apart by their number only.
        stop_immediate(context).await?;
        return Err(failed(format!("the promotion opened timeline {opened}, and {next} was reserved: ended")));
    }
    become_primary(context, sql).await?;
    Ok(JobReport::default())
}

async fn checkpoint(context: &JobContext) -> Done {
    let Some(sql) = &context.sql else { return Err(failed("there is no connection to PostgreSQL for a checkpoint")) };
    for _ in 0..CHECKPOINTS {
        let begun = Instant::now();
        sql.checkpoint(CHECKPOINT_LIMIT).await.map_err(failed)?;
        if begun.elapsed() < LONG_CHECKPOINT {
            break;
        }
    }
    // Only makes the switchover shorter.
    if let Err(error) = sql.begin_segment(SEGMENT_LIMIT).await {
        tracing::warn!("{error}");
    }
    Ok(JobReport::default())
}

async fn rewind_to_leader(context: &JobContext) -> Done {
    let Some(leader) = &context.leader else { return Err(failed("there is no leader to rewind to")) };
    keep_wal(context).await?;
    let rewound = rewind::rewind(&context.instance, leader, context.leader_timeline).await;
    settle_wal(context).await;
    match rewound {
        Ok(outcome) => {
            let note = match outcome {
                RewindOutcome::NotNeeded => "nothing to undo",
                RewindOutcome::Rewound(_) => "rewound",
            };
            Ok(JobReport { note: Some(note.to_owned()), ..JobReport::default() })
        }
        Err(error @ (RewindError::NeedsClone { .. } | RewindError::LocalRecovery { .. })) => Err(hopeless(error)),
        Err(error) => Err(failed(error)),
    }
}

/// What was not archived yet would go with the old history.
pub(crate) async fn keep_wal(context: &JobContext) -> Result<(), JobFailure> {
    if !context.keeps_wal {
        return Ok(());
    }
    let data_dir = context.instance.data_dir.clone();
    let kept = tokio::task::spawn_blocking(move || crate::archive::keep(&data_dir)).await;
    match kept.unwrap_or_else(|error| Err(std::io::Error::other(error))) {
        Ok(0) => Ok(()),
        Ok(count) => {
            tracing::info!(count, "files of WAL that are not archived yet are kept beside the data directory");
            Ok(())
        }
        Err(error) => Err(failed(format!("the WAL that is not archived yet cannot be kept beside the data: {error}"))),
    }
}

pub(crate) async fn settle_wal(context: &JobContext) {
    if !context.keeps_wal {
        return;
    }
    let data_dir = context.instance.data_dir.clone();
    let settled = tokio::task::spawn_blocking(move || crate::archive::settle(&data_dir)).await;
    if let Err(error) = settled.unwrap_or_else(|error| Err(std::io::Error::other(error))) {
        tracing::error!("WAL that is not archived yet may be lost: {error}");
    }
}

async fn restart(context: &JobContext) -> Done {
    stop_fast(context).await?;
    start(context, if context.primary { StartAs::Primary } else { StartAs::Standby }).await
}
