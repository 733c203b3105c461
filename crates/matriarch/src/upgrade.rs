//! Exchanging the program of a running agent for the one that now lies at its path: `SIGUSR2`.
//!
//! The process stays, with its number, its children (PostgreSQL and the guard) and the listening socket of its REST API;
//! only the program in it is another one. That one adopts PostgreSQL as after any restart of an agent.

use std::ffi::OsString;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use matriarch_agent::Shared;
use tokio::signal::unix::{SignalKind, signal};

/// Tells the new program, by our process number, that its standard output is the listening socket. No log goes there, and
/// it is a descriptor that the standard library hands over and takes back without unsafe code.
const INHERITED: &str = "MATRIARCH_LISTENER";
/// How long the new program may take to say that it understands the configuration.
const CHECK: Duration = Duration::from_secs(20);

/// The socket that the program before this one listened on, if it is one of `addresses`.
pub fn inherited(addresses: &[SocketAddr]) -> Option<TcpListener> {
    let ours = std::env::var(INHERITED).is_ok_and(|pid| pid == std::process::id().to_string());
    let socket = rustix::stdio::stdout().try_clone_to_owned().ok().filter(|_| ours)?;
    if !rustix::net::sockopt::socket_acceptconn(&socket).is_ok_and(|listens| listens) {
        return None;
    }
    rustix::stdio::dup2_stdout(rustix::stdio::stderr()).ok()?;
    let listener = TcpListener::from(socket);
    listener.set_nonblocking(true).ok()?;
    let address = listener.local_addr().ok()?;
    addresses.contains(&address).then_some(listener)
}

/// Becomes the program at the same path, with the same arguments. Returns only when that is impossible.
pub fn exec(program: &Path, listener: Option<OwnedFd>) -> anyhow::Error {
    let mut command = std::process::Command::new(program);
    command.args(std::env::args_os().skip(1));
    if let Some(listener) = listener {
        command.env(INHERITED, std::process::id().to_string()).stdout(Stdio::from(listener));
    }
    let error = command.exec();
    anyhow::anyhow!("{} cannot be executed: {error}; PostgreSQL runs on, start the agent again", program.display())
}

/// Asks the agent to make way on each SIGUSR2, once the program that now lies at `program` has proved to work.
pub async fn on_signal(shared: Arc<Shared>, program: std::path::PathBuf, config: std::path::PathBuf) {
    let mut asked = signal(SignalKind::user_defined2()).expect("SIGUSR2 can be handled");
    while asked.recv().await.is_some() {
        match check(&program, &config).await {
            Ok(()) => shared.upgrade(),
            Err(error) => tracing::error!("the agent goes on with the program it has: {error:#}"),
        }
    }
}

/// A program that does not start, or does not understand the configuration, would be the end of this agent.
async fn check(program: &Path, config: &Path) -> anyhow::Result<()> {
    let arguments: [OsString; 3] = ["config".into(), "check".into(), config.into()];
    let mut command = tokio::process::Command::new(program);
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(CHECK, command.output())
        .await
        .with_context(|| format!("{} did not check the configuration within {} s", program.display(), CHECK.as_secs()))?
        .with_context(|| format!("{} cannot be started", program.display()))?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    let (program, config, taken) = (program.display(), config.display(), output.status.success());
    anyhow::ensure!(taken, "{program} does not take {config}: {}", said.trim());
    Ok(())
}
