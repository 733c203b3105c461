//! Reading, writing, comparing.

use super::{Handle, Pace, apply, commit, read, refused};
use crate::error::StoreError;
use crate::store::{Committed, Txn};

/// What a handle wrote it reads, with its revision; deleted keys are gone.
pub async fn read_your_writes<Fut: Future<Output = Handle>>(open: &impl Fn() -> Fut, _: Pace) {
    let store = open().await;
    let first = apply(&store, Txn::new().put("own/a", "1").put("own/b", "2")).await;
    let seen = read(&store).await;
    assert_eq!((seen.value("own/a"), seen.value("own/b")), (Some("1"), Some("2")));
    assert!(seen.revision >= first);
    let second = apply(&store, Txn::new().put("own/a", "").delete("own/b").delete("own/never")).await;
    let seen = read(&store).await;
    let a = seen.get("own/a").expect("an empty value is a value");
    assert_eq!((a.value.as_str(), a.revision, a.lease), ("", second, None));
    assert_eq!(seen.get("own/b"), None);
    assert!(second > first);
}

/// A handle opened later, and one opened before, read what another wrote.
pub async fn later_handles_see_it<Fut: Future<Output = Handle>>(open: &impl Fn() -> Fut, _: Pace) {
    let (writer, before) = (open().await, open().await);
    let revision = apply(&writer, Txn::new().put("shared/a", "x")).await;
    for other in [before, open().await] {
        let seen = read(&other).await;
        assert_eq!(seen.value("shared/a"), Some("x"));
        assert_eq!(seen.get("shared/a").map(|entry| entry.revision), Some(revision));
    }
}

/// Each kind of compare, holding and failing; a refusal names the first that failed.
pub async fn compare_and_set<Fut: Future<Output = Handle>>(open: &impl Fn() -> Fut, _: Pace) {
    let store = open().await;
    let first = apply(&store, Txn::new().absent("cas/a").put("cas/a", "1")).await;
    refused(&store, Txn::new().absent("cas/a").put("cas/a", "again"), "cas/a").await;

    let second = apply(&store, Txn::new().revision("cas/a", first).put("cas/a", "2")).await;
    refused(&store, Txn::new().revision("cas/a", first).put("cas/a", "late"), "cas/a").await;
    refused(&store, Txn::new().revision("cas/a", second + 1000).put("cas/a", "early"), "cas/a").await;
    refused(&store, Txn::new().revision("cas/none", 0).put("cas/none", "x"), "cas/none").await;

    apply(&store, Txn::new().value("cas/a", "2").put("cas/b", "3")).await;
    refused(&store, Txn::new().value("cas/a", "1").put("cas/b", "4"), "cas/a").await;
    refused(&store, Txn::new().value("cas/none", "").put("cas/b", "4"), "cas/none").await;

    // The same value again is a new write, so who compares revisions notices.
    let same = apply(&store, Txn::new().put("cas/a", "2")).await;
    refused(&store, Txn::new().revision("cas/a", second).put("cas/a", "x"), "cas/a").await;
    let several = Txn::new().revision("cas/a", same).absent("cas/b").value("cas/none", "x").put("cas/a", "x");
    refused(&store, several, "cas/b").await;
    // Deleted and made again: the old revision must not come back.
    apply(&store, Txn::new().delete("cas/a")).await;
    let anew = apply(&store, Txn::new().absent("cas/a").put("cas/a", "2")).await;
    assert!(anew > same);
}

/// After a refusal everything is as it was.
pub async fn refused_changes_nothing<Fut: Future<Output = Handle>>(open: &impl Fn() -> Fut, _: Pace) {
    let store = open().await;
    apply(&store, Txn::new().put("refused/a", "1").put("refused/b", "2")).await;
    let before = read(&store).await;
    let txn = Txn::new().absent("refused/a").put("refused/c", "3").delete("refused/b").delete_prefix("refused/");
    refused(&store, txn, "refused/a").await;
    assert_eq!(read(&store).await.entries, before.entries);
}

