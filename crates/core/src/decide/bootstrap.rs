//! Nobody ever led: one member claims the right to run initdb, runs it, and announces the cluster.

use crate::decide::turn::Turn;
use crate::decide::{Action, ClusterView, Data, DataFacts, Job, Purpose, Why};
use crate::record::{SyncRecord, key};
use crate::transaction::{Life, Txn};

impl Turn<'_> {
    pub(super) fn nothing_initialized(&mut self, view: &ClusterView) -> Why {
        if self.obs.stopping {
            return Why::new("stopping", "stopping before the cluster was initialized");
        }
        // A primary's data of before epochs that this member has seen founds nothing by itself either: see `store_went_back`.
        let overtaken = self.obs.newest.is_some();
        match &self.obs.data {
            Data::Ready(facts) if facts.standby || overtaken => {
                let facts = facts.clone();
                self.found_on_replica(view, &facts).unwrap_or_else(|| {
                    self.trouble(
                        "empty_store_replica_data",
                        "the store is empty but this data directory is a replica's; start the member that was primary first, \
                         since only it can found the cluster without losing anything",
                    )
                })
            }
            Data::Ready(facts) => {
                let facts = facts.clone();
                self.found(view, &facts, None)
            }
            Data::Unusable(reason) => {
                let text = format!("no cluster exists yet and this data directory cannot be used: {reason}");
                self.trouble("unusable_data", text)
            }
            _ if view.members.values().any(|member| member.incarnation.is_some()) => self.trouble(
                "empty_store_members_with_data",
                "the store knows no cluster, but members with data are there: it was wiped. No new cluster is made; start the \
                 member that was primary",
            ),
            _ if view.leader.is_some() => Why::new("bootstrap_elsewhere", "another member is about to initialize"),
            _ if !self.policy.may_lead => self.trouble(
                "bootstrap_not_ours",
                "no cluster exists yet, and this member is tagged as never to be leader: waiting for another to create it",
            ),
            _ => {
                let me = self.policy.me.to_string();
                let txn = Txn::new()
                    .absent(key::INITIALIZE)
                    .absent(key::LEADER)
                    .put_text(key::INITIALIZE, "", Life::LeaderLease)
                    .put_text(key::LEADER, me, Life::LeaderLease);
                self.commit(Purpose::Claim, txn);
                Why::new("bootstrap_claim", "no cluster exists yet: claiming the right to create it")
            }
        }
    }

    /// `initialize` is empty: somebody runs initdb, perhaps this very process.
    pub(super) fn being_initialized(&mut self, view: &ClusterView, revision: u64) -> Why {
        let mine = view.leader.as_ref().is_some_and(|leader| leader.name == self.policy.me && leader.held);
        if !mine {
            return Why::new("bootstrap_elsewhere", "another member is creating the cluster");
        }
        if self.obs.stopping && self.obs.busy.is_none() && !matches!(self.obs.data, Data::Ready(_)) {
            self.actions.push(Action::DropLease);
            return Why::new("stopping", "stopping before the cluster was initialized");
        }
        if self.obs.lease.is_some_and(|lease| self.obs.now >= lease.renewed + self.policy.ttl / 3) {
            self.actions.push(Action::RenewLease);
        }
        match &self.obs.data {
            Data::Ready(facts) => {
                let facts = facts.clone();
                self.found(view, &facts, Some(revision))
            }
            _ => self.run(Job::Initdb, Why::new("bootstrap_initdb", "creating the cluster's first data directory")),
        }
    }

    fn found(&mut self, view: &ClusterView, facts: &DataFacts, claimed: Option<u64>) -> Why {
        let Some(incarnation) = facts.incarnation.clone() else {
            return Why::new("no_incarnation", "waiting for the data directory to get its identity");
        };
        let record = SyncRecord::first(self.policy.me.clone(), incarnation, facts.timeline);
        let leader = view.leader.as_ref().map(|leader| leader.revision);
        let mut txn = Txn::new()
            .as_seen(key::INITIALIZE, claimed)
            .as_seen(key::LEADER, leader)
            .as_seen(key::SYNC, view.sync.as_ref().map(|sync| sync.revision))
            .put_text(key::INITIALIZE, facts.system_identifier.clone(), Life::Permanent)
            .put_text(key::LEADER, self.policy.me.to_string(), Life::LeaderLease)
            .put(key::SYNC, &record);
        if let Some(config) = &self.policy.bootstrap_config {
            txn = txn.put_text(key::CONFIG, config.clone(), Life::Permanent);
        }
        self.commit(Purpose::Found, txn);
        Why::new("bootstrap_found", "announcing the new cluster and leading it")
    }
}
