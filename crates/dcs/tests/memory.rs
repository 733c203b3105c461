//! The in-memory engine against the suite, and on a clock of the test's own.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use matriarch_dcs::conformance::{Handle, Pace};
use matriarch_dcs::{MemoryStore, Store, StoreError, Txn};

const PACE: Pace =
    Pace { ttl: Duration::from_millis(500), expiry: Duration::from_millis(200), news: Duration::from_millis(200) };

matriarch_dcs::conformance_tests!(PACE, {
    let store = MemoryStore::new();
    move || {
        let handle: Handle = Arc::new(store.clone());
        async move { handle }
    }
});

#[tokio::test]
async fn an_injected_clock_decides_when_leases_end() {
    let now = Arc::new(AtomicU64::new(1_000));
    let clock = Arc::clone(&now);
    let store = MemoryStore::with_clock(Arc::new(move || clock.load(Ordering::SeqCst)));
    let mut news = store.watch();
    let lease = store.grant(Duration::from_secs(5)).await.unwrap();
    store.commit(Txn::new().put_leased("leader", "a", lease)).await.unwrap();
    assert_eq!(store.next_expiry(), Some(6_000));

    now.store(5_999, Ordering::SeqCst);
    store.keep_alive(lease).await.unwrap();
    assert_eq!(store.next_expiry(), Some(10_999));
    now.store(10_998, Ordering::SeqCst);
    assert_eq!(store.read().await.unwrap().value("leader"), Some("a"));
    news.mark_unchanged();

    now.store(10_999, Ordering::SeqCst);
    store.sweep();
    assert!(news.has_changed().unwrap());
    assert_eq!(store.read().await.unwrap().value("leader"), None);
    assert!(matches!(store.keep_alive(lease).await, Err(StoreError::LeaseGone { .. })));
}
