//! Which known name a mistyped one was meant to be.

/// The candidate closest to `typed`, if one is close enough to be a likely typing error.
///
/// Close enough: at most a third of the longer name differs, and never more than 4 edits.
pub(crate) fn nearest<'a>(typed: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // A name longer than any key cannot be near one, and its length must not cost time.
    if typed.len() > 128 {
        return None;
    }
    let typed = typed.to_lowercase();
    candidates
        .into_iter()
        .map(|candidate| (edits(&typed, candidate), candidate))
        .filter(|(edits, candidate)| *edits <= (typed.chars().count().max(candidate.len()) / 3).clamp(1, 4))
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, candidate)| candidate)
}

/// Edits between two names: insert, delete, replace, or swap two neighbours (optimal string alignment).
pub(crate) fn edits(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replace = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replace.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(before[j - 2] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_edits() {
        for (a, b, expected) in
            [("", "", 0), ("a", "", 1), ("ttl", "tll", 1), ("ttl", "tlt", 1), ("kitten", "sitting", 3)]
        {
            assert_eq!(edits(a, b), expected, "{a} {b}");
        }
    }

    #[test]
    fn suggests_only_what_is_near() {
        let keys = ["ttl", "loop_wait", "synchronous_mode", "synchronous_mode_strict"];
        assert_eq!(nearest("tll", keys), Some("ttl"));
        assert_eq!(nearest("LoopWait", keys), Some("loop_wait"));
        assert_eq!(nearest("synchronus_mode", keys), Some("synchronous_mode"));
        assert_eq!(nearest("pizza", keys), None);
        assert_eq!(nearest(&"t".repeat(100_000), keys), None);
    }
}
