//! Every key of the dynamic configuration.

use serde_json::{Map, Value};

use super::archive;
use crate::check::join;
use crate::hba::{hba_line, ident_line};
use crate::parameters;
use crate::problem::Problems;
use crate::schema::{Effect, Key, Kind, Rule, any_text, key, refused};

const DAY: f64 = 86_400.0;
const ANY_BYTES: u64 = 1 << 62;

/// The whole table.
pub(crate) const KEYS: &[Key] = &[
    key(
        "ttl",
        Kind::Seconds { min: 2.0, max: 3600.0 },
        "Life of the leader lease. When a leader falls silent under the empty rule, nobody takes over before it has run \
         out. The guard stops PostgreSQL before that.",
    )
    .default("5"),
    key(
        "suspect_after",
        Kind::Seconds { min: 0.4, max: 60.0 },
        "Under a synchronous rule: how long the leader's agent may be silent before the voters prepare to replace it, without \
         waiting for `ttl`. Where answers usually come in larger gaps it waits longer, at most three times this. A node \
         whose ports refuse connections is noticed at once, whatever this says.",
    )
    .default("1"),
    key(
        "loop_wait",
        Kind::Seconds { min: 0.1, max: 3600.0 },
        "How often slots are moved forward, and settings and certificates are checked. Matriarch acts on events, so \
         failovers do not depend on it.",
    )
    .default("10"),
    key(
        "retry_timeout",
        Kind::Seconds { min: 0.1, max: 3600.0 },
        "Accepted for configurations written for Patroni; Matriarch bounds each call by the lease instead.",
    )
    .default("10")
    .effect(Effect::Nothing),
    key(
        "maximum_lag_on_failover",
        Kind::Bytes { min: 0, max: ANY_BYTES },
        "Under the empty (asynchronous) rule: how far behind the leader's last known position a new leader may be. Under \
         a synchronous rule nothing acknowledged may be missing, whatever this says.",
    )
    .default("1048576"),
    key(
        "synchronous_mode",
        Kind::Choice(&["off", "on", "quorum"]),
        "How a commit is acknowledged. `quorum`: when any `synchronous_node_count` of the voters have flushed it. `on`: \
         when the first of them have, in the order of `tags.sync_priority`, of those that are connected. `off`: at once, \
         and a failover may lose it.",
    )
    .default("\"quorum\""),
    key(
        "synchronous_node_count",
        Kind::Integer { min: 1, max: 64 },
        "How many voters must have flushed a commit before it is acknowledged.",
    )
    .default("1"),
    key(
        "synchronous_mode_strict",
        Kind::Bool,
        "Rather block writes than acknowledge with fewer voters than `synchronous_node_count`.",
    )
    .default("false"),
    key(
        "synchronous_zones",
        Kind::Choice(&["ignore", "prefer", "require"]),
        "What `tags.zone` means for the choice of voters. `prefer`: voters are members outside the leader's zone as long \
         as there are any, so that losing its zone loses nothing acknowledged. `require`: rather block writes than \
         acknowledge them within that zone only. `ignore`: zones mean nothing.",
    )
    .default("\"prefer\""),
    key(
        "maximum_lag_on_syncnode",
        Kind::Integer { min: -1, max: ANY_BYTES as i64 },
        "Bytes that a voter may be behind the leader; one that is further behind for `shrink_delay` leaves the rule until \
         it has caught up. -1: no limit.",
    )
    .default("-1"),
    key(
        "synchronous_min_members",
        Kind::Integer { min: 0, max: 64 },
        "How many members the cluster must have had before the synchronous rule is used at all. 3 while \
         `synchronous_mode` is left out, since a pair can be safe or always writable, not both; 0 when it is given.",
    ),
    key(
        "shrink_delay",
        Kind::Seconds { min: 0.0, max: DAY },
        "How long a voter may be away before the rule shrinks to the living voters. With `synchronous_mode_strict` it \
         never shrinks below `synchronous_node_count`.",
    )
    .default("2"),
    key(
        "crash",
        Kind::Choice(&["failover", "restart"]),
        "What a leader does when its PostgreSQL dies. `failover`: gives up the lead at once when another member can take \
         over without loss. `restart`: starts it again in place.",
    )
    .default("\"failover\""),
    key(
        "primary_start_timeout",
        Kind::Seconds { min: 0.0, max: DAY },
        "How long a PostgreSQL that is started again in place may take before another member takes over. 0: not at all.",
    )
    .default("300"),
    key(
        "write_probe_timeout",
        Kind::Seconds { min: 0.0, max: 3600.0 },
        "Each second the primary's agent makes a small write durable beside the data and the WAL. One that takes longer than \
         this makes the primary give up the lead, if another member can take over without loss. 0: never.",
    )
    .default("3"),
    key(
        "primary_stop_timeout",
        Kind::Seconds { min: 0.0, max: DAY },
        "How long a clean stop may take before it is forced. 0: as long as it needs. A standby that does not take the end of the WAL is waited for switchover_hold_timeout at most, under a rule or in a switchover.",
    )
    .default("30"),
    key(
        "switchover_hold_timeout",
        Kind::Seconds { min: 0.0, max: 3600.0 },
        "How long a planned switchover waits until every proxy and pooler holds new work, and then until the transactions \
         under way have ended. When they have not, it is called off, and everything goes on as before. \
         (`matriarch failover` goes on and cuts them off.)",
    )
    .default("5"),
    key(
        "pause",
        Kind::Bool,
        "Maintenance: nothing is started, stopped or promoted by itself. Set by `matriarch pause` and `resume`.",
    )
    .default("false"),
    key(
        "member_slots_ttl",
        Kind::Seconds { min: 0.0, max: 365.0 * DAY },
        "How long the other members keep the replication slot of a member that is away.",
    )
    .default("1800"),
    key(
        "slots",
        Kind::Named { what: "a slot name", check: slot_name, keys: SLOT, rule: Some(slot_rule as Rule) },
        "Replication slots that exist on every primary. Keys are slot names. Physical ones exist on replicas too and \
         follow the primary's. Logical ones are carried over at takeovers from PostgreSQL 17 on, where replicas copy \
         them (`sync_replication_slots`, `hot_standby_feedback`); before, they begin anew on a new primary, which is logged.",
    )
    .default("{}"),
    key(
        "ignore_slots",
        Kind::Records { keys: SLOT_MATCH },
        "Slots that others own: Matriarch leaves alone each slot that fits all keys of one entry. It never drops other \
         slots on the primary; on a replica it drops those that nobody has used for `member_slots_ttl`, since they would \
         retain WAL for ever.",
    )
    .default("[]"),
    key(
        "archive",
        Kind::Section { keys: archive::ARCHIVE, rule: Some(archive::rule as Rule) },
        "Where WAL and backups go. Left out: nothing is archived, unless `postgresql.parameters` have an archive_command of \
         your own.",
    )
    .default("null"),
    key("postgresql", Kind::Section { keys: POSTGRESQL, rule: Some(retention_rule as Rule) }, "PostgreSQL on every member.")
        .effect(Effect::Mixed),
    refused(
        "check_timeline",
        "it is always on: a member on an older timeline is never promoted",
        "remove it",
        &["true"],
    ),
    refused(
        "failsafe_mode",
        "going on without the store is not supported yet",
        "remove it, or set it to false",
        &["false"],
    ),
    refused(
        "max_timelines_history",
        "the history is kept whole; shortening it is not supported yet",
        "remove it",
        &["0"],
    ),
    refused(
        "primary_race_backoff",
        "Matriarch's elections need no delay",
        "remove it",
        &["0"],
    ),
    refused("standby_cluster", "standby clusters are not supported yet", "remove it", &["{}"]),
    refused("master_start_timeout", "this is the old name of primary_start_timeout", "rename it", &[]),
    refused("master_stop_timeout", "this is the old name of primary_stop_timeout", "rename it", &[]),
    refused("citus", "Citus clusters are not supported yet", "remove it", &[]),
    refused("bootstrap", "this is a local key", "put it in the YAML file of each host", &[]),
    refused("restapi", "this is a local key", "put it in the YAML file of each host", &[]),
    refused("tags", "tags belong to one member", "put them in the YAML file of that host", &[]),
];

