//! The clients of a history.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, timeout};
use tokio_postgres::{Client, Config, SimpleQueryMessage};

use super::{Answer, Event, Fate, Finals, Op, Verdict, check};
use crate::ledger::{Outcome, connect, outcome_of};

const CREATE: &str = "create table if not exists history_lists (key bigint primary key, elements text not null); \
     create table if not exists history_registers \
     (key bigint primary key, version bigint not null, value bigint not null, previous bigint not null)";
/// The longest one connect or one statement may take.
const DEADLINE: Duration = Duration::from_secs(1);
/// The longest that the first connect may take, which must succeed.
const PATIENCE: Duration = Duration::from_secs(30);
/// The pace of each client.
const EVERY: Duration = Duration::from_millis(20);
/// Values a list takes before the next one is begun: short enough to be told in every answer.
const LENGTH: i64 = 150;
/// Lists and registers in use at the same time.
const WIDTH: i64 = 3;
/// Keys of one history.
const KEYS: i64 = 1_000_000_000;

/// Clients at work on tables that are new with each start.
#[derive(Debug)]
pub struct Clients {
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    config: Config,
    /// Where its keys begin. A statement of an earlier history may arrive long after its client has given it up, as when
    /// the network heals, and must not be taken for one of this.
    base: i64,
    every: Duration,
    start: Instant,
    next: AtomicI64,
    stop: AtomicBool,
    events: Mutex<Vec<Event>>,
}

impl Clients {
    /// Empties the tables and starts `count` clients; `dsn` leads to the primary through whatever router is under test.
    pub async fn start(dsn: &str, count: u32, seed: u64) -> Result<Clients> {
        Clients::start_at(dsn, count, seed, EVERY).await
    }

    /// The same with a pace of one's own: the time from one statement of a client to its next.
    pub async fn start_at(dsn: &str, count: u32, seed: u64, every: Duration) -> Result<Clients> {
        let mut config: Config = dsn.parse().context("the connection string of the clients")?;
        config.connect_timeout(PATIENCE).application_name("history");
        let client = connect(&config).await.context("connecting to create the tables of the history")?;
        client.batch_execute(CREATE).await.context("creating the tables of the history")?;
        client.batch_execute("truncate history_lists, history_registers").await?;
        let base = rand::random_range(0..i64::MAX / KEYS) * KEYS;
        for register in base..base + WIDTH {
            client.batch_execute(&format!("insert into history_registers values ({register}, 0, 0, 0)")).await?;
        }
        config.connect_timeout(DEADLINE);
        let shared = Shared {
            config,
            base,
            every,
            start: Instant::now(),
            next: AtomicI64::new(1),
            stop: AtomicBool::new(false),
            events: Mutex::default(),
        };
        let shared = Arc::new(shared);
        let mut tasks = JoinSet::new();
        for client in 0..count {
            let random = SmallRng::seed_from_u64(seed.wrapping_add(u64::from(client)));
            tasks.spawn(shared.clone().work(client, random));
        }
        Ok(Clients { shared, tasks })
    }

    /// Ends the clients, reads what is there, and judges. `dsn` leads to the primary; plain reads may show the past for as
    /// long as is `tolerated`.
    pub async fn conclude(mut self, dsn: &str, tolerated: Duration) -> Result<Verdict> {
        self.shared.stop.store(true, Ordering::Relaxed);
        while self.tasks.join_next().await.is_some() {}
        let finals = finals(&dsn.parse()?, self.shared.base).await?;
        let events = std::mem::take(&mut *self.shared.events());
        Ok(check(&events, &finals, tolerated))
    }
}

impl Shared {
    fn events(&self) -> std::sync::MutexGuard<'_, Vec<Event>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn work(self: Arc<Shared>, client: u32, mut random: SmallRng) {
        let mut ticks = tokio::time::interval(self.every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut connection: Option<Client> = None;
        while !self.stop.load(Ordering::Relaxed) {
            ticks.tick().await;
            let op = self.choose(&mut random);
            let begun = self.start.elapsed().as_secs_f64();
            let fate = self.attempt(&mut connection, op).await;
            let ended = self.start.elapsed().as_secs_f64();
            self.events().push(Event { client, op, fate, begun, ended });
        }
    }

