//! One machine of the cluster: its disk, its PostgreSQL, its agent and its guard.

use std::collections::BTreeMap;
use std::rc::Rc;

use matriarch_core::MemberName;
use matriarch_core::decide::{Ailment, Millis, Running, Server, Settings};
use matriarch_core::record::SyncRecord;
use matriarch_core::rule::application_name;

use crate::agent::{Agent, Snapshot};
use crate::clock::Clock;
use crate::disk::Disk;
use crate::event::Event;
use crate::server::{Pg, Process};
use crate::store::View;
use crate::wal::Wal;
use crate::watchdog::Watchdog;

/// A member's place in the world's list.
pub type NodeId = usize;

/// One member.
#[derive(Debug)]
pub struct Node {
    /// Its name.
    pub name: MemberName,
    /// Its data.
    pub disk: Disk,
    /// Settings in the include file.
    pub settings: Settings,
    /// Its server.
    pub pg: Pg,
    /// Its agent.
    pub agent: Agent,
    /// When the guard kills PostgreSQL.
    pub deadline: Option<Millis>,
    /// The lease has ended while the cluster was paused, as far as this machine knows, so nothing fences it.
    pub unfenced: bool,
    /// The machine runs.
    pub powered: bool,
    /// Its boot clock.
    pub clock: Clock,
    /// The whole machine stands still.
    pub frozen: bool,
    /// Since when it did so the last time.
    pub frozen_at: Millis,
    /// When it last went on after standing still.
    pub thawed: Option<Millis>,
    /// The newest such time after which its guard has held PostgreSQL, and until when it does that at most.
    pub held_after: Option<(Millis, Millis)>,
    /// Only the agent stands still.
    pub agent_frozen: bool,
    /// When it last went on after that.
    pub agent_thawed: Millis,
    /// What happens once it moves again.
    pub deferred: Vec<Event>,
    /// It cannot reach the store.
    pub cut_off: bool,
    /// It reaches the store, and hears nothing of it.
    pub store_unheard: bool,
    /// Its volume fails every write.
    pub failing: bool,
    /// How long a flush takes at least.
    pub slow_disk: Option<Millis>,
    /// How long it takes about until settings are written.
    pub slow_settings: Option<Millis>,
    /// PostgreSQL neither starts nor ends a promotion.
    pub holds_starts: bool,
    /// The job whose start of PostgreSQL is held up before there is a process.
    pub held_start: Option<u64>,
    /// The guard has acted, or would have, and was neither armed again nor let go since.
    pub fired: bool,
    /// Its watchdog.
    pub watchdog: Watchdog,
    /// What its agent knew of the store when it last asked for the lead.
    pub claimed_on: Option<Rc<View>>,
    /// What is wrong with its PostgreSQL or with the volume below.
    pub ailment: Option<Ailment>,
    /// The newest epoch in which it was made leader.
    pub led_epoch: u64,
    /// Never to be leader.
    pub nofailover: bool,
    /// The newest `sync` record it ever saw; on its disk.
    pub newest: Option<SyncRecord>,
    /// It promised a leader under the empty rule not to take over before then; on its disk.
    pub promised_until: Millis,
}

impl Node {
    /// A machine with nothing on it.
    pub fn new(name: MemberName) -> Node {
        Node {
            name,
            disk: Disk::Missing,
            settings: Settings::default(),
            pg: Pg::new(),
            agent: Agent::default(),
            deadline: None,
            unfenced: false,
            powered: true,
            clock: Clock::default(),
            frozen: false,
            frozen_at: 0,
            thawed: None,
            held_after: None,
            agent_frozen: false,
            agent_thawed: 0,
            deferred: Vec::new(),
            cut_off: false,
            store_unheard: false,
            failing: false,
            slow_disk: None,
            slow_settings: None,
            holds_starts: false,
            held_start: None,
            fired: false,
            watchdog: Watchdog::default(),
            claimed_on: None,
            ailment: None,
            led_epoch: 0,
            nofailover: false,
            newest: None,
            promised_until: 0,
        }
    }

    /// Its volume swallows writes.
    pub fn stalls(&self) -> bool {
        matches!(self.ailment, Some(Ailment::Stalled { .. }))
    }

    /// Its startup process stands still: it neither replays nor sees new settings.
    pub fn replay_is_still(&self) -> bool {
        matches!(self.ailment, Some(Ailment::ReplayStill { .. }))
    }

    /// Its volume takes no more.
    pub fn is_full(&self) -> bool {
        matches!(self.ailment, Some(Ailment::Full { .. }))
    }

    /// It runs and is not frozen.
    pub fn moves(&self) -> bool {
        self.powered && !self.frozen
    }

    /// What it calls itself when it streams.
    pub fn app(&self) -> Option<String> {
        match self.pg.by_others {
            true => Some(self.name.to_string()),
            false => Some(application_name(&self.name, self.disk.dir()?.incarnation.as_ref()?)),
        }
    }

    /// Its log, when it has data.
    pub fn wal(&self) -> Option<&Wal> {
        self.disk.dir().map(|dir| &dir.wal)
    }

    /// What the agent sees when it looks now.
    pub fn look(&self, now: Millis) -> Snapshot {
        Snapshot {
            begun: now,
            server: self.server(),
            data: self.disk.observe(),
            busy: self.agent.job.as_ref().map(|(_, job)| job.clone()),
            finished: self.agent.finished.clone(),
        }
    }

    fn server(&self) -> Server {
        let recovery = match self.pg.process {
            Process::Stopped => return Server::Stopped,
            Process::Starting { .. } | Process::Stopping { .. } => return Server::Unready,
            Process::Running { recovery } => recovery,
        };
        // A server whose files were deleted goes on for a while with those it has open.
        let empty = Wal::default();
        let wal = self.wal().or(self.pg.open_files.as_ref()).unwrap_or(&empty);
        let receiver = self.pg.receiver.as_ref();
        let replicas =
            self.pg.senders.iter().map(|(app, sender)| (app.clone(), wal.end(sender.flushed.min(wal.len()))));
        Server::Running(Running {
            in_recovery: recovery,
            timeline: wal.timeline(if recovery { wal.flushed } else { wal.len() }),
            lsn: wal.end(if recovery { wal.flushed } else { wal.len() }),
            receiving: receiver.is_some(),
            streaming: receiver.is_some_and(|receiver| !receiver.ending),
            caught_up: self.pg.replayed >= wal.len(),
            upstream: self.pg.shown.clone().filter(|_| !self.pg.by_others),
            synchronous_standby_names: self.pg.loaded.synchronous_standby_names.clone(),
            replicas: if recovery { BTreeMap::new() } else { replicas.collect() },
        })
    }
}
