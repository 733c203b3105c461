//! Running PostgreSQL's own programs: as the owner, in a clean environment, with their messages kept.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::process::{ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::task::JoinHandle;

use crate::instance::Instance;

/// Messages kept of one run.
const STDERR_KEPT: usize = 16 * 1024;
/// `pg_controldata`, `psql -c` and the like print a few KiB.
const STDOUT_KEPT: u64 = 4 * 1024 * 1024;

/// A program that could not be run or did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// It could not be started.
    #[error("could not start {program}: {source}; check that it can be executed by the user PostgreSQL runs as")]
    Spawn {
        /// Full path.
        program: String,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// Its output could not be read.
    #[error("lost contact with {program}: {source}")]
    Io {
        /// Full path.
        program: String,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// It ran and failed.
    #[error("{program} failed ({status}): {stderr}")]
    Failed {
        /// Full path.
        program: String,
        /// How it ended.
        status: ExitStatus,
        /// The end of what it said.
        stderr: String,
    },
}

impl ToolError {
    /// What the program said, empty when it did not run.
    pub fn stderr(&self) -> &str {
        match self {
            ToolError::Failed { stderr, .. } => stderr,
            _ => "",
        }
    }
}

/// What a program printed.
#[derive(Debug, Default)]
pub struct Printed {
    /// Standard output.
    pub stdout: String,
    /// The end of standard error.
    pub stderr: String,
}

/// A command for one of the instance's programs, to be run as the owner in `dir`.
///
/// Running in the data directory (or the one being built) lets [`crate::process::tree`] find a program that outlived
/// its agent.
pub fn command(instance: &Instance, program: &str, dir: &Path) -> Command {
    let mut command = Command::new(instance.binaries.program(program));
    command.current_dir(dir).stdin(Stdio::null()).process_group(0).kill_on_drop(true);
    command.env_clear().envs(environment(instance));
    if let Some(owner) = &instance.owner {
        command.uid(owner.uid).gid(owner.gid);
    }
    command
}

/// The environment of every child: nothing of ours, C messages, and no libpq defaults from somebody's home.
pub(crate) fn environment(instance: &Instance) -> Vec<(&'static str, std::ffi::OsString)> {
    let mut path = instance.binaries.dir().as_os_str().to_owned();
    path.push(OsStr::new(":/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"));
    vec![("LC_ALL", "C".into()), ("PATH", path), ("HOME", instance.run_dir.clone().into_os_string())]
}

/// Runs `command` to its end, handing each line of its standard error to `on_line`. Dropping the future kills the
/// program and all it started.
pub async fn run(mut command: Command, mut on_line: impl FnMut(&str)) -> Result<Printed, ToolError> {
    let program = command.as_std().get_program().to_string_lossy().into_owned();
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().map_err(|source| ToolError::Spawn { program: program.clone(), source })?;
    let mut running = Running { group: child.id().and_then(|id| Pid::from_raw(id as i32)), child };
    let (stdout, stderr) = (running.child.stdout.take(), running.child.stderr.take());
    let lost = |source| ToolError::Io { program: program.clone(), source };
    let (stdout, stderr) = tokio::try_join!(read_all(stdout), read_lines(stderr, &mut on_line)).map_err(lost)?;
    let status = running.child.wait().await.map_err(lost)?;
    running.group = None;
    if status.success() { Ok(Printed { stdout, stderr }) } else { Err(ToolError::Failed { program, status, stderr }) }
}

/// A program that works on a stream of ours. Dropped, it is killed with all it started.
pub struct Piped {
    program: String,
    running: Running,
    said: JoinHandle<io::Result<String>>,
}

/// Starts a program whose output is read while it runs.
pub fn pipe_from(mut command: Command) -> Result<(Piped, ChildStdout), ToolError> {
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut piped = Piped::start(command)?;
    let stdout = piped.running.child.stdout.take().ok_or_else(|| piped.lost("it has no output"))?;
    Ok((piped, stdout))
}

/// Starts a program that is fed while it runs; it goes on once the input is dropped.
pub fn pipe_into(mut command: Command) -> Result<(Piped, ChildStdin), ToolError> {
    command.stdin(Stdio::piped()).stdout(Stdio::null());
    let mut piped = Piped::start(command)?;
    let stdin = piped.running.child.stdin.take().ok_or_else(|| piped.lost("it has no input"))?;
    Ok((piped, stdin))
}

impl Piped {
    fn start(mut command: Command) -> Result<Piped, ToolError> {
        let program = command.as_std().get_program().to_string_lossy().into_owned();
        command.stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|source| ToolError::Spawn { program: program.clone(), source })?;
        let stderr = child.stderr.take();
        let said = tokio::spawn(async move { read_lines(stderr, &mut |_: &str| ()).await });
        Ok(Piped {
            program,
            running: Running { group: child.id().and_then(|id| Pid::from_raw(id as i32)), child },
            said,
        })
    }

    fn lost(&self, why: &str) -> ToolError {
        ToolError::Io { program: self.program.clone(), source: io::Error::other(why.to_owned()) }
    }

    /// Waits for its end, which must be a good one.
    pub async fn finish(mut self) -> Result<(), ToolError> {
        let lost = |source| ToolError::Io { program: self.program.clone(), source };
        let status = self.running.child.wait().await.map_err(lost)?;
        self.running.group = None;
        let stderr = self.said.await.map_err(io::Error::other).and_then(|said| said);
        let stderr = stderr.map_err(|source| ToolError::Io { program: self.program.clone(), source })?;
        if status.success() { Ok(()) } else { Err(ToolError::Failed { program: self.program, status, stderr }) }
    }
}

