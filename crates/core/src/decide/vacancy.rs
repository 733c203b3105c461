//! What an election is about: nobody leads, or whoever does is held to be gone.

use std::fmt;

use crate::decide::turn::Turn;
use crate::decide::{Evidence, LeaderKey, Millis, Pulse, Server, Stance, Why};
use crate::record::SyncRecord;

/// How long a living leader has to take its expired key again, in milliseconds.
const RETURN: Millis = 3_000;

/// The lead that is to be taken.
#[derive(Clone, Copy)]
pub(super) struct Vacancy<'a> {
    /// The key of the leader that is suspected; none when nobody leads.
    pub suspect: Option<(&'a LeaderKey, Evidence)>,
    /// Since when.
    pub since: Millis,
}

impl fmt::Display for Vacancy<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.suspect {
            None => f.write_str("nobody leads"),
            Some((leader, Evidence::Refused)) => write!(f, "{} refuses connections", leader.name),
            Some((leader, Evidence::Silent)) => write!(f, "{} is silent", leader.name),
        }
    }
}

impl<'a> Turn<'a> {
    /// The lead of a leader that is held to be gone, if that is a reason to act. Only under a rule: there the fence makes
    /// sure that it can acknowledge nothing any more, whatever became of it.
    pub(super) fn suspected(&self, sync: &SyncRecord, leader: &'a LeaderKey) -> Option<Vacancy<'a>> {
        let Pulse::Suspected { since, evidence } = self.obs.pulse else { return None };
        // A leader that still has its key by then has renewed its lease meanwhile, and others hear it: we follow it again.
        let stale = self.obs.now >= since.saturating_add(2 * self.policy.ttl);
        let idle = match &self.obs.server {
            Server::Running(running) => running.in_recovery,
            Server::Stopped => self.obs.busy.is_none() && self.obs.facts().is_some_and(|facts| facts.standby),
            Server::Unready => false,
        };
        let acts = !self.policy.paused && !self.obs.stopping && !self.obs.reinit && !self.runs_without_data();
        (acts && idle && !stale && !sync.rule.is_empty())
            .then_some(Vacancy { suspect: Some((leader, evidence)), since: since.min(self.obs.now) })
    }

    /// The leader of this epoch is heard though its key has expired: the store was away, and it will take the key again.
    pub(super) fn leader_returns(&mut self, sync: &SyncRecord, since: Millis) -> Option<Why> {
        let alive = self.obs.pulse == Pulse::Alive { epoch: sync.epoch };
        let until = if alive { since + RETURN } else { self.wakes_until()? };
        let another = sync.leader != self.policy.me && sync.released.is_none();
        if !another || self.policy.paused || self.obs.now >= until {
            return None;
        }
        self.wake_at(until);
        if !alive {
            let text = format!(
                "nobody leads, and this host stood still: giving {} a moment to take its key again",
                sync.leader
            );
            return Some(Why::new("leader_may_return", text));
        }
        // Under the empty rule an expired lease is all it takes: nobody may lean on us then.
        if self.clear_of_pledges() && !sync.rule.is_empty() {
            self.stance = Stance::Follows { epoch: sync.epoch };
        }
        let text = format!("nobody leads: {} is alive, giving it a moment to take its key again", sync.leader);
        Some(Why::new("leader_returns", text))
    }
}
