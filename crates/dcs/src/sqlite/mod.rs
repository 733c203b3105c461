//! The SQLite engine: one file that several processes of one host share. Start at [`SqliteStore::open`].
//!
//! ```text
//!  Store calls ── Job ──> worker thread ── BEGIN IMMEDIATE … COMMIT (fsync) ──> store.db, -wal
//!                            │ rings                                                │ data_version
//!                            v                                                      v
//!                        store.db-bell ── inotify ──> watcher thread ──> watch::Receiver<Revision>
//! ```

mod bell;
mod entries;
mod fault;
mod file;
mod holder;
mod leases;
mod schema;
mod watch;
mod worker;

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use async_trait::async_trait;
use rustix::event::{EventfdFlags, eventfd};
use tokio::sync::{oneshot, watch as news};

use crate::clock::boot_id;
use crate::error::StoreError;
use crate::store::{Committed, LeaseId, Revision, Snapshot, Store, Txn};
use bell::{Bell, Listener};
use file::Place;
use watch::Watcher;
use worker::{Job, Reply, Worker};

/// A handle to one cluster (scope) in a store file. Dropping it ends its two threads.
pub struct SqliteStore {
    place: Place,
    identity: String,
    jobs: Sender<Job>,
    news: news::Sender<Revision>,
    stop: Arc<OwnedFd>,
}

impl SqliteStore {
    /// Opens the store at `path`, which is created (mode 0600) if it is missing. Its directory must exist.
    pub async fn open(path: impl AsRef<Path>, scope: &str) -> Result<Self, StoreError> {
        Self::start(path.as_ref(), scope, true).await
    }

    /// Opens the store at `path`, or fails with [`StoreError::Missing`].
    pub async fn open_existing(path: impl AsRef<Path>, scope: &str) -> Result<Self, StoreError> {
        Self::start(path.as_ref(), scope, false).await
    }

    /// A random text that was drawn when the file was created: two stores never share it.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// The file, as an absolute path without symbolic links.
    pub fn path(&self) -> &Path {
        &self.place.path
    }

    async fn start(path: &Path, scope: &str, create: bool) -> Result<Self, StoreError> {
        let (path, scope) = (path.to_owned(), scope.to_owned());
        let failed = format!("sqlite:{} scope {scope}", path.display());
        let started = tokio::task::spawn_blocking(move || start(&path, &scope, create)).await;
        started.unwrap_or_else(|error| Err(StoreError::Unavailable { place: failed, reason: error.to_string() }))
    }

    async fn ask<T>(&self, job: impl FnOnce(Reply<T>) -> Job) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.jobs.send(job(reply)).map_err(|_| self.worker_gone(false))?;
        answer.await.unwrap_or_else(|_| Err(self.worker_gone(true)))
    }

    fn worker_gone(&self, asked: bool) -> StoreError {
        let place = self.place.to_string();
        let reason = "its thread has ended; restart this process".to_owned();
        if asked { StoreError::Indeterminate { place, reason } } else { StoreError::Unavailable { place, reason } }
    }
}

fn start(path: &Path, scope: &str, create: bool) -> Result<SqliteStore, StoreError> {
    let opened = schema::open(path, scope, create)?;
    let place = opened.place;
    let no_threads = |error: std::io::Error| fault::unavailable(&place, error.to_string());
    let boot = boot_id().map_err(|error| fault::unavailable(&place, format!("no boot id, is /proc there? {error}")))?;
    let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC).map_err(|error| no_threads(error.into()))?);
    let revision =
        entries::revision(&opened.reader).map_err(|error| fault::store_error(&place, fault::Stage::Open, &error))?;
    let news = news::Sender::new(revision);
    let (jobs, queue) = channel();
    let sweeping = Arc::new(AtomicBool::new(false));
    let listener = Listener::new(&place.path)
        .inspect_err(|error| {
            tracing::warn!(store = %place, %error, "no inotify: looking for changes every 50 ms instead; \
                 raise fs.inotify.max_user_instances if that is the limit");
        })
        .ok();

    let worker = Worker {
        db: opened.writer,
        place: place.clone(),
        file: opened.file,
        boot: boot.clone(),
        bell: Bell::of(&place.path),
        news: news.clone(),
        seen: revision,
        patience: opened.patience,
        sweeping: Arc::clone(&sweeping),
    };
    let watcher = Watcher {
        db: opened.reader,
        place: place.clone(),
        file: opened.file,
        boot,
        news: news.clone(),
        jobs: jobs.clone(),
        sweeping,
        stop: Arc::clone(&stop),
        listener,
        known: watch::Known::default(),
    };
    let thread = |name: &str| std::thread::Builder::new().name(name.to_owned());
    thread("store-worker").spawn(move || worker.run(&queue)).map_err(no_threads)?;
    thread("store-watcher").spawn(move || watcher.run()).map_err(no_threads)?;
    Ok(SqliteStore { identity: opened.identity, jobs, news, stop, place })
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        // The watcher holds the last sender of jobs: it ends, and then the worker does.
        let _ = rustix::io::write(&*self.stop, &1u64.to_ne_bytes());
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn read(&self) -> Result<Snapshot, StoreError> {
        self.ask(Job::Read).await
    }

    async fn commit(&self, txn: Txn) -> Result<Committed, StoreError> {
        txn.check()?;
        self.ask(|reply| Job::Commit(txn, reply)).await
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        self.ask(|reply| Job::Grant(ttl, reply)).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.ask(|reply| Job::KeepAlive(lease, reply)).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.ask(|reply| Job::Revoke(lease, reply)).await
    }

    fn watch(&self) -> news::Receiver<Revision> {
        self.news.subscribe()
    }

    fn describe(&self) -> String {
        self.place.to_string()
    }
}
