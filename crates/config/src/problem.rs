//! What is wrong with a configuration, where, and what to do about it.

use std::fmt;

use serde::Serialize;

/// Where a value was written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// In the file; both count from 1, columns in characters.
    Line {
        /// Line.
        line: usize,
        /// Column.
        column: usize,
    },
    /// In the environment variable of this name.
    Environment(String),
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The key, as in `postgresql.parameters.max_connections` or `ignore_slots[0].name`; empty for the whole document.
    pub path: String,
    /// What is wrong. Never holds a password or a token.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
    /// Where it was written, when it came from a file or the environment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
}

/// Everything that is wrong with one configuration; never empty when returned as an error.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Problems(pub Vec<Problem>);

impl Problem {
    /// A problem whose origin is not known.
    pub fn new(path: impl fmt::Display, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Problem { path: path.to_string(), message: message.into(), remedy: remedy.into(), origin: None }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            Some(Origin::Line { line, column }) => write!(f, "line {line}, column {column}: ")?,
            Some(Origin::Environment(name)) => write!(f, "environment variable {name}: ")?,
            None => {}
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        write!(f, "{}; {}", self.message, self.remedy)
    }
}

impl Problems {
    /// Adds one.
    pub fn add(&mut self, path: impl fmt::Display, message: impl Into<String>, remedy: impl Into<String>) {
        self.0.push(Problem::new(path, message, remedy));
    }

    /// Nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// `value` when nothing is wrong, the problems otherwise.
    pub(crate) fn or<T>(self, value: T) -> Result<T, Problems> {
        if self.is_empty() { Ok(value) } else { Err(self) }
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [] => f.write_str("no problems in the configuration"),
            [one] => write!(f, "the configuration has a problem:\n  - {one}"),
            many => {
                write!(f, "the configuration has {} problems:", many.len())?;
                many.iter().try_for_each(|problem| write!(f, "\n  - {problem}"))
            }
        }
    }
}

impl std::error::Error for Problems {}
