//! Health checks: one path, one condition, 200 or 503. The conditions are Patroni's, so that the checks of existing
//! load balancers and probes go on working.
//!
//! Stricter than Patroni in two places, because a client must not be sent to a server that refuses its writes: a leader
//! whose authority has run out answers 503 even when its loop is stuck, and `/primary` waits until PostgreSQL has left
//! recovery. `/leader` is about the lock alone.

use std::collections::HashMap;

use serde_json::Value;

use crate::backend::Live;
use crate::schedule::parse_bytes;
use crate::types::MemberStatus;

/// The condition of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// Leads, and accepts writes.
    Primary,
    /// Holds the leader record.
    Leader,
    /// Leads a cluster that follows another one.
    StandbyLeader,
    /// A replica that may serve reads.
    Replica,
    /// Primary or replica.
    ReadOnly,
    /// A synchronous standby.
    Sync,
    /// A voter of the rule.
    Quorum,
    /// Neither synchronous standby nor voter.
    Async,
    /// Primary or synchronous standby.
    ReadOnlySync,
    /// Primary or voter.
    ReadOnlyQuorum,
    /// PostgreSQL runs.
    Health,
    /// The agent's loop turns.
    Liveness,
    /// Leads, or streams with little lag.
    Readiness,
}

/// Every path of a health check: routes and OpenAPI are made from this list.
pub const CHECKS: &[(&str, Check, &str)] = &[
    ("/", Check::Primary, "Leads and accepts writes"),
    ("/primary", Check::Primary, "Leads and accepts writes"),
    ("/read-write", Check::Primary, "Leads and accepts writes"),
    ("/master", Check::Primary, "Leads and accepts writes (old name)"),
    ("/leader", Check::Leader, "Holds the leader record"),
    ("/standby-leader", Check::StandbyLeader, "Leads a cluster that follows another one"),
    ("/standby_leader", Check::StandbyLeader, "Leads a cluster that follows another one (old name)"),
    ("/replica", Check::Replica, "A running replica without the noloadbalance tag"),
    ("/read-only", Check::ReadOnly, "Primary, or as /replica"),
    ("/sync", Check::Sync, "A synchronous standby"),
    ("/synchronous", Check::Sync, "A synchronous standby"),
    ("/quorum", Check::Quorum, "A voter of the durability rule"),
    ("/async", Check::Async, "A replica that nobody waits for"),
    ("/asynchronous", Check::Async, "A replica that nobody waits for"),
    ("/read-only-sync", Check::ReadOnlySync, "Primary or synchronous standby"),
    ("/read-only-synchronous", Check::ReadOnlySync, "Primary or synchronous standby"),
    ("/read-only-quorum", Check::ReadOnlyQuorum, "Primary or voter of the durability rule"),
    ("/health", Check::Health, "PostgreSQL runs"),
    ("/liveness", Check::Liveness, "The agent's loop turns"),
    ("/readiness", Check::Readiness, "Leads, or streams with little lag"),
];

impl Check {
    /// The check of a path, which may end in a slash.
    pub fn of_path(path: &str) -> Option<Check> {
        let path = if path.len() > 1 { path.trim_end_matches('/') } else { path };
        CHECKS.iter().find(|(known, ..)| *known == path).map(|(_, check, _)| *check)
    }

    /// Whether the answer has no body in Patroni.
    pub fn is_probe(self) -> bool {
        matches!(self, Check::Liveness | Check::Readiness)
    }
}

/// Judges a member. `query` may hold `lag`, `replication_state`, `tag_X` and, for readiness, `mode`.
///
/// `Err` says in words why the answer is 503.
pub fn judge(
    check: Check,
    member: &MemberStatus,
    live: Live,
    query: &HashMap<String, String>,
) -> Result<(), &'static str> {
    let facts = Facts::new(member, live);
    match check {
        Check::Liveness => return facts.liveness(),
        Check::Readiness => return facts.readiness(query),
        Check::Leader => return facts.leader(),
        Check::StandbyLeader => return facts.standby_leader(),
        Check::Primary => return facts.primary(),
        _ => {}
    }
    let replica = || facts.replica(query);
    let primary_or = |other: &dyn Fn() -> Result<(), &'static str>| {
        if facts.primary().is_ok() || facts.standby_leader().is_ok() { Ok(()) } else { other() }
    };
    match check {
        Check::Replica => replica(),
        Check::ReadOnly => primary_or(&replica),
        Check::Health => facts.running(),
        Check::Sync => facts.sync().and_then(|()| replica()),
        Check::Quorum => facts.quorum().and_then(|()| replica()),
        Check::Async => facts.nobody_waits().and_then(|()| replica()),
        Check::ReadOnlySync => primary_or(&|| facts.sync().and_then(|()| replica())),
        Check::ReadOnlyQuorum => primary_or(&|| facts.quorum().and_then(|()| replica())),
        Check::Primary | Check::Leader | Check::StandbyLeader | Check::Liveness | Check::Readiness => Ok(()),
    }?;
    tags_match(member, query)
}

struct Facts<'a> {
    member: &'a MemberStatus,
    live: Live,
}

impl<'a> Facts<'a> {
    fn new(member: &'a MemberStatus, live: Live) -> Self {
        Facts { member, live }
    }

