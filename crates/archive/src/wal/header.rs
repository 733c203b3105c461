//! Whether a segment is what its name says: the long header of its first page.

use matriarch_core::Lsn;

use super::name::Segment;

/// Why a file is not the segment it is called.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadSegment {
    /// Its length is none.
    #[error("it has {found} bytes, and a segment of this cluster has {expected}")]
    Length {
        /// Bytes of the file.
        found: u64,
        /// Bytes of a segment.
        expected: u64,
    },
    /// No header where it must be.
    #[error("it does not begin with the header of a WAL segment")]
    NoHeader,
    /// It says another size of segments.
    #[error("its header says segments of {found} bytes, and those of this cluster have {expected}")]
    SegmentSize {
        /// In the header.
        found: u64,
        /// As the archive knows it.
        expected: u64,
    },
    /// Another database's.
    #[error("it belongs to the database system {found}, and this archive to {expected}")]
    System {
        /// In the header.
        found: u64,
        /// As the archive knows it.
        expected: u64,
    },
    /// Another place in the log: a recycled file, or a renamed one.
    #[error("its header says position {found}, and its name {expected}")]
    Position {
        /// In the header.
        found: Lsn,
        /// By the name.
        expected: Lsn,
    },
    /// A later timeline than the name's.
    #[error("its header says timeline {found}, which is not below the {expected} of its name")]
    Timeline {
        /// In the header.
        found: u32,
        /// By the name.
        expected: u32,
    },
}

/// Bit of a header that is followed by system identifier and sizes.
const LONG: u16 = 0x0002;

/// Checks the first page of a segment of a system against its name.
pub fn check(bytes: &[u8], segment: Segment, system_identifier: u64, size: u64) -> Result<(), BadSegment> {
    if bytes.len() as u64 != size {
        return Err(BadSegment::Length { found: bytes.len() as u64, expected: size });
    }
    let header = bytes.first_chunk::<40>().ok_or(BadSegment::NoHeader)?;
    let half = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
    let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
    // 0xD106 is PostgreSQL 13's; every major since has had a higher one.
    if half(0) & 0xFF00 != 0xD100 || half(2) & LONG == 0 {
        return Err(BadSegment::NoHeader);
    }
    let (found, expected) = (long(24), system_identifier);
    if found != expected {
        return Err(BadSegment::System { found, expected });
    }
    if u64::from(word(32)) != size {
        return Err(BadSegment::SegmentSize { found: u64::from(word(32)), expected: size });
    }
    let (found, expected) = (Lsn(long(8)), segment.start(size));
    if found != expected {
        return Err(BadSegment::Position { found, expected });
    }
    // The first segment of a timeline begins with what came before the switch.
    let (found, expected) = (word(4), segment.timeline);
    if found == 0 || found > expected {
        return Err(BadSegment::Timeline { found, expected });
    }
    Ok(())
}

/// The database system that a segment says it is of.
pub fn system_of(bytes: &[u8]) -> Option<u64> {
    bytes.get(24..)?.first_chunk::<8>().map(|bytes| u64::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 1 << 20;

    fn page() -> Vec<u8> {
        let mut bytes = vec![0; SIZE as usize];
        bytes[..2].copy_from_slice(&0xD110_u16.to_le_bytes());
        bytes[2] = 2;
        bytes[4] = 3;
        bytes[8..16].copy_from_slice(&0x30_0000_u64.to_le_bytes());
        bytes[24..32].copy_from_slice(&77_u64.to_le_bytes());
        bytes[32..36].copy_from_slice(&(SIZE as u32).to_le_bytes());
        bytes
    }

    #[test]
    fn a_segment_must_be_what_its_name_says() {
        let segment = |timeline, part| Segment { timeline, log: 0, part };
        check(&page(), segment(3, 3), 77, SIZE).unwrap();
        check(&page(), segment(4, 3), 77, SIZE).unwrap();
        let refused = |bytes: &[u8], segment, system| check(bytes, segment, system, SIZE).unwrap_err();
        assert!(matches!(refused(&page(), segment(2, 3), 77), BadSegment::Timeline { .. }));
        assert!(matches!(refused(&page(), segment(3, 4), 77), BadSegment::Position { .. }));
        assert!(matches!(refused(&page(), segment(3, 3), 78), BadSegment::System { .. }));
        assert!(matches!(refused(&page()[1..], segment(3, 3), 77), BadSegment::Length { .. }));
        assert!(matches!(refused(&vec![0; SIZE as usize], segment(3, 3), 77), BadSegment::NoHeader));
        let mut other_size = page();
        other_size[34] = 0x20;
        assert!(matches!(refused(&other_size, segment(3, 3), 77), BadSegment::SegmentSize { .. }));
    }
}
