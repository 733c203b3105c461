//! Physical replication as a client: what is streamed is what is in the files.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use common::stream::{
    Writer, assert_same, collect, connect, end_of_wal, flushed, in_files, next, segment_start, target, write_segments,
};
use common::{LONG, Lab, Node, caught_up, majors, until, value};
use matriarch_core::Lsn;
use matriarch_postgres::bootstrap::{InitdbOptions, initdb};
use matriarch_postgres::replication::{Event, NextTimeline, Replication, ReplicationError, Target};
use matriarch_postgres::{Binaries, Credentials, Postmaster, Source, Sql, StartAs, roles};

const MIB: u64 = 1 << 20;

async fn with_segments(node: &mut Node, mib: u64) -> (Postmaster, Sql) {
    let extra = vec!["--no-sync".into(), format!("--wal-segsize={mib}")];
    initdb(&node.instance, &InitdbOptions { extra, ..InitdbOptions::default() }).await.unwrap();
    // The defaults are too large for small segments, and too small for large ones.
    node.settings.parameters.insert("min_wal_size".into(), format!("{}MB", 2 * mib));
    node.settings.parameters.insert("max_wal_size".into(), format!("{}MB", 8 * mib));
    node.settings.parameters.insert("wal_keep_size".into(), "0".into());
    // Streams stand still while the tests write.
    node.settings.parameters.entry("wal_sender_timeout".into()).or_insert("5min".into());
    let (postmaster, sql) = node.start(StartAs::Primary).await;
    roles::create_roles(&sql, &node.instance).await.unwrap();
    (postmaster, sql)
}

#[tokio::test]
async fn streams_the_bytes_of_the_files_across_segments() {
    for binaries in majors() {
        streams_across_segments(&binaries, 1).await;
    }
}

#[tokio::test]
async fn streams_large_segments() {
    streams_across_segments(&majors().pop().unwrap(), 64).await;
}

async fn streams_across_segments(binaries: &Binaries, mib: u64) {
    let size = mib * MIB;
    let lab = Lab::new(binaries);
    let mut a = lab.node("a");
    let (_postmaster, sql) = with_segments(&mut a, mib).await;
    let mut connection = connect(&a).await;
    assert_eq!(connection.major(), binaries.version().major);
    assert_eq!(connection.wal_segment_size().await.unwrap(), size);
    let identity = connection.identify().await.unwrap();
    assert_eq!((identity.system_identifier, identity.timeline), (sql.server().system_identifier, 1));

    // The slot keeps the files until they are compared.
    connection.create_slot("tail", true).await.unwrap();
    let from = segment_start(identity.flushed, size);
    let writer = Writer::start(&a.instance).await;
    let mut stream = connection.stream(Some("tail"), 1, from).await.unwrap();
    let mut streamed = collect(&mut stream, Lsn(from.0 + size + size / 2)).await;
    assert!(writer.end().await > 0);
    write_segments(&sql, 2).await;
    streamed.extend(collect(&mut stream, end_of_wal(&sql).await).await);
    assert!(streamed.len() as u64 > 3 * size, "{}", streamed.len());
    assert_same(&streamed, &in_files(&a, 1, size, from, streamed.len()), from);

    // It can end in the middle, and go on in the middle of a page.
    let (middle, end) = (stream.position(), from.0 + streamed.len() as u64);
    assert_eq!(middle, Lsn(end));
    let mut connection = stream.finish().await.unwrap();
    assert_eq!(connection.identify().await.unwrap().timeline, 1);
    let early = Lsn(end - 12_345);
    let mut stream = connection.stream(Some("tail"), 1, early).await.unwrap();
    let again = collect(&mut stream, Lsn(end)).await;
    assert_same(&again[..12_345], &streamed[streamed.len() - 12_345..], early);
    stream.finish().await.unwrap().close().await;
}

