//! Leases: what lives under them, and for how long.

use std::time::{Duration, Instant};

use super::{Handle, PATIENCE, Pace, apply, commit, hears, read, refused};
use crate::error::StoreError;
use crate::store::{LeaseId, Revision, Txn};

async fn grant(store: &Handle, ttl: Duration) -> LeaseId {
    store.grant(ttl).await.expect("the store under test grants leases")
}

/// Puts under a new lease, and once more when that has ended before the put, on a machine that stood still; gives a time
/// before the lease was granted, the lease, and the revision of the put.
pub(super) async fn put_leased(
    store: &Handle,
    ttl: Duration,
    txn: impl Fn(LeaseId) -> Txn,
) -> (Instant, LeaseId, Revision) {
    loop {
        let since = Instant::now();
        let lease = grant(store, ttl).await;
        match store.commit(txn(lease)).await {
            Ok(done) => return (since, lease, done.applied().expect("nothing was compared")),
            Err(StoreError::LeaseGone { .. }) if since.elapsed() >= ttl => {}
            Err(error) => panic!("the store under test takes transactions: {error}"),
        }
    }
}

/// Waits until `key` is gone, as reads show it.
async fn wait_gone(store: &Handle, key: &str) {
    let deadline = Instant::now() + PATIENCE;
    while read(store).await.get(key).is_some() {
        assert!(Instant::now() < deadline, "{key} is still there after {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A lease that is not renewed ends, not early, takes its keys along and nothing else, at a new revision.
pub async fn expiry_deletes<Fut: Future<Output = Handle>>(open: &impl Fn() -> Fut, pace: Pace) {
    let (holder, other) = (open().await, open().await);
    let txn = |lease| Txn::new().put_leased("expiry/a", "1", lease).put_leased("expiry/b", "2", lease);
    let (since, lease, revision) = put_leased(&holder, pace.ttl, |lease| txn(lease).put("expiry/c", "3")).await;
    let under = read(&other).await.get("expiry/a").and_then(|entry| entry.lease);
    assert!(under == Some(lease) || since.elapsed() >= pace.ttl, "{under:?} is not {lease:?}");
    wait_gone(&other, "expiry/a").await;
    assert!(since.elapsed() >= pace.ttl, "ended early, after {:?}", since.elapsed());
    let seen = read(&holder).await;
    assert_eq!((seen.get("expiry/b"), seen.value("expiry/c")), (None, Some("3")));
    assert!(seen.revision > revision);
    apply(&other, Txn::new().absent("expiry/a").put("expiry/a", "next")).await;
}

/// Within this time any machine runs for long enough without a pause.
const ENOUGH: Duration = Duration::from_secs(300);

/// Renewals keep a lease alive well past its time, through any handle.
pub async fn keep_alive_extends<Fut: Future<Output = Handle>>(open: &impl Fn() -> Fut, pace: Pace) {
    let (holder, other) = (open().await, open().await);
    // A machine that stands still for as long as the lease lives renews too late: then it begins anew.
    let begun = Instant::now();
    while !renewed_throughout(&holder, &other, pace.ttl).await {
        assert!(begun.elapsed() < ENOUGH, "no {:?} passed with renewals in time", pace.ttl * 3);
    }
    wait_gone(&other, "alive/a").await;
}

/// Whether the renewals were in time; panics when they were and the lease has ended all the same.
async fn renewed_throughout(holder: &Handle, other: &Handle, ttl: Duration) -> bool {
    let (since, lease, _) = put_leased(holder, ttl, |lease| Txn::new().put_leased("alive/a", "1", lease)).await;
    let mut renewed = since;
    while since.elapsed() < ttl * 3 {
        for handle in [holder, other] {
            let now = Instant::now();
            match handle.keep_alive(lease).await {
                Ok(()) => renewed = now,
                Err(StoreError::LeaseGone { .. }) if renewed.elapsed() >= ttl => return false,
                Err(error) => panic!("a lease that is renewed in time lives: {error}"),
            }
            tokio::time::sleep(ttl / 8).await;
        }
    }
    let seen = read(other).await;
    if renewed.elapsed() >= ttl {
        return false;
    }
    assert_eq!(seen.value("alive/a"), Some("1"));
    true
}

/// A renewal is no news: the revision stays and nobody is woken.
pub async fn keep_alive_is_no_change<Fut: Future<Output = Handle>>(open: &impl Fn() -> Fut, pace: Pace) {
    let (holder, other) = (open().await, open().await);
    let lease = grant(&holder, pace.ttl * 100).await;
    let revision = apply(&holder, Txn::new().put_leased("quiet/a", "1", lease)).await;
    let mut news = other.watch();
    hears(&mut news, revision).await;
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
    // A server that is too busy may end it later: then it has begun anew, and ends another time.
    for _ in 0..3 {
        tokio::time::sleep(pace.ttl + pace.expiry).await;
        if store.keep_alive(lease).await.is_err() {
            break;
        }
    }
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
    hears(&mut news, seen.revision).await;
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
