//! Holds a value against a table of keys: finds every problem and fills in defaults in one walk.

use serde_json::{Map, Value};

use crate::nearest::nearest;
use crate::problem::Problems;
use crate::schema::{Check, Key, Kind, Rule};
use crate::units;
use crate::yaml::{clip, push_key};

/// The path of `key` within `path`.
pub(crate) fn join(path: &str, key: &str) -> String {
    let mut joined = path.to_owned();
    push_key(&mut joined, key);
    joined
}

/// What kind of value this is, for messages. Never says what is in it.
pub(crate) fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a section with keys",
    }
}

/// What was found, with the value where it is short and plain.
pub(crate) fn found(value: &Value) -> String {
    match value {
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::String(text) => format!("'{}'", clip(text)),
        _ => kind_of(value).to_owned(),
    }
}

/// Checks a section and returns it with defaults filled in. Null counts as empty.
pub(crate) fn section(
    keys: &'static [Key],
    rule: Option<Rule>,
    value: &Value,
    path: &str,
    problems: &mut Problems,
) -> Value {
    let empty = Map::new();
    let given = match value {
        Value::Object(map) => map,
        Value::Null => &empty,
        other => {
            // Never the value itself: a password may have slipped into the wrong line.
            let message = format!("expected a section with keys, found {}", kind_of(other));
            problems.add(path, message, "write it as `key: value` lines");
            return Value::Null;
        }
    };
    let before = problems.0.len();
    for name in given.keys().filter(|name| !keys.iter().any(|key| key.name == name.as_str())) {
        unknown(keys, name, path, problems);
    }
    let mut normal = Map::new();
    for key in keys {
        let inner = join(path, key.name);
        let value = given.get(key.name).unwrap_or(&Value::Null);
        let checked =
            if value.is_null() { absent(key, &inner, problems) } else { one(&key.kind, value, &inner, problems) };
        if !key.is_refused() {
            normal.insert(key.name.to_owned(), checked);
        }
    }
    // Rules across keys read normalized values, which exist only when each key is right by itself.
    if let Some(rule) = rule.filter(|_| problems.0.len() == before) {
        rule(&normal, path, problems);
    }
    Value::Object(normal)
}

fn unknown(keys: &[Key], name: &str, path: &str, problems: &mut Problems) {
    let known = keys.iter().filter(|key| !key.is_refused()).map(|key| key.name);
    let remedy = match nearest(name, known.clone()) {
        Some(near) => format!("did you mean '{near}'?"),
        None if known.clone().count() <= 12 => format!("known here: {}", known.collect::<Vec<_>>().join(", ")),
        None => "remove it, or see docs/configuration.md for the known keys".to_owned(),
    };
    problems.add(join(path, name), "unknown key", remedy);
}

fn absent(key: &'static Key, path: &str, problems: &mut Problems) -> Value {
    if key.required {
        let remedy = match key.environment {
            Some(variable) => format!("add it to the file or set {variable}"),
            None => "add it to the file".to_owned(),
        };
        problems.add(path, "required, but missing", remedy);
        return Value::Null;
    }
    match (key.default_value(), &key.kind) {
        // A section is filled in from the defaults of its keys, unless its own default says that it may be missing.
        (Value::Null, Kind::Section { .. } | Kind::Open { .. }) if key.default.is_none() => {
            one(&key.kind, &Value::Null, path, problems)
        }
        (Value::Null, _) => Value::Null,
        (default, kind) => one(kind, &default, path, problems),
    }
}

