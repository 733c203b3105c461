//! The thread that notices what others did: changes, leases whose time is up, and the loss of the file.
//!
//! It sleeps until the bell rings ([`super::bell`]), the next lease ends, or a second has passed. Without
//! a bell it looks every 50 ms. A look without news is one `stat` and one `PRAGMA data_version`.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::sync::watch;

use super::bell::Listener;
use super::file::{FileId, Place};
use super::worker::{Job, announce};
use super::{entries, leases};
use crate::clock::boot_clock_ms;
use crate::store::Revision;

/// Longest time between two looks while the bell can be heard.
const SAFETY_NET: Duration = Duration::from_secs(1);
/// Time between two looks while it cannot.
const WITHOUT_BELL: Duration = Duration::from_millis(50);
/// Before an expired lease that is still there is swept again.
const SWEEP_AGAIN: Duration = Duration::from_millis(250);

pub(super) struct Watcher {
    /// Never writes, so that `data_version` changes with every commit of the others and the worker.
    pub db: Connection,
    pub place: Place,
    pub file: FileId,
    pub boot: String,
    pub news: watch::Sender<Revision>,
    pub jobs: Sender<Job>,
    /// Whether a sweep that was asked for is still to be done.
    pub sweeping: Arc<AtomicBool>,
    /// Becomes readable when the handle is dropped.
    pub stop: Arc<OwnedFd>,
    pub listener: Option<Listener>,
    pub known: Known,
}

/// What the last look found.
#[derive(Default)]
pub(super) struct Known {
    data_version: Option<i64>,
    next_deadline: Option<u64>,
    /// The deadline whose lease was last asked to be swept, and when.
    swept: Option<(u64, Instant)>,
    /// The trouble that the watchers were told about, until it is over.
    trouble: Option<String>,
}

impl Watcher {
    /// Watches until the handle is dropped.
    pub fn run(mut self) {
        loop {
            let trouble = self.look();
            self.tell(trouble);
            let wait = self.sweep_what_is_over();
            if self.wait(wait) {
                return;
            }
        }
    }

    /// Looks for news; gives what is wrong, if something is.
    fn look(&mut self) -> Option<String> {
        if let Some(reason) = self.file.lost(&self.place.path) {
            self.known.next_deadline = None;
            return Some(reason);
        }
        // Before the look: a commit of our own may announce more while it goes on.
        let known = *self.news.borrow();
        match self.look_at_data() {
            Ok(revision) if revision < known => Some("it went back to an earlier state".to_owned()),
            Ok(revision) => {
                announce(&self.news, revision);
                None
            }
            Err(error) => {
                self.known.data_version = None;
                Some(error.to_string())
            }
        }
    }

    fn look_at_data(&mut self) -> rusqlite::Result<Revision> {
        let version = self.db.prepare_cached("PRAGMA data_version")?.query_row([], |row| row.get::<_, i64>(0))?;
        if self.known.data_version == Some(version) {
            return Ok(*self.news.borrow());
        }
        let tx = self.db.transaction()?;
        let revision = entries::revision(&tx)?;
        self.known.next_deadline = leases::next_deadline(&tx, &self.boot)?;
        // The version read first may be older than what was read after it; then the next look reads again.
        self.known.data_version = Some(version);
        Ok(revision)
    }

    /// Logs the beginning and the end of trouble once, and wakes the watchers so that they read and fail.
    fn tell(&mut self, trouble: Option<String>) {
        if trouble != self.known.trouble {
            match &trouble {
                Some(reason) => tracing::error!(store = %self.place, %reason, "the store cannot be followed"),
                None => tracing::info!(store = %self.place, "the store can be followed again"),
            }
            self.news.send_modify(|_| {});
            self.known.trouble = trouble;
        }
    }

    /// Has leases that are over removed; gives the time until there is something to do again.
    fn sweep_what_is_over(&mut self) -> Duration {
        let bell = self.listener.as_ref().is_some_and(Listener::hears);
        let net = if bell { SAFETY_NET } else { WITHOUT_BELL };
        let Some(deadline) = self.known.next_deadline else { return net };
        let left = Duration::from_millis(deadline.saturating_sub(boot_clock_ms()));
        if !left.is_zero() {
            return net.min(left);
        }
        let due = self.known.swept.is_none_or(|(swept, at)| swept != deadline || at.elapsed() >= SWEEP_AGAIN);
        if due && !self.sweeping.swap(true, Ordering::Acquire) {
            self.known.swept = Some((deadline, Instant::now()));
            // A worker that is gone has taken the handle with it, and the next wait ends.
            let _ = self.jobs.send(Job::Sweep);
        }
        net.min(SWEEP_AGAIN)
    }

    /// Sleeps until something happens or `time` is over; true when the handle is gone.
    fn wait(&mut self, time: Duration) -> bool {
        let timeout = Timespec::try_from(time).expect("at most a second");
        let mut fds = vec![PollFd::from_borrowed_fd(self.stop.as_fd(), PollFlags::IN)];
        if let Some(listener) = &self.listener {
            fds.push(PollFd::from_borrowed_fd(listener.as_fd(), PollFlags::IN));
        }
        // An interrupted poll is as good as a timeout: the loop looks again.
        let _ = poll(&mut fds, Some(&timeout));
        let stopped = !fds[0].revents().is_empty();
        let heard = fds.get(1).is_some_and(|fd| !fd.revents().is_empty());
        if let Some(listener) = &mut self.listener {
            if heard {
                listener.drain();
            }
            listener.rearm();
        }
        stopped
    }
}
