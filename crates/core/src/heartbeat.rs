//! Whether another member's agent is alive, from what is heard of it and from how its ports answer. Pure: time arrives as
//! a value.
//!
//! ```text
//! Unknown --says that it leads--> Alive --agent's port refuses, PostgreSQL's accepts--> Unknown (the lease decides)
//!    |                              |---both ports refuse-----------------------------> Suspected (Refused)
//!    |                              `---silent for longer than it may be--------------> Suspected (Silent)
//!    `--never heard, both ports refuse for suspect_after------------------------------> Suspected (Refused)
//! Suspected --says that it leads--> Alive
//! any       --another leader, or another epoch--> Unknown
//! ```

use std::collections::VecDeque;

use crate::decide::{Evidence, Millis, Pulse, TICK};

/// How often a member speaks to its leader, in milliseconds: [`GAPS`] of them are just less than the second that
/// `suspect_after` is by default.
pub const BEAT: Millis = 320;

/// How many of the newest gaps between answers tell what is usual: thirteen seconds' worth.
const WINDOW: usize = 40;
/// How many times the largest usual gap a silence must last.
const GAPS: Millis = 3;
/// How many times `suspect_after` a silence may have to last at most.
const LONGEST: Millis = 3;

/// How a port answered an attempt to connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Port {
    /// Somebody listens there.
    Accepts,
    /// The host says that nobody listens there, or cut the attempt off.
    Refuses,
    /// Nothing came back in time, or there was no way to ask.
    Silent,
}

/// What a leader's agent says with each answer, as far as it tells whether it is alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Answer {
    /// The epoch it leads in.
    pub leads: Option<u64>,
    /// How long ago its loop last finished a round: its listener may answer while the loop hangs.
    pub round_age: Millis,
}

/// Judges one leader in one epoch.
#[derive(Clone, Debug)]
pub struct Detector {
    suspect_after: Millis,
    /// The epoch in which the store says that it leads.
    epoch: u64,
    followed: Millis,
    /// When this detector last ran.
    ran: Option<Millis>,
    /// The epoch it last said it leads in, while nothing since says otherwise.
    leads: Option<u64>,
    /// It was heard to lead in this epoch.
    heard: bool,
    /// Silence counts from here.
    quiet_since: Millis,
    /// The answer before, if nothing but waiting came between.
    answered: Option<Millis>,
    gaps: VecDeque<Millis>,
    /// Nobody listens on the agent's port while PostgreSQL lives.
    away: bool,
    suspected: Option<(Millis, Evidence)>,
}

impl Detector {
    /// Begins to listen to the leader of an epoch.
    pub fn new(now: Millis, epoch: u64, suspect_after: Millis) -> Self {
        Detector {
            suspect_after: suspect_after.max(1),
            epoch,
            followed: now,
            ran: None,
            leads: None,
            heard: false,
            quiet_since: now,
            answered: None,
            gaps: VecDeque::with_capacity(WINDOW),
            away: false,
            suspected: None,
        }
    }

    /// A silence that means something lasts at least so long.
    pub fn set_suspect_after(&mut self, suspect_after: Millis) {
        self.suspect_after = suspect_after.max(1);
    }

    /// Time has passed. To be called at least each [`BEAT`]: a call that comes later than that by another one says that this
    /// process itself did not run, and then nobody else's silence counts.
    pub fn tick(&mut self, now: Millis) {
        if self.ran.is_some_and(|ran| now > ran + 2 * BEAT) {
            self.quiet_since = self.quiet_since.max(now);
            self.answered = None;
        }
        self.ran = Some(now);
        if self.deadline().is_some_and(|deadline| now >= deadline) {
            self.suspected = Some((now, Evidence::Silent));
        }
    }

    /// Its agent answered.
    pub fn answer(&mut self, now: Millis, answer: Answer) {
        self.tick(now);
        self.reachable(now);
        if answer.round_age > TICK + self.suspect_after {
            return;
        }
        self.leads = answer.leads.filter(|epoch| *epoch >= self.epoch);
        if self.leads.is_none() {
            self.answered = None;
            return;
        }
        if let Some(before) = self.answered.replace(now) {
            self.gaps.truncate(WINDOW - 1);
            self.gaps.push_front(now - before.min(now));
        }
        self.heard = true;
        self.quiet_since = now;
        self.suspected = None;
    }

    /// Both ports were tried.
    pub fn ports(&mut self, now: Millis, agent: Port, postgres: Port) {
        self.tick(now);
        match (agent, postgres) {
            (Port::Refuses, Port::Refuses) => {
                self.away = false;
                self.answered = None;
                let patient = self.heard || now >= self.followed + self.suspect_after;
                if patient && self.suspected.is_none_or(|(_, evidence)| evidence != Evidence::Refused) {
                    self.suspected = Some((now, Evidence::Refused));
                }
            }
            (Port::Refuses, Port::Accepts) => {
                self.away = true;
                self.answered = None;
            }
            _ => self.reachable(now),
        }
    }

    /// The agent's port is no longer known to refuse: silence begins to count.
    fn reachable(&mut self, now: Millis) {
        if std::mem::take(&mut self.away) {
            self.quiet_since = now;
        }
    }

    /// When silence becomes a suspicion.
    pub fn deadline(&self) -> Option<Millis> {
        let counts = self.heard && !self.away && self.suspected.is_none();
        counts.then(|| self.quiet_since + self.patience())
    }

    /// How long it may be silent: `suspect_after`, and more where answers usually come in larger gaps.
    fn patience(&self) -> Millis {
        let usual = self.gaps.iter().copied().max().unwrap_or(0);
        (usual * GAPS).clamp(self.suspect_after, self.suspect_after * LONGEST)
    }

    /// The verdict.
    pub fn pulse(&self) -> Pulse {
        match (self.suspected, self.leads) {
            (Some((since, evidence)), _) => Pulse::Suspected { since, evidence },
            (None, Some(epoch)) if !self.away => Pulse::Alive { epoch },
            (None, _) => Pulse::Unknown,
        }
    }
}

#[cfg(test)]
mod tests;
