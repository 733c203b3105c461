//! A cluster that another program kept in the same scope, such as Patroni: its records are there, and none of our epochs.
//!
//! While anything of that program is left, a member's record or the leader key, PostgreSQL stays as it is and nothing is written. Then
//! the member whose PostgreSQL is the primary founds the cluster over those records in one compare-and-set. Nobody else may:
//! whoever else has data can lack what that program's primary had acknowledged. PostgreSQL need not be stopped for it.

use crate::decide::turn::Turn;
use crate::decide::{ClusterView, Data, DataFacts, Purpose, Server, Why};
use crate::lsn::{Lsn, Timeline};
use crate::record::{Role, SyncRecord, Versioned, key};
use crate::transaction::{Life, Txn};

/// For whom PostgreSQL here is not the primary of the cluster.
const WAITS: &str = "adopt_waits";
const REFUSED: &str = "adopt_refused";

impl Turn<'_> {
    /// Members of another program run the cluster: nothing is done in it.
    pub(super) fn run_by_others(&mut self, view: &ClusterView) -> Option<Why> {
        let (_, version) = view.strangers.first_key_value().filter(|_| view.sync.is_none())?;
        let names: Vec<String> = view.strangers.keys().map(|name| format!("'{name}'")).collect();
        let text = format!(
            "another program (version {version}) runs {} of this cluster: this member waits, and leaves PostgreSQL as it is. To take \
             the cluster over, pause it (patronictl pause) and stop that program there, as docs/migration.md tells; else give this \
             member another 'scope'",
            names.join(", ")
        );
        Some(self.trouble("run_by_others", text))
    }

    /// `initialize` is there and no `sync` of ours.
    pub(super) fn adopt(&mut self, view: &ClusterView, initialize: &Versioned<String>) -> Why {
        if was_ours(view) {
            return self.trouble(
                "no_sync_record",
                "the store knows the cluster but not its epoch: 'sync' is missing, or not ours, and other records of ours are there; \
                 restore a backup of the store. If another program has led the cluster since, delete 'pledges/' first",
            );
        }
        if let Some(leader) = &view.leader {
            let text = format!(
                "another program has led this cluster, and its leader key names '{}': it ends by itself within that program's ttl once it \
                 is stopped; until then PostgreSQL is left as it is",
                leader.name
            );
            return self.trouble("run_by_others", text);
        }
        if self.obs.stopping {
            return Why::new("stopping", "stopping before the cluster was taken over");
        }
        let refused = |text: String| (REFUSED, text);
        let checked = self.primary_of_others().and_then(|(facts, timeline, lsn)| {
            holds_everything(view, timeline, lsn).map_err(refused)?;
            self.is_alone(view).map_err(refused)?;
            (facts.system_identifier == initialize.value)
                .then_some((facts, timeline))
                .ok_or_else(|| refused("the data directory belongs to another cluster".to_owned()))
        });
        match checked {
            Ok((facts, timeline)) => self.found_over(view, initialize, &facts, timeline),
            Err((code, text)) => self.trouble(code, text),
        }
    }

    /// Our data, if PostgreSQL runs on it as a primary or stopped as one; its timeline and how far it reaches.
    fn primary_of_others(&self) -> Result<(DataFacts, Timeline, Lsn), (&'static str, String)> {
        let facts = match &self.obs.data {
            Data::Ready(facts) => facts.clone(),
            Data::Unusable(reason) => return Err((REFUSED, format!("this data directory cannot be used: {reason}"))),
            _ => return Err((WAITS, format!("this member has no data: it is copied afterwards; {WAITING}"))),
        };
        match &self.obs.server {
            Server::Unready => Err((WAITS, "PostgreSQL does not answer yet, so its role is not known".to_owned())),
            Server::Running(running) if running.in_recovery => {
                Err((WAITS, format!("PostgreSQL here is a replica, and stays as it is; {WAITING}")))
            }
            Server::Running(running) => Ok((facts, running.timeline, running.lsn)),
            Server::Stopped if facts.standby => Err((WAITS, format!("this data is a replica's; {WAITING}"))),
            Server::Stopped if !facts.clean => {
                let text = "PostgreSQL was the primary here and was not shut down cleanly, so how far it had come is not known; stop \
                            this agent, start PostgreSQL by hand (pg_ctl start), and start the agent again";
                Err((REFUSED, text.to_owned()))
            }
            Server::Stopped => {
                let (timeline, checkpoint) = (facts.timeline, facts.checkpoint);
                Ok((facts, timeline, checkpoint))
            }
        }
    }

    /// No other member runs a primary.
    fn is_alone(&self, view: &ClusterView) -> Result<(), String> {
        let mut others = view.members.iter().filter(|(name, _)| **name != self.policy.me);
        match others.find(|(_, member)| member.role == Role::Primary) {
            None => Ok(()),
            Some((name, _)) => {
                Err(format!("PostgreSQL of '{name}' runs as a primary as well: stop the one that clients do not use"))
            }
        }
    }

    fn found_over(
        &mut self,
        view: &ClusterView,
        initialize: &Versioned<String>,
        facts: &DataFacts,
        timeline: Timeline,
    ) -> Why {
        let Some(incarnation) = facts.incarnation.clone() else {
            return Why::new("no_incarnation", "waiting for the data directory to get its identity");
        };
        let record = SyncRecord::first(self.policy.me.clone(), incarnation, timeline);
        let mut txn = Txn::new()
            .unchanged(key::INITIALIZE, initialize.revision)
            .absent(key::LEADER)
            .as_seen(key::SYNC, view.sync_of_others)
            .as_seen(key::HISTORY, view.history_revision)
            .as_seen(key::CONFIG, view.config_revision)
            .put_text(key::LEADER, self.policy.me.to_string(), Life::LeaderLease)
            .put(key::SYNC, &record);
        if let (Some(config), None) = (&self.policy.bootstrap_config, view.config_revision) {
            txn = txn.put_text(key::CONFIG, config.clone(), Life::Permanent);
        }
        // Patroni leaves an empty one behind, and what was asked of it is not asked of us.
        if let Some(request) = &view.failover {
            txn = txn.unchanged(key::FAILOVER, request.revision).delete(key::FAILOVER);
        }
        self.commit(Purpose::Found, txn);
        Why::new("adopt_found", "nobody of the other program is left: taking its cluster over and leading it")
    }
}

