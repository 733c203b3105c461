//! The SQLite engine against the suite.

use std::sync::Arc;
use std::time::Duration;

use matriarch_dcs::SqliteStore;
use matriarch_dcs::conformance::{Handle, Pace};

/// News within less than the second after which handles look by themselves: the bell must work.
const PACE: Pace =
    Pace { ttl: Duration::from_millis(800), expiry: Duration::from_millis(500), news: Duration::from_millis(900) };

matriarch_dcs::conformance_tests!(PACE, {
    let directory = Arc::new(tempfile::tempdir().expect("a temporary directory"));
    move || {
        let directory = Arc::clone(&directory);
        async move {
            let store = SqliteStore::open(directory.path().join("store.db"), "demo").await;
            Arc::new(store.expect("a new store opens")) as Handle
        }
    }
});
