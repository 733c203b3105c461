//! The checksum that PostgreSQL keeps in each page.

use matriarch_core::Lsn;

/// Bytes of a page.
pub const PAGE: usize = 8192;
const SUMS: usize = 32;
const PRIME: u32 = 16_777_619;
const OFFSETS: [u32; SUMS] = [
    0x5B1F_36E9,
    0xB852_5960,
    0x02AB_50AA,
    0x1DE6_6D2A,
    0x79FF_467A,
    0x9BB9_F8A3,
    0x217E_7CD2,
    0x83E1_3D2C, //
    0xF8D4_474F,
    0xE39E_B970,
    0x42C6_AE16,
    0x9932_16FA,
    0x7B09_3B5D,
    0x98DA_FF3C,
    0xF718_902A,
    0x0B1C_9CDB, //
    0xE58F_764B,
    0x1876_36BC,
    0x5D7B_3BB1,
    0xE73D_E7DE,
    0x92BE_C979,
    0xCCA6_C0B2,
    0x304A_0979,
    0x85AA_43D4, //
    0x7831_25BB,
    0x6CA8_EAA2,
    0xE407_EAC6,
    0x4B5C_FC3E,
    0x9FBF_8C76,
    0x15CA_20BE,
    0xF2CA_9FD3,
    0x959B_D756, //
];

/// What a page tells about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Its checksum is right, or it has never been written.
    Good,
    /// The checksum it holds is not the one its bytes have.
    Bad {
        /// Where the log stood when the page was last changed, if the page can be believed.
        lsn: Lsn,
    },
}

/// Looks at the page that is block `block` of its relation.
pub fn check(page: &[u8; PAGE], block: u32) -> Verdict {
    // A page that was only allocated is all zero, and has no checksum.
    if page[14..16] == [0, 0] && page.iter().all(|byte| *byte == 0) {
        return Verdict::Good;
    }
    if checksum(page, block) == u16::from_le_bytes([page[8], page[9]]) {
        return Verdict::Good;
    }
    let word = |at: usize| u64::from(u32::from_le_bytes([page[at], page[at + 1], page[at + 2], page[at + 3]]));
    Verdict::Bad { lsn: Lsn(word(0) << 32 | word(4)) }
}

/// FNV-1a in 32 lanes, as in `storage/checksum_impl.h`; the page's own checksum counts as zero.
fn checksum(page: &[u8; PAGE], block: u32) -> u16 {
    let mut sums = OFFSETS;
    let mut rows = page.chunks_exact(4 * SUMS);
    let mut first = [0; 4 * SUMS];
    first.copy_from_slice(rows.next().unwrap_or(&[0; 4 * SUMS]));
    first[8..10].fill(0);
    add(&mut sums, &first);
    for row in rows {
        add(&mut sums, row);
    }
    add(&mut sums, &[0; 4 * SUMS]);
    add(&mut sums, &[0; 4 * SUMS]);
    let folded = sums.iter().fold(0, |all, sum| all ^ sum) ^ block;
    // Below 65536, and never zero.
    (folded % 65535 + 1) as u16
}

fn add(sums: &mut [u32; SUMS], row: &[u8]) {
    for (sum, word) in sums.iter_mut().zip(row.chunks_exact(4)) {
        let mixed = *sum ^ u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
        *sum = mixed.wrapping_mul(PRIME) ^ (mixed >> 17);
    }
}

/// Name of a file of a relation: fork and segment number, if `name` is one (`16384`, `16384_vm.2`).
pub fn relation_file(name: &str) -> Option<RelationFile<'_>> {
    let (stem, segment) = match name.split_once('.') {
        Some((stem, number)) => (stem, number.parse().ok()?),
        None => (name, 0),
    };
    let (relation, fork) = stem.split_once('_').unwrap_or((stem, "main"));
    let is_number = !relation.is_empty() && relation.bytes().all(|byte| byte.is_ascii_digit());
    (is_number && ["main", "fsm", "vm", "init"].contains(&fork)).then_some(RelationFile { relation, fork, segment })
}

/// See [`relation_file`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelationFile<'a> {
    /// The relation's file node.
    pub relation: &'a str,
    /// `main`, `fsm`, `vm` or `init`.
    pub fork: &'a str,
    /// Which gigabyte.
    pub segment: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_bit_is_noticed_and_a_new_page_is_not() {
        let mut page = [0; PAGE];
        assert_eq!(check(&page, 1), Verdict::Good, "never written");
        page[4000] = 1;
        assert_eq!(check(&page, 1), Verdict::Bad { lsn: Lsn::ZERO }, "written by nobody who knows how");
        page[14..16].copy_from_slice(&8192_u16.to_le_bytes());
        page[..4].copy_from_slice(&1_u32.to_le_bytes());
        page[4..8].copy_from_slice(&0x20_u32.to_le_bytes());
        let sum = checksum(&page, 7);
        page[8..10].copy_from_slice(&sum.to_le_bytes());
        assert_eq!(check(&page, 7), Verdict::Good);
        assert_eq!(check(&page, 8), Verdict::Bad { lsn: Lsn(0x1_0000_0020) }, "another block");
        page[5000] ^= 1;
        assert!(matches!(check(&page, 7), Verdict::Bad { .. }));
    }

    #[test]
    fn knows_files_of_relations() {
        assert_eq!(relation_file("16384"), Some(RelationFile { relation: "16384", fork: "main", segment: 0 }));
        assert_eq!(relation_file("16384_vm.2"), Some(RelationFile { relation: "16384", fork: "vm", segment: 2 }));
        for name in ["pg_filenode.map", "t3_16384", "PG_VERSION", "16384_x", "16384.x", "", "_init"] {
            assert_eq!(relation_file(name), None, "{name}");
        }
    }
}
