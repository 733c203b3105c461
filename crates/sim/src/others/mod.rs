//! The program that kept the cluster before ours, such as Patroni: no more of it than what it leaves behind, and when. Where it
//! runs it keeps keys in the store, starts and points PostgreSQL, and makes a replica the primary once its leader key is gone.

mod acts;

use std::collections::BTreeMap;

use matriarch_core::decide::{Millis, Settings};
use matriarch_core::record::{HistoryEntry, key};
use serde_json::json;

use crate::disk::{Dir, Disk};
use crate::event::Event;
use crate::node::NodeId;
use crate::server::Process;
use crate::store::LeaseId;
use crate::wal::Wal;
use crate::world::World;

pub use acts::Act;

/// What its cluster calls itself.
pub(crate) const SYSTEM: &str = "7575";
/// Life of the record of a member where it runs.
const RECORD: Millis = 3000;
/// Life of its leader key: longer, so that a member's record can be gone before.
const LEADER: Millis = 6000;

/// All there is of it.
#[derive(Clone, Debug, Default)]
pub struct Others {
    /// Where it runs, with the lease of its record there.
    runs: BTreeMap<NodeId, LeaseId>,
    /// Who took its leader key last, and the lease of that.
    lead: Option<(NodeId, LeaseId)>,
    /// Its newest primary: what is acknowledged there counts.
    primary: NodeId,
    /// Who is being made the next one.
    promotes: Option<NodeId>,
    /// The store has been told of the newest primary.
    told: bool,
    doomed: bool,
    /// It keeps `status`.
    keeps_status: bool,
    /// It keeps `sync`.
    keeps_sync: bool,
    ticks: bool,
    /// What its primary has acknowledged: places and identities.
    acknowledged: Vec<(usize, u64)>,
}

impl World {
    /// The first member is the primary of a cluster that another program keeps, the others stream from it.
    pub(crate) fn keep_by_others(&mut self) {
        let mut wal = Wal::default();
        let timelines = self.random(1, 2) as u32;
        for timeline in 1..=timelines {
            for _ in 0..self.random(3, 20) {
                let uid = self.unique();
                wal.append(timeline, 120, uid);
            }
        }
        wal.flushed = wal.len();
        let mut others = Others { told: true, keeps_status: true, keeps_sync: self.chance(50), ..Others::default() };
        self.store.put(key::INITIALIZE, SYSTEM.to_owned(), None);
        self.set_paused(false);
        for node in 0..self.nodes.len() {
            self.nodes[node].disk = Disk::Ready(Box::new(Dir {
                system: SYSTEM.to_owned(),
                incarnation: None,
                checkpoint: (timelines, wal.end(wal.len() - 1)),
                wal: wal.clone(),
                opened: 0,
                clean: true,
                standby: node != 0,
                unclaimed: false,
            }));
            self.start_by_others(node, (node != 0).then_some(0));
            others.runs.insert(node, self.unique());
        }
        self.lead_by_others(&mut others, 0);
        self.others = Some(others);
        self.others_tick();
        self.store_changed();
    }

    /// What its newest primary is, while there is or was such a program.
    pub(crate) fn primary_of_others(&self) -> Option<NodeId> {
        self.others.as_ref().map(|others| others.primary)
    }

    /// What that had acknowledged and this member lacks.
    pub(crate) fn lacks_of_others(&self, node: NodeId) -> usize {
        let (Some(others), Some(wal)) = (&self.others, self.nodes[node].wal()) else { return 0 };
        others.acknowledged.iter().filter(|(index, uid)| !wal.holds(*index, *uid)).count()
    }

    pub(crate) fn acknowledged_under_others(&mut self, index: usize, uid: u64) {
        if let Some(others) = &mut self.others {
            others.acknowledged.push((index, uid));
        }
    }

    /// Starts PostgreSQL as that program does, or a person with its settings.
    pub(crate) fn start_by_others(&mut self, node: NodeId, upstream: Option<NodeId>) {
        let upstream = upstream.map(|upstream| self.nodes[upstream].name.clone());
        let primary = upstream.is_none();
        self.nodes[node].settings = Settings { upstream, ..Settings::default() };
        self.start_postgres(node, primary);
        self.nodes[node].pg.by_others = true;
    }

    fn point_by_others(&mut self, node: NodeId, upstream: NodeId) {
        let upstream = Some(self.nodes[upstream].name.clone());
        self.nodes[node].settings = Settings { upstream, ..Settings::default() };
        self.pg_reload(node);
        self.nodes[node].pg.by_others = true;
    }

    fn paused_in_store(&mut self) -> bool {
        self.store.view().paused
    }

    /// It looks at everything, several times in the life of its keys.
    pub(crate) fn others_tick(&mut self) {
        let Some(mut others) = self.others.take() else { return };
        let before = self.store.revision();
        self.keep_records(&others);
        self.keep_lead(&mut others);
        self.tell_of_primary(&mut others);
        self.keep_servers(&others);
        others.ticks = !others.runs.is_empty();
        if others.ticks {
            let delay = self.random(200, 900);
            self.after(delay, Event::Others);
        }
        self.others = Some(others);
        if self.store.revision() != before {
            self.store_changed();
        }
    }

