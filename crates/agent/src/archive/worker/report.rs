//! What the worker tells: how far it is, what failed, and what is a problem.

use std::time::{Duration, SystemTime};

use matriarch_api::{ArchiveFailure, ArchivedFile};
use matriarch_archive::wal::WalName;

use super::{Failure, NOT_BEGUN, Shown, Standing, Waiting, Worker};

/// A failure is a member's problem once files have waited so long.
const PATIENCE: Duration = Duration::from_secs(30);
/// Repositories that a primary has not opened by then are one.
const OPENED_BY: Duration = Duration::from_secs(3);

impl Worker {
    pub(super) fn note_archived(&mut self, name: &WalName) {
        self.try_now();
        let mut shown = self.board.shown();
        shown.status.archived += 1;
        shown.status.last_archived =
            Some(ArchivedFile { file: name.to_string(), at: jiff::Timestamp::now().to_string() });
        // What was refused for its content stays to be seen.
        shown.status.last_failure = self.conflicts.iter().next().map(|(file, why)| ArchiveFailure {
            file: file.to_string(),
            why: why.clone(),
            at: shown.status.last_failure.as_ref().map(|last| last.at.clone()).unwrap_or_default(),
        });
    }

    pub(super) fn note_failure(&mut self, failure: &Failure) {
        self.later();
        let Failure { file, why, .. } = failure;
        let mut shown = self.board.shown();
        let same = shown.status.last_failure.as_ref().is_some_and(|last| last.why == *why);
        shown.status.failures += 1;
        let at = jiff::Timestamp::now().to_string();
        shown.status.last_failure = Some(ArchiveFailure { file: file.clone(), why: why.clone(), at });
        if !same {
            tracing::warn!(file, "WAL is not archived: {why}");
        }
    }

    pub(super) fn show(&self) {
        let opened = self.opened.borrow().clone();
        let missing: Vec<(&WalName, &Waiting)> =
            self.waiting.iter().filter(|(name, _)| !self.held.contains(name)).collect();
        let oldest = missing.iter().min_by_key(|(_, waiting)| waiting.since);
        let settled = self.opened.borrow().all().is_ok() || self.told.section.is_none();
        let mut shown = self.board.shown();
        let Shown { status, idle, safe } = &mut *shown;
        if !matches!(self.told.standing, Standing::Primary(_)) {
            *safe = None;
        }
        *idle = missing.is_empty() && self.in_flight.is_empty() && !self.look
            || settled && status.last_failure.is_some()
            || !settled && !self.opening;
        status.configured = self.told.section.is_some();
        status.incarnation = opened.incarnation.clone();
        status.repositories = opened.rows();
        // Its words name the repository.
        for row in status.repositories.iter_mut().filter(|row| row.problem.is_none()) {
            let about = status.last_failure.as_ref().filter(|failure| failure.why.contains(&row.name));
            row.problem = about.map(|failure| failure.why.clone());
        }
        for row in &mut status.repositories {
            row.ends = self.endings.of(&row.name, jiff::Timestamp::now());
        }
        status.archiving = self.told.archives;
        status.waiting = missing.len() as u64;
        status.kept = missing.iter().filter(|(_, waiting)| waiting.kept).count() as u64;
        status.oldest_waiting = oldest.map(|(name, waiting)| ArchivedFile {
            file: name.to_string(),
            at: jiff::Timestamp::try_from(waiting.since).unwrap_or_default().to_string(),
        });
        let waited = oldest.and_then(|(_, waiting)| SystemTime::now().duration_since(waiting.since).ok());
        status.problem = self.problem(status.last_failure.as_ref(), waited);
    }

    fn problem(&self, failure: Option<&ArchiveFailure>, waited: Option<Duration>) -> Option<String> {
        self.told.section.as_ref()?;
        let primary = matches!(self.told.standing, Standing::Primary(_));
        if let Some(why) = self.conflicts.values().next() {
            return Some(why.clone());
        }
        if let Some(why) = self.board.tails().deposed() {
            return Some(why);
        }
        if let Some(failure) = failure.filter(|_| waited.is_some_and(|waited| waited >= PATIENCE)) {
            return Some(format!("WAL is not archived and piles up, {} first: {}", failure.file, failure.why));
        }
        // A new primary opens what a standby found missing.
        let patience = if primary { OPENED_BY } else { PATIENCE };
        let closed = self.closed.as_ref().filter(|(why, since)| since.elapsed() >= patience && why != NOT_BEGUN);
        closed.map(|(why, _)| why.clone())
    }
}
