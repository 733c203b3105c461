//! Makes states equal that differ only in numbers nobody looks at: revisions and lease identities are renumbered per key
//! in their order, so that histories which lead to the same situation meet.

use std::sync::Arc;

use matriarch_core::decide::{Doubt, Memory};

use crate::reduce;
use crate::setup::Setup;
use crate::shared::Shared;
use crate::state::{Id, Key, Member, Records, Request, State};

type Seen = Vec<(Key, u64)>;

/// Greater than every number of this key that anybody still knows.
pub fn next_number(state: &State, key: Key) -> u64 {
    let mut seen = Seen::new();
    collect(state, &mut seen);
    1 + seen.iter().filter(|(other, _)| *other == key).map(|(_, number)| *number).max().unwrap_or(0)
}

/// Forgets and renumbers. `led`: who led before the step that came to this.
pub fn canonical(state: &mut State, led: Option<Id>, setup: &Setup) {
    reduce::forget(state, led, setup);
    let mut seen = Seen::new();
    collect(state, &mut seen);
    seen.sort_unstable();
    seen.dedup();
    let rank = |key: Key, number: u64| seen.iter().filter(|seen| seen.0 == key && seen.1 <= number).count() as u64;
    if seen.iter().all(|(key, number)| rank(*key, *number) == *number) {
        state.seal();
        return;
    }
    let mut records = Shared::new(records_renumbered(&state.records, &rank));
    records.seal();
    let share = |other: &Shared<Records>| {
        let mut renumbered = Shared::new(records_renumbered(other, &rank));
        renumbered.seal();
        renumbered
    };
    for (id, member) in state.members.iter_mut().enumerate() {
        let view = member.view.as_ref().map(share);
        let relapse = member.relapse.as_ref().map(share);
        let member = member.edit();
        member.relapse = relapse;
        renumber_member(id as u8, member, &rank, view);
    }
    state.saved = state.saved.as_ref().map(share);
    for request in &mut state.flight {
        let request: &mut Request = Arc::make_mut(request);
        for (key, number) in &mut request.compares {
            if let Some(number) = number {
                *number = rank(*key, *number);
            }
        }
        request.lease = request.lease.map(|lease| rank(Key::Lease, lease));
    }
    state.records = records;
    state.seal();
}

fn renumber_member(id: u8, member: &mut Member, rank: &impl Fn(Key, u64) -> u64, view: Option<Shared<Records>>) {
    member.view = view;
    if let Some(held) = &mut member.lease {
        held.id = rank(Key::Lease, held.id);
    }
    member.maybe = member.maybe.map(|lease| rank(Key::Lease, lease));
    let mut memory = member.memory.as_ref().clone();
    for proposed in memory.proposed.iter_mut().chain(&mut memory.announced) {
        proposed.revision = rank(Key::Sync, proposed.revision);
    }
    if let Doubt::Sent(Some(compared)) = &mut memory.pledging.doubt
        && *compared < u64::MAX
    {
        *compared = rank(Key::Pledge(id), *compared);
    }
    if memory != *member.memory {
        member.memory = Arc::new(memory);
    }
}

/// Numbers that decisions remember.
fn remembered(id: u8, memory: &Memory) -> impl Iterator<Item = (Key, u64)> {
    let proposed = memory.proposed.iter().chain(&memory.announced).map(|proposed| (Key::Sync, proposed.revision));
    let compared = match memory.pledging.doubt {
        // A number that a mutation invented is none.
        Doubt::Sent(compared) => compared.filter(|compared| *compared < u64::MAX),
        _ => None,
    };
    proposed.chain(compared.map(|compared| (Key::Pledge(id), compared)))
}

fn collect(state: &State, seen: &mut Seen) {
    collect_records(&state.records, seen);
    for (id, member) in state.members.iter().enumerate() {
        member.view.iter().chain(&member.relapse).for_each(|records| collect_records(records, seen));
        seen.extend(member.lease.map(|held| (Key::Lease, held.id)));
        seen.extend(member.maybe.map(|lease| (Key::Lease, lease)));
        seen.extend(remembered(id as u8, &member.memory));
    }
    if let Some(saved) = &state.saved {
        collect_records(saved, seen);
    }
    for request in &state.flight {
        seen.extend(request.compares.iter().filter_map(|(key, number)| Some((*key, (*number)?))));
        seen.extend(request.lease.map(|lease| (Key::Lease, lease)));
    }
}

fn collect_records(records: &Records, seen: &mut Seen) {
    seen.extend(records.initialize.map(|revision| (Key::Initialize, revision)));
    if let Some(leader) = &records.leader {
        seen.extend([(Key::Leader, leader.revision), (Key::Lease, leader.lease)]);
    }
    seen.extend(records.sync.as_ref().map(|sync| (Key::Sync, sync.revision)));
    seen.extend(records.failover.as_ref().map(|failover| (Key::Failover, failover.revision)));
    for (id, pledge) in records.pledges.iter().enumerate() {
        seen.extend(pledge.as_ref().map(|pledge| (Key::Pledge(id as u8), pledge.revision)));
    }
}

fn records_renumbered(records: &Records, rank: &impl Fn(Key, u64) -> u64) -> Records {
    let mut records = records.clone();
    records.initialize = records.initialize.map(|revision| rank(Key::Initialize, revision));
    if let Some(leader) = &mut records.leader {
        leader.revision = rank(Key::Leader, leader.revision);
        leader.lease = rank(Key::Lease, leader.lease);
    }
    if let Some(sync) = &mut records.sync {
        sync.revision = rank(Key::Sync, sync.revision);
    }
    if let Some(failover) = &mut records.failover {
        failover.revision = rank(Key::Failover, failover.revision);
    }
    for (id, pledge) in records.pledges.iter_mut().enumerate() {
        if let Some(pledge) = pledge {
            pledge.revision = rank(Key::Pledge(id as u8), pledge.revision);
        }
    }
    records
}
