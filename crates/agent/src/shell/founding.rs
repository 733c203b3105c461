//! A first data directory that cannot be made, such as a restore from a damaged archive: each try may read it all again, so they
//! come at growing distances.

use std::time::Duration;

use matriarch_core::decide::{Job, JobFailure, Millis};
use matriarch_dcs::boot_clock_ms;

use super::Shell;

/// So many come at the distances of every job, since what is missing may be there in a moment.
const AT_ONCE: u32 = 4;
/// The distance after those; it doubles with each.
const FIRST: Millis = 20_000;
const LONGEST: Millis = 600_000;

/// How the newest tries went.
#[derive(Default)]
pub(super) struct Founding {
    failures: u32,
    until: Millis,
    why: String,
}

impl Founding {
    fn failed(&mut self, why: &str, now: Millis) -> Duration {
        let distance = match self.failures.checked_sub(AT_ONCE) {
            Some(more) => LONGEST.min(FIRST << more.min(10)),
            None => 0,
        };
        self.failures += 1;
        (self.until, self.why) = (now + distance, why.lines().next().unwrap_or_default().to_owned());
        Duration::from_millis(distance)
    }

    fn waits(&self, now: Millis) -> bool {
        now < self.until
    }
}

impl Shell {
    /// After a try.
    pub(super) fn note_founding(&mut self, job: &Job, failure: Option<&JobFailure>) {
        if *job != Job::Initdb || self.options.restore.is_none() && self.options.dump.is_none() {
            return;
        }
        match failure {
            Some(failure) => {
                let again = self.founding.failed(&failure.message, boot_clock_ms());
                if !again.is_zero() {
                    let failures = self.founding.failures;
                    tracing::warn!(failures, "the cluster is not made: the next try is in {again:?}");
                }
            }
            None => self.founding = Founding::default(),
        }
    }

    pub(super) fn founding_waits(&self) -> bool {
        self.founding.waits(boot_clock_ms())
    }

    pub(super) fn founding_problem(&self) -> Option<String> {
        let left = self.founding.until.saturating_sub(boot_clock_ms()).div_ceil(1000);
        let Founding { failures, why, .. } = &self.founding;
        (left > 0).then(|| format!("the cluster could not be made ({failures} times), next try in {left} s: {why}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tries_come_at_growing_distances() {
        let mut founding = Founding::default();
        let distances: Vec<u64> = (0..11).map(|_| founding.failed("x\ny", 5).as_secs()).collect();
        assert_eq!(distances, [0, 0, 0, 0, 20, 40, 80, 160, 320, 600, 600]);
        assert!(founding.waits(5) && founding.waits(600_004) && !founding.waits(600_005));
        assert_eq!(founding.why, "x");
        assert!(!Founding::default().waits(0));
    }
}
