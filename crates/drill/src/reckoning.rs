//! The reckoning: which acknowledged writes are missing.

use std::collections::BTreeSet;

use crate::book::Book;

/// Acknowledged rows that are not among those that are there.
pub fn lost(book: &Book, there: &[i64]) -> Vec<i64> {
    let there: BTreeSet<i64> = there.iter().copied().collect();
    book.acknowledged.iter().map(|(id, _, _)| *id).filter(|id| !there.contains(id)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::book::Outcome;

    #[test]
    fn only_what_was_acknowledged_can_be_lost() {
        let mut book = Book::default();
        for (id, outcome) in [(1, Outcome::Acknowledged), (2, Outcome::Unknown), (3, Outcome::Acknowledged)] {
            book.note(id, 0.0, 0.0, outcome, None);
        }
        assert_eq!(lost(&book, &[1, 2]), [3]);
        assert!(lost(&book, &[3, 1]).is_empty());
    }
}
