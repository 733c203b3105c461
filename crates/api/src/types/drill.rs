//! Drills: a failover, a switchover or a restore done on purpose, what was measured, and the shape in which all members keep it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How many drills are remembered; older ones only count.
const KEPT: usize = 100;

/// What is practised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DrillKind {
    /// The primary is ended as a crash would.
    #[default]
    Failover,
    /// A planned move.
    Switchover,
    /// The newest backup is restored beside everything, and read.
    Restore,
}

/// What a failover drill ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Blow {
    /// The postmaster of the primary, by SIGKILL.
    #[default]
    Postgres,
    /// PostgreSQL with all its processes, and the agent, by SIGKILL; only where something starts the agent again.
    Instance,
}

/// How a drill ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DrillResult {
    /// Writes came back, nothing acknowledged is missing, every member is well; or the restored data answered every question.
    Passed,
    /// An acknowledged row is missing.
    LostWrites,
    /// Anything else; the note says what.
    #[default]
    Failed,
}

/// One drill. Every acknowledged write was looked for afterwards.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct DrillRecord {
    /// What was practised.
    pub kind: DrillKind,
    /// What was ended; only of a failover.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blow: Option<Blow>,
    /// How it ended.
    pub result: DrillResult,
    /// When the blow fell, or the move was asked for, or the restore began (RFC 3339).
    pub at: String,
    /// What a restore found; then the fields about members, writes and timelines mean nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restore: Option<RestoreFigures>,
    /// Who led before.
    pub from: String,
    /// Who leads afterwards; empty when nobody does.
    pub to: String,
    /// Epoch afterwards.
    pub epoch: u64,
    /// Timeline of the primary before.
    pub timeline_before: u32,
    /// Timeline of the primary afterwards.
    pub timeline: u32,
    /// Longest time without an acknowledged write, in seconds.
    pub gap_seconds: f64,
    /// Time until every member was well again, in seconds; none when that did not come.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub well_after_seconds: Option<f64>,
    /// Writes that were acknowledged.
    pub acknowledged: u64,
    /// Writes whose fate the client could not know: cut off before an answer.
    pub unacknowledged: u64,
    /// Writes that were refused, and connections that could not be made.
    pub errors: u64,
    /// Acknowledged writes that are missing; none when nobody could look.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lost_writes: Option<u64>,
    /// What went wrong, or what is worth knowing.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub note: String,
}

/// What a restore drill restored, what it found there, and how long each step took.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct RestoreFigures {
    /// Name of the backup; empty when none served.
    pub backup: String,
    /// The repository.
    pub repository: String,
    /// How far it was to go, in words.
    pub target: String,
    /// Where recovery ended.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reached: String,
    /// When the last transaction before that ended, by the server's clock (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reached_at: Option<String>,
    /// Bytes of all files.
    pub bytes: u64,
    /// WAL segments that were put in place.
    pub segments: u64,
    /// Databases that were connected to.
    pub databases: u64,
    /// Tables, indexes and sequences in them.
    pub relations: u64,
    /// What was checked besides: `amcheck`, `checksums`.
    pub checks: Vec<String>,
    /// Seconds that each step took.
    pub seconds: RestoreSeconds,
}

/// Seconds of each step of a restore drill; 0 for those it did not come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct RestoreSeconds {
    /// Finding the backup and its WAL.
    pub plan: f64,
    /// Files, until all are on disk.
    pub files: f64,
    /// WAL.
    pub wal: f64,
    /// Recovery, until connections are taken.
    pub start: f64,
    /// Counting, and the queries.
    pub query: f64,
    /// Checks.
    pub check: f64,
}

impl RestoreSeconds {
    /// By name, in their order.
    pub fn steps(&self) -> [(&'static str, f64); 6] {
        let RestoreSeconds { plan, files, wal, start, query, check } = *self;
        [("plan", plan), ("files", files), ("wal", wal), ("start", start), ("query", query), ("check", check)]
    }

    /// Until connections were taken: as long as a restore in earnest.
    pub fn until_ready(&self) -> f64 {
        self.plan + self.files + self.wal + self.start
    }
}

/// All drills of a cluster: the newest of them, and how many there were.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct DrillLog {
    /// The newest, oldest first; at most 100.
    pub drills: Vec<DrillRecord>,
    /// How many there were ever, by kind and result: they grow when old ones are forgotten.
    pub totals: BTreeMap<DrillKind, BTreeMap<DrillResult, u64>>,
}

impl DrillLog {
    /// Adds one, and forgets the oldest.
    pub fn add(&mut self, record: DrillRecord) {
        *self.totals.entry(record.kind).or_default().entry(record.result).or_default() += 1;
        self.drills.push(record);
        let surplus = self.drills.len().saturating_sub(KEPT);
        self.drills.drain(..surplus);
    }

    /// The newest of a kind.
    pub fn last(&self, kind: DrillKind) -> Option<&DrillRecord> {
        self.drills.iter().rev().find(|drill| drill.kind == kind)
    }
}

impl DrillKind {
    /// As it is written in JSON and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            DrillKind::Failover => "failover",
            DrillKind::Switchover => "switchover",
            DrillKind::Restore => "restore",
        }
    }
}

impl DrillResult {
    /// As it is written in JSON and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            DrillResult::Passed => "passed",
            DrillResult::LostWrites => "lost_writes",
            DrillResult::Failed => "failed",
        }
    }
}

/// `POST /drill`: end the primary as a crash would. Refused unless this member leads in that epoch and could be spared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BlowBody {
    /// What is ended.
    #[serde(default)]
    pub blow: Blow,
    /// The epoch in which this member leads. Required, so that a repeated request strikes once.
    pub epoch: u64,
    /// Voters that must stream beyond those that a commit waits for.
    #[serde(default = "one")]
    pub spare_voters: u32,
}

fn one() -> u32 {
    1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_drills_are_forgotten_and_still_counted() {
        let mut log = DrillLog::default();
        for epoch in 0..150 {
            let kind = if epoch % 3 == 0 { DrillKind::Switchover } else { DrillKind::Failover };
            log.add(DrillRecord { kind, epoch, result: DrillResult::Passed, ..DrillRecord::default() });
        }
        assert_eq!((log.drills.len(), log.drills[0].epoch), (100, 50));
        assert_eq!(log.totals[&DrillKind::Failover][&DrillResult::Passed], 100);
        assert_eq!(log.last(DrillKind::Switchover).map(|drill| drill.epoch), Some(147));
        let text = serde_json::to_string(&log).unwrap();
        assert!(text.contains(r#""totals":{"failover":{"passed":100}"#), "{text}");
        assert_eq!(serde_json::from_str::<DrillLog>(&text).unwrap(), log);
    }
}
