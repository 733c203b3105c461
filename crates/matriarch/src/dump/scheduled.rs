//! A scheduled dump, as an agent begins it: taken as the configuration says, and followed by what it keeps.

use anyhow::Context;
use matriarch_agent::chores::Chore;
use matriarch_archive::dump::Policy;
use matriarch_config::{DumpFormat, Dumps, LocalConfig};

use super::care;
use super::take::{self, Form, TakeArgs};
use crate::backup::archives::Found;
use crate::backup::tend;
use crate::chore::{self, Done, Stop};
use crate::cluster::Which;

/// Takes the dump that is due, unless none is or another member takes it.
pub async fn run(which: &Which) -> anyhow::Result<()> {
    let file = which.config.as_ref().context("--scheduled needs the agent's configuration (--config)")?;
    let work = async |found: &Found, _: bool, stop: Stop<'_>| take_and_expire(which, found, stop).await;
    chore::perform(Chore::Dump, &LocalConfig::load(file)?, work).await
}

async fn take_and_expire(which: &Which, found: &Found, mut stop: Stop<'_>) -> anyhow::Result<Option<Done>> {
    let dumps = found.section.dumps.as_ref().context("archive.dumps was removed from the configuration")?;
    let Some(taken) = take::into_all(&arguments(dumps), which, found, stop.as_mut()).await? else { return Ok(None) };
    let policy = configured_policy(dumps);
    let removed = care::expire_all(found, &policy, false);
    let (expired, trouble) = tend::expire_after("dump", removed, |one| one.expired.len(), stop).await;
    let first = taken.lines.first();
    Ok(Some(Done {
        from_standby: first.is_some_and(|line| line.from_standby),
        incremental: false,
        size: first.map_or(0, |line| line.size),
        stored: first.map_or(0, |line| line.stored),
        expired,
        trouble: taken.missing.map(|missing| missing.text).or(trouble),
        name: taken.name,
    }))
}

/// What the configuration keeps.
pub fn configured_policy(dumps: &Dumps) -> Policy {
    Policy::new(dumps.keep, dumps.keep_for)
}

fn arguments(dumps: &Dumps) -> TakeArgs {
    TakeArgs {
        databases: dumps.databases.clone(),
        format: match dumps.format {
            DumpFormat::Custom => Form::Custom,
            DumpFormat::Directory => Form::Directory,
        },
        jobs: dumps.jobs,
        scratch: dumps.scratch.clone(),
        scheduled: true,
        ..TakeArgs::default()
    }
}
