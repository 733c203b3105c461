//! How the loop ends: PostgreSQL has stopped, or another program takes this process over.

use std::time::Duration;

use matriarch_core::decide::{Millis, Server};
use matriarch_dcs::boot_clock_ms;

use super::Shell;
use crate::restored;

/// How long an agent looks for a moment to make way, in milliseconds.
pub(super) const MAKE_WAY: Millis = 60_000;

/// For a restore that is given up.
const GIVEN_UP: Duration = Duration::from_secs(5);

/// Why an agent's loop ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It was asked to stop, and PostgreSQL has stopped.
    Stopped,
    /// It was asked to make way: PostgreSQL and the guard go on, nothing is under way, and the lead is as it was.
    Upgrade,
}

impl Shell {
    /// Another program may take this process over: nothing is half done.
    pub(super) fn makes_way(&mut self) -> bool {
        let Some(limit) = self.upgrading.filter(|_| !self.stopping) else { return false };
        let idle = self.pg.busy().is_none()
            && self.storage.committing.is_none()
            && self.lasting.is_settled()
            && !self.configuring;
        if !idle && boot_clock_ms() > limit {
            tracing::error!("no way was made for another program within {} s: ask again later", MAKE_WAY / 1000);
            self.upgrading = None;
        }
        idle
    }

    pub(super) fn finished(&self) -> bool {
        self.stopping
            && (self.pg.server == Server::Stopped || self.is_guest())
            && self.pg.busy().is_none()
            && self.storage.committing.is_none()
            && !(self.leads() && self.storage.leader.is_some_and(|held| held.until > boot_clock_ms()))
    }

    pub(super) async fn leave(&mut self) {
        self.virtual_ip.leave().await;
        self.guard.quit().await;
        let store = self.storage.handle();
        for held in [self.storage.leader.take(), self.storage.member.take()].into_iter().flatten() {
            let _ = tokio::time::timeout(Duration::from_secs(2), store.revoke(held.id)).await;
        }
        // What is given up ends the PostgreSQL that it runs beside the data.
        self.in_place = super::in_place::Work::default();
        let _ = tokio::time::timeout(GIVEN_UP, restored::turn()).await;
        // Others have nothing to wait for any more.
        self.finish_archive().await;
        tracing::info!("stopped");
    }
}