impl std::fmt::Debug for Piped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Piped").field("program", &self.program).finish_non_exhaustive()
    }
}

struct Running {
    group: Option<Pid>,
    child: Child,
}

impl Drop for Running {
    // initdb, pg_basebackup and pg_rewind have children of their own, which kill_on_drop would leave.
    fn drop(&mut self) {
        if let Some(group) = self.group {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

async fn read_all(from: Option<impl AsyncRead + Unpin>) -> io::Result<String> {
    let mut bytes = Vec::new();
    if let Some(from) = from {
        from.take(STDOUT_KEPT).read_to_end(&mut bytes).await?;
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

async fn read_lines(from: Option<impl AsyncRead + Unpin>, on_line: &mut impl FnMut(&str)) -> io::Result<String> {
    let mut kept = String::new();
    let Some(from) = from else { return Ok(kept) };
    let (mut reader, mut line) = (BufReader::new(from), Vec::new());
    while reader.read_until(b'\n', &mut line).await? > 0 {
        let text = String::from_utf8_lossy(&line);
        on_line(text.trim_end());
        kept.push_str(&text);
        keep_end(&mut kept, STDERR_KEPT);
        line.clear();
    }
    Ok(kept.trim_end().to_owned())
}

/// Cuts `text` from the front to at most `limit` bytes, at a character boundary.
pub(crate) fn keep_end(text: &mut String, limit: usize) {
    if text.len() > limit {
        let mut cut = text.len() - limit;
        while !text.is_char_boundary(cut) {
            cut += 1;
        }
        text.drain(..cut);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn failures_carry_what_was_said() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo first >&2; echo second >&2; exit 3"]).process_group(0);
        let mut lines = Vec::new();
        let error = run(command, |line| lines.push(line.to_owned())).await.unwrap_err();
        assert_eq!(lines, ["first", "second"]);
        let text = error.to_string();
        assert!(text.contains("exit status: 3") && text.contains("second"), "{text}");
    }

    #[test]
    fn long_messages_are_cut_at_a_boundary() {
        let mut text = "aäb".repeat(10);
        keep_end(&mut text, 6);
        assert!(text.len() <= 6 && text.ends_with("äb"));
    }
}
