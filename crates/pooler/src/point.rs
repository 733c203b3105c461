//! Which server a pooler's sessions are sent to.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::Ordering;

use tokio::time::timeout;

use crate::console::{Console, ConsoleError};
use crate::control::{CHECK, Outlook, Pooler, Server};
use crate::cut::{self, Peers};
use crate::pause::Pause;
use crate::process::Process;

/// The server that a pooler is pointed at.
pub(crate) struct Pointed {
    target: Server,
    generation: u64,
    /// All that it had while we pointed at it.
    sockets: BTreeSet<PathBuf>,
    /// Ends of connections to it, once they are known.
    peers: Option<Peers>,
}

impl Pooler {
    /// Sends sessions to the server that they belong to, if they are not sent there already.
    pub(crate) async fn point(
        &mut self,
        console: &Console,
        outlook: &Outlook,
        pause: &Pause,
        process: Option<&Process>,
    ) -> Result<(), ConsoleError> {
        let target = match &self.own {
            Some(own) => own.config.target(outlook).cloned(),
            None => outlook.primary.clone(),
        };
        let Some(target) = target else { return Ok(()) };
        self.aim(console, &target).await?;
        let same = self.pointed.as_ref().is_some_and(|pointed| {
            pointed.target == target && (self.own.is_none() || pointed.generation == outlook.generation)
        });
        if same {
            return Ok(());
        }
        let before = self.pointed.as_ref().map(|pointed| pointed.generation);
        // A pause that is done has closed every connection.
        if before.is_some_and(|before| before != outlook.generation) && !pause.is_done() {
            for command in pause.commands("RECONNECT") {
                console.run(&command).await?;
            }
        }
        // Another way to the same server: connections of the old way close when nobody uses them.
        let way = self.pointed.as_ref().filter(|pointed| pointed.target.is_same(&target));
        let sockets = way.map(|pointed| pointed.sockets.clone()).unwrap_or_default();
        if self.pointed.is_some() && way.is_none() {
            self.cut(process);
        }
        tracing::info!(
            host = target.host,
            port = target.port,
            "the pooler at {} serves this server",
            self.admin.place()
        );
        let sockets = sockets.into_iter().chain(target.socket.clone()).collect();
        self.pointed = Some(Pointed { target, generation: outlook.generation, sockets, peers: None });
        Ok(())
    }

    /// Has the configuration of our own PgBouncer name this server.
    pub(crate) async fn aim(&self, console: &Console, target: &Server) -> Result<(), ConsoleError> {
        let Some(own) = &self.own else { return Ok(()) };
        match own.write_ini(Some(target)) {
            Ok(changed) => {
                if own.users.stale.swap(false, Ordering::Relaxed) || changed {
                    console.run("RELOAD").await?;
                }
            }
            Err(error) => self.tell(|report| report.problem = Some(error.to_string())),
        }
        Ok(())
    }

    /// Looks up the ends of connections to the server, for the day when it is lost.
    pub(crate) async fn learn_peers(&mut self) {
        let Some(pointed) = self.pointed.as_mut().filter(|pointed| pointed.peers.is_none()) else { return };
        let mut peers = Peers { sockets: pointed.sockets.clone(), ..Peers::default() };
        let lookup = tokio::net::lookup_host((pointed.target.host.as_str(), pointed.target.port));
        if let Ok(Ok(addresses)) = timeout(CHECK, lookup).await {
            peers.addresses.extend(addresses);
        }
        pointed.peers = Some(peers);
    }

    /// Ends the connections to the server that was the right one until now.
    pub(crate) fn cut(&self, process: Option<&Process>) {
        let peers = self.pointed.as_ref().and_then(|pointed| pointed.peers.as_ref());
        let (Some(process), Some(peers)) = (process, peers) else { return };
        match cut::connections(process.pid, peers) {
            Ok(0) => {}
            Ok(count) => tracing::info!(count, "cut the pooler's connections to the server that is no longer primary"),
            Err(error) => tracing::warn!("cannot cut PgBouncer's connections to the old primary: {error}"),
        }
    }
}