#[tokio::test]
async fn follows_a_promotion_to_the_next_timeline() {
    for binaries in majors() {
        let lab = Lab::new(&binaries);
        let (mut a, mut b) = (lab.node("a"), lab.node("b"));
        let (_a_postmaster, a_sql) = with_segments(&mut a, 1).await;
        let (_b_postmaster, b_sql) = b.join(&a, &a_sql).await;
        b_sql.create_slot("tail").await.unwrap();
        write_segments(&a_sql, 1).await;
        caught_up(&a_sql, &b_sql).await;
        let mut connection = connect(&b).await;
        let from = segment_start(connection.identify().await.unwrap().flushed, MIB);
        let mut stream = connection.stream(Some("tail"), 1, from).await.unwrap();
        a_sql.query("write", "SELECT pg_logical_emit_message(true, 'x', 'y')", LONG).await.unwrap();
        caught_up(&a_sql, &b_sql).await;
        b_sql.promote(LONG).await.unwrap();

        let mut first = Vec::new();
        let next_timeline = loop {
            match next(&mut stream).await {
                Event::Wal { bytes, .. } => first.extend_from_slice(&bytes),
                Event::Keepalive { .. } => {}
                Event::TimelineEnd(end) => break end,
                Event::Stopped => panic!("it was promoted, not stopped"),
            }
        };
        let fork = next_timeline.start;
        assert_eq!((next_timeline.timeline, fork), (2, stream.position()));
        assert_eq!(next(&mut stream).await, Event::TimelineEnd(next_timeline), "asked again");
        let mut connection = stream.into_connection().unwrap();
        let history = connection.history(2).await.unwrap();
        assert_eq!((history.ancestors[0].timeline, history.ancestors[0].switch_lsn), (1, fork));

        // The new timeline's first segment begins with the bytes of the old one.
        let mut stream = connection.stream(Some("tail"), 2, from).await.unwrap();
        write_segments(&b_sql, 1).await;
        let second = collect(&mut stream, end_of_wal(&b_sql).await).await;
        assert_same(&second, &in_files(&b, 2, MIB, from, second.len()), from);
        assert_same(&first, &second[..first.len()], from);
        starts_that_cannot_be(stream.finish().await.unwrap(), next_timeline).await;
    }
}

async fn starts_that_cannot_be(connection: Replication, second: NextTimeline) {
    let (fork, target) = (second.start, connection.target().clone());
    // Nothing is left of the old timeline at its end.
    let mut stream = connection.stream(None, 1, fork).await.unwrap();
    assert_eq!(next(&mut stream).await, Event::TimelineEnd(second));
    let connection = stream.into_connection().unwrap();

    let past = connection.stream(None, 1, Lsn(fork.0 + 8)).await.unwrap_err();
    assert!(matches!(past, ReplicationError::NotInHistory { timeline: 1, .. }), "{past}");
    let mut connection = Replication::connect(&target).await.unwrap();
    let none = connection.history(9).await.unwrap_err();
    assert!(matches!(none, ReplicationError::NoHistory { timeline: 9, .. }), "{none}");
    let unknown = connection.stream(None, 9, fork).await.unwrap_err();
    assert!(matches!(unknown, ReplicationError::NotInHistory { timeline: 9, .. }), "{unknown}");
    let connection = Replication::connect(&target).await.unwrap();
    let mut ahead = connection.stream(None, 2, Lsn(fork.0 + (1 << 40))).await.unwrap();
    let ahead = tokio::time::timeout(LONG, ahead.next()).await.unwrap().unwrap_err();
    assert!(matches!(ahead, ReplicationError::AheadOfServer { timeline: 2, .. }), "{ahead}");
}

