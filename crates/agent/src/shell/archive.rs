//! What the archive's worker has to go by, from what the loop knows.

use std::time::Duration;

use matriarch_archive::configured::Identity;
use matriarch_core::decide::{Job, Server};
use matriarch_core::{Lsn, Timeline};

use super::Shell;
use crate::archive::{Charge, Standing};

/// The slot that keeps WAL on every member until it is archived.
pub(super) const SLOT: &str = "matriarch_archive";
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

    fn archive_standing(&self) -> Standing {
        let ends = matches!(self.pg.busy(), Some(Job::StopFast | Job::StopImmediate | Job::Restart));
        let runs = !matches!(self.pg.server, Server::Stopped);
        match &self.pg.probe {
            _ if runs && (ends || self.stopping) => Standing::Stopping,
            Some(probe) if !probe.in_recovery => Standing::Primary(probe.timeline),
            _ => Standing::Other,
        }
    }

    /// Up to where the slot may let go of WAL; the leader's word counts for the others.
    pub(super) fn archived_to(&self) -> Option<Lsn> {
        let probe = self.pg.probe.as_ref()?;
        if !probe.in_recovery {
            return self.archiver.safe();
        }
        let told: Timeline = self.leader_timeline()?;
        let position = self.reading.as_ref()?.slots.get(SLOT).copied().map(Lsn)?;
        // On another timeline positions mean something else.
        (told == probe.timeline).then_some(position)
    }

    fn leader_timeline(&self) -> Option<Timeline> {
        self.reading.as_ref()?.view.members.get(self.leader_name()?)?.timeline
    }

    pub(super) async fn finish_archive(&self) {
        self.archiver.finish(LAST_WAL).await;
    }
}
