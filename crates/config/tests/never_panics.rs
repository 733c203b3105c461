//! Whatever comes in, the answer is a configuration or a list of problems.

use matriarch_config::{Document, DynamicConfig, LocalConfig, patch, set_path, to_yaml, validate};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

/// Words that lead deep into the tables.
const KEYS: &[&str] = &[
    "ttl",
    "loop_wait",
    "synchronous_mode",
    "synchronous_node_count",
    "postgresql",
    "parameters",
    "pg_hba",
    "pg_ident",
    "slots",
    "ignore_slots",
    "type",
    "database",
    "plugin",
    "standby_cluster",
    "crash",
    "max_connections",
    "wal_level",
    "synchronous_commit",
    "max_slot_wal_keep_size",
    "scope",
    "name",
    "namespace",
    "bootstrap",
    "dcs",
    "initdb",
    "sqlite",
    "path",
    "restapi",
    "listen",
    "connect_address",
    "authentication",
    "superuser",
    "username",
    "password",
    "tags",
    "nofailover",
    "failover_priority",
    "replicatefrom",
    "proxy",
    "read_write",
    "read_only",
    "data_dir",
    "run_dir",
    "log",
    "level",
    "a.b",
    "",
    "é",
];
const VALUES: &[&str] = &[
    "on",
    "off",
    "quorum",
    "5s",
    "1MB",
    "-1",
    "physical",
    "logical",
    "replica",
    "127.0.0.1:5432",
    "*:1",
    "[::1]:5000",
    "/data",
    "local all all trust",
    "host all all all md5",
    "m a b",
    "db1",
    "stream",
    "/service/",
    "info",
    "\"",
    "\0",
    "",
];

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (0i64..100).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop::sample::select(VALUES).prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    let key = prop_oneof![4 => prop::sample::select(KEYS).prop_map(str::to_owned), 1 => any::<String>()];
    leaf.prop_recursive(5, 64, 8, move |inner| {
        prop_oneof![
            1 => prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            4 => prop::collection::vec((key.clone(), inner), 0..8)
                .prop_map(|pairs| pairs.into_iter().collect::<Map<_, _>>().into()),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn dynamic(value in value()) {
        let problems = validate(&value);
        match DynamicConfig::from_json(&value) {
            Ok(config) => {
                prop_assert!(problems.is_empty());
                let again = DynamicConfig::from_json(&config.to_json());
                prop_assert_eq!(again.map_err(|p| p.to_string()), Ok(config));
            }
            Err(found) => {
                prop_assert!(!found.to_string().contains("a bug"), "{}", found);
                prop_assert_eq!(found.0, problems);
            }
        }
    }

    #[test]
    fn local(value in value()) {
        if let Err(problems) = LocalConfig::from_json(&value) {
            prop_assert!(!problems.to_string().contains("a bug"), "{}", problems);
        }
    }

    /// Sections of a valid file, replaced one at a time, so that the walk gets past the required keys.
    #[test]
    fn local_with_one_strange_value(path in prop::sample::select(&[
        "/tags", "/proxy", "/bootstrap", "/log", "/restapi", "/postgresql/parameters", "/postgresql/authentication",
        "/postgresql/listen", "/postgresql/run_dir", "/sqlite", "/etcd3", "/namespace", "/bootstrap/dcs", "/bootstrap/initdb",
    ][..]), strange in value()) {
        let mut config = json!({
            "scope": "s", "name": "n", "namespace": "/x", "sqlite": {"path": "/s"}, "etcd3": null, "tags": {}, "proxy": null, "log": {},
            "bootstrap": {"dcs": {}, "initdb": []}, "restapi": {},
            "postgresql": {"listen": "127.0.0.1:5432", "data_dir": "/d", "run_dir": "/r", "parameters": {}, "authentication": {}},
        });
        prop_assert!(LocalConfig::from_json(&config).is_ok());
        *config.pointer_mut(path).unwrap() = strange;
        if let Err(problems) = LocalConfig::from_json(&config) {
            prop_assert!(!problems.to_string().contains("a bug"), "{}", problems);
        }
    }

    #[test]
    fn changes(current in value(), change in value(), path in ".{0,40}", text in any::<String>()) {
        let patched = patch(&current, &change);
        prop_assert_eq!(patch(&patched, &json!({})).is_object(), true);
        if let Ok(set) = set_path(&current, &path, &text) {
            prop_assert!(set.is_object());
        }
    }

    #[test]
    fn yaml_text(text in any::<String>()) {
        let _ = Document::parse(&text);
    }

    #[test]
    fn yaml_like_text(text in "([a-c]|: |\n|  |- |[\\[\\]{},&*!|>'\"#%@\t]|<<){0,40}") {
        let _ = Document::parse(&text);
    }

    /// What we write, we read back as the same.
    #[test]
    fn yaml_round_trip(value in value()) {
        let Ok(document) = Document::parse(&to_yaml(&value)) else {
            // Nothing and too much are refused, and so are keys that mean something in YAML.
            return Ok(());
        };
        prop_assert_eq!(without_negative_zero(document.value), without_negative_zero(value));
    }
}

/// -0.0 and numbers that JSON prints alike are the same to us.
fn without_negative_zero(value: Value) -> Value {
    match value {
        Value::Number(number) => json!(number.as_f64()),
        Value::Array(items) => items.into_iter().map(without_negative_zero).collect(),
        Value::Object(map) => {
            map.into_iter().map(|(key, value)| (key, without_negative_zero(value))).collect::<Map<_, _>>().into()
        }
        other => other,
    }
}
