//! The dynamic configuration: one JSON document in the store's `config`, the same for every member.

pub(crate) mod archive;
pub(crate) mod dumps;
pub(crate) mod keys;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::check;
use crate::problem::Problems;
use crate::units::as_seconds;

/// The dynamic configuration, every key filled in.
///
/// Meanings, ranges and defaults: `docs/configuration.md`, which is made from the same table as the defaults here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DynamicConfig {
    /// Life of the leader lease.
    #[serde(with = "as_seconds")]
    pub ttl: Duration,
    /// How long a leader may be silent before members pledge against it.
    #[serde(with = "as_seconds")]
    pub suspect_after: Duration,
    /// Longest pause between two looks at the cluster.
    #[serde(with = "as_seconds")]
    pub loop_wait: Duration,
    /// Accepted, without effect.
    #[serde(with = "as_seconds")]
    pub retry_timeout: Duration,
    /// Bytes a new leader may be behind under the empty rule.
    pub maximum_lag_on_failover: u64,
    /// How a commit is acknowledged.
    pub synchronous_mode: SynchronousMode,
    /// Voters that must have flushed a commit; at least 1. See [`DynamicConfig::voters_needed`].
    pub synchronous_node_count: u32,
    /// Block rather than shrink below `synchronous_node_count`.
    pub synchronous_mode_strict: bool,
    /// What zones mean for the choice of voters.
    pub synchronous_zones: SynchronousZones,
    /// Bytes a voter may be behind; -1: no limit. See [`DynamicConfig::voter_lag`].
    pub maximum_lag_on_syncnode: i64,
    /// Members the cluster must have had before the synchronous rule is used.
    pub synchronous_min_members: u32,
    /// How long a voter may be away before the rule shrinks.
    #[serde(with = "as_seconds")]
    pub shrink_delay: Duration,
    /// What a leader does when its PostgreSQL dies.
    pub crash: Crash,
    /// How long a restart in place may take; zero: no restart in place.
    #[serde(with = "as_seconds")]
    pub primary_start_timeout: Duration,
    /// How long a write on the primary's volumes may take before it gives up the lead; zero: for ever.
    #[serde(with = "as_seconds")]
    pub write_probe_timeout: Duration,
    /// How long a clean stop may take; zero: no limit. See [`DynamicConfig::stop_timeout`].
    #[serde(with = "as_seconds")]
    pub primary_stop_timeout: Duration,
    /// How long a switchover waits for routers and for transactions, before it is called off.
    #[serde(with = "as_seconds")]
    pub switchover_hold_timeout: Duration,
    /// Nothing is started, stopped or promoted by itself.
    pub pause: bool,
    /// How long the slot of an absent member is kept.
    #[serde(with = "as_seconds")]
    pub member_slots_ttl: Duration,
    /// Slots that exist on every primary, by name.
    pub slots: BTreeMap<String, Slot>,
    /// Slots that others own.
    pub ignore_slots: Vec<SlotMatch>,
    /// Where WAL and backups go; nothing is archived without it.
    pub archive: Option<archive::Archive>,
    /// PostgreSQL on every member.
    pub postgresql: SharedPostgres,
}

/// How a commit is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SynchronousMode {
    /// At once.
    Off,
    /// When the first `synchronous_node_count` connected voters, by priority, have flushed it.
    On,
    /// When any `synchronous_node_count` voters have flushed it.
    Quorum,
}

/// What zones mean for the choice of voters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SynchronousZones {
    /// Nothing.
    Ignore,
    /// Voters outside the leader's zone, as long as there are any.
    Prefer,
    /// Rather block writes than acknowledge within one zone.
    Require,
}

/// What a leader does when its PostgreSQL dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Crash {
    /// Gives up the lead at once when another can take over without loss.
    Failover,
    /// Starts it again in place.
    Restart,
}

/// A slot that exists on every primary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "SlotKeys", into = "SlotKeys")]
pub enum Slot {
    /// A physical slot.
    Physical,
    /// A logical slot.
    Logical {
        /// Its database.
        database: String,
        /// Its output plugin.
        plugin: String,
    },
}

#[derive(Serialize, Deserialize)]
struct SlotKeys {
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<SlotKind>,
    #[serde(skip_serializing_if = "Option::is_none")]
    database: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    plugin: Option<String>,
}

/// Kind of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SlotKind {
    /// For streaming replicas.
    Physical,
    /// For logical decoding.
    Logical,
}

/// Fits a slot when every key that is given fits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotMatch {
    /// Name of the slot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Kind of slot.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<SlotKind>,
    /// Database of a logical slot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub database: Option<String>,
    /// Output plugin of a logical slot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plugin: Option<String>,
}

