//! Replication slots: made, moved, dropped.

use std::time::Duration;

use matriarch_core::Lsn;

use super::{QUICK, Sql, SqlError, lsn_literal};
use crate::instance::Instance;
use crate::roles::quote_literal;

/// Making a logical slot waits for the transactions under way to end.
const LOGICAL_LIMIT: Duration = Duration::from_secs(20);

/// A logical slot to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogicalSlot {
    /// Its name.
    pub name: String,
    /// Its database, which must exist.
    pub database: String,
    /// Its output plugin.
    pub plugin: String,
}

impl LogicalSlot {
    /// Creates the slot on a primary, if there is none of that name; true when it was created. From PostgreSQL 17 on
    /// it is one that replicas may copy (`failover`). On a connection of its own, to the slot's database.
    pub async fn create(&self, instance: &Instance) -> Result<bool, SqlError> {
        let sql = Sql::connect_to(instance, &self.database).await?;
        let name = quote_literal(&self.name);
        let failover = if instance.binaries.version().major >= 17 { ", false, false, true" } else { "" };
        let query = format!(
            "SELECT pg_create_logical_replication_slot({name}, {}{failover}) \
             WHERE NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = {name})",
            quote_literal(&self.plugin)
        );
        Ok(!sql.query("create a logical replication slot", &query, LOGICAL_LIMIT).await?.is_empty())
    }
}

impl Sql {
    /// Creates a physical slot that holds WAL from now on, if there is none of that name; also on a standby.
    pub async fn create_slot(&self, name: &str) -> Result<(), SqlError> {
        let name = quote_literal(name);
        let query = format!(
            "SELECT pg_create_physical_replication_slot({name}, true) \
             WHERE NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = {name})"
        );
        self.query("create a replication slot", &query, QUICK).await.map(|_| ())
    }

    /// Drops a slot that nobody uses; true when there was one. A slot in use stays.
    pub async fn drop_slot(&self, name: &str) -> Result<bool, SqlError> {
        let query = format!(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots \
             WHERE slot_name = {} AND NOT active",
            quote_literal(name)
        );
        Ok(!self.query("drop a replication slot", &query, QUICK).await?.is_empty())
    }

    /// Moves an unused physical slot forward to `lsn`, never backward, and never past the start of the last checkpoint:
    /// that WAL is kept anyhow, and a member that must be rewound to this one reads it from there.
    pub async fn advance_slot(&self, name: &str, lsn: Lsn) -> Result<(), SqlError> {
        let query = format!(
            "SELECT pg_replication_slot_advance(slot_name, target) FROM pg_replication_slots, \
             (SELECT least({lsn}::pg_lsn, redo_lsn, CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() \
             ELSE pg_current_wal_flush_lsn() END) AS target FROM pg_control_checkpoint()) t \
             WHERE slot_name = {} AND NOT active AND slot_type = 'physical' AND restart_lsn < target",
            quote_literal(name),
            lsn = lsn_literal(lsn),
        );
        self.query("advance a replication slot", &query, QUICK).await.map(|_| ())
    }
}
