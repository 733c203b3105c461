//! Is PostgreSQL well while it runs? Volumes that take no writes or have no room, a postmaster that lets nobody in.

use std::time::Duration;

use matriarch_core::Lsn;
use matriarch_core::decide::{Ailment, Millis, Server};
use matriarch_postgres::greeting::greet;
use matriarch_postgres::volumes::{Health, VolumeProbe};

use super::Shell;
use crate::event::Event;

/// How often a primary's volumes are written to, and a standby's, in milliseconds: at the first look after that.
const WRITE_EVERY: (Millis, Millis) = (1_200, 4_800);
/// How often the postmaster is asked whether it lets anybody in; each time it starts a process.
const GREET_EVERY: Millis = 3_000;
/// A postmaster that owes an answer for so long is asked again.
const GREET_LIMIT: Duration = Duration::from_secs(60);
/// Below this there is not even room for one more WAL segment of the usual size.
const LEAST_ROOM: u64 = 16 << 20;

/// A standby that has replayed nothing for so long, although there is something, stands still.
const REPLAY_LIMIT: Millis = 3_000;

/// WAL that nobody has committed yet is flushed, and sent, by whole pages, so a record may have come in part. One that is larger
/// than this, and stays so for long, is improbable.
const PAGE: u64 = 8 << 10;
const PART_OF_A_RECORD: u64 = 64 << 10;

/// What was asked of PostgreSQL's surroundings, and what they owe.
pub(super) struct Checks {
    volumes: VolumeProbe,
    write_due: Millis,
    greet_due: Millis,
    /// Since when the postmaster owes an answer.
    greeting: Option<Millis>,
    /// Since when writes are refused for another reason than missing room.
    refused: Option<Millis>,
    /// Since when somebody waits for WAL to be flushed, and up to where it was flushed then.
    unflushed: Option<(Millis, Lsn)>,
    /// Since when a standby has received WAL and replayed none, and up to where it had replayed.
    unreplayed: Option<(Millis, Lsn)>,
}

impl Checks {
    pub fn new(volumes: VolumeProbe) -> Checks {
        Checks { volumes, write_due: 0, greet_due: 0, greeting: None, refused: None, unflushed: None, unreplayed: None }
    }
}

impl Shell {
    /// Asks what is due. Nothing here has a wake-up of its own.
    pub(super) fn check_health(&mut self, now: Millis) {
        if self.pg.server == Server::Stopped {
            self.checks.greeting = None;
            return;
        }
        let checks = &mut self.checks;
        if now >= checks.write_due {
            checks.write_due = now + if self.pg.is_primary() { WRITE_EVERY.0 } else { WRITE_EVERY.1 };
            checks.volumes.ask();
        }
        let refuses = matches!(checks.volumes.health(), Health::Refused { full: false, .. });
        checks.refused = checks.refused.or(Some(now)).filter(|_| refuses);
        self.watch_flushes(now);
        self.watch_replay(now);
        let checks = &mut self.checks;
        let answers = matches!(self.pg.server, Server::Running(_));
        if answers && checks.greeting.is_none() && now >= checks.greet_due {
            checks.greet_due = now + GREET_EVERY;
            checks.greeting = Some(now);
            let (instance, events) = (self.pg.instance().clone(), self.sender.clone());
            tokio::spawn(async move {
                let _ = tokio::time::timeout(GREET_LIMIT, greet(&instance)).await;
                let _ = events.send(Event::Greeted);
            });
        }
    }

    /// A flush that somebody waits for gets on. WAL that nobody waits for says nothing: a transaction may leave its own lying until
    /// it commits.
    fn watch_flushes(&mut self, now: Millis) {
        let awaited = self.pg.probe.as_ref().filter(|probe| probe.flush_awaited);
        let waiting = awaited.and_then(|probe| probe.flush_lsn);
        self.checks.unflushed = waiting.map(|flush| match self.checks.unflushed {
            Some((since, before)) if before == flush => (since, flush),
            _ => (now, flush),
        });
    }

    /// A standby replays what it receives within moments, unless it is told to be late.
    fn watch_replay(&mut self, now: Millis) {
        let parameters = crate::policy::parameters(&self.config);
        let late = parameters.get("recovery_min_apply_delay").is_some_and(|delay| delay.trim() != "0");
        let standby = self.pg.probe.as_ref().filter(|probe| probe.in_recovery && !late);
        let positions = standby.and_then(|probe| Some((probe.receive_lsn?, probe.replay_lsn?)));
        let is_part = |received: Lsn, replayed: Lsn| {
            received.0.is_multiple_of(PAGE) && received.0 < replayed.0 + PART_OF_A_RECORD
        };
        let behind = positions.filter(|(received, replayed)| received > replayed && !is_part(*received, *replayed));
        let waiting = behind.map(|(_, replayed)| replayed);
        self.checks.unreplayed = waiting.map(|replayed| match self.checks.unreplayed {
            Some((since, before)) if before == replayed => (since, replayed),
            _ => (now, replayed),
        });
    }

    /// The postmaster has answered, or is not worth waiting for any more.
    pub(super) fn greeted(&mut self) {
        self.checks.greeting = None;
    }

    /// What is wrong with a PostgreSQL that runs, the worst first. Time in which this process did not run itself says nothing of
    /// others, so what they owed before counts from when it ran again.
    pub(super) fn ailment(&self) -> Option<Ailment> {
        let mut ailment = self.seen_ailment()?;
        if let Ailment::Stalled { since, .. } | Ailment::Deaf { since } = &mut ailment {
            *since = (*since).max(self.waking.woke.unwrap_or(0));
        }
        Some(ailment)
    }

    fn seen_ailment(&self) -> Option<Ailment> {
        if self.pg.server == Server::Stopped {
            return None;
        }
        let health = self.checks.volumes.health();
        let stalled = match (&health, self.checks.refused) {
            (Health::Waiting { since, dir }, _) => {
                Some(Ailment::Stalled { since: *since, place: dir.display().to_string() })
            }
            (Health::Refused { full: false, dir, error }, Some(since)) => {
                Some(Ailment::Stalled { since, place: format!("{} ({error})", dir.display()) })
            }
            _ => self
                .checks
                .unflushed
                .map(|(since, lsn)| Ailment::Stalled { since, place: format!("its WAL after {lsn}") }),
        };
        stalled
            .or_else(|| self.checks.greeting.map(|since| Ailment::Deaf { since }))
            .or_else(|| self.no_room(&health))
            .or_else(|| self.still_replay())
    }

    fn still_replay(&self) -> Option<Ailment> {
        let (since, _) = self.checks.unreplayed?;
        (matriarch_dcs::boot_clock_ms() >= since + REPLAY_LIMIT).then_some(Ailment::ReplayStill { since })
    }

    fn no_room(&self, health: &Health) -> Option<Ailment> {
        let (place, free) = match health {
            Health::Refused { full: true, dir, .. } => (dir.clone(), 0),
            Health::Writable { free } if *free < LEAST_ROOM => (self.pg.instance().data_dir.clone(), *free),
            _ => return None,
        };
        Some(Ailment::Full { place: place.display().to_string(), free })
    }
}
