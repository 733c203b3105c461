//! A client that writes rows at a steady pace and remembers what became of each.
//!
//! Its table is in the schema `matriarch`, with a name of its own, and is dropped when the ledger is closed; one that a
//! killed drill left behind is dropped by a later drill. A drill writes for minutes at most, so that its table stays
//! below some megabytes.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use matriarch_cli::{Failure, code};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, timeout};
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage};

use crate::address::{connect_limit, describe};
use crate::book::{Book, Outcome};

/// The pace of writing: a gap is measured to about this.
const PACE: Duration = Duration::from_millis(10);
/// The longest that one write may take before its connection is given up.
const DEADLINE: Duration = Duration::from_secs(1);
/// For the statements before and after.
const PATIENCE: Duration = Duration::from_secs(30);
/// A table this old belongs to nobody any more (microseconds).
const ABANDONED: i64 = 3_600_000_000;

/// A table, and a writer at work on it.
pub struct Ledger {
    config: Config,
    table: String,
    made_schema: bool,
    start: Instant,
    book: Arc<Mutex<Book>>,
    writer: Option<JoinHandle<()>>,
}

impl Ledger {
    /// Makes the table and begins to write.
    pub async fn open(config: Config) -> anyhow::Result<Ledger> {
        let now = jiff::Timestamp::now().as_microsecond();
        let table = format!("drill_{now}");
        let client = connect(&config).await?;
        let made_schema = prepare(&client, &table, now).await.map_err(|error| {
            let text = format!(
                "the drill's table cannot be made ({}): {}; --dsn and --database say where to write",
                describe(&config),
                reason(&error)
            );
            Failure::new(code::UNAVAILABLE, text)
        })?;
        let (start, book) = (Instant::now(), Arc::new(Mutex::new(Book::default())));
        let writer = Writer { config: config.clone(), table: table.clone(), start, book: book.clone() };
        let writer = Some(tokio::spawn(writer.write(client)));
        Ok(Ledger { config, table, made_schema, start, book, writer })
    }

    /// Seconds since it was opened.
    pub fn now(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }

    /// The book as it stands.
    pub fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until a write that begins from now on is acknowledged; false after `limit`.
    pub async fn writes(&self, limit: Duration) -> bool {
        let from = self.now();
        let wait = async {
            while !self.book().wrote_after(from) {
                tokio::time::sleep(PACE).await;
            }
        };
        timeout(limit, wait).await.is_ok()
    }

    /// Ends the writing. The write under way counts as unknown.
    pub fn stop(&mut self) {
        if let Some(writer) = self.writer.take() {
            writer.abort();
        }
    }

