//! Reads the store's keys into the view that decisions are made on.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;
use std::sync::Arc;

use matriarch_api::{BackupLog, BackupRun, DrillLog};
use matriarch_core::decide::{ClusterView, LeaderKey};
use matriarch_core::record::{
    KnownPosition, MemberRecord, Pledge, RouterRecord, StatusRecord, SyncRecord, Versioned, key,
};
use matriarch_core::{Lsn, MemberName};
use matriarch_dcs::{Entry, LeaseId, Snapshot};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::chores::Chore;
use crate::in_place::{self, InPlace};

const MEMBERS: &str = "members/";

/// Beside the leader's position in `status`, as in Patroni.
pub const SLOTS: &str = "slots";

#[derive(Default, Deserialize)]
struct LeaderSlots {
    #[serde(default)]
    slots: BTreeMap<String, u64>,
}

/// A view, the raw configuration beside it, and what could not be read.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// For decisions.
    pub view: ClusterView,
    /// `config`.
    pub config: Option<Versioned<String>>,
    /// Where the configuration's slots stand on the leader: `slots` within `status`.
    pub slots: BTreeMap<String, u64>,
    /// How far each member was when a leader last heard of it: `known` within `status`.
    pub known: BTreeMap<MemberName, KnownPosition>,
    /// `drills`.
    pub drills: Arc<DrillLog>,
    /// `backups`.
    pub backups: Option<Versioned<BackupLog>>,
    /// `backup`: the scheduled one under way.
    pub backup: Option<BackupRun>,
    /// `dumps`: a log of the same form.
    pub dumps: Option<Versioned<BackupLog>>,
    /// `dump`: the scheduled one under way.
    pub dump: Option<BackupRun>,
    /// `restore`: the cluster goes back, or has gone.
    pub in_place: Option<Versioned<InPlace>>,
    /// Keys whose value is not what it should be: named, logged, and otherwise ignored.
    pub garbled: Vec<String>,
}

/// Reads a snapshot. `lease` is the leader lease of this process, if it has one; `now` is RFC 3339 wall time, for
/// scheduled requests.
pub fn read(snapshot: &Snapshot, lease: Option<LeaseId>, now: jiff::Timestamp) -> Reading {
    let mut reading = Reading::default();
    let garbled = &mut reading.garbled;
    let view = &mut reading.view;
    view.revision = snapshot.revision;
    view.initialize = snapshot.get(key::INITIALIZE).map(|entry| versioned(entry, entry.value.clone()));
    view.leader = snapshot.get(key::LEADER).and_then(|entry| {
        let name = note(garbled, key::LEADER, entry.value.parse::<MemberName>())?;
        Some(LeaderKey { name, revision: entry.revision, held: lease.is_some() && entry.lease == lease })
    });
    if let Some(entry) = snapshot.get(key::SYNC).filter(|entry| is_of_others(&entry.value)) {
        view.sync_of_others = Some(entry.revision);
    } else {
        view.sync = json::<SyncRecord>(snapshot, key::SYNC, garbled);
    }
    (view.members, view.strangers) = members(snapshot, garbled);
    view.pledges = keyed::<Pledge>(snapshot, "pledges/", garbled);
    view.routers = under::<String, RouterRecord>(snapshot, key::ROUTERS, garbled)
        .into_iter()
        .map(|(id, record)| (id, record.value))
        .collect();
    view.failover = json(snapshot, key::FAILOVER, garbled);
    view.failover_due = view.failover.as_ref().is_some_and(|request| match &request.value.scheduled_at {
        None => true,
        Some(at) => at.parse::<jiff::Timestamp>().is_ok_and(|at| at <= now),
    });
    if let Some(history) = json(snapshot, key::HISTORY, garbled) {
        view.history_revision = Some(history.revision);
        view.history = history.value;
    }
    reading.drills = json(snapshot, key::DRILLS, garbled).map(|drills| Arc::new(drills.value)).unwrap_or_default();
    reading.backups = json(snapshot, key::BACKUPS, garbled);
    reading.backup = json(snapshot, key::BACKUP, garbled).map(|run| run.value);
    reading.dumps = json(snapshot, Chore::Dump.log_key(), garbled);
    reading.dump = json(snapshot, Chore::Dump.run_key(), garbled).map(|run| run.value);
    reading.in_place = json(snapshot, in_place::KEY, garbled);
    let status = json::<StatusRecord>(snapshot, key::STATUS, garbled).map(|status| status.value).unwrap_or_default();
    view.optime = Lsn(status.optime);
    view.optime_timeline = status.timeline;
    reading.known = status.known;
    // Patroni writes null when there are none; then nothing is known of them.
    reading.slots = snapshot
        .get(key::STATUS)
        .and_then(|entry| serde_json::from_str::<LeaderSlots>(&entry.value).ok())
        .unwrap_or_default()
        .slots;
    reading.config = snapshot.get(key::CONFIG).map(|entry| versioned(entry, entry.value.clone()));
    reading.view.config_revision = reading.config.as_ref().map(|config| config.revision);
    reading
}

