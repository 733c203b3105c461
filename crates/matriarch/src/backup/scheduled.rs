//! A scheduled backup, as an agent begins it: taken, and followed by the retention.

use anyhow::Context;
use matriarch_agent::chores::Chore;
use matriarch_config::LocalConfig;

use super::archives::Found;
use super::care;
use super::take::{self, TakeArgs};
use super::tend;
use crate::chore::{self, Done, Stop};
use crate::cluster::Which;

/// Takes the backup that is due, unless none is or another member takes it.
pub async fn run(args: &TakeArgs, which: &Which) -> anyhow::Result<()> {
    let file = which.config.as_ref().context("--scheduled needs the agent's configuration (--config)")?;
    let work = async |found: &Found, full: bool, stop: Stop<'_>| {
        take_and_expire(&args.of_kind(full), which, found, stop).await
    };
    chore::perform(Chore::Backup, &LocalConfig::load(file)?, work).await
}

async fn take_and_expire(
    args: &TakeArgs,
    which: &Which,
    found: &Found,
    mut stop: Stop<'_>,
) -> anyhow::Result<Option<Done>> {
    let Some(taken) = take::into_all(args, which, found, stop.as_mut()).await? else { return Ok(None) };
    let policy = care::configured_policy(found);
    let removed = care::expire_all(found, &policy, false);
    let (expired, failed) = tend::expire_after("backup", removed, |one| one.expired.len(), stop).await;
    let first = taken.lines.first();
    Ok(Some(Done {
        from_standby: first.is_some_and(|line| line.from_standby),
        incremental: first.is_some_and(|line| line.parent.is_some()),
        size: first.map_or(0, |line| line.size),
        stored: first.map_or(0, |line| line.stored),
        expired,
        trouble: taken.missing.map(|missing| missing.text).or(failed).or(taken.damage),
        name: taken.name,
    }))
}
