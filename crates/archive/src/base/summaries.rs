//! The WAL summaries of PostgreSQL 17 and later: which blocks were changed between two positions.

use std::pin::pin;
use std::time::{Duration, Instant};

use futures_util::TryStreamExt;
use matriarch_core::{Lsn, Timeline};
use tokio_postgres::{Client, Row};

use super::BackupError;
use super::changes::{Changes, Relation};
use crate::restore::History;

/// The first version that has them.
const SINCE: u32 = 170_000;
/// A summarizer that has nothing to do sleeps for half a minute.
const PATIENCE: Duration = Duration::from_secs(40);
const AGAIN: Duration = Duration::from_millis(50);

/// A stretch of the log on one timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stretch {
    timeline: Timeline,
    start: Lsn,
    end: Lsn,
}

/// What summaries have of a stretch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    All,
    /// From here on nothing has been summarized yet.
    Until(Lsn),
    /// From here on something is missing that will not come.
    Gap(Lsn),
}

/// Everything that changed in the log between `from` and `to`. The inner error: why that is not known.
pub async fn read(
    client: &Client,
    version: u32,
    history: &History,
    from: Lsn,
    to: Lsn,
) -> Result<Result<Changes, String>, BackupError> {
    if version < SINCE {
        return Ok(Err(format!("PostgreSQL {} has no WAL summaries", version / 10_000)));
    }
    let on: bool = client.query_one("select current_setting('summarize_wal') = 'on'", &[]).await?.get(0);
    if !on {
        return Ok(Err("summarize_wal is off".to_owned()));
    }
    let stretches = stretches(history, from, to);
    let summaries = match complete(client, &stretches).await? {
        Ok(summaries) => summaries,
        Err(why) => return Ok(Err(why)),
    };
    let mut changes = Changes::default();
    for summary in summaries {
        if let Err(error) = add(client, summary, &mut changes).await {
            // Removed for its age at this very moment, or damaged: a session that is gone shows at the next query.
            return Ok(Err(format!("a WAL summary could not be read: {}", crate::repository::chain(&error))));
        }
    }
    Ok(Ok(changes))
}

/// The way from one position to another over a history.
fn stretches(history: &History, from: Lsn, to: Lsn) -> Vec<Stretch> {
    let mut found = Vec::new();
    let mut start = from;
    while start < to {
        let timeline = history.timeline_at(start);
        let end = history.end_of(timeline).flatten().map_or(to, |end| end.min(to));
        found.push(Stretch { timeline, start, end });
        start = end;
    }
    found
}

/// The summaries that cover all of that; waits for what the server is about to summarize.
async fn complete(client: &Client, stretches: &[Stretch]) -> Result<Result<Vec<Stretch>, String>, BackupError> {
    let mut best = None;
    let mut moved = Instant::now();
    loop {
        let summaries = available(client).await?;
        let missing = stretches.iter().find_map(|stretch| match reach(&summaries, *stretch) {
            Reach::All => None,
            short => Some((stretch.timeline, short)),
        });
        let Some((timeline, short)) = missing else {
            let wanted = |one: &Stretch| {
                stretches.iter().any(|stretch| {
                    one.timeline == stretch.timeline && one.start < stretch.end && one.end > stretch.start
                })
            };
            return Ok(Ok(summaries.into_iter().filter(wanted).collect()));
        };
        let at = match short {
            Reach::Until(at) => at,
            Reach::Gap(at) => return Ok(Err(format!("no WAL summary covers {at} on timeline {timeline}"))),
            Reach::All => continue,
        };
        if best != Some((timeline, at)) {
            (best, moved) = (Some((timeline, at)), Instant::now());
        } else if moved.elapsed() > PATIENCE {
            return Ok(Err(format!("the WAL summarizer stands still at {at} on timeline {timeline}")));
        }
        tokio::time::sleep(AGAIN).await;
    }
}

async fn available(client: &Client) -> Result<Vec<Stretch>, BackupError> {
    let query = "select tli::bigint, start_lsn::text, end_lsn::text from pg_available_wal_summaries()";
    client.query(query, &[]).await?.iter().map(stretch).collect()
}

fn stretch(row: &Row) -> Result<Stretch, BackupError> {
    let lsn = |column: usize| {
        let text: String = row.get(column);
        text.parse().map_err(|_| BackupError::Unsupported(format!("'{text}' for a position in the log")))
    };
    Ok(Stretch { timeline: row.get::<_, i64>(0) as Timeline, start: lsn(1)?, end: lsn(2)? })
}

/// How far the summaries lead from the start of a stretch without a gap.
fn reach(summaries: &[Stretch], stretch: Stretch) -> Reach {
    let mut at = stretch.start;
    while at < stretch.end {
        let holds = |one: &&Stretch| one.timeline == stretch.timeline && one.start <= at && one.end > at;
        match summaries.iter().filter(holds).map(|one| one.end).max() {
            Some(end) => at = end,
            None => break,
        }
    }
    let is_later = |one: &Stretch| (one.timeline, one.start) > (stretch.timeline, at);
    match at < stretch.end {
        false => Reach::All,
        true if summaries.iter().any(is_later) => Reach::Gap(at),
        true => Reach::Until(at),
    }
}

async fn add(client: &Client, summary: Stretch, changes: &mut Changes) -> Result<(), tokio_postgres::Error> {
    let Stretch { timeline, start, end } = summary;
    let query = format!(
        "select reltablespace::bigint, reldatabase::bigint, relfilenode::bigint, relblocknumber, is_limit_block \
         from pg_wal_summary_contents({timeline}, '{start}', '{end}') where relforknumber = 0"
    );
    let rows = client.query_raw(query.as_str(), Vec::<i64>::new()).await?;
    let mut rows = pin!(rows);
    while let Some(row) = rows.try_next().await? {
        let number = |column: usize| row.get::<_, i64>(column) as u32;
        let relation = Relation { space: number(0), database: number(1), number: number(2) };
        match row.get(4) {
            true => changes.limit(relation, number(3)),
            false => changes.block(relation, number(3)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(timeline: Timeline, start: u64, end: u64) -> Stretch {
        Stretch { timeline, start: Lsn(start), end: Lsn(end) }
    }

    #[test]
    fn the_way_leads_over_timelines() {
        let history = History::parse(3, "1\t0/64\tx\n2\t0/C8\tx").unwrap();
        let found = stretches(&history, Lsn(50), Lsn(300));
        assert_eq!(found, [part(1, 50, 100), part(2, 100, 200), part(3, 200, 300)]);
        assert_eq!(stretches(&history, Lsn(210), Lsn(300)), [part(3, 210, 300)]);
        assert_eq!(stretches(&history, Lsn(300), Lsn(300)), []);
    }

    #[test]
    fn a_gap_is_told_from_what_is_still_to_come() {
        let summaries = [part(1, 20, 40), part(1, 0, 20), part(1, 60, 90), part(2, 90, 95)];
        assert_eq!(reach(&summaries, part(1, 5, 40)), Reach::All);
        assert_eq!(reach(&summaries, part(1, 5, 61)), Reach::Gap(Lsn(40)), "nobody will summarize what was passed");
        assert_eq!(reach(&summaries, part(1, 60, 95)), Reach::Gap(Lsn(90)));
        assert_eq!(reach(&summaries, part(2, 90, 99)), Reach::Until(Lsn(95)));
        assert_eq!(reach(&[], part(1, 5, 40)), Reach::Until(Lsn(5)));
    }
}
