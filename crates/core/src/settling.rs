//! Whether a standby may be receiving WAL although a look at it does not show that.
//!
//! Between asking PostgreSQL for an upstream and its processes' loading that, a look shows the server as it was: no upstream,
//! no walreceiver. Whoever believed it could pledge and stream at once.
//!
//! ```text
//! settled -> an upstream is asked for: unsettled -> "no upstream" is loaded -> a look begun after that: settled
//!    ^----------------------------------------- the server starts --------------------------------------/
//! ```

use crate::decide::Millis;

/// What was last asked of one server about its upstream. Made for a server whose past is unknown, as an agent that
/// has just started finds it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Settling {
    settled: bool,
    /// When "no upstream" was loaded.
    emptied: Option<Millis>,
}

impl Settling {
    /// A server has started, and all of its processes with the same settings.
    pub fn started(&mut self) {
        *self = Settling { settled: true, emptied: None };
    }

    /// Settings are on their way to a running server.
    pub fn asked(&mut self, upstream: bool) {
        self.emptied = None;
        self.settled &= !upstream;
    }

    /// A running server was told to load settings.
    pub fn loaded(&mut self, upstream: bool, now: Millis) {
        self.emptied = (!upstream).then_some(now);
    }

    /// A look that began then shows the server.
    pub fn seen(&mut self, begun: Millis) {
        self.settled |= self.emptied.is_some_and(|emptied| begun >= emptied);
    }

    /// What a look shows of the upstream is what the server does, and nothing else is on its way.
    pub fn is_settled(&self) -> bool {
        self.settled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_look_after_the_upstream_was_emptied_settles_it() {
        let mut settling = Settling::default();
        settling.seen(5);
        assert!(!settling.is_settled(), "an earlier agent may have asked for one");
        settling.asked(false);
        settling.loaded(false, 10);
        settling.seen(9);
        assert!(!settling.is_settled(), "that look may be older");
        settling.seen(10);
        assert!(settling.is_settled());
        settling.asked(true);
        assert!(!settling.is_settled());
        settling.loaded(true, 20);
        settling.seen(30);
        assert!(!settling.is_settled());
        settling.asked(false);
        settling.seen(40);
        assert!(!settling.is_settled(), "not loaded yet");
        settling.started();
        assert!(settling.is_settled());
    }
}
