//! The store of the simulated cluster: strongly consistent, revisioned, with leases.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::rc::Rc;

use matriarch_core::decide::{ClusterView, LeaderKey, Millis};
use matriarch_core::record::{MemberRecord, StatusRecord, SyncRecord, Versioned, key};
use matriarch_core::transaction::{Compare, Life, Txn, Write};
use matriarch_core::{Lsn, MemberName};
use serde::de::DeserializeOwned;

/// What the version of a member of ours has in it.
pub const OURS: &str = "+matriarch.";
/// Identity of the only router there may be.
pub const ROUTER: &str = "r";

/// Identity of a lease.
pub type LeaseId = u64;

type Members = BTreeMap<MemberName, Versioned<MemberRecord>>;

#[derive(Clone, Debug)]
struct Entry {
    value: Rc<str>,
    revision: u64,
    lease: Option<LeaseId>,
}

/// The store as one read sees it.
#[derive(Debug)]
pub struct View {
    /// What `decide` gets; `leader.held` is for the reader to fill in.
    pub cluster: ClusterView,
    /// The lease the leader key is bound to.
    pub leader_lease: Option<LeaseId>,
    /// The cluster is paused.
    pub paused: bool,
    /// Which life of the store it is from: revisions of another one say nothing.
    pub life: u64,
}

/// Everything it keeps.
#[derive(Debug, Default)]
pub struct Store {
    revision: u64,
    entries: BTreeMap<Rc<str>, Entry>,
    leases: BTreeMap<LeaseId, Lease>,
    view: Option<Rc<View>>,
    /// Grows when it is wiped or restored: connections from before are gone.
    pub life: u64,
}

/// A backup of the store.
#[derive(Clone, Debug, Default)]
pub struct Backup {
    revision: u64,
    entries: BTreeMap<Rc<str>, Entry>,
    leases: BTreeMap<LeaseId, Lease>,
}

#[derive(Clone, Copy, Debug)]
struct Lease {
    ttl: Millis,
    deadline: Millis,
}

/// The leases a transaction may bind keys to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Leases {
    /// For [`Life::LeaderLease`].
    pub leader: Option<LeaseId>,
    /// For [`Life::MemberLease`].
    pub member: Option<LeaseId>,
}

impl Store {
    /// A copy of everything.
    pub fn backup(&self) -> Backup {
        Backup { revision: self.revision, entries: self.entries.clone(), leases: self.leases.clone() }
    }

    /// Replaces everything; leases live for their whole time again.
    pub fn restore(&mut self, backup: Backup, now: Millis) -> Vec<LeaseId> {
        let Backup { revision, entries, leases } = backup;
        *self = Store { revision, entries, leases, view: None, life: self.life + 1 };
        self.extend_leases(now);
        self.leases.keys().copied().collect()
    }

    /// Revision of the newest change.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The value of a key.
    pub fn value(&self, key: &str) -> Option<&str> {
        self.entries.get(key).map(|entry| &*entry.value)
    }

    /// Makes a lease, or one that ended anew.
    pub fn grant(&mut self, id: LeaseId, ttl: Millis, now: Millis) {
        self.leases.insert(id, Lease { ttl, deadline: now + ttl });
    }

    /// Renews a lease; false when it has ended.
    pub fn renew(&mut self, id: LeaseId, now: Millis) -> bool {
        match self.leases.get_mut(&id) {
            Some(lease) => {
                lease.deadline = now + lease.ttl;
                true
            }
            None => false,
        }
    }

    /// When a lease ends, if it lives.
    pub fn deadline(&self, id: LeaseId) -> Option<Millis> {
        self.leases.get(&id).map(|lease| lease.deadline)
    }

    /// Lets every lease live for its whole time again, as a store does that lost its own leader.
    pub fn extend_leases(&mut self, now: Millis) {
        for lease in self.leases.values_mut() {
            lease.deadline = now + lease.ttl;
        }
    }

    /// Ends a lease and removes its keys; whether anything was removed.
    pub fn revoke(&mut self, id: LeaseId) -> bool {
        self.leases.remove(&id);
        let before = self.entries.len();
        self.entries.retain(|_, entry| entry.lease != Some(id));
        let changed = before != self.entries.len();
        if changed {
            self.changed();
        }
        changed
    }

    fn changed(&mut self) {
        self.revision += 1;
        self.view = None;
    }

    /// Sets a key outside of any transaction, as a person or a tool does.
    pub fn put(&mut self, key: &str, value: String, lease: Option<LeaseId>) {
        self.changed();
        self.entries.insert(key.into(), Entry { value: value.into(), revision: self.revision, lease });
    }

    /// Removes a key outside of any transaction.
    pub fn remove(&mut self, key: &str) {
        self.changed();
        self.entries.remove(key);
    }

