//! The words in which keys are defined: once each, in the tables of `dynamic` and `local`.
//!
//! Validation, nearest-key suggestions, defaults and `docs/configuration.md` all come from these tables.

use serde_json::{Map, Value};

use crate::problem::Problems;

/// One configuration key.
pub(crate) struct Key {
    /// Its name within its section.
    pub name: &'static str,
    /// What it may hold.
    pub kind: Kind,
    /// Its default as JSON; without one the key stays null, a section is filled in from its keys ("null": it is not).
    pub default: Option<&'static str>,
    /// It must be given.
    pub required: bool,
    /// What it means, for the reference: whole sentences.
    pub meaning: &'static str,
    /// When a change takes effect.
    pub effect: Effect,
    /// The environment variable that overrides it.
    pub environment: Option<&'static str>,
}

/// When a change of a key takes effect.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Within moments.
    Reload,
    /// When the agent starts again.
    Restart,
    /// Only when a new cluster is made.
    Bootstrap,
    /// Never: the key exists so that configurations written for Patroni keep working.
    Nothing,
    /// It depends on what is inside.
    Mixed,
}

/// A check across the keys of a section: the normalized section, its path, where problems go.
pub(crate) type Rule = fn(&Map<String, Value>, &str, &mut Problems);

/// A reader of something that no other kind describes: the value, its path, where problems go; the normalized value.
pub(crate) type Reader = fn(&Value, &str, &mut Problems) -> Value;

/// Accepts a text, or says why not.
pub(crate) type Check = fn(&str) -> Result<(), String>;

/// What a key may hold.
pub(crate) enum Kind {
    /// true or false; `on`, `off`, `yes`, `no` in text.
    Bool,
    /// A whole number within bounds.
    Integer { min: i64, max: i64 },
    /// A duration within bounds, in seconds.
    Seconds { min: f64, max: f64 },
    /// A size within bounds.
    Bytes { min: u64, max: u64 },
    /// One of these words. `on` and `off` also take booleans.
    Choice(&'static [&'static str]),
    /// Text that the check accepts; it says why not.
    Text { what: &'static str, check: Check },
    /// Text that is never shown.
    Secret,
    /// Keys of their own.
    Section { keys: &'static [Key], rule: Option<Rule> },
    /// Keys of their own, and others with plain values, which end up in a section `custom`.
    Open { keys: &'static [Key], rule: Option<Rule> },
    /// Any names, each with a section.
    Named { what: &'static str, check: Check, keys: &'static [Key], rule: Option<Rule> },
    /// A list of sections.
    Records { keys: &'static [Key] },
    /// A list of texts that the check accepts.
    Lines { what: &'static str, check: Check },
    /// Parameters of PostgreSQL: any valid name with a plain value.
    Parameters(Reader),
    /// Anything else.
    Other { what: &'static str, read: Reader },
    /// Known to Patroni or planned, refused by name unless it says what holds anyway (`harmless`, as JSON).
    Refused { reason: &'static str, remedy: &'static str, harmless: &'static [&'static str] },
}

/// Begins a key; the methods below add the rest.
pub(crate) const fn key(name: &'static str, kind: Kind, meaning: &'static str) -> Key {
    Key { name, kind, default: None, required: false, meaning, effect: Effect::Reload, environment: None }
}

/// A key that is refused by name.
pub(crate) const fn refused(
    name: &'static str,
    reason: &'static str,
    remedy: &'static str,
    harmless: &'static [&'static str],
) -> Key {
    key(name, Kind::Refused { reason, remedy, harmless }, "")
}

impl Key {
    /// Sets the default, as JSON.
    pub(crate) const fn default(mut self, json: &'static str) -> Key {
        self.default = Some(json);
        self
    }

    /// The key must be given.
    pub(crate) const fn required(mut self) -> Key {
        self.required = true;
        self
    }

    /// Says when a change takes effect.
    pub(crate) const fn effect(mut self, effect: Effect) -> Key {
        self.effect = effect;
        self
    }

    /// An environment variable overrides it.
    pub(crate) const fn env(mut self, name: &'static str) -> Key {
        self.environment = Some(name);
        self
    }

    /// The parsed default.
    pub(crate) fn default_value(&self) -> Value {
        self.default
            .map_or(Value::Null, |json| serde_json::from_str(json).expect("defaults in the key tables are JSON"))
    }

    /// It is refused by name.
    pub(crate) fn is_refused(&self) -> bool {
        matches!(self.kind, Kind::Refused { .. })
    }
}

/// Accepts any text.
pub(crate) fn any_text(_: &str) -> Result<(), String> {
    Ok(())
}

/// Accepts text with something in it, on one line.
pub(crate) fn one_line(text: &str) -> Result<(), String> {
    if text.trim().is_empty() {
        Err("it is empty".to_owned())
    } else if text.chars().any(char::is_control) {
        Err("it has a line break or another control character".to_owned())
    } else {
        Ok(())
    }
}

/// Accepts a path from the root.
pub(crate) fn absolute_path(text: &str) -> Result<(), String> {
    one_line(text)?;
    if text.starts_with('/') { Ok(()) } else { Err("it must begin with '/'".to_owned()) }
}