    fn choose(&self, random: &mut SmallRng) -> Op {
        let value = self.next.fetch_add(1, Ordering::Relaxed);
        let list = value / (LENGTH * WIDTH) * WIDTH + random.random_range(0..WIDTH);
        match random.random_range(0..10) {
            0..=4 => Op::Append { list, value },
            5..=6 => Op::Read { list },
            7 => Op::Look { register: random.random_range(0..WIDTH) },
            _ => Op::Write { register: random.random_range(0..WIDTH), value },
        }
    }

    async fn attempt(&self, connection: &mut Option<Client>, op: Op) -> Fate {
        let client = match connection.take().filter(|client| !client.is_closed()) {
            Some(client) => client,
            None => match timeout(DEADLINE, connect(&self.config)).await {
                Ok(Ok(client)) => client,
                _ => return Fate::Failed,
            },
        };
        match timeout(DEADLINE, client.simple_query(&statement(self.base, op))).await {
            Ok(Ok(messages)) => {
                *connection = Some(client);
                answer(op, &messages).map_or(Fate::Unknown, Fate::Done)
            }
            Ok(Err(error)) if outcome_of(&error) == Outcome::Refused => Fate::Failed,
            Ok(Err(_)) | Err(_) => Fate::Unknown,
        }
    }
}

fn statement(base: i64, op: Op) -> String {
    match op {
        Op::Append { list, value } => format!(
            "insert into history_lists as l values ({}, '{value}') \
             on conflict (key) do update set elements = l.elements || ',{value}' returning elements",
            base + list
        ),
        Op::Read { list } => format!("select elements from history_lists where key = {}", base + list),
        Op::Write { register, value } => format!(
            "update history_registers set previous = value, value = {value}, version = version + 1 where key = {} \
             returning version, previous",
            base + register
        ),
        Op::Look { register } => {
            format!("select version, value from history_registers where key = {}", base + register)
        }
    }
}

fn answer(op: Op, messages: &[SimpleQueryMessage]) -> Option<Answer> {
    let row = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    let two = || Some((row?.get(0)?.parse().ok()?, row?.get(1)?.parse().ok()?));
    match op {
        Op::Write { .. } => two().map(|(version, previous)| Answer::Written { version, previous }),
        Op::Look { .. } => two().map(|(version, value)| Answer::Register { version, value }),
        // A list that nobody has appended to has no row.
        Op::Read { .. } if row.is_none() => Some(Answer::List(Vec::new())),
        Op::Append { .. } | Op::Read { .. } => numbers(row?.get(0)?).map(Answer::List),
    }
}

fn numbers(text: &str) -> Option<Vec<i64>> {
    text.split(',').map(|word| word.parse().ok()).collect()
}

async fn finals(config: &Config, base: i64) -> Result<Finals> {
    let client = connect(config).await.context("connecting to read the history's end")?;
    let ours = format!("where key >= {base} and key < {}", base + KEYS);
    let mut lists = BTreeMap::new();
    let mut registers = BTreeMap::new();
    for message in client.simple_query(&format!("select key, elements from history_lists {ours}")).await? {
        if let SimpleQueryMessage::Row(row) = message {
            let values = row.get(1).and_then(numbers).context("a list holds numbers")?;
            lists.insert(number(&row, 0)? - base, values);
        }
    }
    for message in client.simple_query(&format!("select key, version, value from history_registers {ours}")).await? {
        if let SimpleQueryMessage::Row(row) = message {
            registers.insert(number(&row, 0)? - base, (number(&row, 1)?, number(&row, 2)?));
        }
    }
    Ok(Finals { lists, registers })
}

fn number(row: &tokio_postgres::SimpleQueryRow, column: usize) -> Result<i64> {
    row.get(column).context("it is not null")?.parse().context("it is a number")
}
