//! From nothing to a replicated pair and back together after a failover.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use common::{LONG, Lab, caught_up, majors, until, value};
use matriarch_core::Lsn;
use matriarch_postgres::control::{ClusterState, DataDirState, inspect};
use matriarch_postgres::history::{self, Divergence, History};
use matriarch_postgres::postmaster::StartError;
use matriarch_postgres::rewind::{RewindOutcome, rewind};
use matriarch_postgres::stop::{StopMode, StoppedBy, stop};
use matriarch_postgres::{Credentials, Sql, StartAs, hba, incarnation, pooler_role, roles, wal};

const FAST: StopMode = StopMode::Fast { checkpoint: Some(LONG), deadline: LONG };

#[tokio::test]
async fn a_member_fails_over_and_comes_back() {
    for binaries in majors() {
        let lab = Lab::new(&binaries);
        let (mut a, mut b) = (lab.node("a"), lab.node("b"));
        let (a_postmaster, a_sql) = a.bootstrap().await;
        a_sql.execute("make a table", "CREATE TABLE public.t (x int); INSERT INTO public.t VALUES (1)").await.unwrap();
        let (b_postmaster, b_sql) = b.join(&a, &a_sql).await;
        caught_up(&a_sql, &b_sql).await;
        check_probes(&a, &b, &a_sql, &b_sql).await;
        check_segments(&a_sql).await;
        caught_up(&a_sql, &b_sql).await;

        // The leader dies; the standby is promoted; each writes something the other does not have.
        a_postmaster.signal(rustix::process::Signal::KILL).unwrap();
        assert!(a_postmaster.wait_exit().await.is_some());
        matriarch_postgres::process::kill_tree_async(&a.instance.data_dir, LONG).await.unwrap();
        a_sql.closed().await;
        b_sql.promote(LONG).await.unwrap();
        let probe = b_sql.probe(LONG).await.unwrap();
        assert!(!probe.in_recovery && probe.timeline == 2, "{probe:?}");
        b_sql.execute("write", "INSERT INTO public.t VALUES (2)").await.unwrap();
        b_sql.checkpoint(LONG).await.unwrap();
        diverge(&mut a).await;

        let old = a.incarnation();
        b_sql.create_slot(&a.instance.name.slot()).await.unwrap();
        // Something else has the number of the postmaster that died by now.
        let left = format!("{}\n{}\n", b_postmaster.pid(), a.instance.data_dir.display());
        std::fs::write(a.data("postmaster.pid"), left).unwrap();
        let outcome = rewind(&a.instance, &b.source(), 2).await.unwrap();
        assert_eq!(outcome, RewindOutcome::Rewound(a.incarnation()));
        assert_ne!(old, a.incarnation());
        assert_ne!(b.incarnation(), a.incarnation());
        a.follow(&b);
        let (a_postmaster, a_sql) = a.start(StartAs::Standby).await;
        caught_up(&b_sql, &a_sql).await;
        assert_eq!(value(&a_sql, "SELECT string_agg(x::text, ',' ORDER BY x) FROM public.t").await, "1,2");
        assert_eq!(a_sql.probe(LONG).await.unwrap().timeline, 2);

        // A clean stop leaves nothing to rewind.
        assert_eq!(stop(&b_postmaster, &b.instance.data_dir, Some(&b_sql), FAST).await.unwrap().by, StoppedBy::Fast);
        drop(b_sql);
        a_sql.promote(LONG).await.unwrap();
        a_sql.checkpoint(LONG).await.unwrap();
        a_sql.create_slot(&b.instance.name.slot()).await.unwrap();
        assert_eq!(rewind(&b.instance, &a.source(), 3).await.unwrap(), RewindOutcome::NotNeeded);
        b.follow(&a);
        let (_b_postmaster, b_sql) = b.start(StartAs::Standby).await;
        caught_up(&a_sql, &b_sql).await;
        check_history(&b, &a).await;
        assert!(a_postmaster.is_alive());
    }
}

