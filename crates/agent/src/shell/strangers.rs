//! Members of the same scope that another program runs, such as Patroni. It knows nothing of rules and pledges: once the lease
//! of a leader has ended it takes the lead, whoever stands by that leader. So beside it the lease is the fence again.

use std::collections::BTreeMap;

use matriarch_core::MemberName;
use matriarch_core::decide::{ClusterView, Support};
use matriarch_core::record::MemberRecord;

use super::Shell;

/// How a member of ours calls itself.
pub const VERSION: &str = concat!("4.1.5+matriarch.", env!("CARGO_PKG_VERSION"));
const OURS: &str = "+matriarch.";

fn is_ours(record: &MemberRecord) -> bool {
    record.version.contains(OURS)
}

fn stranger(view: &ClusterView) -> Option<(&MemberName, &MemberRecord)> {
    view.members.iter().find(|(_, record)| !is_ours(record))
}

/// Whoever is not ours is none of the members that a decision counts on, votes for or admits.
pub fn without(mut view: ClusterView) -> ClusterView {
    view.members.retain(|_, record| is_ours(record));
    view
}

impl Shell {
    fn stranger(&self) -> Option<(&MemberName, &MemberRecord)> {
        stranger(&self.reading.as_ref()?.view)
    }

    /// Who stands by this member, as far as that counts.
    pub(super) fn support(&self) -> BTreeMap<MemberName, Support> {
        if self.stranger().is_some() { BTreeMap::new() } else { self.heartbeats.support() }
    }

    /// The cluster is another program's: nothing is done in it.
    pub(super) fn is_elsewhere(&self) -> Option<String> {
        let (name, record) = self.stranger().filter(|_| self.sync().is_none())?;
        Some(format!(
            "'{name}' and its cluster are run by another program (version {}): this member does not join them; give it another \
             'scope', or move the cluster as docs/migration.md tells",
            record.version
        ))
    }

    /// A leader is told of who is beside it.
    pub(super) fn stranger_problem(&self) -> Option<String> {
        let (name, record) = self.stranger().filter(|_| self.leads())?;
        Some(format!(
            "'{name}' is run by another program (version {}), which knows no rule but the lease: while it is in this scope the \
             primary stops when its lease ends, as in an outage of the store; stop it, or give it another scope",
            record.version
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
        assert_eq!(stranger(&view).map(|(name, _)| name.as_str()), Some("p"));
        let ours: Vec<_> = without(view).members.into_keys().map(|name| name.to_string()).collect();
        assert_eq!(ours, ["a", "b"]);
    }
}
