//! What is looked after beside the decision: replication slots and certificates.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use matriarch_api::CertificateRow;
use matriarch_config::Slot;
use matriarch_core::MemberName;
use matriarch_core::decide::{Millis, Server};
use matriarch_core::record::NOSTREAM;
use matriarch_dcs::boot_clock_ms;
use matriarch_postgres::Probe;
use tokio::task::JoinHandle;

use super::Shell;
use super::archive::{ArchiveSlot, SLOT};
use crate::slots::{self, Keeper, Step};
use crate::{certificates, postgres_log};

/// What upkeep remembers.
#[derive(Default)]
pub struct Upkeep {
    keeper: Keeper,
    task: Option<JoinHandle<()>>,
    /// Steps tried since the last time that everything was due.
    tried: Vec<Step>,
    due: Millis,
    /// The certificates as last read.
    certificates: Arc<Mutex<Vec<CertificateRow>>>,
    files_due: Millis,
}

/// Files are looked at again after this time: certificates end in days, a log grows in hours.
const FILES: Millis = 60_000;
/// A certificate that has ended is about to be replaced.
const REPLACED: Millis = 5_000;
/// How long a replica may look for its stream before that is a problem.
const STREAM_PATIENCE: Millis = 3_000;

impl Shell {
    /// Reads the certificates again, and looks at the size of PostgreSQL's log, when it is time.
    pub(super) fn keep_certificates_and_log(&mut self, now: Millis) {
        if now < self.upkeep.files_due {
            return;
        }
        self.upkeep.files_due = match certificates::problem(&self.certificates()) {
            Some(_) => now + REPLACED,
            None => now + FILES.max(self.config.loop_wait.as_millis() as Millis),
        };
        let (place, local) = (self.upkeep.certificates.clone(), self.local.clone());
        let api_tls = self.options.api_tls.clone();
        let log = (!self.options.stream_postgres_log).then(|| self.options.postgres_log.clone());
        tokio::task::spawn_blocking(move || {
            if let Some(local) = local {
                let rows = certificates::certificates(&local);
                *place.lock().unwrap_or_else(PoisonError::into_inner) = rows;
            }
            if let Some(tls) = api_tls {
                tls.look();
            }
            if let Some(log) = log {
                postgres_log::rotate(&log);
            }
        });
    }

    /// Has them read at once, for whoever has just renewed them and says so.
    pub(super) fn certificates_are_due(&mut self) {
        self.upkeep.files_due = 0;
    }