    /// The rows that the primary has now.
    ///
    /// # Errors
    /// When there is no primary to ask.
    pub async fn rows(&self) -> anyhow::Result<Vec<i64>> {
        let query = format!(
            "set enable_indexscan = off; set enable_indexonlyscan = off; select id from matriarch.{}",
            self.table
        );
        let messages = self.patiently(&query).await.context("the rows could not be read again")?;
        let rows = messages.iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0)?.parse().ok(),
            _ => None,
        });
        Ok(rows.collect())
    }

    /// Drops the table, and the schema if it was made for it.
    ///
    /// # Errors
    /// When that could not be done; the text says what is left.
    pub async fn close(mut self) -> anyhow::Result<()> {
        self.stop();
        let mut script = format!("drop table if exists matriarch.{};", self.table);
        if self.made_schema {
            script.push_str(
                "do $$ begin drop schema if exists matriarch; \
                 exception when dependent_objects_still_exist then null; end $$;",
            );
        }
        self.patiently(&script).await.map(|_| ()).with_context(|| {
            format!("the table matriarch.{} could not be dropped; a drill in an hour or later does it", self.table)
        })
    }

    async fn patiently(&self, script: &str) -> anyhow::Result<Vec<SimpleQueryMessage>> {
        let until = Instant::now() + PATIENCE;
        loop {
            let attempt = async {
                let client = connect(&self.config).await?;
                client.simple_query(script).await.map_err(|error| anyhow::anyhow!(reason(&error)))
            };
            let failure = match timeout(PATIENCE, attempt).await {
                Ok(Ok(messages)) => return Ok(messages),
                Ok(Err(error)) => error,
                Err(_) => anyhow::anyhow!("no answer within {} s", PATIENCE.as_secs()),
            };
            if Instant::now() > until {
                return Err(failure);
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Connects to the primary once.
///
/// # Errors
/// With the address and what to do.
pub async fn connect(config: &Config) -> anyhow::Result<Client> {
    let opened = match timeout(connect_limit(config), config.connect(NoTls)).await {
        Ok(Ok((client, connection))) => {
            tokio::spawn(connection);
            return Ok(client);
        }
        Ok(Err(error)) => reason(&error),
        Err(_) => "no answer in time".to_owned(),
    };
    let text = format!(
        "the drill's client cannot connect to the primary ({}): {opened}; --dsn and --database say where to write, \
         PGPASSWORD or a password file (PGPASSFILE, ~/.pgpass) the password; it speaks without TLS",
        describe(config)
    );
    Err(Failure::new(code::UNAVAILABLE, text).into())
}

/// Makes the table, and drops what was left behind; whether the schema had to be made.
async fn prepare(client: &Client, table: &str, now: i64) -> Result<bool, tokio_postgres::Error> {
    let left = format!(
        "select c.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace where n.nspname = 'matriarch' \
         and c.relkind = 'r' and c.relname ~ '^drill_[0-9]{{1,18}}$' \
         and pg_has_role(c.relowner, 'USAGE') and substr(c.relname, 7)::bigint < {}",
        now - ABANDONED
    );
    let value = |messages: Vec<SimpleQueryMessage>| {
        let rows = messages.into_iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        });
        rows.collect::<Vec<_>>()
    };
    for table in value(client.simple_query(&left).await?) {
        client.simple_query(&format!("drop table if exists matriarch.{table}")).await?;
    }
    let missing = value(client.simple_query("select to_regnamespace('matriarch') is null").await?);
    let made = missing.first().is_some_and(|missing| missing == "t");
    let schema = if made { "create schema if not exists matriarch;" } else { "" };
    let create = format!(
        "{schema} create table matriarch.{table} (id bigint primary key, at timestamptz not null default clock_timestamp())"
    );
    client.simple_query(&create).await?;
    Ok(made)
}

struct Writer {
    config: Config,
    table: String,
    start: Instant,
    book: Arc<Mutex<Book>>,
}

/// The attempt under way; when the writer is ended in the middle of it, nobody knows what becomes of it.
struct Attempt<'a> {
    writer: &'a Writer,
    id: i64,
    begun: f64,
    end: Option<(Outcome, Option<String>)>,
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        let (outcome, error) = self.end.take().unwrap_or((Outcome::Unknown, None));
        let ended = self.writer.start.elapsed().as_secs_f64();
        let mut book = self.writer.book.lock().unwrap_or_else(PoisonError::into_inner);
        book.note(self.id, self.begun, ended, outcome, error);
    }
}

impl Writer {
    async fn write(self, client: Client) {
        let mut ticks = tokio::time::interval(PACE);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut client = Some(client);
        for id in 1.. {
            ticks.tick().await;
            // A connection that was ended between two writes cost nobody anything.
            client = client.filter(|client| !client.is_closed());
            let mut attempt = Attempt { writer: &self, id, begun: self.start.elapsed().as_secs_f64(), end: None };
            let (outcome, error) = self.attempt(&mut client, id).await;
            attempt.end = Some((outcome, error));
        }
    }

    async fn attempt(&self, client: &mut Option<Client>, id: i64) -> (Outcome, Option<String>) {
        let connected = match client.take() {
            Some(connected) => connected,
            None => match timeout(connect_limit(&self.config), self.config.connect(NoTls)).await {
                Ok(Ok((connected, connection))) => {
                    tokio::spawn(connection);
                    connected
                }
                Ok(Err(error)) => return (Outcome::Refused, Some(format!("connect: {}", reason(&error)))),
                Err(_) => return (Outcome::Refused, Some("connect: no answer in time".to_owned())),
            },
        };
        // What the server or the database is set to must not weaken what is measured. One round trip, without a
        // prepared statement that a pooler would trip over.
        let script = format!(
            "begin; set local synchronous_commit to on; insert into matriarch.{} (id) values ({id}); commit",
            self.table
        );
        match timeout(DEADLINE, connected.simple_query(&script)).await {
            Ok(Ok(_)) => {
                *client = Some(connected);
                (Outcome::Acknowledged, None)
            }
            Ok(Err(error)) => (outcome_of(&error), Some(format!("write: {}", reason(&error)))),
            Err(_) => (Outcome::Unknown, Some("write: no answer in time".to_owned())),
        }
    }
}

/// Connection errors (08), shutdowns (57P) and an unknown outcome (40003) prove nothing: the commit may have gone through.
fn outcome_of(error: &tokio_postgres::Error) -> Outcome {
    match error.code().map(|code| code.code()) {
        Some(code) if !code.starts_with("08") && !code.starts_with("57P") && code != "40003" => Outcome::Refused,
        _ => Outcome::Unknown,
    }
}

fn reason(error: &tokio_postgres::Error) -> String {
    use std::error::Error;
    match error.as_db_error() {
        Some(db) => format!("{} (SQLSTATE {})", db.message(), db.code().code()),
        None => error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {source}")),
    }
}
