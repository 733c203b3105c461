//! How many clusters run at the same time: more than the cores can carry would test the machine's patience only.

use std::sync::{Condvar, Mutex, PoisonError};

static TAKEN: Mutex<usize> = Mutex::new(0);
static FREED: Condvar = Condvar::new();

/// The right to run a cluster; given back when dropped.
#[derive(Debug)]
pub struct Slot;

impl Slot {
    /// Waits until fewer clusters run than this machine carries (two on two cores).
    pub fn take() -> Slot {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        let limit = (cores / 2).max(2);
        let taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
        let mut taken = FREED.wait_while(taken, |taken| *taken >= limit).unwrap_or_else(PoisonError::into_inner);
        *taken += 1;
        Slot
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        *TAKEN.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        FREED.notify_one();
    }
}
