//! Changing the dynamic configuration: merge patches and single keys.

use serde_json::{Map, Value};

use crate::dynamic::keys::KEYS;
use crate::problem::Problems;
use crate::schema::{Key, Kind};
use crate::yaml;

/// `current` with a JSON merge patch (RFC 7396) applied: sections merge, null deletes, all else replaces.
///
/// The result may be invalid; check it before it is stored.
pub fn patch(current: &Value, patch: &Value) -> Value {
    let Value::Object(changes) = patch else { return patch.clone() };
    let mut merged = match current {
        Value::Object(map) => map.clone(),
        _ => Map::new(),
    };
    for (key, change) in changes {
        if change.is_null() {
            merged.remove(key);
        } else {
            let old = merged.get(key).unwrap_or(&Value::Null);
            let new = self::patch(old, change);
            merged.insert(key.clone(), new);
        }
    }
    Value::Object(merged)
}

/// `current` with one key of the dynamic configuration set, as `matriarch config set PATH VALUE` does.
///
/// `text` is read as YAML; `null` removes the key; a list or section replaces the old one whole. Names of parameters
/// may have dots (`postgresql.parameters.pg_stat_statements.max`). The result is not validated beyond the path and the
/// syntax of the value.
pub fn set_path(current: &Value, path: &str, text: &str) -> Result<Value, Problems> {
    let mut problems = Problems::default();
    let steps = steps(path);
    if steps.is_empty() || steps.iter().any(|step| step.trim().is_empty()) {
        problems.add(
            "",
            format!("'{}' is not the path of a key", yaml::clip(path)),
            "write it as in postgresql.parameters.work_mem",
        );
        return Err(problems);
    }
    let value = yaml::scalar(text).map_err(|error| {
        problems.add(path, error.message, error.remedy);
        problems
    })?;
    Ok(set(current, &steps, value))
}

/// Sets the value at the end of the steps; null removes it. Sections on the way are made as needed.
pub(crate) fn set(current: &Value, steps: &[&str], value: Value) -> Value {
    let Some((first, rest)) = steps.split_first() else { return value };
    let mut map = current.as_object().cloned().unwrap_or_default();
    if rest.is_empty() && value.is_null() {
        map.remove(*first);
    } else {
        let inner = set(map.get(*first).unwrap_or(&Value::Null), rest, value);
        map.insert((*first).to_owned(), inner);
    }
    Value::Object(map)
}

/// The steps of a path; the name of a PostgreSQL parameter is one step, dots and all.
fn steps(path: &str) -> Vec<&str> {
    let mut keys: &[Key] = KEYS;
    let (mut steps, mut rest) = (Vec::new(), path);
    while let Some((step, after)) = rest.split_once('.') {
        steps.push(step);
        rest = after;
        match keys.iter().find(|key| key.name == step).map(|key| &key.kind) {
            Some(Kind::Parameters(_)) => break,
            Some(Kind::Section { keys: inner, .. }) => keys = inner,
            _ => keys = &[],
        }
    }
    steps.push(rest);
    steps
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn patches_merge_and_null_deletes() {
        let current = json!({"ttl": 5, "postgresql": {"parameters": {"a": 1, "b": 2}, "pg_hba": ["x"]}});
        let change = json!({"ttl": null, "postgresql": {"parameters": {"a": null, "c": 3}, "pg_hba": ["y"]}});
        assert_eq!(patch(&current, &change), json!({"postgresql": {"parameters": {"b": 2, "c": 3}, "pg_hba": ["y"]}}));
        assert_eq!(patch(&json!(7), &json!({"a": {"b": null, "c": 1}})), json!({"a": {"c": 1}}));
        assert_eq!(patch(&json!({"a": 1}), &json!([1])), json!([1]));
        assert_eq!(patch(&json!({"a": null}), &json!({})), json!({"a": null}));
    }

    #[test]
    fn sets_one_key() {
        let set = |path: &str, text: &str| set_path(&json!({"ttl": 5}), path, text).unwrap();
        assert_eq!(set("ttl", "7"), json!({"ttl": 7}));
        assert_eq!(set("ttl", "null"), json!({}));
        assert_eq!(set("ttl", ""), json!({}));
        assert_eq!(set("crash", "restart"), json!({"ttl": 5, "crash": "restart"}));
        assert_eq!(
            set("postgresql.parameters.work_mem", "64MB"),
            json!({"ttl": 5, "postgresql": {"parameters": {"work_mem": "64MB"}}})
        );
        assert_eq!(
            set("postgresql.parameters.pg_stat_statements.max", "500"),
            json!({"ttl": 5, "postgresql": {"parameters": {"pg_stat_statements.max": 500}}})
        );
        assert_eq!(
            set("postgresql.parameters.search_path", "*"),
            json!({"ttl": 5, "postgresql": {"parameters": {"search_path": "*"}}})
        );
        assert_eq!(set("slots.a.type", "physical"), json!({"ttl": 5, "slots": {"a": {"type": "physical"}}}));
        assert_eq!(
            set("postgresql.pg_hba", "[local all all peer]"),
            json!({"ttl": 5, "postgresql": {"pg_hba": ["local all all peer"]}})
        );
    }

    #[test]
    fn refuses_broken_paths_and_values() {
        for path in ["", ".", "a.", ".a", "a..b", "postgresql.parameters."] {
            assert!(set_path(&json!({}), path, "1").is_err(), "{path:?} was accepted");
        }
        let error = set_path(&json!({}), "postgresql.pg_hba", "[a").unwrap_err().to_string();
        assert!(error.contains("postgresql.pg_hba: this is not valid YAML"), "{error}");
    }
}