    fn keep_records(&mut self, others: &Others) {
        for (node, lease) in &others.runs {
            let name = &self.nodes[*node].name;
            let role = if self.nodes[*node].pg.writable() { "primary" } else { "replica" };
            let record = json!({
                "conn_url": format!("postgres://{name}:5432/postgres"),
                "api_url": format!("http://{name}:8008/patroni"),
                "state": "running",
                "role": role,
                "version": "4.1.5",
            });
            let (key, record) = (key::member(name), record.to_string());
            self.renew_for_others(*lease, RECORD);
            if self.store.value(&key) != Some(&record) {
                self.store.put(&key, record, Some(*lease));
            }
        }
    }

    fn renew_for_others(&mut self, lease: LeaseId, ttl: Millis) {
        if !self.store.renew(lease, self.now) {
            self.store.grant(lease, ttl, self.now);
            self.watch_lease(lease);
        }
    }

    /// Who has the leader key keeps it; a key that is free goes to the primary, else to a replica that is on its timeline.
    fn keep_lead(&mut self, others: &mut Others) {
        let leads = self.store.view().leader_lease;
        if leads.is_some() {
            if let Some((node, lease)) = others.lead
                && leads == Some(lease)
                && others.runs.contains_key(&node)
            {
                self.store.renew(lease, self.now);
            }
            return;
        }
        let paused = self.paused_in_store();
        let level = |node: &&NodeId| {
            let timeline = |node: NodeId| self.nodes[node].wal().map(|wal| wal.timeline(wal.len()));
            self.nodes[**node].pg.standby() && timeline(**node) == timeline(others.primary)
        };
        let led = Some(others.promotes.unwrap_or(others.primary)).filter(|node| {
            others.runs.contains_key(node) && (others.promotes.is_some() || self.nodes[*node].pg.writable())
        });
        let next = || others.runs.keys().find(level).copied().filter(|_| !paused);
        if let Some(node) = led.or_else(next) {
            self.lead_by_others(others, node);
        }
    }

    fn lead_by_others(&mut self, others: &mut Others, node: NodeId) {
        let lease = self.unique();
        self.renew_for_others(lease, LEADER);
        self.store.put(key::LEADER, self.nodes[node].name.to_string(), Some(lease));
        others.lead = Some((node, lease));
        if node != others.primary {
            (others.promotes, others.told) = (Some(node), false);
        }
        self.note(|| format!("{node}: the other program leads here"));
    }

    fn tell_of_primary(&mut self, others: &mut Others) {
        let node = others.primary;
        let leads = others.lead.is_some_and(|(leader, lease)| leader == node && self.store.deadline(lease).is_some());
        if !leads || !others.runs.contains_key(&node) || !self.nodes[node].pg.writable() {
            return;
        }
        let Some(wal) = self.nodes[node].wal() else { return };
        let entry = |(timeline, lsn): (_, matriarch_core::Lsn)| {
            HistoryEntry(timeline, lsn.0, "no recovery target specified".to_owned(), String::new(), String::new())
        };
        let history: Vec<HistoryEntry> = wal.history().into_iter().map(entry).collect();
        let (history, status) = (json!(history).to_string(), json!({ "optime": wal.end(wal.flushed).0 }).to_string());
        let sync = json!({ "leader": self.nodes[node].name, "sync_standby": null }).to_string();
        for (key, value, kept) in [
            (key::HISTORY, history, true),
            (key::STATUS, status, others.keeps_status),
            (key::SYNC, sync, others.keeps_sync),
        ] {
            // A record of ours is none of its own.
            let ours = key == key::SYNC && self.store.view().cluster.sync.is_some();
            if kept && !ours && self.store.value(key) != Some(&value) {
                self.store.put(key, value, None);
            }
        }
        others.told = true;
    }

    /// Where it runs PostgreSQL is the primary, or follows that. While the cluster is paused nothing is started or stopped.
    fn keep_servers(&mut self, others: &Others) {
        let paused = self.paused_in_store();
        for node in others.runs.keys().copied() {
            let primary = node == others.primary;
            if others.promotes == Some(node) && self.nodes[node].pg.standby() {
                self.promote_postgres(node);
                continue;
            }
            match self.nodes[node].pg.process {
                Process::Stopped if !paused => self.start_by_others(node, (!primary).then_some(others.primary)),
                Process::Running { recovery: false } if !primary && !paused => self.kill_postgres(node),
                Process::Running { recovery: true } if !primary => {
                    let name = &self.nodes[others.primary].name;
                    if self.nodes[node].pg.loaded.upstream.as_ref() != Some(name) {
                        self.point_by_others(node, others.primary);
                    }
                }
                _ => {}
            }
        }
    }
}
