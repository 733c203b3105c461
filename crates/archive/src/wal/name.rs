//! Names of files of the write-ahead log.

use std::fmt;
use std::str::FromStr;

use matriarch_core::{Lsn, Timeline};

/// A segment: which part of which timeline's log. The position depends on the size of segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Segment {
    /// Timeline in its name.
    pub timeline: Timeline,
    /// The upper half of its positions.
    pub log: u32,
    /// Its number among those of that half.
    pub part: u32,
}

impl Segment {
    /// The segment that holds the byte at `lsn`.
    pub fn at(timeline: Timeline, lsn: Lsn, size: u64) -> Segment {
        let part = (lsn.0 & 0xFFFF_FFFF) / size;
        Segment { timeline, log: (lsn.0 >> 32) as u32, part: part as u32 }
    }

    /// The segment that holds the last byte before `lsn`, which is where something ended.
    pub fn before(timeline: Timeline, lsn: Lsn, size: u64) -> Segment {
        Segment::at(timeline, Lsn(lsn.0.saturating_sub(1)), size)
    }

    /// Position of its first byte.
    pub fn start(self, size: u64) -> Lsn {
        Lsn((u64::from(self.log) << 32) + u64::from(self.part) * size)
    }

    /// The one after it on the same timeline.
    pub fn next(self, size: u64) -> Segment {
        Segment::at(self.timeline, Lsn(self.start(size).0 + size), size)
    }
}

impl fmt::Display for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08X}{:08X}{:08X}", self.timeline, self.log, self.part)
    }
}

/// A file that PostgreSQL archives or asks for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WalName {
    /// A complete segment.
    Segment(Segment),
    /// The beginning of a segment: the last one of a timeline that was left. Never served as the segment.
    Partial(Segment),
    /// Where a timeline came from.
    History(Timeline),
    /// What PostgreSQL writes at the end of a backup; the second number is the start's offset in the segment.
    Backup(Segment, u32),
}

impl WalName {
    pub(crate) fn timeline_folder(&self) -> Option<Timeline> {
        match self {
            WalName::Segment(segment) | WalName::Partial(segment) | WalName::Backup(segment, _) => {
                Some(segment.timeline)
            }
            WalName::History(_) => None,
        }
    }
}

impl fmt::Display for WalName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WalName::Segment(segment) => write!(f, "{segment}"),
            WalName::Partial(segment) => write!(f, "{segment}.partial"),
            WalName::History(timeline) => write!(f, "{timeline:08X}.history"),
            WalName::Backup(segment, offset) => write!(f, "{segment}.{offset:08X}.backup"),
        }
    }
}

/// Text that does not name such a file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}' is not the name of a WAL file; expected 24 hexadecimal digits (also with .partial, or with .XXXXXXXX.backup), or 8 with .history"
)]
pub struct BadWalName(pub String);

impl FromStr for WalName {
    type Err = BadWalName;

    fn from_str(text: &str) -> Result<WalName, BadWalName> {
        parse(text).ok_or_else(|| BadWalName(text.to_owned()))
    }
}

fn parse(text: &str) -> Option<WalName> {
    let mut parts = text.split('.');
    let (stem, ending, last) = (parts.next()?, parts.next(), parts.next());
    if parts.next().is_some() {
        return None;
    }
    if stem.len() == 8 {
        return (ending == Some("history") && last.is_none()).then(|| number(stem)).flatten().map(WalName::History);
    }
    if stem.len() != 24 {
        return None;
    }
    let segment = Segment { timeline: number(&stem[..8])?, log: number(&stem[8..16])?, part: number(&stem[16..])? };
    match (ending, last) {
        (None, None) => Some(WalName::Segment(segment)),
        (Some("partial"), None) => Some(WalName::Partial(segment)),
        (Some(offset), Some("backup")) => Some(WalName::Backup(segment, number(offset)?)),
        _ => None,
    }
}

/// Exactly eight digits, as PostgreSQL writes them.
fn number(text: &str) -> Option<u32> {
    let digits = text.len() == 8 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'A'..=b'F').contains(&byte));
    digits.then(|| u32::from_str_radix(text, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_prints_names() {
        for text in [
            "0000000100000000000000FE",
            "0000000A0000000B0000000C.partial",
            "0000001A.history",
            "000000010000000000000002.00000028.backup",
        ] {
            assert_eq!(text.parse::<WalName>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "1.history",
            "00000001",
            "00000001.partial",
            "00000001000000000000000g",
            "000000010000000000000002.backup",
            "../000000010000000000000002",
            "000000010000000000000002.x.backup",
            "00000001000000000000000a",
            "ä000000000000000000000000",
        ] {
            assert_eq!(text.parse::<WalName>(), Err(BadWalName(text.to_owned())));
        }
    }

    #[test]
    fn positions_follow_the_size_of_segments() {
        for (size, lsn, name) in [
            (16 << 20, 0x1_FF00_0000, "0000000100000001000000FF"),
            (1 << 20, 0x1_FFF0_0000, "000000010000000100000FFF"),
            (1 << 30, 0x1_C000_0000, "000000010000000100000003"),
        ] {
            let segment = Segment::at(1, Lsn(lsn + 5), size);
            assert_eq!(segment.to_string(), name);
            assert_eq!(segment.start(size), Lsn(lsn));
            assert_eq!(segment.next(size).to_string(), "000000010000000200000000");
            assert_eq!(Segment::before(1, Lsn(lsn), size).next(size), segment);
        }
    }
}
