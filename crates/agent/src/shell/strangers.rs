//! Members of the same scope that another program runs, such as Patroni. It knows nothing of rules and pledges: once the lease
//! of a leader has ended it takes the lead, whoever stands by that leader. So beside it the lease is the fence again.

use std::collections::BTreeMap;

use matriarch_core::MemberName;
use matriarch_core::decide::{ClusterView, Support};
use matriarch_core::record::MemberRecord;

use super::Shell;
use crate::view::{OURS, Reading};

/// How a member of ours calls itself.
pub const VERSION: &str = concat!("4.1.5+matriarch.", env!("CARGO_PKG_VERSION"));

fn is_ours(record: &MemberRecord) -> bool {
    record.version.contains(OURS)
}

/// The first one, and its version.
fn stranger(view: &ClusterView) -> Option<(&str, &str)> {
    let among_members = view.members.iter().find(|(_, record)| !is_ours(record));
    let read = among_members.map(|(name, record)| (name.as_str(), record.version.as_str()));
    read.or_else(|| view.strangers.first_key_value().map(|(name, version)| (name.as_str(), version.as_str())))
}

/// Whoever is not ours is none of the members that a decision counts on, votes for or admits.
pub fn set_apart(mut view: ClusterView) -> ClusterView {
    let (ours, others) = std::mem::take(&mut view.members).into_iter().partition(|(_, record)| is_ours(record));
    view.members = ours;
    let others: BTreeMap<MemberName, MemberRecord> = others;
    view.strangers.extend(others.into_iter().map(|(name, record)| (name.to_string(), record.version)));
    view
}

impl Shell {
    fn stranger(&self) -> Option<(&str, &str)> {
        stranger(&self.reading.as_ref()?.view)
    }

    /// Who stands by this member, as far as that counts.
    pub(super) fn support(&self) -> BTreeMap<MemberName, Support> {
        if self.stranger().is_some() { BTreeMap::new() } else { self.heartbeats.support() }
    }

    /// The records in the store are another program's: whoever is asked to stop leaves PostgreSQL as it is.
    pub(super) fn is_guest(&self) -> bool {
        let initialized =
            |reading: &Reading| reading.view.initialize.as_ref().is_some_and(|system| !system.value.is_empty());
        self.reading.as_ref().is_some_and(initialized) && self.newest_sync().is_none()
    }

    /// The record under our name is another program's, which may still run here: ours would hide it.
    pub(super) fn has_namesake(&self) -> bool {
        let Some(reading) = self.reading.as_ref().filter(|_| self.is_guest()) else { return false };
        let (name, view) = (self.options.name(), &reading.view);
        view.members.get(name).is_some_and(|record| !is_ours(record)) || view.strangers.contains_key(name.as_str())
    }

    /// Load balancers that ask for the primary go on to find it here between the two programs: it is the one there is, and while the
    /// cluster is paused nobody makes another.
    pub(super) fn stands_in(&self) -> bool {
        let led_elsewhere = self.leader_name().is_some_and(|leader| leader != self.options.name());
        self.is_guest() && self.config.pause && self.pg.is_primary() && !led_elsewhere
    }

    /// A leader is told of who is beside it.
    pub(super) fn stranger_problem(&self) -> Option<String> {
        let (name, version) = self.stranger().filter(|_| self.leads())?;
        Some(format!(
            "'{name}' is run by another program (version {version}), which knows no rule but the lease: while it is in this scope \
             the primary stops when its lease ends, as in an outage of the store; stop it, or give it another scope"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_of_ours_are_known_by_their_version() {
        let record = |version: &str| -> MemberRecord {
            serde_json::from_value(serde_json::json!({
                "conn_url": "postgres://h:1/postgres", "api_url": "http://h:2/patroni", "state": "running",
                "role": "replica", "version": version,
            }))
            .expect("a record")
        };
        let mut view = ClusterView::default();
        view.members.insert("a".parse().expect("a name"), record(VERSION));
        view.members.insert("b".parse().expect("a name"), record("4.0.0+matriarch.9.9.9"));
        assert!(stranger(&view).is_none());
        view.members.insert("p".parse().expect("a name"), record("4.1.5"));
        assert_eq!(stranger(&view), Some(("p", "4.1.5")));
        let apart = set_apart(view);
        let ours: Vec<_> = apart.members.keys().map(ToString::to_string).collect();
        assert_eq!(ours, ["a", "b"]);
        assert_eq!(apart.strangers, BTreeMap::from([("p".to_owned(), "4.1.5".to_owned())]));
        assert_eq!(stranger(&apart), Some(("p", "4.1.5")), "also one whose record was never read as a member's");
    }
}
