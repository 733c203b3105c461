//! Removing one backup, and those that build upon it.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::RetentionError;
use super::chains;
use super::keep::Policy;
use super::sweep::{Plan, Seen, Step, chains_of, is_fresh, look, objects, whole};
use crate::archive::Archive;
use crate::base::Found;

/// Looks what goes with one backup, whatever the policy says: all of it, and no WAL. `children`: also those that build upon it.
///
/// # Errors
/// [`RetentionError::Needed`] names those that build upon it.
pub async fn plan_without(
    archive: &Archive,
    backup: &str,
    children: bool,
    policy: &Policy,
    now: Timestamp,
) -> Result<Plan, RetentionError> {
    one(&look(archive, now).await?, backup, children, policy, now)
}

/// The same of what has been seen.
pub fn one(
    seen: &BTreeMap<String, Seen>,
    name: &str,
    children: bool,
    policy: &Policy,
    now: Timestamp,
) -> Result<Plan, RetentionError> {
    match seen.get_key_value(name) {
        Some((name, found)) if matches!(found.manifest, Some(Found::Whole(_))) => with_children(seen, name, children),
        Some((name, found)) if found.manifest.is_none() => {
            let by: Vec<String> = chains::users(&chains_of(seen), name).into_iter().map(str::to_owned).collect();
            if !by.is_empty() {
                return Err(RetentionError::Needed { backup: name.clone(), by });
            }
            if is_fresh(found.newest, policy, now) {
                return Err(RetentionError::UnderWay(name.clone()));
            }
            let mut steps = vec![Step::Abandon { backup: name.clone() }];
            steps.extend(objects(&found.others));
            Ok(Plan { steps, ..Plan::default() })
        }
        _ => Err(RetentionError::NoBackup(name.to_owned())),
    }
}

/// A backup and, if that is wanted, those that build upon it.
fn with_children(seen: &BTreeMap<String, Seen>, name: &str, children: bool) -> Result<Plan, RetentionError> {
    let chains = chains_of(seen);
    let mut all: Vec<&str> = chains::users(&chains, name).into_iter().collect();
    if let Some(begun) = all.iter().find(|user| seen[**user].manifest.is_none()) {
        return Err(RetentionError::UnderWay((*begun).to_owned()));
    }
    all.sort_by_key(|user| match &seen[*user].manifest {
        Some(Found::Whole(outline)) => Some(outline.stop_time),
        _ => None,
    });
    if !all.is_empty() && !children {
        let by = all.into_iter().map(str::to_owned).collect();
        return Err(RetentionError::Needed { backup: name.to_owned(), by });
    }
    all.extend(chains.get_key_value(name).map(|(name, _)| *name));
    if let Some(held) = all.iter().find(|name| seen[**name].held) {
        return Err(RetentionError::Held((*held).to_owned()));
    }
    let order = chains::children_first(&chains, all);
    let steps = order.into_iter().flat_map(|name| whole(name, &seen[name])).collect();
    Ok(Plan { steps, ..Plan::default() })
}
