//! How many read-only sessions each member has, so that the next one goes to the least used.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Session counts by member name.
#[derive(Debug, Default)]
pub(crate) struct Spread {
    counts: Mutex<HashMap<String, usize>>,
}

/// One counted session; dropping it counts down.
#[derive(Debug)]
pub(crate) struct Seat {
    spread: Arc<Spread>,
    name: String,
}

impl Spread {
    /// The candidate with the fewest sessions; the first of equals.
    pub fn least_used<'a>(&self, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
        let counts = self.counts();
        candidates.min_by_key(|name| counts.get(*name).copied().unwrap_or(0))
    }

    /// Counts a session to `name`.
    pub fn take(self: &Arc<Self>, name: &str) -> Seat {
        *self.counts().entry(name.to_owned()).or_default() += 1;
        Seat { spread: Arc::clone(self), name: name.to_owned() }
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
impl Seat {
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut counts = self.spread.counts();
        if let Some(count) = counts.get_mut(&self.name) {
            *count -= 1;
            // Members come and go for years; a name without sessions is forgotten.
            if *count == 0 {
                counts.remove(&self.name);
            }
        }
    }
}
