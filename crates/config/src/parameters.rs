//! PostgreSQL's own parameters: which names are possible, which belong to Matriarch, which values contradict it.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::check::{boolean, join, kind_of};
use crate::problem::Problems;

/// A parameter that cannot be set, why, what to do instead, and the values that say what holds anyway.
pub(crate) struct Owned {
    /// Names in lower case; one that ends in `*` stands for all that begin so.
    pub names: &'static [&'static str],
    /// Why.
    pub reason: &'static str,
    /// What to do instead.
    pub remedy: &'static str,
    /// Values that are ignored instead of refused.
    pub harmless: &'static [&'static str],
}

const fn owned(names: &'static [&'static str], reason: &'static str, remedy: &'static str) -> Owned {
    Owned { names, reason, remedy, harmless: &[] }
}

/// Parameters that Matriarch sets itself, in every configuration.
pub(crate) const OWNED: &[Owned] = &[
    owned(
        &["primary_conninfo", "primary_slot_name"],
        "Matriarch points each replica at the current primary",
        "remove it; credentials go to `postgresql.authentication.replication` of the local configuration",
    ),
    owned(
        &["synchronous_standby_names"],
        "Matriarch keeps it equal to the durability rule published in the store",
        "remove it; use `synchronous_mode` and `synchronous_node_count`",
    ),
    owned(
        &["listen_addresses", "port"],
        "it differs from member to member",
        "remove it; use `postgresql.listen` of the local configuration",
    ),
    owned(
        &["unix_socket_directories"],
        "the agent reaches its PostgreSQL through this directory",
        "remove it; use `postgresql.run_dir` of the local configuration",
    ),
    owned(&["cluster_name"], "Matriarch sets it to the scope", "remove it"),
    Owned {
        names: &["hot_standby"],
        reason: "replicas must answer queries, or the agent cannot watch them",
        remedy: "remove it",
        harmless: &["on"],
    },
    Owned {
        names: &["recovery_target_timeline"],
        reason: "replicas must follow every takeover, so it is always 'latest'",
        remedy: "remove it",
        harmless: &["latest"],
    },
    owned(
        &["recovery_target*"],
        "a member that stops replay at a target cannot follow the primary",
        "remove it; restoring to a point in time comes with a later release",
    ),
    owned(
        &["standby_mode", "trigger_file", "promote_trigger_file"],
        "only Matriarch decides who becomes primary",
        "remove it; use `matriarch switchover` or `matriarch failover`",
    ),
    owned(
        &["archive_cleanup_command", "recovery_end_command"],
        "run on every replica, it could remove WAL that other members still need",
        "remove it and clean the archive where it is kept",
    ),
    owned(&["hba_file"], "Matriarch keeps the rules of every member alike", "remove it; use `postgresql.pg_hba`"),
    owned(&["ident_file"], "Matriarch keeps the maps of every member alike", "remove it; use `postgresql.pg_ident`"),
    owned(
        &["data_directory"],
        "the agent must know where the data is",
        "remove it; use `postgresql.data_dir` of the local configuration",
    ),
    owned(
        &["config_file", "include", "include_dir", "include_if_exists"],
        "Matriarch adds its own file to postgresql.conf, which stays yours",
        "remove it; write the include into postgresql.conf itself",
    ),
    owned(
        &["external_pid_file"],
        "the agent watches the process itself, and a stale file would mislead others",
        "remove it",
    ),
    Owned {
        names: &["log_destination"],
        reason: "the log goes where `log.postgresql` of the local configuration says",
        remedy: "remove it; `log.postgresql: stream` and `log.format: json` give JSON",
        harmless: &["stderr"],
    },
    Owned {
        names: &["logging_collector"],
        reason: "the log goes where `log.postgresql` of the local configuration says, and is rotated there",
        remedy: "remove it",
        harmless: &["off"],
    },
    Owned {
        names: &["restart_after_crash"],
        reason: "after a crash another member takes over, or the agent starts PostgreSQL; while paused it is 'on'",
        remedy: "remove it",
        harmless: &["off"],
    },
    Owned {
        names: &["wal_log_hints"],
        reason: "pg_rewind needs it where data checksums are off",
        remedy: "remove it",
        harmless: &["on"],
    },
    Owned {
        names: &["fsync"],
        reason: "without it a power failure loses commits that were acknowledged, and can corrupt the data",
        remedy: "remove it; for a fast scratch cluster use `synchronous_commit: \"off\"` and `synchronous_mode: \"off\"`",
        harmless: &["on"],
    },
    Owned {
        names: &["full_page_writes"],
        reason: "pg_rewind and crash recovery need it",
        remedy: "remove it",
        harmless: &["on"],
    },
];

