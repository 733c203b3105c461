//! Many writers at once.

use std::collections::BTreeSet;

use tokio::task::JoinSet;

use super::{Handle, Pace, apply, commit, read};
use crate::store::{Committed, Txn};

async fn handles<Fut: Future<Output = Handle>>(open: &impl Fn() -> Fut) -> [Handle; 3] {
    [open().await, open().await, open().await]
}

/// Of many who take the same free key, one gets it, round after round.
pub async fn one_winner<Fut: Future<Output = Handle>>(open: &impl Fn() -> Fut, _: Pace) {
    let handles = handles(open).await;
    for round in 0..5 {
        let key = format!("race/{round}");
        let mut tasks = JoinSet::new();
        for racer in 0..12_usize {
            let (store, key) = (handles[racer % 3].clone(), key.clone());
            tasks.spawn(async move {
                let txn = Txn::new().absent(&key).put(&key, racer.to_string());
                (racer, commit(&store, txn).await)
            });
        }
        let results = tasks.join_all().await;
        let won = results.iter().filter(|(_, result)| result.applied().is_some());
        let winners: Vec<usize> = won.map(|(racer, _)| *racer).collect();
        assert_eq!(winners.len(), 1, "winners {winners:?}");
        assert_eq!(read(&handles[0]).await.value(&key), Some(winners[0].to_string().as_str()));
        assert!(results.iter().all(|(_, result)| match result {
            Committed::Applied { .. } => true,
            Committed::Refused { key: named } => *named == key,
        }));
    }
}

/// Adds one to the number under `key`, as often as it takes.
async fn increment(store: &Handle, key: &str) {
    loop {
        let seen = read(store).await;
        let entry = seen.get(key).expect("the counter is there");
        let next = entry.value.parse::<u64>().expect("the counter is a number") + 1;
        let txn = Txn::new().revision(key, entry.revision).put(key, next.to_string());
        if commit(store, txn).await.applied().is_some() {
            return;
        }
    }
}

/// No increment is lost or counted twice.
pub async fn counter_is_exact<Fut: Future<Output = Handle>>(open: &impl Fn() -> Fut, _: Pace) {
    let handles = handles(open).await;
    apply(&handles[0], Txn::new().put("count", "0")).await;
    let mut tasks = JoinSet::new();
    for n in 0..9 {
        let store = handles[n % 3].clone();
        tasks.spawn(async move {
            for _ in 0..8 {
                increment(&store, "count").await;
            }
        });
    }
    tasks.join_all().await;
    assert_eq!(read(&handles[1]).await.value("count"), Some("72"));
}

/// Two keys that always change together are never seen apart.
pub async fn one_revision_snapshots<Fut: Future<Output = Handle>>(open: &impl Fn() -> Fut, _: Pace) {
    let [writer, reader, other] = handles(open).await;
    apply(&writer, Txn::new().put("pair/a", "0").put("pair/b", "0")).await;
    let writing = tokio::spawn(async move {
        for n in 1..60 {
            apply(&writer, Txn::new().put("pair/a", n.to_string()).put("pair/b", n.to_string())).await;
        }
    });
    while !writing.is_finished() {
        for store in [&reader, &other] {
            let seen = read(store).await;
            assert_eq!(seen.get("pair/a"), seen.get("pair/b"));
            let revision = seen.get("pair/a").map_or(0, |entry| entry.revision);
            assert!(seen.revision >= revision, "an entry newer than its snapshot");
        }
    }
    writing.await.expect("the writer did not panic");
}

/// Revisions only grow, and no two changes share one, whoever makes them.
pub async fn revision_grows<Fut: Future<Output = Handle>>(open: &impl Fn() -> Fut, _: Pace) {
    let handles = handles(open).await;
    let mut tasks = JoinSet::new();
    for n in 0..6_usize {
        let store = handles[n % 3].clone();
        tasks.spawn(async move {
            let (mut last, mut all) = (read(&store).await.revision, Vec::new());
            for round in 0..8 {
                let revision = apply(&store, Txn::new().put(format!("grows/{n}"), round.to_string())).await;
                let seen = read(&store).await.revision;
                assert!(revision > last && seen >= revision, "{last}, then {revision}, then {seen}");
                last = seen;
                all.push(revision);
            }
            all
        });
    }
    let all: Vec<_> = tasks.join_all().await.into_iter().flatten().collect();
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len(), "a revision was given twice");
}