/// Checks one value that is not null and returns it normalized.
pub(crate) fn one(kind: &'static Kind, value: &Value, path: &str, problems: &mut Problems) -> Value {
    match kind {
        Kind::Bool => boolean(value).map(Value::Bool).unwrap_or_else(|| wrong(value, path, "true or false", problems)),
        Kind::Integer { min, max } => integer(value, *min, *max, path, problems),
        Kind::Seconds { min, max } => seconds(value, *min, *max, path, problems),
        Kind::Bytes { min, max } => bytes(value, *min, *max, path, problems),
        Kind::Choice(words) => choice(value, words, path, problems),
        Kind::Text { what, check } => text(value, what, *check, path, problems),
        Kind::Secret => secret(value, path, problems),
        Kind::Section { keys, rule } => section(keys, *rule, value, path, problems),
        Kind::Open { keys, rule } => open(keys, *rule, value, path, problems),
        Kind::Named { what, check, keys, rule } => named(value, (what, *check), (keys, *rule), path, problems),
        Kind::Records { keys } => records(value, keys, path, problems),
        Kind::Lines { what, check } => lines(value, what, *check, path, problems),
        Kind::Parameters(read) | Kind::Other { read, .. } => read(value, path, problems),
        Kind::Refused { reason, remedy, harmless } => {
            let holds_anyway = |json: &&str| {
                let same = serde_json::from_str::<Value>(json).unwrap_or_default();
                same == *value || (same.is_boolean() && same.as_bool() == boolean(value))
            };
            if !harmless.iter().any(holds_anyway) {
                problems.add(path, *reason, *remedy);
            }
            Value::Null
        }
    }
}

fn wrong(value: &Value, path: &str, expected: &str, problems: &mut Problems) -> Value {
    problems.add(path, format!("expected {expected}, found {}", found(value)), "change the value");
    Value::Null
}

/// true and false, and the words PostgreSQL and YAML 1.1 have for them.
pub(crate) fn boolean(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(yes) => Some(*yes),
        Value::String(word) => match word.to_ascii_lowercase().as_str() {
            "true" | "on" | "yes" => Some(true),
            "false" | "off" | "no" => Some(false),
            _ => None,
        },
        _ => None,
    }
}

fn integer(value: &Value, min: i64, max: i64, path: &str, problems: &mut Problems) -> Value {
    let number = match value {
        Value::Number(number) => number.as_i64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    match number {
        Some(number) if (min..=max).contains(&number) => number.into(),
        Some(number) => {
            problems.add(path, format!("{number} is out of range"), format!("choose {min} to {max}"));
            Value::Null
        }
        None => wrong(value, path, &format!("a whole number from {min} to {max}"), problems),
    }
}

fn seconds(value: &Value, min: f64, max: f64, path: &str, problems: &mut Problems) -> Value {
    match units::seconds(value) {
        Some(number) if (min..=max).contains(&number) => {
            let whole = number.fract() == 0.0;
            if whole { Value::from(number as u64) } else { Value::from(number) }
        }
        Some(number) => {
            problems.add(path, format!("{number} seconds is out of range"), format!("choose {min} to {max} seconds"));
            Value::Null
        }
        None => wrong(value, path, "a number of seconds (or text with a unit: ms, s, min, h, d, w)", problems),
    }
}

fn bytes(value: &Value, min: u64, max: u64, path: &str, problems: &mut Problems) -> Value {
    match units::bytes(value) {
        Some(number) if (min..=max).contains(&number) => number.into(),
        Some(number) => {
            let range = format!("choose {} to {}", units::show_bytes(min), units::show_bytes(max));
            problems.add(path, format!("{} is out of range", units::show_bytes(number)), range);
            Value::Null
        }
        None => wrong(value, path, "a number of bytes (or text with a unit: B, kB, MB, GB, TB)", problems),
    }
}

fn choice(value: &Value, words: &'static [&'static str], path: &str, problems: &mut Problems) -> Value {
    let switch = boolean(value).filter(|_| words.contains(&"on")).map(|yes| if yes { "on" } else { "off" });
    let typed = match (switch, value) {
        (Some(word), _) => word.to_owned(),
        (None, Value::String(text)) => text.to_ascii_lowercase(),
        _ => return wrong(value, path, &format!("one of {}", words.join(", ")), problems),
    };
    if let Some(word) = words.iter().find(|word| **word == typed) {
        return (*word).into();
    }
    let remedy = match nearest(&typed, words.iter().copied()) {
        Some(near) => format!("did you mean '{near}'?"),
        None => "change the value".to_owned(),
    };
    problems.add(path, format!("expected one of {}, found {}", words.join(", "), found(value)), remedy);
    Value::Null
}

