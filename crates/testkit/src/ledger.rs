//! The ledger: a client that writes rows at a steady pace through any router and remembers what became of each.
//!
//! Every attempt has one of four ends:
//! ```text
//! connect failed ........... the row was never sent              -> Unsent
//! server refused ........... certainly not written               -> Refused
//! connection lost, timeout . nobody can know                     -> Unknown
//! server confirmed ......... must be there for ever              -> Acknowledged
//! ```
//! [`verify()`] looks afterwards: an acknowledged row that is missing is lost data.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, timeout};
use tokio_postgres::{Client, Config, NoTls};

pub mod book;
pub mod verify;

pub use book::{Book, Entry, Gap, Outcome, Summary};
pub use verify::{Verdict, verify};

const CREATE: &str = "create table if not exists ledger \
     (id bigint primary key, writer int not null, at timestamptz not null default clock_timestamp())";

/// How to write.
#[derive(Debug, Clone)]
pub struct Options {
    /// A libpq connection string or URL; several hosts and `target_session_attrs` work.
    pub dsn: String,
    pub writers: u32,
    /// The pace of each writer; a tick missed during an outage is not made up for.
    pub every: Duration,
    /// The longest one connect or one insert may take.
    pub deadline: Duration,
}

impl Options {
    /// One writer, a row every 10 ms, a deadline of 1 s.
    pub fn new(dsn: impl Into<String>) -> Options {
        Options { dsn: dsn.into(), writers: 1, every: Duration::from_millis(10), deadline: Duration::from_secs(1) }
    }
}

/// Writers at work.
#[derive(Debug)]
pub struct Ledger {
    shared: Arc<Shared>,
    writers: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    options: Options,
    config: Config,
    start: Instant,
    next_id: AtomicI64,
    stop: AtomicBool,
    book: Mutex<Book>,
}

impl Ledger {
    /// Creates the table (waiting up to 90 s for a primary) and starts the writers.
    pub async fn start(options: Options) -> Result<Ledger> {
        let mut config: Config = options.dsn.parse().context("the connection string of the ledger")?;
        config.connect_timeout(options.deadline);
        if config.get_application_name().is_none() {
            config.application_name("ledger");
        }
        create_table(&config).await?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970");
        let shared = Arc::new(Shared {
            config,
            start: Instant::now(),
            // Microseconds, so that runs on one table do not meet: a run of a million rows ends after its microseconds.
            next_id: AtomicI64::new(i64::try_from(now.as_micros()).expect("until the year 294247")),
            stop: AtomicBool::new(false),
            book: Mutex::new(Book { started_at: now.as_secs_f64(), ..Book::default() }),
            options,
        });
        let mut writers = JoinSet::new();
        for writer in 0..shared.options.writers {
            writers.spawn(shared.clone().write(writer));
        }
        Ok(Ledger { shared, writers })
    }

    /// The book as it stands.
    pub fn so_far(&self) -> Book {
        let mut book = self.shared.book().clone();
        book.lasted = self.shared.start.elapsed().as_secs_f64();
        book
    }

    /// Seconds since the start, on the clock of the entries.
    pub fn now(&self) -> f64 {
        self.shared.start.elapsed().as_secs_f64()
    }

    /// How many rows are acknowledged, and how long ago the newest was (seconds).
    pub fn progress(&self) -> (u64, f64) {
        let book = self.shared.book();
        let last = book.entries.iter().rev().find(|entry| entry.outcome == Outcome::Acknowledged);
        (book.count(Outcome::Acknowledged), self.now() - last.map_or(0.0, |entry| entry.ended))
    }

    /// Waits until a row that begins from now on is acknowledged: writes are back.
    ///
    /// # Errors
    /// After `limit`, with the latest error message.
    pub async fn writes_again(&self, limit: Duration) -> Result<()> {
        let begun = self.now();
        let deadline = Instant::now() + limit;
        loop {
            let done = |entry: &Entry| entry.outcome == Outcome::Acknowledged && entry.begun >= begun;
            if self.shared.book().entries.iter().rev().take(64).any(done) {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("no write was acknowledged for {limit:?}; errors so far: {:?}", self.shared.book().errors);
            }
            tokio::time::sleep(self.shared.options.every).await;
        }
    }

