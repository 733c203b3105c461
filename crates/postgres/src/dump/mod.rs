//! Logical dumps: how PostgreSQL's own programs are called for them, and what is asked of a server before and after.
//!
//! Programs run as ourselves, against any server that can be connected to. A password goes to them in their environment, which
//! only our own user can read, never on the command line.

mod database;
mod globals;

pub use database::{Contents, Database, remove};
pub use globals::{Globals, apply};

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::{ChildStdin, ChildStdout, Command};
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::{Client, Config, NoTls};

use crate::binaries::Binaries;
use crate::conninfo;
use crate::tool::{self, Piped, ToolError};

/// What the server's lists of sessions show.
const NAME: &str = "matriarch dump";
const CONNECT: Duration = Duration::from_secs(10);

/// Something that a server or one of PostgreSQL's programs did not do.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    /// The installation has no such program.
    #[error(
        "PostgreSQL's program {program} is not in {dir}: install the client programs of PostgreSQL {major} (Debian and Ubuntu: \
         postgresql-client-{major}), or name another directory of programs", dir = dir.display()
    )]
    NoProgram {
        /// Its name.
        program: &'static str,
        /// Where it should be.
        dir: PathBuf,
        /// Of this version.
        major: u32,
    },
    /// A program.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// No session.
    #[error("could not connect to PostgreSQL (database {database}): {why}")]
    Connect {
        /// To which database.
        database: String,
        /// What was said.
        why: String,
    },
    /// A statement.
    #[error("PostgreSQL refused to {what}: {why}")]
    Refused {
        /// What was asked.
        what: String,
        /// What was said.
        why: String,
    },
}

impl DumpError {
    /// A statement of somebody else's that was refused.
    pub fn said(what: &str, error: &tokio_postgres::Error) -> DumpError {
        DumpError::Refused { what: what.to_owned(), why: told(error) }
    }
}

/// A server, and the programs to reach it with.
#[derive(Clone, Debug)]
pub struct Access {
    binaries: Binaries,
    config: Config,
}

/// How a dump is restored into a database.
#[derive(Clone, Debug, Default)]
pub struct Restoring {
    /// The database is made first, as the dump has it; then it goes by its own name.
    pub create: bool,
    /// What the dump has is dropped first.
    pub clean: bool,
    /// Everything belongs to this role, and privileges are left out.
    pub owner: Option<String>,
    /// Everything goes to the database's own tablespace.
    pub no_tablespaces: bool,
    /// Sessions that restore side by side; more than one only from files.
    pub jobs: u16,
}

impl Access {
    /// To the server of a connection string.
    pub fn new(binaries: Binaries, mut config: Config) -> Access {
        config.application_name(NAME).connect_timeout(CONNECT);
        Access { binaries, config }
    }

    /// The programs.
    pub fn binaries(&self) -> &Binaries {
        &self.binaries
    }

    /// The server, as people name it: where it listens.
    pub fn place(&self) -> String {
        let host = self.config.get_hosts().first().map_or_else(|| "localhost".to_owned(), named);
        format!("{host}, port {}", self.config.get_ports().first().copied().unwrap_or(5432))
    }

