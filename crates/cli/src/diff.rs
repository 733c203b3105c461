//! The difference between two texts, line by line.

/// Lines of context around a change.
const CONTEXT: usize = 2;

/// What became of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// In both.
    Same,
    /// Only in the old text.
    Removed,
    /// Only in the new text.
    Added,
}

/// The difference with some lines of context; `None` where lines are left out. Empty when the texts are equal.
pub fn diff<'a>(old: &'a str, new: &'a str) -> Vec<Option<(Change, &'a str)>> {
    let all = changes(&old.lines().collect::<Vec<_>>(), &new.lines().collect::<Vec<_>>());
    let changed: Vec<usize> = (0..all.len()).filter(|at| all[*at].0 != Change::Same).collect();
    let mut shown = Vec::new();
    let mut last = None;
    for (at, line) in all.iter().enumerate() {
        if changed.iter().any(|changed| changed.abs_diff(at) <= CONTEXT) {
            if last.is_some_and(|last| last + 1 < at) {
                shown.push(None);
            }
            shown.push(Some(*line));
            last = Some(at);
        }
    }
    shown
}

/// The longest common subsequence; configurations have some hundred lines, so its square is small.
fn changes<'a>(old: &[&'a str], new: &[&'a str]) -> Vec<(Change, &'a str)> {
    let width = new.len() + 1;
    let mut common = vec![0u32; (old.len() + 1) * width];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            common[i * width + j] = if old[i] == new[j] {
                common[(i + 1) * width + j + 1] + 1
            } else {
                common[(i + 1) * width + j].max(common[i * width + j + 1])
            };
        }
    }
    let (mut i, mut j, mut lines) = (0, 0, Vec::new());
    while i < old.len() || j < new.len() {
        if i < old.len() && j < new.len() && old[i] == new[j] {
            lines.push((Change::Same, old[i]));
            (i, j) = (i + 1, j + 1);
        } else if j == new.len() || i < old.len() && common[(i + 1) * width + j] >= common[i * width + j + 1] {
            lines.push((Change::Removed, old[i]));
            i += 1;
        } else {
            lines.push((Change::Added, new[j]));
            j += 1;
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(old: &str, new: &str) -> String {
        let sign = |line: Option<(Change, &str)>| match line {
            None => "…".to_owned(),
            Some((Change::Same, line)) => format!(" {line}"),
            Some((Change::Removed, line)) => format!("-{line}"),
            Some((Change::Added, line)) => format!("+{line}"),
        };
        diff(old, new).into_iter().map(sign).collect::<Vec<_>>().join("|")
    }

    #[test]
    fn shows_changes_with_context() {
        assert_eq!(text("a\nb\nc", "a\nb\nc"), "");
        assert_eq!(text("a\nb\nc", "a\nx\nc"), " a|-b|+x| c");
        assert_eq!(text("", "a"), "+a");
        assert_eq!(text("1\n2\n3\n4\n5\n6\n7\n8", "0\n2\n3\n4\n5\n6\n7\n9"), "-1|+0| 2| 3|…| 6| 7|-8|+9");
    }
}
