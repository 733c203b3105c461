//! Reading configuration files and the environment.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::LocalConfig;
use super::keys::KEYS;
use crate::patch;
use crate::problem::{Origin, Problem, Problems};
use crate::schema::{Key, Kind};
use crate::yaml::{Document, MAX_BYTES, YamlError, scalar};

/// Why a configuration file cannot be used. The text names the file, the place in it and what to do.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}; check the path and the permissions", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The file is larger than any configuration.
    #[error("{} is larger than {MAX_BYTES} bytes, so it is no configuration; check the path", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// The file is not text.
    #[error("{} is not text (byte {offset} is not UTF-8, or is zero), so it is no configuration; check the path", path.display())]
    NotText {
        /// The file.
        path: PathBuf,
        /// Bytes before the first that does not fit.
        offset: usize,
    },
    /// The file is not YAML.
    #[error("{}, {error}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What and where.
        error: YamlError,
    },
    /// The file is YAML, but the configuration in it is wrong.
    #[error("{}: {problems}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// All that is wrong.
        problems: Problems,
    },
}

/// Looks up environment variables; the real one, or a test's.
pub(crate) type Environment<'a> = &'a dyn Fn(&str) -> Option<OsString>;

impl LocalConfig {
    /// Reads a YAML file and applies the overrides from the environment (`MATRIARCH_…`).
    pub fn load(path: impl AsRef<Path>) -> Result<LocalConfig, ConfigError> {
        LocalConfig::load_with(path.as_ref(), &|name| std::env::var_os(name))
    }

    /// As [`LocalConfig::load`], with the environment given.
    pub(crate) fn load_with(path: &Path, environment: Environment<'_>) -> Result<LocalConfig, ConfigError> {
        let document = read(path)?;
        let (value, places) = override_from(document, environment);
        LocalConfig::from_json(&value).map_err(|problems| {
            let problems = Problems(problems.0.into_iter().map(|problem| places.locate(problem)).collect());
            ConfigError::Invalid { path: path.to_owned(), problems }
        })
    }
}

/// Reads and parses a file.
pub(crate) fn read(path: &Path) -> Result<Document, ConfigError> {
    let text = read_text(path)?;
    Document::parse(&text).map_err(|error| ConfigError::Syntax { path: path.to_owned(), error })
}

fn read_text(path: &Path) -> Result<String, ConfigError> {
    let fail = |source| ConfigError::Read { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    // One byte over the limit is enough to know, even when the path is an endless device.
    std::fs::File::open(path).map_err(fail)?.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(fail)?;
    if bytes.len() > MAX_BYTES {
        return Err(ConfigError::TooLarge { path: path.to_owned() });
    }
    let zero = bytes.iter().position(|byte| *byte == 0);
    match (String::from_utf8(bytes), zero) {
        (Ok(text), None) => Ok(text),
        (Ok(_), Some(offset)) => Err(ConfigError::NotText { path: path.to_owned(), offset }),
        (Err(error), zero) => {
            let offset = error.utf8_error().valid_up_to();
            Err(ConfigError::NotText { path: path.to_owned(), offset: zero.map_or(offset, |zero| zero.min(offset)) })
        }
    }
}

/// Knows where each value came from.
pub(crate) struct Places {
    document: Document,
    variables: BTreeMap<String, &'static str>,
}

impl Places {
    /// Adds to a problem where its value was written.
    pub(crate) fn locate(&self, mut problem: Problem) -> Problem {
        problem.origin = match self.variables.get(problem.path.as_str()) {
            Some(name) => Some(Origin::Environment((*name).to_owned())),
            None => self.document.place(&problem.path),
        };
        problem
    }
}

/// The document with every override from the environment applied.
pub(crate) fn override_from(document: Document, environment: Environment<'_>) -> (Value, Places) {
    let mut value = document.value.clone();
    let mut variables = BTreeMap::new();
    // A document that is no section is wrong as a whole; overrides must not hide that.
    if value.is_object() {
        overrides(KEYS, &mut Vec::new(), &mut |steps, key, name| {
            let Some(text) = environment(name) else { return };
            let text = text.to_string_lossy().into_owned();
            let given = match key.kind {
                Kind::Text { .. } | Kind::Secret | Kind::Choice(_) => Value::String(text),
                _ => scalar(&text).unwrap_or(Value::String(text)),
            };
            value = patch::set(&value, steps, given);
            variables.insert(steps.join("."), name);
        });
    }
    (value, Places { document, variables })
}

/// Calls `found` for every key that has a variable: the steps to the key, the key, the variable.
pub(crate) fn overrides(
    keys: &'static [Key],
    steps: &mut Vec<&'static str>,
    found: &mut dyn FnMut(&[&'static str], &'static Key, &'static str),
) {
    for key in keys {
        steps.push(key.name);
        if let Some(name) = key.environment {
            found(steps, key, name);
        }
        if let Kind::Section { keys, .. } | Kind::Open { keys, .. } = &key.kind {
            overrides(keys, steps, found);
        }
        steps.pop();
    }
}
