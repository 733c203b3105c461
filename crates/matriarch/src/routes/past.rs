//! A store that shows what has been overtaken: restored from an older backup, or wiped.
//!
//! Routes stay as they are then: the leader of the newest epoch goes on, and writes the records anew in a moment. Whoever believed the
//! store meanwhile would end every session, and lead new ones to a primary of old.

use std::time::{Duration, Instant};

use matriarch_core::decide::ClusterView;

/// A store that shows the past for so long is believed: somebody may want it so.
const DOUBT: Duration = Duration::from_secs(30);

/// What a router has seen of the store so far.
#[derive(Debug, Default)]
pub(super) struct Past {
    /// Epoch and serial number of the newest `sync`.
    newest: (u64, u64),
    /// The PostgreSQL cluster that it was about.
    system: Option<String>,
    /// Since when the store shows less.
    since: Option<Instant>,
}

impl Past {
    /// An earlier process has seen this epoch.
    pub fn since_epoch(epoch: u64) -> Past {
        Past { newest: (epoch, 0), ..Past::default() }
    }

    /// Whether the store shows the past, which is not to be acted on.
    pub fn is_shown_by(&mut self, view: &ClusterView, now: Instant) -> bool {
        let shown = view.sync.as_ref().map_or((0, 0), |sync| (sync.value.epoch, sync.value.serial));
        let system = view.initialize.as_ref().map(|seen| seen.value.clone()).filter(|system| !system.is_empty());
        let another = system.as_ref().zip(self.system.as_ref()).is_some_and(|(shown, known)| shown != known);
        if shown < self.newest && !another && now - *self.since.get_or_insert(now) < DOUBT {
            return true;
        }
        *self = Past { newest: shown, system: system.or(self.system.take()), since: None };
        false
    }
}

#[cfg(test)]
pub(super) mod tests {
    use matriarch_core::record::{SyncRecord, Versioned};
    use serde_json::json;

    use super::*;

    pub fn view(epoch: u64, serial: u64, system: &str) -> ClusterView {
        let sync: SyncRecord = serde_json::from_value(json!({
            "leader": "a", "sync_standby": null, "quorum": 0, "epoch": epoch, "serial": serial, "incarnation": "aaaaaaaa",
            "rule": {"voters": {}, "needed": 0}, "established": true, "timeline": 1, "membership": ["a"],
        }))
        .unwrap();
        ClusterView {
            initialize: Some(Versioned { revision: 1, value: system.to_owned() }),
            sync: Some(Versioned { revision: 2, value: sync }),
            ..ClusterView::default()
        }
    }

    #[test]
    fn an_older_state_of_the_same_cluster_is_the_past() {
        let (mut past, now) = (Past::default(), Instant::now());
        assert!(!past.is_shown_by(&view(2, 5, "7575"), now));
        for older in [view(1, 9, "7575"), view(2, 4, "7575"), ClusterView::default()] {
            assert!(past.is_shown_by(&older, now));
        }
        for newer in [view(2, 105, "7575"), view(3, 0, "7575")] {
            assert!(!past.is_shown_by(&newer, now));
        }
        assert!(!past.is_shown_by(&view(1, 1, "7676"), now), "another cluster of this name");
        assert!(Past::since_epoch(4).is_shown_by(&view(3, 7, "7575"), now));
    }

    #[test]
    fn it_is_believed_at_last() {
        let (mut past, now) = (Past::default(), Instant::now());
        assert!(!past.is_shown_by(&view(2, 5, "7575"), now));
        assert!(past.is_shown_by(&view(1, 1, "7575"), now));
        assert!(past.is_shown_by(&view(1, 1, "7575"), now + DOUBT / 2));
        assert!(!past.is_shown_by(&view(1, 1, "7575"), now + DOUBT));
        assert!(!past.is_shown_by(&view(1, 2, "7575"), now + DOUBT), "from then on it is the newest");
    }
}
