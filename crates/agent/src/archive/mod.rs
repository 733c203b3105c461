//! WAL into the archive: what PostgreSQL's `archive_command` and `restore_command` ask for, and what nobody asks for.
//!
//! ```text
//! loop ── Charge (what is configured, what PostgreSQL is) ──> worker ── uploads ──> repositories
//! archive_command ── socket: push NAME ──────────────────────>  │   reads ahead in archive_status/*.ready
//! restore_command ── socket: fetch NAME ─────────────────────>  │
//! loop <── ArchiveStatus, position up to which WAL may go ──────┘
//! ```
//!
//! The worker has a thread and a runtime of its own: compressing and sending WAL must not come between the loop and its lease.
//! It is started with the first configuration that has an archive.

mod ahead;
mod backfill;
mod client;
mod echo;
mod endings;
mod files;
mod open;
mod serve;
mod tail;
mod waiting;
mod wire;
mod worker;

pub use client::WalCommand;
pub(crate) use waiting::{keep, settle};

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use matriarch_api::{ArchiveCheckRow, ArchiveDurability, ArchiveStatus, ScheduledBackups, ScheduledDumps};
use matriarch_archive::configured::Identity;
use matriarch_core::{Lsn, Timeline};
use matriarch_postgres::Instance;
use tokio::sync::{mpsc, oneshot, watch};

use self::tail::Tails;
use crate::durability::Tail;

/// What does not change while an agent runs.
#[derive(Clone, Debug)]
pub struct Place {
    /// Name of the cluster.
    pub scope: String,
    /// The data directory.
    pub data_dir: PathBuf,
    /// PostgreSQL on this host.
    pub instance: Instance,
    /// Where `wal-push` and `wal-fetch` reach the agent.
    pub socket: PathBuf,
}

/// What the worker has to go by.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Charge {
    /// The section of the configuration.
    pub section: Option<Arc<matriarch_config::Archive>>,
    /// Which database is here, once that is known.
    pub identity: Option<Identity>,
    /// What its PostgreSQL is.
    pub standing: Standing,
    /// `archive_mode` is in force.
    pub archives: bool,
    /// The line of data in the directory: another one is archived under another name.
    pub line: Option<String>,
    /// How many connections of each tail commits wait for; zero: they do not.
    pub votes: usize,
}

/// What the member's PostgreSQL is, as far as archiving goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Standing {
    /// It writes this timeline.
    Primary(Timeline),
    /// It is being stopped and must not wait for a store.
    Stopping,
    /// It is a standby, or does not run: the agent archives what is left of an earlier primary.
    #[default]
    Other,
}

/// What people ask of it.
enum Ask {
    Push(matriarch_archive::wal::WalName, oneshot::Sender<wire::Answer>),
    Check(oneshot::Sender<Vec<ArchiveCheckRow>>),
    Init(oneshot::Sender<Vec<ArchiveCheckRow>>),
}

/// What loop, API and worker share.
#[derive(Default)]
pub struct Board {
    shown: Mutex<Shown>,
    /// Where WAL was flushed to, as last seen before whatever the worker looks at next.
    flushed: AtomicU64,
    asks: Mutex<Option<mpsc::UnboundedSender<Ask>>>,
    tails: Mutex<Tails>,
    backups: Mutex<Option<ScheduledBackups>>,
    dumps: Mutex<Option<ScheduledDumps>>,
    durability: Mutex<Option<Awaited>>,
}

/// How commits stand to the archive, and the repositories that they wait for.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Awaited {
    pub shown: ArchiveDurability,
    pub repositories: Vec<String>,
}

#[derive(Clone, Debug, Default)]
struct Shown {
    status: ArchiveStatus,
    /// All WAL before it is archived.
    safe: Option<Lsn>,
    /// Nothing that could be archived is not, and nothing is under way.
    idle: bool,
}

impl Board {
    fn shown(&self) -> MutexGuard<'_, Shown> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How this member stands to the archive.
    pub fn status(&self) -> ArchiveStatus {
        let mut status = self.shown().status.clone();
        let (tails, flushed) = (self.tails(), self.flushed());
        for row in &mut status.repositories {
            row.tail = tails.row(&row.name, flushed);
        }
        if let Some(awaited) = &*self.durability.lock().unwrap_or_else(PoisonError::into_inner) {
            for row in &mut status.repositories {
                let is_awaited = awaited.repositories.contains(&row.name);
                row.tail.iter_mut().for_each(|tail| tail.awaited = is_awaited);
            }
            status.durability = Some(awaited.shown.clone());
        }
        status.backups = self.backups.lock().unwrap_or_else(PoisonError::into_inner).clone();
        status.dumps = self.dumps.lock().unwrap_or_else(PoisonError::into_inner).clone();
        status
    }

