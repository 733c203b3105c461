//! Our settings: `matriarch.conf`, which the user's `postgresql.conf` includes (`include.rs`).
//!
//! The user's file stays theirs; ours is read after it and wins, and `ALTER SYSTEM` wins over both, which is why
//! [`strip_auto_conf`] takes the settings we own out of `postgresql.auto.conf` before each start.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use matriarch_config::HOT_STANDBY_LIMITS;
use matriarch_core::Incarnation;

use crate::conninfo::Source;
use crate::control::ControlData;
use crate::files::{self, FileError};
use crate::hba;
use crate::include;
use crate::instance::Instance;

/// Our include file in the data directory.
pub const FILE: &str = "matriarch.conf";
/// The file that makes PostgreSQL start as a standby.
pub const STANDBY_SIGNAL: &str = "standby.signal";
pub(crate) const RECOVERY_SIGNAL: &str = "recovery.signal";
/// Where a directory that `matriarch restore` made keeps what its `restore_command` fetches WAL from.
pub const RESTORE_SOURCE: &str = "matriarch_restore.json";
/// The word by which the `restore_command` of such a directory is known.
pub const RESTORE_FETCH: &str = "restore-fetch";

/// Settings that the cluster configuration cannot set: we give them, or they would break what we do.
pub const OWNED: [&str; 29] = [
    "archive_cleanup_command",
    "cluster_name",
    "config_file",
    "data_directory",
    "external_pid_file",
    "full_page_writes",
    "hba_file",
    "hot_standby",
    "ident_file",
    "listen_addresses",
    "log_destination",
    "logging_collector",
    "port",
    "primary_conninfo",
    "primary_slot_name",
    "promote_trigger_file",
    "recovery_end_command",
    "recovery_target",
    "recovery_target_action",
    "recovery_target_inclusive",
    "recovery_target_lsn",
    "recovery_target_name",
    "recovery_target_time",
    "recovery_target_timeline",
    "recovery_target_xid",
    "restart_after_crash",
    "synchronous_standby_names",
    "unix_socket_directories",
    "wal_log_hints",
];

/// Defaults that the cluster configuration may change.
const DEFAULTS: [(&str, &str); 18] = [
    ("max_connections", "100"),
    ("max_locks_per_transaction", "64"),
    ("max_prepared_transactions", "0"),
    ("max_replication_slots", "10"),
    ("max_slot_wal_keep_size", "4GB"),
    ("max_wal_senders", "10"),
    ("max_worker_processes", "8"),
    ("password_encryption", "scram-sha-256"),
    ("tcp_keepalives_count", "3"),
    ("tcp_keepalives_idle", "10"),
    ("tcp_keepalives_interval", "5"),
    ("track_commit_timestamp", "off"),
    ("wal_keep_size", "128MB"),
    ("wal_receiver_status_interval", "1s"),
    ("wal_receiver_timeout", "5s"),
    // The default of 5 s would by itself double the gap of a failover.
    ("wal_retrieve_retry_interval", "100ms"),
    ("wal_sender_timeout", "5s"),
    ("wal_level", "replica"),
];

/// The server's certificate files, absolute paths readable by the owner.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerTls {
    /// Certificate chain.
    pub cert_file: PathBuf,
    /// Private key, mode 0600.
    pub key_file: PathBuf,
    /// Authorities of client certificates.
    pub ca_file: Option<PathBuf>,
}

/// Whom to stream from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// Where.
    pub source: Source,
    /// This member's slot there.
    pub slot: Option<String>,
}

