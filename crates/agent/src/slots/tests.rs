use serde_json::Value;

use super::*;

fn name(text: &str) -> MemberName {
    text.parse().unwrap()
}

fn slot(name: &str, restart: u64) -> SlotRow {
    SlotRow {
        name: name.to_owned(),
        kind: "physical".to_owned(),
        active: false,
        temporary: false,
        database: None,
        plugin: None,
        synced: false,
        restart_lsn: Some(Lsn(restart)),
        confirmed_lsn: None,
        wal_status: Some("reserved".to_owned()),
    }
}

fn wanted(members: &[(&str, Option<u64>)]) -> Wanted {
    let members = members.iter().map(|(name, lsn)| ((*name).to_owned(), lsn.map(Lsn))).collect();
    Wanted { members, abandoned: ["me".to_owned()].into(), ..Wanted::default() }
}

#[test]
fn a_slot_for_each_other_member_moves_with_it() {
    let wanted = wanted(&[("b", Some(100)), ("c", Some(100)), ("d", None)]);
    let mut active = slot("c", 50);
    active.active = true;
    let steps = plan(&wanted, &[slot("b", 50), active, slot("me", 1)]);
    let expected = [
        Step::Advance("b".into(), Lsn(100)),
        Step::Drop("me".into(), "its member is no longer waited for"),
        Step::Create("d".into()),
    ];
    assert_eq!(steps, expected);
    assert_eq!(plan(&wanted, &[slot("b", 100), slot("c", 200), slot("d", 7)]), []);
}

#[test]
fn a_slot_that_lost_its_wal_is_made_anew() {
    let mut lost = slot("b", 50);
    lost.wal_status = Some("lost".to_owned());
    assert!(matches!(&plan(&wanted(&[("b", Some(100))]), &[lost])[..], [Step::Drop(name, _)] if name == "b"));
}

#[test]
fn slots_of_others_stay_on_the_primary_and_leave_a_replica_when_idle() {
    let mut wanted = Wanted { primary: true, idle: ["cdc".to_owned()].into(), ..Wanted::default() };
    assert_eq!(plan(&wanted, &[slot("cdc", 1)]), []);
    wanted.primary = false;
    assert!(matches!(&plan(&wanted, &[slot("cdc", 1)])[..], [Step::Drop(..)]));
    let mut synced = slot("cdc", 1);
    synced.synced = true;
    assert_eq!(plan(&wanted, &[synced]), []);
    wanted.ignored = vec![SlotMatch { name: Some("cdc".into()), kind: None, database: None, plugin: None }];
    assert_eq!(plan(&wanted, &[slot("cdc", 1)]), []);
}

#[test]
fn permanent_slots_follow_the_leader() {
    let logical = Slot::Logical { database: "app".into(), plugin: "pgoutput".into() };
    let permanent = [("p".to_owned(), (Slot::Physical, Some(Lsn(9)))), ("l".to_owned(), (logical, None))];
    let mut wanted = Wanted { permanent: permanent.into(), ..Wanted::default() };
    assert_eq!(plan(&wanted, &[]), [Step::Create("p".into())]);
    assert_eq!(plan(&wanted, &[slot("p", 3)]), [Step::Advance("p".into(), Lsn(9))]);
    let mut stale = slot("l", 3);
    stale.kind = "logical".to_owned();
    assert_eq!(plan(&wanted, &[slot("p", 9), stale.clone()]), [Step::Drop("l".into(), "it is stale on a replica")]);
    stale.synced = true;
    assert_eq!(plan(&wanted, &[slot("p", 9), stale]), []);
    wanted.primary = true;
    assert!(matches!(&plan(&wanted, &[slot("p", 3)])[..], [Step::CreateLogical(slot)] if slot.database == "app"));
}

fn probe(in_recovery: bool, slots: Vec<SlotRow>) -> Probe {
    Probe {
        in_recovery,
        timeline: 1,
        write_lsn: None,
        flush_lsn: None,
        flush_awaited: false,
        receive_lsn: None,
        replay_lsn: None,
        replay_paused: false,
        replay_timestamp: None,
        receiver: None,
        replication: Vec::new(),
        slots,
        synchronous_standby_names: String::new(),
        primary_conninfo: String::new(),
        restores: false,
        archives: false,
        postmaster_start_time: 0.0,
        now: 0.0,
    }
}

