//! What the API shows of this member and of the cluster.

use std::collections::BTreeMap;
use std::sync::Arc;

use matriarch_api::{
    ClusterDetail, ClusterStatus, HistoryLine, Identity, KnownRow, Lag, MemberDetail, MemberRow, MemberStatus,
    PendingChange, PreviousRuleView, ReplicationRow, RouterRow, RuleView, ScheduledRestart, ScheduledSwitchover,
    SlotRow, StoreView, Xlog,
};
use matriarch_core::decide::ClusterView;
use matriarch_core::record::{MemberRecord, Role, RouterRecord, SyncRecord};
use matriarch_core::{Lsn, MemberName};
use matriarch_postgres::Probe;
use serde_json::Value;

use super::Shell;
use crate::shared::Shown;
use crate::view::Reading;

impl Shell {
    pub(super) fn tell_shared(&self, record: &MemberRecord) {
        let shown = Shown {
            member: Arc::new(self.member_status(record)),
            cluster: Arc::new(self.cluster_status(record)),
            config: self.shown_config(),
            history: Arc::new(self.history_lines()),
            drills: self.reading.as_ref().map(|reading| reading.drills.clone()).unwrap_or_default(),
        };
        let until = self.authority.filter(|_| self.leads()).unwrap_or(0);
        self.shared.show(shown, until);
    }

    /// Parsed once for each revision.
    fn shown_config(&self) -> Option<(Arc<Value>, u64)> {
        let config = self.reading.as_ref()?.config.as_ref()?;
        let shown = self.shared.shown().config.filter(|(_, revision)| *revision == config.revision);
        shown.or_else(|| Some((Arc::new(serde_json::from_str(&config.value).ok()?), config.revision)))
    }

    fn history_lines(&self) -> Vec<HistoryLine> {
        let entries = self.reading.iter().flat_map(|reading| &reading.view.history);
        entries.map(|e| HistoryLine(e.0, e.1, e.2.clone(), e.3.clone(), e.4.clone())).collect()
    }

    pub(super) fn sync(&self) -> Option<&SyncRecord> {
        Some(&self.reading.as_ref()?.view.sync.as_ref()?.value)
    }

    fn member_status(&self, record: &MemberRecord) -> MemberStatus {
        let probe = self.pg.probe.as_ref();
        let sync = self.sync();
        let voter = votes(sync, self.options.name(), record);
        MemberStatus {
            state: record.state.clone(),
            postmaster_start_time: probe.and_then(|probe| start_time(probe.postmaster_start_time)),
            role: role(record.role).to_owned(),
            server_version: self.pg.sql().map(|sql| sql.server().version_num),
            xlog: probe.map(xlog),
            timeline: record.timeline,
            replication_state: record.replication_state.clone(),
            replication: probe.map(replication).unwrap_or_default(),
            quorum_standby: voter && self.leader_name() != Some(self.options.name()),
            pause: self.config.pause,
            cluster_unlocked: self.leader_name().is_none(),
            dcs_last_seen: self.read_at.map_or(0, |at| at.as_second()),
            tags: record.tags.clone(),
            database_system_identifier: self
                .pg
                .control
                .as_ref()
                .map(|control| control.system_identifier.to_string())
                .unwrap_or_default(),
            pending_restart: record.pending_restart,
            pending_restart_reason: pending(record),
            scheduled_restart: scheduled_restart(record),
            patroni: Identity {
                version: record.version.clone(),
                scope: self.options.scope.clone(),
                name: self.options.name().to_string(),
            },
            watchdog_failed: self.watchdog_failure.is_some(),
            matriarch: self.member_detail(record, probe),
            ..MemberStatus::default()
        }
    }

    fn member_detail(&self, record: &MemberRecord, probe: Option<&Probe>) -> MemberDetail {
        let leader = self.leader_name().and_then(|name| self.reading.as_ref()?.view.members.get(name));
        MemberDetail {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            leader: self.leads() || self.stands_in(),
            store_reachable: self.shared.store_error().is_none(),
            epoch: record.epoch,
            incarnation: record.incarnation.as_ref().map(ToString::to_string),
            ttl_ms: crate::policy::ttl(&self.config),
            leader_lsn: leader
                .and_then(|leader| leader.xlog_location)
                .max(probe.and_then(|probe| probe.receiver.as_ref()?.latest_end_lsn).map(|lsn| lsn.0)),
            zone: zone(record),
            role_changes: self.roles.changes,
            last_failover_ms: self.roles.last_failover,
            maximum_lag_on_failover: self.config.maximum_lag_on_failover,
            problem: self.problem.clone(),
            why: Some(self.last_why.to_owned()),
            decisions: self.shared.decisions(),
            slots: probe.map(slots).unwrap_or_default(),
            certificates: self.certificates(),
            ..MemberDetail::default()
        }
    }