/// PostgreSQL on every member.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SharedPostgres {
    /// Parameters as PostgreSQL reads them (`true` has become `on`), by name as written.
    pub parameters: BTreeMap<String, String>,
    /// Lines of `pg_hba.conf`.
    pub pg_hba: Vec<String>,
    /// Lines of `pg_ident.conf`.
    pub pg_ident: Vec<String>,
    /// Bring a diverged member back with `pg_rewind`.
    pub use_pg_rewind: bool,
    /// Keep a replication slot for each member.
    pub use_slots: bool,
    /// Bytes of WAL that slots may retain. `parameters` may hold it too and then wins.
    pub max_slot_wal_keep_size: u64,
    /// Clone again when `pg_rewind` fails.
    pub remove_data_directory_on_rewind_failure: bool,
    /// Clone again when diverged and `pg_rewind` cannot be used.
    pub remove_data_directory_on_diverged_timelines: bool,
}

impl From<SlotKeys> for Slot {
    fn from(keys: SlotKeys) -> Slot {
        match (keys.kind, keys.database, keys.plugin) {
            (Some(SlotKind::Logical) | None, Some(database), Some(plugin)) => Slot::Logical { database, plugin },
            _ => Slot::Physical,
        }
    }
}

impl From<Slot> for SlotKeys {
    fn from(slot: Slot) -> SlotKeys {
        match slot {
            Slot::Physical => SlotKeys { kind: Some(SlotKind::Physical), database: None, plugin: None },
            Slot::Logical { database, plugin } => {
                SlotKeys { kind: Some(SlotKind::Logical), database: Some(database), plugin: Some(plugin) }
            }
        }
    }
}

impl Default for DynamicConfig {
    fn default() -> Self {
        DynamicConfig::from_json(&Value::Object(Map::new())).expect("the defaults in the key table are valid")
    }
}

impl DynamicConfig {
    /// Reads the document kept in the store. All problems are reported, not only the first.
    pub fn from_json(value: &Value) -> Result<DynamicConfig, Problems> {
        let mut problems = Problems::default();
        let normal = normalize(value, "", &mut problems);
        problems.or(())?;
        from_normal(normal)
    }

    /// The whole configuration as a document that reads back as the same; every key is in it.
    pub fn to_json(&self) -> Value {
        serde_json::to_value(self).expect("every key of the configuration has a JSON form")
    }

    /// How many voters must have flushed a commit: 0 when asynchronous.
    pub fn voters_needed(&self) -> u32 {
        match self.synchronous_mode {
            SynchronousMode::Off => 0,
            SynchronousMode::On | SynchronousMode::Quorum => self.synchronous_node_count,
        }
    }

    /// Whether members stream over slots of their own, which `postgresql.use_slots: false` does without where that is safe: a slot
    /// has one walsender at a time. Without it, one that lingers in a broken connection counts beside the new one of the same
    /// replica, and PostgreSQL takes a commit for flushed by two.
    pub fn member_slots(&self) -> bool {
        self.postgresql.use_slots
            || self.voters_needed() > 1
            || self.archive.as_ref().is_some_and(|archive| archive.durability != archive::Durability::None)
    }

    /// Bytes that a voter may be behind, none when there is no limit.
    pub fn voter_lag(&self) -> Option<u64> {
        u64::try_from(self.maximum_lag_on_syncnode).ok()
    }

    /// How long a clean stop may take, none when it may take as long as it needs.
    pub fn stop_timeout(&self) -> Option<Duration> {
        (!self.primary_stop_timeout.is_zero()).then_some(self.primary_stop_timeout)
    }
}

impl SlotMatch {
    /// Does this entry cover the slot?
    pub fn covers(&self, name: &str, kind: SlotKind, database: Option<&str>, plugin: Option<&str>) -> bool {
        self.name.as_deref().is_none_or(|wanted| wanted == name)
            && self.kind.is_none_or(|wanted| wanted == kind)
            && self.database.as_deref().is_none_or(|wanted| Some(wanted) == database)
            && self.plugin.as_deref().is_none_or(|wanted| Some(wanted) == plugin)
    }
}

/// Everything that is wrong with a dynamic configuration.
pub fn validate(value: &Value) -> Vec<crate::Problem> {
    let mut problems = Problems::default();
    normalize(value, "", &mut problems);
    problems.0
}

/// Checks the document found at `path` (empty for one of its own) and fills in defaults.
pub(crate) fn normalize(value: &Value, path: &str, problems: &mut Problems) -> Value {
    let mut normal = check::section(keys::KEYS, Some(keys::rule), value, path, problems);
    if let Value::Object(map) = &mut normal
        && map.get("synchronous_min_members").is_some_and(Value::is_null)
    {
        // Whoever asks for a rule gets it from the first replica on; the default waits for a third member.
        let asked = value.get("synchronous_mode").is_some_and(|mode| !mode.is_null());
        map.insert("synchronous_min_members".to_owned(), if asked { 0 } else { 3 }.into());
    }
    normal
}

fn from_normal(normal: Value) -> Result<DynamicConfig, Problems> {
    serde_json::from_value(normal).map_err(|error| {
        let mut problems = Problems::default();
        problems.add("", format!("it passed the checks but cannot be read: {error}"), "report this as a bug");
        problems
    })
}
