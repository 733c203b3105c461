//! Until when the guard lets PostgreSQL be writable.

use matriarch_core::decide::{Millis, Server};

use super::Shell;
use crate::guard::GuardState;

/// Whether PostgreSQL may be in the middle of a promotion although it still says that it is a standby.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Promoting {
    /// The guard has not said yet whether an agent before this one left it armed.
    #[default]
    Unknown,
    /// One was begun, by this agent or perhaps by one before it, and PostgreSQL has not ended since.
    Perhaps,
    No,
}

impl Promoting {
    /// `over`: PostgreSQL is down, or seen as a primary.
    fn after(self, over: bool, said: &GuardState, now: Millis) -> Promoting {
        match self {
            _ if over => Promoting::No,
            Promoting::Unknown if said.is_armed(now) => Promoting::Perhaps,
            Promoting::Unknown if said.alive => Promoting::No,
            _ => self,
        }
    }
}

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
    /// when PostgreSQL certainly is not writable, and no job may yet make it so, be it one of an agent that has died: else what was
    /// held up beyond its deadline would find a guard that looks away.
    pub(super) fn tell_guard(&mut self, now: Millis) {
        let ttl = crate::policy::ttl(&self.config);
        let lease = self.storage.leader.map(|held| held.until);
        let deadline = match (lease, self.authority) {
            _ if self.config.pause => None,
            (Some(lease), _) if lease > now + ttl / 2 => Some(lease),
            (_, Some(authority)) => Some(authority),
            (lease, None) => lease,
        };
        let over = self.pg.is_primary() || self.pg.server == Server::Stopped;
        self.promoting = self.promoting.after(over, &self.guard_said, now);
        let quiet = self.promoting == Promoting::No && self.pg.server != Server::Unready;
        let idle = quiet && !self.pg.is_primary() && !self.pg.may_become_primary();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_promotion_that_an_agent_left_behind_is_guarded_until_postgresql_ends() {
        let silent = GuardState::default();
        let armed = GuardState { alive: true, deadline: 2_000, watchdog: None };
        let idle = GuardState { deadline: 0, ..armed.clone() };
        let first = Promoting::default();
        assert_eq!(first.after(false, &silent, 1_000), Promoting::Unknown);
        assert_eq!(first.after(false, &idle, 1_000), Promoting::No);
        // Past its deadline the guard has ended whatever ran.
        assert_eq!(first.after(false, &armed, 2_000), Promoting::No);
        let left = first.after(false, &armed, 1_000);
        assert_eq!(left, Promoting::Perhaps);
        assert_eq!(left.after(false, &idle, 1_100), Promoting::Perhaps);
        assert_eq!(left.after(true, &armed, 1_100), Promoting::No);
    }
}