    /// Applies a transaction if all its compares hold and its leases live.
    pub fn apply(&mut self, txn: &Txn, leases: Leases) -> bool {
        let holds = txn.compares.iter().all(|compare| match compare {
            Compare::Absent { key } => !self.entries.contains_key(key.as_str()),
            Compare::Revision { key, revision } => {
                self.entries.get(key.as_str()).is_some_and(|entry| entry.revision == *revision)
            }
        });
        let lease_of = |life: &Life| match life {
            Life::Permanent => None,
            Life::LeaderLease => leases.leader,
            Life::MemberLease => leases.member,
        };
        let leased = txn.writes.iter().all(|write| match write {
            Write::Put { life: Life::Permanent, .. } | Write::Delete { .. } => true,
            Write::Put { life, .. } => lease_of(life).is_some_and(|id| self.leases.contains_key(&id)),
        });
        if !holds || !leased {
            return false;
        }
        self.changed();
        for write in &txn.writes {
            match write {
                Write::Put { key, value, life } => {
                    let entry = Entry { value: value.as_str().into(), revision: self.revision, lease: lease_of(life) };
                    self.entries.insert(key.as_str().into(), entry);
                }
                Write::Delete { key } => {
                    self.entries.remove(key.as_str());
                }
            }
        }
        true
    }

    /// A read of everything.
    pub fn view(&mut self) -> Rc<View> {
        if let Some(view) = &self.view {
            return view.clone();
        }
        let view = Rc::new(self.read());
        self.view = Some(view.clone());
        view
    }

    fn record<T: DeserializeOwned>(&self, key: &str) -> Option<Versioned<T>> {
        let entry = self.entries.get(key)?;
        let value = serde_json::from_str(&entry.value).expect("only records are written under this key");
        Some(Versioned { revision: entry.revision, value })
    }

    fn under<T: DeserializeOwned>(&self, prefix: &str) -> BTreeMap<MemberName, Versioned<T>> {
        self.entries
            .range::<str, _>((Bound::Included(prefix), Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(prefix))
            .filter_map(|(key, _)| Some((key.strip_prefix(prefix)?.parse().ok()?, self.record(key)?)))
            .collect()
    }

    /// `sync`, or the revision of one that another program keeps: it knows of no epoch.
    fn sync(&self) -> (Option<Versioned<SyncRecord>>, Option<u64>) {
        match self.entries.get(key::SYNC) {
            Some(entry) if !entry.value.contains("\"epoch\"") => (None, Some(entry.revision)),
            _ => (self.record(key::SYNC), None),
        }
    }

    /// Members of ours, and those that another program runs.
    fn members(&self) -> (Members, Members) {
        self.under::<MemberRecord>("members/").into_iter().partition(|(_, record)| record.value.version.contains(OURS))
    }

    fn read(&self) -> View {
        let leader = self.entries.get(key::LEADER);
        let failover = self.record(key::FAILOVER);
        let status = self.record::<StatusRecord>(key::STATUS).map(|status| status.value).unwrap_or_default();
        let (sync, sync_of_others) = self.sync();
        let (members, strangers) = self.members();
        let cluster = ClusterView {
            revision: self.revision,
            initialize: self
                .entries
                .get(key::INITIALIZE)
                .map(|entry| Versioned { revision: entry.revision, value: entry.value.to_string() }),
            leader: leader.and_then(|entry| {
                Some(LeaderKey { name: entry.value.parse().ok()?, revision: entry.revision, held: false })
            }),
            sync,
            sync_of_others,
            strangers: strangers.into_iter().map(|(name, record)| (name.to_string(), record.value.version)).collect(),
            members: members.into_iter().map(|(name, record)| (name, record.value)).collect(),
            pledges: self.under("pledges/"),
            failover_due: failover.is_some(),
            failover,
            history: self.record(key::HISTORY).map(|record| record.value).unwrap_or_default(),
            history_revision: self.entries.get(key::HISTORY).map(|entry| entry.revision),
            routers: [ROUTER]
                .into_iter()
                .filter_map(|id| Some((id.to_owned(), self.record(&key::router(id))?.value)))
                .collect(),
            config_revision: self.entries.get(key::CONFIG).map(|entry| entry.revision),
            optime: Lsn(status.optime),
            optime_timeline: status.timeline,
        };
        View {
            cluster,
            leader_lease: leader.and_then(|entry| entry.lease),
            paused: self.value(key::CONFIG) == Some("paused"),
            life: self.life,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compares_and_leases_decide() {
        let mut store = Store::default();
        let put = Txn::new().absent("leader").put_text("leader", "a", Life::LeaderLease);
        assert!(!store.apply(&put, Leases::default()), "no lease");
        store.grant(7, 1000, 0);
        let leases = Leases { leader: Some(7), member: None };
        assert!(store.apply(&put, leases));
        assert!(!store.apply(&put, leases), "no longer absent");
        assert!(store.view().cluster.leader.is_some());
        assert!(store.revoke(7));
        assert!(store.view().cluster.leader.is_none());
        assert!(!store.renew(7, 5));
    }
}
