//! Which incarnation of a cluster serves a target, where several are there, and in which of several repositories.

use jiff::Timestamp;

use super::{Plan, RestoreError, Target, Wanted, plan};
use crate::archive::Archive;
use crate::base;

/// The newest incarnation that serves the target, and the plan there; `incarnations` oldest first. A backup that is asked for
/// by name decides.
///
/// # Errors
/// [`RestoreError::NoBackup`] and its kin say what can be reached instead; of several incarnations, the newest one's.
pub async fn choose(incarnations: Vec<Archive>, wanted: &Wanted) -> Result<(Archive, Plan), RestoreError> {
    let mut refused: Option<RestoreError> = None;
    for archive in incarnations.into_iter().rev() {
        let backups = base::list(&archive).await?;
        let lacks = |name: &String| backups.iter().all(|found| found.backup != *name);
        if wanted.backup.as_ref().is_some_and(lacks) {
            continue;
        }
        let begun = archive.incarnation().created;
        if backups.is_empty() {
            if archive.incarnation().parent.is_some() && reaches_into(&wanted.target, begun) {
                return Err(RestoreError::NoBackup(format!(
                    "incarnation {} began at {begun} by a restore and has no backup yet, so what was written since cannot be \
                     restored; --incarnation names an older one (matriarch backup list)",
                    archive.place().incarnation(),
                )));
            }
            continue;
        }
        match plan(&archive, wanted).await {
            Ok(plan) => return Ok((archive, plan)),
            Err(error @ (RestoreError::NoBackup(_) | RestoreError::OutOfReach { .. } | RestoreError::Gap { .. })) => {
                refused = refused.or(Some(error));
            }
            Err(error) => return Err(error),
        }
    }
    Err(refused.unwrap_or_else(|| match &wanted.backup {
        Some(name) => RestoreError::NoBackup(format!("there is no backup '{name}' ('matriarch backup list')")),
        None => RestoreError::NoBackup("the archive holds no backup of the cluster".to_owned()),
    }))
}

/// Of what several repositories offer, the one that leads furthest: one that was away for a while may lack the end of the WAL,
/// or the newest backups. Of those that are alike, the first.
pub fn furthest(offers: impl IntoIterator<Item = (Archive, Plan)>, target: &Target) -> Option<(Archive, Plan)> {
    let far = |plan: &Plan| (plan.history.timeline, plan.reach);
    offers.into_iter().reduce(|best, next| {
        let is_further = match best.0.place().incarnation() == next.0.place().incarnation() {
            true if matches!(target, Target::Latest) => far(&next.1) > far(&best.1),
            _ => next.1.summary.stop_time > best.1.summary.stop_time,
        };
        if is_further { next } else { best }
    })
}

fn reaches_into(target: &Target, begun: Timestamp) -> bool {
    match target {
        Target::Latest => true,
        Target::Time(time) => *time >= begun,
        _ => false,
    }
}
