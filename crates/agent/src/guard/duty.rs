//! What the guard has to do, as far as it follows from orders and the clock alone.

use matriarch_core::decide::{Millis, WAKING};

/// How often a guard that has fired looks for a PostgreSQL that starts behind its back, in milliseconds. Once its lock
/// file is there it needs longer than that before it takes the first write.
const LOOK: Millis = 20;
/// The same after one could not be ended: it waits in the kernel, and has been sent the signal.
const LOOK_AGAIN: Millis = 1_000;
/// A guard that comes to its deadline so late did not run when that passed, and neither did anything else of its host.
const LATE: Millis = 500;

/// One duty at a time; the picture is in `mod.rs`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Duty {
    /// Nothing to guard.
    #[default]
    Idle,
    /// PostgreSQL is to be ended at this time, unless told otherwise before.
    Armed(Millis),
    /// The host stood still when that time passed: PostgreSQL is held until then, so that the agent can ask whether it still leads.
    Held {
        /// The deadline that has passed.
        at: Millis,
        /// When PostgreSQL is ended after all.
        until: Millis,
    },
    /// It was, and so is each that starts until there is a deadline to come, or none is needed.
    Fired {
        /// When.
        at: Millis,
        /// When to look for one that has started.
        look: Millis,
    },
}

impl Duty {
    /// A deadline. One that has passed says nothing new to a guard that has acted on one; any other it fires at once.
    pub fn arm(&mut self, deadline: Millis, now: Millis) {
        if deadline > now || !(self.has_fired() || self.holds()) {
            *self = Duty::Armed(deadline);
        }
    }

    /// Its deadline passed while the host stood still: PostgreSQL is to be held first.
    pub fn is_late(&self, now: Millis) -> bool {
        matches!(self, Duty::Armed(deadline) if now >= deadline.saturating_add(LATE))
    }

    /// PostgreSQL is held now.
    pub fn held(&mut self, now: Millis) {
        if let Duty::Armed(deadline) = *self {
            *self = Duty::Held { at: deadline, until: now + WAKING };
        }
    }

    /// PostgreSQL is held.
    pub fn holds(&self) -> bool {
        matches!(self, Duty::Held { .. })
    }

    /// PostgreSQL is not writable, and nobody is about to make it so.
    pub fn disarm(&mut self) {
        *self = Duty::Idle;
    }

    /// PostgreSQL was to be ended; `ended`: and was.
    pub fn fired(&mut self, now: Millis, ended: bool) {
        let at = match *self {
            Duty::Armed(deadline) => deadline.min(now),
            Duty::Fired { at, .. } | Duty::Held { at, .. } => at,
            Duty::Idle => return,
        };
        *self = Duty::Fired { at, look: now + if ended { LOOK } else { LOOK_AGAIN } };
    }

    /// A guard that has fired has looked, and nothing runs.
    pub fn looked(&mut self, now: Millis) {
        if let Duty::Fired { look, .. } = self {
            *look = now + LOOK;
        }
    }

    /// It has fired: whatever starts is ended.
    pub fn has_fired(&self) -> bool {
        matches!(self, Duty::Fired { .. })
    }

    /// When PostgreSQL is to be ended.
    pub fn deadline(&self) -> Option<Millis> {
        match self {
            Duty::Armed(deadline) | Duty::Held { until: deadline, .. } => Some(*deadline),
            Duty::Idle | Duty::Fired { .. } => None,
        }
    }

    /// When there is something to look for, without a deadline.
    pub fn look(&self) -> Option<Millis> {
        match self {
            Duty::Fired { look, .. } => Some(*look),
            Duty::Idle | Duty::Armed(_) | Duty::Held { .. } => None,
        }
    }

    /// What the agent is told: the deadline, also one that has passed and still counts; 0 when nothing is guarded.
    pub fn told(&self) -> Millis {
        match *self {
            Duty::Idle => 0,
            Duty::Armed(deadline) => deadline,
            Duty::Fired { at, .. } | Duty::Held { at, .. } => at,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guard_that_has_fired_goes_on_until_it_is_armed_with_a_deadline_to_come_or_disarmed() {
        let mut duty = Duty::default();
        assert_eq!((duty.told(), duty.deadline(), duty.look()), (0, None, None), "idle, it never wakes");
        duty.arm(1000, 500);
        assert_eq!((duty.told(), duty.deadline(), duty.look()), (1000, Some(1000), None));
        duty.arm(2000, 600);
        duty.arm(1500, 700);
        assert_eq!(duty.deadline(), Some(1500), "a deadline may come down again");

        duty.fired(1501, true);
        assert_eq!((duty.told(), duty.deadline()), (1500, None), "it says since when");
        assert_eq!(duty.look(), Some(1501 + LOOK));
        duty.looked(1600);
        assert_eq!(duty.look(), Some(1600 + LOOK));
        duty.arm(1500, 1700);
        duty.arm(1700, 1700);
        assert!(duty.has_fired(), "a lease that has ended arms nothing");
        duty.fired(1800, false);
        assert_eq!((duty.told(), duty.look()), (1500, Some(1800 + LOOK_AGAIN)), "one that cannot be ended");

        duty.arm(5000, 1900);
        assert_eq!((duty.deadline(), duty.look()), (Some(5000), None));
        duty.fired(5000, true);
        duty.disarm();
        assert_eq!(duty, Duty::Idle);
        duty.fired(5001, true);
        duty.looked(5001);
        assert_eq!(duty, Duty::Idle, "nothing of an earlier duty is left");
    }

    #[test]
    fn a_guard_that_stood_still_itself_holds_postgresql_for_a_moment() {
        let mut duty = Duty::Armed(1000);
        assert!(!duty.is_late(1000 + LATE - 1) && duty.is_late(1000 + LATE));
        duty.held(9000);
        assert_eq!((duty.told(), duty.deadline(), duty.look()), (1000, Some(9000 + WAKING), None));
        assert!(!duty.is_late(9000 + 2 * WAKING), "once, and then it fires");
        duty.arm(1000, 9100);
        assert!(duty.holds(), "the lease that has ended says nothing new");
        let mut again = duty;
        again.arm(14_000, 9200);
        assert_eq!(again, Duty::Armed(14_000));
        duty.fired(9000 + WAKING, true);
        assert_eq!(duty.told(), 1000, "it says since when");
    }

    #[test]
    fn a_deadline_that_has_passed_is_one_to_a_guard_that_has_not_fired() {
        let mut duty = Duty::default();
        duty.arm(100, 200);
        assert_eq!(duty.deadline(), Some(100));
        // The watchdog has PostgreSQL ended before the deadline: from then on the agent is told that it has passed.
        let mut early = Duty::Armed(1000);
        early.fired(900, true);
        assert_eq!(early.told(), 900);
    }
}
