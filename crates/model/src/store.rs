//! The store: what `decide` is shown of it, and what its transactions do.

use std::sync::Arc;

use matriarch_core::Lsn;
use matriarch_core::decide::{ClusterView, LeaderKey};
use matriarch_core::record::{FailoverRequest, HistoryEntry, MemberRecord, Role, SyncRecord, Versioned, key};
use matriarch_core::transaction::{Compare, Write};

use crate::agent::{How, TICKS};
use crate::canonical::next_number;
use crate::decided::Sent;
use crate::reduce::revision;
use crate::scene::Scene;
use crate::setup::{incarnation, member_name};
use crate::shared::Shared;
use crate::state::{Effect, Held, Id, Key, Leader, Process, Records, Request, id, name};

/// The identity of the modelled cluster.
pub const SYSTEM: &str = "7000000000000000000";

impl Scene<'_> {
    /// The view in core's terms. Member records are taken as prompt: nothing that counts rests on them.
    pub fn cluster_view(&self, reader: Id) -> ClusterView {
        let records = self.state.view(reader);
        let reader = self.state.at(reader);
        ClusterView {
            revision: 1,
            initialize: records.initialize.map(|revision| Versioned { revision, value: SYSTEM.to_owned() }),
            leader: records.leader.as_ref().map(|leader| LeaderKey {
                name: member_name(leader.name),
                revision: leader.revision,
                held: reader.lease.is_some_and(|held| held.id == leader.lease),
            }),
            sync: records
                .sync
                .as_ref()
                .map(|sync| Versioned { revision: sync.revision, value: sync.value.as_ref().clone() }),
            sync_of_others: None,
            strangers: Default::default(),
            members: self.state.ids().map(|id| (member_name(id), self.member_record(id))).collect(),
            pledges: self
                .state
                .ids()
                .filter_map(|id| Some((member_name(id), records.pledges[id as usize].clone()?)))
                .collect(),
            failover: records
                .failover
                .as_ref()
                .map(|request| Versioned { revision: request.revision, value: request.value.as_ref().clone() }),
            config_revision: None,
            failover_due: records.failover.is_some(),
            history: records
                .history
                .iter()
                .map(|(timeline, end)| HistoryEntry(*timeline, *end, String::new(), String::new(), String::new()))
                .collect(),
            history_revision: None,
            optime: Lsn::ZERO,
            optime_timeline: 0,
            routers: Default::default(),
        }
    }

    fn member_record(&self, of: Id) -> MemberRecord {
        let member = self.state.at(of);
        let dir = member.dir.as_ref();
        let (state, role) = match member.pg.process {
            Process::Stopped => ("stopped", Role::Uninitialized),
            Process::Standby => ("running", Role::Replica),
            Process::Primary => ("running", Role::Primary),
            Process::Stopping => ("starting", Role::Uninitialized),
        };
        MemberRecord {
            conn_url: String::new(),
            api_url: String::new(),
            state: state.to_owned(),
            role,
            version: String::new(),
            xlog_location: None,
            receive_lsn: None,
            replay_lsn: None,
            replication_state: None,
            upstream: None,
            timeline: dir.map(|dir| dir.timeline()),
            tags: Default::default(),
            pending_restart: false,
            pending_restart_reason: Default::default(),
            scheduled_restart: None,
            pause: false,
            incarnation: dir.map(|dir| incarnation(dir.incarnation)),
            epoch: if role == Role::Primary { member.pg.led } else { 0 },
            unix_socket: None,
            host_id: None,
            tls: false,
            disk_full: false,
            replay_still: false,
            // Whether it waits for that is in no state of the model; that it does not run is necessary.
            leaves_rule: state != "running",
            problem: None,
        }
    }

    /// Sends a transaction; one at a time per agent.
    pub fn send(&mut self, me: Id, how: How, sent: &Sent) -> bool {
        let waits = self.state.flight.iter().any(|request| request.from == me && request.awaited);
        if waits || self.state.at(me).away {
            return false;
        }
        let lease = sent.leased.then(|| next_number(&self.state, Key::Lease));
        let request = Request {
            from: me,
            awaited: true,
            purpose: sent.purpose,
            compares: sent.compares.clone(),
            writes: sent.writes.clone(),
            lease,
            age: 0,
            answered: false,
        };
        self.note(|| format!("{}: sends {:?} {:?}", name(me), request.purpose, request.compares));
        if how == How::Late {
            self.state.flight.push(Arc::new(request));
        } else {
            self.land(request);
        }
        true
    }

    /// A request reaches the store, and its answer the sender, if that still waits.
    pub fn land(&mut self, request: Request) {
        let holds = request.compares.iter().all(|(key, compared)| revision(&self.state.records, *key) == *compared);
        self.note(|| {
            let outcome = if holds { "applied" } else { "refused" };
            format!("store: {:?} of {} is {outcome}", request.purpose, name(request.from))
        });
        if holds {
            self.apply(&request);
        }
        if request.awaited && self.state.at(request.from).away {
            self.state.member(request.from).maybe = request.lease;
        } else if request.awaited {
            if let Some(lease) = request.lease.filter(|_| holds) {
                let left = self.lease_left(request.age);
                self.state.member(request.from).lease = Some(Held { id: lease, left });
                self.guard_until(request.from, left);
            }
            self.read_store(request.from);
        }
    }

    fn apply(&mut self, request: &Request) {
        let before = self.state.sync().cloned();
        for effect in &request.writes {
            match effect {
                Effect::Initialize => {
                    self.state.store().initialize = Some(next_number(&self.state, Key::Initialize));
                }
                Effect::Leader(name) => {
                    let revision = next_number(&self.state, Key::Leader);
                    let lease = request.lease.expect("a leader key comes with a lease");
                    self.state.store().leader = Some(Leader { name: *name, revision, lease, left: TICKS });
                }
                Effect::NoLeader => self.state.store().leader = None,
                Effect::Sync(sync) => {
                    let revision = next_number(&self.state, Key::Sync);
                    self.state.store().sync = Some(Versioned { revision, value: sync.clone() });
                }
                Effect::Pledge(id, pledge) => {
                    let revision = next_number(&self.state, Key::Pledge(*id));
                    self.state.store().pledges[*id as usize] = Some(Versioned { revision, value: pledge.clone() });
                }
                Effect::NoFailover => self.state.store().failover = None,
            }
        }
        let after = self.state.records.sync.as_ref().map(|sync| sync.value.clone());
        if let Some(after) = after.filter(|after| before.as_ref() != Some(after)) {
            self.check_sync(before.as_ref(), &after, request.from);
        }
    }

    /// The leader key goes with its lease.
    pub fn expire(&mut self) {
        self.note(|| "store: the leader's lease has ended".to_owned());
        self.state.store().leader = None;
    }

    /// A person asks for a takeover whatever that loses.
    pub fn accept_loss(&mut self, member: Id) {
        self.note(|| format!("store: a person accepts the loss of commits on {}", name(member)));
        let revision = next_number(&self.state, Key::Failover);
        let request =
            FailoverRequest { member: Some(member_name(member)), accept_data_loss: true, ..Default::default() };
        self.state.store().failover = Some(Versioned { revision, value: Arc::new(request) });
    }

    /// Gives the lease back.
    pub fn drop_lease(&mut self, me: Id) {
        let Some(held) = self.state.member(me).lease.take() else { return };
        let known = self.state.records.leader.as_ref().is_some_and(|leader| leader.lease == held.id);
        if known && !self.state.at(me).away {
            self.state.store().leader = None;
        }
    }

    /// The answer to a request is given up on; the request may still land.
    pub fn give_up(&mut self, me: Id) -> bool {
        let Some(request) = self.state.flight.iter_mut().find(|request| request.from == me && request.awaited) else {
            return false;
        };
        let request = Arc::make_mut(request);
        request.awaited = false;
        let lease = request.lease;
        self.note(|| format!("{}: no answer from the store", name(me)));
        if lease.is_some() {
            self.state.member(me).maybe = lease;
        }
        true
    }

    /// What the store forgets when it comes back with what it held then.
    pub fn restore(&mut self, saved: Shared<Records>) {
        self.note(|| "store: comes back with an older content".to_owned());
        let mut records = Records::clone(&saved);
        records.leader = None;
        self.state.records = Shared::new(records);
    }
}

