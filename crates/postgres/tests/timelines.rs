//! A promotion opens the timeline that is reserved for it, whatever histories the member has seen.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{LONG, Lab, Node, caught_up, majors, value};
use matriarch_postgres::history::{self, ReserveError};
use matriarch_postgres::stop::{StopMode, stop};
use matriarch_postgres::{Postmaster, Sql, StartAs};

#[tokio::test]
async fn a_promotion_opens_the_reserved_timeline() {
    for binaries in majors() {
        let lab = Lab::new(&binaries);
        let (mut a, mut b, mut c) = (lab.node("a"), lab.node("b"), lab.node("c"));
        let (a_postmaster, a_sql) = a.bootstrap().await;
        a_sql.execute("make a table", "CREATE TABLE public.t (x int); INSERT INTO public.t VALUES (1)").await.unwrap();
        let (_b_postmaster, b_sql) = b.join(&a, &a_sql).await;
        let (c_postmaster, c_sql) = c.join(&a, &a_sql).await;
        caught_up(&a_sql, &b_sql).await;
        caught_up(&a_sql, &c_sql).await;
        end(&c, &c_postmaster, c_sql).await;
        end(&a, &a_postmaster, a_sql).await;

        // Others have used 2 and 3, and the promoting member has never heard of them.
        promote(&b, &b_sql, 1, 4).await;
        b_sql.execute("write", "INSERT INTO public.t VALUES (4)").await.unwrap();

        b_sql.create_slot(&a.instance.name.slot()).await.unwrap();
        a.follow(&b);
        let (_a_postmaster, a_sql) = a.start(StartAs::Standby).await;
        caught_up(&b_sql, &a_sql).await;

        // A copy of a primary has no history but its own, and the third member will ask it for all of them.
        for name in histories(&a).iter().filter(|name| *name != "00000004.history") {
            std::fs::remove_file(a.data("pg_wal").join(name)).unwrap();
        }
        promote(&a, &a_sql, 4, 6).await;
        a_sql.execute("write", "INSERT INTO public.t VALUES (6)").await.unwrap();
        a_sql.create_slot(&c.instance.name.slot()).await.unwrap();
        c.follow(&a);
        let (c_postmaster, c_sql) = c.start(StartAs::Standby).await;
        caught_up(&a_sql, &c_sql).await;
        assert_eq!(value(&c_sql, "SELECT string_agg(x::text, ',' ORDER BY x) FROM public.t").await, "1,4,6");

        // It starts again with all these files.
        end(&c, &c_postmaster, c_sql).await;
        let (_c_postmaster, c_sql) = c.start(StartAs::Standby).await;
        caught_up(&a_sql, &c_sql).await;
        assert_eq!(c_sql.probe(LONG).await.unwrap().timeline, 6);
    }
}

#[tokio::test]
async fn a_reservation_that_came_to_nothing_leaves_nothing() {
    let binaries = majors().pop().unwrap();
    let lab = Lab::new(&binaries);
    let (mut a, mut b) = (lab.node("a"), lab.node("b"));
    let (_a_postmaster, a_sql) = a.bootstrap().await;
    let (b_postmaster, b_sql) = b.join(&a, &a_sql).await;
    history::reserve(&b.instance, 1, 4).unwrap();
    assert_eq!(histories(&b), ["00000002.history", "00000003.history"]);
    end(&b, &b_postmaster, b_sql).await;
    let (_b_postmaster, b_sql) = b.start(StartAs::Standby).await;
    caught_up(&a_sql, &b_sql).await;
    assert!(histories(&b).is_empty(), "{:?}", histories(&b));

    promote(&b, &b_sql, 1, 3).await;
    let taken = history::reserve(&b.instance, 1, 3);
    assert!(matches!(taken, Err(ReserveError::Taken { timeline: 3, .. })), "{taken:?}");
}

async fn promote(node: &Node, sql: &Sql, own: u32, next: u32) {
    history::reserve(&node.instance, own, next).unwrap();
    sql.promote(LONG).await.unwrap();
    assert_eq!(sql.probe(LONG).await.unwrap().timeline, next);
    assert_eq!(histories(node).len(), next as usize - 1, "{:?}", histories(node));
}

async fn end(node: &Node, postmaster: &Postmaster, sql: Sql) {
    drop(sql);
    let mode = StopMode::Fast { checkpoint: None, deadline: LONG };
    stop(postmaster, &node.instance.data_dir, None, mode).await.unwrap();
}

fn histories(node: &Node) -> Vec<String> {
    let entries = std::fs::read_dir(node.data("pg_wal")).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| name.ends_with(".history"));
    names.sort();
    names
}
