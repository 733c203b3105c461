//! What this member must still know after its agent, or its host, was started anew: the newest `sync` record it ever saw,
//! and until when it promised not to take over.
//!
//! Kept in a small file beside the data directory, so that neither a clone nor a rewind touches it. A file that cannot be
//! read is put aside and taken for what is safe: the longest promise counts from now, and the next record seen is the
//! newest.

use std::path::PathBuf;

use matriarch_core::decide::Millis;
use matriarch_core::record::SyncRecord;
use matriarch_dcs::boot_clock_ms;
use matriarch_dcs::clock::boot_id;
use matriarch_postgres::files::{self, FileError};
use matriarch_postgres::{Instance, Owner};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::UnboundedSender;

use crate::event::Event;

/// Assumed to have been promised when nobody can tell, in milliseconds.
const UNKNOWN_PROMISE: Millis = 60_000;

/// The file's content.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Content {
    /// The cluster it is about: the same directory may serve another one some day.
    scope: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    newest: Option<SyncRecord>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    promise: Option<Promise>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Promise {
    /// The boot that `until` belongs to.
    boot: String,
    /// On the boot clock.
    until: Millis,
    /// How long it was when given: after a reboot nobody knows how much of it is left.
    time: Millis,
}

/// The file and what is in it.
pub struct Lasting {
    path: PathBuf,
    owner: Option<Owner>,
    boot: String,
    content: Content,
    promised_until: Millis,
    saving: bool,
    /// Changed since the newest save began.
    dirty: bool,
    problem: Option<String>,
}

impl Lasting {
    /// Reads the file.
    pub fn load(instance: &Instance, scope: &str) -> Lasting {
        let mut name = instance.data_dir.clone().into_os_string();
        name.push(".lasting");
        // Without /proc no two boots are the same, which only makes promises longer.
        let boot = boot_id().unwrap_or_else(|_| format!("{:016x}", rand::random::<u64>()));
        Lasting::read(PathBuf::from(name), instance.owner.clone(), scope, boot, boot_clock_ms())
    }

    fn read(path: PathBuf, owner: Option<Owner>, scope: &str, boot: String, now: Millis) -> Lasting {
        let mut lasting = Lasting {
            path,
            owner,
            boot,
            content: Content { scope: scope.to_owned(), ..Content::default() },
            promised_until: 0,
            saving: false,
            dirty: false,
            problem: None,
        };
        let text = match std::fs::read_to_string(&lasting.path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return lasting,
            text => text.map_err(|error| error.to_string()),
        };
        match text.and_then(|text| serde_json::from_str::<Content>(&text).map_err(|error| error.to_string())) {
            Ok(content) if content.scope == scope => lasting.content = content,
            Ok(_) => {}
            Err(error) => lasting.put_aside(&error, now),
        }
        if let Some(promise) = &lasting.content.promise {
            let here = promise.boot == lasting.boot;
            lasting.promised_until = if here { promise.until } else { now + promise.time };
        }
        lasting
    }

    fn put_aside(&mut self, error: &str, now: Millis) {
        let mut aside = self.path.clone().into_os_string();
        aside.push(".unreadable");
        let aside = PathBuf::from(aside);
        tracing::error!(
            "{} cannot be read ({error}): it is kept as {}; this member does not take over for {} s and forgets which \
             state of the store was the newest it had seen",
            self.path.display(),
            aside.display(),
            UNKNOWN_PROMISE / 1000
        );
        let _ = std::fs::rename(&self.path, &aside);
        self.content = Content {
            scope: self.content.scope.clone(),
            newest: None,
            promise: Some(Promise { boot: self.boot.clone(), until: now + UNKNOWN_PROMISE, time: UNKNOWN_PROMISE }),
        };
    }

    /// The newest `sync` record ever seen.
    pub fn newest(&self) -> Option<&SyncRecord> {
        self.content.newest.as_ref()
    }

    /// Until when this member promised not to take over (boot clock).
    pub fn promised_until(&self) -> Millis {
        self.promised_until
    }

    /// Why it cannot be written, while it cannot.
    pub fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    /// Takes note of a record; true when it is news that must be on disk before anything is done about it.
    pub fn learn(&mut self, sync: &SyncRecord) -> bool {
        let age = |sync: &SyncRecord| (sync.epoch, sync.serial);
        let known = self.content.newest.as_ref();
        if known.is_some_and(|known| age(sync) < age(known) || known == sync) {
            return false;
        }
        self.content.newest = Some(sync.clone());
        self.dirty = true;
        true
    }

    /// Promises not to take over for `time` from now on; to be told to nobody before it is saved.
    pub fn promise(&mut self, now: Millis, time: Millis) {
        self.promised_until = self.promised_until.max(now + time);
        self.content.promise = Some(Promise { boot: self.boot.clone(), until: self.promised_until, time });
        self.dirty = true;
    }

    /// Everything is on disk, or the attempt has failed.
    pub fn is_settled(&self) -> bool {
        !self.saving && !self.dirty
    }

    /// Saves what has changed; the answer is an event.
    pub fn save(&mut self, events: &UnboundedSender<Event>) {
        if self.saving || !self.dirty {
            return;
        }
        (self.saving, self.dirty) = (true, false);
        let (path, owner, events) = (self.path.clone(), self.owner.clone(), events.clone());
        let text = serde_json::to_string(&self.content).expect("records have string keys");
        tokio::task::spawn_blocking(move || {
            let saved = files::write_atomic(&path, text.as_bytes(), 0o600, owner.as_ref());
            let _ = events.send(Event::Saved(saved.map(|_| ())));
        });
    }

    /// What could not be written is to be written.
    pub fn again(&mut self) {
        self.dirty = true;
    }

    /// Takes the end of a save into account; true when it is on disk.
    pub fn saved(&mut self, result: Result<(), FileError>) -> bool {
        self.saving = false;
        let problem = result.err().map(|error| format!("what must outlive a restart is not kept: {error}"));
        if let Some(problem) = problem.as_ref().filter(|problem| self.problem.as_ref() != Some(problem)) {
            tracing::error!("{problem}");
        }
        self.problem = problem;
        self.problem.is_none()
    }
}

#[cfg(test)]
mod tests;
