//! What this member tells the others: its record, the leader's position, and where timelines forked.

use std::collections::BTreeMap;

use matriarch_core::decide::{Ailment, Data, Job, Millis, Purpose, Server, Why};
use matriarch_core::record::{HistoryEntry, IN_ARCHIVE_RECOVERY, KnownPosition, MemberRecord, Role, StatusRecord, key};
use matriarch_core::transaction::Txn;
use matriarch_core::{Lsn, MemberName};
use matriarch_postgres::{Probe, history};

use super::Shell;

/// Positions are told at most this often; everything else at once.
const POSITION_INTERVAL: Millis = 2_000;

/// What was last told.
#[derive(Default)]
pub struct Published {
    /// Everything a first record needs was seen.
    begun: bool,
    /// Our record without positions; none when it must be written.
    pub member: Option<MemberRecord>,
    /// When positions were last told.
    at: Millis,
    position: Option<u64>,
    optime: u64,
    /// The timeline whose history was written.
    history: u32,
}

impl Shell {
    pub(super) fn publish(&mut self, now: Millis) {
        let record = self.member_record();
        self.note_role(record.role, now);
        let mut plain = record.clone();
        (plain.xlog_location, plain.receive_lsn, plain.replay_lsn) = (None, None, None);
        let moved = record.xlog_location != self.published.position && now >= self.published.at + POSITION_INTERVAL;
        self.published.begun |= self.knows_itself();
        if self.published.begun && !self.has_namesake() && (self.published.member.as_ref() != Some(&plain) || moved) {
            let text = serde_json::to_string(&record).expect("records have string keys and finite numbers only");
            if self.storage.put_member(key::member(self.options.name()), text) {
                self.published.position = record.xlog_location;
                self.published.member = Some(plain);
                self.published.at = now;
                if moved {
                    self.tell_optime(&record);
                }
            }
        }
        self.tell_history();
        self.tell_shared(&record);
    }

    /// An agent that takes over a running PostgreSQL says nothing before it has seen how that is: what an earlier process
    /// said holds until then, and routers would cut sessions off a primary that is said to be starting.
    fn knows_itself(&self) -> bool {
        self.reading.is_some() && self.pg.data != Data::Unknown && !self.pg.is_unseen()
    }

    fn member_record(&self) -> MemberRecord {
        let options = &self.options;
        let probe = self.pg.probe.as_ref();
        let standby = probe.is_none_or(|probe| probe.in_recovery);
        let pending_restarts = self.pg.pending_restarts();
        MemberRecord {
            conn_url: format!("postgres://{}/postgres", options.postgres_address),
            api_url: format!("{}/patroni", options.api_url),
            state: self.state().to_owned(),
            role: match (&self.pg.data, probe) {
                (_, Some(probe)) if !probe.in_recovery => Role::Primary,
                (Data::Ready(_) | Data::Unknown, _) => Role::Replica,
                _ => Role::Uninitialized,
            },
            version: super::strangers::VERSION.to_owned(),
            xlog_location: self.position().map(|lsn| lsn.0),
            // After a restart the position received says nothing yet, or the start of a segment.
            receive_lsn: probe
                .filter(|_| standby)
                .and_then(|probe| probe.receive_lsn.max(probe.replay_lsn))
                .map(|lsn| lsn.0),
            replay_lsn: probe.filter(|_| standby).and_then(|probe| probe.replay_lsn).map(|lsn| lsn.0),
            replication_state: probe.and_then(|probe| self.replication_state(probe)).map(str::to_owned),
            upstream: self.pg.upstream(),
            timeline: probe.map(|probe| probe.timeline),
            tags: options.tags.clone(),
            pending_restart: !pending_restarts.is_empty(),
            pending_restart_reason: pending_restarts
                .iter()
                .map(|pending| {
                    let new = pending.new.clone().unwrap_or_default();
                    (pending.name.clone(), serde_json::json!({"old_value": pending.current, "new_value": new}))
                })
                .collect(),
            scheduled_restart: self.scheduled_restart(),
            pause: self.config.pause,
            incarnation: self.incarnation_that_counts(),
            // Not what a store shows that went back in time: routers would take a primary for one of old.
            epoch: self.newest_sync().map_or(0, |sync| sync.epoch),
            // A proxy that comes through the socket would lend its identity to whoever it serves.
            unix_socket: self.socket_is_safe.then(|| options.instance.socket_path().to_string_lossy().into_owned()),
            host_id: Some(options.host_id.clone()),
            tls: crate::policy::parameters(&self.config).get("ssl").is_some_and(|ssl| ssl == "on"),
            disk_full: matches!(self.ailment(), Some(Ailment::Full { .. })),
            replay_still: matches!(self.ailment(), Some(Ailment::ReplayStill { .. })),
            leaves_rule: self.last_why == Why::STILL_A_VOTER,
            problem: self.problem.clone(),
        }
    }