/// Starts the dead leader once more as a primary, which the agent never would, to make it write what nobody has.
async fn diverge(node: &mut common::Node) {
    let DataDirState::Ready(control) = inspect(&node.instance).await.unwrap() else { panic!("not ready") };
    assert_eq!(control.state, ClusterState::InProduction);
    let (postmaster, sql) = node.start(StartAs::Primary).await;
    sql.execute("write", "INSERT INTO public.t VALUES (666)").await.unwrap();
    let end = sql.probe(LONG).await.unwrap().flush_lsn.unwrap();
    drop(sql);
    stop(&postmaster, &node.instance.data_dir, None, StopMode::Immediate).await.unwrap();
    let DataDirState::Ready(control) = inspect(&node.instance).await.unwrap() else { panic!("not ready") };
    let (timeline, local_end) = wal::local_end(&node.instance, &control).await.unwrap();
    assert!(timeline == 1 && local_end >= end, "{local_end} is before {end}");
}

async fn check_probes(a: &common::Node, b: &common::Node, a_sql: &Sql, b_sql: &Sql) {
    // A server at rest writes WAL now and then as well.
    until("both are at the same position", async || {
        a_sql.probe(LONG).await.unwrap().position() == b_sql.probe(LONG).await.unwrap().position()
    })
    .await;
    let (primary, standby) = (a_sql.probe(LONG).await.unwrap(), b_sql.probe(LONG).await.unwrap());
    assert!(!primary.in_recovery && standby.in_recovery);
    assert_eq!((primary.timeline, standby.timeline), (1, 1));
    assert!(primary.flush_lsn > Some(Lsn::ZERO) && primary.receive_lsn.is_none(), "{primary:?}");
    let row = &primary.replication[0];
    assert_eq!(row.application_name, b.application_name());
    assert_eq!((row.state.as_deref(), row.sync_state.as_deref()), (Some("streaming"), Some("async")));
    let slot = primary.slots.iter().find(|slot| slot.name == "b").unwrap();
    assert!(slot.active && slot.kind == "physical" && slot.wal_status.as_deref() == Some("reserved"), "{slot:?}");
    let receiver = standby.receiver.as_ref().unwrap();
    assert_eq!((receiver.sender_port, receiver.status.as_str()), (Some(a.instance.port), "streaming"));
    assert_eq!(a_sql.server().system_identifier, b_sql.server().system_identifier);
    assert_ne!(a.incarnation(), b.incarnation(), "the clone kept its source's incarnation");
}

/// A segment that is in use is left, and one that has just begun is not.
async fn check_segments(sql: &Sql) {
    let segment = async || value(sql, "SELECT pg_walfile_name(pg_current_wal_insert_lsn())").await;
    sql.execute(
        "write WAL",
        "CREATE TABLE public.wide AS SELECT repeat(md5(x::text), 30) FROM generate_series(1, 3000) x",
    )
    .await
    .unwrap();
    let before = segment().await;
    sql.begin_segment(LONG).await.unwrap();
    let begun = segment().await;
    assert!(begun > before, "{begun} follows {before}");
    sql.begin_segment(LONG).await.unwrap();
    assert_eq!(segment().await, begun);
}

async fn check_history(node: &common::Node, leader: &common::Node) {
    let local = history::read(&node.instance, 3).unwrap().unwrap();
    let fetched = history::fetch(&node.instance, &leader.source(), 3).await.unwrap();
    assert_eq!(local, fetched);
    assert_eq!(local.ancestors.len(), 2, "{local:?}");
    let fork = local.ancestors[0].switch_lsn;
    let beyond = history::divergence(&History::root(1), Lsn(fork.0 + 1), &local);
    assert_eq!(beyond, Divergence::Diverged { fork });
}

#[tokio::test]
async fn roles_and_passwords_may_be_set_again() {
    let lab = Lab::new(&majors()[0]);
    let mut node = lab.node("a");
    let (_postmaster, sql) = node.bootstrap().await;
    roles::create_roles(&sql, &node.instance).await.unwrap();
    node.instance.superuser.password = "another one".into();
    roles::set_passwords(&sql, &node.instance).await.unwrap();
    Sql::connect(&node.instance).await.unwrap();
    assert_eq!(value(&sql, "SELECT rolreplication FROM pg_roles WHERE rolname = 'replicator'").await, "t");
    assert!(!hba::is_unsafe_now(&node.instance));
    // Nobody can come in without a password, over TCP or through the socket.
    let psql = |host: &str| {
        std::process::Command::new(node.instance.binaries.program("psql"))
            .args(["-w", "-h", host, "-p", &node.instance.port.to_string(), "-U", "postgres", "-c", "SELECT 1"])
            .output()
            .unwrap()
    };
    for host in ["127.0.0.1", node.instance.run_dir.to_str().unwrap()] {
        let output = psql(host);
        assert!(!output.status.success(), "{host} let us in without a password");
        assert!(String::from_utf8_lossy(&output.stderr).contains("no password supplied"), "{output:?}");
    }
}