    /// A session of ours in a database.
    pub async fn connect(&self, database: &str) -> Result<Client, DumpError> {
        let mut config = self.config.clone();
        config.dbname(database);
        let refused = |error| DumpError::Connect { database: database.to_owned(), why: told(&error) };
        let (client, connection) = config.connect(NoTls).await.map_err(refused)?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// Roles and tablespaces, as SQL.
    pub fn globals(&self) -> Result<(Piped, ChildStdout), DumpError> {
        let mut command = self.command("pg_dumpall", "postgres")?;
        command.arg("--globals-only");
        Ok(tool::pipe_from(command)?)
    }

    /// One database, in pg_dump's custom format. Compression is whoever stores it's.
    pub fn dump(&self, database: &str) -> Result<(Piped, ChildStdout), DumpError> {
        let mut command = self.command("pg_dump", database)?;
        command.args(["--format=custom", "--compress=0"]);
        Ok(tool::pipe_from(command)?)
    }

    /// One database into a folder that is not there yet, by so many sessions side by side.
    pub async fn dump_into(&self, database: &str, folder: &Path, jobs: u16) -> Result<(), DumpError> {
        let mut command = self.command("pg_dump", database)?;
        command.args(["--format=directory", "--compress=0"]).arg(format!("--jobs={}", jobs.max(1)));
        command.arg("--file").arg(folder);
        tool::run(command, |_| ()).await?;
        Ok(())
    }

    /// Restores what is written to the input: a dump in the custom format.
    pub fn restore(&self, database: &str, how: &Restoring) -> Result<(Piped, ChildStdin), DumpError> {
        Ok(tool::pipe_into(self.restoring(database, how)?)?)
    }

    /// Restores a file in the custom format, or a folder.
    pub async fn restore_from(&self, database: &str, path: &Path, how: &Restoring) -> Result<(), DumpError> {
        let mut command = self.restoring(database, how)?;
        if how.jobs > 1 {
            command.arg(format!("--jobs={}", how.jobs));
        }
        command.arg(path);
        tool::run(command, |_| ()).await?;
        Ok(())
    }

    fn restoring(&self, database: &str, how: &Restoring) -> Result<Command, DumpError> {
        let mut command = self.command("pg_restore", if how.create { "postgres" } else { database })?;
        command.arg("--exit-on-error");
        let flags = [
            (how.create, "--create"),
            // All of it or nothing. A database that is made for this is taken away by whoever has begun.
            (!how.create && how.jobs <= 1, "--single-transaction"),
            (how.clean, "--clean"),
            (how.clean, "--if-exists"),
            (how.no_tablespaces, "--no-tablespaces"),
            (how.owner.is_some(), "--no-owner"),
            (how.owner.is_some(), "--no-privileges"),
        ];
        command.args(flags.iter().filter(|(wanted, _)| *wanted).map(|(_, flag)| flag));
        command.args(how.owner.iter().map(|owner| format!("--role={owner}")));
        Ok(command)
    }

    fn command(&self, program: &'static str, database: &str) -> Result<Command, DumpError> {
        let path = self.binaries.program(program);
        if !path.is_file() {
            let (dir, major) = (self.binaries.dir().to_owned(), self.binaries.version().major);
            return Err(DumpError::NoProgram { program, dir, major });
        }
        let mut command = Command::new(path);
        command.stdin(Stdio::null()).process_group(0).kill_on_drop(true).env_clear();
        // No messages in other languages, and no settings from somebody's home.
        command.env("LC_ALL", "C").env("HOME", "/nonexistent").env("PATH", "/usr/local/bin:/usr/bin:/bin");
        command.envs(self.config.get_password().map(|password| ("PGPASSWORD", OsStr::from_bytes(password))));
        command.arg("--no-password").arg(format!("--dbname={}", self.conninfo(database)));
        Ok(command)
    }

    /// What libpq is told; the password is not in it.
    fn conninfo(&self, database: &str) -> String {
        let list = |items: Vec<String>| Some(items.join(",")).filter(|text| !text.is_empty());
        let ssl = match self.config.get_ssl_mode() {
            SslMode::Disable => "disable",
            SslMode::Require => "require",
            _ => "prefer",
        };
        let pairs = [
            ("host", list(self.config.get_hosts().iter().map(named).collect())),
            ("hostaddr", list(self.config.get_hostaddrs().iter().map(ToString::to_string).collect())),
            ("port", list(self.config.get_ports().iter().map(ToString::to_string).collect())),
            ("user", self.config.get_user().map(str::to_owned)),
            ("dbname", Some(database.to_owned())),
            ("options", self.config.get_options().map(str::to_owned)),
            ("sslmode", Some(ssl.to_owned())),
            ("connect_timeout", Some(CONNECT.as_secs().to_string())),
            ("application_name", Some(NAME.to_owned())),
        ];
        let given = pairs.into_iter().filter_map(|(key, value)| Some(format!("{key}={}", conninfo::quote(&value?))));
        given.collect::<Vec<_>>().join(" ")
    }
}

/// A name, or the folder of a socket.
fn named(host: &Host) -> String {
    match host {
        Host::Tcp(name) => name.clone(),
        Host::Unix(path) => path.display().to_string(),
    }
}

/// What PostgreSQL said, with detail and hint; or why nothing was said.
pub(crate) fn told(error: &tokio_postgres::Error) -> String {
    if let Some(said) = error.as_db_error() {
        let more = [said.detail(), said.hint()].into_iter().flatten();
        return std::iter::once(said.message()).chain(more).collect::<Vec<_>>().join("; ");
    }
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}

/// For `map_err`.
pub(crate) fn refused(what: impl Into<String>) -> impl FnOnce(tokio_postgres::Error) -> DumpError {
    let what = what.into();
    move |error| DumpError::said(&what, &error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_on_no_command_line() {
        let binaries = Binaries::find(None, None).expect("PostgreSQL is there");
        let dsn = "host=/run/x,db1 port=5432,5433 user='o''brien' password=hush";
        let config: Config = dsn.replace("''", "\\'").parse().expect("it is one");
        let access = Access::new(binaries, config);
        let command = access.command("pg_dump", "we ird's \"db\"=").expect("it is there");
        let arguments: Vec<String> =
            command.as_std().get_args().map(|argument| argument.to_string_lossy().into_owned()).collect();
        let all = arguments.join(" ");
        assert!(!all.contains("hush"), "{all}");
        assert!(all.contains("host='/run/x,db1' port='5432,5433' user='o\\'brien'"), "{all}");
        assert!(all.contains("dbname='we ird\\'s \"db\"='"), "{all}");
        let told =
            command.as_std().get_envs().any(|(name, value)| name == "PGPASSWORD" && value == Some(OsStr::new("hush")));
        assert!(told);
    }
}
