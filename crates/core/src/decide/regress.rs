//! A store that went back in time: restored from an older backup, or wiped.
//!
//! What it says then has been overtaken: voters that were added, pledges that were withdrawn, epochs that have begun since.
//! Nobody acts on it but the leader of the newest epoch that this member has seen, which writes the records anew: while it
//! has the authority to run as a primary, or before its promotion, while the lease lasts that its takeover gave it. Everybody
//! else goes on as it is. Without such a leader it takes a person: see `loss.rs`.

use crate::decide::turn::Turn;
use crate::decide::{Action, ClusterView, Doubt, Purpose, Server, Stance, Why};
use crate::record::{SyncRecord, Versioned, key};
use crate::transaction::{Life, Txn};

/// Added to the serial number when the records are written anew: others may have seen a few changes that their author
/// never heard of.
const HEADROOM: u64 = 100;

impl Turn<'_> {
    /// What to do while the store is older than what we have seen; nothing when it is not.
    pub(super) fn store_went_back(&mut self, view: &ClusterView) -> Option<Why> {
        let newest = self.obs.newest.as_ref()?;
        let shown = view.sync.as_ref().map(|sync| (sync.value.epoch, sync.value.serial));
        let initialized = view.initialize.as_ref().is_some_and(|system| !system.value.is_empty());
        let current = initialized && shown >= Some((newest.epoch, newest.serial));
        let accepted =
            self.accepted_for_us(view).is_some() && self.obs.running().is_none_or(|running| running.in_recovery);
        if current || accepted {
            self.memory.given_up = None;
            return None;
        }
        self.memory.proposed = None;
        self.memory.announced = None;
        let shown = match shown {
            Some((epoch, serial)) => format!("epoch {epoch}.{serial}"),
            None => "no epoch".to_owned(),
        };
        let text = format!(
            "the store went back in time: it shows {shown}, this member has seen epoch {}.{}; it was wiped, or restored from \
             an older backup. Nothing is decided on it: if PostgreSQL of {} still runs as the primary, its agent writes the \
             records anew; else restore a newer backup of the store, or give up what may be lost with 'matriarch failover \
             --accept-data-loss'",
            newest.epoch, newest.serial, newest.leader
        );
        let why = self.trouble("store_went_back", text);
        if self.runs_without_data() {
            return Some(self.stop_without_data());
        }
        if self.is_to_be_promoted(view, newest) {
            self.stance = Stance::Leads { epoch: newest.epoch };
            return Some(self.write_anew(view, newest));
        }
        if self.obs.running().is_none_or(|running| running.in_recovery) {
            self.void_old_pledge(view, newest);
        }
        if self.obs.stopping {
            return Some(self.stop_replica());
        }
        Some(match &self.obs.server {
            Server::Running(running) if !running.in_recovery => self.primary_without_records(view, newest, why),
            Server::Running(running) => {
                let follows = running.upstream.as_ref() == Some(&newest.leader);
                if follows && !matches!(self.memory.pledging.doubt, Doubt::Sent(_)) {
                    self.stance = Stance::Follows { epoch: newest.epoch };
                }
                why
            }
            _ => why,
        })
    }

    /// PostgreSQL runs as a primary. In the newest epoch that we know, and with authority, it stays one.
    fn primary_without_records(&mut self, view: &ClusterView, newest: &SyncRecord, why: Why) -> Why {
        if replaced(view, newest) || !self.epoch_is_ours(newest) {
            return self.stop_writable(why);
        }
        self.stance = Stance::Leads { epoch: newest.epoch };
        // The revision stands for none: nothing of ours that is under way could still land.
        self.weigh(&Versioned { revision: 0, value: newest.clone() });
        let now = self.obs.now;
        if self.authority.max(self.memory.given_up).is_some_and(|until| until > now) {
            return self.write_anew(view, newest);
        }
        // Nobody takes over from a store like this: the guard's last word stands while the others are asked.
        if self.obs.guarded_until.is_some_and(|until| until <= now) {
            return self.stop_writable(why);
        }
        self.wake_at(now + 100);
        why
    }

    /// We took over in the newest epoch that we know, and are still to be promoted. Our data is as it was counted then, and
    /// under our lease we could be promoted right now had the store not gone back.
    fn is_to_be_promoted(&self, view: &ClusterView, newest: &SyncRecord) -> bool {
        let lease = self.obs.lease.map(|lease| lease.until).max(self.memory.given_up);
        !self.obs.stopping
            && self.obs.running().is_some_and(|running| running.in_recovery)
            && lease.is_some_and(|until| until > self.obs.now)
            && self.epoch_is_ours(newest)
            && !replaced(view, newest)
    }

    fn write_anew(&mut self, view: &ClusterView, newest: &SyncRecord) -> Why {
        let Some(facts) = self.obs.facts() else {
            return Why::new("no_incarnation", "waiting for the data directory to get its identity");
        };
        let record = SyncRecord { serial: newest.serial + HEADROOM, handover: false, ..newest.clone() };
        let mut txn = Txn::new()
            .as_seen(key::INITIALIZE, view.initialize.as_ref().map(|seen| seen.revision))
            .as_seen(key::LEADER, view.leader.as_ref().map(|leader| leader.revision))
            .as_seen(key::SYNC, view.sync.as_ref().map(|sync| sync.revision))
            .put_text(key::INITIALIZE, facts.system_identifier.clone(), Life::Permanent)
            .put_text(key::LEADER, self.policy.me.to_string(), Life::LeaderLease)
            .put(key::SYNC, &record);
        // A pledge of this epoch in an old backup may have been withdrawn since.
        for (name, pledge) in view.pledges.iter().filter(|(_, pledge)| pledge.value.counts_against(newest.epoch)) {
            let mut withdrawn = pledge.value.clone();
            withdrawn.withdrawn = true;
            let own = key::pledge(name);
            txn = txn.unchanged(&own, pledge.revision).put(&own, &withdrawn);
        }
        // So has a wish to move the primary been fulfilled or called off.
        if let Some(request) = &view.failover {
            txn = txn.unchanged(key::FAILOVER, request.revision).delete(key::FAILOVER);
        }
        if let (Some(config), None) = (&self.obs.config, view.config_revision) {
            txn = txn.absent(key::CONFIG).put_text(key::CONFIG, config.clone(), Life::Permanent);
        }
        if let Some(lease) = self.obs.lease {
            // Should this be refused, then the next try is as well founded as this one: until then nobody else can have taken
            // the lead but in a record, and that is looked at and compared.
            self.memory.given_up = Some(lease.until);
            self.actions.push(Action::DropLease);
        }
        self.commit(Purpose::Recreate, txn);
        Why::new(
            "records_rewritten",
            format!("the store went back in time: writing the records of epoch {} anew", newest.epoch),
        )
    }
}

/// Somebody else leads in an epoch that we cannot have known.
fn replaced(view: &ClusterView, newest: &SyncRecord) -> bool {
    let elsewhere = |sync: &SyncRecord| sync.epoch >= newest.epoch && sync.leader != newest.leader;
    view.leader.is_some() && view.sync.as_ref().is_some_and(|sync| elsewhere(&sync.value))
}