    /// The certificates as last read.
    pub(super) fn certificates(&self) -> Vec<CertificateRow> {
        self.upkeep.certificates.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What is wrong beside the decision, for the member record: settings and rules that were refused, a stream that
    /// is refused, certificates that have ended.
    pub(super) fn other_problem(&self) -> Option<String> {
        // While the lead moves every stream breaks for a moment.
        let broken = self.memory.not_streaming_since.is_some_and(|since| boot_clock_ms() >= since + STREAM_PATIENCE);
        let stream = || self.pg.stream_problem.clone().filter(|_| broken);
        let address = || self.virtual_ip.problem();
        let watchdog = || {
            let failure = self.lacks_watchdog()?;
            Some(format!("the watchdog {} does not work: {failure}", self.options.watchdog.device.display()))
        };
        let archive = || self.pg.probe.as_ref().filter(|_| self.options.from_archive()).and_then(no_archive);
        let archiver = || self.archiver.problem();
        let api = || Some(format!("REST API: {}", self.options.api_tls.as_ref()?.problem()?));
        self.pg
            .files
            .problem()
            .or_else(|| self.stranger_problem())
            .or_else(watchdog)
            .or_else(address)
            .or_else(archive)
            .or_else(archiver)
            .or_else(|| self.durability_problem())
            .or_else(|| self.chores_problem())
            .or_else(|| self.in_place_problem())
            .or_else(|| self.founding_problem())
            .or_else(stream)
            .or_else(|| self.pooler_role_problem())
            .or_else(api)
            .or_else(|| certificates::problem(&self.certificates()))
    }

    /// New slots and slots to drop are seen to at once, everything else every `loop_wait`.
    pub(super) fn keep_slots(&mut self, now: Millis) {
        let waits = self.pg.busy().is_some() || self.past.is_shown();
        if waits || self.upkeep.task.as_ref().is_some_and(|task| !task.is_finished()) {
            return;
        }
        let archive_slot = self.archive_slot();
        let (Some(reading), Some(probe), Some(sql)) = (&self.reading, &self.pg.probe, self.pg.sql()) else { return };
        let settled = match &self.pg.server {
            Server::Running(running) if running.in_recovery => running.streaming || self.options.from_archive(),
            Server::Running(_) => self.leads(),
            _ => false,
        };
        if !settled {
            return;
        }
        let seen = (probe, &reading.slots);
        let mut wanted = self.upkeep.keeper.wanted(now, self.options.name(), &self.config, &reading.view, seen);
        match archive_slot {
            ArchiveSlot::Kept(position) => drop(wanted.members.insert(SLOT.to_owned(), position)),
            ArchiveSlot::Useless => drop(wanted.abandoned.insert(SLOT.to_owned())),
            ArchiveSlot::Unknown => {}
        }
        let mut steps = slots::plan(&wanted, &probe.slots);
        if now >= self.upkeep.due {
            self.upkeep.due = now + self.config.loop_wait.as_millis() as Millis;
            self.upkeep.tried.clear();
        } else {
            let tried = &self.upkeep.tried;
            steps.retain(|step| !matches!(step, Step::Advance(..)) && !tried.contains(step));
        }
        if steps.is_empty() {
            return;
        }
        self.upkeep.tried.extend(steps.iter().cloned());
        let (instance, timeline) = (self.pg.instance().clone(), probe.timeline);
        self.upkeep.task = Some(tokio::spawn(async move { slots::perform(steps, &sql, &instance, timeline).await }));
    }

    /// The physical slots that a primary needs before its first client: those of every other member, and the
    /// configuration's.
    pub(super) fn first_slots(&self) -> Vec<String> {
        let mut names: Vec<String> = self
            .config
            .slots
            .iter()
            .filter(|(_, slot)| **slot == Slot::Physical)
            .map(|(name, _)| name.clone())
            .collect();
        let archives = self.config.archive.is_some() && self.pg.probe.as_ref().is_some_and(|probe| probe.archives);
        names.extend(archives.then(|| SLOT.to_owned()));
        if let Some(reading) = self.reading.as_ref().filter(|_| self.config.member_slots()) {
            let mut members: std::collections::BTreeSet<&MemberName> = reading.view.members.keys().collect();
            members.extend(reading.view.sync.iter().flat_map(|sync| &sync.value.membership));
            members.retain(|name| *name != self.options.name() && !self.upkeep.keeper.is_abandoned(name));
            members.retain(|name| !reading.view.members.get(*name).is_some_and(|member| member.tag(NOSTREAM)));
            names.extend(members.into_iter().map(MemberName::slot));
        }
        names
    }

    /// Where the configuration's slots stand here, for the replicas.
    pub(super) fn slot_positions(&self) -> BTreeMap<String, u64> {
        let Some(probe) = &self.pg.probe else { return BTreeMap::new() };
        let mut positions = slots::positions(&self.config, probe);
        if let ArchiveSlot::Kept(archived) = self.archive_slot() {
            // While that is not known, the others keep what this one keeps.
            let own = probe.slots.iter().find(|slot| slot.name == SLOT).and_then(|slot| slot.restart_lsn);
            positions.extend(archived.or(own).map(|lsn| (SLOT.to_owned(), lsn.0)));
        }
        positions
    }
}

/// A replica that is not to stream needs another source of WAL.
fn no_archive(probe: &Probe) -> Option<String> {
    (probe.in_recovery && !probe.restores).then(|| {
        "tagged nostream and without a restore_command: no WAL reaches this member; set restore_command under \
         postgresql.parameters, or remove the tag"
            .to_owned()
    })
}