    /// Patroni's words for how a replica gets its WAL.
    fn replication_state(&self, probe: &Probe) -> Option<&'static str> {
        match &probe.receiver {
            Some(receiver) => (receiver.status == "streaming").then_some("streaming"),
            None => (probe.in_recovery && self.options.from_archive()).then_some(IN_ARCHIVE_RECOVERY),
        }
    }

    /// Patroni's words for what PostgreSQL does.
    fn state(&self) -> &'static str {
        match (self.pg.busy(), &self.pg.server) {
            // Whoever asked for it waits for this state to end.
            _ if self.reinit => "creating replica",
            (None, Server::Stopped) if self.replaces_data() => "restoring",
            (Some(Job::Initdb), _) => "initializing new cluster",
            (Some(Job::Clone), _) => "creating replica",
            (Some(Job::Rewind), _) => "running pg_rewind",
            (Some(Job::Restart), _) => "restarting",
            (Some(Job::StopFast | Job::StopImmediate), _) => "stopping",
            (Some(Job::StartPrimary | Job::StartStandby), _) => "starting",
            (_, Server::Running(_)) => "running",
            (_, Server::Unready) => "starting",
            (_, Server::Stopped) => match &self.pg.finished {
                Some(finished) if finished.failure.is_some() => "start failed",
                _ => "stopped",
            },
        }
    }

    /// The leader's position, for the lag limit of an asynchronous failover and for Patroni's tools.
    fn tell_optime(&mut self, record: &MemberRecord) {
        let Some(position) = record.xlog_location.filter(|_| record.role == Role::Primary && self.leads()) else {
            return;
        };
        let leader = self.reading.as_ref().and_then(|reading| reading.view.leader.as_ref());
        let Some(revision) = leader.map(|leader| leader.revision).filter(|_| position != self.published.optime) else {
            return;
        };
        self.published.optime = position;
        let record = StatusRecord {
            optime: position,
            timeline: record.timeline.unwrap_or_default(),
            known: self.known_positions(),
        };
        let mut status = serde_json::to_value(record).expect("its keys are names");
        status[crate::view::SLOTS] = serde_json::json!(self.slot_positions());
        let status = status.to_string();
        let store = self.storage.handle();
        tokio::spawn(async move {
            let txn = matriarch_dcs::Txn::new().revision(key::LEADER, revision).put(key::STATUS, status);
            // The next one comes soon; a lost one only makes a lag limit stricter.
            let _ = store.commit(txn).await;
        });
    }

    /// How far this leader and those who stream from it are; of the others what was known before.
    fn known_positions(&self) -> BTreeMap<MemberName, KnownPosition> {
        let mut known = self.reading.as_ref().map(|reading| reading.known.clone()).unwrap_or_default();
        let (Some(probe), Some(sync)) = (&self.pg.probe, self.sync()) else { return known };
        known.retain(|name, _| sync.membership.contains(name));
        let at = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let mut note = |name: &MemberName, lsn: Option<Lsn>| {
            if let Some(lsn) = lsn {
                known.insert(name.clone(), KnownPosition { timeline: probe.timeline, lsn: lsn.0, at: at.clone() });
            }
        };
        note(self.options.name(), probe.flush_lsn);
        for row in &probe.replication {
            let name = row.application_name.split(':').next().and_then(|name| name.parse().ok());
            if let Some(name) = name.filter(|name| sync.membership.contains(name)) {
                note(&name, row.flush_lsn);
            }
        }
        known
    }

    /// After a promotion: where the timelines before ours ended.
    fn tell_history(&mut self) {
        let Some(probe) = self.pg.probe.as_ref().filter(|probe| !probe.in_recovery && probe.timeline > 1) else {
            return;
        };
        let timeline = probe.timeline;
        if self.published.history == timeline || !self.leads() || self.view_is_old || self.past.is_shown() {
            return;
        }
        let Some(reading) = &self.reading else { return };
        let history = match history::read(self.pg.instance(), timeline) {
            Ok(Some(history)) => history,
            Ok(None) => return,
            Err(error) => {
                tracing::warn!("{error}");
                return;
            }
        };
        let loss = self.sync().and_then(|sync| sync.accepted_loss.as_ref());
        let known = |timeline| reading.view.history.iter().find(|entry| entry.0 == timeline);
        let now = jiff::Timestamp::now().to_string();
        let mut entries: Vec<HistoryEntry> = Vec::new();
        let heirs = history.ancestors.iter().skip(1).map(|ancestor| ancestor.timeline).chain([timeline]);
        for (ancestor, heir) in history.ancestors.iter().zip(heirs) {
            let entry = known(ancestor.timeline).filter(|entry| entry.1 == ancestor.switch_lsn.0).cloned();
            entries.push(entry.unwrap_or_else(|| {
                let accepted = loss.filter(|loss| loss.timeline == heir).map(|loss| loss.text.clone());
                let reason = accepted.unwrap_or_else(|| "no recovery target specified".to_owned());
                let leader = self.options.name().to_string();
                HistoryEntry(ancestor.timeline, ancestor.switch_lsn.0, reason, now.clone(), leader)
            }));
        }
        if entries == reading.view.history {
            self.published.history = timeline;
            return;
        }
        let txn = Txn::new().as_seen(key::HISTORY, reading.view.history_revision).put(key::HISTORY, &entries);
        self.storage.commit(Purpose::History, txn);
    }
}
