//! Whether commits wait for the archive.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::check::join;
use crate::problem::Problems;

/// Whether a commit is acknowledged before the repositories hold it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// It is: the tail follows.
    #[default]
    None,
    /// Only while a repository does not answer.
    Preferred,
    /// Never.
    Required,
}

impl Durability {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Durability::None => "none",
            Durability::Preferred => "preferred",
            Durability::Required => "required",
        }
    }
}

/// As in the table of keys.
pub(super) fn timeout() -> Duration {
    Duration::from_secs(3)
}

/// Commits can only wait for what there is.
pub(super) fn rule(section: &Map<String, Value>, path: &str, problems: &mut Problems) {
    if waits(section) && section.get("tail").and_then(Value::as_f64) == Some(0.0) {
        problems.add(
            join(path, "durability"),
            "commits would wait for the tail, which is switched off",
            "remove `tail: 0`, or set `durability: none`",
        );
    }
}

fn waits(section: &Map<String, Value>) -> bool {
    section.get("durability").and_then(Value::as_str).is_some_and(|word| word != Durability::None.as_str())
}

/// Commits wait for the archive.
pub(in crate::dynamic) fn is_waited_for(config: &Map<String, Value>) -> bool {
    config.get("archive").and_then(Value::as_object).is_some_and(waits)
}
