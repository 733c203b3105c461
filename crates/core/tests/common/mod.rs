//! What the tests of decisions start from.

use std::collections::BTreeMap;

use matriarch_core::MemberName;
use matriarch_core::decide::{
    ClusterView, CrashPolicy, Data, Lease, Millis, Observation, Policy, Pulse, Server, Synchronous,
};

pub fn name(text: &str) -> MemberName {
    text.parse().unwrap()
}

/// One voter is needed, and nothing is forbidden.
pub fn policy(me: &str) -> Policy {
    Policy {
        me: name(me),
        ttl: 5_000,
        paused: false,
        crash: CrashPolicy::Failover,
        synchronous: Synchronous { needed: 1, ..Synchronous::default() },
        zone: None,
        shrink_delay: 2_000,
        maximum_lag_on_failover: 0,
        start_timeout: 60_000,
        stall_limit: None,
        use_rewind: true,
        clone_after_rewind: true,
        clone_diverged: true,
        may_lead: true,
        from_archive: false,
        hold_timeout: 5_000,
        bootstrap_config: None,
    }
}

/// Nothing happens; who holds the leader key has just renewed its lease.
pub fn observation(now: Millis, view: ClusterView, data: Data, server: Server) -> Observation {
    Observation {
        now,
        lease: view.leader.as_ref().filter(|leader| leader.held).map(|_| Lease { renewed: now, until: now + 5_000 }),
        alive: view.members.keys().cloned().collect(),
        store: Some(view),
        data,
        server,
        busy: None,
        finished: None,
        stopping: false,
        reinit: false,
        ailment: None,
        woke: None,
        pulse: Pulse::default(),
        restart: false,
        support: BTreeMap::new(),
        newest: None,
        config: None,
        guarded_until: None,
        promised_until: 0,
        watchdog: None,
    }
}