fn key_of(text: &str) -> Key {
    match text {
        key::INITIALIZE => Key::Initialize,
        key::LEADER => Key::Leader,
        key::SYNC => Key::Sync,
        key::FAILOVER => Key::Failover,
        _ => {
            let member = text.strip_prefix("pledges/");
            Key::Pledge(id(member.unwrap_or_else(|| panic!("the model does not know the key '{text}'"))))
        }
    }
}

/// What a transaction compares.
pub fn compare(compare: &Compare) -> (Key, Option<u64>) {
    match compare {
        Compare::Absent { key } => (key_of(key), None),
        Compare::Revision { key, revision } => (key_of(key), Some(*revision)),
    }
}

/// What it writes; nothing that decisions do not read.
pub fn effect(write: &Write) -> Option<Effect> {
    Some(match write {
        Write::Put { key, .. } if key == key::HISTORY || key == key::CONFIG => return None,
        Write::Put { key, value, .. } => match key_of(key) {
            Key::Initialize => Effect::Initialize,
            Key::Leader => Effect::Leader(id(value)),
            Key::Sync => Effect::Sync(Arc::new(untold(parsed(value)))),
            Key::Pledge(id) => Effect::Pledge(id, parsed(value)),
            Key::Failover | Key::Lease => panic!("decisions do not write '{key}'"),
        },
        Write::Delete { key } => match key_of(key) {
            Key::Leader => Effect::NoLeader,
            Key::Failover => Effect::NoFailover,
            _ => panic!("decisions do not delete '{key}'"),
        },
    })
}

/// Without what is there for people only.
fn untold(mut sync: SyncRecord) -> SyncRecord {
    sync.accepted_loss.iter_mut().for_each(|loss| loss.text.clear());
    sync
}

fn parsed<T: serde::de::DeserializeOwned>(value: &str) -> T {
    serde_json::from_str(value).expect("decisions write records")
}
