//! Bytes a second: what is above waits its turn.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A limit that all clones of a repository share.
#[derive(Debug)]
pub struct Pace {
    bytes: u64,
    /// When the next bytes may go.
    next: Mutex<Option<Instant>>,
}

impl Pace {
    /// So many bytes a second.
    pub fn new(bytes: u64) -> Pace {
        Pace { bytes: bytes.max(1), next: Mutex::new(None) }
    }

    /// Waits until these bytes may go.
    pub async fn take(&self, bytes: u64) {
        let at = self.turn(bytes, Instant::now());
        tokio::time::sleep_until(at.into()).await;
    }

    /// When these bytes may go: after what was let through before has had its time.
    fn turn(&self, bytes: u64, now: Instant) -> Instant {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let at = next.map_or(now, |next| next.max(now));
        *next = Some(at + Duration::from_secs_f64(bytes as f64 / self.bytes as f64));
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_take_their_time_and_idle_time_is_not_saved_up() {
        let pace = Pace::new(1000);
        let begun = Instant::now();
        let after = |at: Instant| at.duration_since(begun).as_millis();
        assert_eq!(after(pace.turn(500, begun)), 0);
        assert_eq!(after(pace.turn(1500, begun)), 500);
        assert_eq!(after(pace.turn(1, begun)), 2000);
        let later = begun + Duration::from_secs(60);
        assert_eq!(after(pace.turn(1000, later)), 60_000);
        assert_eq!(after(pace.turn(1, later)), 61_000);
    }
}
