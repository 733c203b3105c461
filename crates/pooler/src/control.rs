//! When a pooler is paused, pointed elsewhere and resumed.
//!
//! ```text
//!             a switchover is announced              PAUSE is done
//!    serves ───────────────────────────> pausing ─────────────────> holds (and says so)
//!      ^ │                                  │                          │
//!      │ │ no primary: cut, PAUSE           │ called off               │ called off, or another primary is there
//!      │ └───────> waits                    v                          v
//!      └──────────────┴───────────────── point to the primary, RESUME ─┘
//! ```

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::console::{Admin, Console, ConsoleError};
use crate::cut::{self, Peers};
use crate::process::{Own, Process};
use crate::settings::Serves;

/// A hold that lasts longer is given up: the leader's own bound is far shorter, so it cannot take it back.
const HOLD_LIMIT: Duration = Duration::from_secs(120);
/// While a lost server's connections are cut and PAUSE is not done: PgBouncer may have opened another in between.
const CUT_AGAIN: Duration = Duration::from_millis(50);
const LOOK: Duration = Duration::from_millis(5);
const CHECK: Duration = Duration::from_secs(1);
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// A PostgreSQL server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Full path of its Unix socket, when it is on this host.
    pub socket: Option<PathBuf>,
}

/// What a pooler is told about the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outlook {
    /// Epoch of the primary.
    pub generation: u64,
    /// The promoted, writable member, if there is one.
    pub primary: Option<Server>,
    /// Members that follow it.
    pub replicas: Vec<Server>,
    /// The revision that announces a switchover: new work is to be held.
    pub handover: Option<u64>,
}

/// What a pooler tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The announcement for which it holds new work.
    pub holds: Option<u64>,
    /// What keeps it from doing its work.
    pub problem: Option<String>,
}

/// A pooler and what is known of it.
pub struct Pooler {
    admin: Admin,
    databases: Vec<String>,
    own: Option<Arc<Own>>,
    outlook: watch::Receiver<Outlook>,
    report: watch::Sender<Report>,
    pointed: Option<Pointed>,
    given_up: Option<u64>,
}

struct Pointed {
    target: Server,
    generation: u64,
    peers: Peers,
}

enum Pause {
    /// PgBouncer goes on as it was when we came.
    Unknown,
    Resumed,
    Going(JoinHandle<Result<(), ConsoleError>>),
    Done,
}

enum Want {
    Serve,
    Hold(u64),
    Wait,
}

impl Pooler {
    /// One that we run.
    pub fn own(own: Own, outlook: watch::Receiver<Outlook>, report: watch::Sender<Report>) -> Pooler {
        let admin = own.admin();
        Pooler {
            admin,
            databases: Vec::new(),
            own: Some(Arc::new(own)),
            outlook,
            report,
            pointed: None,
            given_up: None,
        }
    }

    /// One that others run. Without databases, all of them are paused.
    pub fn registered(
        admin: Admin,
        databases: Vec<String>,
        outlook: watch::Receiver<Outlook>,
        report: watch::Sender<Report>,
    ) -> Pooler {
        Pooler { admin, databases, own: None, outlook, report, pointed: None, given_up: None }
    }

    fn want(&self, outlook: &Outlook) -> Want {
        if let Some(own) = self.own.as_ref().filter(|own| own.config.serves == Serves::Replica) {
            return if own.config.target(outlook).is_some() { Want::Serve } else { Want::Wait };
        }
        match (&outlook.primary, outlook.handover) {
            (None, _) => Want::Wait,
            (Some(_), Some(announced)) if self.given_up != Some(announced) => Want::Hold(announced),
            _ => Want::Serve,
        }
    }

    fn tell(&self, change: impl FnOnce(&mut Report)) {
        self.report.send_if_modified(|report| {
            let before = report.clone();
            change(report);
            *report != before
        });
    }

    /// Looks after the console for as long as the process is there, whatever happens to the connection.
    async fn look_after(&mut self, process: Option<&Process>) {
        loop {
            let Err(error) = self.session(process).await;
            let down = matches!(error, ConsoleError::Down(_));
            let text = error.to_string();
            let fresh = self.report.borrow().problem.as_ref() != Some(&text);
            // Our own takes a moment to listen.
            if fresh && !(down && self.own.is_some()) {
                tracing::warn!("{text}");
            }
            let announced = self.outlook.borrow_and_update().handover;
            self.tell(|report| {
                // What is not there lets nothing through.
                report.holds = announced.filter(|_| down && process.is_none());
                report.problem = Some(text);
            });
            let pause = if down && process.is_some() { LOOK * 4 } else { CHECK };
            tokio::select! {
                () = sleep(pause) => {}
                _ = self.outlook.changed() => {}
            }
        }
    }