fn text(value: &Value, what: &str, check: Check, path: &str, problems: &mut Problems) -> Value {
    match value {
        Value::String(text) => match check(text) {
            Ok(()) => value.clone(),
            Err(why) => {
                problems.add(path, format!("'{}' is not {what}: {why}", clip(text)), "change the value");
                Value::Null
            }
        },
        Value::Bool(_) | Value::Number(_) => {
            problems.add(
                path,
                format!("expected {what}, found {}", found(value)),
                "put the value in quotes if it is meant as text",
            );
            Value::Null
        }
        _ => wrong(value, path, what, problems),
    }
}

fn secret(value: &Value, path: &str, problems: &mut Problems) -> Value {
    let remedy = "write it as text in quotes";
    match value {
        Value::String(text) if text.is_empty() => {
            problems.add(path, "it is empty", "give it a value or remove the key")
        }
        Value::String(text) if text.contains(['\0', '\n', '\r']) => {
            problems.add(path, "it has a line break or a zero byte", "write it on one line");
        }
        Value::String(_) => return value.clone(),
        other => problems.add(path, format!("expected text, found {}", kind_of(other)), remedy),
    }
    Value::Null
}

/// A section whose unknown keys are the user's own, unless they look like a known one.
fn open(keys: &'static [Key], rule: Option<Rule>, value: &Value, path: &str, problems: &mut Problems) -> Value {
    let (mut known, mut custom) = (Map::new(), Map::new());
    for (name, inner) in value.as_object().into_iter().flatten() {
        let mistyped = nearest(name, keys.iter().filter(|key| !key.is_refused()).map(|key| key.name)).is_some();
        if mistyped || keys.iter().any(|key| key.name == name.as_str()) {
            known.insert(name.clone(), inner.clone());
        } else if inner.is_array() || inner.is_object() {
            wrong(inner, &join(path, name), "text, a number, true or false", problems);
        } else if !inner.is_null() {
            custom.insert(name.clone(), inner.clone());
        }
    }
    let known = if value.is_object() { Value::Object(known) } else { value.clone() };
    let mut normal = section(keys, rule, &known, path, problems);
    if let Value::Object(map) = &mut normal {
        map.insert("custom".to_owned(), Value::Object(custom));
    }
    normal
}

fn named(
    value: &Value,
    (what, check): (&str, Check),
    (keys, rule): (&'static [Key], Option<Rule>),
    path: &str,
    problems: &mut Problems,
) -> Value {
    let Value::Object(map) = value else {
        let message = format!("expected a section with names as keys, found {}", kind_of(value));
        problems.add(path, message, "write it as `name:` lines with keys below");
        return Value::Null;
    };
    let mut normal = Map::new();
    for (name, inner) in map.iter().filter(|(_, inner)| !inner.is_null()) {
        let path = join(path, name);
        if let Err(why) = check(name) {
            problems.add(&path, format!("'{}' is not {what}: {why}", clip(name)), "choose another name");
        }
        normal.insert(name.clone(), section(keys, rule, inner, &path, problems));
    }
    Value::Object(normal)
}

fn records(value: &Value, keys: &'static [Key], path: &str, problems: &mut Problems) -> Value {
    let Value::Array(items) = value else { return wrong(value, path, "a list of sections", problems) };
    let each = items.iter().enumerate();
    each.map(|(index, item)| section(keys, None, item, &format!("{path}[{index}]"), problems)).collect()
}

fn lines(value: &Value, what: &str, check: Check, path: &str, problems: &mut Problems) -> Value {
    let Value::Array(items) = value else {
        problems.add(path, format!("expected a list of texts, found {}", kind_of(value)), "write each line as `- …`");
        return Value::Null;
    };
    for (index, item) in items.iter().enumerate() {
        let path = format!("{path}[{index}]");
        match item {
            Value::String(line) => {
                if let Err(why) = check(line) {
                    problems.add(path, format!("this is not {what}: {why}"), "correct the line");
                }
            }
            other => problems.add(path, format!("expected text, found {}", kind_of(other)), "put the line in quotes"),
        }
    }
    value.clone()
}
