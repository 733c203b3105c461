//! This host stood still for a while: a laptop that slept, a virtual machine that was paused. Leases have ended meanwhile.
//!
//! Whoever was away cannot tell whether everybody was. If so, nothing has happened, and acting on leases that ended in that
//! time would move the primary at each lid that is opened. So for a moment a replica leaves the leader time to take its key
//! again, and a leader asks the store whether it still leads before it stops PostgreSQL (which its guard holds still as long).
//! A leader that was replaced meanwhile finds that there, and no voter acknowledges anything for it.

use crate::decide::turn::Turn;
use crate::decide::{Millis, Why};
use crate::record::{SyncRecord, Versioned};

/// How long that moment is, in milliseconds; guards hold PostgreSQL still as long.
pub const WAKING: Millis = 1_000;

impl Turn<'_> {
    /// Until when this member leaves things as it found them, if it has just come back.
    pub(super) fn wakes_until(&self) -> Option<Millis> {
        let until = self.obs.woke?.saturating_add(WAKING);
        (self.obs.now < until && !self.policy.paused).then_some(until)
    }

    /// We led when the host stopped, and cannot know yet that we lead no more. Never where the lease alone keeps two primaries
    /// from acknowledging.
    pub(super) fn may_lead_still(&mut self, sync: &Versioned<SyncRecord>) -> bool {
        let Some(until) = self.wakes_until().filter(|_| self.epoch_is_ours(&sync.value)) else { return false };
        let fenced = self.rules_in_force(sync).iter().all(|rule| !rule.is_empty());
        let runs = self.obs.running().is_some_and(|running| !running.in_recovery);
        if fenced && runs {
            self.wake_at(until);
        }
        fenced && runs
    }

    /// The lease has ended while the host stood still.
    pub(super) fn wake_as_leader(&mut self) -> Why {
        self.keep_lease();
        Why::new("waking", "this host stood still, and our lease has ended: asking the store whether we still lead")
    }
}
