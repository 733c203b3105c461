//! Notices that this process did not run for a while: its host slept, was paused, or gave it no time.

use matriarch_core::decide::Millis;
use matriarch_dcs::{boot_clock_ms, rhythm};

use super::Shell;

/// Whoever wakes so much later than planned did not run in between, in milliseconds. Shorter ones change nothing.
const LATE: Millis = 500;
/// A follower looks at its leader's beats three times a second.
const BEATS_MISSED: Millis = 1_000;

/// When this process was to run, and when it was seen to come late.
#[derive(Debug, Default)]
pub(super) struct Waking {
    planned: Option<Millis>,
    /// When it ran again.
    pub woke: Option<Millis>,
}

impl Waking {
    /// The loop rests until then at the latest.
    pub fn plan(&mut self, wake: Millis) {
        self.planned = Some(wake.saturating_add(rhythm::SLOT.as_millis() as Millis));
    }

    /// The loop runs; `beat`: when the task that listens to the leader ran last, if this member follows. True when this process had not
    /// run for a while.
    pub fn runs(&mut self, now: Millis, beat: Option<Millis>) -> bool {
        let late = self.planned.take().is_some_and(|planned| now > planned.saturating_add(LATE));
        let late = late || beat.is_some_and(|beat| now > beat + BEATS_MISSED);
        if late {
            self.woke = Some(now);
        }
        late
    }
}

impl Shell {
    /// To be called first in each round.
    pub(super) fn notice_waking(&mut self) {
        let now = boot_clock_ms();
        if self.waking.runs(now, self.heartbeats.followed_at()) {
            tracing::debug!("this process did not run for a while");
            // What the store showed then may be long past.
            self.storage.read();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_comes_much_too_late_has_been_away() {
        let mut waking = Waking::default();
        assert!(!waking.runs(1_000, None), "nothing was planned");
        waking.plan(2_000);
        assert!(!waking.runs(1_500, Some(1_400)), "something happened earlier");
        waking.plan(2_000);
        assert!(!waking.runs(2_000 + 64 + LATE, None));
        waking.plan(2_000);
        assert!(waking.runs(2_001 + 64 + LATE, None));
        assert_eq!(waking.woke, Some(2_565));
        waking.plan(9_000);
        assert!(waking.runs(7_500, Some(6_400)), "the beats stood still, too");
    }
}
