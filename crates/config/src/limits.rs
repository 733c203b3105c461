//! The limits that tie the order of restarts: a replica must not have less than the primary whose WAL it replays.

/// Settings that a standby must not have lower than its primary, with PostgreSQL's defaults.
pub const HOT_STANDBY_LIMITS: [(&str, u32); 5] = [
    ("max_connections", 100),
    ("max_locks_per_transaction", 64),
    ("max_prepared_transactions", 0),
    ("max_wal_senders", 10),
    ("max_worker_processes", 8),
];

/// In which order the members of a cluster restart for a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestartOrder {
    /// As ever: a primary that is restarted last is away once and for the shortest time. Needed when a limit was
    /// raised: a replica that still has the old value would stop when it replays the new one.
    ReplicasFirst,
    /// Limits were only lowered: a replica can take the new value once the primary has it.
    PrimaryFirst,
}

/// The order for these changes: name, value in force, value after the restart. With both raised and lowered limits
/// replicas go first, and keep the lowered ones high until the primary has followed.
pub fn restart_order<'a>(changes: impl IntoIterator<Item = (&'a str, &'a str, &'a str)>) -> RestartOrder {
    let mut order = RestartOrder::ReplicasFirst;
    for (name, old, new) in changes {
        if !HOT_STANDBY_LIMITS.iter().any(|(limit, _)| *limit == name) {
            continue;
        }
        match (old.trim().parse::<u32>(), new.trim().parse::<u32>()) {
            (Ok(old), Ok(new)) if new < old => order = RestartOrder::PrimaryFirst,
            (Ok(old), Ok(new)) if new == old => {}
            _ => return RestartOrder::ReplicasFirst,
        }
    }
    order
}

#[cfg(test)]
mod tests {
    use super::{RestartOrder, restart_order};

    #[test]
    fn raised_limits_start_with_replicas() {
        let lowered = ("max_connections", "100", "50");
        assert_eq!(restart_order([lowered]), RestartOrder::PrimaryFirst);
        assert_eq!(restart_order([("max_connections", "100", "200")]), RestartOrder::ReplicasFirst);
        assert_eq!(restart_order([lowered, ("max_wal_senders", "10", "20")]), RestartOrder::ReplicasFirst);
        assert_eq!(restart_order([lowered, ("shared_buffers", "128MB", "1GB")]), RestartOrder::PrimaryFirst);
        assert_eq!(restart_order([("shared_buffers", "1GB", "128MB")]), RestartOrder::ReplicasFirst);
        assert_eq!(restart_order([]), RestartOrder::ReplicasFirst);
    }
}
