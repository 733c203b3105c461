//! What the store says, and what became of changes sent to it.

use matriarch_dcs::Committed;

use super::Shell;
use crate::shared_config;
use crate::storage::CommitDone;
use crate::view::Reading;

impl Shell {
    pub(super) fn store_read(&mut self, result: crate::storage::ReadResult) {
        self.storage.read_done();
        match result {
            Ok(snapshot) => {
                let lease = self.storage.leader.map(|held| held.id);
                let reading = crate::view::read(&snapshot, lease, jiff::Timestamp::now());
                for garbled in &reading.garbled {
                    tracing::error!("{garbled}; it is ignored");
                }
                if self.shared.store_error().is_some() {
                    tracing::info!("the store answers again");
                }
                self.shared.store_seen(None);
                self.keep(reading);
            }
            Err(error) => {
                let error = error.to_string();
                if self.shared.store_error().as_ref() != Some(&error) {
                    tracing::warn!("the store cannot be read: {error}");
                }
                self.shared.store_seen(Some(error));
            }
        }
    }

    /// Decisions are made on it from now on.
    pub(super) fn take_in(&mut self, reading: Reading, fresh: bool) {
        if fresh {
            self.view_is_old = false;
        }
        self.look_back(&reading);
        if !self.past.is_shown() || self.config_revision.is_none() {
            self.new_config(&reading);
        }
        self.neighbours.take_in(&reading.view);
        self.reading = Some(reading);
        self.notice_wish();
        // What was heard of another leader, or in another epoch, says nothing of the one that this view names.
        self.heartbeats.listen_to(self.leader_to_hear());
        self.read_at = Some(jiff::Timestamp::now());
    }

    /// A change of ours was made, or may have been, that no reading shows yet.
    pub(super) fn doubt_view(&mut self) {
        self.view_is_old = true;
        if let Some(unsaved) = &mut self.unsaved {
            unsaved.fresh = false;
        }
    }

    fn new_config(&mut self, reading: &Reading) {
        let Some(config) = &reading.config else { return };
        if self.config_revision == Some(config.revision) {
            return;
        }
        let parsed = shared_config::read(&config.value);
        self.config_problem = parsed.as_ref().err().map(|problems| {
            let instead = match self.config_revision {
                Some(_) => "the last good one stays",
                None => "this agent, which knows no earlier one, goes on without what is refused",
            };
            format!("the cluster's configuration in the store is refused, {instead}: {problems}")
        });
        if let Some(problem) = &self.config_problem {
            tracing::error!("{problem}");
        }
        let usable = match parsed {
            Ok(parsed) => Some(parsed),
            Err(_) => self.config_revision.is_none().then(|| shared_config::without_what_is_refused(&config.value)),
        };
        if let Some(parsed) = usable {
            self.storage.set_ttl(crate::policy::ttl(&parsed));
            self.heartbeats.suspect_after(crate::policy::suspect_after(&parsed));
            self.config = parsed;
        }
        self.config_revision = Some(config.revision);
        self.config_text = Some(config.value.clone());
    }

    pub(super) fn committed(&mut self, done: CommitDone) {
        self.storage.committing = None;
        self.doubt_view();
        let purpose = done.purpose;
        match &done.result {
            Ok(_) => self.storage.wrote(),
            Err(error) => self.storage.could_not_write(&format!("{purpose:?}"), error),
        }
        match done.result {
            Ok(Committed::Applied { .. }) => {
                tracing::debug!("{purpose:?} was written to the store");
                if let Some(lease) = done.lease {
                    self.storage.leader = Some(lease);
                }
                self.after_commit(purpose);
            }
            Ok(Committed::Refused { key }) => {
                tracing::info!("{purpose:?} was refused by the store: '{key}' has changed");
                self.forget_unused_lease(done.lease);
            }
            Err(error) if error.may_have_applied() => {
                // If it was applied, the leader key is bound to this lease, so keep it.
                self.storage.leader = self.storage.leader.or(done.lease);
            }
            Err(_) => self.forget_unused_lease(done.lease),
        }
        self.storage.read();
    }

    fn forget_unused_lease(&mut self, lease: Option<crate::storage::Held>) {
        let Some(lease) = lease else { return };
        if self.storage.leader.is_none() {
            self.storage.leader = Some(lease);
            self.storage.drop_leader_lease();
        }
    }
}
