//! One look at a running server, and what it means for decisions.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use matriarch_core::decide::{Millis, Running};
use matriarch_core::{Lsn, MemberName};
use matriarch_dcs::boot_clock_ms;
use matriarch_postgres::sql::PendingRestart;
use matriarch_postgres::{Instance, Probe, Sql, SqlError};

use crate::durability::names;

/// How long PostgreSQL may take to say how it is.
const PROBE_LIMIT: Duration = Duration::from_secs(3);
/// How long a replica that receives nothing may take to replay its local WAL before we ask again.
const REPLAY_LIMIT: Duration = Duration::from_millis(500);

/// One look at a running server.
pub struct Sighting {
    /// When it began (boot clock, ms).
    pub begun: Millis,
    /// The connection it was made over, for the next one.
    pub sql: Option<Arc<Sql>>,
    /// What it said.
    pub probe: Result<Probe, SqlError>,
    /// End of the WAL of a replica that receives nothing, once replayed.
    pub end: Option<Lsn>,
    /// Settings that wait for a restart.
    pub pending_restart: Option<Vec<PendingRestart>>,
}

/// What a probe means for decisions. `upstreams` tells whom the connection strings of this process's making name.
pub fn running(probe: &Probe, end: Option<Lsn>, upstreams: &BTreeMap<String, MemberName>, me: &MemberName) -> Running {
    let upstream = (probe.in_recovery && !probe.primary_conninfo.is_empty()).then(|| {
        // Another connection string still means that it streams from somebody.
        upstreams.get(&probe.primary_conninfo).unwrap_or(me).clone()
    });
    let replicas = probe
        .replication
        .iter()
        .filter(|row| row.state.as_deref() == Some("streaming"))
        .filter_map(|row| Some((row.application_name.clone(), row.flush_lsn?)))
        .collect();
    Running {
        in_recovery: probe.in_recovery,
        timeline: probe.timeline,
        // A primary's flushed position covers every commit that was or can be acknowledged; what is inserted and
        // not flushed may stay so for long on an idle server.
        lsn: end.unwrap_or_else(|| probe.position()),
        receiving: probe.receiver.is_some(),
        streaming: probe.receiver.as_ref().is_some_and(|receiver| receiver.status == "streaming"),
        caught_up: end.is_some(),
        upstream,
        // Whom commits wait for beside the rule's voters is no matter of decisions.
        synchronous_standby_names: names::rule(&probe.synchronous_standby_names),
        replicas,
    }
}

/// Looks. With `pending`, also for settings that wait for a restart.
pub async fn sight(instance: &Instance, sql: Option<Arc<Sql>>, pending: bool) -> Sighting {
    let begun = boot_clock_ms();
    let failed = |error| Sighting { begun, sql: None, probe: Err(error), end: None, pending_restart: None };
    let sql = match sql.filter(|sql| !sql.is_closed()) {
        Some(sql) => sql,
        None => match Sql::connect(instance).await {
            Ok(sql) => Arc::new(sql),
            Err(error) => return failed(error),
        },
    };
    let probe = match sql.probe(PROBE_LIMIT).await {
        Ok(probe) => probe,
        Err(error) => return failed(error),
    };
    let alone = probe.in_recovery && probe.receiver.is_none() && probe.primary_conninfo.is_empty();
    let end = if alone { settled_end(&sql).await } else { None };
    let pending_restart = if pending { sql.pending_restart().await.ok() } else { None };
    Sighting { begun, sql: Some(sql), probe: Ok(probe), end, pending_restart }
}

/// A walreceiver that still tries to connect is invisible in its view and could yet receive; only when its process is
/// gone is the end of the WAL final.
async fn settled_end(sql: &Sql) -> Option<Lsn> {
    if sql.walreceiver_pid().await.ok()?.is_some() {
        return None;
    }
    sql.flushed_end(REPLAY_LIMIT).await.ok()
}
