//! What the logs of a failed test tell, short enough to be read: the agents' lines in the order of time.

use std::path::{Path, PathBuf};

use crate::dir::tail;

/// How much of each log is read.
const READ: u64 = 256 * 1024;
/// How many lines of the agents together are shown, the newest.
const LINES: usize = 45;
/// How many lines of each other log are shown.
const LINES_OF_OTHERS: usize = 4;
/// How much of a line is shown, in characters.
const WIDTH: usize = 150;

/// The newest lines of all agents below `dir` as one story, and the ends of the other logs.
///
/// CI shows a few kilobytes of a failure, so that what matters has to fit there: who decided what, and when.
pub fn of(dir: &Path) -> String {
    let mut logs = Vec::new();
    collect(dir, &mut logs, 4);
    logs.sort();
    let mut decisions = Vec::new();
    let mut others = String::new();
    for log in &logs {
        let text = tail(log, READ);
        let name = log.strip_prefix(dir).unwrap_or(log);
        let before = decisions.len();
        let who = name.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy();
        decisions.extend(text.lines().filter_map(|line| decision(&who, line)));
        if decisions.len() == before {
            others += &format!("--- {} (its end)\n", name.display());
            let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
            for line in &lines[lines.len().saturating_sub(LINES_OF_OTHERS)..] {
                others += &format!("{}\n", cut(line));
            }
        }
    }
    decisions.sort();
    let newest = &decisions[decisions.len().saturating_sub(LINES)..];
    format!("--- agents below {}\n{}\n{others}", dir.display(), newest.join("\n"))
}

/// A line that an agent or a proxy wrote (`2026-01-02T03:04:05.678901Z  INFO …`), as `03:04:05.678 who …`; none for other lines.
fn decision(who: &str, line: &str) -> Option<String> {
    let (stamp, rest) = line.split_once(' ')?;
    let (_, time) = stamp.strip_suffix('Z')?.split_once('T')?;
    let rest = rest.trim_start();
    let said = rest.strip_prefix("INFO ").unwrap_or(rest);
    let said = said.split(" why=").next().unwrap_or(said);
    Some(cut(&format!("{} {who} {said}", time.get(..12)?)))
}

fn cut(line: &str) -> String {
    line.chars().take(WIDTH).collect()
}

fn collect(dir: &Path, logs: &mut Vec<PathBuf>, depth: usize) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() && depth > 0 => collect(&path, logs, depth - 1),
            Ok(kind) if kind.is_file() && path.extension().is_some_and(|e| e == "log") => logs.push(path),
            _ => {}
        }
    }
}

/// Copies all logs below `dir` to `target/failed-tests/<name of dir>` of the repository, and says where.
///
/// # Errors
/// When they cannot be written there.
pub fn keep(dir: &Path) -> std::io::Result<PathBuf> {
    let mut logs = Vec::new();
    collect(dir, &mut logs, 4);
    let kept = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../target/failed-tests")
        .join(dir.file_name().unwrap_or_default());
    for log in &logs {
        let to = kept.join(log.strip_prefix(dir).unwrap_or(log));
        std::fs::create_dir_all(to.parent().unwrap_or(&kept))?;
        std::fs::copy(log, to)?;
    }
    kept.canonicalize()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dir::TestDir;

    #[test]
    fn agents_are_told_in_the_order_of_time_and_others_by_their_end() {
        let dir = TestDir::new("story");
        let write = |name: &str, text: &str| std::fs::write(dir.join(name), text).unwrap();
        dir.create("a/data/log");
        dir.create("b");
        write(
            "a/agent.log",
            "2026-11-23T10:01:40.100200Z  INFO following c why=\"following\"\n2026-11-23T10:01:47.6Z  WARN late\n",
        );
        write("b/agent.log", "2026-11-23T10:01:41.200300Z  WARN the leader is suspected: Silent\n");
        write("a/data/log/postgresql.log", "2026-11-23 10:01:40.000 UTC [1] LOG:  one\ntwo\nthree\nfour\nfive\n");
        let story = of(dir.path());
        let (a, b) = ("10:01:40.100 a following c\n", "10:01:41.200 b WARN the leader is suspected: Silent\n");
        assert!(story.contains(&format!("{a}{b}")), "{story}");
        assert!(story.contains("--- a/data/log/postgresql.log (its end)\ntwo\nthree\nfour\nfive\n"), "{story}");
    }
}
