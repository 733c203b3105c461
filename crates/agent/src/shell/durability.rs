//! Commits that wait for the archive: which connections of its tails PostgreSQL waits for beside the rule's voters.

use std::collections::BTreeSet;

use matriarch_api::ArchiveDurability;
use matriarch_config::Durability;
use matriarch_core::decide::Millis;
use matriarch_dcs::Revision;
use matriarch_postgres::Probe;
use matriarch_postgres::sql::QUICK;

use super::Shell;
use crate::archive::{Awaited, Standing};
use crate::durability::names::{self, is_tail, nobodies};
use crate::durability::{Seats, Seen, Terms};

/// Processes of PostgreSQL load settings one by one; so long after they were seen in force each of them has.
const MARGIN: Millis = 200;
/// While names change.
const SOON: Millis = 50;
/// While they do not, since a repository tells nobody that it does not answer.
const LOOK: Millis = 500;
/// Commits that do not wait, or wait in vain, for so long are a member's problem.
const PATIENCE: Millis = 5_000;

/// What the loop remembers of it.
#[derive(Default)]
pub(super) struct Waiting {
    seats: Seats,
    /// The configuration that they are by.
    revision: Option<Revision>,
    /// Names that PostgreSQL was last told of; none before the first look at a primary.
    asked: Option<Vec<String>>,
    /// The value in force, and since when.
    loaded: (String, Millis),
    /// Commits that wait have been looked at again since then.
    nudged: bool,
    /// Every repository is waited for, and every process knows it.
    holds: bool,
    /// Since when that is not so, or commits wait in vain.
    lacking: Option<Millis>,
    problem: Option<String>,
    shown: Option<Awaited>,
}

impl Shell {
    fn durability_terms(&self) -> Terms {
        // Before the restart that makes it archive, there is nothing to wait for.
        let archives = self.pg.probe.as_ref().is_none_or(|probe| probe.archives);
        let Some(section) = self.config.archive.as_ref().filter(|_| archives) else {
            return Terms { durability: Durability::None, limit: 0, weight: 1, repositories: 0 };
        };
        let rule = self.configured.as_ref().map(|known| known.settings.synchronous_standby_names.as_str());
        let members = self.reading.as_ref().map_or(0, |reading| reading.view.members.len());
        Terms {
            durability: section.durability,
            limit: section.durability_timeout.as_millis() as Millis,
            weight: names::weight(rule.unwrap_or_default(), members.saturating_sub(1)),
            repositories: section.repositories.len(),
        }
    }

    /// How many connections each tail is to have; none when nobody waits for it.
    pub(super) fn tail_votes(&self) -> usize {
        let terms = self.durability_terms();
        if terms.durability == Durability::None { 0 } else { terms.weight }
    }

    /// The names that PostgreSQL's settings have beside the rule's. What leads next must not acknowledge before its tail is there, where
    /// that is required.
    pub(super) fn tail_names(&self) -> Vec<String> {
        match &self.pg.probe {
            Some(probe) if !probe.in_recovery => {
                let loaded = || names::tails(&probe.synchronous_standby_names);
                self.waiting.asked.clone().unwrap_or_else(loaded)
            }
            _ => {
                let terms = self.durability_terms();
                let required = terms.durability == Durability::Required;
                nobodies(if required { terms.weight * terms.repositories } else { 0 })
            }
        }
    }

    /// What is wrong with it, for the member's record.
    pub(super) fn durability_problem(&self) -> Option<String> {
        self.waiting.problem.clone()
    }

