//! The nearest known word to a mistyped one.

/// The known word with the fewest edits to `word`, when they are few for its length.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Longer input cannot be a typing error of a path, and the cost grows with its square.
    let word: Vec<char> = word.chars().take(64).collect();
    known
        .into_iter()
        .map(|candidate| (edits(&word, candidate), candidate))
        .min_by_key(|(edits, _)| *edits)
        .filter(|(edits, candidate)| *edits <= 1 + candidate.len() / 3)
        .map(|(_, candidate)| candidate)
}

/// Levenshtein's distance.
fn edits(word: &[char], candidate: &str) -> usize {
    let mut row: Vec<usize> = (0..=word.len()).collect();
    for (i, c) in candidate.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for j in 0..word.len() {
            let replace = diagonal + usize::from(word[j] != c);
            diagonal = row[j + 1];
            row[j + 1] = replace.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[word.len()]
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn finds_what_was_meant() {
        let known = ["/primary", "/replica", "/read-only", "/health"];
        assert_eq!(nearest("/pirmary", known), Some("/primary"));
        assert_eq!(nearest("/replicas", known), Some("/replica"));
        assert_eq!(nearest("/wp-login.php", known), None);
        assert_eq!(nearest(&"x".repeat(100_000), known), None);
    }
}
