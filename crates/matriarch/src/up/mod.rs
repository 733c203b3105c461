//! `matriarch up`: a whole cluster on this machine, in the foreground.
//!
//! Owns: the cluster's directory ([`layout`]), the processes in it ([`supervise`]) and what the person sees ([`screen`]).
//! Must not: decide anything about the cluster; the agents do, with or without us.

mod layout;
mod screen;
mod supervise;

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

pub use layout::superuser_password;

use crate::cluster::{RunningNote, Which};
use crate::proxy::stop_asked;
use supervise::Herd;

/// `up`.
#[derive(Args, Clone, Debug)]
#[command(
    long_about = "Runs a highly available PostgreSQL cluster on this machine until Ctrl-C: instances with an agent and a guard \
    each, a store, and a proxy with a port that always leads to the primary and one that leads to the replicas.\n\nThe data stays \
    in the directory; a second `matriarch up` goes on with it. The store is a file there, unless a new cluster is given another with \
    --store. WAL is archived in a directory there as well, to which 'matriarch backup' adds backups, and which a backup a day keeps in bounds.",
    after_long_help = "Examples:\n  matriarch up\n  matriarch up --dir /srv/demo --port 5432\n  matriarch up --members 5"
)]
pub struct UpArgs {
    /// Number of instances (only for a new cluster)
    #[arg(long, default_value_t = 3, value_name = "NUMBER", value_parser = clap::value_parser!(u8).range(1..=9))]
    pub members: u8,
    /// Port that always leads to the primary; the next one leads to replicas (default: the first free pair from 5432 up)
    #[arg(long, value_name = "PORT")]
    pub port: Option<u16>,
    /// First port that the instances may use (only for a new cluster); for several clusters that start at once
    #[arg(long, default_value_t = 54_321, value_name = "PORT", hide = true)]
    pub member_port: u16,
    /// First port that the agents' APIs may use (only for a new cluster); for several clusters that start at once
    #[arg(long, default_value_t = 8008, value_name = "PORT", hide = true)]
    pub api_port: u16,
    /// Directory of PostgreSQL's programs (default: the newest found)
    #[arg(long, value_name = "DIR")]
    pub bin_dir: Option<PathBuf>,
    /// Name of the cluster (only for a new cluster)
    #[arg(long, default_value = "demo", value_name = "NAME")]
    pub name: String,
    /// Locale of a new cluster's databases, as initdb takes it
    #[arg(long, value_name = "LOCALE")]
    pub locale: Option<String>,
    /// No repository for WAL and backups beside the data (only for a new cluster)
    #[arg(long)]
    pub no_archive: bool,
    /// PostgreSQL's settings for a new cluster
    #[arg(long = "set", value_name = "NAME=VALUE")]
    pub parameters: Vec<String>,
    /// Make a new cluster from a backup: YAML file with the section `restore`, as in `bootstrap.restore` of an agent's
    /// configuration
    #[arg(long, value_name = "FILE")]
    pub restore: Option<PathBuf>,
    /// Make a new cluster from a dump: YAML file with the section `dump`, as in `bootstrap.dump` of an agent's configuration
    #[arg(long, value_name = "FILE", conflicts_with = "restore")]
    pub from_dump: Option<PathBuf>,
}

/// Runs the cluster until it is told to stop, then stops all of it.
pub async fn run(args: UpArgs, which: Which) -> anyhow::Result<()> {
    let dir = layout::choose_dir(which.dir.as_deref())?;
    let store = which.store.map(|store| store.with(&which.access));
    let (cluster, lock) = layout::prepare(&dir, &args, store.as_ref())?;
    // Before anybody who needs it and may not make it, as the proxy.
    drop(crate::store::open(&cluster.address()?, "up", true).await?);
    if cluster.archive {
        layout::begin_repository(&cluster).await?;
    }
    let note = RunningNote::leave(&cluster.dir)?;
    let program = std::env::current_exe().context("cannot find our own program, which is the agents' too")?;
    let mut herd = Herd::start(&program, &cluster);
    let mut hangup = signal(SignalKind::hangup()).context("cannot handle SIGHUP")?;
    let stop = async {
        tokio::select! {
            () = stop_asked(false) => {}
            // The terminal was closed.
            _ = hangup.recv() => {}
        }
    };
    tokio::pin!(stop);
    let ready = tokio::select! {
        ready = screen::until_ready(&cluster) => Some(ready),
        () = &mut stop => None,
        failure = herd.failed() => {
            screen::say_failure(&failure);
            herd.stop(&cluster).await;
            anyhow::bail!("the cluster could not be started: {failure}");
        }
    };
    if ready.is_some() {
        screen::say_ready(&cluster).await;
        tokio::select! {
            () = &mut stop => {}
            failure = herd.failed() => screen::say_failure(&failure),
        }
    }
    screen::say_stopping();
    herd.stop(&cluster).await;
    screen::say_stopped(&cluster);
    drop(note);
    drop(lock);
    Ok(())
}