/// Everything that goes into `matriarch.conf`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// The cluster configuration's `postgresql.parameters`; those in [`OWNED`] are ignored.
    pub parameters: BTreeMap<String, String>,
    /// Name of the cluster, shown in process titles; empty for none.
    pub cluster_name: String,
    /// Whom to stream from; `None` ends streaming.
    pub upstream: Option<Upstream>,
    /// This data directory's incarnation, part of the name it streams under.
    pub incarnation: Option<Incarnation>,
    /// Whose acknowledgement a commit waits for; empty for nobody's.
    pub synchronous_standby_names: String,
    /// TLS of the server; `None` leaves it to `parameters`.
    pub tls: Option<ServerTls>,
    /// The log is to be read by [`crate::server_log`] rather than by people.
    pub log_for_program: bool,
    /// Replicas copy logical slots from the primary (PostgreSQL 17 and later; before, it has no effect).
    pub sync_slots: bool,
    /// After the crash of one of its processes PostgreSQL recovers by itself instead of ending: nobody else would start it.
    pub restarts_itself: bool,
}

/// Settings that cannot be written, or a file that could not.
#[derive(Debug, thiserror::Error)]
pub enum ConfError {
    /// Not a name that PostgreSQL's parser takes.
    #[error("'{0}' in postgresql.parameters is not a setting's name; letters, digits, '_' and '.' are allowed")]
    BadName(String),
    /// A value with a zero byte.
    #[error("the value of '{0}' in postgresql.parameters contains a zero byte; remove it")]
    BadValue(String),
    /// A file operation.
    #[error(transparent)]
    File(#[from] FileError),
}

/// The `application_name` under which a member streams: its name and its data's incarnation.
pub fn application_name(instance: &Instance, incarnation: Option<&Incarnation>) -> String {
    match incarnation {
        Some(incarnation) => matriarch_core::rule::application_name(&instance.name, incarnation),
        None => instance.name.to_string(),
    }
}

/// The settings by name, as PostgreSQL will see them: defaults, then the user's, then ours.
pub fn effective(instance: &Instance, settings: &Settings) -> Result<BTreeMap<String, String>, ConfError> {
    let mut all: BTreeMap<String, String> = DEFAULTS.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
    for (name, value) in &settings.parameters {
        let name = name.to_ascii_lowercase();
        if !is_name(&name) {
            return Err(ConfError::BadName(name));
        }
        if value.contains('\0') {
            return Err(ConfError::BadValue(name));
        }
        if !OWNED.contains(&name.as_str()) {
            all.insert(name, value.clone());
        }
    }
    if all.get("wal_level").is_none_or(|level| level != "logical") {
        all.insert("wal_level".into(), "replica".into());
    }
    all.extend(ours(instance, settings).into_iter().map(|(name, value)| (name.to_owned(), value)));
    Ok(all)
}

fn ours(instance: &Instance, settings: &Settings) -> Vec<(&'static str, String)> {
    let path = |path: &Path| path.to_string_lossy().into_owned();
    let slot = settings.upstream.as_ref().and_then(|upstream| upstream.slot.clone());
    let mut ours = vec![
        ("cluster_name", settings.cluster_name.clone()),
        ("full_page_writes", "on".into()),
        ("hba_file", path(&instance.data(hba::FILE))),
        ("ident_file", path(&instance.data(hba::IDENT_FILE))),
        ("hot_standby", "on".into()),
        ("listen_addresses", instance.listen_addresses.join(",")),
        ("log_destination", "stderr".into()),
        ("logging_collector", "off".into()),
        ("port", instance.port.to_string()),
        ("primary_conninfo", primary_conninfo(instance, settings)),
        ("primary_slot_name", slot.unwrap_or_default()),
        ("recovery_target_timeline", "latest".into()),
        ("restart_after_crash", if settings.restarts_itself { "on" } else { "off" }.into()),
        ("synchronous_standby_names", settings.synchronous_standby_names.clone()),
        ("unix_socket_directories", quote_list_item(&path(&instance.run_dir))),
        ("wal_log_hints", "on".into()),
    ];
    if let Some(tls) = &settings.tls {
        ours.push(("ssl", "on".into()));
        ours.push(("ssl_cert_file", path(&tls.cert_file)));
        ours.push(("ssl_key_file", path(&tls.key_file)));
        ours.push(("ssl_ca_file", tls.ca_file.as_deref().map(path).unwrap_or_default()));
    }
    if settings.log_for_program {
        ours.push(("log_line_prefix", crate::server_log::PREFIX.into()));
    }
    if sync_slots(instance, settings) {
        // The worker that copies needs both, and a primary_slot_name.
        ours.push(("sync_replication_slots", "on".into()));
        ours.push(("hot_standby_feedback", "on".into()));
    }
    ours
}

fn sync_slots(instance: &Instance, settings: &Settings) -> bool {
    settings.sync_slots && instance.binaries.version().major >= 17
}

fn primary_conninfo(instance: &Instance, settings: &Settings) -> String {
    let Some(upstream) = &settings.upstream else { return String::new() };
    let (passfile, name) = (instance.passfile(), application_name(instance, settings.incarnation.as_ref()));
    let mut extra = vec![("passfile", passfile.to_string_lossy()), ("application_name", name.into())];
    if sync_slots(instance, settings) {
        // The walreceiver ignores it; the worker that copies slots connects there.
        extra.push(("dbname", "postgres".into()));
    }
    let extra: Vec<(&str, &str)> = extra.iter().map(|(key, value)| (*key, value.as_ref())).collect();
    upstream.source.conninfo(&instance.replication, &extra)
}

// A list of directories is split at commas unless an item is in double quotes.
pub(crate) fn quote_list_item(item: &str) -> String {
    if item.contains([',', '"', ' ']) { format!("\"{}\"", item.replace('"', "\"\"")) } else { item.to_owned() }
}

fn is_name(name: &str) -> bool {
    name.split('.').count() <= 2
        && name.split('.').all(|part| {
            part.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
                && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '$')
        })
}

