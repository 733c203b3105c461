//! Stating that we stopped receiving, and taking that back.
//!
//! ```text
//! streaming -> stream ended -> pledge under way -> pledged -> somebody takes over: a new epoch, all of it is void
//!     ^                              |               |
//!     \---- withdrawal has succeeded <---------------/   the leader is heard again
//! ```
//!
//! A pledge whose answer got lost may still land later. So nobody streams again within an epoch before a compare-and-set
//! on its own pledge has succeeded: whatever was sent before it fails from then on. The withdrawn record stays for that.

use crate::decide::turn::Turn;
use crate::decide::{ClusterView, Doubt, Purpose, Running, Server, Why};
use crate::lsn::{Lsn, Timeline};
use crate::record::{Pledge, SyncRecord, Versioned, key};
use crate::transaction::Txn;

impl Turn<'_> {
    /// Brings what is known of our own pledges up to date with what the store shows.
    pub(super) fn recall_pledges(&mut self, view: &ClusterView, sync: &SyncRecord) {
        let epoch = sync.epoch;
        let own = view.pledges.get(&self.policy.me).filter(|own| own.value.epoch == epoch);
        let stands = own.is_some_and(|own| !own.value.withdrawn);
        let known = &mut self.memory.pledging;
        known.doubt = match (known.epoch, known.doubt) {
            // The first look, so an earlier process may have sent one.
            (None, _) => Doubt::Unknown,
            // What is under way compares the epoch before. An earlier process saw no epoch that our first look did not show.
            (Some(seen), _) if seen < epoch => Doubt::Clear,
            (Some(seen), _) if seen > epoch => Doubt::Unknown,
            (_, Doubt::Sent(compared)) => {
                let moved = own.is_some_and(|own| own.value.withdrawn && Some(own.revision) != compared);
                if moved { Doubt::Clear } else { Doubt::Sent(compared) }
            }
            (_, doubt) => doubt,
        };
        known.epoch = Some(epoch);
        // Nobody who has sent a pledge has its PostgreSQL stream from that leader, nor do those who came after it.
        let streams = self.obs.running().is_some_and(|running| {
            running.in_recovery && running.upstream.as_ref() == Some(&sync.leader) && sync.leader != self.policy.me
        });
        if known.doubt == Doubt::Unknown && streams {
            known.doubt = Doubt::Clear;
        }
        if known.doubt == Doubt::Clear && stands {
            known.doubt = Doubt::Unknown;
        }
    }

    /// No pledge of ours stands or can be under way against this epoch.
    pub(super) fn clear_of_pledges(&self) -> bool {
        self.memory.pledging.doubt == Doubt::Clear
    }

    /// What has to be done before we may stream in this epoch (again), if anything.
    pub(super) fn withdraw(&mut self, view: &ClusterView, sync: &Versioned<SyncRecord>) -> Option<Why> {
        if self.clear_of_pledges() {
            return None;
        }
        let position = match &self.obs.server {
            Server::Running(running) => (running.timeline, running.lsn),
            _ => self.obs.facts().map_or((0, Lsn::ZERO), |facts| (facts.timeline, facts.checkpoint)),
        };
        let text = "a pledge of ours may stand or be under way: withdrawing it before streaming";
        Some(self.write_pledge(view, sync, position, true, Why::new("pledge_withdraw", text)))
    }

    /// In a store that went back a pledge of ours may stand that we have withdrawn since, and have streamed beyond. Who has
    /// not seen that would count it. Nothing but the pledge is written: the records are not ours to write anew.
    pub(super) fn void_old_pledge(&mut self, view: &ClusterView, newest: &SyncRecord) {
        let Some(own) = view.pledges.get(&self.policy.me).filter(|own| !own.value.withdrawn) else { return };
        let holds = matches!(self.memory.pledging.doubt, Doubt::Sent(_))
            && self.obs.running().is_some_and(|running| self.pledge_stands(view, newest, running));
        if !holds {
            let at = key::pledge(&self.policy.me);
            let void = Pledge { withdrawn: true, ..own.value.clone() };
            self.commit(Purpose::Withdraw, Txn::new().unchanged(&at, own.revision).put(&at, &void));
        }
    }

    /// Our pledge as it stands in the store, if it says what it would say now.
    pub(super) fn pledge_stands(&self, view: &ClusterView, sync: &SyncRecord, running: &Running) -> bool {
        view.pledges.get(&self.policy.me).is_some_and(|own| {
            let pledge = &own.value;
            !pledge.withdrawn
                && pledge.epoch == sync.epoch
                && Some(&pledge.incarnation) == self.obs.incarnation()
                && (pledge.timeline, pledge.lsn) == (running.timeline, running.lsn)
        })
    }

    /// States that we stopped receiving in this epoch, at this position.
    pub(super) fn pledge(
        &mut self,
        view: &ClusterView,
        sync: &Versioned<SyncRecord>,
        running: &Running,
        why: Why,
    ) -> Why {
        self.write_pledge(view, sync, (running.timeline, running.lsn), false, why)
    }

    fn write_pledge(
        &mut self,
        view: &ClusterView,
        sync: &Versioned<SyncRecord>,
        (timeline, lsn): (Timeline, Lsn),
        withdrawn: bool,
        why: Why,
    ) -> Why {
        let Some(incarnation) = self.obs.incarnation().cloned() else {
            return Why::new("no_incarnation", "waiting for the data directory to get its identity");
        };
        let own = key::pledge(&self.policy.me);
        let compared = view.pledges.get(&self.policy.me).map(|pledge| pledge.revision);
        let pledge = Pledge { epoch: sync.value.epoch, incarnation, timeline, lsn, withdrawn };
        // Writing the rule anew keeps a leader that is being fenced from changing it behind the pledgers' backs. Its serial
        // number tells everybody who has seen it of a store that goes back to before: to a pledge withdrawn since.
        let txn = Txn::new().as_seen(&own, compared).put(&own, &pledge);
        // Routers hold for the very revision that announces a switchover: writing it anew would let new work in meanwhile.
        let txn = if withdrawn && sync.value.handover {
            txn.unchanged(key::SYNC, sync.revision)
        } else {
            txn.rewrite_sync(sync, sync.value.clone())
        };
        self.memory.pledging.doubt = Doubt::Sent(compared);
        self.commit(if withdrawn { Purpose::Withdraw } else { Purpose::Pledge }, txn);
        why
    }
}
