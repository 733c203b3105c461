//! Putting a segment together from its beginning, piece by piece.

use matriarch_core::Lsn;

/// Two pieces do not agree about the byte at this position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Contradiction(pub(super) Lsn);

/// The beginning of a segment, as far as it is known without a gap.
#[derive(Debug)]
pub(super) struct Prefix {
    start: Lsn,
    bytes: Vec<u8>,
}

impl Prefix {
    pub(super) fn new(start: Lsn) -> Prefix {
        Prefix { start, bytes: Vec::new() }
    }

    /// The first position that is not known.
    pub(super) fn end(&self) -> Lsn {
        Lsn(self.start.0 + self.bytes.len() as u64)
    }

    /// Adds a piece; false when there is a gap before it. What is known already is compared.
    pub(super) fn add(&mut self, from: Lsn, piece: &[u8]) -> Result<bool, Contradiction> {
        if from < self.start || from > self.end() {
            return Ok(false);
        }
        let known = &self.bytes[from.bytes_since(self.start) as usize..];
        if let Some(at) = known.iter().zip(piece).position(|(one, other)| one != other) {
            return Err(Contradiction(Lsn(from.0 + at as u64)));
        }
        if let Some(more) = piece.get(known.len()..) {
            self.bytes.extend_from_slice(more);
        }
        Ok(true)
    }

    /// All of it.
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn joins_what_touches_and_stops_at_gaps() {
        let mut prefix = Prefix::new(Lsn(100));
        assert!(!prefix.add(Lsn(101), b"b").unwrap(), "a gap at the start");
        assert!(prefix.add(Lsn(100), b"abc").unwrap());
        assert!(prefix.add(Lsn(100), b"abc").unwrap(), "twice the same");
        assert!(prefix.add(Lsn(102), b"cde").unwrap(), "one byte twice");
        assert!(prefix.add(Lsn(101), b"b").unwrap(), "all of it is known");
        assert!(!prefix.add(Lsn(106), b"x").unwrap());
        assert_eq!(prefix.end(), Lsn(105));
        assert_eq!(prefix.add(Lsn(103), b"dX"), Err(Contradiction(Lsn(104))));
        assert_eq!(prefix.into_bytes(), b"abcde");
    }

    proptest! {
        #[test]
        fn any_pieces_in_order_give_the_text_up_to_the_first_gap(
            text in proptest::collection::vec(any::<u8>(), 1..300),
            mut cuts in proptest::collection::vec((0_usize..300, 1_usize..60), 0..20),
        ) {
            cuts.retain(|(from, _)| *from < text.len());
            cuts.sort_unstable();
            let mut prefix = Prefix::new(Lsn(7));
            let mut covered = vec![false; text.len()];
            for (from, length) in cuts {
                let to = (from + length).min(text.len());
                prefix.add(Lsn(7 + from as u64), &text[from..to]).unwrap();
                covered[from..to].fill(true);
            }
            let until = covered.iter().position(|covered| !covered).unwrap_or(text.len());
            prop_assert_eq!(prefix.into_bytes(), &text[..until]);
        }
    }
}