#[tokio::test]
async fn a_slot_holds_wal_until_it_is_acknowledged() {
    for binaries in majors() {
        let lab = Lab::new(&binaries);
        let mut a = lab.node("a");
        let (_postmaster, sql) = with_segments(&mut a, 1).await;
        let mut connection = connect(&a).await;
        if binaries.version().major >= 15 {
            assert_eq!(connection.read_slot("tail").await.unwrap(), None);
        }
        connection.create_slot("tail", true).await.unwrap();
        let taken = connection.create_slot("tail", true).await.unwrap_err();
        assert!(matches!(&taken, ReplicationError::SlotExists { slot } if slot == "tail"), "{taken}");
        let held: Lsn = value(&sql, "SELECT restart_lsn FROM pg_replication_slots").await.parse().unwrap();
        if binaries.version().major >= 15 {
            let position = connection.read_slot("tail").await.unwrap().unwrap();
            assert_eq!(position.restart, Some((held, 1)));
        }
        forget(&sql).await;

        let from = segment_start(held, MIB);
        let mut stream = connection.stream(Some("tail"), 1, from).await.unwrap();
        let in_use = connect(&a).await.stream(Some("tail"), 1, from).await.unwrap_err();
        assert!(matches!(in_use, ReplicationError::SlotInUse { .. }), "{in_use}");
        assert_eq!(in_use.code(), Some("55006"));
        let end = end_of_wal(&sql).await;
        collect(&mut stream, end).await;
        assert_eq!(value(&sql, "SELECT restart_lsn FROM pg_replication_slots").await, held.to_string());

        stream.acknowledge(flushed(end));
        stream.acknowledge(flushed(held));
        let drive = async {
            loop {
                next(&mut stream).await;
            }
        };
        let moved = until("the slot has moved", async || {
            value(&sql, "SELECT restart_lsn FROM pg_replication_slots").await == end.to_string()
        });
        tokio::select! { () = moved => {}, never = drive => never }
        let mut connection = stream.finish().await.unwrap();
        connection.drop_slot("tail").await.unwrap();
        let none = connection.drop_slot("tail").await.unwrap_err();
        assert!(matches!(&none, ReplicationError::NoSlot { slot } if slot == "tail"), "{none}");
        let none = connection.stream(Some("tail"), 1, end).await.unwrap_err();
        assert!(matches!(none, ReplicationError::NoSlot { .. }), "{none}");

        forget(&sql).await;
        let gone = match connect(&a).await.stream(None, 1, from).await {
            Ok(mut stream) => tokio::time::timeout(LONG, stream.next()).await.unwrap().unwrap_err(),
            Err(error) => error,
        };
        assert!(matches!(gone, ReplicationError::WalRemoved { timeline: 1, .. }), "{gone}");
        assert_eq!(gone.code(), Some("58P01"));
    }
}

/// Makes the server remove the WAL that nothing holds.
async fn forget(sql: &Sql) {
    write_segments(sql, 12).await;
    sql.checkpoint(LONG).await.unwrap();
}

#[tokio::test]
async fn a_stream_that_is_not_read_stays_alive() {
    let binaries = majors().pop().unwrap();
    let lab = Lab::new(&binaries);
    let mut a = lab.node("a");
    a.settings.parameters.insert("wal_sender_timeout".into(), "5s".into());
    let (_postmaster, sql) = with_segments(&mut a, 16).await;
    let mut connection = connect(&a).await;
    connection.create_slot("tail", true).await.unwrap();
    let from = segment_start(connection.identify().await.unwrap().flushed, 16 * MIB);
    // More than sockets hold, so that the server has to wait.
    write_segments(&sql, 2).await;
    let mut stream = connection.stream(Some("tail"), 1, from).await.unwrap();
    let failed = tokio::time::timeout(Duration::from_secs(11), stream.hold()).await;
    assert!(failed.is_err(), "{failed:?}");
    let streamed = collect(&mut stream, end_of_wal(&sql).await).await;
    assert_same(&streamed, &in_files(&a, 1, 16 * MIB, from, streamed.len()), from);
}

