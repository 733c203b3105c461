//! Replication slots on a primary and on a standby.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{LONG, Lab, caught_up, majors, until, value};
use matriarch_core::Lsn;
use matriarch_postgres::Sql;
use matriarch_postgres::probe::SlotRow;
use matriarch_postgres::sql::{LogicalSlot, SqlError};

async fn slot(sql: &Sql, name: &str) -> Option<SlotRow> {
    sql.probe(LONG).await.unwrap().slots.into_iter().find(|slot| slot.name == name)
}

async fn write_and_checkpoint(primary: &Sql, standby: &Sql) -> Lsn {
    primary.query("write", "SELECT pg_switch_wal(), pg_logical_emit_message(false, 'x', 'y')", LONG).await.unwrap();
    caught_up(primary, standby).await;
    primary.checkpoint(LONG).await.unwrap();
    caught_up(primary, standby).await;
    standby.checkpoint(LONG).await.unwrap();
    primary.probe(LONG).await.unwrap().position()
}

#[tokio::test]
async fn a_standby_keeps_slots_for_its_peers_and_lets_their_wal_go() {
    for binaries in majors() {
        let lab = Lab::new(&binaries);
        let (mut a, mut b) = (lab.node("a"), lab.node("b"));
        let (_a_postmaster, a_sql) = a.bootstrap().await;
        let (_b_postmaster, b_sql) = b.join(&a, &a_sql).await;
        b_sql.create_slot("c").await.unwrap();
        b_sql.create_slot("c").await.unwrap();
        let before = slot(&b_sql, "c").await.unwrap();
        assert!(!before.active && before.restart_lsn.is_some(), "{before:?}");

        let end = write_and_checkpoint(&a_sql, &b_sql).await;
        // Not past what the peer has, nor past the local checkpoint.
        b_sql.advance_slot("c", before.restart_lsn.unwrap()).await.unwrap();
        assert_eq!(slot(&b_sql, "c").await.unwrap().restart_lsn, before.restart_lsn);
        until("the standby has replayed the checkpoint and the slot moves", async || {
            b_sql.checkpoint(LONG).await.unwrap();
            b_sql.advance_slot("c", Lsn(end.0 + (1 << 30))).await.unwrap();
            slot(&b_sql, "c").await.unwrap().restart_lsn > before.restart_lsn
        })
        .await;
        let after = slot(&b_sql, "c").await.unwrap();
        let redo: Lsn = value(&b_sql, "SELECT redo_lsn FROM pg_control_checkpoint()").await.parse().unwrap();
        assert!(after.restart_lsn <= Some(redo), "{after:?} is past the checkpoint {redo}");

        assert!(!a_sql.drop_slot("b").await.unwrap(), "a slot in use was dropped");
        assert!(b_sql.drop_slot("c").await.unwrap());
        assert!(!b_sql.drop_slot("c").await.unwrap());
    }
}

#[tokio::test]
async fn logical_slots_are_made_in_their_database() {
    for binaries in majors() {
        let lab = Lab::new(&binaries);
        let mut a = lab.node("a");
        a.settings.parameters.insert("wal_level".into(), "logical".into());
        let (_postmaster, sql) = a.bootstrap().await;
        sql.create_database("app", "postgres").await.unwrap();
        let wanted = LogicalSlot { name: "cdc".into(), database: "app".into(), plugin: "pgoutput".into() };
        assert!(wanted.create(&a.instance).await.unwrap());
        assert!(!wanted.create(&a.instance).await.unwrap());
        let found = slot(&sql, "cdc").await.unwrap();
        assert_eq!((found.kind.as_str(), found.database.as_deref()), ("logical", Some("app")));
        assert_eq!((found.plugin.as_deref(), found.synced), (Some("pgoutput"), false));
        assert!(found.confirmed_lsn.is_some());
        if binaries.version().major >= 17 {
            assert_eq!(value(&sql, "SELECT failover FROM pg_replication_slots WHERE slot_name = 'cdc'").await, "t");
        }
        let nowhere = LogicalSlot { database: "nowhere".into(), ..wanted };
        let error = nowhere.create(&a.instance).await.unwrap_err();
        assert!(matches!(&error, SqlError::Connect { .. }) && error.to_string().contains("nowhere"), "{error}");
    }
}

#[tokio::test]
async fn replicas_of_newer_majors_copy_logical_slots() {
    for binaries in majors() {
        if binaries.version().major < 17 {
            continue;
        }
        let lab = Lab::new(&binaries);
        let (mut a, mut b) = (lab.node("a"), lab.node("b"));
        for node in [&mut a, &mut b] {
            node.settings.parameters.insert("wal_level".into(), "logical".into());
            node.settings.sync_slots = true;
        }
        let (_a_postmaster, a_sql) = a.bootstrap().await;
        let (_b_postmaster, b_sql) = b.join(&a, &a_sql).await;
        let wanted = LogicalSlot { name: "cdc".into(), database: "postgres".into(), plugin: "pgoutput".into() };
        assert!(wanted.create(&a.instance).await.unwrap());
        until("the replica has copied the slot", async || {
            // The copy becomes permanent once the replica has passed the position of the original.
            a_sql.query("write", "SELECT pg_log_standby_snapshot()", LONG).await.unwrap();
            slot(&b_sql, "cdc").await.is_some_and(|slot| slot.synced && !slot.temporary)
        })
        .await;
        b_sql.promote(LONG).await.unwrap();
        let kept = slot(&b_sql, "cdc").await.unwrap();
        assert!(kept.confirmed_lsn.is_some(), "{kept:?}");
        assert!(!wanted.create(&b.instance).await.unwrap(), "the slot was made anew");
    }
}