/// What the version of a member of ours has in it.
pub const OURS: &str = "+matriarch.";

/// The members, and those of another program whose names or records have words that ours never have (`promoted`), each with its version.
fn members(
    snapshot: &Snapshot,
    garbled: &mut Vec<String>,
) -> (BTreeMap<MemberName, MemberRecord>, BTreeMap<String, String>) {
    let (mut members, mut strangers) = (BTreeMap::new(), BTreeMap::new());
    for (key, entry) in snapshot.entries.range(MEMBERS.to_owned()..) {
        let Some(name) = key.strip_prefix(MEMBERS) else { break };
        let record = serde_json::from_str::<MemberRecord>(&entry.value);
        match (name.parse::<MemberName>(), record) {
            (Ok(name), Ok(record)) => drop(members.insert(name, record)),
            (parsed, record) => match version_of_another(&entry.value) {
                Some(version) => drop(strangers.insert(name.to_owned(), version)),
                None => drop(note(garbled, key, parsed).and_then(|_| note(garbled, key, record))),
            },
        }
    }
    (members, strangers)
}

fn version_of_another(record: &str) -> Option<String> {
    let record: serde_json::Value = serde_json::from_str(record).ok()?;
    record["version"].as_str().filter(|version| !version.contains(OURS)).map(str::to_owned)
}

/// `sync` as Patroni keeps it knows of no epoch.
fn is_of_others(sync: &str) -> bool {
    let has = |sync: serde_json::Value| (sync.get("sync_standby").is_some(), sync.get("epoch").is_some());
    serde_json::from_str(sync).is_ok_and(|sync| has(sync) == (true, false))
}

fn versioned<T>(entry: &Entry, value: T) -> Versioned<T> {
    Versioned { revision: entry.revision, value }
}

fn note<T, E: std::fmt::Display>(garbled: &mut Vec<String>, key: &str, result: Result<T, E>) -> Option<T> {
    result.map_err(|error| garbled.push(format!("store key '{key}': {error}"))).ok()
}

fn json<T: DeserializeOwned>(snapshot: &Snapshot, key: &str, garbled: &mut Vec<String>) -> Option<Versioned<T>> {
    let entry = snapshot.get(key)?;
    Some(versioned(entry, note(garbled, key, serde_json::from_str(&entry.value))?))
}

fn keyed<T: DeserializeOwned>(
    snapshot: &Snapshot,
    prefix: &str,
    garbled: &mut Vec<String>,
) -> BTreeMap<MemberName, Versioned<T>> {
    under(snapshot, prefix, garbled)
}

fn under<K, T>(snapshot: &Snapshot, prefix: &str, garbled: &mut Vec<String>) -> BTreeMap<K, Versioned<T>>
where
    K: FromStr<Err: Display> + Ord,
    T: DeserializeOwned,
{
    let mut found = BTreeMap::new();
    for (key, entry) in snapshot.entries.range(prefix.to_owned()..) {
        let Some(name) = key.strip_prefix(prefix) else { break };
        let name = note(garbled, key, name.parse::<K>());
        let value = note(garbled, key, serde_json::from_str::<T>(&entry.value));
        if let (Some(name), Some(value)) = (name, value) {
            found.insert(name, versioned(entry, value));
        }
    }
    found
}

#[cfg(test)]
mod tests;
