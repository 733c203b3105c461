//! Reading the records of archived segments, as far as a restore must know them beforehand: which transactions ended when,
//! and which restore points there are.

use jiff::Timestamp;
use matriarch_core::Lsn;

const PAGE: usize = 8192;
const LONG: u16 = 0x0002;
const CONTINUES: u16 = 0x0001;
const HEADER: usize = 24;
/// Microseconds from 1970 to 2000, where PostgreSQL's clock begins.
const EPOCH: i64 = 946_684_800_000_000;

/// Something that a recovery can stop at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A transaction committed or was rolled back.
    End {
        /// Its number; 0 for the second half of a two-phase commit.
        xid: u32,
        /// When, by the server's clock.
        time: Timestamp,
    },
    /// `pg_create_restore_point`.
    Point {
        /// Its name.
        name: String,
    },
}

/// Follows the log through consecutive segments.
#[derive(Debug, Default)]
pub struct Records {
    /// A record that goes on in the next page: where it began, what there is of it, how long it will be.
    pending: Option<(Lsn, Vec<u8>, usize)>,
    /// Where the last complete record began.
    last: Lsn,
}

impl Records {
    /// Start of the newest complete record that was seen.
    pub fn last(&self) -> Lsn {
        self.last
    }

    /// Reads a segment that begins at `start` and reports its events, with the start of their records.
    pub fn feed(&mut self, segment: &[u8], start: Lsn, mut report: impl FnMut(Lsn, Event)) {
        for (number, page) in segment.chunks_exact(PAGE).enumerate() {
            let address = Lsn(start.0 + (number * PAGE) as u64);
            if !self.page(page, address, &mut report) {
                return;
            }
        }
    }

    /// False where the written part of the segment ends.
    fn page(&mut self, page: &[u8], address: Lsn, report: &mut impl FnMut(Lsn, Event)) -> bool {
        let info = u16::from_le_bytes([page[2], page[3]]);
        if half(page) & 0xFF00 != 0xD100 || long(page, 8) != address.0 {
            return false;
        }
        let mut at = if info & LONG != 0 { 40 } else { 24 };
        let carried = if info & CONTINUES != 0 { word(page, 16) as usize } else { 0 };
        let here = carried.min(PAGE - at);
        match self.pending.take() {
            Some((began, mut bytes, total)) if carried > 0 && bytes.len() + carried == total => {
                bytes.extend_from_slice(&page[at..at + here]);
                if bytes.len() == total {
                    self.record(began, &bytes, report);
                } else {
                    self.pending = Some((began, bytes, total));
                }
            }
            // One that was begun before the first segment, or given up by a crash.
            _ => {}
        }
        at = (at + here).next_multiple_of(8);
        while at + 8 <= PAGE {
            let total = word(page, at) as usize;
            if total < HEADER {
                return false;
            }
            let began = Lsn(address.0 + at as u64);
            let end = at + total;
            if end > PAGE {
                self.pending = Some((began, page[at..].to_vec(), total));
                return true;
            }
            self.record(began, &page[at..end], report);
            at = end.next_multiple_of(8);
        }
        true
    }

    fn record(&mut self, began: Lsn, record: &[u8], report: &mut impl FnMut(Lsn, Event)) {
        self.last = began;
        let (xid, info, manager) = (word(record, 4), record[16], record[17]);
        let Some(data) = (match (manager, info & 0xF0, info & 0x70) {
            // Restore point of the XLOG manager; commit, abort and their prepared forms of the transaction manager.
            (0, 0x70, _) | (1, _, 0x00 | 0x20 | 0x30 | 0x40) => main_data(record),
            _ => None,
        }) else {
            return;
        };
        if data.len() < 8 {
            return;
        }
        if manager == 0 {
            let name = data[8..].split(|byte| *byte == 0).next().unwrap_or_default();
            report(began, Event::Point { name: String::from_utf8_lossy(name).into_owned() });
        } else if let Ok(time) = Timestamp::from_microsecond((long(data, 0) as i64).saturating_add(EPOCH)) {
            report(began, Event::End { xid, time });
        }
    }
}

/// What follows the headers of a record without blocks, which those that we look for are.
fn main_data(record: &[u8]) -> Option<&[u8]> {
    let mut at = HEADER;
    loop {
        let (skip, length) = match record.get(at)? {
            255 => (2, usize::from(*record.get(at + 1)?)),
            254 => (5, word(record.get(at + 1..at + 5)?, 0) as usize),
            253 => {
                at += 3;
                continue;
            }
            252 => {
                at += 5;
                continue;
            }
            _ => return None,
        };
        return record.get(at + skip..at + skip + length);
    }
}

fn half(bytes: &[u8]) -> u16 {
    u16::from_le_bytes([bytes[0], bytes[1]])
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from(word(bytes, at)) | u64::from(word(bytes, at + 4)) << 32
}
