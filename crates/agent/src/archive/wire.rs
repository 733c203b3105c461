//! The words between `archive_command`, `restore_command` and the agent: one line each way, and a file's bytes after one.

use std::fmt;
use std::path::PathBuf;

/// Longest line either side reads.
pub const LONGEST: usize = 4096;

/// What PostgreSQL's command wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// This file of `pg_wal` is to be in every repository.
    Push(String),
    /// The content of this file.
    Fetch {
        /// Its name.
        name: String,
        /// PostgreSQL is a standby: it asks for as long as it takes.
        standby: bool,
    },
}

/// What the agent answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Every repository holds it.
    Done,
    /// So many bytes follow.
    Content(u64),
    /// This file holds it, and is to be renamed.
    Ready(PathBuf),
    /// Proven: no repository has it.
    Absent(String),
    /// Not now; why.
    Failed(String),
    /// PostgreSQL is being stopped and must not wait for a store: the agent sees to the file.
    Stopping,
}

impl Wish {
    /// Reads a line without its end.
    pub fn parse(line: &str) -> Option<Wish> {
        let mut words = line.split(' ');
        let (verb, name, how) = (words.next()?, words.next()?.to_owned(), words.next());
        if words.next().is_some() {
            return None;
        }
        match (verb, how) {
            ("push", None) => Some(Wish::Push(name)),
            ("fetch", Some("standby")) => Some(Wish::Fetch { name, standby: true }),
            ("fetch", Some("recovery")) => Some(Wish::Fetch { name, standby: false }),
            _ => None,
        }
    }
}

impl fmt::Display for Wish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Wish::Push(name) => write!(f, "push {name}"),
            Wish::Fetch { name, standby: true } => write!(f, "fetch {name} standby"),
            Wish::Fetch { name, standby: false } => write!(f, "fetch {name} recovery"),
        }
    }
}

impl Answer {
    /// Reads a line without its end.
    pub fn parse(line: &str) -> Option<Answer> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "done" => Some(Answer::Done),
            "content" => rest.parse().ok().map(Answer::Content),
            "ready" if !rest.is_empty() => Some(Answer::Ready(rest.into())),
            "absent" => Some(Answer::Absent(rest.to_owned())),
            "failed" => Some(Answer::Failed(rest.to_owned())),
            "stopping" => Some(Answer::Stopping),
            _ => None,
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flat = |text: &str| {
            let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
            // Whole characters, and well below the longest line.
            text.chars().take(LONGEST / 8).collect::<String>()
        };
        match self {
            Answer::Done => f.write_str("done"),
            Answer::Content(length) => write!(f, "content {length}"),
            Answer::Ready(path) => write!(f, "ready {}", path.display()),
            Answer::Absent(text) => write!(f, "absent {}", flat(text)),
            Answer::Failed(text) => write!(f, "failed {}", flat(text)),
            Answer::Stopping => f.write_str("stopping"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_the_way() {
        let fetch = |standby| Wish::Fetch { name: "00000002.history".into(), standby };
        for wish in [Wish::Push("000000010000000000000001".into()), fetch(true), fetch(false)] {
            assert_eq!(Wish::parse(&wish.to_string()), Some(wish));
        }
        for line in ["", "push", "push a b", "fetch a", "fetch a b c", "pull a"] {
            assert_eq!(Wish::parse(line), None, "{line}");
        }
        let ready = Answer::Ready("/srv/a b/1".into());
        for answer in [Answer::Done, Answer::Stopping, Answer::Content(16 << 20), ready, Answer::Absent("no a".into())]
        {
            assert_eq!(Answer::parse(&answer.to_string()), Some(answer));
        }
        assert_eq!(Answer::parse("ready "), None);
        let long = Answer::Failed("ä\n".repeat(9000)).to_string();
        assert!(long.len() < LONGEST && !long.contains('\n') && Answer::parse(&long).is_some());
        assert_eq!(Answer::parse("content x"), None);
    }
}
