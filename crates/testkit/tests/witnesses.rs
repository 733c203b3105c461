//! The ledger and the observer against real servers: they must notice what they are there to notice.

use std::time::Duration;

use matriarch_testkit::dir::TestDir;
use matriarch_testkit::ledger::{Ledger, Options, verify};
use matriarch_testkit::observer::{Observer, Probe, Report};
use matriarch_testkit::{postgres, server::Server};
use rustix::process::Signal;

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
