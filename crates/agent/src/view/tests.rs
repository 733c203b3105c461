use std::time::Duration;

use matriarch_dcs::{Store, Txn, memory::MemoryStore};
use serde_json::json;

use super::*;

async fn reading(store: &dyn Store, lease: Option<LeaseId>) -> Reading {
    read(&store.read().await.unwrap(), lease, "2026-11-21T16:00:00Z".parse().unwrap())
}

#[tokio::test]
async fn an_empty_store_is_an_empty_view() {
    let store = MemoryStore::new();
    let reading = reading(&store, None).await;
    assert!(reading.garbled.is_empty() && reading.config.is_none());
    assert_eq!(reading.view, ClusterView { revision: reading.view.revision, ..ClusterView::default() });
}

#[tokio::test]
async fn every_key_is_read() {
    let store = MemoryStore::new();
    let lease = store.grant(Duration::from_secs(60)).await.unwrap();
    let member = json!({
        "conn_url": "postgres://h:1/postgres", "api_url": "http://h:2/patroni", "state": "running", "role": "replica",
        "version": "4.1.5", "timeline": 2, "xlog_location": 77, "tags": {"clonefrom": true},
    });
    let failover = |at: &str| json!({"leader": "a", "member": "b", "scheduled_at": at}).to_string();
    let txn = Txn::new()
        .put("initialize", "7575")
        .put_leased("leader", "a", lease)
        .put_leased("members/b", member.to_string(), lease)
        .put("pledges/b", json!({"epoch": 3, "incarnation": "0badcafe", "timeline": 2, "lsn": "0/10"}).to_string())
        .put("failover", failover("2026-11-21T17:00:00Z"))
        .put("history", json!([[1, 100, "no recovery target specified", "", "b"]]).to_string())
        .put("status", json!({"optime": 99, "slots": {"cdc": 88}, "retain_slots": [], "known": {"b": {"timeline": 1, "lsn": 9, "at": "x"}}}).to_string())
        .put("routers/here-6432", json!({"kind": "pooler", "address": "here:6432", "holds": 7}).to_string())
        .put("config", "{\"ttl\": 9}");
    store.commit(txn).await.unwrap();

    let found = reading(&store, Some(lease)).await;
    assert!(found.garbled.is_empty(), "{:?}", found.garbled);
    let view = &found.view;
    let leader = view.leader.as_ref().unwrap();
    assert!(leader.name.as_str() == "a" && leader.held);
    let b: MemberName = "b".parse().unwrap();
    assert!(view.members[&b].tag("clonefrom") && view.members[&b].xlog_location == Some(77));
    assert_eq!(view.pledges[&b].value.epoch, 3);
    assert_eq!(view.routers["here-6432"].holds, Some(7));
    assert!(view.failover.is_some() && !view.failover_due, "its time has not come");
    assert_eq!((view.history[0].fork(), view.optime), ((1, Lsn(100)), Lsn(99)));
    assert_eq!(found.known[&b].lsn, 9);
    assert_eq!(found.slots, [("cdc".to_owned(), 88)].into());
    assert_eq!(found.config.unwrap().value, "{\"ttl\": 9}");

    // Somebody else's lease, and a time that has come.
    store.commit(Txn::new().put("failover", failover("2026-11-21T15:00:00Z"))).await.unwrap();
    let other = reading(&store, None).await;
    assert!(other.view.failover_due && !other.view.leader.unwrap().held);
}

#[tokio::test]
async fn garbage_is_named_and_does_not_hide_the_rest() {
    let store = MemoryStore::new();
    let txn = Txn::new()
        .put("leader", "no/name")
        .put("members/b", "[]")
        .put("members/-", "{}")
        .put("sync", "{\"leader\": 1}")
        .put("status", "{\"optime\": 5, \"slots\": null}")
        .put("initialize", "1");
    store.commit(txn).await.unwrap();
    let found = reading(&store, None).await;
    for key in ["leader", "members/b", "members/-", "sync"] {
        assert!(found.garbled.iter().any(|text| text.contains(&format!("'{key}'"))), "{key}: {:?}", found.garbled);
    }
    assert!(found.view.leader.is_none() && found.view.sync.is_none() && found.view.members.is_empty());
    assert_eq!((found.view.initialize.unwrap().value.as_str(), found.view.optime), ("1", Lsn(5)));
    assert!(found.slots.is_empty());
}

/// What Patroni leaves behind is no record of ours, and no error either.
#[tokio::test]
async fn records_of_another_program_are_told_from_ours() {
    let store = MemoryStore::new();
    let member = |role: &str, version: &str| {
        json!({"conn_url": "postgres://h:1/postgres", "api_url": "http://h:2/patroni", "state": "running", "role": role, "version": version})
            .to_string()
    };
    let txn = Txn::new()
        .put("sync", json!({"leader": "a", "sync_standby": null, "quorum": 0}).to_string())
        .put("failover", "{}")
        .put("members/a", member("replica", "4.1.5+matriarch.0.1.0"))
        .put("members/b", member("promoted", "4.1.5"))
        .put("members/c d", member("replica", "4.1.5"))
        .put("members/e", member("promoted", "4.1.5+matriarch.0.1.0"));
    store.commit(txn).await.unwrap();
    let reading = reading(&store, None).await;
    let view = &reading.view;
    assert!(view.sync.is_none() && view.sync_of_others == Some(view.revision), "{view:?}");
    assert_eq!(view.members.keys().map(|name| name.as_str()).collect::<Vec<_>>(), ["a"]);
    assert_eq!(view.strangers.keys().collect::<Vec<_>>(), ["b", "c d"]);
    assert!(reading.garbled.len() == 1 && reading.garbled[0].contains("members/e"), "{:?}", reading.garbled);
}
