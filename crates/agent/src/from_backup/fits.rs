//! Which backup serves for a member, over which WAL, and whether the leader can go on from its end.

use jiff::Timestamp;
use matriarch_archive::base::Summary;
use matriarch_archive::restore::{History, Switch};
use matriarch_archive::wal::Segment;
use matriarch_core::Lsn;
use matriarch_postgres::leader::Leader;

/// WAL is replayed by one process, files are copied by several: more of it than this, and than the files themselves, is slower than
/// a copy of the leader.
const LEAST_WAL: u64 = 1 << 30;

/// What a backup is held against.
pub struct Wanted<'a> {
    pub leader: &'a Leader,
    /// How the leader's timeline came to be, as it says itself.
    pub history: &'a History,
    /// The cluster's system identifier.
    pub system: &'a str,
    /// Of the programs on this host.
    pub major: u32,
    /// What ended before that is too old.
    pub oldest: Timestamp,
}

impl Wanted<'_> {
    /// Why a backup is none for a member of this cluster.
    pub fn refuses(&self, backup: &Summary) -> Option<String> {
        let name = &backup.backup;
        if backup.system_identifier != self.system {
            let (found, ours) = (&backup.system_identifier, self.system);
            return Some(format!("backup {name} belongs to system {found}, and this cluster is {ours}"));
        }
        if backup.major != self.major {
            return Some(format!(
                "backup {name} is of PostgreSQL {}, and the programs here are of {}",
                backup.major, self.major
            ));
        }
        if !self.history.passes(backup.timeline, backup.stop_lsn) {
            let (end, leader) = (backup.stop_lsn, self.leader.timeline);
            return Some(format!(
                "backup {name} ended at {end} on timeline {}, which is not in the history of the leader's timeline {leader}",
                backup.timeline
            ));
        }
        if backup.stop_lsn > self.leader.flushed {
            return Some(format!(
                "backup {name} ended at {}, and the leader is only at {}",
                backup.stop_lsn, self.leader.flushed
            ));
        }
        if let Some(page) = backup.damaged.first() {
            return Some(format!("backup {name} holds damaged pages, such as block {} of {}", page.block, page.path));
        }
        (backup.stop_time < self.oldest).then(|| {
            format!("backup {name} ended at {}, which is longer ago than archive.clone_max_age", backup.stop_time)
        })
    }

    /// The complete segments, from a backup's on, that are the leader's from their first byte to their last: what comes after
    /// them a deposed primary may have written, and the leader has its own.
    pub fn shared(&self, complete: &[Segment], backup: &Summary) -> Result<Vec<Segment>, String> {
        let size = self.leader.segment_size;
        let ours = |segment: &&Segment| {
            let end = Lsn(segment.start(size).0 + size);
            end <= self.leader.flushed && self.history.passes(segment.timeline, end)
        };
        let shared: Vec<Segment> = complete.iter().take_while(ours).copied().collect();
        match end(&shared, size) {
            Some(end) if end >= backup.stop_lsn => Ok(shared),
            _ => Err(format!(
                "the archive has no complete segments up to {}, the end of backup {}, that the leader's history shares",
                backup.stop_lsn, backup.backup
            )),
        }
    }

    /// Whether the leader still has the WAL from there on.
    pub fn goes_on(&self, from: Lsn) -> bool {
        let size = self.leader.segment_size;
        if from >= self.leader.flushed {
            return from == self.leader.flushed;
        }
        // Where a timeline ends within a segment, the file of the next one has both.
        let timeline = self.history.timeline_at(Lsn(from.0 + size - 1));
        self.leader.segments.contains(&Segment::at(timeline, from, size).to_string())
    }
}

/// Whether two histories agree from a timeline on.
pub fn agree(one: &History, other: &History, from: u32) -> bool {
    let since = |history: &History| -> Vec<Switch> {
        history.switches.iter().filter(|switch| switch.timeline >= from).copied().collect()
    };
    one.timeline == other.timeline && since(one) == since(other)
}

/// More WAL than is worth replaying.
pub fn is_much(wal: u64, backup: &Summary) -> bool {
    wal > backup.size.max(LEAST_WAL)
}

/// The position after the last segment.
pub fn end(segments: &[Segment], size: u64) -> Option<Lsn> {
    segments.last().map(|last| Lsn(last.start(size).0 + size))
}

/// Where replay may end: at the beginning of the last segment, since its end may lie within a record; none where that comes before
/// the data is consistent.
pub fn target(segments: &[Segment], size: u64, backup: &Summary) -> Option<Lsn> {
    segments.last().map(|last| last.start(size)).filter(|start| *start > backup.stop_lsn)
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