const POSTGRESQL: &[Key] = &[
    key(
        "parameters",
        Kind::Parameters(parameters::read_shared),
        "PostgreSQL's parameters, alike on every member. Those that need a restart are shown as `pending restart` until \
         `matriarch restart`. The parameters listed at the end of this page belong to Matriarch.",
    )
    .default("{}")
    .effect(Effect::Mixed),
    key(
        "pg_hba",
        Kind::Lines { what: "a line of pg_hba.conf", check: hba_line },
        "Lines of pg_hba.conf for every member, in order. Matriarch's own lines for replication and its agents come first.",
    )
    .default("[]"),
    key(
        "pg_ident",
        Kind::Lines { what: "a line of pg_ident.conf", check: ident_line },
        "Lines of pg_ident.conf for every member, in order.",
    )
    .default("[]"),
    key(
        "use_pg_rewind",
        Kind::Bool,
        "Bring a diverged member back with pg_rewind; otherwise, or when that fails, it is cloned again.",
    )
    .default("true"),
    key(
        "use_slots",
        Kind::Bool,
        "Keep a replication slot for each other member on every member, so that a primary, also a new one, retains the \
         WAL that the others still need. `false` does without them only where one voter's word is enough: with \
         `synchronous_node_count` above 1, or `archive.durability`, they are kept, since PostgreSQL would count a replica \
         twice whose broken connection lingers beside its new one.",
    )
    .default("true"),
    key(
        "max_slot_wal_keep_size",
        Kind::Bytes { min: 1 << 24, max: ANY_BYTES },
        "How much WAL slots may retain on the primary before the member behind must be cloned again, so that an absent \
         member cannot fill the disk. `parameters.max_slot_wal_keep_size` says the same.",
    )
    .default("17179869184"),
    key(
        "remove_data_directory_on_rewind_failure",
        Kind::Bool,
        "Clone a member again when pg_rewind fails, or its directory cannot be used. Off: leave it for a person to look at.",
    )
    .default("true"),
    key(
        "remove_data_directory_on_diverged_timelines",
        Kind::Bool,
        "Clone a member again when it has diverged and pg_rewind cannot be used. Off: leave it for a person to look at.",
    )
    .default("true"),
    refused(
        "recovery_conf",
        "recovery settings are parameters since PostgreSQL 12",
        "put restore_command under `parameters`",
        &["{}"],
    ),
    refused("create_replica_methods", "other ways to clone are not supported yet", "remove it", &["[\"basebackup\"]", "[]"]),
    refused("basebackup", "options for the clone are not supported yet", "remove it", &["[]", "{}"]),
    refused("callbacks", "callbacks are not supported yet", "remove it", &["{}"]),
    refused("pre_promote", "a check before promotion is not supported yet", "remove it", &[]),
    refused("before_stop", "a command before the stop is not supported yet", "remove it", &[]),
    refused("custom_conf", "postgresql.conf itself stays yours", "include the file there", &[]),
    refused("authentication", "passwords do not belong in the store", "put it in the YAML file of each host", &[]),
    refused("listen", "it differs from member to member", "put it in the YAML file of each host", &[]),
    refused("connect_address", "it differs from member to member", "put it in the YAML file of each host", &[]),
    refused("data_dir", "it belongs to one host", "put it in the YAML file of that host", &[]),
    refused("bin_dir", "it belongs to one host", "put it in the YAML file of that host", &[]),
];

