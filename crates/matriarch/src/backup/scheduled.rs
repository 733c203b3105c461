//! A scheduled backup, as an agent begins it: claimed in the store, taken, followed by the retention, and told of.
//!
//! The claim lives under a lease that this process renews: when it is gone, another member may take the backup. It does not
//! depend on the agent that began it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use jiff::Timestamp;
use matriarch_agent::{backups, view};
use matriarch_api::{BackupFailure, BackupLog, BackupRun, ScheduledBackup};
use matriarch_config::{Archive, DynamicConfig, LocalConfig, Schedule};
use matriarch_core::record::{Versioned, key};
use matriarch_dcs::{Committed, LeaseId, Store, StoreError, Txn};
use tokio::time::{Instant, sleep};

use super::archives::{Found, PATIENCE};
use super::care;
use super::meter::interrupted;
use super::take::{self, TakeArgs, Taken};
use crate::cluster::Which;
use crate::store::{self, StoreAddress};

/// How long the claim of a process that is gone keeps others off.
const TTL: Duration = Duration::from_secs(20);
const AGAIN: Duration = Duration::from_secs(1);

/// What there is to do.
struct Order {
    archive: Archive,
    schedule: Schedule,
    due: Timestamp,
    log: Versioned<BackupLog>,
}

/// Takes the backup that is due, unless none is or another member takes it.
pub async fn run(args: &TakeArgs, which: &Which) -> anyhow::Result<()> {
    let file = which.config.as_ref().context("--scheduled needs the agent's configuration (--config)")?;
    let local = LocalConfig::load(file)?;
    // Beside the agent's own lines, where they go.
    crate::agent::start_logging(&local, None);
    let store = store::open(&StoreAddress::from(&local.store), &local.prefix(), false).await?;
    let Some(order) = order(&*store).await? else { return Ok(()) };
    let now = Timestamp::now().to_string();
    let claim = BackupRun { member: local.name.to_string(), due: order.due.to_string(), since: now };
    let mut claim = Claim { store: store.clone(), text: serde_json::to_string(&claim)?, lease: LeaseId(0) };
    if !claim.take(Some(order.log.revision)).await? {
        return Ok(());
    }
    let member = local.name.to_string();
    let began = Timestamp::now();
    let found = Found::of(order.archive, local.scope.clone());
    let attempt = attempt(args, which, found, &mut claim).await;
    let told = match attempt {
        // Nothing is told: it is as if nobody had begun.
        Ok(None) => Ok(()),
        Ok(Some(done)) => {
            tracing::info!(expired = done.expired, "the scheduled backup {} was taken", done.taken.name);
            let make = |log: &BackupLog| done.told(log, &member, began);
            tell(&*store, &order.schedule, make).await
        }
        Err(error) => {
            let why = format!("{error:#}");
            let failure =
                |at: Timestamp| BackupFailure { member: member.clone(), at: at.to_string(), why: why.clone() };
            let make = |log: &BackupLog| backups::failed(log, failure(Timestamp::now()), Timestamp::now());
            tell(&*store, &order.schedule, make).await.and(Err(error))
        }
    };
    claim.release().await;
    told
}

async fn order(store: &dyn Store) -> anyhow::Result<Option<Order>> {
    let reading = view::read(&store.read().await?, None, Timestamp::now());
    let Some(config) = reading.config else { return Ok(None) };
    let config = serde_json::from_str(&config.value).context("the configuration in the store is no JSON")?;
    let archive = DynamicConfig::from_json(&config)?.archive;
    let scheduled = archive.and_then(|archive| Some((archive.schedule.clone()?, archive)));
    let (Some((schedule, archive)), Some(log)) = (scheduled, reading.backups) else { return Ok(None) };
    let now = Timestamp::now();
    let due = backups::due(&schedule, &log.value).filter(|due| *due <= now);
    let due = due.filter(|_| log.value.schedule == schedule.to_string() && reading.backup.is_none());
    let Some(due) = due else { return Ok(None) };
    Ok(Some(Order { archive, schedule, due, log }))
}

/// What an attempt that went well has done.
struct Done {
    taken: Taken,
    expired: u64,
    /// What went wrong afterwards, or was found on the way.
    trouble: Option<String>,
}

