//! A store that went back in time, as far as decisions do not see it.
//!
//! `decide` refuses to act on such a store, and has the leader of the newest epoch write the records anew. What the store then
//! says in the keys that only the shell reads has been overtaken as well: a configuration that people have changed since, the line
//! of data that counts since a restore in place, the history. It is neither acted on nor kept.

use matriarch_core::decide::Purpose;
use matriarch_core::record::{SyncRecord, key};
use matriarch_core::transaction::{Life, Txn};

use super::Shell;
use crate::in_place;
use crate::view::Reading;

/// Whether the store shows the past, and what it showed before that.
#[derive(Default)]
pub(super) struct Past {
    shown: bool,
    /// None when this process has only ever seen the past.
    present: Option<Box<Reading>>,
}

impl Past {
    pub fn is_shown(&self) -> bool {
        self.shown
    }
}

impl Shell {
    /// A reading is about to be taken in.
    pub(super) fn look_back(&mut self, reading: &Reading) {
        let shown = self.lasting.newest().is_some_and(|newest| is_older(reading, newest));
        if shown && !self.past.shown {
            self.past = Past { shown, present: self.reading.take().map(Box::new) };
        } else if !shown {
            self.past = Past::default();
        }
    }

    /// What the keys beside the records say, as far as that has not been overtaken.
    pub(super) fn present(&self) -> Option<&Reading> {
        self.past.present.as_deref().or(self.reading.as_ref())
    }

    /// The record of the newest epoch.
    pub(super) fn newest_sync(&self) -> Option<&SyncRecord> {
        if self.past.shown { self.lasting.newest() } else { self.sync() }
    }

    /// Whoever writes the records anew writes these as well, with the same compare-and-set.
    pub(super) fn with_what_was_known(&self, purpose: Purpose, mut txn: Txn) -> Txn {
        let (Some(known), Some(old)) = (&self.past.present, &self.reading) else { return txn };
        if purpose != Purpose::Recreate {
            return txn;
        }
        // One that is gone is written anew by the decision.
        if let (Some(known), Some(old)) = (&known.config, &old.config)
            && known.value != old.value
        {
            txn = txn.unchanged(key::CONFIG, old.revision).put_text(key::CONFIG, known.value.clone(), Life::Permanent);
        }
        let overtaken = old.in_place.as_ref().map(|old| &old.value);
        if let Some(known) = known.in_place.as_ref().filter(|known| Some(&known.value) != overtaken) {
            let seen = old.in_place.as_ref().map(|old| old.revision);
            txn = txn.as_seen(in_place::KEY, seen).put(in_place::KEY, &known.value);
        }
        if !known.view.history.is_empty() && known.view.history != old.view.history {
            txn = txn.as_seen(key::HISTORY, old.view.history_revision).put(key::HISTORY, &known.view.history);
        }
        txn
    }
}

/// As decisions judge it.
fn is_older(reading: &Reading, newest: &SyncRecord) -> bool {
    let age = |sync: &SyncRecord| (sync.epoch, sync.serial);
    let shown = reading.view.sync.as_ref().map(|sync| age(&sync.value));
    let initialized = reading.view.initialize.as_ref().is_some_and(|system| !system.value.is_empty());
    !initialized || shown < Some(age(newest))
}