/// Many keys change at one revision, in order, on the state that the compares saw.
pub async fn atomic_many_keys<Fut: Future<Output = Handle>>(open: &impl Fn() -> Fut, _: Pace) {
    let store = open().await;
    let mut txn = Txn::new();
    for n in 0..50 {
        txn = txn.absent(format!("many/{n:02}")).put(format!("many/{n:02}"), n.to_string());
    }
    let revision = apply(&store, txn).await;
    let seen = read(&store).await;
    let many: Vec<_> = seen.entries.iter().filter(|(key, _)| key.starts_with("many/")).collect();
    assert_eq!(many.len(), 50);
    assert!(many.iter().all(|(_, entry)| entry.revision == revision));
    let nothing = commit(&store, Txn::new().value("many/07", "7")).await;
    assert!(matches!(nothing, Committed::Applied { revision: same } if same >= revision), "{nothing:?}");
}

/// A prefix is taken literally.
pub async fn delete_prefix<Fut: Future<Output = Handle>>(open: &impl Fn() -> Fut, _: Pace) {
    let store = open().await;
    let keys = ["pre/a", "pre/b/c", "pre/%", "pre", "prefix", "pre.", "Pre/a", "p"];
    apply(&store, keys.iter().fold(Txn::new(), |txn, key| txn.put(*key, "x"))).await;
    apply(&store, Txn::new().delete_prefix("pre/")).await;
    let left = read(&store).await;
    let gone: Vec<_> = keys.iter().filter(|key| left.get(key).is_none()).collect();
    assert_eq!(gone, [&"pre/a", &"pre/b/c", &"pre/%"]);
    apply(&store, Txn::new().delete_prefix("pre%").delete_prefix("pr_")).await;
    assert_eq!(read(&store).await.entries, left.entries);
}

/// Values of 100 KiB come back whole.
pub async fn big_values<Fut: Future<Output = Handle>>(open: &impl Fn() -> Fut, _: Pace) {
    let (store, other) = (open().await, open().await);
    let value = |seed: u32| (0..10_240_u32).map(|n| format!("{:010}", n ^ seed)).collect::<String>();
    apply(&store, Txn::new().put("big/a", value(1))).await;
    apply(&store, Txn::new().value("big/a", value(1)).put("big/b", value(2))).await;
    let seen = read(&other).await;
    assert_eq!(seen.value("big/a"), Some(value(1).as_str()));
    assert_eq!(seen.value("big/b"), Some(value(2).as_str()));
}

/// Keys that look like paths, patterns or quoting are only keys.
pub async fn odd_keys<Fut: Future<Output = Handle>>(open: &impl Fn() -> Fut, _: Pace) {
    let store = open().await;
    let long = format!("odd/{}", "k".repeat(500));
    let keys = [
        "odd/with space",
        "odd/ümläut-\u{1f418}",
        "odd/per%cent",
        "odd/under_score",
        "odd/'quote\"",
        "odd/back\\slash",
        "odd/trailing/",
        "odd//double",
        "odd/..",
        "odd/a?b#c&d=e+f",
        "odd/UPPER",
        "odd/upper",
        "odd/line\nbreak",
        &long,
    ];
    apply(&store, keys.iter().fold(Txn::new(), |txn, key| txn.put(*key, *key))).await;
    let seen = read(&store).await;
    for key in keys {
        assert_eq!(seen.value(key), Some(key));
    }
    apply(&store, keys.iter().fold(Txn::new(), |txn, key| txn.value(*key, *key).delete(*key))).await;
    assert!(!read(&store).await.entries.keys().any(|key| key.starts_with("odd/")));
}

/// Keys and values that some engine could not keep are refused by all, and nothing is applied.
pub async fn unusable_keys<Fut: Future<Output = Handle>>(open: &impl Fn() -> Fut, _: Pace) {
    let store = open().await;
    let long = "k".repeat(crate::store::MAX_KEY_BYTES + 1);
    for key in ["", "/absolute", "nul\0", &long] {
        let put = store.commit(Txn::new().put("unusable/a", "x").put(key, "x")).await;
        assert!(matches!(put, Err(StoreError::Invalid { .. })), "{key:?}: {put:?}");
        let compare = store.commit(Txn::new().absent(key).put("unusable/a", "x")).await;
        assert!(matches!(compare, Err(StoreError::Invalid { .. })), "{key:?}: {compare:?}");
    }
    let huge = store.commit(Txn::new().put("unusable/a", "x".repeat(crate::store::MAX_VALUE_BYTES + 1))).await;
    assert!(matches!(huge, Err(StoreError::Invalid { .. })), "{huge:?}");
    assert_eq!(read(&store).await.get("unusable/a"), None);
}