    fn store_view(&self, revision: u64) -> StoreView {
        let (address, error) = (self.shared.store.describe(), self.shared.store_error());
        StoreView {
            engine: engine(&address).to_owned(),
            address,
            reachable: error.is_none(),
            revision,
            problem: error.or_else(|| self.storage.trouble()),
        }
    }

    fn cluster_status(&self, own: &MemberRecord) -> ClusterStatus {
        let Some(reading) = &self.reading else {
            return ClusterStatus { scope: self.options.scope.clone(), ..ClusterStatus::default() };
        };
        let view = &reading.view;
        let leader = self.leader_name();
        let mut members: BTreeMap<&MemberName, &MemberRecord> = view.members.iter().collect();
        members.insert(self.options.name(), own);
        let head = leader.and_then(|name| members.get(name)?.xlog_location).map(Lsn);
        let mut rows: Vec<MemberRow> =
            members.iter().map(|(name, record)| row(name, record, leader == Some(*name), head, self.sync())).collect();
        let known = self.sync().iter().flat_map(|sync| &sync.membership).collect::<Vec<_>>();
        for name in known.into_iter().filter(|name| !members.contains_key(name)) {
            rows.push(MemberRow {
                name: name.to_string(),
                role: "replica".to_owned(),
                state: "unreachable".to_owned(),
                expired: true,
                ..MemberRow::default()
            });
        }
        rows.sort_by(|one, other| one.name.cmp(&other.name));
        let failover = view.failover.as_ref().and_then(|request| {
            Some(ScheduledSwitchover {
                at: request.value.scheduled_at.clone()?,
                from: request.value.leader.as_ref().map(ToString::to_string),
                to: request.value.member.as_ref().map(ToString::to_string),
            })
        });
        ClusterStatus {
            members: rows,
            pause: self.config.pause,
            scheduled_switchover: failover,
            scope: self.options.scope.clone(),
            matriarch: ClusterDetail {
                leader: leader.map(ToString::to_string),
                epoch: self.sync().map_or(0, |sync| sync.epoch),
                rule: self.sync().map(|sync| RuleView {
                    voters: sync.rule.voters.keys().map(ToString::to_string).collect(),
                    needed: sync.rule.needed,
                    established: sync.established,
                    previous: previous_rule(sync),
                }),
                known: known_rows(reading),
                handover: self.sync().is_some_and(|sync| sync.handover),
                routers: routers(view),
                restore: reading.in_place.as_ref().and_then(|record| record.value.sentence()),
                system_identifier: view.initialize.as_ref().map(|initialize| initialize.value.clone()),
                store: Some(self.store_view(view.revision)),
                seen_by: self.options.name().to_string(),
                seen_at: self.read_at.map(|at| at.to_string()),
            },
        }
    }
}

/// As configurations name it.
fn engine(address: &str) -> &'static str {
    match address.split_once(':') {
        Some(("etcd", _)) => "etcd",
        Some(("consul" | "consuls", _)) => "consul",
        _ => "sqlite",
    }
}

fn routers(view: &ClusterView) -> Vec<RouterRow> {
    let announced = view.sync.as_ref().filter(|sync| sync.value.handover).map(|sync| sync.revision);
    let row = |(id, router): (&String, &RouterRecord)| RouterRow {
        id: id.clone(),
        kind: router.kind.to_string(),
        address: router.address.clone(),
        holds: announced.is_some() && router.holds == announced,
        problem: router.problem.clone(),
    };
    view.routers.iter().map(row).collect()
}

fn known_rows(reading: &Reading) -> Vec<KnownRow> {
    let rows = reading.known.iter().map(|(name, known)| KnownRow {
        member: name.to_string(),
        timeline: known.timeline,
        lsn: known.lsn,
        at: known.at.clone(),
    });
    rows.collect()
}

fn role(role: Role) -> &'static str {
    match role {
        Role::Primary => "primary",
        Role::Replica => "replica",
        Role::Uninitialized => "uninitialized",
    }
}

fn pending(record: &MemberRecord) -> BTreeMap<String, PendingChange> {
    let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let change = |value| PendingChange { old_value: text(value, "old_value"), new_value: text(value, "new_value") };
    record.pending_restart_reason.iter().map(|(name, value)| (name.clone(), change(value))).collect()
}

/// The tag that says where the member is.
fn zone(record: &MemberRecord) -> Option<String> {
    record.tags.get("zone").map(|zone| zone.as_str().map_or_else(|| zone.to_string(), ToOwned::to_owned))
}

fn scheduled_restart(record: &MemberRecord) -> Option<ScheduledRestart> {
    serde_json::from_value(record.scheduled_restart.clone()?).ok()
}

/// The rule that may still be in force beside the newest: the fence counts both.
fn previous_rule(sync: &SyncRecord) -> Option<PreviousRuleView> {
    let previous = sync.previous.first()?;
    Some(PreviousRuleView {
        leader: previous.leader.to_string(),
        voters: previous.rule.voters.keys().map(ToString::to_string).collect(),
        needed: previous.rule.needed,
    })
}

