//! The session that keeps a server in backup mode. When its connection ends, so does the backup.

use jiff::Timestamp;
use matriarch_core::{Lsn, Timeline};
use tokio_postgres::{Client, Row};

use super::BackupError;
use super::manifest::Tablespace;
use super::page::PAGE;

/// What a server is, as far as a backup needs to know.
#[derive(Clone, Debug)]
pub struct Server {
    /// Version as a number, 150020 for 15.20.
    pub version: u32,
    /// The database system identifier.
    pub system_identifier: u64,
    /// Whether it is in recovery.
    pub is_standby: bool,
    /// Whether pages have checksums.
    pub data_checksums: bool,
    /// Bytes of a WAL segment.
    pub segment_size: u64,
    /// Pages of one file of a relation.
    pub pages_per_file: u32,
    /// Tablespaces outside the data directory.
    pub tablespaces: Vec<Tablespace>,
}

/// A backup that has begun.
#[derive(Clone, Debug)]
pub struct Started {
    /// Where recovery will begin.
    pub lsn: Lsn,
    /// By the server's clock.
    pub time: Timestamp,
}

/// A backup that has ended.
#[derive(Clone, Debug)]
pub struct Stopped {
    /// Where the copy is consistent.
    pub lsn: Lsn,
    /// By the server's clock.
    pub time: Timestamp,
    /// Content of `backup_label`.
    pub label: String,
    /// The timeline on which it began.
    pub timeline: Timeline,
}

const SERVER: &str = "select current_setting('server_version_num')::int, \
    (select system_identifier::text from pg_control_system()), pg_is_in_recovery(), current_setting('data_checksums') = 'on', \
    (select setting::bigint from pg_settings where name = 'wal_segment_size'), current_setting('block_size')::int, \
    (select setting::int from pg_settings where name = 'segment_size')";
const TABLESPACES: &str = "select oid::bigint, spcname::text, pg_tablespace_location(oid) from pg_tablespace where pg_tablespace_location(oid) like '/%'";
const CLOCK: &str = "(extract(epoch from clock_timestamp()) * 1000000)::bigint";

/// Asks what the server is.
pub async fn look(client: &Client) -> Result<Server, BackupError> {
    let row = client.query_one(SERVER, &[]).await?;
    let system: String = row.get(1);
    if row.get::<_, i32>(5) as usize != PAGE {
        return Err(BackupError::Unsupported(format!(
            "pages of {} bytes; PostgreSQL's own builds have 8192",
            row.get::<_, i32>(5)
        )));
    }
    let mut tablespaces = Vec::new();
    for row in client.query(TABLESPACES, &[]).await? {
        tablespaces.push(Tablespace { oid: row.get::<_, i64>(0) as u32, name: row.get(1), path: row.get(2) });
    }
    Ok(Server {
        version: row.get::<_, i32>(0) as u32,
        system_identifier: system
            .parse()
            .map_err(|_| BackupError::Unsupported(format!("system identifier '{system}'")))?,
        is_standby: row.get(2),
        data_checksums: row.get(3),
        segment_size: row.get::<_, i64>(4) as u64,
        pages_per_file: row.get::<_, i32>(6) as u32,
        tablespaces,
    })
}

/// Where a backup that begins now would begin at the earliest.
pub async fn floor(client: &Client) -> Result<Lsn, BackupError> {
    lsn(&client.query_one("select redo_lsn::text from pg_control_checkpoint()", &[]).await?, 0)
}

/// Begins backup mode; with `fast` the checkpoint before it does not spare the disks.
pub async fn start(client: &Client, server: &Server, label: &str, fast: bool) -> Result<Started, BackupError> {
    let call = match server.version {
        150_000.. => "pg_backup_start($1, $2)",
        _ => "pg_start_backup($1, $2, false)",
    };
    let row = client.query_one(&format!("select {call}::text, {CLOCK}"), &[&label, &fast]).await?;
    Ok(Started { lsn: lsn(&row, 0)?, time: time(&row, 1)? })
}

/// The timeline of a server whose last checkpoint was on it: of one in backup mode.
pub async fn timeline(client: &Client) -> Result<Timeline, BackupError> {
    let query = "select greatest((select timeline_id from pg_control_checkpoint()), (select min_recovery_end_timeline from pg_control_recovery()))";
    let now: i32 = client.query_one(query, &[]).await?.get(0);
    Ok(now as Timeline)
}

/// Ends backup mode. Does not wait for the archiver.
pub async fn stop(client: &Client, server: &Server) -> Result<Stopped, BackupError> {
    let call = match server.version {
        150_000.. => "pg_backup_stop(false)",
        _ => "pg_stop_backup(false, false)",
    };
    let row = client.query_one(&format!("select lsn::text, labelfile, {CLOCK} from {call}"), &[]).await?;
    let label: String = row.get(1);
    let timeline =
        label.lines().find_map(|line| line.strip_prefix("START TIMELINE: ")).and_then(|text| text.trim().parse().ok());
    let timeline =
        timeline.ok_or_else(|| BackupError::Unsupported(format!("a backup label without a timeline: {label}")))?;
    // A standby whose primary failed over goes on, on another timeline.
    let now = self::timeline(client).await?;
    if now != timeline {
        return Err(BackupError::TimelineChanged { from: timeline, to: now });
    }
    Ok(Stopped { lsn: lsn(&row, 0)?, time: time(&row, 2)?, label, timeline })
}

fn lsn(row: &Row, column: usize) -> Result<Lsn, BackupError> {
    let text: String = row.get(column);
    text.parse().map_err(|_| BackupError::Unsupported(format!("'{text}' for a position in the log")))
}

fn time(row: &Row, column: usize) -> Result<Timestamp, BackupError> {
    Timestamp::from_microsecond(row.get(column)).map_err(|error| BackupError::Unsupported(error.to_string()))
}
