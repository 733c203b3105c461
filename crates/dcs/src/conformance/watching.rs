//! Who hears what, and how soon.

use std::time::{Duration, Instant};

use super::leases::put_leased;
use super::{Handle, Pace, apply, hears, read};
use crate::store::Txn;

/// The writer's own watchers know.
pub async fn watch_hears_own<Fut: Future<Output = Handle>>(open: &impl Fn() -> Fut, _: Pace) {
    let store = open().await;
    let mut news = store.watch();
    for n in 0..5 {
        let revision = apply(&store, Txn::new().put("watch/own", n.to_string())).await;
        hears(&mut news, revision).await;
    }
}

/// Every other handle hears of every change, most of the time soon, and can then read it.
pub async fn watch_hears_others<Fut: Future<Output = Handle>>(open: &impl Fn() -> Fut, pace: Pace) {
    let writer = open().await;
    let others = [open().await, open().await, open().await];
    let mut news: Vec<_> = others.iter().map(|other| other.watch()).collect();
    let mut delays = Vec::new();
    for n in 0..20 {
        // From the middle of nowhere, and in bursts.
        tokio::time::sleep(Duration::from_millis(7 * (n % 3))).await;
        let revision = apply(&writer, Txn::new().put("watch/others", n.to_string())).await;
        let since = Instant::now();
        for (other, news) in others.iter().zip(&mut news) {
            hears(news, revision).await;
            assert_eq!(read(other).await.value("watch/others"), Some(n.to_string().as_str()));
        }
        delays.push(since.elapsed());
    }
    // A machine that stands still delays some of them; a watch that does not hear delays all.
    delays.sort();
    assert!(delays[delays.len() / 2] < pace.news, "{delays:?}");
}

/// Everybody is woken when a lease ends, though nobody writes or reads.
pub async fn watch_hears_expiry<Fut: Future<Output = Handle>>(open: &impl Fn() -> Fut, pace: Pace) {
    let (holder, other) = (open().await, open().await);
    let mut news = other.watch();
    let (granted, _, revision) =
        put_leased(&holder, pace.ttl, |lease| Txn::new().put_leased("watch/leader", "a", lease)).await;
    // Its holder is gone: those who are left must notice by themselves.
    drop(holder);
    hears(&mut news, revision + 1).await;
    assert!(granted.elapsed() >= pace.ttl, "woken before the lease ended");
    assert_eq!(read(&other).await.get("watch/leader"), None);
}
