//! The ledger, the history and the observer against real servers: they must notice what they are there to notice.

use std::time::{Duration, Instant};

use matriarch_testkit::dir::TestDir;
use matriarch_testkit::history::{Anomaly, Clients};
use matriarch_testkit::ledger::{Ledger, Options, verify};
use matriarch_testkit::observer::{Observer, Probe, Report};
use matriarch_testkit::{postgres, server::Server, user};
use rustix::process::Signal;
use tokio::net::{TcpListener, TcpStream};

#[tokio::test]
async fn an_outage_is_a_gap_and_a_deleted_row_is_lost_data() {
    let dir = TestDir::new("ledger");
    let mut server = Server::create(postgres::any(), &dir, "one", "").await.unwrap();
    let mut options = Options::new(server.dsn());
    options.writers = 2;
    let ledger = Ledger::start(options).await.unwrap();
    ledger.writes_again(Duration::from_secs(60)).await.unwrap();

    server.stop(Signal::QUIT);
    // The clock of the entries is the ledger's.
    let down = ledger.now();
    let refused = async {
        while ledger.now() < down + 0.6 || ledger.so_far().summary().connect_errors == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), refused).await.expect("nobody can connect to a dead server");
    server.start().await.unwrap();
    ledger.writes_again(Duration::from_secs(60)).await.unwrap();
    let book = ledger.stop().await;
    let summary = book.summary();
    assert!(summary.gap.seconds > 0.5, "{summary:?}");
    assert!(summary.acknowledged > 2 && summary.connect_errors > 0, "{summary:?}");
    let verdict = verify(&server.dsn(), &book).await.unwrap();
    assert!(verdict.is_clean(), "{verdict:?} {summary:?}");

    let (client, connection) = tokio_postgres::connect(&server.dsn(), tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let row = client.query_one("delete from ledger where id = (select min(id) from ledger) returning id", &[]).await;
    let deleted: i64 = row.unwrap().get(0);
    assert_eq!(verify(&server.dsn(), &book).await.unwrap().lost, [deleted]);
}

/// A port that leads to the first server, and every other time to the second. The first connection lasts; those after it to the
/// first server do not for long, else all would soon stay where writes are taken.
async fn fork(one: u16, two: u16) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("there are free ports");
    let port = listener.local_addr().expect("it is bound").port();
    tokio::spawn(async move {
        for (number, target) in [one, two].into_iter().cycle().enumerate() {
            let Ok((mut client, _)) = listener.accept().await else { return };
            let short = number > 0 && target == one;
            tokio::spawn(async move {
                let mut server = TcpStream::connect(("127.0.0.1", target)).await?;
                let limit = Duration::from_millis(if short { 300 } else { 60_000 });
                let talk = tokio::io::copy_bidirectional(&mut client, &mut server);
                let _ = tokio::time::timeout(limit, talk).await;
                std::io::Result::Ok(())
            });
        }
    });
    port
}

async fn ask(server: &Server, statement: &str) -> Result<String, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(&server.dsn(), tokio_postgres::NoTls).await?;
    tokio::spawn(connection);
    client
        .query_one(&format!("select ({statement})::text"), &[])
        .await?
        .try_get::<_, Option<String>>(0)
        .map(Option::unwrap_or_default)
}

/// Waits until a register of the history has come so far.
async fn at_version(server: &Server, version: i64) {
    let reached = format!("select max(version) >= {version} from history_registers");
    let wait = async {
        while ask(server, &reached).await.ok().as_deref() != Some("true") {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), wait).await.expect("it gets on");
}

/// A standby that has stopped replaying answers as a primary does that has been deposed and that nobody cuts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_from_the_past_are_found_and_fail_when_they_are_too_old() {
    let dir = TestDir::new("history");
    let installation = postgres::any();
    let one = Server::create(installation, &dir, "one", "").await.unwrap();
    let data = dir.join("two");
    let mut copy = user::command(installation.bins.join("pg_basebackup"));
    copy.args(["-h", "127.0.0.1", "-U", "postgres", "-R", "-c", "fast", "-p"]).arg(one.port().to_string());
    assert!(copy.arg("-D").arg(&data).current_dir(dir.path()).status().unwrap().success());
    let two = Server::of(installation, &data, "").await.unwrap();
    for (tolerated, fails) in [(Duration::from_secs(60), false), (Duration::from_millis(300), true)] {
        let port = fork(one.port(), two.port()).await;
        let dsn = format!("host=127.0.0.1 port={port} user=postgres dbname=postgres");
        let clients = Clients::start(&dsn, 4, 1).await.unwrap();
        at_version(&two, 5).await;
        ask(&two, "pg_wal_replay_pause()").await.unwrap();
        // Reads grow old.
        let begun = Instant::now();
        at_version(&one, 30).await;
        tokio::time::sleep(Duration::from_secs(1).saturating_sub(begun.elapsed())).await;
        ask(&two, "pg_wal_replay_resume()").await.unwrap();
        let verdict = clients.conclude(&one.dsn(), tolerated).await.unwrap();
        assert!(verdict.oldest_read() > 0.3 && verdict.oldest_read() < 60.0, "{verdict:?}");
        assert_eq!(!verdict.anomalies.is_empty(), fails, "{verdict:?}");
        assert!(verdict.anomalies.iter().all(|found| matches!(found, Anomaly::TooOld(_))), "{verdict:?}");
    }
}

async fn seen(observer: &Observer, what: impl Fn(&Report) -> bool) {
    let wait = async {
        while !what(&observer.report()) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let limit = Duration::from_secs(60);
    tokio::time::timeout(limit, wait).await.unwrap_or_else(|_| panic!("not seen: {:?}", observer.report()));
}

#[tokio::test]
async fn two_primaries_are_seen_and_a_restart_is_not_one() {
    for probe in [Probe::Status, Probe::Write] {
        let dir = TestDir::new("observer");
        let mut one = Server::create(postgres::any(), &dir, "one", "").await.unwrap();
        let mut two = Server::create(postgres::any(), &dir, "two", "").await.unwrap();
        for server in [&one, &two] {
            Observer::prepare(&server.dsn()).await.unwrap();
        }
        two.stop(Signal::QUIT);
        let members = [("one".to_owned(), one.dsn()), ("two".to_owned(), two.dsn())];
        let observer = Observer::start(&members, Duration::from_millis(10), probe).unwrap();
        let reigns = |report: &Report| report.reigns.iter().filter(|reign| reign.to > reign.from).count();
        seen(&observer, |report| reigns(report) == 1).await;
        one.stop(Signal::QUIT);
        two.start().await.unwrap();
        seen(&observer, |report| reigns(report) == 2).await;
        assert!(observer.report().overlaps.is_empty(), "{:?}", observer.report());
        one.start().await.unwrap();
        seen(&observer, |report| !report.overlaps.is_empty()).await;
    }
}

#[tokio::test]
async fn every_major_starts_as_the_unprivileged_user() {
    let dir = TestDir::new("majors");
    for installation in postgres::all_majors() {
        let name = format!("pg{}", installation.major);
        let server = Server::create(installation, &dir, &name, "").await.unwrap();
        let pid = matriarch_testkit::faults::postmaster(server.data()).expect("postmaster.pid names it");
        assert!(matriarch_testkit::faults::node_processes(server.data()).contains(&pid));
    }
}