fn view(members: &[(&str, u32, u64)]) -> ClusterView {
    let member = |timeline: u32, lsn: u64| {
        let record = serde_json::json!({
            "conn_url": "postgres://h:1/postgres", "api_url": "http://h:2/patroni", "state": "running",
            "role": "replica", "version": "4.1.5", "timeline": timeline, "xlog_location": lsn,
        });
        serde_json::from_value(record).unwrap()
    };
    let members = members.iter().map(|(text, timeline, lsn)| (name(text), member(*timeline, *lsn))).collect();
    ClusterView { members, ..ClusterView::default() }
}

#[test]
fn a_member_away_keeps_its_slot_for_a_while() {
    let mut keeper = Keeper::default();
    let config = DynamicConfig::from_json(&serde_json::json!({"member_slots_ttl": 10})).unwrap();
    let probe = probe(false, vec![slot("b", 1)]);
    let mut wanted = |now, view: &ClusterView, config: &DynamicConfig| {
        keeper.wanted(now, &name("a"), config, view, (&probe, &BTreeMap::new()))
    };
    let both = view(&[("a", 1, 90), ("b", 1, 80)]);
    assert_eq!(wanted(0, &both, &config).members, [("b".to_owned(), Some(Lsn(80)))].into());
    let alone = view(&[("a", 1, 95)]);
    assert_eq!(wanted(9_000, &alone, &config).members.len(), 1);
    let later = wanted(11_000, &alone, &config);
    assert!(later.members.is_empty() && later.abandoned.contains("b"), "{later:?}");
    // On another timeline its position says nothing about ours.
    assert_eq!(wanted(12_000, &view(&[("b", 2, 500)]), &config).members["b"], Some(Lsn(80)));
    let none = DynamicConfig::from_json(&serde_json::json!({"postgresql": {"use_slots": false}})).unwrap();
    let none = wanted(13_000, &view(&[("b", 1, 500)]), &none);
    assert!(none.members.is_empty() && none.abandoned.contains("b"));
    // With two walsenders it would be counted as two.
    let two = serde_json::json!({"postgresql": {"use_slots": false}, "synchronous_node_count": 2});
    let two = wanted(14_000, &view(&[("b", 1, 500)]), &DynamicConfig::from_json(&two).unwrap());
    assert!(two.members.contains_key("b") && two.abandoned == ["a".to_owned()].into(), "{two:?}");
}

#[test]
fn a_member_that_streams_from_nobody_gets_no_slot() {
    let mut keeper = Keeper::default();
    let config = DynamicConfig::default();
    let probe = probe(false, vec![slot("b", 1)]);
    let mut wanted =
        |now, view: &ClusterView| keeper.wanted(now, &name("a"), &config, view, (&probe, &BTreeMap::new()));
    let mut tagged = view(&[("a", 1, 90), ("b", 1, 80)]);
    tagged.members.get_mut(&name("b")).unwrap().tags.insert("nostream".to_owned(), true.into());
    let found = wanted(0, &tagged);
    assert!(found.members.is_empty(), "{found:?}");
    assert!(matches!(&plan(&found, &probe.slots)[..], [Step::Drop(name, _)] if name == "b"));
    // While it is away, too.
    assert!(wanted(1, &view(&[("a", 1, 90)])).members.is_empty());
    assert_eq!(wanted(2, &view(&[("a", 1, 90), ("b", 1, 80)])).members.len(), 1);
}

#[test]
fn a_slot_taken_out_of_the_configuration_goes() {
    let mut keeper = Keeper::default();
    let probe = probe(false, vec![slot("dr", 1), slot("theirs", 1)]);
    let mut wanted = |config: Value| {
        let config = DynamicConfig::from_json(&config).unwrap();
        keeper.wanted(0, &name("a"), &config, &view(&[]), (&probe, &BTreeMap::new()))
    };
    let with = wanted(serde_json::json!({"slots": {"dr": {"type": "physical"}}}));
    assert_eq!(plan(&with, &probe.slots), []);
    let without = wanted(serde_json::json!({}));
    assert_eq!(plan(&without, &probe.slots), [Step::Drop("dr".into(), "it is no longer in the configuration")]);
}
