//! Which tails commits wait for.

use std::collections::BTreeMap;

use matriarch_config::Durability;
use matriarch_core::Lsn;
use matriarch_core::decide::Millis;
use matriarch_postgres::probe::ReplicationRow;

use super::names::{is_tail, nobodies};

/// A tail that is further behind is not waited for yet.
const NEAR: u64 = 16 << 20;
/// A tail that was done without is not waited for again before so long has passed.
const REST: Millis = 1_000;

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    pub durability: Durability,
    /// How long a tail may hold up commits, where it is done without then.
    pub limit: Millis,
    /// How many connections each tail is to have.
    pub weight: usize,
    /// How many repositories there are.
    pub repositories: usize,
}

/// The tail of one repository, as its worker has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tail {
    pub repository: String,
    /// The names of its connections.
    pub names: Vec<String>,
    /// The repository holds everything from here on, as far as the connections say.
    pub begun: Option<Lsn>,
    /// Why nothing is put away.
    pub trouble: Option<String>,
}

/// One look at a primary.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    pub now: Millis,
    /// How far its own WAL is durable.
    pub flushed: Lsn,
    /// Who streams from it.
    pub rows: &'a [ReplicationRow],
    /// Everything before is in every repository.
    pub safe: Option<Lsn>,
    pub tails: &'a [Tail],
    /// Names of tails that PostgreSQL has loaded.
    pub loaded: &'a [String],
}

/// Tails that commits are to wait for, and those that are done without.
#[derive(Clone, Debug, Default)]
pub struct Seats {
    taken: BTreeMap<String, Seat>,
    out: BTreeMap<String, Out>,
    /// When names of an agent before this one were first seen; none once that is over.
    inherited: Inherited,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Inherited {
    #[default]
    Unknown,
    Since(Millis),
    Over,
}

#[derive(Clone, Debug)]
struct Seat {
    names: Vec<String>,
    /// What its connections have reported.
    reported: Lsn,
    /// Since when that is not enough, and no more than before.
    ill: Option<Millis>,
}

/// One that was waited for in vain.
#[derive(Clone, Debug)]
struct Out {
    until: Millis,
    /// How far it must have come to be waited for again, which proves that its repository answers.
    reach: Lsn,
    why: String,
}

impl Seats {
    /// The names that PostgreSQL is to wait for.
    pub fn look(&mut self, terms: &Terms, seen: &Seen<'_>) -> Vec<String> {
        if terms.durability == Durability::None {
            *self = Seats { inherited: Inherited::Over, ..Seats::default() };
            return Vec::new();
        }
        for tail in seen.tails {
            self.sit(terms, seen, tail);
        }
        self.look_at_taken(terms, seen);
        if !self.taken.is_empty() {
            self.inherited = Inherited::Over;
        }
        let mut names: Vec<String> = self.taken.values().flat_map(|seat| seat.names.clone()).collect();
        if terms.durability == Durability::Required {
            let missing = terms.repositories.saturating_sub(self.taken.len());
            names.extend(nobodies(missing * terms.weight));
        } else if names.is_empty() && self.inherits(terms, seen) {
            return seen.loaded.to_vec();
        }
        names
    }

    /// An agent that is started anew leaves the names of the one before it for a while: nothing is acknowledged until its own tail
    /// is there.
    fn inherits(&mut self, terms: &Terms, seen: &Seen<'_>) -> bool {
        if self.inherited == Inherited::Unknown && seen.loaded.iter().any(|name| is_tail(name)) {
            self.inherited = Inherited::Since(seen.now);
        }
        match self.inherited {
            Inherited::Since(since) if seen.now < since + terms.limit => true,
            _ => {
                self.inherited = Inherited::Over;
                false
            }
        }
    }

    /// Commits wait for a tail once it is level, and for its new connections when the old ones have gone or are too few.
    fn sit(&mut self, terms: &Terms, seen: &Seen<'_>, tail: &Tail) {
        let Some(names) = tail.names.get(..terms.weight) else { return };
        if let Some(seat) = self.taken.get(&tail.repository) {
            let stays =
                seat.names.iter().all(|name| tail.names.contains(name)) && reported(seen, &seat.names).is_some();
            if stays && seat.names.len() >= terms.weight {
                return;
            }
        }
        let Some(reported) = reported(seen, names).filter(|_| is_whole(seen, tail)) else { return };
        if reported.0 + NEAR < seen.flushed.0 {
            return;
        }
        if self.out.get(&tail.repository).is_some_and(|out| seen.now < out.until || reported < out.reach) {
            return;
        }
        self.out.remove(&tail.repository);
        let seat = Seat { names: names.to_vec(), reported, ill: None };
        if self.taken.insert(tail.repository.clone(), seat).is_none() {
            tracing::info!(repository = tail.repository, "commits wait until the archive holds them");
        }
    }

