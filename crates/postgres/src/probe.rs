//! One look at a running instance: role, WAL positions, replication and slots.

use std::time::Duration;

use matriarch_core::{Lsn, Timeline};
use serde::Deserialize;

/// What one round trip tells. Times are seconds since the Unix epoch, on the server's clock.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Probe {
    /// Whether it is a standby.
    pub in_recovery: bool,
    /// The timeline it writes (primary), or the newest that it has WAL of (standby).
    pub timeline: Timeline,
    /// Primary: the end of WAL handed to the kernel.
    pub write_lsn: Option<Lsn>,
    /// Primary: the end of WAL that is durable.
    pub flush_lsn: Option<Lsn>,
    /// Primary: a process waits for WAL to be written or synchronised. WAL that nobody waits for, such as that of a transaction
    /// which is still open, stays unflushed for as long as it likes.
    pub flush_awaited: bool,
    /// Standby: the end of WAL received and flushed since it started; may step back to the start of a segment when
    /// streaming starts again on a new timeline. See [`Probe::position`].
    pub receive_lsn: Option<Lsn>,
    /// Standby: the end of WAL replayed.
    pub replay_lsn: Option<Lsn>,
    /// Standby: whether somebody paused replay.
    pub replay_paused: bool,
    /// Standby: commit time of the last transaction replayed.
    pub replay_timestamp: Option<f64>,
    /// Standby: the walreceiver, when it streams.
    pub receiver: Option<Receiver>,
    /// Those who stream from here.
    pub replication: Vec<ReplicationRow>,
    /// Replication slots here.
    pub slots: Vec<SlotRow>,
    /// The synchronous rule in force.
    pub synchronous_standby_names: String,
    /// The setting in force.
    pub primary_conninfo: String,
    /// There is a `restore_command`.
    pub restores: bool,
    /// It hands its WAL over to an archive.
    pub archives: bool,
    /// When the postmaster started.
    pub postmaster_start_time: f64,
    /// The server's clock.
    pub now: f64,
}

/// The walreceiver of a standby.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Receiver {
    /// `streaming`, `waiting`, …
    pub status: String,
    /// Whom it streams from: host or socket directory.
    pub sender_host: Option<String>,
    /// And port.
    pub sender_port: Option<u16>,
    /// The slot it uses.
    pub slot_name: Option<String>,
    /// The end of WAL it has flushed.
    pub flushed_lsn: Option<Lsn>,
    /// Timeline of that.
    pub received_tli: Option<Timeline>,
    /// End of WAL on the sender, as last told.
    pub latest_end_lsn: Option<Lsn>,
    /// When that was told.
    pub latest_end_time: Option<f64>,
    /// When anything was last heard from the sender.
    pub last_msg_receipt_time: Option<f64>,
}

/// One of those who stream from here.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct ReplicationRow {
    /// Its name; of our members, the name and incarnation.
    pub application_name: String,
    /// Its address; `None` through the Unix socket.
    pub client_addr: Option<String>,
    /// `startup`, `catchup`, `streaming`, `backup`, `stopping`.
    pub state: Option<String>,
    /// `async`, `potential`, `sync`, `quorum`.
    pub sync_state: Option<String>,
    /// Sent.
    pub sent_lsn: Option<Lsn>,
    /// Written there.
    pub write_lsn: Option<Lsn>,
    /// Durable there.
    pub flush_lsn: Option<Lsn>,
    /// Replayed there.
    pub replay_lsn: Option<Lsn>,
    /// Time from commit to replay there, in seconds.
    pub replay_lag: Option<f64>,
}

/// A replication slot.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct SlotRow {
    /// Its name.
    pub name: String,
    /// `physical` or `logical`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Whether somebody uses it.
    pub active: bool,
    /// Whether it ends with its session.
    pub temporary: bool,
    /// Database of a logical slot.
    pub database: Option<String>,
    /// Output plugin of a logical slot.
    pub plugin: Option<String>,
    /// A copy of the primary's slot that PostgreSQL itself keeps in step (17 and later).
    pub synced: bool,
    /// WAL is kept from here.
    pub restart_lsn: Option<Lsn>,
    /// A logical slot's consumer has confirmed everything up to here.
    pub confirmed_lsn: Option<Lsn>,
    /// `reserved`, `extended`, `unreserved` or `lost`.
    pub wal_status: Option<String>,
}

