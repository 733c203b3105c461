//! What the shell wants of the host's watchdog; the guard has its hand on it.

use matriarch_config::WatchdogMode;
use matriarch_core::decide::Millis;

use super::Shell;
use crate::guard::WatchdogSettings;

impl Shell {
    /// Tells the guard which watchdog to keep, since its timeout follows `ttl`.
    pub(super) fn keep_watchdog(&mut self) {
        let failure = match self.watchdog_settings() {
            None => None,
            Some(Ok(settings)) => {
                self.guard.watch_over(settings);
                self.guard_state.borrow().watchdog.clone()
            }
            Some(Err(failure)) => Some(failure),
        };
        match &failure {
            Some(failure) if self.watchdog_failure.as_ref() != Some(failure) => {
                tracing::warn!("the watchdog {} does not work: {failure}", self.options.watchdog.device.display());
            }
            None if self.watchdog_failure.is_some() => tracing::info!("the watchdog works again"),
            _ => {}
        }
        self.watchdog_failure = failure;
    }

    /// Why this member may not lead: the watchdog that it must have does not work.
    pub(super) fn lacks_watchdog(&self) -> Option<&String> {
        self.watchdog_failure.as_ref().filter(|_| self.options.watchdog.mode == WatchdogMode::Required)
    }

    fn watchdog_settings(&self) -> Option<Result<WatchdogSettings, String>> {
        let watchdog = &self.options.watchdog;
        if watchdog.mode == WatchdogMode::Off {
            return None;
        }
        let (ttl, margin) = (crate::policy::ttl(&self.config), watchdog.safety_margin.as_millis() as Millis);
        Some(match timeout(ttl, margin) {
            0 => Err(format!(
                "a ttl of {ttl} ms leaves less than a second of its timeout beside a safety_margin of {margin} ms: raise \
                 ttl, or lower watchdog.safety_margin"
            )),
            timeout => Ok(WatchdogSettings { device: watchdog.device.clone(), timeout, margin }),
        })
    }
}

/// Seconds. With half of the lease for it, a renewal that is late costs PostgreSQL, and only a host that hangs its life.
fn timeout(ttl: Millis, margin: Millis) -> u64 {
    ttl.saturating_sub(margin) / 2000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_lease_is_the_watchdogs() {
        for (ttl, margin, wanted) in [(5_000, 1_000, 2), (30_000, 5_000, 12), (3_000, 1_000, 1), (2_000, 1_000, 0)] {
            assert_eq!(timeout(ttl, margin), wanted, "{ttl} {margin}");
        }
        assert_eq!(timeout(5_000, 5_000), 0, "the margin that Patroni has by default");
    }
}
