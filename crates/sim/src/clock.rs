//! The boot clock of one machine: where it began, and how fast it runs. Nobody may compare two of them.

use matriarch_core::decide::Millis;

/// How far a clock may run fast or slow, in millionths: ten times what a bad crystal does.
pub(crate) const DRIFT: i64 = 1000;
/// A whole, in millionths.
const WHOLE: i64 = 1_000_000;

/// A boot clock; the default one shows the time of the world.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock {
    /// What it showed when the world began.
    pub ahead: Millis,
    /// How much faster it runs than the world, in millionths.
    pub drift: i64,
    /// For how long it has stood still, which a boot clock never does.
    pub stood: Millis,
}

impl Clock {
    /// What it shows.
    pub fn read(&self, now: Millis) -> Millis {
        let gone = i128::from(now) * i128::from(WHOLE + self.drift) / i128::from(WHOLE);
        (self.ahead + u64::try_from(gone).unwrap_or(0)).saturating_sub(self.stood)
    }

    /// How long it takes in the world until this clock has gone on by so much, or a little longer.
    pub fn wait(&self, time: Millis) -> Millis {
        let world = i128::from(time) * i128::from(WHOLE) / i128::from(WHOLE + self.drift);
        u64::try_from(world).unwrap_or(0) + u64::from(self.drift != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_never_too_short() {
        for drift in [-DRIFT, -3, 0, 7, DRIFT] {
            let clock = Clock { ahead: 5_000, drift, stood: 0 };
            for (now, time) in [(0, 1), (17, 5000), (1_234_567, 10_000)] {
                let then = now + clock.wait(time);
                assert!(clock.read(then) >= clock.read(now) + time, "{drift} {now} {time}");
            }
        }
        assert_eq!(Clock::default().wait(20), 20);
    }
}
