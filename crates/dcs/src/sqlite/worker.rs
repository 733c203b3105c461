//! The thread that owns the writing connection: takes one job after the other and never blocks a runtime.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::time::Duration;

use rusqlite::{Connection, Transaction, TransactionBehavior};
use tokio::sync::{oneshot, watch};

use super::bell::Bell;
use super::entries;
use super::fault::{Stage, store_error, unavailable};
use super::file::{FileId, Place};
use super::leases::{self, Moment};
use super::schema::{LOCK_WAIT, Patience, SHORT_WAIT};
use crate::clock::boot_clock_ms;
use crate::error::StoreError;
use crate::store::{Committed, LeaseId, Revision, Snapshot, Txn};

/// Where the answer to a job goes.
pub(super) type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

/// What a handle asks of its worker.
pub(super) enum Job {
    Read(Reply<Snapshot>),
    Commit(Txn, Reply<Committed>),
    Grant(Duration, Reply<LeaseId>),
    KeepAlive(LeaseId, Reply<()>),
    Revoke(LeaseId, Reply<()>),
    /// From the watcher: a lease's time is up.
    Sweep,
}

pub(super) struct Worker {
    pub db: Connection,
    pub place: Place,
    pub file: FileId,
    pub boot: String,
    pub bell: Bell,
    pub news: watch::Sender<Revision>,
    /// The newest revision this handle has seen.
    pub seen: Revision,
    pub patience: Patience,
    /// Set by the watcher with [`Job::Sweep`], so that it does not ask for another before this one is done.
    pub sweeping: Arc<AtomicBool>,
}

/// One write transaction, after the leases that are over were removed.
struct Turn<'a> {
    tx: &'a Transaction<'a>,
    scope: &'a str,
    moment: Moment<'a>,
    revision: Revision,
    /// Others must look again: a key has changed, or a lease that they must watch over is new.
    ring: bool,
}

/// Inner: the answer, which may be a refusal; outer: SQLite failed and nothing may be kept.
type Outcome<T> = rusqlite::Result<Result<T, StoreError>>;

impl Worker {
    /// Works until every sender is gone.
    pub fn run(mut self, jobs: &Receiver<Job>) {
        while let Ok(job) = jobs.recv() {
            match job {
                Job::Read(reply) => answer(reply, || self.read()),
                Job::Commit(txn, reply) => answer(reply, || self.commit(&txn)),
                Job::Grant(ttl, reply) => answer(reply, || self.write(|turn| turn.grant(ttl))),
                Job::KeepAlive(lease, reply) => answer(reply, || self.keep_alive(lease)),
                Job::Revoke(lease, reply) => answer(reply, || self.write(|turn| turn.revoke(lease))),
                Job::Sweep => {
                    self.sweep();
                    self.sweeping.store(false, Ordering::Release);
                }
            }
        }
    }

    /// Removes what is over, which every write transaction does first. Others wait meanwhile, and a
    /// lock that nobody gives back must not hold up their reading.
    fn sweep(&mut self) {
        self.patience.set(SHORT_WAIT);
        let swept = self.write(|_| Ok(Ok(())));
        self.patience.set(LOCK_WAIT);
        if let Err(error) = swept {
            tracing::debug!(store = %self.place, %error, "could not remove expired leases; trying again");
        }
    }

    fn read(&mut self) -> Result<Snapshot, StoreError> {
        self.check_file()?;
        let (snapshot, next) = self.look()?;
        if next.is_none_or(|deadline| deadline > boot_clock_ms()) {
            return Ok(snapshot);
        }
        // A store that cannot be written still tells what it holds; its leases end when it can be.
        self.sweep();
        self.check_file()?;
        Ok(self.look()?.0)
    }

    /// The scope's content and the end of the next lease, both at one revision.
    fn look(&mut self) -> Result<(Snapshot, Option<u64>), StoreError> {
        let looked = (|| {
            let tx = self.db.transaction()?;
            Ok((entries::snapshot(&tx, &self.place.scope)?, leases::next_deadline(&tx, &self.boot)?))
        })();
        let found: (Snapshot, _) = looked.map_err(|error| store_error(&self.place, Stage::BeforeCommit, &error))?;
        self.note(found.0.revision)?;
        Ok(found)
    }

    fn commit(&mut self, txn: &Txn) -> Result<Committed, StoreError> {
        let place = self.place.to_string();
        self.write(|turn| turn.commit(txn, &place))
    }