    /// Takes the next step; when to look again.
    pub(super) fn keep_durability(&mut self, now: Millis) -> Millis {
        let Some(probe) = self.pg.probe.as_ref().filter(|probe| !probe.in_recovery) else {
            self.forget_durability();
            return Millis::MAX;
        };
        let terms = self.durability_terms();
        let loaded = names::tails(&probe.synchronous_standby_names);
        let asked = self.waiting.asked.as_ref().unwrap_or(&loaded);
        if terms.durability == Durability::None && loaded.is_empty() && asked.is_empty() {
            self.forget_durability();
            return Millis::MAX;
        }
        if !matches!(self.archive_standing(), Standing::Primary(_)) {
            // Its tails end with it.
            return Millis::MAX;
        }
        let (probe, asked) = (probe.clone(), asked.clone());
        if self.waiting.loaded.0 != probe.synchronous_standby_names {
            self.waiting.loaded = (probe.synchronous_standby_names.clone(), now);
            self.waiting.nudged = false;
            self.nudge();
        }
        let settled = !self.configuring && loaded == asked && now >= self.waiting.loaded.1 + MARGIN;
        if self.waiting.revision != self.config_revision {
            // Perhaps the repositories are others; those that are as they were are found again at once.
            (self.waiting.seats, self.waiting.revision) = (Seats::default(), self.config_revision);
        }
        if settled && !self.waiting.nudged {
            self.waiting.nudged = true;
            self.nudge();
        }
        let tails = self.archiver.tails();
        let seen = Seen {
            now,
            flushed: probe.flush_lsn.unwrap_or_default(),
            rows: &probe.replication,
            safe: self.archiver.safe(),
            tails: &tails,
            loaded: &loaded,
        };
        let wanted = self.waiting.seats.look(&terms, &seen);
        let next = match settled {
            true => names::step(&asked, &wanted, &marked(&probe, &asked), self.is_alone(&probe)),
            false => asked,
        };
        self.waiting.holds =
            loaded == wanted && self.waiting.seats.is_complete(&terms) && (settled || self.waiting.holds);
        self.tell_durability(&terms, &seen);
        let moves = next != loaded || loaded != wanted;
        self.waiting.asked = Some(next);
        if let Some(known) = self.configured.as_ref().filter(|_| moves) {
            self.configure(known.settings.clone());
        }
        now + if moves || !settled { SOON } else { LOOK }
    }

    /// PostgreSQL releases commits only when somebody reports, and who has everything reports once a second. A little WAL is reported at
    /// once.
    fn nudge(&self) {
        if let Some(sql) = self.pg.sql() {
            tokio::spawn(async move {
                if let Err(error) = sql.emit_message(QUICK).await {
                    tracing::debug!("commits may wait a moment longer than they must: {error}");
                }
            });
        }
    }

    /// No member is waited for, by what is in force and by what is asked for.
    fn is_alone(&self, probe: &Probe) -> bool {
        let asked = self.configured.as_ref().map(|known| &known.settings.synchronous_standby_names);
        names::rule(&probe.synchronous_standby_names).is_empty() && asked.is_some_and(String::is_empty)
    }

    fn tell_durability(&mut self, terms: &Terms, seen: &Seen<'_>) {
        if terms.durability == Durability::None {
            self.show_durability(None);
            return;
        }
        let waiting = &mut self.waiting;
        let trouble = waiting.seats.trouble(terms, seen);
        let is_well = waiting.holds && trouble.is_none();
        waiting.lacking = if is_well { None } else { waiting.lacking.or(Some(seen.now)) };
        let mode = terms.durability.as_str();
        let lacks = waiting.lacking.is_some_and(|since| seen.now >= since + PATIENCE);
        waiting.problem = lacks.then(|| {
            let what = match terms.durability {
                Durability::Required => "commits wait for the archive",
                _ => "commits do not wait for every repository of the archive",
            };
            let why = trouble.as_deref().unwrap_or("it is not in force yet");
            format!("{what} (archive.durability: {mode}): {why}")
        });
        let awaited = Awaited {
            shown: ArchiveDurability { mode: mode.to_owned(), holds: waiting.holds, problem: trouble },
            repositories: waiting.seats.repositories().map(str::to_owned).collect(),
        };
        self.show_durability(Some(awaited));
    }

    fn forget_durability(&mut self) {
        let shown = self.waiting.shown.take();
        self.waiting = Waiting::default();
        if shown.is_some() {
            self.archiver.show_durability(None);
        }
    }

    fn show_durability(&mut self, awaited: Option<Awaited>) {
        if self.waiting.shown != awaited {
            self.archiver.show_durability(awaited.clone());
            self.waiting.shown = awaited;
        }
    }
}

/// Connections of tails that PostgreSQL may count now, or once it has loaded what was asked for.
fn marked(probe: &Probe, asked: &[String]) -> BTreeSet<String> {
    let tails = probe.replication.iter().filter(|row| is_tail(&row.application_name));
    let counts = tails
        .filter(|row| row.sync_state.as_deref() != Some("async") || asked.contains(&row.application_name))
        .map(|row| row.application_name.clone());
    counts.collect()
}
