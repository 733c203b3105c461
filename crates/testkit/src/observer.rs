//! The observer: asks every member directly, on its own port, and would see two primaries.
//!
//! A sample "writable" proves only that the member was so at some moment between question and answer. A postmaster never
//! goes from primary back to replica, so between two writable samples of the same postmaster it was writable throughout:
//! that stretch, from the first answer to the last question, is a [`Reign`]. Two reigns of different members that overlap
//! are two primaries, proven; a frozen server that answers an old question when it thaws is not.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, timeout};
use tokio_postgres::{Client, Config, SimpleQueryMessage};

use crate::ledger::connect;

/// How a member is asked whether it is a primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe {
    /// It says that it is not in recovery and not read-only. Strict: a deposed primary that wakes up counts until it is
    /// stopped, though a fence may keep it from acknowledging anything.
    Status,
    /// It commits a row, with whatever acknowledgement the cluster demands: it *acts* as a primary.
    /// Needs [`Observer::prepare`].
    Write,
}

/// A stretch of time in which one postmaster was certainly a writable primary. Seconds since the observer's start.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Reign {
    pub member: String,
    /// `pg_postmaster_start_time()`, as text: which postmaster it was.
    pub postmaster: String,
    pub from: f64,
    pub to: f64,
}

/// Two members writable at once: the invariant that must never break.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Overlap {
    pub first: Reign,
    pub second: Reign,
    pub seconds: f64,
}

/// What was seen.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// In order of their starts.
    pub reigns: Vec<Reign>,
    pub overlaps: Vec<Overlap>,
    /// Answers per member, of any kind: a member that was never asked proves nothing.
    pub answers: BTreeMap<String, u64>,
}

/// Observing tasks, one for each member.
#[derive(Debug)]
pub struct Observer {
    seen: Arc<Mutex<Report>>,
    tasks: JoinSet<()>,
}

impl Observer {
    /// Creates the table that [`Probe::Write`] writes to; `dsn` leads to the primary.
    pub async fn prepare(dsn: &str) -> Result<()> {
        let client = connect(&dsn.parse()?).await.context("connecting to create the observer's table")?;
        let create = "create table if not exists observer (member text primary key, at timestamptz)";
        client.batch_execute(create).await.context("creating the observer's table")
    }

    /// Starts to ask each member (name, connection string of its own port as superuser) every `every`, 10 to 20 ms as a
    /// rule, waiting at most 1 s for an answer.
    pub fn start(members: &[(String, String)], every: Duration, probe: Probe) -> Result<Observer> {
        let seen = Arc::new(Mutex::new(Report::default()));
        let start = Instant::now();
        let mut tasks = JoinSet::new();
        for (member, dsn) in members {
            let mut config: Config = dsn.parse().with_context(|| format!("the connection string of {member}"))?;
            config.connect_timeout(Duration::from_secs(1)).application_name("observer");
            tasks.spawn(watch(member.clone(), config, every, probe, start, seen.clone()));
        }
        Ok(Observer { seen, tasks })
    }

    /// What was seen so far.
    pub fn report(&self) -> Report {
        let mut report = lock(&self.seen).clone();
        report.reigns.sort_by(|a, b| a.from.total_cmp(&b.from));
        report.overlaps = overlaps(&report.reigns);
        report
    }

    /// Ends the observation.
    pub async fn stop(mut self) -> Report {
        self.tasks.shutdown().await;
        self.report()
    }
}

fn lock(seen: &Mutex<Report>) -> std::sync::MutexGuard<'_, Report> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn watch(
    member: String,
    config: Config,
    every: Duration,
    probe: Probe,
    start: Instant,
    seen: Arc<Mutex<Report>>,
) {
    let question = match probe {
        Probe::Status => "select pg_postmaster_start_time() where not pg_is_in_recovery() \
             and current_setting('transaction_read_only') = 'off'"
            .to_owned(),
        Probe::Write => format!(
            "insert into observer values ('{}', clock_timestamp()) on conflict (member) do update set at = excluded.at \
             returning pg_postmaster_start_time()",
            member.replace('\'', "''")
        ),
    };
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut client: Option<Client> = None;
    loop {
        ticks.tick().await;
        if client.as_ref().is_none_or(Client::is_closed) {
            client = timeout(Duration::from_secs(1), connect(&config)).await.ok().and_then(Result::ok);
        }
        let Some(connected) = &client else { continue };
        let asked = start.elapsed().as_secs_f64();
        let answer = timeout(Duration::from_secs(1), connected.simple_query(&question)).await;
        let answered = start.elapsed().as_secs_f64();
        let Ok(answer) = answer else {
            // The late answer would be taken for the next question's.
            client = None;
            continue;
        };
        let mut seen = lock(&seen);
        *seen.answers.entry(member.clone()).or_default() += 1;
        if let Some(postmaster) = answer.ok().as_deref().and_then(first_value) {
            extend(&mut seen.reigns, &member, postmaster, asked, answered);
        }
    }
}

fn first_value(messages: &[SimpleQueryMessage]) -> Option<&str> {
    messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    })
}

fn extend(reigns: &mut Vec<Reign>, member: &str, postmaster: &str, asked: f64, answered: f64) {
    match reigns.iter_mut().find(|reign| reign.member == member && reign.postmaster == postmaster) {
        Some(reign) => reign.to = reign.to.max(asked),
        // The first sample alone proves one unknown moment: a stretch of no length, that ends before it begins.
        None => reigns.push(Reign {
            member: member.to_owned(),
            postmaster: postmaster.to_owned(),
            from: answered,
            to: asked,
        }),
    }
}

fn overlaps(reigns: &[Reign]) -> Vec<Overlap> {
    let mut found = Vec::new();
    for (index, first) in reigns.iter().enumerate() {
        for second in &reigns[index + 1..] {
            let seconds = first.to.min(second.to) - first.from.max(second.from);
            if first.member != second.member && seconds > 0.0 {
                found.push(Overlap { first: first.clone(), second: second.clone(), seconds });
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reign(member: &str, from: f64, to: f64) -> Reign {
        Reign { member: member.into(), postmaster: "p".into(), from, to }
    }

    #[test]
    fn reigns_that_meet_are_an_overlap_and_those_that_follow_are_not() {
        assert!(overlaps(&[reign("a", 0.0, 5.0), reign("b", 5.1, 9.0)]).is_empty());
        let found = overlaps(&[reign("a", 0.0, 5.0), reign("b", 4.0, 9.0)]);
        assert_eq!(found.len(), 1);
        assert!((found[0].seconds - 1.0).abs() < 1e-9);
    }

    #[test]
    fn one_late_answer_proves_nothing_and_a_second_one_does() {
        let mut reigns = vec![reign("b", 2.0, 30.0)];
        // Asked at 1 s, frozen, thawed and answered at 20 s while b reigns.
        extend(&mut reigns, "a", "p", 1.0, 20.0);
        assert!(overlaps(&reigns).is_empty());
        extend(&mut reigns, "a", "p", 20.1, 20.2);
        assert_eq!(overlaps(&reigns).len(), 1);
    }
}
