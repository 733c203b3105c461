//! Moments at which the waits of a process end together, at the cost of one wake-up each.
//!
//! The runtime keeps timers that end later than in 64 ms in slots of that length, and wakes once when the slot begins
//! and once when the timer ends. An idle agent does little else than wait, so that this is a good part of what it costs.
//! A wait that may end up to a slot later ends at the beginning of one.

use std::sync::OnceLock;
use std::time::Duration;

use tokio::time::Instant;

/// Length of the runtime's slots.
pub const SLOT: Duration = Duration::from_millis(64);

/// When the runtime's clock began; never later than that, and earlier by less than its unit of 1 ms.
static ORIGIN: OnceLock<Instant> = OnceLock::new();

/// To be called right before the runtime of a process is made. Without that every moment is as good as any other.
pub fn begin() {
    let _ = ORIGIN.set(Instant::now());
}

/// The beginning of the first slot after `wait`.
pub fn slot_after(wait: Duration) -> Instant {
    slot_from(*ORIGIN.get_or_init(Instant::now), Instant::now() + wait)
}

/// The beginning of the slot that is nearest to the end of `wait`.
pub fn slot_near(wait: Duration) -> Instant {
    slot_after(wait.saturating_sub(SLOT / 2))
}

fn slot_from(origin: Instant, target: Instant) -> Instant {
    let slots = target.saturating_duration_since(origin).as_nanos().div_ceil(SLOT.as_nanos());
    origin + SLOT * u32::try_from(slots).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_ends_at_the_beginning_of_a_slot_and_not_too_early() {
        let origin = Instant::now();
        for (wait, end) in [(0, 0), (1, 64), (64, 64), (65, 128), (1000, 1024), (86_400_000, 86_400_000)] {
            let ms = Duration::from_millis;
            assert_eq!(slot_from(origin, origin + ms(wait)), origin + ms(end), "{wait}");
        }
    }

    #[test]
    fn the_nearest_slot_is_half_a_slot_away_at_most() {
        for wait in [100, 320, 1000] {
            let wait = Duration::from_millis(wait);
            let (now, found) = (Instant::now(), slot_near(wait));
            assert!(found + SLOT / 2 >= now + wait && found <= Instant::now() + wait + SLOT / 2);
        }
    }
}