    /// One connection to the console, until it fails.
    async fn session(&mut self, process: Option<&Process>) -> Result<std::convert::Infallible, ConsoleError> {
        let console = self.admin.connect().await?;
        let mut pause = Pause::Unknown;
        loop {
            let outlook = self.outlook.borrow_and_update().clone();
            match self.want(&outlook) {
                Want::Serve => {
                    self.point(&console, &outlook, process).await?;
                    resume(&console, &self.commands("RESUME"), &mut pause).await?;
                    let problem = self.own.as_ref().and_then(|own| own.users.problem());
                    self.tell(|report| *report = Report { holds: None, problem });
                    self.wait_for_news(&console).await?;
                }
                Want::Hold(announced) => self.hold(&mut pause, announced).await?,
                Want::Wait => self.wait_for_primary(&console, &mut pause, process).await?,
            }
        }
    }

    async fn wait_for_news(&mut self, console: &Console) -> Result<(), ConsoleError> {
        loop {
            let own = self.own.clone();
            let users = async move {
                match &own {
                    Some(own) => own.users.news.notified().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = self.outlook.changed() => return Ok(()),
                () = users => return Ok(()),
                () = sleep(CHECK) => {}
            }
            if console.is_closed() {
                return Err(ConsoleError::Down(self.admin.place()));
            }
        }
    }

    /// Sends sessions to the server that they belong to, if they are not sent there already.
    async fn point(
        &mut self,
        console: &Console,
        outlook: &Outlook,
        process: Option<&Process>,
    ) -> Result<(), ConsoleError> {
        let target = match &self.own {
            Some(own) => own.config.target(outlook).cloned(),
            None => outlook.primary.clone(),
        };
        let Some(target) = target else { return Ok(()) };
        let same = self.pointed.as_ref().is_some_and(|pointed| {
            pointed.target == target && (self.own.is_none() || pointed.generation == outlook.generation)
        });
        let before = self.pointed.as_ref().map(|pointed| pointed.generation);
        if let Some(own) = &self.own {
            match own.write_ini(Some(&target)) {
                Ok(changed) => {
                    if own.users.stale.swap(false, Ordering::Relaxed) || changed {
                        console.run("RELOAD").await?;
                    }
                }
                Err(error) => self.tell(|report| report.problem = Some(error.to_string())),
            }
        }
        if same {
            return Ok(());
        }
        if before.is_some_and(|before| before != outlook.generation) {
            for command in self.commands("RECONNECT") {
                console.run(&command).await?;
            }
        }
        if self.pointed.as_ref().is_some_and(|pointed| pointed.target != target) {
            self.cut(process);
        }
        let place = target.host.clone();
        tracing::info!(host = place, port = target.port, "the pooler at {} serves this server", self.admin.place());
        let peers = self.peers(&target).await;
        self.pointed = Some(Pointed { target, generation: outlook.generation, peers });
        Ok(())
    }

    async fn peers(&self, target: &Server) -> Peers {
        let mut peers = Peers::default();
        peers.sockets.extend(target.socket.clone());
        let lookup = tokio::net::lookup_host((target.host.as_str(), target.port));
        if let Ok(Ok(addresses)) = timeout(CHECK, lookup).await {
            peers.addresses.extend(addresses);
        }
        peers
    }

    /// Ends the connections to the server that was the right one until now.
    fn cut(&self, process: Option<&Process>) {
        let (Some(process), Some(pointed)) = (process, &self.pointed) else { return };
        match cut::connections(process.pid, &pointed.peers) {
            Ok(0) => {}
            Ok(count) => tracing::info!(count, "cut the pooler's connections to the server that is no longer primary"),
            Err(error) => tracing::warn!("cannot cut PgBouncer's connections to the old primary: {error}"),
        }
    }

    /// Pauses, and says so once it is done.
    async fn hold(&mut self, pause: &mut Pause, announced: u64) -> Result<(), ConsoleError> {
        let begun = Instant::now();
        loop {
            if let Pause::Done = pause {
                self.tell(|report| *report = Report { holds: Some(announced), problem: None });
            }
            tokio::select! {
                done = paused(pause, &self.admin, &self.databases) => done?,
                _ = self.outlook.changed() => return Ok(()),
                () = sleep_until(begun + HOLD_LIMIT) => {
                    tracing::warn!("new work was held for {HOLD_LIMIT:?} and nothing came of it; it goes on");
                    self.given_up = Some(announced);
                    return Ok(());
                }
            }
        }
    }

    /// Nobody is primary: clients wait in PgBouncer's queue.
    async fn wait_for_primary(
        &mut self,
        console: &Console,
        pause: &mut Pause,
        process: Option<&Process>,
    ) -> Result<(), ConsoleError> {
        loop {
            let settled = matches!(pause, Pause::Done);
            if !settled {
                self.cut(process);
            }
            tokio::select! {
                done = paused(pause, &self.admin, &self.databases) => done?,
                _ = self.outlook.changed() => return Ok(()),
                () = sleep(if settled { CHECK } else { CUT_AGAIN }) => {}
            }
            if console.is_closed() {
                return Err(ConsoleError::Down(self.admin.place()));
            }
        }
    }

    /// A command of the console, for all databases or for each.
    fn commands(&self, command: &str) -> Vec<String> {
        commands(command, &self.databases)
    }
}

fn commands(command: &str, databases: &[String]) -> Vec<String> {
    if databases.is_empty() {
        return vec![command.to_owned()];
    }
    databases.iter().map(|name| format!("{command} \"{}\"", name.replace('"', "\"\""))).collect()
}

/// Begins to pause unless that is under way, and waits until it is done; for ever when it is.
async fn paused(pause: &mut Pause, admin: &Admin, databases: &[String]) -> Result<(), ConsoleError> {
    if let Pause::Unknown | Pause::Resumed = pause {
        let (admin, commands) = (admin.clone(), commands("PAUSE", databases));
        *pause = Pause::Going(tokio::spawn(async move {
            let console = admin.connect().await?;
            for command in commands {
                match console.unbounded(&command).await {
                    // Another proxy was faster: its PAUSE need not be done yet.
                    Err(error) if error.says("already") => {
                        while console.servers_in_use().await? > 0 {
                            sleep(LOOK).await;
                        }
                    }
                    done => drop(done?),
                }
            }
            Ok(())
        }));
    }
    let done = match pause {
        Pause::Going(task) => task.await,
        _ => std::future::pending().await,
    };
    match done {
        Ok(Ok(())) => *pause = Pause::Done,
        Ok(Err(error)) => {
            *pause = Pause::Unknown;
            return Err(error);
        }
        // The runtime is going down.
        Err(_) => *pause = Pause::Unknown,
    }
    Ok(())
}

/// Undoes a pause; also one that is not done yet, and one that an earlier process of ours left behind.
async fn resume(console: &Console, commands: &[String], pause: &mut Pause) -> Result<(), ConsoleError> {
    if let Pause::Resumed = pause {
        return Ok(());
    }
    for command in commands {
        loop {
            match console.run(command).await {
                Ok(_) => break,
                Err(error) if error.says("not paused") => {
                    // PAUSE was sent on another connection and may arrive after this.
                    match pause {
                        Pause::Going(task) if !task.is_finished() => sleep(LOOK).await,
                        _ => break,
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }
    if let Pause::Going(task) = pause {
        task.abort();
    }
    *pause = Pause::Resumed;
    Ok(())
}

/// Looks after a pooler until `stop`. One of our own is started, started again when it ends, and ended with us;
/// its open transactions get `drain`.
pub async fn attend(mut pooler: Pooler, stop: CancellationToken, drain: Duration) {
    let Some(own) = pooler.own.clone() else {
        tokio::select! {
            () = pooler.look_after(None) => {}
            () = stop.cancelled() => {}
        }
        return;
    };
    let mut back_off = BACK_OFF.0;
    while !stop.is_cancelled() {
        let begun = Instant::now();
        let Some(problem) = one_life(&mut pooler, &own, &stop, drain).await else { return };
        tracing::error!("{problem}; it is started again");
        pooler.tell(|report| *report = Report { holds: None, problem: Some(problem) });
        back_off = if begun.elapsed() > BACK_OFF.1 * 2 { BACK_OFF.0 } else { (back_off * 2).min(BACK_OFF.1) };
        tokio::select! {
            () = sleep(back_off) => {}
            () = stop.cancelled() => {}
        }
    }
}

/// From the start of PgBouncer to its end: what went wrong, or nothing when it was stopped.
async fn one_life(pooler: &mut Pooler, own: &Arc<Own>, stop: &CancellationToken, drain: Duration) -> Option<String> {
    let process = match own.run().await {
        Ok(process) => process,
        Err(error) => return Some(error.to_string()),
    };
    // Which server the new process is pointed at is in its file only.
    pooler.pointed = None;
    let outlook = pooler.outlook.clone();
    let ended = tokio::select! {
        () = own.keep_users(outlook) => None,
        () = pooler.look_after(Some(&process)) => None,
        how = process.exited() => Some(how),
        () = stop.cancelled() => None,
    };
    let Some(how) = ended else {
        process.end(drain).await;
        return None;
    };
    Some(format!("PgBouncer has ended ({how}); it said: {}", own.last_words()))
}
