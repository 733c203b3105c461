//! A server on restored files that is there for its recovery and for our questions: it reaches nothing, and nothing but us
//! reaches it.
//!
//! Everything that could act outside is shut off on the command line, which wins over every file and over `ALTER SYSTEM`: no
//! port, no archiving, no replication in either direction, no background workers (subscriptions, jobs of extensions), no commands
//! of the settings that were restored. Recovery's own settings stay.

use std::path::Path;
use std::time::Duration;

use crate::conf::{quote, quote_list_item};
use crate::files;
use crate::instance::Instance;
use crate::postmaster::{self, Postmaster, StartError};
use crate::process::KillError;
use crate::sql::{Sql, SqlError};
use crate::stop::{self, StopMode, StopReport};

const CONFIG: &str = "scratch.conf";
const HBA: &str = "scratch_hba.conf";
const IDENT: &str = "scratch_ident.conf";

/// What the files of the restored cluster may not decide.
const ISOLATION: [(&str, &str); 23] = [
    ("archive_cleanup_command", ""),
    ("archive_mode", "off"),
    ("autovacuum", "off"),
    ("cluster_name", "matriarch scratch"),
    ("external_pid_file", ""),
    // While it recovers nobody asks; without, limits may be lower than on the server that wrote the WAL.
    ("hot_standby", "off"),
    ("lc_messages", "C"),
    ("listen_addresses", ""),
    ("log_destination", "stderr"),
    ("log_line_prefix", "%m "),
    ("log_statement", "none"),
    ("logging_collector", "off"),
    ("max_logical_replication_workers", "0"),
    ("max_wal_senders", "0"),
    ("max_worker_processes", "0"),
    ("primary_conninfo", ""),
    ("primary_slot_name", ""),
    ("recovery_end_command", ""),
    ("restart_after_crash", "off"),
    ("ssl", "off"),
    ("synchronous_standby_names", ""),
    ("unix_socket_permissions", "0700"),
    ("update_process_title", "on"),
];

/// A server that runs. Dropped, it is told to end at once.
#[derive(Debug)]
pub struct Scratch {
    instance: Instance,
    postmaster: Postmaster,
}

/// Starts it. Of the instance count the programs, the data directory, the run directory (made for it, with the only socket), the
/// port that names the socket, the owner and the superuser, who needs no password. `settings` win over those of the files.
pub async fn start(instance: &Instance, settings: &[(&str, &str)], log: &Path) -> Result<Scratch, StartError> {
    instance.prepare_run_dir()?;
    postmaster::remove_stale_locks(instance)?;
    let run = |name: &str| instance.run_dir.join(name);
    let config = instance.data("postgresql.conf");
    // Some keep it outside of the data directory, so that no backup has it.
    let include = match config.exists() {
        true => format!("include {}\n", quote(&config.to_string_lossy())),
        false => String::new(),
    };
    let write = |name: &str, text: &str| {
        files::write_atomic(&run(name), text.as_bytes(), 0o600, instance.owner.as_ref()).map(|_| ())
    };
    write(CONFIG, &include)?;
    write(HBA, "local all all trust\n")?;
    write(IDENT, "")?;
    let path = |path: &Path| path.to_string_lossy().into_owned();
    let own = [
        ("config_file", path(&run(CONFIG))),
        ("data_directory", path(&instance.data_dir)),
        ("hba_file", path(&run(HBA))),
        ("ident_file", path(&run(IDENT))),
        ("port", instance.port.to_string()),
        ("unix_socket_directories", quote_list_item(&path(&instance.run_dir))),
    ];
    let given = ISOLATION.iter().chain(settings).map(|(name, value)| (*name, (*value).to_owned()));
    let arguments = own.into_iter().chain(given).flat_map(|(name, value)| ["-c".to_owned(), format!("{name}={value}")]);
    let postmaster = postmaster::spawn(instance, log, arguments)?;
    Ok(Scratch { instance: instance.clone(), postmaster })
}

impl Scratch {
    /// Waits until recovery is over and it takes connections.
    ///
    /// # Errors
    /// When it ends instead, with its last messages.
    pub async fn ready(&self) -> Result<Sql, StartError> {
        loop {
            match self.postmaster.wait_ready(&self.instance).await {
                // A machine that is slow, or a server with much to load.
                Err(StartError::Connect(SqlError::Timeout { .. })) if self.postmaster.is_alive() => {}
                done => return done,
            }
        }
    }

    /// Waits until it ends by itself, as it does at a recovery target whose action is to shut down.
    ///
    /// # Errors
    /// When that is not a good end, with its last messages.
    pub async fn ended(&self) -> Result<(), StartError> {
        match self.postmaster.wait_exit().await {
            Some(status) if status.success() => Ok(()),
            ended => Err(self.postmaster.exited(ended)),
        }
    }

    /// The last lines of its log.
    pub fn log_tail(&self) -> String {
        self.postmaster.log_tail()
    }

    /// Stops it cleanly, or by force after the time; no process is left then.
    pub async fn stop(&self, deadline: Duration) -> Result<StopReport, KillError> {
        let mode = StopMode::Fast { checkpoint: None, deadline };
        stop::stop(&self.postmaster, &self.instance.data_dir, None, mode).await
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Whoever needs to know that it is gone stops it, or looks for its processes.
        let _ = self.postmaster.signal(rustix::process::Signal::QUIT);
    }
}