#[tokio::test]
async fn can_be_the_synchronous_standby() {
    for binaries in majors() {
        let lab = Lab::new(&binaries);
        let mut a = lab.node("a");
        let (_postmaster, sql) = a.bootstrap().await;
        let mut connection = connect(&a).await;
        let from = connection.identify().await.unwrap().flushed;
        let mut stream = connection.stream(None, 1, from).await.unwrap();
        sql.execute("require it", "ALTER SYSTEM SET synchronous_standby_names = 'receiver'").await.unwrap();
        sql.reload().await.unwrap();
        let waiting = async {
            until("the receiver counts and a commit waits for it", async || {
                let counts = "SELECT sync_state FROM pg_stat_replication WHERE application_name = 'receiver'";
                let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
                value(&sql, counts).await == "sync" && value(&sql, waits).await == "1"
            })
            .await;
        };
        // It takes part only once it has reported a flushed position.
        stream.acknowledge(flushed(from));
        let other = Sql::connect(&a.instance).await.unwrap();
        let commit = async {
            until("the rule is loaded", async || {
                value(&sql, "SELECT sync_state FROM pg_stat_replication").await == "sync"
            })
            .await;
            other.barrier(LONG).await.unwrap()
        };
        tokio::pin!(commit);
        tokio::select! {
            () = waiting => {}
            lsn = &mut commit => panic!("{lsn} was committed without us"),
            () = drive(&mut stream, false) => {}
        }
        tokio::select! {
            lsn = &mut commit => assert!(lsn > from),
            () = drive(&mut stream, true) => {}
        }
    }
}

/// Takes what comes for ever.
async fn drive(stream: &mut matriarch_postgres::replication::WalStream, acknowledge: bool) {
    loop {
        if acknowledge {
            stream.acknowledge(flushed(stream.position()));
        }
        next(stream).await;
    }
}

#[tokio::test]
async fn every_way_to_log_in() {
    for binaries in majors() {
        let lab = Lab::new(&binaries);
        let mut a = lab.node("a");
        let (_postmaster, sql) = a.bootstrap().await;
        let users = "SET password_encryption = 'md5'; CREATE ROLE md5er LOGIN REPLICATION PASSWORD 'm'; \
                     SET password_encryption = 'scram-sha-256'; \
                     CREATE ROLE scrammer LOGIN REPLICATION PASSWORD 's'; CREATE ROLE clear LOGIN REPLICATION PASSWORD 'c'; \
                     CREATE ROLE truster LOGIN REPLICATION; CREATE ROLE plain LOGIN PASSWORD 'p'; \
                     CREATE ROLE stranger LOGIN REPLICATION PASSWORD 'x'; RESET password_encryption";
        sql.execute("make roles", users).await.unwrap();
        let mut lines = Vec::new();
        for (user, method) in [
            ("md5er", "md5"),
            ("scrammer", "scram-sha-256"),
            ("clear", "password"),
            ("truster", "trust"),
            ("plain", "trust"),
            ("stranger", "reject"),
        ] {
            lines.push(format!("local replication {user} {method}"));
            lines.push(format!("host replication {user} 127.0.0.1/32 {method}"));
        }
        let rules = matriarch_postgres::hba::Rules { lines, ..Default::default() };
        assert_eq!(matriarch_postgres::hba::install(&a.instance, &rules, &sql).await.unwrap(), []);
        sql.reload().await.unwrap();
        let sources = [target(&a).source, Source::new("127.0.0.1", a.instance.port)];
        for source in &sources {
            let log_in = async |user: &str, password: &str| {
                let user = Credentials { username: user.into(), password: password.into() };
                Replication::connect(&Target { source: source.clone(), user, ..target(&a) }).await
            };
            until("the rules are loaded", async || log_in("truster", "").await.is_ok()).await;
            for (user, password) in [("md5er", "m"), ("scrammer", "s"), ("clear", "c"), ("truster", "")] {
                let mut connection = log_in(user, password).await.unwrap();
                assert_eq!(connection.identify().await.unwrap().timeline, 1);
                connection.close().await;
            }
            for user in ["md5er", "scrammer", "clear"] {
                let error = log_in(user, "wrong").await.unwrap_err();
                assert!(
                    matches!(&error, ReplicationError::WrongPassword { user: named, .. } if named == user),
                    "{error}"
                );
            }
            let error = log_in("stranger", "x").await.unwrap_err();
            assert!(matches!(error, ReplicationError::NotAdmitted { .. }), "{error}");
            let error = log_in("plain", "p").await.unwrap_err();
            assert!(matches!(error, ReplicationError::NotReplicationRole { .. }), "{error}");
            assert!(error.to_string().contains("ALTER ROLE \"plain\" REPLICATION"), "{error}");
        }
    }
}
