//! Servers that end or freeze under a stream of WAL.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use common::stream::{Writer, connect, flushed, target};
use common::{LONG, Lab, majors, until};
use matriarch_core::Lsn;
use matriarch_postgres::control::inspect;
use matriarch_postgres::replication::{Event, Replication, ReplicationError, WalStream};
use matriarch_postgres::stop::{StopMode, StoppedBy, stop};
use matriarch_postgres::{DataDirState, Source};
use matriarch_testkit::faults;

/// Takes what comes and says that it is flushed, until the stream ends.
async fn until_its_end(stream: &mut WalStream) -> Result<Event, ReplicationError> {
    loop {
        stream.acknowledge(flushed(stream.position()));
        match tokio::time::timeout(LONG, stream.next()).await.unwrap()? {
            Event::Wal { .. } | Event::Keepalive { .. } => {}
            end => return Ok(end),
        }
    }
}

#[tokio::test]
async fn a_clean_stop_sends_everything_first() {
    for binaries in majors() {
        let lab = Lab::new(&binaries);
        let mut a = lab.node("a");
        let (postmaster, sql) = a.bootstrap().await;
        let mut connection = connect(&a).await;
        let from = connection.identify().await.unwrap().flushed;
        let mut stream = connection.stream(None, 1, from).await.unwrap();
        let writer = Writer::start(&a.instance).await;
        drop(sql);
        let stopping = async {
            let mode = StopMode::Fast { checkpoint: None, deadline: LONG };
            stop(&postmaster, &a.instance.data_dir, None, mode).await.unwrap()
        };
        let (report, ended) = tokio::join!(stopping, until_its_end(&mut stream));
        writer.end().await;
        assert_eq!(ended.unwrap(), Event::Stopped);
        assert_eq!(report.by, StoppedBy::Fast, "it waits until its receivers have everything");
        let DataDirState::Ready(control) = inspect(&a.instance).await.unwrap() else { panic!("no cluster") };
        assert!(stream.position() > control.checkpoint_lsn, "{} of {control:?}", stream.position());
        let error = stream.into_connection().unwrap_err();
        assert!(matches!(error, ReplicationError::Lost { .. }), "{error}");
        let error = Replication::connect(&target(&a)).await.unwrap_err();
        assert!(matches!(error, ReplicationError::Connect { .. }), "{error}");
    }
}

#[tokio::test]
async fn an_immediate_stop_ends_the_stream() {
    for binaries in majors() {
        let lab = Lab::new(&binaries);
        let mut a = lab.node("a");
        let (postmaster, _sql) = a.bootstrap().await;
        let mut connection = connect(&a).await;
        let from = connection.identify().await.unwrap().flushed;
        let mut stream = connection.stream(None, 1, from).await.unwrap();
        let writer = Writer::start(&a.instance).await;
        let stopping = async {
            until("WAL is written", async || writer.is_under_way()).await;
            stop(&postmaster, &a.instance.data_dir, None, StopMode::Immediate).await.unwrap();
        };
        let ((), ended) = tokio::join!(stopping, until_its_end(&mut stream));
        writer.end().await;
        let error = ended.unwrap_err();
        assert!(matches!(error, ReplicationError::Lost { .. }), "{error}");
        assert!(stream.position() > from);
    }
}

#[tokio::test]
async fn a_frozen_server_is_noticed() {
    for binaries in majors() {
        let lab = Lab::new(&binaries);
        let mut a = lab.node("a");
        let (_postmaster, sql) = a.bootstrap().await;
        let mut patient = target(&a);
        patient.silence_limit = Duration::from_secs(3);
        let mut connection = Replication::connect(&patient).await.unwrap();
        let from = connection.identify().await.unwrap().flushed;
        let mut stream = connection.stream(None, 1, from).await.unwrap();
        let pids = faults::node_processes(&a.instance.data_dir);
        assert!(pids.len() > 3, "{pids:?}");
        faults::freeze(&pids);
        let error = until_its_end(&mut stream).await.unwrap_err();
        assert!(matches!(error, ReplicationError::Silent { .. }), "{error}");

        // New connections are let in by the kernel and then hear nothing.
        patient.connect_limit = Duration::from_secs(1);
        for source in [patient.source.clone(), Source::new("127.0.0.1", a.instance.port)] {
            let frozen = matriarch_postgres::replication::Target { source, ..patient.clone() };
            let error = Replication::connect(&frozen).await.unwrap_err();
            assert!(matches!(error, ReplicationError::Timeout { .. }), "{error}");
        }
        faults::thaw(&pids);
        patient.connect_limit = LONG;
        let mut connection = Replication::connect(&patient).await.unwrap();
        assert!(connection.identify().await.unwrap().flushed >= from);
        drop(sql);
    }
}

#[tokio::test]
async fn a_quiet_server_is_not_taken_for_a_frozen_one() {
    let lab = Lab::new(&majors()[0]);
    let mut a = lab.node("a");
    a.settings.parameters.insert("wal_sender_timeout".into(), "10min".into());
    let (_postmaster, _sql) = a.bootstrap().await;
    let mut patient = target(&a);
    patient.silence_limit = Duration::from_secs(30);
    let mut connection = Replication::connect(&patient).await.unwrap();
    let from = connection.identify().await.unwrap().flushed;
    let mut stream = connection.stream(None, 1, from).await.unwrap();
    // Its own keepalives come after half of wal_sender_timeout: earlier ones are answers.
    loop {
        match tokio::time::timeout(LONG, stream.next()).await.unwrap().unwrap() {
            Event::Keepalive { reply_wanted: false, .. } => break,
            Event::Keepalive { .. } | Event::Wal { .. } => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_command_that_was_given_up_leaves_no_answer_for_the_next() {
    let lab = Lab::new(&majors()[0]);
    let mut a = lab.node("a");
    let (_postmaster, _sql) = a.bootstrap().await;
    let mut connection = connect(&a).await;
    let pids = faults::node_processes(&a.instance.data_dir);
    faults::freeze(&pids);
    assert!(tokio::time::timeout(Duration::from_millis(100), connection.identify()).await.is_err());
    faults::thaw(&pids);
    let error = connection.show("wal_segment_size").await.unwrap_err();
    assert!(matches!(error, ReplicationError::Lost { .. }), "{error}");
    let error = connect(&a).await.show("no_such_setting").await.unwrap_err();
    assert!(matches!(&error, ReplicationError::Refused { said, .. } if said.code == "42704"), "{error}");
    assert_ne!(connect(&a).await.identify().await.unwrap().flushed, Lsn::ZERO);
}
