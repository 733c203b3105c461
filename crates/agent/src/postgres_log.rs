//! PostgreSQL's own log: through the agent's, or in a file that does not grow without end.

use std::path::Path;

use matriarch_postgres::Instance;
use matriarch_postgres::server_log::{Entry, Follower, trim};

/// A log file is moved aside when it has more bytes.
const LIMIT: u64 = 64 * 1024 * 1024;
/// Files moved aside that are kept.
const KEPT: u32 = 2;

/// Sends the log, from now on, through the agent's. Must be called within a tokio runtime.
pub fn stream(instance: &Instance, path: &Path) -> anyhow::Result<()> {
    let mut log = Follower::from_end(instance, path)?;
    tokio::spawn(async move {
        loop {
            match log.next().await {
                Ok(entries) => entries.iter().for_each(emit),
                Err(error) => {
                    tracing::error!("PostgreSQL's log is not passed on any more: {error}");
                    return;
                }
            }
        }
    });
    Ok(())
}

/// Moves a log file aside that has grown large. Blocks.
pub fn rotate(path: &Path) {
    match trim::rotate(path, LIMIT, KEPT) {
        Ok(true) => tracing::info!("{} was moved aside to {}.1", path.display(), path.display()),
        Ok(false) => {}
        Err(error) => tracing::warn!("{} has grown large and cannot be moved aside: {error}", path.display()),
    }
}

/// One line for each entry. The levels are tracing's; the severity stays beside them.
macro_rules! line {
    ($level:expr, $entry:expr) => {
        tracing::event!(
            target: "postgresql",
            $level,
            severity = $entry.severity,
            pid = $entry.pid,
            backend = $entry.backend,
            user = $entry.user,
            database = $entry.database,
            application = $entry.application,
            client = $entry.client,
            state = $entry.state.as_deref().filter(|state| *state != "00000"),
            logged = Some($entry.time.as_str()).filter(|time| !time.is_empty()),
            detail = $entry.detail,
            hint = $entry.hint,
            context = $entry.context,
            statement = $entry.statement,
            "{}",
            $entry.message
        )
    };
}

fn emit(entry: &Entry) {
    use tracing::Level;
    match entry.severity.as_str() {
        "PANIC" | "FATAL" | "ERROR" => line!(Level::ERROR, entry),
        "WARNING" => line!(Level::WARN, entry),
        severity if severity.starts_with("DEBUG") => line!(Level::DEBUG, entry),
        _ => line!(Level::INFO, entry),
    }
}