const SLOT: &[Key] = &[
    key("type", Kind::Choice(&["physical", "logical"]), "Kind of slot; `logical` when a plugin is given."),
    key(
        "database",
        Kind::Text { what: "a database name", check: crate::schema::one_line },
        "Database of a logical slot.",
    ),
    key(
        "plugin",
        Kind::Text { what: "a plugin name", check: slot_name },
        "Output plugin of a logical slot, as in pgoutput.",
    ),
    refused("cluster_type", "standby clusters are not supported yet", "remove it", &["\"primary\""]),
];

const SLOT_MATCH: &[Key] = &[
    key("name", Kind::Text { what: "a slot name", check: any_text }, "Name of the slot."),
    key("type", Kind::Choice(&["physical", "logical"]), "Kind of slot."),
    key("database", Kind::Text { what: "a database name", check: any_text }, "Database of a logical slot."),
    key("plugin", Kind::Text { what: "a plugin name", check: any_text }, "Output plugin of a logical slot."),
];

/// PostgreSQL's rule for the names of slots.
pub(crate) fn slot_name(name: &str) -> Result<(), String> {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
    if (1..=63).contains(&name.len()) && name.bytes().all(fits) {
        Ok(())
    } else {
        Err("PostgreSQL allows 1 to 63 of a-z, 0-9 and '_'".to_owned())
    }
}

