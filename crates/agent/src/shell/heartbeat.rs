//! The loop's part in heartbeats: what is said, whom to listen to, and what must be on disk first.

use std::collections::BTreeMap;

use matriarch_core::MemberName;
use matriarch_core::decide::{Action, Change, ClusterView, Decision, Millis, Purpose, Server, Stance};
use matriarch_core::record::SyncRecord;
use matriarch_dcs::boot_clock_ms;
use matriarch_postgres::files::FileError;

use super::Shell;
use crate::heartbeat::{Said, Target};
use crate::instance::Sighting;
use crate::view::Reading;

/// Added to what is promised, so that no difference between two clocks makes a promise end too early.
const CLOCK_MARGIN: Millis = 200;
/// How long an agent that begins may speak for the one before it.
pub(super) const BEGINNING: Millis = 3_000;

/// A reading whose newest record is on its way to the disk.
pub(super) struct Unsaved {
    reading: Reading,
    /// No change of ours was under way when it was read, nor since.
    pub fresh: bool,
    /// The newest record before it: decisions are made on a view of then.
    pub before: Option<SyncRecord>,
}

/// Where the other members are reached, also those whose record has expired.
#[derive(Default)]
pub(super) struct Neighbours(BTreeMap<MemberName, Place>);

/// Where a member is reached.
#[derive(Clone, PartialEq, Eq)]
struct Place {
    /// `host:port` of its agent, and whether that speaks TLS.
    agent: String,
    tls: bool,
    /// `host:port` of its PostgreSQL.
    postgres: String,
}

impl Neighbours {
    pub fn take_in(&mut self, view: &ClusterView) {
        for (name, record) in &view.members {
            let Some(postgres) = record.address() else { continue };
            let Some((scheme, agent)) = record.api_url.split_once("://") else { continue };
            let (agent, tls) = (agent.split('/').next().unwrap_or(agent), scheme == "https");
            let same =
                |known: &Place| (known.agent.as_str(), known.tls, known.postgres.as_str()) == (agent, tls, postgres);
            if !self.0.get(name).is_some_and(same) {
                self.0.insert(name.clone(), Place { agent: agent.to_owned(), tls, postgres: postgres.to_owned() });
            }
        }
    }
}

impl Shell {
    /// Tells the others where this member stands, before anything is done that the stance must not outlive.
    pub(super) fn speak(&mut self, decision: &Decision, restricted: bool) {
        let leaves = |action: &Action| {
            let purposes = [Purpose::Pledge, Purpose::Takeover, Purpose::Release];
            matches!(action, Action::Commit(Change { purpose, .. }) if purposes.contains(purpose))
        };
        let news = decision.stance != self.heartbeats.stance();
        let leaving = decision.actions.iter().any(leaves);
        let stance = match decision.stance {
            _ if leaving => Stance::Neutral,
            // What was decided on a view that may be old may end a stance, and begins none.
            _ if restricted && news => Stance::Neutral,
            stance => stance,
        };
        if leaving || stance != Stance::Neutral {
            // From here on it speaks for itself.
            self.beginning = None;
        }
        let stance = self.stance_of_before().unwrap_or(stance);
        self.authority = decision.authority;
        self.heartbeats.say(Said {
            stance,
            incarnation: self.incarnation_that_counts(),
            serial: self.lasting.newest().map_or(0, |sync| sync.serial),
            asks: decision.asks_promise,
        });
    }

    /// What the agent before this one said, while this one does not know yet: a leader whose agent begins anew beside a
    /// PostgreSQL that runs on would else be taken for one that has given up. It authorises nothing.
    fn stance_of_before(&self) -> Option<Stance> {
        let begins = self.beginning.is_some_and(|until| boot_clock_ms() < until);
        let newest = self.lasting.newest().filter(|_| begins && !self.stopping && self.pg.server != Server::Stopped)?;
        let led = newest.leader == *self.options.name() && newest.released.is_none();
        led.then_some(Stance::Leads { epoch: newest.epoch })
    }

    /// Whom the store names as the leader of the newest epoch, also while its key has expired.
    pub(super) fn leader_to_hear(&self) -> Option<Target> {
        let sync = self.newest_sync().filter(|sync| sync.released.is_none() && sync.leader != *self.options.name())?;
        let Place { agent, tls, postgres } = self.neighbours.0.get(&sync.leader)?.clone();
        Some(Target { name: sync.leader.clone(), epoch: sync.epoch, agent, tls, postgres })
    }

    /// A look at PostgreSQL; whether it is another than before. A stream that has ended may mean that the leader has.
    pub(super) fn seen(&mut self, sighting: Sighting) -> bool {
        let streams = |server: &Server| matches!(server, Server::Running(running) if running.streaming);
        let (before, first) = (self.pg.observed(), self.pg.is_unseen());
        let view = self.reading.as_ref().map(|reading| &reading.view);
        let awaited = view.is_some_and(|view| self.wish_waits(view, boot_clock_ms()));
        self.pg.seen(sighting);
        if streams(&before) && !streams(&self.pg.server) {
            self.heartbeats.look();
        }
        first || awaited || before != self.pg.observed()
    }

    /// A record that is newer than any seen before is on disk before anything is done about it.
    pub(super) fn keep(&mut self, reading: Reading) {
        let fresh = !self.storage.is_reading() && self.storage.committing.is_none();
        let before = match self.unsaved.take() {
            Some(unsaved) => unsaved.before,
            None => self.lasting.newest().cloned(),
        };
        if let Some(sync) = &reading.view.sync {
            self.lasting.learn(&sync.value);
        }
        self.unsaved = Some(Unsaved { reading, fresh, before });
        self.settle();
    }

    /// Goes on with what waits for the disk, as soon as nothing is on its way there.
    fn settle(&mut self) {
        self.lasting.save(&self.sender);
        if !self.lasting.is_settled() {
            return;
        }
        if let Some(Unsaved { reading, fresh, .. }) = self.unsaved.take() {
            self.take_in(reading, fresh);
        }
    }

    /// With a disk that takes nothing a member goes on all the same, and promises nothing.
    pub(super) fn saved(&mut self, result: Result<(), FileError>) {
        let on_disk = self.lasting.saved(result);
        self.settle();
        if self.lasting.is_settled()
            && let Some((asked, time)) = self.promising.take().filter(|_| on_disk)
            && self.heartbeats.stance() == (Stance::Follows { epoch: asked.epoch })
        {
            self.heartbeats.promise(asked, time);
        }
    }

    /// Tries again what could not be written.
    pub(super) fn save_again(&mut self) {
        if self.lasting.problem().is_some() {
            self.lasting.again();
            self.lasting.save(&self.sender);
        }
    }

    /// A leader whose lease cannot be renewed asks everybody not to take over for a while.
    pub(super) fn promise_if_asked(&mut self, now: Millis) {
        if self.promising.is_some() || self.storage.committing.is_some() {
            return;
        }
        let Some(asked) = self.heartbeats.asked() else { return };
        if self.heartbeats.stance() != (Stance::Follows { epoch: asked.epoch }) {
            return;
        }
        let time = crate::policy::ttl(&self.config);
        tracing::debug!("promising not to take over for {time} ms");
        self.lasting.promise(now.max(boot_clock_ms()), time + CLOCK_MARGIN);
        self.promising = Some((asked, time));
        self.settle();
    }
}
