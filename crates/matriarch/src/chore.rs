//! A scheduled backup or dump, as an agent begins it: claimed in the store, done, and told of.
//!
//! The claim lives under a lease that this process renews: when it is gone, another member may do it. It does not
//! depend on the agent that began it.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use jiff::Timestamp;
use matriarch_agent::chores::{self, Chore};
use matriarch_agent::view;
use matriarch_api::{BackupFailure, BackupLog, BackupRun, ScheduledBackup};
use matriarch_config::{Archive, DynamicConfig, LocalConfig};
use matriarch_core::record::Versioned;
use matriarch_dcs::{Committed, LeaseId, Store, StoreError, Txn};
use tokio::time::{Instant, sleep};

use crate::backup::archives::{Found, PATIENCE};
use crate::backup::meter::interrupted;
use crate::store::{self, StoreAddress};

/// How long the claim of a process that is gone keeps others off.
const TTL: Duration = Duration::from_secs(20);
const AGAIN: Duration = Duration::from_secs(1);

/// Ends when the work must be given up.
pub type Stop<'a> = Pin<&'a mut (dyn Future<Output = ()> + 'a)>;

/// What an attempt that went well has done.
pub struct Done {
    /// Name of what was taken.
    pub name: String,
    pub from_standby: bool,
    /// Only what has changed since the one before it was stored.
    pub incremental: bool,
    /// Bytes of content.
    pub size: u64,
    /// Bytes in the first repository.
    pub stored: u64,
    /// How many earlier ones the retention removed.
    pub expired: u64,
    /// What went wrong afterwards, or was found on the way.
    pub trouble: Option<String>,
}

/// What there is to do.
struct Order {
    archive: Archive,
    /// The schedule, as its log names it.
    plan: String,
    due: Timestamp,
    /// All of it, not only what has changed.
    full: bool,
    log: Versioned<BackupLog>,
}

/// Does what is due, unless nothing is or another member does it. `work` is told whether it is to be all of it, and says
/// nothing when it was given up.
pub async fn perform(
    chore: Chore,
    local: &LocalConfig,
    work: impl AsyncFnOnce(&Found, bool, Stop<'_>) -> anyhow::Result<Option<Done>>,
) -> anyhow::Result<()> {
    // Beside the agent's own lines, where they go.
    crate::agent::start_logging(local, None);
    let store = store::open(&StoreAddress::from(&local.store), &local.prefix(), false).await?;
    let Some(order) = order(&*store, chore).await? else { return Ok(()) };
    let now = Timestamp::now().to_string();
    let run = BackupRun { member: local.name.to_string(), due: order.due.to_string(), since: now };
    let mut claim = Claim { store: store.clone(), chore, text: serde_json::to_string(&run)?, lease: LeaseId(0) };
    if !claim.take(Some(order.log.revision)).await? {
        return Ok(());
    }
    let (member, name) = (local.name.to_string(), chore.name());
    let began = Timestamp::now();
    let attempt = match Found::of(order.archive, local.scope.clone()) {
        Ok(found) => attempt(name, &found, order.full, &mut claim, work).await,
        Err(error) => Err(error),
    };
    let told = match attempt {
        // Nothing is told: it is as if nobody had begun.
        Ok(None) => Ok(()),
        Ok(Some(done)) => {
            tracing::info!(expired = done.expired, "the scheduled {name} {} was taken", done.name);
            tell(&*store, chore, &order.plan, |log: &BackupLog| done.told(log, &member, began, order.full)).await
        }
        Err(error) => {
            let why = format!("{error:#}");
            let failure =
                |at: Timestamp| BackupFailure { member: member.clone(), at: at.to_string(), why: why.clone() };
            let make = |log: &BackupLog| chores::failed(log, failure(Timestamp::now()), Timestamp::now());
            tell(&*store, chore, &order.plan, make).await.and(Err(error))
        }
    };
    claim.release().await;
    told
}

async fn order(store: &dyn Store, chore: Chore) -> anyhow::Result<Option<Order>> {
    let reading = view::read(&store.read().await?, None, Timestamp::now());
    let Some(config) = &reading.config else { return Ok(None) };
    let config = serde_json::from_str(&config.value).context("the configuration in the store is no JSON")?;
    let Some(archive) = DynamicConfig::from_json(&config)?.archive else { return Ok(None) };
    let (Some(plan), Some(log)) = (chore.plan(&archive), chore.log(&reading)) else { return Ok(None) };
    let now = Timestamp::now();
    let due = chores::due(&plan, &log.value).filter(|due| *due <= now);
    let due = due.filter(|_| log.value.schedule == plan.to_string() && chore.running(&reading).is_none());
    let Some(due) = due else { return Ok(None) };
    let full = plan.is_full(&log.value, now);
    Ok(Some(Order { plan: plan.to_string(), due, full, log: log.clone(), archive }))
}

/// None: it was interrupted, or another member has taken over.
async fn attempt(
    name: &str,
    found: &Found,
    full: bool,
    claim: &mut Claim,
    work: impl AsyncFnOnce(&Found, bool, Stop<'_>) -> anyhow::Result<Option<Done>>,
) -> anyhow::Result<Option<Done>> {
    let interrupted = interrupted()?;
    let stop = async {
        tokio::select! {
            () = interrupted => tracing::info!("the scheduled {name} was interrupted"),
            () = claim.keep() => tracing::warn!("another member takes the scheduled {name}"),
        }
    };
    tokio::pin!(stop);
    let stop: Stop<'_> = stop;
    work(found, full, stop).await
}

impl Done {
    fn told(&self, log: &BackupLog, member: &str, began: Timestamp, full: bool) -> BackupLog {
        let now = Timestamp::now().to_string();
        let last = ScheduledBackup {
            backup: self.name.clone(),
            member: member.to_owned(),
            began: began.to_string(),
            ended: now.clone(),
            from_standby: self.from_standby,
            incremental: self.incremental,
            size: self.size,
            stored: self.stored,
            expired: self.expired,
        };
        let failure = |why: &String| BackupFailure { member: member.to_owned(), at: now.clone(), why: why.clone() };
        let last_failure = self.trouble.as_ref().map(failure);
        BackupLog {
            schedule: log.schedule.clone(),
            since: now.clone(),
            full_since: if full { None } else { log.full_since.clone().or(Some(log.since.clone())) },
            last: Some(last),
            last_failure,
            ..BackupLog::default()
        }
    }
}

/// Writes the log anew. A schedule that was changed meanwhile has a log of its own, which only
/// learns of what was taken.
async fn tell(
    store: &dyn Store,
    chore: Chore,
    plan: &str,
    make: impl Fn(&BackupLog) -> BackupLog,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let why = match told(store, chore, plan, &make).await {
            Ok(true) => return Ok(()),
            Ok(false) => "it kept changing".to_owned(),
            Err(error) => error.to_string(),
        };
        if Instant::now() > deadline {
            anyhow::bail!("what became of the scheduled {} could not be written to the store: {why}", chore.name());
        }
        sleep(AGAIN).await;
    }
}

async fn told(
    store: &dyn Store,
    chore: Chore,
    plan: &str,
    make: &impl Fn(&BackupLog) -> BackupLog,
) -> Result<bool, StoreError> {
    let reading = view::read(&store.read().await?, None, Timestamp::now());
    // Without a log the schedule was removed, or the store was wiped.
    let Some(log) = chore.log(&reading) else { return Ok(true) };
    let mut next = make(&log.value);
    if log.value.schedule != plan {
        next = BackupLog { last: next.last, ..log.value.clone() };
    }
    let text = serde_json::to_string(&next).expect("it is plain data");
    let txn = Txn::new().revision(chore.log_key(), log.revision).put(chore.log_key(), text);
    Ok(matches!(store.commit(txn).await?, Committed::Applied { .. }))
}

/// The word in the store that this process does it.
struct Claim {
    store: Arc<dyn Store>,
    chore: Chore,
    text: String,
    lease: LeaseId,
}

impl Claim {
    /// Claims under a new lease, if nobody has, and if the log is as it was read.
    async fn take(&mut self, log: Option<u64>) -> Result<bool, StoreError> {
        self.lease = self.store.grant(TTL).await?;
        let txn = Txn::new().absent(self.chore.run_key());
        let txn = log.into_iter().fold(txn, |txn, revision| txn.revision(self.chore.log_key(), revision));
        let txn = txn.put_leased(self.chore.run_key(), self.text.clone(), self.lease);
        let claimed = self.store.commit(txn).await;
        if !matches!(claimed, Ok(Committed::Applied { .. })) {
            let _ = self.store.revoke(self.lease).await;
        }
        claimed.map(|claimed| claimed.applied().is_some())
    }

    /// Renews it, and returns when another member has claimed. A store that is away takes nothing from work of hours.
    async fn keep(&mut self) {
        let name = self.chore.name();
        loop {
            sleep(TTL / 4).await;
            match self.store.keep_alive(self.lease).await {
                Err(StoreError::LeaseGone { .. }) => match self.take(None).await {
                    Ok(false) => return,
                    Ok(true) => {}
                    Err(error) => tracing::warn!("the claim on the scheduled {name} cannot be made again yet: {error}"),
                },
                Err(error) => tracing::warn!("the claim on the scheduled {name} cannot be renewed: {error}"),
                Ok(()) => {}
            }
        }
    }

    async fn release(&self) {
        // A store that does not answer ends it by itself.
        let _ = tokio::time::timeout(AGAIN, self.store.revoke(self.lease)).await;
    }
}
