//! A file beside the store that is opened and closed after each change, so that `inotify` wakes everybody
//! who waits, only then, and at no cost to the idle.
//!
//! Watching the `-wal` file instead would wake everybody for each lease renewal too, and before the
//! change can be seen: SQLite writes the log first and publishes it afterwards. A ring may get lost (its
//! ringer killed, the file removed): whoever waits also looks once a second.
//!
//! Measured by `examples/idle_cost.rs`: an idle handle takes 2 to 4 ms of CPU a minute, and 60 ms where it
//! has to look every 50 ms instead.

use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};

use super::file::beside;

/// Wakes every [`Listener`] of the store.
#[derive(Clone, Debug)]
pub(super) struct Bell {
    store: PathBuf,
    path: PathBuf,
}

impl Bell {
    pub fn of(store: &Path) -> Self {
        Self { store: store.to_owned(), path: beside(store, "-bell") }
    }

    /// Best effort: a listener that misses it looks by itself within a second.
    pub fn ring(&self) {
        let rung = match OpenOptions::new().write(true).open(&self.path) {
            Err(error) if error.kind() == ErrorKind::NotFound => self.create(),
            other => other.map(drop),
        };
        if let Err(error) = rung {
            tracing::debug!(file = %self.path.display(), %error, "cannot wake the other users of the store at once");
        }
    }

    /// Creates the file if needed, with the store's owner: its users may run under different accounts.
    fn create(&self) -> std::io::Result<()> {
        let options = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&self.path);
        let file = match options {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(()),
            other => other?,
        };
        let owner = std::fs::metadata(&self.store)?;
        if file.metadata()?.uid() != owner.uid() {
            std::os::unix::fs::fchown(&file, Some(owner.uid()), Some(owner.gid()))?;
        }
        Ok(())
    }
}

/// Hears the bell, and when the store's file is removed, renamed or replaced.
pub(super) struct Listener {
    bell: Bell,
    events: OwnedFd,
    bell_watch: Option<i32>,
}

impl Listener {
    /// Fails where the kernel has no `inotify` or the user's limit of instances is reached.
    pub fn new(store: &Path) -> rustix::io::Result<Self> {
        let events = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        // Removing a name from an open file shows as a change of its attributes (the link count).
        let gone = WatchFlags::ATTRIB | WatchFlags::MOVE_SELF | WatchFlags::DELETE_SELF;
        inotify::add_watch(&events, store, gone)?;
        let mut listener = Self { bell: Bell::of(store), events, bell_watch: None };
        listener.rearm();
        Ok(listener)
    }

    /// Whether it can hear the bell now; if not, the caller has to look more often.
    pub fn hears(&self) -> bool {
        self.bell_watch.is_some()
    }

    /// Starts to listen, if it does not already.
    pub fn rearm(&mut self) {
        if self.bell_watch.is_none() {
            if let Err(error) = self.bell.create() {
                tracing::debug!(file = %self.bell.path.display(), %error, "cannot create the store's bell");
            }
            let mask = WatchFlags::CLOSE_WRITE | WatchFlags::DELETE_SELF | WatchFlags::MOVE_SELF;
            self.bell_watch = inotify::add_watch(&self.events, &self.bell.path, mask).ok();
        }
    }

    /// Forgets what was heard so far. Afterwards [`Listener::hears`] says if the bell itself is gone.
    pub fn drain(&mut self) {
        let mut buffer = [MaybeUninit::uninit(); 1024];
        let mut lost = None;
        let mut reader = Reader::new(&self.events, &mut buffer);
        while let Ok(event) = reader.next() {
            let over = ReadFlags::MOVE_SELF | ReadFlags::DELETE_SELF | ReadFlags::IGNORED;
            if Some(event.wd()) == self.bell_watch && event.events().intersects(over) {
                lost = self.bell_watch;
            }
        }
        if let Some(watch) = lost {
            // A renamed bell is still watched; a removed one is not, and then there is nothing to undo.
            let _ = inotify::remove_watch(&self.events, watch);
            self.bell_watch = None;
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }
}