    fn look_at_taken(&mut self, terms: &Terms, seen: &Seen<'_>) {
        let mut left = Vec::new();
        for (repository, seat) in &mut self.taken {
            let tail = seen.tails.iter().find(|tail| tail.repository == *repository);
            let connected = tail.is_some_and(|tail| seat.names.iter().all(|name| tail.names.contains(name)));
            let now = reported(seen, &seat.names).filter(|_| connected);
            match now.filter(|now| *now >= seen.flushed || *now > seat.reported) {
                Some(now) => (seat.reported, seat.ill) = (now.max(seat.reported), None),
                None => _ = seat.ill.get_or_insert(seen.now),
            }
            if terms.durability == Durability::Preferred && seat.is_overdue(terms, seen) {
                let why = tail.and_then(|tail| tail.trouble.clone());
                left.push((repository.clone(), why.unwrap_or_else(|| "it did not answer in time".to_owned())));
            }
        }
        for (repository, why) in left {
            tracing::warn!(repository, "commits do not wait for the archive any more: {why}");
            self.taken.remove(&repository);
            self.out.insert(repository, Out { until: seen.now + REST.max(terms.limit), reach: seen.flushed, why });
        }
    }

    /// Every repository has as many connections as it takes.
    pub fn is_complete(&self, terms: &Terms) -> bool {
        self.taken.len() >= terms.repositories && self.taken.values().all(|seat| seat.names.len() >= terms.weight)
    }

    /// Repositories that commits are to wait for.
    pub fn repositories(&self) -> impl Iterator<Item = &str> {
        self.taken.keys().map(String::as_str)
    }

    /// What keeps commits from waiting for every repository, or waiting for one of them.
    pub fn trouble(&self, terms: &Terms, seen: &Seen<'_>) -> Option<String> {
        let told = |repository: &str, why: &str| match why.contains(repository) {
            true => why.to_owned(),
            false => format!("{repository}: {why}"),
        };
        if let Some((repository, out)) = self.out.iter().next() {
            return Some(told(repository, &out.why));
        }
        let tail = |repository: &str| seen.tails.iter().find(|tail| tail.repository == repository);
        for (repository, seat) in &self.taken {
            if seat.is_overdue(terms, seen) {
                let why = tail(repository).and_then(|tail| tail.trouble.clone());
                return Some(told(repository, why.as_deref().unwrap_or("it does not answer")));
            }
        }
        let waiting = seen.tails.iter().find(|tail| !self.taken.contains_key(&tail.repository));
        match waiting {
            Some(tail) => {
                let why = match &tail.trouble {
                    Some(why) => why.clone(),
                    None if tail.begun.is_none() => "its tail does not stream yet".to_owned(),
                    None if !is_whole(seen, tail) => "WAL of before its tail is not archived yet".to_owned(),
                    None if tail.names.len() < terms.weight => {
                        let (some, all) = (tail.names.len(), terms.weight);
                        format!("its tail has {some} of {all} connections (is max_wal_senders large enough?)")
                    }
                    None => "its tail is not level yet".to_owned(),
                };
                Some(told(&tail.repository, &why))
            }
            None if self.taken.len() < terms.repositories => Some("a repository is not open".to_owned()),
            None => None,
        }
    }
}

impl Seat {
    fn is_overdue(&self, terms: &Terms, seen: &Seen<'_>) -> bool {
        self.ill.is_some_and(|since| seen.now >= since + terms.limit)
    }
}

/// What all of these connections have reported, if they all stream.
fn reported(seen: &Seen<'_>, names: &[String]) -> Option<Lsn> {
    let row = |name: &String| seen.rows.iter().find(|row| row.application_name == *name);
    let streaming = |row: &&ReplicationRow| row.state.as_deref() == Some("streaming");
    let reported = names.iter().map(|name| row(name).filter(streaming)?.flush_lsn);
    reported.collect::<Option<Vec<Lsn>>>()?.into_iter().min()
}

/// The repository lacks nothing of what is before the position that the tail reports.
fn is_whole(seen: &Seen<'_>, tail: &Tail) -> bool {
    tail.trouble.is_none() && tail.begun.zip(seen.safe).is_some_and(|(begun, safe)| begun <= safe)
}

#[cfg(test)]
mod tests;