/// Parameters that every member must share, so they have no place in a local configuration.
pub(crate) const SHARED: &[&str] = &[
    "max_connections",
    "max_locks_per_transaction",
    "max_prepared_transactions",
    "max_replication_slots",
    "max_wal_senders",
    "max_worker_processes",
    "synchronous_commit",
    "track_commit_timestamp",
    "wal_level",
];

/// Reads `parameters` of the dynamic configuration.
pub(crate) fn read_shared(value: &Value, path: &str, problems: &mut Problems) -> Value {
    let Some(normal) = read(value, path, problems) else { return Value::Null };
    for (name, text) in normal.values() {
        let path = join(path, name);
        if name.eq_ignore_ascii_case("recovery_min_apply_delay") {
            problems.add(
                path,
                "a delay on every replica would make every takeover wait for it",
                "set it in the local configuration of one replica",
            );
        } else {
            sane(&name.to_ascii_lowercase(), text, &path, problems);
        }
    }
    reserved_connections(&normal, path, problems);
    into_value(normal)
}

/// Reads `postgresql.parameters` of a local configuration.
pub(crate) fn read_local(value: &Value, path: &str, problems: &mut Problems) -> Value {
    let Some(normal) = read(value, path, problems) else { return Value::Null };
    for (name, text) in normal.values() {
        let lower = name.to_ascii_lowercase();
        let path = join(path, name);
        if SHARED.contains(&lower.as_str()) {
            problems.add(
                path,
                "it must be the same on every member",
                "set it in the dynamic configuration with `matriarch config set`",
            );
        } else {
            sane(&lower, text, &path, problems);
        }
    }
    into_value(normal)
}

/// Parameters by lower-case name: the name as written, and the value as PostgreSQL reads it.
type Normal = BTreeMap<String, (String, String)>;

fn into_value(normal: Normal) -> Value {
    normal.into_values().map(|(name, text)| (name, Value::String(text))).collect::<Map<_, _>>().into()
}

fn read(value: &Value, path: &str, problems: &mut Problems) -> Option<Normal> {
    let Value::Object(given) = value else {
        let message = format!("expected a section with PostgreSQL's parameters, found {}", kind_of(value));
        problems.add(path, message, "write it as `name: value` lines");
        return None;
    };
    let mut normal = Normal::new();
    for (name, value) in given {
        let path = join(path, name);
        let lower = name.to_ascii_lowercase();
        if let Err(why) = valid_name(name) {
            problems.add(path, format!("this cannot be the name of a parameter: {why}"), "correct the name");
            continue;
        }
        if value.is_null() {
            continue;
        }
        let Some(text) = plain(value, &path, problems) else { continue };
        if let Some(owned) = owner(&lower) {
            let same = |harmless: &&&str| text.eq_ignore_ascii_case(harmless) || boolean_text(&text) == Some(harmless);
            if !owned.harmless.iter().any(|harmless| same(&harmless)) {
                problems.add(path, format!("'{lower}' belongs to Matriarch: {}", owned.reason), owned.remedy);
            }
            continue;
        }
        if let Some((other, _)) = normal.insert(lower, (name.clone(), text)) {
            problems.add(path, format!("it is the same parameter as '{other}'"), "keep one of them");
        }
    }
    Some(normal)
}

fn owner(lower: &str) -> Option<&'static Owned> {
    let matches = |pattern: &&str| match pattern.strip_suffix('*') {
        Some(prefix) => lower.starts_with(prefix),
        None => lower == *pattern,
    };
    OWNED.iter().find(|owned| owned.names.iter().any(matches))
}