#[tokio::test]
async fn the_poolers_role_is_made_once_and_put_right_again() {
    for binaries in majors() {
        let lab = Lab::new(&binaries);
        let mut node = lab.node("a");
        let (_postmaster, sql) = node.bootstrap().await;
        let pooler = node.instance.pooler.clone().unwrap();
        let ensure = async |pooler: &Credentials| pooler_role::ensure(&sql, &node.instance, pooler, true).await;
        assert!(ensure(&pooler).await.unwrap(), "there is none yet");
        assert!(!ensure(&pooler).await.unwrap(), "it is as it should be");
        // What it may do, and what others may not.
        let run = async |statement: &str| sql.execute("change something", statement).await.unwrap();
        run("CREATE ROLE app LOGIN PASSWORD 'hush'; CREATE ROLE passwordless LOGIN").await;
        let seen = "SET ROLE pooler; SELECT string_agg(name, ',' ORDER BY name) FROM matriarch.pooler_secrets()";
        assert_eq!(value(&sql, seen).await, "app,pooler,postgres,rewinder");
        assert!(sql.execute("peek", "SELECT rolpassword FROM pg_authid").await.is_err());
        run("RESET ROLE; SET ROLE app").await;
        assert!(sql.execute("peek", "SELECT * FROM matriarch.pooler_secrets()").await.is_err());
        run("RESET ROLE").await;
        // Whatever is changed about it comes back.
        for change in [
            "ALTER ROLE pooler PASSWORD 'another'",
            "ALTER ROLE pooler VALID UNTIL '2001-01-01'",
            "ALTER ROLE pooler NOLOGIN",
            "GRANT EXECUTE ON FUNCTION matriarch.pooler_secrets() TO PUBLIC",
            "ALTER FUNCTION matriarch.pooler_secrets() OWNER TO app",
            "DROP SCHEMA matriarch CASCADE",
            "DROP OWNED BY pooler; DROP ROLE pooler",
        ] {
            run(change).await;
            assert!(ensure(&pooler).await.unwrap(), "{change}");
            assert!(!ensure(&pooler).await.unwrap(), "{change}");
        }
        run("ALTER SCHEMA matriarch OWNER TO app").await;
        let error = ensure(&pooler).await.unwrap_err().to_string();
        assert!(error.contains("belongs to 'app'") && error.contains("OWNER TO \"postgres\""), "{error}");
    }
}

#[tokio::test]
async fn a_standby_is_never_started_as_a_primary() {
    let lab = Lab::new(&majors()[0]);
    let (mut a, mut b) = (lab.node("a"), lab.node("b"));
    let (_a_postmaster, a_sql) = a.bootstrap().await;
    let (postmaster, sql) = b.join(&a, &a_sql).await;
    stop(&postmaster, &b.instance.data_dir, Some(&sql), FAST).await.unwrap();
    let error = matriarch_postgres::start(&b.instance, StartAs::Primary, &b.log).await.unwrap_err();
    assert!(matches!(error, StartError::WasStandby { .. }), "{error}");
    // Nor is a restore started whose recovery has a target to stop at.
    for file in ["recovery.signal", matriarch_postgres::conf::RESTORE_SOURCE] {
        std::fs::write(b.instance.data_dir.join(file), "").unwrap();
    }
    let error = matriarch_postgres::start(&b.instance, StartAs::Standby, &b.log).await.unwrap_err();
    assert!(matches!(error, StartError::RestoreUnfinished { .. }), "{error}");
    assert!(b.instance.data_dir.join("recovery.signal").exists(), "nothing was touched");
}

