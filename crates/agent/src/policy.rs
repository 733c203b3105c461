//! From configuration to what decisions and PostgreSQL need.

use std::collections::BTreeMap;

use matriarch_config::{DynamicConfig, SynchronousMode, SynchronousZones};
use matriarch_core::decide::{CrashPolicy, Millis, Policy, Synchronous, Zones};

use crate::options::Options;

/// Life of the leader lease in milliseconds.
pub fn ttl(config: &DynamicConfig) -> Millis {
    config.ttl.as_millis() as Millis
}

/// How long a leader may be silent, in milliseconds.
pub fn suspect_after(config: &DynamicConfig) -> Millis {
    config.suspect_after.as_millis() as Millis
}

/// What decisions need to know of both configurations.
pub fn policy(options: &Options, config: &DynamicConfig) -> Policy {
    let tag = |name: &str| options.tags.get(name);
    let nofailover = tag("nofailover").is_some_and(|value| value == &serde_json::Value::Bool(true));
    let priority = tag("failover_priority").and_then(serde_json::Value::as_i64).unwrap_or(1);
    Policy {
        me: options.name().clone(),
        ttl: ttl(config),
        paused: config.pause,
        // A start in place that may take no time at all is none.
        crash: match config.crash {
            matriarch_config::Crash::Restart if !config.primary_start_timeout.is_zero() => CrashPolicy::Restart,
            _ => CrashPolicy::Failover,
        },
        synchronous: Synchronous {
            needed: config.voters_needed(),
            strict: config.synchronous_mode_strict,
            from_members: config.synchronous_min_members as usize,
            first: config.synchronous_mode == SynchronousMode::On,
            zones: match config.synchronous_zones {
                SynchronousZones::Ignore => Zones::Ignore,
                SynchronousZones::Prefer => Zones::Prefer,
                SynchronousZones::Require => Zones::Require,
            },
            max_lag: config.voter_lag(),
        },
        zone: tag("zone").and_then(serde_json::Value::as_str).map(str::to_owned),
        shrink_delay: config.shrink_delay.as_millis() as Millis,
        maximum_lag_on_failover: config.maximum_lag_on_failover,
        start_timeout: start_timeout(config),
        stall_limit: (!config.write_probe_timeout.is_zero())
            .then_some(config.write_probe_timeout.as_millis() as Millis),
        use_rewind: config.postgresql.use_pg_rewind,
        clone_after_rewind: config.postgresql.remove_data_directory_on_rewind_failure,
        clone_diverged: config.postgresql.remove_data_directory_on_diverged_timelines,
        may_lead: !nofailover && priority > 0,
        from_archive: options.from_archive(),
        hold_timeout: config.switchover_hold_timeout.as_millis() as Millis,
        bootstrap_config: options.bootstrap_config.as_ref().map(ToString::to_string),
    }
}

/// With 0 nothing is started in place while another member can take over; what is started because nobody can, gets
/// the time it usually gets.
fn start_timeout(config: &DynamicConfig) -> Millis {
    let wanted = config.primary_start_timeout.as_millis() as Millis;
    if wanted > 0 { wanted } else { DynamicConfig::default().primary_start_timeout.as_millis() as Millis }
}

/// Logical slots are to be on replicas too.
pub fn sync_slots(config: &DynamicConfig) -> bool {
    config.slots.values().any(|slot| matches!(slot, matriarch_config::Slot::Logical { .. }))
}

/// PostgreSQL's parameters as the cluster configuration asks for them.
pub fn parameters(config: &DynamicConfig) -> BTreeMap<String, String> {
    let mut parameters = config.postgresql.parameters.clone();
    let keep = config.postgresql.max_slot_wal_keep_size / (1024 * 1024);
    parameters.entry("max_slot_wal_keep_size".to_owned()).or_insert_with(|| format!("{keep}MB"));
    parameters
}

/// The first major that keeps WAL summaries.
const SUMMARIES_SINCE: u32 = 17;

/// How PostgreSQL hands its WAL over, and, if it streams from nobody, where it gets it from. A member that streams does not
/// ask the archive: it would do so each time its stream breaks, and during an outage of the store a takeover would wait for that.
pub fn archiving(options: &Options, config: &DynamicConfig, parameters: &mut BTreeMap<String, String>) {
    let Some(archive) = &config.archive else { return };
    parameters.retain(|name, _| !name.eq_ignore_ascii_case("archive_library"));
    parameters.insert("archive_mode".to_owned(), "on".to_owned());
    parameters.insert("archive_command".to_owned(), format!("{} %p", options.wal_command("wal-push")));
    let is_readable = archive.encryption.recipients.is_empty() || archive.encryption.identity_file.is_some();
    if options.from_archive() && is_readable {
        let fetch = format!("{} %f %p", options.wal_command("wal-fetch"));
        default(parameters, "restore_command", &fetch);
    }
    if options.instance.binaries.version().major >= SUMMARIES_SINCE {
        // Incremental backups then read only the blocks that were changed.
        default(parameters, "summarize_wal", "on");
    }
}

/// What holds unless somebody says otherwise, in whatever case.
fn default(parameters: &mut BTreeMap<String, String>, name: &str, value: &str) {
    if !parameters.keys().any(|known| known.eq_ignore_ascii_case(name)) {
        parameters.insert(name.to_owned(), value.to_owned());
    }
}

/// What a member tagged `nostream` needs beside: it asks the archive each time, which is a program to start, so it asks
/// less often than a replica looks for its stream.
pub fn from_archive(parameters: &mut BTreeMap<String, String>) {
    default(parameters, "wal_retrieve_retry_interval", "5s");
}

#[cfg(test)]
mod tests;
