//! `matriarch config check FILE`: all that is wrong with a file, whichever of the two configurations it holds.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use crate::local::load::{ConfigError, Environment, override_from, read};
use crate::problem::{Problem, Problems};
use crate::schema::Key;
use crate::{dynamic, local};

/// Which configuration a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FileKind {
    /// The YAML file of one agent.
    Local,
    /// The configuration in the store.
    Dynamic,
}

/// The result of a check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The file.
    pub path: PathBuf,
    /// What it was taken for.
    pub kind: FileKind,
    /// All that is wrong, in the order of the file.
    pub problems: Problems,
    /// What is allowed and probably not meant.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

impl Report {
    /// Nothing is wrong.
    pub fn is_ok(&self) -> bool {
        self.problems.is_empty()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            FileKind::Local => "local",
            FileKind::Dynamic => "dynamic",
        };
        let path = self.path.display();
        match self.problems.0.len() {
            0 => write!(f, "{path}: this {kind} configuration is valid")?,
            1 => write!(f, "{path}: this {kind} configuration has a problem:")?,
            many => write!(f, "{path}: this {kind} configuration has {many} problems:")?,
        }
        self.problems.0.iter().try_for_each(|problem| write!(f, "\n  - {problem}"))?;
        self.notes.iter().try_for_each(|note| write!(f, "\n  note: {note}"))
    }
}

/// Checks a file. Errors are for files that cannot be read or are not YAML; all else is in the report.
///
/// A local configuration is checked together with the overrides from the environment, as the agent would see it.
pub fn check_file(path: impl AsRef<Path>) -> Result<Report, ConfigError> {
    check_file_with(path.as_ref(), &|name| std::env::var_os(name))
}

fn check_file_with(path: &Path, environment: Environment<'_>) -> Result<Report, ConfigError> {
    let document = read(path)?;
    let kind = kind_of(&document.value);
    let mut notes = Vec::new();
    let mut problems: Vec<Problem> = match kind {
        FileKind::Local => {
            let (value, places) = override_from(document, environment);
            notes.extend(value.as_object().map(local::rules::notes).unwrap_or_default());
            local::validate(&value).into_iter().map(|problem| places.locate(problem)).collect()
        }
        FileKind::Dynamic => {
            let problems = dynamic::validate(&document.value);
            let locate = |mut problem: Problem| {
                problem.origin = document.place(&problem.path);
                problem
            };
            problems.into_iter().map(locate).collect()
        }
    };
    problems.sort_by(|a, b| a.origin.cmp(&b.origin));
    Ok(Report { path: path.to_owned(), kind, problems: Problems(problems), notes })
}

/// Decides by the keys that only one of the two has.
pub(crate) fn kind_of(value: &Value) -> FileKind {
    let Some(map) = value.as_object() else { return FileKind::Local };
    let has = |keys: &[Key], name: &str| keys.iter().any(|key| !key.is_refused() && key.name == name);
    let only = |these: &'static [Key], those: &'static [Key]| {
        map.keys().filter(|name| has(these, name) && !has(those, name)).count()
    };
    let local = only(local::keys::KEYS, dynamic::keys::KEYS);
    let dynamic = only(dynamic::keys::KEYS, local::keys::KEYS);
    let own_postgresql = ["listen", "data_dir", "authentication", "connect_address"];
    let postgresql = map.get("postgresql").and_then(Value::as_object);
    let one_host = postgresql.is_some_and(|section| own_postgresql.iter().any(|key| section.contains_key(*key)));
    if local > dynamic || (local == dynamic && (one_host || postgresql.is_none())) {
        FileKind::Local
    } else {
        FileKind::Dynamic
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Report {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let mut report = check_file_with(file.path(), &|_| None).unwrap();
        report.path = "FILE".into();
        report
    }

    #[test]
    fn tells_the_two_configurations_apart() {
        for (text, kind) in [
            ("scope: a", FileKind::Local),
            ("ttl: 5", FileKind::Dynamic),
            ("{\"ttl\": 5,\n\t\"pause\": true}", FileKind::Dynamic),
            ("postgresql: {parameters: {a: 1}}", FileKind::Dynamic),
            ("postgresql: {listen: a}", FileKind::Local),
            ("scop: a", FileKind::Local),
            ("scope: a\nttl: 5\nname: b", FileKind::Local),
            ("[1]", FileKind::Local),
        ] {
            assert_eq!(check(text).kind, kind, "{text}");
        }
    }

    #[test]
    fn a_member_that_does_not_stream_needs_an_archive() {
        let noted = |text: &str| check(text).notes.len();
        assert_eq!(noted("scope: a\ntags: {nostream: true}\n"), 1);
        assert_eq!(noted("scope: a\ntags: {nostream: false}\n"), 0);
        let own = "scope: a\ntags: {nostream: true}\npostgresql: {parameters: {restore_command: 'cp /a/%f %p'}}\n";
        assert_eq!(noted(own), 0);
        let both = check("scope: a\ntags: {nostream: true, replicatefrom: b}\n").to_string();
        assert!(both.contains("tags.replicatefrom: a member tagged `nostream` streams from nobody"), "{both}");
    }

    #[test]
    fn reports_in_the_order_of_the_file() {
        assert_eq!(check("ttl: 7\n").to_string(), "FILE: this dynamic configuration is valid");
        assert_eq!(
            check("pause: 1\nttl: 0\nlop_wait: 1\n").to_string(),
            "FILE: this dynamic configuration has 3 problems:\n  \
             - line 1, column 1: pause: expected true or false, found 1; change the value\n  \
             - line 2, column 1: ttl: 0 seconds is out of range; choose 2 to 3600 seconds\n  \
             - line 3, column 1: lop_wait: unknown key; did you mean 'loop_wait'?"
        );
    }
}
