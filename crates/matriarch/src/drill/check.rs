//! Looking through the restored data with PostgreSQL's own programs.

use std::path::Path;

use matriarch_postgres::{Instance, Sql, tool};

use super::Check;

/// Up to so many bytes it is cheap.
const CHEAP: u64 = 1 << 30;
/// As much of what a program says as a note holds.
const SAID: usize = 300;

impl Check {
    /// Whether a program is run on data of this size. The error: it was asked for and is not there.
    fn wants(self, instance: &Instance, program: &str, bytes: u64) -> Result<bool, String> {
        let there = instance.binaries.program(program).exists();
        match self {
            Check::Never => Ok(false),
            Check::Auto => Ok(there && bytes <= CHEAP),
            Check::Always if there => Ok(true),
            Check::Always => Err(format!("there is no {program} in {}", instance.binaries.dir().display())),
        }
    }

    /// Relations and indexes, on the running server; whether it was done.
    pub async fn relations(self, instance: &Instance, sql: &Sql, bytes: u64) -> Result<bool, String> {
        if !self.wants(instance, "pg_amcheck", bytes)? {
            return Ok(false);
        }
        let query = "select count(*)::text from pg_available_extensions where name = 'amcheck'";
        let found = sql.query("look for amcheck", query, std::time::Duration::from_secs(30)).await;
        let found = found.map_err(|error| error.to_string())?;
        if found.first().and_then(|row| row.first().cloned().flatten()).as_deref() != Some("1") {
            let text = "the extension amcheck is not installed (Debian has it in the server's package)";
            return if self == Check::Always { Err(text.to_owned()) } else { Ok(false) };
        }
        let mut command = tool::command(instance, "pg_amcheck", &instance.data_dir);
        command.args(["--all", "--install-missing", "--no-password", "--host"]).arg(&instance.run_dir);
        command.arg("--port").arg(instance.port.to_string()).arg("--username").arg(&instance.superuser.username);
        said(command.output().await, "pg_amcheck")?;
        Ok(true)
    }

    /// Page checksums, on the stopped server; whether it was done.
    pub async fn checksums(self, instance: &Instance, bytes: u64) -> Result<bool, String> {
        if !self.wants(instance, "pg_checksums", bytes)? {
            return Ok(false);
        }
        let mut command = tool::command(instance, "pg_checksums", Path::new("/"));
        command.args(["--check", "--pgdata"]).arg(&instance.data_dir);
        said(command.output().await, "pg_checksums")?;
        Ok(true)
    }
}

fn said(output: std::io::Result<std::process::Output>, program: &str) -> Result<(), String> {
    let output = output.map_err(|error| format!("{program} could not be run: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    // Damage is told on one, what went wrong on the other.
    let text = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).trim().to_owned()).join(" ");
    let text: String = text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(SAID).collect();
    Err(format!("{program} found fault ({}): {text}", output.status))
}
