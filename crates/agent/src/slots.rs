//! Replication slots: which there should be, and the steps from those that are.
//!
//! Every member keeps a physical slot for each other member, not only the leader: a replica that is promoted must
//! still have the WAL that its peers have not received. Nobody streams from a replica's slots, so they are moved
//! forward to what the peers say they have.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use matriarch_config::{DynamicConfig, Slot, SlotKind, SlotMatch};
use matriarch_core::decide::{ClusterView, Millis};
use matriarch_core::record::NOSTREAM;
use matriarch_core::{Lsn, MemberName, Timeline};
use matriarch_postgres::probe::{Probe, SlotRow};
use matriarch_postgres::sql::LogicalSlot;
use matriarch_postgres::{Instance, Sql};

/// One thing to do about a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Make a physical slot.
    Create(String),
    /// Make a logical slot.
    CreateLogical(LogicalSlot),
    /// Let go of the WAL before a position.
    Advance(String, Lsn),
    /// Remove a slot; why, for the log.
    Drop(String, &'static str),
}

/// What the slots should be.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wanted {
    /// This instance is a primary.
    pub primary: bool,
    /// Slots of the other members, each with the position up to which that member certainly has everything.
    pub members: BTreeMap<String, Option<Lsn>>,
    /// Slots of members that are no longer waited for, and our own: only members make such slots.
    pub abandoned: BTreeSet<String>,
    /// The configuration's `slots`, each with its position on the leader.
    pub permanent: BTreeMap<String, (Slot, Option<Lsn>)>,
    /// Slots that have left the configuration's `slots`.
    pub released: BTreeSet<String>,
    /// The configuration's `ignore_slots`.
    pub ignored: Vec<SlotMatch>,
    /// Slots that nobody has used for `member_slots_ttl`.
    pub idle: BTreeSet<String>,
}

/// The steps from the slots that are there to those that should be.
pub fn plan(wanted: &Wanted, present: &[SlotRow]) -> Vec<Step> {
    let mut steps: Vec<Step> = present.iter().filter_map(|slot| keep_in_order(wanted, slot)).collect();
    let exists = |name: &String| present.iter().any(|slot| slot.name == *name);
    steps.extend(wanted.members.keys().filter(|name| !exists(name)).cloned().map(Step::Create));
    for (name, (slot, _)) in wanted.permanent.iter().filter(|(name, _)| !exists(name)) {
        match slot {
            Slot::Physical if !wanted.members.contains_key(name) => steps.push(Step::Create(name.clone())),
            Slot::Physical => {}
            // A standby cannot make one that the primary's consumers could continue with.
            Slot::Logical { database, plugin } if wanted.primary => steps.push(Step::CreateLogical(LogicalSlot {
                name: name.clone(),
                database: database.clone(),
                plugin: plugin.clone(),
            })),
            Slot::Logical { .. } => {}
        }
    }
    steps
}

fn keep_in_order(wanted: &Wanted, slot: &SlotRow) -> Option<Step> {
    let kind = if slot.kind == "logical" { SlotKind::Logical } else { SlotKind::Physical };
    let (database, plugin) = (slot.database.as_deref(), slot.plugin.as_deref());
    let others = wanted.ignored.iter().any(|entry| entry.covers(&slot.name, kind, database, plugin));
    if slot.active || slot.temporary || slot.synced || others {
        return None;
    }
    let name = slot.name.clone();
    let forward = |position: Option<Lsn>| {
        let ahead = position.filter(|position| slot.restart_lsn.is_some_and(|restart| restart < *position))?;
        Some(Step::Advance(name.clone(), ahead))
    };
    if let Some((_, position)) = wanted.permanent.get(&slot.name) {
        if !wanted.primary && kind == SlotKind::Logical {
            // Left from when this was the primary: PostgreSQL's own copy (17 and later) needs the name.
            return Some(Step::Drop(name, "it is stale on a replica"));
        }
        // On the primary its consumer moves it.
        return if wanted.primary { None } else { forward(*position) };
    }
    if wanted.released.contains(&slot.name) && !wanted.members.contains_key(&slot.name) {
        return Some(Step::Drop(name, "it is no longer in the configuration"));
    }
    if kind == SlotKind::Physical {
        if let Some(position) = wanted.members.get(&slot.name) {
            // PostgreSQL has given it up; only a new one is of use.
            return match slot.wal_status.as_deref() {
                Some("lost") => Some(Step::Drop(name, "it has lost its WAL and is made anew")),
                _ => forward(*position),
            };
        }
        if wanted.abandoned.contains(&slot.name) {
            return Some(Step::Drop(name, "its member is no longer waited for"));
        }
    }
    (!wanted.primary && wanted.idle.contains(&slot.name))
        .then_some(Step::Drop(name, "it is nobody's on a replica and would retain WAL for ever"))
}

/// Remembers for how long members and slots have been away.
#[derive(Debug, Default)]
pub struct Keeper {
    seen: BTreeMap<MemberName, Seen>,
    idle_since: BTreeMap<String, Millis>,
    abandoned: BTreeSet<MemberName>,
    /// Names that `slots` has had since the agent started.
    configured: BTreeSet<String>,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    at: Millis,
    position: Option<Lsn>,
    /// It is tagged as streaming from nobody.
    from_archive: bool,
}

