//! A real pgBackRest for tests: one stanza of one server, with whatever repositories a test wants.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::dir::TestDir;
use crate::server::Server;
use crate::user;

/// Name of the stanza.
pub const STANZA: &str = "s";

/// The program with its configuration.
#[derive(Debug)]
pub struct PgBackRest {
    program: PathBuf,
    config: PathBuf,
    folder: PathBuf,
}

impl PgBackRest {
    /// The program, if it is installed; `scripts/install-deps --test` does that.
    pub fn program() -> Option<PathBuf> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).map(|folder| folder.join("pgbackrest")).find(|path| path.exists())
    }

    /// What a server needs in its settings: a socket, which pgBackRest insists on, and archiving, without a command yet.
    pub fn settings(dir: &TestDir) -> String {
        let socket = dir.create("socket");
        format!("archive_mode = on\nmax_wal_senders = 3\nunix_socket_directories = '{}'", socket.display())
    }

    /// Makes the stanza in the repositories of `global`, and has the server archive into them.
    pub async fn begin(program: PathBuf, dir: &TestDir, server: &Server, global: &str) -> Result<PgBackRest> {
        let (lock, socket) = (dir.create("lock"), dir.join("socket"));
        let text = format!(
            "[global]\n{global}\nlock-path={}\nlog-level-file=off\nlog-level-console=warn\nstart-fast=y\nprocess-max=2\n\n\
             [{STANZA}]\npg1-path={}\npg1-port={}\npg1-socket-path={}\npg1-user=postgres\n",
            lock.display(),
            server.data().display(),
            server.port(),
            socket.display()
        );
        let config = dir.join("pgbackrest.conf");
        std::fs::write(&config, text).context("writing the configuration")?;
        user::give(&config)?;
        let made = PgBackRest { program, config, folder: dir.path().to_owned() };
        made.run(&["stanza-create"])?;
        // Only now: after three failures the archiver pauses for a minute.
        let (client, connection) = tokio_postgres::connect(&server.dsn(), tokio_postgres::NoTls).await?;
        tokio::spawn(connection);
        client.batch_execute(&format!("alter system set archive_command = '{}'", made.push(""))).await?;
        client.batch_execute("select pg_reload_conf()").await?;
        Ok(made)
    }

    fn base(&self) -> [String; 2] {
        [format!("--config={}", self.config.display()), format!("--stanza={STANZA}")]
    }

    /// `archive_command`, with further options.
    pub fn push(&self, options: &str) -> String {
        format!("{} {} {options} archive-push %p", self.program.display(), self.base().join(" "))
    }

    /// The option that makes it take another directory for the server's.
    pub fn data(path: &Path) -> String {
        format!("--pg1-path={}", path.display())
    }

    /// Runs one of its commands.
    pub fn run(&self, arguments: &[&str]) -> Result<()> {
        let mut command = user::command(&self.program);
        let output = command.current_dir(&self.folder).args(self.base()).args(arguments).output();
        let output = output.context("running pgbackrest")?;
        if !output.status.success() {
            let told = [output.stdout, output.stderr].concat();
            bail!("pgbackrest {arguments:?}: {}", String::from_utf8_lossy(&told));
        }
        Ok(())
    }
}