    fn tails(&self) -> MutexGuard<'_, Tails> {
        self.tails.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn flushed(&self) -> Lsn {
        Lsn(self.flushed.load(Ordering::Acquire))
    }

    fn ask(&self, ask: Ask) -> bool {
        let asks = self.asks.lock().unwrap_or_else(PoisonError::into_inner);
        asks.as_ref().is_some_and(|asks| asks.send(ask).is_ok())
    }

    /// A round trip with every repository; none when no archive is configured.
    pub async fn check(&self) -> Option<Vec<ArchiveCheckRow>> {
        let (sender, answer) = oneshot::channel();
        self.ask(Ask::Check(sender)).then_some(())?;
        answer.await.ok()
    }

    /// Makes repositories of places that are none yet; none when no archive is configured.
    pub async fn init(&self) -> Option<Vec<ArchiveCheckRow>> {
        let (sender, answer) = oneshot::channel();
        self.ask(Ask::Init(sender)).then_some(())?;
        answer.await.ok()
    }
}

/// The loop's hand on the worker.
pub struct Archiver {
    place: Place,
    charge: watch::Sender<Charge>,
    board: Arc<Board>,
    started: bool,
}

impl Archiver {
    /// Nothing is started before there is something to archive to.
    pub fn new(place: Place, board: Arc<Board>) -> Archiver {
        Archiver { place, charge: watch::channel(Charge::default()).0, board, started: false }
    }

    /// Tells the worker what is so; `flushed`: where a primary's WAL was flushed to.
    pub fn tell(&mut self, charge: Charge, flushed: Option<Lsn>) {
        if let Some(flushed) = flushed {
            self.board.flushed.store(flushed.0, Ordering::Release);
        }
        if charge.section.is_some() && !self.started {
            self.start();
        }
        self.charge.send_if_modified(|told| {
            let changed = *told != charge;
            *told = charge;
            changed
        });
    }

    /// The section as the worker has it, if that is the same.
    pub fn section(&self, section: Option<&matriarch_config::Archive>) -> Option<Arc<matriarch_config::Archive>> {
        let told = self.charge.borrow().section.clone();
        if told.as_deref() == section { told } else { section.cloned().map(Arc::new) }
    }

    fn start(&mut self) {
        let (sender, asks) = mpsc::unbounded_channel();
        let (place, charge, board) = (self.place.clone(), self.charge.subscribe(), self.board.clone());
        let thread = std::thread::Builder::new().name("archive".to_owned());
        match thread.spawn(move || worker::main(&place, charge, asks, &board)) {
            Ok(_) => {
                *self.board.asks.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
                self.started = true;
            }
            Err(error) => tracing::error!("the archive's thread cannot be started: {error}"),
        }
    }

    /// All WAL before this position is in every repository.
    pub fn safe(&self) -> Option<Lsn> {
        self.board.shown().safe
    }

    /// Nothing that could be archived is left, as far as is known.
    pub fn is_idle(&self) -> bool {
        !self.started || self.board.shown().idle
    }

    /// The tails that commits may wait for.
    pub(crate) fn tails(&self) -> Vec<Tail> {
        self.board.tails().all()
    }

    /// How commits stand to the archive.
    pub(crate) fn show_durability(&self, awaited: Option<Awaited>) {
        *self.board.durability.lock().unwrap_or_else(PoisonError::into_inner) = awaited;
    }

    /// How scheduled backups stand.
    pub fn show_backups(&self, backups: Option<ScheduledBackups>) {
        *self.board.backups.lock().unwrap_or_else(PoisonError::into_inner) = backups;
    }

    /// How scheduled dumps stand.
    pub fn show_dumps(&self, dumps: Option<ScheduledDumps>) {
        *self.board.dumps.lock().unwrap_or_else(PoisonError::into_inner) = dumps;
    }

    /// What stands in the way, for the member's record.
    pub fn problem(&self) -> Option<String> {
        self.board.shown().status.problem.clone()
    }

    /// PostgreSQL has stopped for good: waits until what it left is archived, while that gets on.
    pub async fn finish(&self, limit: Duration) {
        let archived = async {
            while self.started && !self.board.shown().idle {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        if tokio::time::timeout(limit, archived).await.is_err() {
            let waiting = self.board.shown().status.waiting;
            tracing::warn!("{waiting} files of WAL are not archived yet; they wait in the data directory");
        }
    }
}
