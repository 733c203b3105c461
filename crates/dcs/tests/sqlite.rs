//! The SQLite engine against the suite.

use std::sync::Arc;
use std::time::Duration;

use matriarch_dcs::SqliteStore;
use matriarch_dcs::conformance::{Handle, Pace};

const PACE: Pace =
    Pace { ttl: Duration::from_millis(500), expiry: Duration::from_millis(500), news: Duration::from_millis(700) };

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