impl Keeper {
    /// Takes a look into account and says what the slots should be.
    pub fn wanted(
        &mut self,
        now: Millis,
        me: &MemberName,
        config: &DynamicConfig,
        view: &ClusterView,
        (probe, positions): (&Probe, &BTreeMap<String, u64>),
    ) -> Wanted {
        let ttl = config.member_slots_ttl;
        self.note_members(now, view, probe.timeline);
        self.note_slots(now, probe);
        let (waited_for, gone): (Vec<_>, Vec<_>) = self
            .seen
            .iter()
            .filter(|(name, _)| *name != me)
            .partition(|(_, seen)| recent(seen.at, now, ttl) && !seen.from_archive);
        let mut members: BTreeMap<String, Option<Lsn>> = BTreeMap::new();
        if config.member_slots() {
            members.extend(waited_for.iter().map(|(name, seen)| (name.slot(), seen.position)));
        }
        self.abandoned = gone.iter().map(|(name, _)| (*name).clone()).collect();
        let mut abandoned: BTreeSet<String> = gone.iter().map(|(name, _)| name.slot()).collect();
        abandoned.insert(me.slot());
        if !config.member_slots() {
            abandoned.extend(waited_for.iter().map(|(name, _)| name.slot()));
        }
        self.configured.extend(config.slots.keys().cloned());
        let released = self.configured.iter().filter(|name| !config.slots.contains_key(*name)).cloned().collect();
        let idle = self.idle_since.iter().filter(|(_, since)| !recent(**since, now, ttl));
        Wanted {
            primary: !probe.in_recovery,
            members,
            abandoned,
            permanent: permanent(config, positions),
            released,
            ignored: config.ignore_slots.clone(),
            idle: idle.map(|(name, _)| name.clone()).collect(),
        }
    }

    /// A member that is no longer waited for, as far as this agent has seen.
    pub fn is_abandoned(&self, name: &MemberName) -> bool {
        self.abandoned.contains(name)
    }

    fn note_members(&mut self, now: Millis, view: &ClusterView, timeline: Timeline) {
        let unseen = Seen { at: now, position: None, from_archive: false };
        // What members are away when we begin to look is as if seen now: they get the whole time.
        for name in view.sync.iter().flat_map(|sync| &sync.value.membership) {
            self.seen.entry(name.clone()).or_insert(unseen);
        }
        for (name, record) in &view.members {
            let seen = self.seen.entry(name.clone()).or_insert(unseen);
            (seen.at, seen.from_archive) = (now, record.tag(NOSTREAM));
            // On another timeline it may have left ours, and then needs what comes after the fork.
            if record.timeline == Some(timeline) {
                seen.position = record.xlog_location.map(Lsn).or(seen.position);
            }
        }
    }

    fn note_slots(&mut self, now: Millis, probe: &Probe) {
        let unused = |name: &String| probe.slots.iter().any(|slot| slot.name == *name && !slot.active);
        self.idle_since.retain(|name, _| unused(name));
        for slot in probe.slots.iter().filter(|slot| !slot.active) {
            self.idle_since.entry(slot.name.clone()).or_insert(now);
        }
    }
}

fn recent(at: Millis, now: Millis, ttl: Duration) -> bool {
    u128::from(now.saturating_sub(at)) <= ttl.as_millis()
}

fn permanent(config: &DynamicConfig, positions: &BTreeMap<String, u64>) -> BTreeMap<String, (Slot, Option<Lsn>)> {
    let slots = config.slots.iter();
    slots.map(|(name, slot)| (name.clone(), (slot.clone(), positions.get(name).copied().map(Lsn)))).collect()
}

/// Where the configuration's slots stand on this primary, for the replicas to follow.
pub fn positions(config: &DynamicConfig, probe: &Probe) -> BTreeMap<String, u64> {
    let ours = probe.slots.iter().filter(|slot| config.slots.contains_key(&slot.name));
    ours.filter_map(|slot| Some((slot.name.clone(), slot.confirmed_lsn.or(slot.restart_lsn)?.0))).collect()
}

/// Does the steps, each on its own: what fails is tried again with the next plan.
pub async fn perform(steps: Vec<Step>, sql: &Sql, instance: &Instance, timeline: Timeline) {
    for step in steps {
        let done = match &step {
            Step::Create(name) => sql.create_slot(name).await,
            Step::Advance(name, lsn) => sql.advance_slot(name, *lsn).await,
            Step::Drop(name, why) => sql.drop_slot(name).await.map(|dropped| {
                if dropped {
                    tracing::info!("replication slot {name} was dropped: {why}");
                }
            }),
            Step::CreateLogical(slot) => {
                slot.create(instance).await.map(|created| note_logical(slot, created, timeline))
            }
        };
        if let Err(error) = done {
            tracing::warn!("{step:?}: {error}");
        }
    }
}

fn note_logical(slot: &LogicalSlot, created: bool, timeline: Timeline) {
    let LogicalSlot { name, database, .. } = slot;
    if created && timeline > 1 {
        tracing::warn!(
            "logical slot {name} of database {database} did not survive the takeover and begins anew: what was \
             committed before is not in it, so its consumers must be synchronized again"
        );
    } else if created {
        tracing::info!("logical slot {name} of database {database} was created");
    }
}

#[cfg(test)]
mod tests;
