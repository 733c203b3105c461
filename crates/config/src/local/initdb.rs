//! Options of initdb, written as in Patroni: a list of names and `name: value` pairs.

use serde_json::{Value, json};

use crate::check::{found, join};
use crate::nearest::nearest;
use crate::problem::Problems;

const WITH_VALUE: &[&str] = &[
    "auth",
    "auth-host",
    "auth-local",
    "builtin-locale",
    "encoding",
    "icu-locale",
    "icu-rules",
    "lc-collate",
    "lc-ctype",
    "lc-messages",
    "lc-monetary",
    "lc-numeric",
    "lc-time",
    "locale",
    "locale-provider",
    "text-search-config",
    "waldir",
    "wal-segsize",
];
const WITHOUT_VALUE: &[&str] = &["allow-group-access", "data-checksums", "no-data-checksums", "no-locale"];
const OWNED: &[(&str, &str)] = &[
    ("pgdata", "use postgresql.data_dir"),
    ("username", "use postgresql.authentication.superuser.username"),
    ("pwfile", "use postgresql.authentication.superuser.password"),
    ("pwprompt", "use postgresql.authentication.superuser.password"),
    ("no-sync", "remove it: the data must survive a power failure"),
    ("nosync", "remove it: the data must survive a power failure"),
    ("sync-only", "remove it"),
    ("set", "use bootstrap.dcs.postgresql.parameters"),
];

/// Reads the list and returns records of `name` and `value` (null for options without one).
pub(crate) fn read(value: &Value, path: &str, problems: &mut Problems) -> Value {
    let Value::Array(items) = value else {
        let message = format!("expected a list of initdb options, found {}", found(value));
        problems.add(path, message, "write it as `- encoding: UTF8` and `- data-checksums` lines");
        return Value::Null;
    };
    let mut options = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let path = format!("{path}[{index}]");
        match item {
            Value::String(name) => options.extend(option(name, &Value::Null, &path, problems)),
            Value::Object(map) => {
                for (name, value) in map {
                    options.extend(option(name, value, &join(&path, name), problems));
                }
            }
            other => {
                let message = format!("expected an option or `option: value`, found {}", found(other));
                problems.add(path, message, "write it as `- encoding: UTF8` or `- data-checksums`");
            }
        }
    }
    Value::Array(options)
}

fn option(typed: &str, value: &Value, path: &str, problems: &mut Problems) -> Option<Value> {
    let name = typed.strip_prefix("--").unwrap_or(typed);
    if let Some((_, remedy)) = OWNED.iter().find(|(owned, _)| *owned == name) {
        problems.add(path, format!("'{name}' belongs to Matriarch"), *remedy);
        return None;
    }
    if WITHOUT_VALUE.contains(&name) {
        return match value {
            Value::Null | Value::Bool(true) => Some(json!({"name": name, "value": null})),
            Value::Bool(false) => None,
            other => {
                problems.add(
                    path,
                    format!("this option has no value, found {}", found(other)),
                    "write the option alone",
                );
                None
            }
        };
    }
    if !WITH_VALUE.contains(&name) {
        let known = WITH_VALUE.iter().chain(WITHOUT_VALUE).copied();
        let remedy = match nearest(name, known) {
            Some(near) => format!("did you mean '{near}'?"),
            None => "see `initdb --help`".to_owned(),
        };
        problems.add(
            path,
            format!("'{}' is not an option of initdb that can be set here", crate::yaml::clip(typed)),
            remedy,
        );
        return None;
    }
    let text = match value {
        Value::String(text) if !text.is_empty() && !text.chars().any(char::is_control) => text.clone(),
        Value::Number(number) => number.to_string(),
        other => {
            problems.add(
                path,
                format!("expected a value for '{name}', found {}", found(other)),
                format!("write it as `- {name}: …`"),
            );
            return None;
        }
    };
    if name == "waldir" && !text.starts_with('/') {
        problems.add(path, "the directory must begin with '/'", "write the whole path");
        return None;
    }
    Some(json!({"name": name, "value": text}))
}
