//! A key that nobody reads is a promise that nobody keeps: every documented key must be read outside this crate.

use std::path::{Path, PathBuf};

use crate::schema::{Effect, Key, Kind};
use crate::{dynamic, local};

/// Keys that are read under another name.
const NAMES: &[(&str, &str)] = &[
    ("synchronous_mode", "voters_needed()"),
    ("synchronous_node_count", "voters_needed()"),
    ("primary_stop_timeout", "stop_timeout()"),
    ("postgresql.use_slots", "member_slots()"),
    ("maximum_lag_on_syncnode", "voter_lag()"),
    ("namespace", "prefix()"),
    ("sqlite.path", "Store::Sqlite { path"),
    ("etcd3.host", ".hosts"),
    ("etcd3.url", ".hosts"),
    ("etcd3.protocol", ".tls"),
    ("etcd.host", ".hosts"),
    ("etcd.url", ".hosts"),
    ("etcd.protocol", ".tls"),
    ("consul.host", ".hosts"),
    ("consul.port", ".hosts"),
    ("consul.url", ".hosts"),
    ("consul.scheme", ".tls"),
    ("slots.type", "Slot::Physical"),
    ("slots.database", "Slot::Logical { database"),
    ("slots.plugin", "Slot::Logical { database, plugin"),
    ("ignore_slots.name", ".covers("),
    ("ignore_slots.type", ".covers("),
    ("ignore_slots.database", ".covers("),
    ("ignore_slots.plugin", ".covers("),
    ("postgresql.run_dir", ".run_dir()"),
    ("postgresql.authentication.rewind", ".rewind()"),
    ("archive.schedule.full", "schedule.next_full("),
    ("archive.schedule.incremental", "schedule.next_incremental("),
    ("archive.schedule.time_zone", "schedule.next_full("),
    ("archive.dumps.schedule", "dumps.next("),
    ("archive.dumps.time_zone", "dumps.next("),
    // The check of the endpoint reads it.
    ("archive.repositories.allow_http", "with_allow_http"),
    ("bootstrap.restore.from.allow_http", "with_allow_http"),
    // Tags travel with the member and are read from there, by name.
    ("tags.nofailover", "\"nofailover\""),
    ("tags.failover_priority", "\"failover_priority\""),
    ("tags.nosync", "\"nosync\""),
    ("tags.noloadbalance", "\"noloadbalance\""),
    ("tags.clonefrom", "\"clonefrom\""),
    ("tags.nobackup", "\"nobackup\""),
    ("tags.replicatefrom", "\"replicatefrom\""),
    ("tags.zone", "\"zone\""),
    ("tags.sync_priority", "\"sync_priority\""),
];

/// libpq's options of a role are handed over as a whole.
const LIBPQ: &[&str] = &["sslmode", "sslcert", "sslkey", "sslrootcert", "sslcrl", "channel_binding"];

fn sources(dir: &Path, text: &mut String) {
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, text);
        } else if path.extension().is_some_and(|ending| ending == "rs") && !path.ends_with("tests.rs") {
            text.push_str(&std::fs::read_to_string(&path).unwrap());
        }
    }
}

fn walk(keys: &'static [Key], path: &str, code: &str, unread: &mut Vec<String>) {
    for key in keys.iter().filter(|key| !key.is_refused() && key.effect != Effect::Nothing) {
        let path = if path.is_empty() { key.name.to_owned() } else { format!("{path}.{}", key.name) };
        let (Kind::Section { keys: inner, .. }
        | Kind::Open { keys: inner, .. }
        | Kind::Named { keys: inner, .. }
        | Kind::Records { keys: inner, .. }) = &key.kind
        else {
            let under = NAMES.iter().find(|(name, _)| *name == path).map(|(_, text)| (*text).to_owned());
            let role = path.starts_with("postgresql.authentication.") && LIBPQ.contains(&key.name);
            let wanted = if role { ".libpq(".to_owned() } else { under.unwrap_or_else(|| format!(".{}", key.name)) };
            if !code.contains(&wanted) {
                unread.push(format!("{path} (looked for '{wanted}')"));
            }
            continue;
        };
        walk(inner, &path, code, unread);
    }
}

#[test]
fn every_documented_key_is_read_by_somebody() {
    let crates = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut code = String::new();
    for reader in ["agent", "archive", "core", "api", "proxy", "matriarch"] {
        sources(&crates.join(reader).join("src"), &mut code);
    }
    let mut unread = Vec::new();
    walk(dynamic::keys::KEYS, "", &code, &mut unread);
    walk(local::keys::KEYS, "", &code, &mut unread);
    assert!(unread.is_empty(), "documented, but read by nobody: {unread:#?}");
}
