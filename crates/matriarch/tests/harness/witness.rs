//! Those who watch a cluster while it suffers: clients that write through the read-write port and remember every answer, and
//! an observer that asks every member on its own port.

use std::time::{Duration, Instant};

use matriarch_testkit::history::Clients;
use matriarch_testkit::ledger::{Ledger, Options, Summary, verify};
use matriarch_testkit::observer::{Observer, Probe};

use super::{PATIENCE, Subject};

/// How many clients append, read and overwrite beside the ledger.
const CLIENTS: u32 = 3;

/// How long a plain read through the read-write port may show the past, after something newer was acknowledged.
///
/// Something newer comes from a new primary, so after a takeover. Whatever let the old one live was given before that: a renewal
/// of its lease compares the epoch, and voters that have pledged stand by it no more. Either is good for `ttl` (5 s by default,
/// and no test that would notice has another), then the guard kills it; a second is for the guard's look and the kill on a
/// busy machine. Clients of one proxy, as here, are cut much sooner: it has heard of the new reign, since the newer write went
/// through it, and ends the sessions of the old one. That is also what bounds the reads of a host that stood still, with its guard.
const OLD_READS: Duration = Duration::from_secs(5 + 1);

/// How much they do.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// How long the ledger waits for an answer.
    pub deadline: Duration,
    /// From one row to the next of one of the ledger's two writers.
    pub row: Duration,
    /// From one statement of a client of the history to its next.
    pub client: Duration,
    /// From one question of the observer to the next.
    pub look: Duration,
}

impl Default for Pace {
    fn default() -> Pace {
        let [row, client, look] = [10, 20, 20].map(Duration::from_millis);
        Pace { deadline: Duration::from_secs(1), row, client, look }
    }
}

impl Pace {
    /// For several clusters on one machine.
    pub fn easy() -> Pace {
        let [row, client, look] = [20, 60, 40].map(Duration::from_millis);
        Pace { row, client, look, ..Pace::default() }
    }
}

/// What they have seen.
#[derive(Debug, Clone, Copy, Default)]
pub struct Count {
    /// What was acknowledged and is gone or contradicts other answers, and plain reads that were older than they may be.
    pub wrong: usize,
    /// Moments with two primaries.
    pub dual: usize,
    /// Plain reads that showed the past.
    pub old_reads: usize,
    /// The age of the oldest, in seconds.
    pub oldest: f64,
}

/// The ledger, the clients of a history and the observer at work.
pub struct Witness {
    ledger: Ledger,
    clients: Clients,
    observer: Observer,
}

impl Witness {
    /// Attaches both. The observer counts a member as a primary when it says that it is one ([`Probe::Status`]), or only
    /// when it commits something ([`Probe::Write`]).
    pub async fn attach(cluster: &impl Subject, probe: Probe) -> Witness {
        Witness::at_pace(cluster, probe, Pace::default()).await
    }

    /// As [`Witness::attach`], with a client that waits: where no write may fail, a slow machine must not look like one that
    /// lost a connection.
    pub async fn patient(cluster: &impl Subject, probe: Probe) -> Witness {
        Witness::at_pace(cluster, probe, Pace { deadline: PATIENCE, ..Pace::default() }).await
    }

    /// As [`Witness::attach`], at a pace of one's own.
    pub async fn at_pace(cluster: &impl Subject, probe: Probe, pace: Pace) -> Witness {
        let dsn = cluster.writes();
        Observer::prepare(&dsn).await.expect("the cluster takes writes");
        let clients = Clients::start_at(&dsn, CLIENTS, 1, pace.client).await.expect("the cluster takes writes");
        let options = Options { writers: 2, deadline: pace.deadline, every: pace.row, ..Options::new(dsn) };
        let ledger = Ledger::start(options).await.expect("the cluster takes writes");
        ledger.writes_again(PATIENCE).await.expect("writes begin");
        let members: Vec<(String, String)> =
            cluster.names().into_iter().map(|name| (name.clone(), cluster.direct(&name))).collect();
        let observer = Observer::start(&members, pace.look, probe).expect("the strings are well formed");
        Witness { ledger, clients, observer }
    }

    /// Waits until a write that begins from now on is acknowledged.
    pub async fn writes_again(&self, after: &str) {
        if let Err(error) = self.ledger.writes_again(PATIENCE).await {
            panic!("writes do not come back after {after}: {error:#}\n{:?}", self.observer.report());
        }
    }

    /// Seconds since the ledger's start.
    pub fn now(&self) -> f64 {
        self.ledger.now()
    }

    /// The longest pause between two acknowledgements that reaches into the time after `from`, in seconds.
    pub fn longest_pause_since(&self, from: f64) -> f64 {
        self.ledger.so_far().gap_within(from, f64::INFINITY).seconds
    }

    /// The ledger's figures as they stand.
    pub fn so_far(&self) -> Summary {
        self.ledger.so_far().summary()
    }

    /// Ends all, and counts.
    pub async fn count(self, cluster: &impl Subject) -> Count {
        let book = self.ledger.stop().await;
        let history = self.clients.conclude(&cluster.writes(), OLD_READS).await.expect("the primary answers");
        let report = self.observer.stop().await;
        let verdict = verify(&cluster.writes(), &book).await.expect("the primary answers");
        if !verdict.is_clean() || !history.anomalies.is_empty() || !report.overlaps.is_empty() {
            eprintln!("{verdict:?}\n{:?}\n{report:?}", history.anomalies);
        }
        let wrong = verdict.lost.len() + verdict.duplicates.len() + verdict.unexpected.len() + history.anomalies.len();
        let (dual, old_reads) = (report.overlaps.len(), history.old_reads.len());
        Count { wrong, dual, old_reads, oldest: history.oldest_read() }
    }

    /// Ends all: nothing acknowledged may be lost, no read may be too old, and never may two members have been primary at once.
    pub async fn conclude(self, cluster: &impl Subject) -> Summary {
        // A member that was never asked proves nothing, and a short test may end before the first answer.
        let deadline = Instant::now() + PATIENCE;
        while self.observer.report().answers.len() < cluster.names().len() {
            assert!(Instant::now() < deadline, "every member is asked: {:?}", self.observer.report());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let book = self.ledger.stop().await;
        let history = self.clients.conclude(&cluster.writes(), OLD_READS).await.expect("the primary answers");
        let report = self.observer.stop().await;
        let summary = book.summary();
        let verdict = verify(&cluster.writes(), &book).await.expect("the primary answers");
        assert!(verdict.is_clean(), "rows are wrong: {verdict:?}\n{summary:?}\n{report:?}");
        assert!(summary.acknowledged > 0, "{summary:?}");
        assert!(history.anomalies.is_empty(), "answers contradict each other: {history:?}");
        assert!(report.overlaps.is_empty(), "two primaries: {report:?}");
        eprintln!(
            "{} rows acknowledged, none lost; longest pause {:.2} s; {} refused, {} unknown, {} failed connects",
            summary.acknowledged, summary.gap.seconds, summary.refused, summary.unknown, summary.connect_errors
        );
        eprintln!(
            "{} answers without contradiction, {} without an answer; {} reads from the past, the oldest by {:.2} s",
            history.acknowledged,
            history.unknown,
            history.old_reads.len(),
            history.oldest_read()
        );
        summary
    }
}
