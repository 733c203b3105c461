//! What the archive's worker has to go by, from what the loop knows.

use std::time::Duration;

use matriarch_archive::configured::Identity;
use matriarch_core::decide::{Job, Server};
use matriarch_core::{Lsn, Timeline};

use super::Shell;
use crate::archive::{Charge, Standing};

/// The slot that keeps WAL on every member until it is archived.
pub(super) const SLOT: &str = "matriarch_archive";

/// The slot as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ArchiveSlot {
    /// It is there, and may let go of the WAL before this position.
    Kept(Option<Lsn>),
    /// It is to go.
    Useless,
    /// It stays as it is.
    Unknown,
}

/// How long an agent that ends waits for the WAL that its PostgreSQL has left.
const LAST_WAL: Duration = Duration::from_secs(5);

impl Shell {
    pub(super) fn keep_archive(&mut self) {
        let section = self.archiver.section(self.config.archive.as_ref());
        let probe = self.pg.probe.as_ref();
        let flushed = probe.filter(|probe| !probe.in_recovery).and_then(|probe| probe.flush_lsn);
        let charge = Charge {
            section,
            identity: self.archive_identity(),
            standing: self.archive_standing(),
            archives: probe.is_some_and(|probe| probe.archives),
            line: self.pg.line.clone(),
            votes: self.tail_votes(),
        };
        self.archiver.tell(charge, flushed);
    }

    fn archive_identity(&self) -> Option<Identity> {
        let control = self.pg.control.as_ref()?;
        Some(Identity {
            system_identifier: control.system_identifier,
            major: self.pg.instance().binaries.version().major,
            segment_size: control.wal_segment_size,
        })
    }

    pub(super) fn archive_standing(&self) -> Standing {
        let ends = matches!(self.pg.busy(), Some(Job::StopFast | Job::StopImmediate | Job::Restart));
        let runs = !matches!(self.pg.server, Server::Stopped);
        match &self.pg.probe {
            _ if runs && (ends || self.stopping) => Standing::Stopping,
            Some(probe) if !probe.in_recovery => Standing::Primary(probe.timeline),
            _ => Standing::Other,
        }
    }

    /// What becomes of the slot. On a replica the leader's word counts.
    pub(super) fn archive_slot(&self) -> ArchiveSlot {
        let Some(probe) = &self.pg.probe else { return ArchiveSlot::Unknown };
        if self.config.archive.is_none() {
            return ArchiveSlot::Useless;
        }
        if !probe.in_recovery {
            // Before the restart it would keep WAL that nobody archives.
            return if probe.archives { ArchiveSlot::Kept(self.archiver.safe()) } else { ArchiveSlot::Useless };
        }
        let told = self.reading.as_ref().and_then(|reading| reading.slots.get(SLOT).copied().map(Lsn));
        // On another timeline positions mean something else.
        let position = told.filter(|_| self.leader_timeline() == Some(probe.timeline));
        if told.is_some() { ArchiveSlot::Kept(position) } else { ArchiveSlot::Unknown }
    }

    fn leader_timeline(&self) -> Option<Timeline> {
        self.reading.as_ref()?.view.members.get(self.leader_name()?)?.timeline
    }

    pub(super) async fn finish_archive(&self) {
        self.archiver.finish(LAST_WAL).await;
    }
}