    /// Lets the writers finish the row they are at, and closes the book.
    pub async fn stop(mut self) -> Book {
        self.shared.stop.store(true, Ordering::Relaxed);
        while self.writers.join_next().await.is_some() {}
        let mut book = std::mem::take(&mut *self.shared.book());
        book.lasted = self.shared.start.elapsed().as_secs_f64();
        book
    }
}

impl Shared {
    fn book(&self) -> std::sync::MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn write(self: Arc<Shared>, writer: u32) {
        let mut ticks = tokio::time::interval(self.options.every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut client: Option<Client> = None;
        while !self.stop.load(Ordering::Relaxed) {
            ticks.tick().await;
            if client.as_ref().is_some_and(Client::is_closed) {
                client = None;
                self.book().idle_cuts += 1;
            }
            let id = self.next_id.fetch_add(1, Ordering::Relaxed);
            let begun = self.start.elapsed().as_secs_f64();
            let (outcome, error) = self.attempt(&mut client, id, writer).await;
            let entry = Entry { id, writer, outcome, begun, ended: self.start.elapsed().as_secs_f64() };
            let mut book = self.book();
            book.entries.push(entry);
            if let Some(error) = error {
                *book.errors.entry(error).or_default() += 1;
            }
        }
    }

    async fn attempt(&self, client: &mut Option<Client>, id: i64, writer: u32) -> (Outcome, Option<String>) {
        let connected = match client.take() {
            Some(connected) => connected,
            None => match timeout(self.options.deadline, connect(&self.config)).await {
                Ok(Ok(connected)) => connected,
                Ok(Err(error)) => return (Outcome::Unsent, Some(format!("connect: {}", describe(&error)))),
                Err(_) => return (Outcome::Unsent, Some("connect: timed out".into())),
            },
        };
        // One simple statement: no preparation that a pooler would trip over, one round trip.
        let insert = format!("insert into ledger (id, writer) values ({id}, {writer})");
        match timeout(self.options.deadline, connected.simple_query(&insert)).await {
            Ok(Ok(_)) => {
                *client = Some(connected);
                (Outcome::Acknowledged, None)
            }
            Ok(Err(error)) => {
                let outcome = outcome_of(&error);
                // A refusal leaves the session whole, but the server behind it may have stopped being the primary.
                (outcome, Some(format!("insert: {}", describe(&error))))
            }
            Err(_) => (Outcome::Unknown, Some("insert: timed out".into())),
        }
    }
}

/// Connection exceptions (08), shutdowns (57P0x) and the unknown outcome itself (40003) prove nothing: the commit may have
/// gone through before the session ended.
pub(crate) fn outcome_of(error: &tokio_postgres::Error) -> Outcome {
    match error.code().map(|code| code.code()) {
        Some(code) if code.starts_with("08") || code.starts_with("57P") || code == "40003" => Outcome::Unknown,
        Some(_) => Outcome::Refused,
        None => Outcome::Unknown,
    }
}

fn describe(error: &tokio_postgres::Error) -> String {
    use std::error::Error;
    match error.as_db_error() {
        Some(db) => format!("{} {}", db.code().code(), db.message()),
        None => error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {source}")),
    }
}

/// Connects and drives the connection in the background; it ends with the client.
pub(crate) async fn connect(config: &Config) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

async fn create_table(config: &Config) -> Result<()> {
    let create = async {
        loop {
            let attempt = async { connect(config).await?.batch_execute(CREATE).await };
            match timeout(Duration::from_secs(5), attempt).await {
                Ok(Ok(())) => return,
                // Two clients that create at once trip over the catalogue's unique index; the next try finds the table.
                Ok(Err(_)) => tokio::time::sleep(Duration::from_millis(100)).await,
                Err(_) => {}
            }
        }
    };
    timeout(Duration::from_secs(90), create).await.context("no primary took `create table ledger` within 90 s")
}