fn slot_rule(slot: &Map<String, Value>, path: &str, problems: &mut Problems) {
    let given = |key: &str| slot.get(key).is_some_and(|value| !value.is_null());
    let physical = slot.get("type").and_then(Value::as_str).map_or(!given("plugin"), |kind| kind == "physical");
    for key in ["database", "plugin"] {
        if physical && given(key) {
            problems.add(join(path, key), "a physical slot has none", "remove it, or set `type: logical`");
        } else if !physical && !given(key) {
            problems.add(
                join(path, key),
                "a logical slot needs it",
                "add it, as in `database: app` and `plugin: pgoutput`",
            );
        }
    }
}

fn retention_rule(postgresql: &Map<String, Value>, path: &str, problems: &mut Problems) {
    let in_parameters = postgresql
        .get("parameters")
        .and_then(Value::as_object)
        .and_then(|map| map.keys().find(|name| name.eq_ignore_ascii_case("max_slot_wal_keep_size")));
    if let Some(name) = in_parameters
        && postgresql.get("max_slot_wal_keep_size").and_then(Value::as_u64) != Some(17_179_869_184)
    {
        problems.add(
            join(&join(path, "parameters"), name),
            "it is given twice: here and as postgresql.max_slot_wal_keep_size",
            "keep one of them",
        );
    }
}

/// Across keys of the whole: a synchronous rule and PostgreSQL's own setting must not contradict each other.
pub(crate) fn rule(config: &Map<String, Value>, path: &str, problems: &mut Problems) {
    archive::parameters_rule(config, path, problems);
    let synchronous = config.get("synchronous_mode").and_then(Value::as_str) != Some("off");
    let durable = archive::durability::is_waited_for(config);
    let commit = config
        .get("postgresql")
        .and_then(|postgresql| postgresql.get("parameters"))
        .and_then(Value::as_object)
        .and_then(|map| map.iter().find(|(name, _)| name.eq_ignore_ascii_case("synchronous_commit")));
    if let Some((name, Value::String(value))) = commit
        && (synchronous || durable)
        && ["off", "local", "remote_write", "false", "no", "0"].contains(&value.to_ascii_lowercase().as_str())
    {
        let (who, promise, way_out) = match synchronous {
            true => ("a voter has flushed", "synchronous_mode", "`synchronous_mode: \"off\"`"),
            false => ("the archive holds the commit", "archive.durability", "`archive.durability: none`"),
        };
        problems.add(
            join(&join(&join(path, "postgresql"), "parameters"), name),
            format!("'{value}' does not wait until {who}, as {promise} promises"),
            format!("remove it (roles and sessions can still choose it for themselves), or set {way_out}"),
        );
    }
}
