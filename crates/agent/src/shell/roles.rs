//! Counts changes of role, and how long this member's takeovers took.

use matriarch_core::decide::{Job, Millis};
use matriarch_core::record::Role;

use super::Shell;

#[derive(Default)]
pub(super) struct Roles {
    last: Option<Role>,
    /// Changes of role since the agent started.
    pub changes: u64,
    /// Since when nobody leads, as far as this member has seen (boot clock).
    leaderless_since: Option<Millis>,
    /// Duration of the newest takeover.
    pub last_failover: Option<Millis>,
}

impl Shell {
    pub(super) fn note_role(&mut self, role: Role, now: Millis) {
        let roles = &mut self.roles;
        if role != Role::Uninitialized && roles.last != Some(role) {
            roles.changes += u64::from(roles.last.is_some());
            roles.last = Some(role);
        }
        let leads = self.leads();
        let leaderless = self.reading.is_some() && self.leader_name().is_none();
        let roles = &mut self.roles;
        match roles.leaderless_since {
            None if leaderless => roles.leaderless_since = Some(now),
            // Somebody else has taken over.
            Some(_) if !leaderless && !leads => roles.leaderless_since = None,
            _ => {}
        }
    }

    pub(super) fn note_promotion(&mut self, job: &Job, now: Millis) {
        if let (Job::Promote, Some(since)) = (job, self.roles.leaderless_since.take()) {
            self.roles.last_failover = Some(now - since);
        }
    }
}
