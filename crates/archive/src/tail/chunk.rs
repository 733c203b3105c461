//! One piece of the tail: its place and its name.

use matriarch_core::{Lsn, Timeline};

use crate::layout::Place;
use crate::wal::{Segment, WalName};

/// WAL of one segment, from one position to another. Its object is written once and never changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Chunk {
    /// The segment it is of.
    pub segment: Segment,
    /// The position of its first byte.
    pub from: Lsn,
    /// The position after its last byte, at most the end of the segment.
    pub to: Lsn,
}

impl Chunk {
    /// Its object's name below the repository: `…/tail/<timeline>/<segment>/<from>-<to>`, positions with 16 digits.
    pub fn name(&self, place: &Place) -> String {
        let Chunk { segment, from, to } = self;
        format!("{}/{segment}/{:016X}-{:016X}", folder(place, segment.timeline), from.0, to.0)
    }

    /// Reads a name; `None` for what is not the name of a chunk of segments of `size` bytes.
    pub fn parse(place: &Place, name: &str, size: u64) -> Option<Chunk> {
        let (above, last) = name.rsplit_once('/')?;
        let (_, segment) = above.rsplit_once('/')?;
        let Ok(WalName::Segment(segment)) = segment.parse() else { return None };
        let (from, to) = last.split_once('-')?;
        let chunk = Chunk { segment, from: position(from)?, to: position(to)? };
        let start = segment.start(size);
        let fits = start <= chunk.from && chunk.from < chunk.to && chunk.to.0 <= start.0 + size;
        (fits && chunk.name(place) == name).then_some(chunk)
    }

    /// How many bytes it has.
    pub fn length(&self) -> u64 {
        self.to.bytes_since(self.from)
    }
}

/// The folder of a timeline's chunks.
pub(super) fn folder(place: &Place, timeline: Timeline) -> String {
    format!("{}/{timeline:08X}", place.tail_folder())
}

fn position(text: &str) -> Option<Lsn> {
    let digits = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    digits.then(|| u64::from_str_radix(text, 16).ok()).flatten().map(Lsn)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 1 << 20;

    #[test]
    fn names_are_read_back_and_others_are_not() {
        let place = Place::new("main", "1").unwrap();
        let segment = Segment::at(2, Lsn(0x1_0030_0000), SIZE);
        let chunk = Chunk { segment, from: Lsn(0x1_0030_0010), to: Lsn(0x1_0040_0000) };
        let name = chunk.name(&place);
        assert_eq!(name, "main/1/tail/00000002/000000020000000100000003/0000000100300010-0000000100400000");
        assert_eq!(Chunk::parse(&place, &name, SIZE), Some(chunk));
        for (good, bad) in [
            ("100400000", "100400001"),
            ("100300010", "1002FFFFF"),
            ("100300010", "100400000"),
            ("00000002/", "00000003/"),
            ("main/", "other/"),
            ("-0", "_0"),
            ("-0000000100400000", "-0000000100400000.conflict-0011223344556677"),
        ] {
            let name = name.replacen(good, bad, 1);
            assert_eq!(Chunk::parse(&place, &name, SIZE), None, "{name}");
        }
    }
}