impl Probe {
    /// How far this instance's durable WAL reaches: the flushed end of a primary; of a standby, what was received or
    /// replayed, whichever is further (after a restart only replay is known, see [`crate::sql::Sql::flushed_end`]).
    pub fn position(&self) -> Lsn {
        if self.in_recovery {
            self.receive_lsn.max(self.replay_lsn).unwrap_or_default()
        } else {
            self.flush_lsn.unwrap_or_default()
        }
    }

    /// How old the newest replayed commit is; `None` on a primary, before the first commit, or when everything
    /// received is replayed and so nothing is late.
    pub fn replay_age(&self) -> Option<Duration> {
        if !self.in_recovery || self.replay_lsn >= self.receive_lsn {
            return None;
        }
        Some(Duration::from_secs_f64((self.now - self.replay_timestamp?).max(0.0)))
    }
}

/// Every column used here is in all of 13 to 18, or is read through `to_jsonb`, which does not mind a missing one. The `CASE`s keep functions away that fail in the other role.
///
/// The timeline of a standby: what it receives, or what its control file knows; the control file lags behind replay,
/// so without a walreceiver the names of its WAL files are looked at as well.
pub const QUERY: &str = r"
WITH s AS MATERIALIZED (SELECT pg_is_in_recovery() AS standby),
     w AS MATERIALIZED (SELECT * FROM pg_stat_wal_receiver)
SELECT json_build_object(
  'in_recovery', s.standby,
  'timeline', CASE WHEN s.standby THEN greatest(
      (SELECT received_tli FROM w),
      (SELECT min_recovery_end_timeline FROM pg_control_recovery()),
      (SELECT timeline_id FROM pg_control_checkpoint()),
      CASE WHEN NOT EXISTS (SELECT FROM w) THEN
        (SELECT max(('x' || substr(n, 1, 8))::bit(32)::int) FROM pg_ls_dir('pg_wal') n WHERE n ~ '^[0-9A-F]{24}$') END)
    ELSE ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int END,
  'write_lsn', CASE WHEN NOT s.standby THEN pg_current_wal_lsn() END,
  'flush_lsn', CASE WHEN NOT s.standby THEN pg_current_wal_flush_lsn() END,
  'flush_awaited', CASE WHEN s.standby OR pg_current_wal_insert_lsn() = pg_current_wal_flush_lsn() THEN false
    ELSE EXISTS (SELECT FROM pg_stat_get_activity(NULL) a
      WHERE lower(a.wait_event) IN ('walwrite', 'walsync', 'walinitwrite', 'walinitsync')) END,
  'receive_lsn', CASE WHEN s.standby THEN pg_last_wal_receive_lsn() END,
  'replay_lsn', CASE WHEN s.standby THEN pg_last_wal_replay_lsn() END,
  'replay_paused', CASE WHEN s.standby THEN pg_is_wal_replay_paused() ELSE false END,
  'replay_timestamp', CASE WHEN s.standby THEN extract(epoch FROM pg_last_xact_replay_timestamp()) END,
  'receiver', (SELECT json_build_object(
      'status', status, 'sender_host', sender_host, 'sender_port', sender_port, 'slot_name', slot_name,
      'flushed_lsn', flushed_lsn, 'received_tli', received_tli, 'latest_end_lsn', latest_end_lsn,
      'latest_end_time', extract(epoch FROM latest_end_time),
      'last_msg_receipt_time', extract(epoch FROM last_msg_receipt_time)) FROM w),
  'replication', coalesce((SELECT json_agg(json_build_object(
      'application_name', application_name, 'client_addr', host(client_addr), 'state', state, 'sync_state', sync_state,
      'sent_lsn', sent_lsn, 'write_lsn', write_lsn, 'flush_lsn', flush_lsn, 'replay_lsn', replay_lsn,
      'replay_lag', extract(epoch FROM replay_lag))) FROM pg_stat_replication), '[]'::json),
  'slots', coalesce((SELECT json_agg(json_build_object(
      'name', slot_name, 'type', slot_type, 'active', active, 'temporary', temporary, 'restart_lsn', restart_lsn,
      'database', database, 'plugin', plugin, 'confirmed_lsn', confirmed_flush_lsn,
      'synced', coalesce((to_jsonb(r) ->> 'synced')::boolean, false),
      'wal_status', wal_status)) FROM pg_replication_slots r), '[]'::json),
  'synchronous_standby_names', current_setting('synchronous_standby_names'),
  'primary_conninfo', current_setting('primary_conninfo'),
  'restores', current_setting('restore_command') <> '',
  'archives', current_setting('archive_mode') <> 'off',
  'postmaster_start_time', extract(epoch FROM pg_postmaster_start_time()),
  'now', extract(epoch FROM clock_timestamp())
)::text FROM s";