/// The first line of `matriarch.conf`.
pub(crate) const HEAD: &str =
    "# Written by Matriarch and replaced without asking. Change settings in the cluster configuration.\n";

/// The text of `matriarch.conf` for [`effective`] settings.
pub fn render(effective: &BTreeMap<String, String>) -> String {
    let mut text = String::from(HEAD);
    for (name, value) in effective {
        text.push_str(&format!("{name} = {}\n", quote(value)));
    }
    text
}

/// Settings that belong to one place and one role, not to the data.
const PLACED: [&str; 17] = [
    "archive_command",
    "archive_mode",
    "listen_addresses",
    "port",
    "primary_conninfo",
    "primary_slot_name",
    "recovery_target_timeline",
    "restart_after_crash",
    "restore_command",
    "ssl",
    "ssl_ca_file",
    "ssl_cert_file",
    "ssl_key_file",
    "sync_replication_slots",
    "synchronous_standby_names",
    "unix_socket_directories",
    "log_line_prefix",
];

/// The text of `matriarch.conf` for a copy of the data in another directory that somebody starts by hand: it neither listens where
/// the member does, nor waits for voters, nor archives in its name. Where that directory will be may not be known: then PostgreSQL's own
/// `pg_hba.conf` holds. An agent that takes the directory over writes the file anew.
pub fn elsewhere(text: &str, data_dir: Option<&Path>) -> String {
    let mut kept = String::new();
    for line in text.lines() {
        let name = line.split('=').next().unwrap_or_default().trim();
        let file = match name {
            "hba_file" => Some(hba::FILE),
            "ident_file" => Some(hba::IDENT_FILE),
            _ => None,
        };
        if let Some(file) = file {
            let place = data_dir.map(|data_dir| quote(&data_dir.join(file).to_string_lossy()));
            kept.extend(place.map(|place| format!("{name} = {place}\n")));
        } else if !PLACED.contains(&name) {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    kept
}

/// Quotes a value as PostgreSQL's configuration parser reads it.
pub fn quote(value: &str) -> String {
    let mut quoted = String::with_capacity(value.len() + 2);
    quoted.push('\'');
    for c in value.chars() {
        match c {
            '\'' => quoted.push_str("''"),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            c => quoted.push(c),
        }
    }
    quoted.push('\'');
    quoted
}

/// Raises the limits that a standby must not have lower than the primary had when it wrote its WAL; returns the names
/// it raised. They come down again when the primary's new values have been replayed and the standby restarts.
pub fn clamp_for_standby(effective: &mut BTreeMap<String, String>, control: &ControlData) -> Vec<&'static str> {
    let mut raised = Vec::new();
    for (name, needed) in &control.limits {
        let default = HOT_STANDBY_LIMITS.iter().find(|(limit, _)| limit == name).map(|(_, default)| *default);
        let value = match effective.get(*name) {
            Some(text) => text.trim().parse::<u32>().ok(),
            None => default,
        };
        if value.is_some_and(|value| value < *needed) {
            effective.insert((*name).to_owned(), needed.to_string());
            raised.push(*name);
        }
    }
    raised
}

/// Writes `matriarch.conf` durably and makes sure that it is included; returns whether anything changed. A running
/// server needs a reload afterwards.
pub fn write(instance: &Instance, effective: &BTreeMap<String, String>) -> Result<bool, ConfError> {
    let written = instance.write_data(FILE, render(effective).as_bytes())?;
    Ok(include::ensure(instance)? || written)
}

/// Takes settings we own out of `postgresql.auto.conf` (left there by `ALTER SYSTEM` or `pg_basebackup -R`), where they
/// would win over ours; returns their names. The `restore_command` of a restore that is over goes as well: it names a file that
/// other members do not have. Only while PostgreSQL is stopped.
pub fn strip_auto_conf(instance: &Instance) -> Result<Vec<String>, FileError> {
    let path = instance.data("postgresql.auto.conf");
    let Ok(text) = fs::read_to_string(&path) else { return Ok(Vec::new()) };
    let mut removed = Vec::new();
    let mut kept = String::with_capacity(text.len());
    for line in text.lines() {
        let name = line.split(['=', ' ', '\t']).find(|part| !part.is_empty()).unwrap_or_default().to_ascii_lowercase();
        if OWNED.contains(&name.as_str()) || name == "restore_command" && line.contains(RESTORE_FETCH) {
            removed.push(name);
        } else {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    if !removed.is_empty() {
        instance.write_data("postgresql.auto.conf", kept.as_bytes())?;
    }
    Ok(removed)
}

/// Makes the next start a standby's.
pub fn set_standby(instance: &Instance) -> Result<(), FileError> {
    files::remove_durably(&instance.data(RECOVERY_SIGNAL))?;
    instance.write_data(STANDBY_SIGNAL, b"").map(|_| ())
}

/// Makes the next start a primary's. Only for a directory that was one, or that is new.
pub fn remove_signals(instance: &Instance) -> Result<(), FileError> {
    files::remove_durably(&instance.data(RECOVERY_SIGNAL))?;
    files::remove_durably(&instance.data(STANDBY_SIGNAL)).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_every_value() {
        assert_eq!(quote("it's"), "'it''s'");
        assert_eq!(quote("a\\b\nc"), r"'a\\b\nc'");
        assert_eq!(quote(""), "''");
    }

    #[test]
    fn a_copy_elsewhere_is_nobodys_member() {
        let text = "# ours\nmax_connections = '100'\nport = '5432'\nssl = 'on'\nssl_min_protocol_version = 'TLSv1.3'\n\
                    hba_file = '/old/matriarch_hba.conf'\nsynchronous_standby_names = 'ANY 1 (\"b\")'\narchive_mode = 'on'\n";
        let expected = "# ours\nmax_connections = '100'\nssl_min_protocol_version = 'TLSv1.3'\n\
                        hba_file = '/it''s/matriarch_hba.conf'\n";
        assert_eq!(elsewhere(text, Some(Path::new("/it's"))), expected);
        let expected = "# ours\nmax_connections = '100'\nssl_min_protocol_version = 'TLSv1.3'\n";
        assert_eq!(elsewhere(text, None), expected);
    }

    #[test]
    fn names_are_checked() {
        for good in ["work_mem", "pg_stat_statements.track", "_a$1"] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", "1a", "a b", "a=b", "a\nb", "a..b", "a.b.c", "include 'x'"] {
            assert!(!is_name(bad), "{bad}");
        }
    }
}