    fn running(&self) -> Result<(), &'static str> {
        ensure(self.member.state == "running", "PostgreSQL is not running")
    }

    fn leader(&self) -> Result<(), &'static str> {
        let detail = &self.member.matriarch;
        // In pause without a store nobody renews anything: what PostgreSQL does is all there is to go by.
        if self.member.pause && !detail.store_reachable {
            return ensure(matches!(self.member.role.as_str(), "primary" | "standby_leader"), "not a primary");
        }
        ensure(detail.leader, "another member or nobody leads")?;
        let authority = self.live.lease_remaining.is_some_and(|left| !left.is_zero());
        ensure(authority || self.member.pause, "the lease has run out")
    }

    fn primary(&self) -> Result<(), &'static str> {
        self.leader()?;
        ensure(!self.member.matriarch.standby_cluster, "it leads a standby cluster")?;
        ensure(self.member.role == "primary", "PostgreSQL is still in recovery")
    }

    fn standby_leader(&self) -> Result<(), &'static str> {
        self.leader()?;
        ensure(self.member.matriarch.standby_cluster, "it is no standby cluster")?;
        ensure(matches!(self.member.role.as_str(), "replica" | "standby_leader"), "PostgreSQL is not in recovery")
    }

    fn sync(&self) -> Result<(), &'static str> {
        ensure(self.member.sync_standby, "no synchronous standby")
    }

    fn quorum(&self) -> Result<(), &'static str> {
        ensure(self.member.quorum_standby, "no voter of the rule")
    }

    fn nobody_waits(&self) -> Result<(), &'static str> {
        ensure(!self.member.sync_standby && !self.member.quorum_standby, "commits wait for it")
    }

    fn lag(&self, received: bool) -> u64 {
        let xlog = self.member.xlog.as_ref();
        let replayed = xlog.and_then(|xlog| xlog.replayed_location).unwrap_or(0);
        let at = if received { xlog.and_then(|xlog| xlog.received_location).unwrap_or(replayed) } else { replayed };
        self.member.matriarch.leader_lsn.unwrap_or(0).saturating_sub(at)
    }

    fn replica(&self, query: &HashMap<String, String>) -> Result<(), &'static str> {
        self.running()?;
        ensure(self.member.role == "replica", "not a replica")?;
        ensure(!tag_set(self.member.tags.get("noloadbalance")), "tagged noloadbalance")?;
        // A limit that is no size is ignored, as in Patroni.
        if let Some(limit) = query.get("lag").and_then(|text| parse_bytes(text)) {
            ensure(self.lag(false) <= limit, "it lags more than allowed")?;
        }
        if let Some(state) = query.get("replication_state") {
            ensure(self.member.replication_state.as_ref() == Some(state), "replication_state differs")?;
        }
        Ok(())
    }

    fn liveness(&self) -> Result<(), &'static str> {
        // A stuck replica harms nobody at once, so it gets twice the time.
        let patience = if self.member.role == "primary" { 1 } else { 2 };
        let limit = std::time::Duration::from_millis(self.member.matriarch.ttl_ms) * patience;
        ensure(self.member.pause || self.live.loop_age <= limit, "the agent's loop is stuck")
    }

    fn readiness(&self, query: &HashMap<String, String>) -> Result<(), &'static str> {
        if self.leader().is_ok() {
            return Ok(());
        }
        self.running()?;
        let detail = &self.member.matriarch;
        let limit = query.get("lag").and_then(|text| parse_bytes(text));
        let from_archive = tag_set(self.member.tags.get("nostream"));
        let wanted = if from_archive { "in archive recovery" } else { "streaming" };
        ensure(self.member.replication_state.as_deref() == Some(wanted), "it does not stream")?;
        // The newest segment is never in the archive: it is behind by design, so only a limit that is asked for counts.
        if from_archive && limit.is_none() {
            return Ok(());
        }
        if detail.leader_lsn.is_none() && !detail.store_reachable {
            return ensure(self.member.failsafe_mode_is_active, "the store does not answer");
        }
        let received = query.get("mode").is_some_and(|mode| mode == "write");
        let limit = limit.unwrap_or(detail.maximum_lag_on_failover);
        ensure(self.lag(received) <= limit, "it lags more than allowed")
    }
}

fn ensure(so: bool, otherwise: &'static str) -> Result<(), &'static str> {
    if so { Ok(()) } else { Err(otherwise) }
}

fn tag_set(tag: Option<&Value>) -> bool {
    match tag {
        Some(Value::Bool(set)) => *set,
        Some(Value::String(text)) => matches!(text.to_ascii_lowercase().as_str(), "true" | "on" | "yes" | "1"),
        _ => false,
    }
}

fn tags_match(member: &MemberStatus, query: &HashMap<String, String>) -> Result<(), &'static str> {
    for (key, wanted) in query {
        let Some(name) = key.strip_prefix("tag_") else { continue };
        let same = match member.tags.get(name) {
            None => false,
            Some(Value::String(text)) => text == wanted,
            Some(other) => other.to_string().to_lowercase() == *wanted,
        };
        ensure(same, "a tag differs")?;
    }
    Ok(())
}