    fn keep_alive(&mut self, lease: LeaseId) -> Result<(), StoreError> {
        let place = self.place.to_string();
        self.write(|turn| {
            let found = leases::extend(turn.tx, turn.moment, lease)?;
            Ok(if found { Ok(()) } else { Err(StoreError::LeaseGone { place, lease }) })
        })
    }

    /// Runs `body` in a write transaction of its own, durable when this returns. A refusal by `body`
    /// keeps the sweep that came before it.
    fn write<T>(&mut self, body: impl FnOnce(&mut Turn<'_>) -> Outcome<T>) -> Result<T, StoreError> {
        self.check_file()?;
        let before = self.db.total_changes();
        let place = &self.place;
        let fail = |error| store_error(place, Stage::BeforeCommit, &error);
        let tx = Transaction::new_unchecked(&self.db, TransactionBehavior::Immediate).map_err(fail)?;
        let found = entries::revision(&tx).map_err(fail)?;
        went_back(place, self.seen, found)?;

        let moment = Moment { boot: &self.boot, now_ms: boot_clock_ms() };
        let mut turn = Turn { tx: &tx, scope: &place.scope, moment, revision: found, ring: false };
        let outcome = turn.sweep().and_then(|()| body(&mut turn)).map_err(fail)?;
        let (revision, ring) = (turn.revision, turn.ring);
        if revision != found {
            entries::set_revision(&tx, revision).map_err(fail)?;
        }
        if self.db.total_changes() == before {
            drop(tx);
        } else {
            tx.commit().map_err(|error| store_error(place, Stage::Commit, &error))?;
            if let Some(reason) = self.file.lost(&place.path) {
                return Err(StoreError::Indeterminate { place: place.to_string(), reason });
            }
        }
        self.note(revision)?;
        if ring {
            self.bell.ring();
        }
        outcome
    }

    fn check_file(&self) -> Result<(), StoreError> {
        self.file.lost(&self.place.path).map_or(Ok(()), |reason| Err(unavailable(&self.place, reason)))
    }

    /// Takes note of a revision, and tells the handle's watchers if it is news.
    fn note(&mut self, revision: Revision) -> Result<(), StoreError> {
        went_back(&self.place, self.seen, revision)?;
        self.seen = revision;
        announce(&self.news, revision);
        Ok(())
    }
}

impl Turn<'_> {
    fn sweep(&mut self) -> rusqlite::Result<()> {
        let swept = leases::sweep(self.tx, self.moment)?;
        self.revision += Revision::from(swept.keys > 0);
        self.ring |= swept.keys > 0;
        Ok(())
    }

    fn commit(&mut self, txn: &Txn, place: &str) -> Outcome<Committed> {
        if let Some(failed) = entries::first_failed(self.tx, self.scope, &txn.compares)? {
            return Ok(Ok(Committed::Refused { key: failed.key().to_owned() }));
        }
        for lease in txn.leases() {
            if !leases::exists(self.tx, lease)? {
                return Ok(Err(StoreError::LeaseGone { place: place.to_owned(), lease }));
            }
        }
        if entries::apply(self.tx, self.scope, self.revision + 1, &txn.writes)? > 0 {
            self.revision += 1;
            self.ring = true;
        }
        Ok(Ok(Committed::Applied { revision: self.revision }))
    }

    fn grant(&mut self, ttl: Duration) -> Outcome<LeaseId> {
        self.ring = true;
        leases::grant(self.tx, self.moment, ttl).map(Ok)
    }

    fn revoke(&mut self, lease: LeaseId) -> Outcome<()> {
        let gone = leases::revoke(self.tx, lease)?;
        self.revision += Revision::from(gone.keys > 0);
        self.ring |= gone.keys > 0;
        Ok(Ok(()))
    }
}

/// Tells the watchers of a handle about a revision, if it is newer than what they know.
pub(super) fn announce(news: &watch::Sender<Revision>, revision: Revision) {
    news.send_if_modified(|known| {
        let newer = revision > *known;
        *known = revision.max(*known);
        newer
    });
}

fn went_back(place: &Place, seen: Revision, found: Revision) -> Result<(), StoreError> {
    if found < seen {
        return Err(StoreError::WentBack { place: place.to_string(), seen, found });
    }
    Ok(())
}

/// Does the work only if somebody still waits: a caller that gave up must not be surprised later.
fn answer<T>(reply: Reply<T>, work: impl FnOnce() -> Result<T, StoreError>) {
    if !reply.is_closed() {
        // The caller may give up while the work is done; nobody is left to tell then.
        let _ = reply.send(work());
    }
}
