//! Exchanging the program of a running agent or proxy for the one that now lies at its path: `SIGUSR2`.
//!
//! The process stays, with its number, its children (PostgreSQL, the guard, PgBouncer) and its sockets; only the program in
//! it is another one. That one adopts PostgreSQL as after any restart of an agent, and goes on with the connections of the
//! proxy where they stood.

mod estate;

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};

pub use estate::Estate;

/// Tells the new program, by our process number, that its standard output holds what is left to it. No log goes there, and
/// it is a descriptor that the standard library hands over and takes back without unsafe code.
const INHERITED: &str = "MATRIARCH_INHERITED";
/// What runs, even when its file is gone.
const RUNNING: &str = "/proc/self/exe";
/// How long the new program may take to say that it understands the configuration.
const CHECK: Duration = Duration::from_secs(20);

/// The path at which the next program is looked for: our own, also when another file lies there by now.
///
/// # Errors
/// When the system does not tell.
pub fn program() -> std::io::Result<PathBuf> {
    let path = std::env::current_exe()?;
    let text = path.as_os_str().as_encoded_bytes();
    Ok(match text.strip_suffix(b" (deleted)") {
        Some(before) if !path.exists() => PathBuf::from(OsStr::from_bytes(before)),
        _ => path,
    })
}

/// What the program before this one has left, if there was one in this process. To be asked once.
pub fn inherited() -> Estate {
    let ours = std::env::var(INHERITED).is_ok_and(|pid| pid == std::process::id().to_string());
    let Some(queue) = rustix::stdio::stdout().try_clone_to_owned().ok().filter(|_| ours) else {
        return Estate::default();
    };
    let read = Estate::receive(&queue);
    // Children are not to have it, and whatever is left in it ends now.
    if let Err(error) = rustix::stdio::dup2_stdout(rustix::stdio::stderr()) {
        tracing::warn!("standard output still is what the program before this one left: {error}");
    }
    read.unwrap_or_else(|error| {
        tracing::error!("what the program before this one left cannot be read, its sessions end: {error:#}");
        Estate::default()
    })
}

/// Becomes the program at `path`, with the same arguments; the one that runs begins anew when that is impossible. Returns only
/// when both are.
pub fn exec(path: &Path, estate: Estate) -> anyhow::Error {
    let queue = match estate.send() {
        Ok(queue) => queue,
        Err(error) => return error.context("no other program can take this process over"),
    };
    let first = become_program(path.as_os_str(), path, &queue);
    tracing::error!("{} cannot be executed: {first}; the program that runs begins anew", path.display());
    let second = become_program(OsStr::new(RUNNING), path, &queue);
    anyhow::anyhow!(
        "{} cannot be executed: {first}, and neither can {RUNNING}: {second}; start it again",
        path.display()
    )
}

fn become_program(program: &OsStr, path: &Path, queue: &OwnedFd) -> std::io::Error {
    let queue = match queue.try_clone() {
        Ok(queue) => queue,
        Err(error) => return error,
    };
    let mut command = std::process::Command::new(program);
    command.arg0(path).args(std::env::args_os().skip(1));
    command.env(INHERITED, std::process::id().to_string()).stdout(Stdio::from(queue)).exec()
}

/// SIGUSR2, heard from its making on. Before, it would end the process.
pub struct Asked {
    signal: Signal,
    program: PathBuf,
}

impl Asked {
    /// To be made first of all: until then the signal ends the process.
    ///
    /// # Errors
    /// When our own program cannot be found.
    pub fn listen() -> anyhow::Result<Asked> {
        let signal = signal(SignalKind::user_defined2()).context("SIGUSR2 cannot be handled")?;
        Ok(Asked { signal, program: program().context("cannot find our own program")? })
    }

    /// Waits until it is asked for and the program that now lies at our path has proved to work, run with `arguments`, which
    /// make it say whether it understands what it would be given. Never, when nobody can ask any more.
    pub async fn for_working(&mut self, arguments: &[OsString]) {
        while self.signal.recv().await.is_some() {
            match check(&self.program, arguments).await {
                Ok(()) => return,
                Err(error) => tracing::error!("this process goes on with the program it has: {error:#}"),
            }
        }
        std::future::pending().await
    }

    /// Where the next program is.
    pub fn program(&self) -> &Path {
        &self.program
    }
}

/// A program that does not start, or does not understand the configuration, would be the end of this process.
async fn check(program: &Path, arguments: &[OsString]) -> anyhow::Result<()> {
    let mut command = tokio::process::Command::new(program);
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(CHECK, command.output())
        .await
        .with_context(|| format!("{} did not check the configuration within {} s", program.display(), CHECK.as_secs()))?
        .with_context(|| format!("{} cannot be started", program.display()))?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    let arguments = arguments.join(OsStr::new(" "));
    let (program, arguments) = (program.display(), arguments.display());
    anyhow::ensure!(output.status.success(), "`{program} {arguments}` ends with {}: {}", output.status, said.trim());
    Ok(())
}
