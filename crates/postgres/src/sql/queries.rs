//! What the agent asks of PostgreSQL besides the probe.

use std::collections::BTreeMap;
use std::time::Duration;

use matriarch_core::Lsn;
use tokio::time::{Instant, sleep};

use super::{QUICK, Sql, SqlError};
use crate::roles::{quote_identifier, quote_literal};

/// PostgreSQL tells nobody when a promotion is done or replay stands still, so these are asked for at this pace; each
/// question costs some 50 microseconds.
const PACE: Duration = Duration::from_millis(5);
/// So much of a segment is sent again in no time.
const HARDLY_USED: u32 = 1024 * 1024;

/// A setting that waits for a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingRestart {
    /// Its name.
    pub name: String,
    /// The value in force.
    pub current: String,
    /// The value in the files; `None` when it was removed from them.
    pub new: Option<String>,
}

/// A line of a configuration file that PostgreSQL does not accept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigurationError {
    /// The file, when PostgreSQL tells.
    pub file: String,
    /// The line.
    pub line: u32,
    /// The setting, for settings.
    pub name: Option<String>,
    /// What is wrong.
    pub error: String,
}

impl std::fmt::Display for ConfigurationError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if !self.file.is_empty() {
            write!(f, "{}", self.file)?;
            if self.line > 0 {
                write!(f, ", line {}", self.line)?;
            }
            f.write_str(": ")?;
        }
        f.write_str(&self.error)
    }
}

impl Sql {
    /// Promotes a standby and returns once it accepts writes.
    pub async fn promote(&self, limit: Duration) -> Result<(), SqlError> {
        let (what, end) = ("promote itself", Instant::now() + limit);
        // With wait => true, pg_promote looks only every 100 ms.
        self.query(what, "SELECT pg_promote(false)", QUICK).await?;
        while self.single(what, "SELECT pg_is_in_recovery()").await?.as_deref() != Some("f") {
            if Instant::now() >= end {
                return Err(SqlError::Timeout { what, limit });
            }
            sleep(PACE).await;
        }
        Ok(())
    }

    /// Runs a CHECKPOINT (a restartpoint on a standby).
    pub async fn checkpoint(&self, limit: Duration) -> Result<(), SqlError> {
        self.query("write a checkpoint", "CHECKPOINT", limit).await.map(|_| ())
    }

    /// Begins a new segment of WAL unless the one in use has only just begun, and waits until synchronous standbys have the
    /// end of the one before, for `limit` at most. A standby that turns to another primary is sent its segment from the
    /// beginning, twice when the timeline changes in it, and confirms nothing before.
    pub async fn begin_segment(&self, limit: Duration) -> Result<(), SqlError> {
        let (what, end) = ("begin a segment of WAL", Instant::now() + limit);
        let switch = format!(
            "SELECT CASE WHEN (pg_walfile_name_offset(pg_current_wal_insert_lsn())).file_offset > {HARDLY_USED} \
             THEN pg_switch_wal() END"
        );
        if self.single(what, &switch).await?.is_none() {
            return Ok(());
        }
        // The switch itself ends before the rest of its segment.
        let Some(begun) = self.single(what, "SELECT pg_current_wal_flush_lsn()").await? else { return Ok(()) };
        let behind = format!(
            "SELECT count(*) FROM pg_stat_replication WHERE sync_state IN ('sync', 'quorum') AND flush_lsn < {}",
            quote_literal(&begun)
        );
        while self.single(what, &behind).await?.as_deref() != Some("0") && Instant::now() < end {
            sleep(PACE).await;
        }
        Ok(())
    }

    /// Makes PostgreSQL read its configuration files again. It happens shortly after; see [`Sql::configuration_errors`]
    /// and [`Sql::hba_errors`] for what it did not accept.
    pub async fn reload(&self) -> Result<(), SqlError> {
        self.query("reload its configuration", "SELECT pg_reload_conf()", QUICK).await.map(|_| ())
    }