#[tokio::test]
async fn the_end_of_a_standbys_wal_is_found_after_a_restart() {
    for binaries in majors() {
        let lab = Lab::new(&binaries);
        let (mut a, mut b) = (lab.node("a"), lab.node("b"));
        let (_a_postmaster, a_sql) = a.bootstrap().await;
        let (postmaster, sql) = b.join(&a, &a_sql).await;
        a_sql.execute("write", "CREATE TABLE public.t AS SELECT generate_series(1, 10000)").await.unwrap();
        caught_up(&a_sql, &sql).await;

        // Streaming ends by a reload, durably.
        b.settings.upstream = None;
        b.write_files();
        sql.reload().await.unwrap();
        sql.walreceiver_gone(LONG).await.unwrap();
        let end = sql.flushed_end(LONG).await.unwrap();
        assert_eq!(end, sql.probe(LONG).await.unwrap().position());
        a_sql.execute("write", "INSERT INTO public.t VALUES (1)").await.unwrap();
        stop(&postmaster, &b.instance.data_dir, None, StopMode::Immediate).await.unwrap();
        drop(sql);
        let (_postmaster, sql) = b.start(StartAs::Standby).await;
        let again = sql.flushed_end(LONG).await.unwrap();
        assert_eq!(end, again, "known before the restart, found after it");
        assert!(sql.probe(LONG).await.unwrap().receive_lsn.is_none());
    }
}

#[tokio::test]
async fn a_barrier_waits_for_the_voter() {
    let lab = Lab::new(&majors()[0]);
    let (mut a, mut b) = (lab.node("a"), lab.node("b"));
    let (_a_postmaster, a_sql) = a.bootstrap().await;
    let (b_postmaster, b_sql) = b.join(&a, &a_sql).await;
    caught_up(&a_sql, &b_sql).await;
    a.settings.synchronous_standby_names = format!("ANY 1 (\"{}\")", b.application_name());
    a.write_files();
    a_sql.reload().await.unwrap();
    until("the standby counts", async || {
        a_sql.probe(LONG).await.unwrap().replication.iter().any(|row| row.sync_state.as_deref() == Some("quorum"))
    })
    .await;
    let lsn = a_sql.barrier(LONG).await.unwrap();
    assert!(b_sql.probe(LONG).await.unwrap().position() >= Lsn(lsn.0 - 1000));

    stop(&b_postmaster, &b.instance.data_dir, Some(&b_sql), FAST).await.unwrap();
    a_sql.barrier(Duration::from_millis(300)).await.unwrap_err();
    // Our own writes never wait.
    a_sql.emit_message(LONG).await.unwrap();
    a_sql.create_slot("other").await.unwrap();
    assert!(a_sql.drop_slot("other").await.unwrap());
    assert!(!a_sql.drop_slot("other").await.unwrap());
}

#[tokio::test]
async fn a_cancelled_wait_is_no_acknowledgement() {
    let lab = Lab::new(&majors()[0]);
    let mut a = lab.node("a");
    let (_postmaster, sql) = a.bootstrap().await;
    a.settings.synchronous_standby_names = "ANY 1 (nobody)".into();
    a.write_files();
    sql.reload().await.unwrap();
    until("the rule is in force", async || {
        sql.probe(LONG).await.unwrap().synchronous_standby_names == "ANY 1 (nobody)"
    })
    .await;
    let cancel = async {
        until("the barrier waits", async || value(&sql, CANCEL).await == "1").await;
    };
    let (barrier, ()) = tokio::join!(sql.barrier(LONG), cancel);
    assert!(barrier.unwrap_err().to_string().contains("cancelled"));
}

const CANCEL: &str = "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";

#[tokio::test]
async fn a_copied_incarnation_does_not_count() {
    let lab = Lab::new(&majors()[0]);
    let (mut a, mut b) = (lab.node("a"), lab.node("b"));
    let (_postmaster, _sql) = a.bootstrap().await;
    std::fs::create_dir_all(&b.instance.data_dir).unwrap();
    std::fs::copy(a.data(incarnation::FILE), b.data(incarnation::FILE)).unwrap();
    assert_eq!(incarnation::read(&b.instance).unwrap(), None);
    b.instance.name = a.instance.name.clone();
    assert_eq!(incarnation::read(&b.instance).unwrap(), Some(a.incarnation()));
}
