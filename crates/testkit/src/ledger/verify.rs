//! The reckoning: which acknowledged rows are still there.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use tokio_postgres::{Config, SimpleQueryMessage};

use super::{Book, Entry, Outcome, connect};

/// What [`verify()`] found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Rows of this book that are in the table.
    pub present: u64,
    /// Acknowledged and absent: lost data.
    pub lost: Vec<i64>,
    /// More than once in the table, in spite of its primary key.
    pub duplicates: Vec<i64>,
    /// Refused by the server, or never sent, and present all the same.
    pub unexpected: Vec<i64>,
}

impl Verdict {
    pub fn is_clean(&self) -> bool {
        self.lost.is_empty() && self.duplicates.is_empty() && self.unexpected.is_empty()
    }
}

/// Compares a book with the table that `dsn` leads to (the primary, as a rule), reading the table itself and not its index.
pub async fn verify(dsn: &str, book: &Book) -> Result<Verdict> {
    let mut config: Config = dsn.parse().context("the connection string to verify with")?;
    config.connect_timeout(Duration::from_secs(10));
    let client = connect(&config).await.context("connecting to verify the ledger")?;
    let (Some(first), Some(last)) = (book.entries.iter().map(|e| e.id).min(), book.entries.iter().map(|e| e.id).max())
    else {
        return Ok(Verdict::default());
    };
    client
        .batch_execute("set enable_indexscan = off; set enable_indexonlyscan = off; set enable_bitmapscan = off")
        .await?;
    let query = format!("select id from ledger where id between {first} and {last}");
    let mut present: BTreeMap<i64, u32> = BTreeMap::new();
    for message in client.simple_query(&query).await.context("reading the ledger")? {
        if let SimpleQueryMessage::Row(row) = message {
            let id = row.get(0).context("an id is not null")?.parse().context("an id is a number")?;
            *present.entry(id).or_default() += 1;
        }
    }
    let ids = |wanted: fn(&Entry) -> bool| book.entries.iter().filter(move |e| wanted(e)).map(|e| e.id);
    Ok(Verdict {
        present: present.len() as u64,
        lost: ids(|e| e.outcome == Outcome::Acknowledged).filter(|id| !present.contains_key(id)).collect(),
        duplicates: present.iter().filter(|(_, count)| **count > 1).map(|(id, _)| *id).collect(),
        unexpected: ids(|e| matches!(e.outcome, Outcome::Refused | Outcome::Unsent))
            .filter(|id| present.contains_key(id))
            .collect(),
    })
}