    /// Settings that wait for a restart.
    pub async fn pending_restart(&self) -> Result<Vec<PendingRestart>, SqlError> {
        let query = "SELECT s.name, current_setting(s.name), \
                     (SELECT f.setting FROM pg_file_settings f WHERE f.name = s.name ORDER BY seqno DESC LIMIT 1) \
                     FROM pg_settings s WHERE s.pending_restart ORDER BY s.name";
        let rows = self.query("list settings that wait for a restart", query, QUICK).await?;
        Ok(rows
            .into_iter()
            .filter_map(|row| {
                let [name, current, new] = <[_; 3]>::try_from(row).ok()?;
                Some(PendingRestart { name: name?, current: current.unwrap_or_default(), new })
            })
            .collect())
    }

    /// The values in force of some settings, as `SHOW` prints them; unknown names are left out.
    pub async fn settings(&self, names: &[&str]) -> Result<BTreeMap<String, String>, SqlError> {
        let names: Vec<String> = names.iter().map(|name| quote_literal(name)).collect();
        if names.is_empty() {
            return Ok(BTreeMap::new());
        }
        let query = format!("SELECT name, current_setting(name) FROM pg_settings WHERE name IN ({})", names.join(", "));
        let rows = self.query("show its settings", &query, QUICK).await?;
        Ok(rows
            .into_iter()
            .filter_map(|row| {
                let [name, value] = <[_; 2]>::try_from(row).ok()?;
                Some((name?, value?))
            })
            .collect())
    }

    /// Lines of the configuration files that a reload would not accept. Settings that only wait for a restart are no
    /// errors.
    pub async fn configuration_errors(&self) -> Result<Vec<ConfigurationError>, SqlError> {
        self.errors(
            "check its configuration files",
            "SELECT f.sourcefile, f.sourceline, f.name, f.error FROM pg_file_settings f \
             LEFT JOIN pg_settings s ON s.name = f.name \
             WHERE f.error IS NOT NULL AND NOT (f.error = 'setting could not be applied' \
             AND coalesce(s.context = 'postmaster', false)) ORDER BY f.seqno",
        )
        .await
    }

    /// Lines of the `pg_hba` file, as it is on disk, that PostgreSQL does not accept; with one of them it keeps all the
    /// old rules.
    pub async fn hba_errors(&self) -> Result<Vec<ConfigurationError>, SqlError> {
        let file = if self.server().version_num >= 160_000 { "file_name" } else { "current_setting('hba_file')" };
        self.errors(
            "check its pg_hba rules",
            &format!(
                "SELECT {file}, line_number, NULL, error FROM pg_hba_file_rules WHERE error IS NOT NULL \
                 ORDER BY line_number"
            ),
        )
        .await
    }

    /// Likewise of the `pg_ident` file; PostgreSQL tells from 15 on, before there are never any.
    pub async fn ident_errors(&self) -> Result<Vec<ConfigurationError>, SqlError> {
        let file = match self.server().version_num {
            ..150_000 => return Ok(Vec::new()),
            150_000..160_000 => "current_setting('ident_file')",
            _ => "file_name",
        };
        self.errors(
            "check its pg_ident maps",
            &format!(
                "SELECT {file}, line_number, NULL, error FROM pg_ident_file_mappings WHERE error IS NOT NULL \
                 ORDER BY line_number"
            ),
        )
        .await
    }

    /// The process of the walreceiver, also while it still tries to connect (when `pg_stat_wal_receiver` is empty). One
    /// that hangs in a dead connection is ended by [`crate::process::terminate`]; `pg_terminate_backend` cannot.
    pub async fn walreceiver_pid(&self) -> Result<Option<u32>, SqlError> {
        let query = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'walreceiver'";
        let found = self.single("name its walreceiver", query).await?;
        Ok(found.and_then(|pid| pid.parse().ok()))
    }

    /// Waits until the walreceiver is gone (after `primary_conninfo` was emptied and reloaded); its last flush then
    /// sends no reply any more.
    pub async fn walreceiver_gone(&self, limit: Duration) -> Result<(), SqlError> {
        let end = Instant::now() + limit;
        while self.walreceiver_pid().await?.is_some() {
            if Instant::now() >= end {
                return Err(SqlError::Timeout { what: "end its walreceiver", limit });
            }
            sleep(PACE).await;
        }
        Ok(())
    }

