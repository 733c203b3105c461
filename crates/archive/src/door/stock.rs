//! What a door leads to: backups, and how long segments of WAL are.

use super::shelf::Known;
use super::{Door, Foreign};
use crate::base::Summary;
use crate::repository::RepositoryError;
use crate::restore::{self, Last, Onto, Plan, RestoreError, Wanted};
use crate::wal::{self, WalName};

/// A door whose backups are known.
#[derive(Debug)]
pub struct Stock {
    door: Door,
    backups: Vec<Summary>,
    segment_size: u64,
}

impl Stock {
    /// No tool says how long a segment is: the first that a backup needs does.
    pub(super) async fn of(door: Door, mut known: Vec<Known>) -> Result<Stock, RestoreError> {
        known.sort_by_key(|one| (one.summary.stop_time, one.summary.stop_lsn));
        if known.is_empty() {
            let text = format!("{} holds no complete backup of {}", door.repository().name(), door.name());
            return Err(RestoreError::NoBackup(text));
        }
        let mut absent = None;
        for one in known.iter().rev() {
            let name: WalName = one.first_wal.parse().map_err(|error| {
                let why = format!("its first WAL is {error}");
                RestoreError::from(door.repository().corrupt(&one.summary.backup, why))
            })?;
            match door.wal(&name).await {
                Ok(content) => {
                    let segment_size = content.len() as u64;
                    let mut backups: Vec<Summary> = known.into_iter().map(|one| one.summary).collect();
                    // What old versions do not tell, the header of a segment does.
                    let system = wal::system_of(&content);
                    for summary in backups.iter_mut().filter(|summary| summary.system_identifier.is_empty()) {
                        summary.system_identifier = system.unwrap_or_default().to_string();
                    }
                    return Ok(Stock { door, backups, segment_size });
                }
                Err(error) if error.is_absent() => absent = absent.or(Some((one.summary.backup.clone(), error))),
                Err(error) => return Err(error.into()),
            }
        }
        let why = absent.map_or_else(String::new, |(backup, error)| format!(": the newest is {backup}, and {error}"));
        Err(RestoreError::NoBackup(format!("no backup of {} has the WAL that it needs{why}", door.name())))
    }

    /// The door.
    pub fn door(&self) -> &Door {
        &self.door
    }

    /// Complete backups, the oldest first.
    pub fn backups(&self) -> &[Summary] {
        &self.backups
    }

    /// Bytes of a segment.
    pub fn segment_size(&self) -> u64 {
        self.segment_size
    }

    /// What would be restored. Unlike a plan of [`restore::plan`] it knows the backup's tablespaces.
    pub async fn plan(&self, wanted: &Wanted) -> Result<Plan, RestoreError> {
        let mut plan = restore::plan(self, wanted).await?;
        self.door.shelf.describe(&mut plan.summary).await?;
        Ok(plan)
    }

    /// By which a restored directory finds its WAL again.
    pub fn foreign(&self, plan: &Plan) -> Foreign {
        let mut foreign = self.door.foreign.clone();
        self.door.shelf.settle(&mut foreign);
        foreign.chosen.backup = Some(plan.summary.backup.clone());
        foreign.chosen.system_identifier = plan.summary.system_identifier.parse().ok();
        foreign
    }

    /// Writes the files of a backup but the two that come last.
    pub(crate) async fn unpack(&self, summary: &Summary, onto: &Onto) -> Result<Last, RestoreError> {
        let last = self.door.shelf.unpack(summary, onto).await?;
        self.check(summary, &last)?;
        Ok(last)
    }

    fn check(&self, summary: &Summary, last: &Last) -> Result<(), RepositoryError> {
        let found = last.control.first_chunk::<8>().map(|bytes| u64::from_le_bytes(*bytes).to_string());
        if found.as_deref() != Some(summary.system_identifier.as_str()) {
            let found = found.unwrap_or_else(|| "none".to_owned());
            let why = format!(
                "its pg_control is of the database system {found}, and the repository says {}",
                summary.system_identifier
            );
            return Err(self.door.repository().corrupt(&summary.backup, why));
        }
        if !last.label.starts_with("START WAL LOCATION") {
            let why = "it has no backup_label, without which PostgreSQL would take it for whole";
            return Err(self.door.repository().corrupt(&summary.backup, why));
        }
        Ok(())
    }
}