/// PostgreSQL's rule for names, with extensions' `prefix.name`.
pub(crate) fn valid_name(name: &str) -> Result<(), String> {
    let part = |part: &str| {
        let mut bytes = part.bytes();
        bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
            && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'$')
    };
    if name.len() > 63 {
        Err("it has more than 63 characters".to_owned())
    } else if !name.split('.').all(part) {
        Err("it may have letters, digits and '_', and a '.' between an extension and its parameter".to_owned())
    } else {
        Ok(())
    }
}

/// The value as PostgreSQL reads it.
fn plain(value: &Value, path: &str, problems: &mut Problems) -> Option<String> {
    let text = match value {
        Value::Bool(yes) => if *yes { "on" } else { "off" }.to_owned(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.clone(),
        other => {
            let message = format!("expected text, a number, true or false, found {}", kind_of(other));
            problems.add(path, message, "write lists as one text, separated by commas");
            return None;
        }
    };
    if text.chars().any(char::is_control) {
        problems.add(path, "it has a line break or another control character", "write it on one line");
        return None;
    }
    Some(text)
}

fn boolean_text(text: &str) -> Option<&'static str> {
    let word = text.to_ascii_lowercase();
    let yes = match word.as_str() {
        "1" => Some(true),
        "0" => Some(false),
        _ => boolean(&Value::String(word)),
    };
    yes.map(|yes| if yes { "on" } else { "off" })
}

/// Whole numbers that replication and the agent's own connections need: the parameter, the least, what for.
const LEAST: &[(&str, u32, &str)] = &[
    ("max_connections", 10, "the agent's connections and yours"),
    ("max_wal_senders", 3, "two replicas and a clone"),
    ("max_replication_slots", 3, "a slot for each member"),
    ("max_worker_processes", 2, "PostgreSQL's own workers"),
];

/// The values that would keep Matriarch from doing its work. Everything else PostgreSQL checks itself.
fn sane(lower: &str, text: &str, path: &str, problems: &mut Problems) {
    if let Some((_, least, what)) = LEAST.iter().find(|(name, ..)| *name == lower) {
        match text.trim().parse::<u32>() {
            Ok(number) if (*least..=262_143).contains(&number) => {}
            Ok(number) => {
                problems.add(path, format!("{number} is out of range"), format!("choose {least} to 262143: {what}"))
            }
            Err(_) => problems.add(
                path,
                format!("expected a whole number, found '{}'", crate::yaml::clip(text)),
                format!("choose {least} to 262143"),
            ),
        }
        return;
    }
    let words: &[&str] = match lower {
        "wal_level" => &["replica", "logical"],
        "synchronous_commit" => &["on", "off", "local", "remote_write", "remote_apply"],
        "archive_mode" => &["on", "off", "always"],
        "track_commit_timestamp" | "ssl" => &["on", "off"],
        _ => return,
    };
    let word =
        boolean_text(text).filter(|word| words.contains(word)).map_or_else(|| text.to_ascii_lowercase(), str::to_owned);
    if !words.contains(&word.as_str()) {
        let remedy = if lower == "wal_level" { "replication needs 'replica' or more" } else { "change the value" };
        let message = format!("expected one of {}, found '{}'", words.join(", "), crate::yaml::clip(text));
        problems.add(path, message, remedy);
    }
}

fn reserved_connections(normal: &Normal, path: &str, problems: &mut Problems) {
    let number =
        |name: &str, default: u32| normal.get(name).map_or(Some(default), |(_, text)| text.trim().parse::<u32>().ok());
    let all = number("max_connections", 100);
    let reserved = number("superuser_reserved_connections", 3).zip(number("reserved_connections", 0));
    if let (Some(all), Some((superuser, ordinary))) = (all, reserved)
        && u64::from(superuser) + u64::from(ordinary) >= u64::from(all)
    {
        problems.add(
            join(path, "max_connections"),
            format!(
                "{all} connections leave none beside the {} reserved ones",
                u64::from(superuser) + u64::from(ordinary)
            ),
            "raise it, or lower superuser_reserved_connections",
        );
    }
    if let Some((name, text)) = normal.get("superuser_reserved_connections")
        && text.trim() == "0"
    {
        problems.add(join(path, name), "the agent must be able to connect to a full server", "choose at least 1");
    }
}
