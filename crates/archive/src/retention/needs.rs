//! Which WAL and which chunks of the tail nobody needs.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use matriarch_core::{Lsn, Timeline};

use super::keep::Because;
use super::sweep::{Step, objects};
use crate::archive::Archive;
use crate::base::GRACE;
use crate::format::Outline;
use crate::repository::{Entry, RepositoryError, is_part};
use crate::tail::Chunk;
use crate::wal::{Segment, WalName};

/// The WAL that must stay.
pub struct Needs {
    /// Everything from here on, of every timeline. `None`: there is no backup, and everything stays.
    floor: Option<Lsn>,
    /// What backups that are only held or only needed need to become consistent.
    ranges: Vec<(Timeline, Segment, Segment)>,
    size: u64,
}

impl Needs {
    /// Of nothing yet, with segments of this size.
    pub fn new(size: u64) -> Needs {
        Needs { floor: None, ranges: Vec::new(), size }
    }

    /// Also of this backup.
    pub fn of(&mut self, outline: &Outline, because: Because) {
        if matches!(because, Because::Held | Because::Needed) {
            let first = Segment::at(outline.timeline, outline.start_lsn, self.size);
            let last = Segment::before(outline.timeline, outline.stop_lsn, self.size);
            self.ranges.push((outline.timeline, first, last));
        } else {
            self.from(outline.start_lsn);
        }
    }

    /// Also everything from here on.
    pub fn from(&mut self, lsn: Lsn) {
        let start = Lsn(lsn.0 - lsn.0 % self.size);
        self.floor = Some(self.floor.map_or(start, |floor| floor.min(start)));
    }

    fn needs(&self, segment: Segment) -> bool {
        let end = segment.start(self.size).0 + self.size;
        let held = |(timeline, first, last): &(Timeline, Segment, Segment)| {
            segment.timeline == *timeline && (*first..=*last).contains(&segment)
        };
        self.floor.is_none_or(|floor| end > floor.0) || self.ranges.iter().any(held)
    }
}

/// The oldest first, so that what is left has no gap. Histories stay.
pub async fn wal(archive: &Archive, needs: &Needs) -> Result<Vec<Step>, RepositoryError> {
    if needs.floor.is_none() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for entry in archive.repository().list_with_parts(&archive.place().wal_folder()).await? {
        if is_part(&entry.name) {
            found.extend(cut_off(entry));
            continue;
        }
        // Also what two claimed (`.conflict-…`), and claims (`.claims/…`).
        let file = entry.name.split('/').find_map(|part| {
            let part = part.split(".conflict-").next()?;
            part.strip_suffix(".claims").unwrap_or(part).parse().ok()
        });
        let segment = match file {
            Some(WalName::Segment(segment) | WalName::Partial(segment) | WalName::Backup(segment, _)) => segment,
            Some(WalName::History(_)) | None => continue,
        };
        if !needs.needs(segment) {
            let end = Lsn(segment.start(needs.size).0 + needs.size);
            found.push(Step::Wal { name: entry.name, size: entry.size, end });
        }
    }
    found.sort_by_key(|step| if let Step::Wal { end, .. } = step { *end } else { Lsn(0) });
    Ok(found)
}

/// What nobody has written on for so long was cut off.
fn cut_off(part: Entry) -> Option<Step> {
    let age = Timestamp::now().duration_since(part.modified);
    (age.unsigned_abs() > GRACE).then_some(Step::Object { name: part.name, size: part.size })
}

/// Chunks that nobody needs, and those whose segment is there as a whole. The newest segment's chunks of a timeline stay:
/// by them a tail finds where it goes on.
pub async fn tail(archive: &Archive, needs: &Needs) -> Result<Vec<Step>, RepositoryError> {
    let place = archive.place();
    let mut chunks: BTreeMap<Segment, Vec<Entry>> = BTreeMap::new();
    let mut steps = Vec::new();
    for entry in archive.repository().list_with_parts(&place.tail_folder()).await? {
        if is_part(&entry.name) {
            steps.extend(cut_off(entry));
            continue;
        }
        let plain = entry.name.split(".conflict-").next().unwrap_or_default();
        if let Some(chunk) = Chunk::parse(place, plain, needs.size) {
            chunks.entry(chunk.segment).or_default().push(entry);
        }
    }
    let newest: BTreeSet<Segment> =
        chunks.keys().map(|segment| (segment.timeline, *segment)).collect::<BTreeMap<_, _>>().into_values().collect();
    for (segment, entries) in chunks {
        let superseded = !newest.contains(&segment)
            && match archive.repository().size(&place.wal(&WalName::Segment(segment))).await {
                Ok(_) => true,
                Err(error) if error.is_absent() => false,
                Err(error) => return Err(error),
            };
        if superseded || !needs.needs(segment) {
            steps.extend(objects(&entries));
        }
    }
    Ok(steps)
}
