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
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use crate::console::{Admin, Console, ConsoleError};
use crate::pause::Pause;
use crate::point::Pointed;
use crate::process::{Own, Process};
use crate::settings::Serves;

/// A hold that lasts longer is given up: the leader's own bound is far shorter, so it cannot take it back.
const HOLD_LIMIT: Duration = Duration::from_secs(120);
/// While a lost server's connections are cut and PAUSE is not done: PgBouncer may have opened another in between.
const CUT_AGAIN: Duration = Duration::from_millis(50);
/// PgBouncer's console, while its process comes up.
const LOOK: Duration = Duration::from_millis(20);
pub(crate) const CHECK: Duration = Duration::from_secs(1);

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

impl Server {
    /// The same instance, by whatever way.
    pub(crate) fn is_same(&self, other: &Server) -> bool {
        (&self.host, self.port) == (&other.host, other.port)
    }
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
    pub(crate) admin: Admin,
    databases: Vec<String>,
    pub(crate) own: Option<Arc<Own>>,
    pub(crate) outlook: watch::Receiver<Outlook>,
    report: watch::Sender<Report>,
    pub(crate) pointed: Option<Pointed>,
    given_up: Option<u64>,
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

    pub(crate) fn tell(&self, change: impl FnOnce(&mut Report)) {
        self.report.send_if_modified(|report| {
            let before = report.clone();
            change(report);
            *report != before
        });
    }

    /// Looks after the console for as long as the process is there, whatever happens to the connection.
    pub(crate) async fn look_after(&mut self, process: Option<&Process>) {
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
            let pause = if down && process.is_some() { LOOK } else { CHECK };
            tokio::select! {
                () = sleep(pause) => {}
                _ = self.outlook.changed() => {}
            }
        }
    }

    /// One connection to the console, until it fails.
    async fn session(&mut self, process: Option<&Process>) -> Result<std::convert::Infallible, ConsoleError> {
        let console = self.admin.connect().await?;
        let mut pause = Pause::new(self.admin.clone(), self.databases.clone());
        loop {
            let outlook = self.outlook.borrow_and_update().clone();
            match self.want(&outlook) {
                Want::Serve => {
                    self.point(&console, &outlook, &pause, process).await?;
                    if pause.resume(&console).await? {
                        tracing::info!("resumed the pooler at {}", self.admin.place());
                    }
                    let problem = self.own.as_ref().and_then(|own| own.users.problem());
                    self.tell(|report| *report = Report { holds: None, problem });
                    self.learn_peers().await;
                    pause.get_ready().await;
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

    /// Pauses, and says so once it is done.
    async fn hold(&mut self, pause: &mut Pause, announced: u64) -> Result<(), ConsoleError> {
        let begun = Instant::now();
        tracing::info!("pausing the pooler at {}: a switchover is announced", self.admin.place());
        loop {
            if pause.is_done() {
                self.tell(|report| *report = Report { holds: Some(announced), problem: None });
            }
            tokio::select! {
                done = pause.pause() => {
                    done?;
                    let waited = begun.elapsed().as_millis();
                    tracing::info!("paused the pooler at {} in {waited} ms", self.admin.place());
                }
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
            let settled = pause.is_done();
            if !settled {
                self.cut(process);
            }
            tokio::select! {
                done = pause.pause() => done?,
                _ = self.outlook.changed() => return Ok(()),
                () = sleep(if settled { CHECK } else { CUT_AGAIN }) => {}
            }
            if console.is_closed() {
                return Err(ConsoleError::Down(self.admin.place()));
            }
        }
    }
}