const WAITING: &str = "waiting for the member whose PostgreSQL is the primary to take the cluster over: its agent has to run. Should \
                       that data be lost, make the replica that is furthest a primary (pg_ctl promote)";

/// `sync` was lost, not never there.
fn was_ours(view: &ClusterView) -> bool {
    let epochs = view.members.values().any(|member| member.epoch > 0);
    epochs || !view.pledges.is_empty() || view.optime_timeline != 0
}

/// Whether this primary is the newest one that anything in the store tells of; else what tells of a newer one.
fn holds_everything(view: &ClusterView, timeline: Timeline, lsn: Lsn) -> Result<(), String> {
    let newest = view.history.iter().map(|entry| entry.0.saturating_add(1)).max().unwrap_or(0);
    if timeline < newest {
        return Err(format!(
            "this data was a primary's once, on timeline {timeline}, and the cluster has gone on to timeline {newest} ('history'); start \
             the agent of the member that was primary last, and this one follows it"
        ));
    }
    if lsn < view.optime {
        return Err(format!(
            "the cluster's primary had come to {} ('status'), and this data ends at {lsn}: another member has more; start its agent. \
             If that data is lost for good, delete the key 'status'",
            view.optime
        ));
    }
    for (name, member) in &view.members {
        if member.timeline.is_some_and(|other| other > timeline) {
            return Err(format!(
                "'{name}' is on timeline {}, this data only on {timeline}",
                member.timeline.unwrap_or(0)
            ));
        }
    }
    Ok(())
}
