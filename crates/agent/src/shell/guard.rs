//! Until when the guard lets PostgreSQL be writable.

use matriarch_core::decide::{Millis, Server};

use super::Shell;

impl Shell {
    /// What the guard confirmed matters to a decision; that it moved the deadline of a primary on, as asked, does not.
    pub(super) fn guard_has_news(&mut self) -> bool {
        let state = self.guard_state.borrow_and_update().clone();
        let before = std::mem::replace(&mut self.guard_said, state);
        let state = &self.guard_said;
        let moved_on = before.alive && state.alive && before.deadline > 0 && state.deadline >= before.deadline;
        let same_watchdog = before.watchdog == state.watchdog;
        !(moved_on && same_watchdog && self.pg.is_primary() && self.pg.busy().is_none())
    }

    /// The guard follows the lease while that is renewed, and what else gives authority when it is not; it is let go only
    /// when PostgreSQL certainly is not writable, and no job may yet make it so: else a start that was held up beyond its
    /// deadline would find a guard that looks away.
    pub(super) fn tell_guard(&mut self, now: Millis) {
        let ttl = crate::policy::ttl(&self.config);
        let lease = self.storage.leader.map(|held| held.until);
        let deadline = match (lease, self.authority) {
            _ if self.config.pause => None,
            (Some(lease), _) if lease > now + ttl / 2 => Some(lease),
            (_, Some(authority)) => Some(authority),
            (lease, None) => lease,
        };
        let idle = !self.pg.is_primary() && self.pg.server != Server::Unready && !self.pg.may_become_primary();
        match deadline.filter(|deadline| *deadline > now || !idle) {
            // The voters' word moves it a little with each beat; each order wakes the guard and us.
            Some(deadline) if deadline < self.armed || deadline >= self.armed + ttl / 8 => {
                self.armed = deadline;
                self.guard.arm(deadline);
            }
            Some(_) => {}
            None if self.config.pause || idle => {
                self.armed = 0;
                self.guard.disarm();
            }
            None => {}
        }
    }
}