/// None: it was interrupted, or another member has taken over.
async fn attempt(
    args: &TakeArgs,
    which: &Which,
    found: anyhow::Result<Found>,
    claim: &mut Claim,
) -> anyhow::Result<Option<Done>> {
    let found = &found?;
    let interrupted = interrupted()?;
    let stop = async {
        tokio::select! {
            () = interrupted => tracing::info!("the scheduled backup was interrupted"),
            () = claim.keep() => tracing::warn!("another member takes the scheduled backup"),
        }
    };
    tokio::pin!(stop);
    let Some(taken) = take::into_all(args, which, found, stop.as_mut()).await? else { return Ok(None) };
    let policy = care::configured_policy(found);
    let (expired, failed) = tokio::select! {
        removed = care::expire_all(found, &policy, false) => match removed {
            Ok(all) => (all.iter().map(|one| one.expired.len() as u64).sum(), None),
            Err(error) => (0, Some(format!("the backup was taken, and its retention failed: {error:#}"))),
        },
        // What is left over is removed the next time.
        () = stop => (0, None),
    };
    Ok(Some(Done { trouble: failed.or(taken.damage.clone()), taken, expired }))
}

impl Done {
    fn told(&self, log: &BackupLog, member: &str, began: Timestamp) -> BackupLog {
        let now = Timestamp::now().to_string();
        let first = self.taken.lines.first();
        let last = ScheduledBackup {
            backup: self.taken.name.clone(),
            member: member.to_owned(),
            began: began.to_string(),
            ended: now.clone(),
            from_standby: first.is_some_and(|line| line.from_standby),
            size: first.map_or(0, |line| line.size),
            stored: first.map_or(0, |line| line.stored),
            expired: self.expired,
        };
        let failure = |why: &String| BackupFailure { member: member.to_owned(), at: now.clone(), why: why.clone() };
        let last_failure = self.trouble.as_ref().map(failure);
        BackupLog {
            schedule: log.schedule.clone(),
            since: now.clone(),
            last: Some(last),
            last_failure,
            ..BackupLog::default()
        }
    }
}

/// Writes the log anew. A schedule that was changed meanwhile has a log of its own, which only
/// learns of the backup.
async fn tell(store: &dyn Store, schedule: &Schedule, make: impl Fn(&BackupLog) -> BackupLog) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let why = match told(store, schedule, &make).await {
            Ok(true) => return Ok(()),
            Ok(false) => "it kept changing".to_owned(),
            Err(error) => error.to_string(),
        };
        if Instant::now() > deadline {
            anyhow::bail!("what became of the scheduled backup could not be written to the store: {why}");
        }
        sleep(AGAIN).await;
    }
}

async fn told(
    store: &dyn Store,
    schedule: &Schedule,
    make: &impl Fn(&BackupLog) -> BackupLog,
) -> Result<bool, StoreError> {
    let reading = view::read(&store.read().await?, None, Timestamp::now());
    // Without a log the schedule was removed, or the store was wiped.
    let Some(log) = reading.backups else { return Ok(true) };
    let mut next = make(&log.value);
    if log.value.schedule != schedule.to_string() {
        next = BackupLog { last: next.last, ..log.value };
    }
    let text = serde_json::to_string(&next).expect("it is plain data");
    let txn = Txn::new().revision(key::BACKUPS, log.revision).put(key::BACKUPS, text);
    Ok(matches!(store.commit(txn).await?, Committed::Applied { .. }))
}

/// The word in the store that this process takes the backup.
struct Claim {
    store: Arc<dyn Store>,
    text: String,
    lease: LeaseId,
}

impl Claim {
    /// Claims under a new lease, if nobody has, and if the log is as it was read.
    async fn take(&mut self, log: Option<u64>) -> Result<bool, StoreError> {
        self.lease = self.store.grant(TTL).await?;
        let txn = Txn::new().absent(key::BACKUP);
        let txn = log.into_iter().fold(txn, |txn, revision| txn.revision(key::BACKUPS, revision));
        let txn = txn.put_leased(key::BACKUP, self.text.clone(), self.lease);
        let claimed = self.store.commit(txn).await;
        if !matches!(claimed, Ok(Committed::Applied { .. })) {
            let _ = self.store.revoke(self.lease).await;
        }
        claimed.map(|claimed| claimed.applied().is_some())
    }

    /// Renews it, and returns when another member has claimed. A store that is away takes nothing from a backup of hours.
    async fn keep(&mut self) {
        loop {
            sleep(TTL / 4).await;
            match self.store.keep_alive(self.lease).await {
                Err(StoreError::LeaseGone { .. }) => match self.take(None).await {
                    Ok(false) => return,
                    Ok(true) => {}
                    Err(error) => tracing::warn!("the claim on the scheduled backup cannot be made again yet: {error}"),
                },
                Err(error) => tracing::warn!("the claim on the scheduled backup cannot be renewed: {error}"),
                Ok(()) => {}
            }
        }
    }

    async fn release(&self) {
        // A store that does not answer ends it by itself.
        let _ = tokio::time::timeout(AGAIN, self.store.revoke(self.lease)).await;
    }
}
