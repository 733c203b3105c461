//! A switchover that is asked for is judged by a look at PostgreSQL that began afterwards: the one before may be a second old,
//! and show no stream of a replica that is there again.

use matriarch_core::decide::{ClusterView, Millis, Server};
use matriarch_dcs::boot_clock_ms;

use super::Shell;

/// A PostgreSQL that has not answered by then is judged by what is known.
const PATIENCE: Millis = 2_000;

/// What was last asked for.
#[derive(Clone, Copy)]
pub(super) struct Wish {
    revision: u64,
    /// When it was first seen.
    since: Millis,
}

impl Shell {
    /// Looks at PostgreSQL for each wish that is new.
    pub(super) fn notice_wish(&mut self) {
        let view = self.reading.as_ref().map(|reading| &reading.view);
        let asked = view.and_then(|view| view.failover.as_ref().filter(|_| view.failover_due));
        let Some(revision) = asked.map(|asked| asked.revision) else {
            self.wish = None;
            return;
        };
        if self.wish.is_none_or(|wish| wish.revision != revision) {
            self.wish = Some(Wish { revision, since: boot_clock_ms() });
            self.pg.look();
        }
    }

    /// Whether the wish that this view shows has to wait for that look; not once routers hold for it.
    pub(super) fn wish_waits(&self, view: &ClusterView, now: Millis) -> bool {
        let leads = matches!(&self.pg.server, Server::Running(running) if !running.in_recovery);
        let announced = view.sync.as_ref().is_some_and(|sync| sync.value.handover);
        let unseen = |wish: Wish| self.pg.looked < wish.since && now < wish.since + PATIENCE;
        leads && !announced && self.wish.is_some_and(unseen)
    }
}
