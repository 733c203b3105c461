//! Leases: what lives under them, and for how long.

use std::time::{Duration, Instant};

use super::{Handle, Pace, apply, commit, hears, read, refused};
use crate::error::StoreError;
use crate::store::{LeaseId, Txn};

async fn grant(store: &Handle, ttl: Duration) -> LeaseId {
    store.grant(ttl).await.expect("the store under test grants leases")
}

/// Waits until `key` is gone, as reads show it.
async fn wait_gone(store: &Handle, key: &str, within: Duration) {
    let deadline = Instant::now() + within;
    while read(store).await.get(key).is_some() {
        assert!(Instant::now() < deadline, "{key} is still there after {within:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A lease that is not renewed ends, not early, takes its keys along and nothing else, at a new revision.
pub async fn expiry_deletes<Fut: Future<Output = Handle>>(open: &impl Fn() -> Fut, pace: Pace) {
    let (holder, other) = (open().await, open().await);
    let since = Instant::now();
    let lease = grant(&holder, pace.ttl).await;
    let txn = Txn::new().put_leased("expiry/a", "1", lease).put_leased("expiry/b", "2", lease).put("expiry/c", "3");
    let revision = apply(&holder, txn).await;
    assert_eq!(read(&other).await.get("expiry/a").and_then(|entry| entry.lease), Some(lease));
    wait_gone(&other, "expiry/a", pace.ttl + pace.expiry).await;
    assert!(since.elapsed() >= pace.ttl, "ended early, after {:?}", since.elapsed());
    let seen = read(&holder).await;
    assert_eq!((seen.get("expiry/b"), seen.value("expiry/c")), (None, Some("3")));
    assert!(seen.revision > revision);
    apply(&other, Txn::new().absent("expiry/a").put("expiry/a", "next")).await;
}

/// Renewals keep a lease alive well past its time, through any handle.
pub async fn keep_alive_extends<Fut: Future<Output = Handle>>(open: &impl Fn() -> Fut, pace: Pace) {
    let (holder, other) = (open().await, open().await);
    let lease = grant(&holder, pace.ttl).await;
    apply(&holder, Txn::new().put_leased("alive/a", "1", lease)).await;
    let until = Instant::now() + pace.ttl * 3;
    while Instant::now() < until {
        for handle in [&holder, &other] {
            handle.keep_alive(lease).await.expect("a lease that is renewed in time lives");
            tokio::time::sleep(pace.ttl / 8).await;
        }
    }
    assert_eq!(read(&other).await.value("alive/a"), Some("1"));
    wait_gone(&other, "alive/a", pace.ttl + pace.expiry).await;
}

/// A renewal is no news: the revision stays and nobody is woken.
pub async fn keep_alive_is_no_change<Fut: Future<Output = Handle>>(open: &impl Fn() -> Fut, pace: Pace) {
    let (holder, other) = (open().await, open().await);
    let lease = grant(&holder, pace.ttl * 100).await;
    let revision = apply(&holder, Txn::new().put_leased("quiet/a", "1", lease)).await;
    let mut news = other.watch();
    hears(&mut news, revision, pace.news).await;
    let before = read(&other).await;
    let mut woken = 0;
    // A watch that was lost and made anew, as on a machine that is too busy, wakes too: renewals would do so each time.
    while woken < 4 {
        news.mark_unchanged();
        for _ in 0..5 {
            holder.keep_alive(lease).await.expect("the lease lives");
        }
        tokio::time::sleep(pace.news).await;
        assert_eq!(read(&other).await, before);
        if !news.has_changed().expect("the handle lives") {
            break;
        }
        woken += 1;
    }
    assert!(woken < 4, "woken by renewals");
    holder.revoke(lease).await.expect("the lease can be revoked");
}

/// Too late is too late.
pub async fn keep_alive_after_expiry<Fut: Future<Output = Handle>>(open: &impl Fn() -> Fut, pace: Pace) {
    let store = open().await;
    let lease = grant(&store, pace.ttl).await;
    tokio::time::sleep(pace.ttl + pace.expiry).await;
    for lease in [lease, LeaseId(lease.0 ^ 0x5555)] {
        let said = store.keep_alive(lease).await;
        assert!(matches!(said, Err(StoreError::LeaseGone { lease: gone, .. }) if gone == lease), "{said:?}");
    }
}

/// A put under a dead lease fails as a whole; a compare that fails is told first.
pub async fn dead_lease_refused<Fut: Future<Output = Handle>>(open: &impl Fn() -> Fut, pace: Pace) {
    let store = open().await;
    let dead = grant(&store, pace.ttl * 100).await;
    store.revoke(dead).await.expect("the lease can be revoked");
    let txn = Txn::new().put("dead/a", "1").put_leased("dead/b", "2", dead);
    let said = store.commit(txn).await;
    assert!(matches!(said, Err(StoreError::LeaseGone { lease, .. }) if lease == dead), "{said:?}");
    assert_eq!(read(&store).await.get("dead/a"), None);
    refused(&store, Txn::new().value("dead/a", "x").put_leased("dead/b", "2", dead), "dead/a").await;
    let unused = commit(&store, Txn::new().absent("dead/a").put("dead/a", "1")).await;
    assert!(unused.applied().is_some());
}

/// Revoking deletes the lease's keys before it returns; doing it again harms nobody.
pub async fn revoke_deletes<Fut: Future<Output = Handle>>(open: &impl Fn() -> Fut, pace: Pace) {
    let (holder, other) = (open().await, open().await);
    let (mine, yours) = (grant(&holder, pace.ttl * 100).await, grant(&other, pace.ttl * 100).await);
    assert_ne!(mine, yours);
    let txn = Txn::new().put_leased("revoke/mine", "1", mine).put_leased("revoke/yours", "2", yours);
    let revision = apply(&holder, txn).await;
    let mut news = other.watch();
    other.revoke(mine).await.expect("any handle may revoke");
    let seen = read(&holder).await;
    assert_eq!((seen.get("revoke/mine"), seen.value("revoke/yours")), (None, Some("2")));
    assert!(seen.revision > revision);
    hears(&mut news, seen.revision, pace.news).await;
    holder.revoke(mine).await.expect("revoking what is gone is fine");
    holder.revoke(yours).await.expect("the other lease was untouched");
}

/// Which of the keys live under the lease.
async fn holdings<const N: usize>(store: &Handle, lease: LeaseId, keys: [&str; N]) -> [bool; N] {
    let mut found = [false; N];
    for (key, found) in keys.into_iter().zip(&mut found) {
        *found = store.is_under(key, lease).await.expect("the store under test can be read");
    }
    found
}

/// A key put again without the lease, or under another, no longer dies with the first.
pub async fn foreign_put_frees<Fut: Future<Output = Handle>>(open: &impl Fn() -> Fut, pace: Pace) {
    let store = open().await;
    let (first, second) = (grant(&store, pace.ttl * 100).await, grant(&store, pace.ttl * 100).await);
    let txn = Txn::new().put_leased("free/a", "1", first).put_leased("free/b", "1", first);
    apply(&store, txn.put_leased("free/c", "1", first)).await;
    apply(&store, Txn::new().put("free/a", "2").put_leased("free/b", "2", second)).await;
    assert_eq!(holdings(&store, first, ["free/a", "free/b", "free/c", "free/d"]).await, [false, false, true, false]);
    assert_eq!(holdings(&store, second, ["free/a", "free/b", "free/c", "free/d"]).await, [false, true, false, false]);
    store.revoke(first).await.expect("the lease can be revoked");
    assert_eq!(holdings(&store, first, ["free/c"]).await, [false]);
    let seen = read(&store).await;
    let values = (seen.value("free/a"), seen.value("free/b"), seen.value("free/c"));
    assert_eq!(values, (Some("2"), Some("2"), None));
    assert_eq!(seen.get("free/b").and_then(|entry| entry.lease), Some(second));
    store.revoke(second).await.expect("the lease can be revoked");
    assert_eq!(read(&store).await.get("free/b"), None);
}