    /// The end of the WAL that a standby has flushed; call it when no walreceiver runs.
    ///
    /// `pg_last_wal_receive_lsn()` is exact but forgets at a restart. Without it, the end is known once replay has
    /// consumed the local files: the startup process then waits for WAL from elsewhere. Replay that is paused or
    /// delayed never gets there, and this fails after `limit`.
    pub async fn flushed_end(&self, limit: Duration) -> Result<Lsn, SqlError> {
        let (what, end) = ("find the end of its WAL", Instant::now() + limit);
        let query = "SELECT greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()), \
                     pg_last_wal_receive_lsn() IS NOT NULL OR EXISTS (SELECT FROM pg_stat_activity \
                     WHERE backend_type = 'startup' AND wait_event IN ('RecoveryWalStream', 'RecoveryRetrieveRetryInterval'))";
        let mut before = None;
        loop {
            let row = self.query(what, query, QUICK).await?.into_iter().next().unwrap_or_default();
            let [position, known] = <[_; 2]>::try_from(row).unwrap_or_default();
            let settled = known.as_deref() == Some("t") && position.is_some();
            // Twice the same: the wait that was seen may have been the one before the last record.
            if settled && position == before {
                let text = position.unwrap_or_default();
                let odd = |error: matriarch_core::lsn::BadLsn| SqlError::Answer { what, reason: error.to_string() };
                return text.parse().map_err(odd);
            }
            before = settled.then_some(position).flatten();
            if Instant::now() >= end {
                return Err(SqlError::Timeout { what, limit });
            }
            sleep(PACE).await;
        }
    }

    /// Writes a small record and flushes it locally: a probe of the write path. Returns its position.
    pub async fn emit_message(&self, limit: Duration) -> Result<Lsn, SqlError> {
        let what = "write a WAL record";
        let query = "SELECT pg_logical_emit_message(true, 'matriarch', 'probe')";
        let rows = self.query(what, query, limit).await?;
        let text = rows.into_iter().flatten().next().flatten().unwrap_or_default();
        text.parse().map_err(|error: matriarch_core::lsn::BadLsn| SqlError::Answer { what, reason: error.to_string() })
    }

    /// Ends all client sessions of other users than the superuser, replication aside; returns how many.
    pub async fn end_sessions(&self, but_user: &str) -> Result<usize, SqlError> {
        let query = format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'client backend' \
             AND pid <> pg_backend_pid() AND usename <> {}",
            quote_literal(but_user)
        );
        Ok(self.query("end client sessions", &query, QUICK).await?.len())
    }

    /// Creates a database owned by `owner` if there is none of that name; needs a primary.
    pub async fn create_database(&self, name: &str, owner: &str) -> Result<(), SqlError> {
        let exists = format!("SELECT 1 FROM pg_database WHERE datname = {}", quote_literal(name));
        if self.single("look for a database", &exists).await?.is_some() {
            return Ok(());
        }
        let query = format!("CREATE DATABASE {} OWNER {}", quote_identifier(name), quote_identifier(owner));
        self.query("create a database", &query, Duration::from_secs(60)).await.map(|_| ())
    }

    async fn single(&self, what: &'static str, query: &str) -> Result<Option<String>, SqlError> {
        Ok(self.query(what, query, QUICK).await?.into_iter().flatten().next().flatten())
    }

    async fn errors(&self, what: &'static str, query: &str) -> Result<Vec<ConfigurationError>, SqlError> {
        let rows = self.query(what, query, QUICK).await?;
        Ok(rows
            .into_iter()
            .filter_map(|row| {
                let [file, line, name, error] = <[_; 4]>::try_from(row).ok()?;
                let line = line.and_then(|line| line.parse().ok()).unwrap_or(0);
                Some(ConfigurationError { file: file.unwrap_or_default(), line, name, error: error? })
            })
            .collect())
    }
}
