//! Gathers one frozen observation.

use std::collections::BTreeSet;

use matriarch_core::decide::{Job, Millis, Observation};

use super::{Shell, strangers};

impl Shell {
    pub(super) fn observe(&self, now: Millis) -> Observation {
        let view = self.reading.as_ref().map(|reading| strangers::set_apart(reading.view.clone()));
        let alive: BTreeSet<_> = view.iter().flat_map(|view| view.members.keys().cloned()).collect();
        let mut store = view;
        if let Some(view) = &mut store {
            self.routers.forget(view);
            view.failover_due &= !self.wish_waits(view, now);
        }
        if let (Some(view), Some(held)) = (&mut store, self.storage.leader)
            && let Some(leader) = &mut view.leader
        {
            // A read tells whose lease the key is bound to; a lease that was dropped since holds nothing.
            leader.held = leader.held && held.until > 0;
        } else if let Some(leader) = store.as_mut().and_then(|view| view.leader.as_mut()) {
            leader.held = false;
        }
        Observation {
            now,
            store,
            lease: self.storage.lease(),
            data: self.data_that_counts(),
            server: self.pg.observed(),
            busy: self.pg.busy().cloned().or_else(|| self.replaces_data().then_some(Job::Restart)),
            finished: self.pg.finished.clone(),
            stopping: self.stopping,
            reinit: self.reinit,
            restart: self.restarts.is_held(),
            alive,
            ailment: self.ailment(),
            woke: self.waking.woke,
            pulse: self.heartbeats.pulse(),
            support: self.support(),
            // While a newer record is on its way to the disk, the view in use is older than it, and yet the store has not
            // gone back.
            newest: match &self.unsaved {
                Some(unsaved) => unsaved.before.clone(),
                None => self.lasting.newest().cloned(),
            },
            config: self.config_text.clone(),
            guarded_until: Some(self.guard_state.borrow().deadline).filter(|deadline| *deadline > 0),
            promised_until: self.lasting.promised_until(),
            watchdog: self.lacks_watchdog().cloned(),
        }
    }
}