/// Whether the rule counts on the data that the member has now. A wiped member's old data may still be named in it, and
/// nobody can speak for that.
fn votes(sync: Option<&SyncRecord>, name: &MemberName, record: &MemberRecord) -> bool {
    let rule = sync.map(|sync| &sync.rule).filter(|rule| !rule.is_empty());
    rule.zip(record.incarnation.as_ref()).is_some_and(|(rule, incarnation)| rule.has(name, incarnation))
}

fn row(
    name: &MemberName,
    record: &MemberRecord,
    leads: bool,
    head: Option<Lsn>,
    sync: Option<&SyncRecord>,
) -> MemberRow {
    let voter = votes(sync, name, record);
    let role = match (leads, voter) {
        (true, _) => "leader",
        (false, true) => "quorum_standby",
        (false, false) => "replica",
    };
    let following = record.replication_state.clone().filter(|_| record.state == "running");
    let lag = |position: Option<u64>| match (head, position) {
        (Some(head), Some(position)) => Lag::Bytes(head.bytes_since(Lsn(position))),
        _ => Lag::UNKNOWN,
    };
    let shown = |position: Option<u64>| position.map_or("unknown".to_owned(), |lsn| Lsn(lsn).to_string());
    let (host, port) = record.address().and_then(|address| address.rsplit_once(':')).unzip();
    let replica = !leads;
    MemberRow {
        name: name.to_string(),
        role: role.to_owned(),
        state: following.unwrap_or_else(|| record.state.clone()),
        api_url: record.api_url.clone(),
        host: host.map(ToOwned::to_owned),
        port: port.and_then(|port| port.parse().ok()),
        timeline: record.timeline,
        pending_restart: record.pending_restart,
        pending_restart_reason: pending(record),
        scheduled_restart: scheduled_restart(record),
        tags: record.tags.clone(),
        receive_lsn: replica.then(|| shown(record.receive_lsn)),
        receive_lag: replica.then(|| lag(record.receive_lsn)),
        replay_lsn: replica.then(|| shown(record.replay_lsn)),
        replay_lag: replica.then(|| lag(record.replay_lsn)),
        lsn: Some(shown(record.xlog_location)),
        lag: replica.then(|| lag(record.xlog_location)),
        problem: record.problem.clone(),
        zone: zone(record),
        upstream: record.upstream.as_ref().map(ToString::to_string),
        expired: false,
    }
}

fn xlog(probe: &Probe) -> Xlog {
    let number = |lsn: Option<Lsn>| lsn.map(|lsn| lsn.0);
    if !probe.in_recovery {
        return Xlog { location: number(probe.flush_lsn), ..Xlog::default() };
    }
    Xlog {
        location: None,
        received_location: number(probe.receive_lsn.or(probe.replay_lsn)),
        replayed_location: number(probe.replay_lsn),
        replayed_timestamp: probe.replay_timestamp.and_then(start_time),
        paused: Some(probe.replay_paused),
    }
}

fn start_time(seconds: f64) -> Option<String> {
    let at = jiff::Timestamp::from_microsecond((seconds * 1e6) as i64).ok()?;
    Some(at.strftime("%Y-%m-%d %H:%M:%S%.6f+00:00").to_string())
}

fn replication(probe: &Probe) -> Vec<ReplicationRow> {
    let head = probe.flush_lsn.unwrap_or_default();
    let lag = |lsn: Option<Lsn>| lsn.map(|lsn| head.bytes_since(lsn));
    let rows = probe.replication.iter().map(|row| ReplicationRow {
        usename: String::new(),
        application_name: row.application_name.clone(),
        client_addr: row.client_addr.clone(),
        state: row.state.clone().unwrap_or_default(),
        sync_state: row.sync_state.clone().unwrap_or_default(),
        sent_lsn: row.sent_lsn.map(|lsn| lsn.to_string()),
        flush_lsn: row.flush_lsn.map(|lsn| lsn.to_string()),
        replay_lsn: row.replay_lsn.map(|lsn| lsn.to_string()),
        flush_lag: lag(row.flush_lsn),
        replay_lag: lag(row.replay_lsn),
        replay_lag_ms: row.replay_lag.map(|seconds| (seconds * 1000.0) as u64),
        ..ReplicationRow::default()
    });
    rows.collect()
}

fn slots(probe: &Probe) -> Vec<SlotRow> {
    let head = probe.position();
    let rows = probe.slots.iter().map(|slot| SlotRow {
        name: slot.name.clone(),
        kind: slot.kind.clone(),
        active: slot.active,
        restart_lsn: slot.restart_lsn.map(|lsn| lsn.to_string()),
        retained: slot.restart_lsn.map(|lsn| head.bytes_since(lsn)),
        wal_status: slot.wal_status.clone(),
    });
    rows.collect()
}
