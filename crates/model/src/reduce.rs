//! Forgets what nobody can look at any more, so that histories which differ only in that meet.

use std::sync::Arc;

use matriarch_core::decide::{Doubt, Job, Memory, Proposed};
use matriarch_core::record::{Pledge, SyncRecord, Versioned};

use crate::agent::{LONG_AGO, NOW, TICKS};
use crate::setup::Setup;
use crate::shared::Shared;
use crate::state::{Conf, Effect, Id, Key, Member, Names, Process, Records, State};

/// Takes out of a state what no later step depends on. `before`: who led before the step.
pub fn forget(state: &mut State, before: Option<Id>, setup: &Setup) {
    let (goes_back, clocked) = (setup.budget.restores > 0, setup.clocked);
    if outdated_pledges(&state.records) {
        state.records = Shared::new(without_outdated_pledges(&state.records));
    }
    number_changes(state, goes_back);
    let records = state.records.clone();
    for (id, member) in state.members.iter_mut().enumerate() {
        let pledge = records.pledges[id].as_ref();
        if let Some(memory) = settled(member, pledge, &records, goes_back) {
            member.edit().memory = Arc::new(memory);
        }
        let leads = [&member.view, &member.relapse].into_iter().flatten().any(|view| view.leads() == Some(id as Id))
            || records.leads() == Some(id as Id);
        for idle in IDLE {
            if let Some(change) = idle(member, Situation { records: &records, before, goes_back, clocked, leads }) {
                change(member.edit());
            }
        }
    }
    if !goes_back {
        state.flight.retain(|request| {
            let past = |(key, compared): &(Key, Option<u64>)| {
                compared.is_some_and(|compared| revision(&records, *key).is_none_or(|now| now > compared))
            };
            request.awaited || !request.compares.iter().any(past)
        });
    }
}

/// What the parts of a member that nobody looks at depend on.
struct Situation<'a> {
    records: &'a Records,
    before: Option<Id>,
    goes_back: bool,
    clocked: bool,
    /// It leads, by the store or by what it may still be shown of it.
    leads: bool,
}

type Change = fn(&mut Member);

/// Each finds a part of a member that no later step looks at, and says how to take it out.
const IDLE: [fn(&Member, Situation) -> Option<Change>; 8] = [
    // Whoever was suspected leads no more.
    |member, now| {
        let changed = member.suspects && member.view.is_none() && now.records.leads() != now.before;
        changed.then_some(|member| member.suspects = false)
    },
    // Without a clock a lease is held or not.
    |member, now| {
        let aged = !now.clocked && member.lease.is_some_and(|held| held.left != TICKS);
        aged.then_some(|member| member.lease.iter_mut().for_each(|held| held.left = TICKS))
    },
    // No store is ever older that does not go back in time, and no watch.
    |member, now| {
        let unused = member.newest.is_some() && !now.goes_back && member.relapse.is_none();
        unused.then_some(|member| member.newest = None)
    },
    // The end of most jobs only ends a row of failures.
    |member, _| {
        let ended = member.finished.as_ref()?;
        let plain = !matches!(ended.job, Job::Rewind | Job::Clone | Job::Checkpoint | Job::Settle);
        let failures = member.memory.failures.as_ref();
        let unused = !ended.failed && plain && failures.is_none_or(|failures| failures.job != ended.job);
        unused.then_some(|member| member.finished = None)
    },
    // A stopped server has loaded nothing, and its settings are written anew with every decision to start it.
    |member, _| {
        let stopped = member.pg.process == Process::Stopped;
        let unused = stopped && member.pg.loaded != Conf::default();
        unused.then_some(|member| member.pg.loaded = Conf::default())
    },
    |member, _| {
        let starts = matches!(member.busy, Some(Job::StartPrimary | Job::StartStandby));
        let unused = member.pg.process == Process::Stopped && !starts && member.file != Conf::default();
        unused.then_some(|member| member.file = Conf::default())
    },
    // A standby waits for nobody: the names that it has loaded matter once it is to be promoted, and then they are looked at
    // again.
    |member, now| {
        let promoted = member.pg.promoting.is_some() || member.busy == Some(Job::Promote);
        let waits = |conf: &Conf| *conf.names != Names::default();
        let unused = member.pg.process == Process::Standby
            && !promoted
            && !now.leads
            && (waits(&member.file) || waits(&member.pg.loaded));
        unused.then_some(|member| {
            member.file.names = Default::default();
            member.pg.loaded.names = Default::default();
        })
    },
    // The margin of a barrier is there for the walsenders: once all have loaded the names, nothing is waited for.
    |member, _| {
        let barrier = member.memory.barrier.as_ref().filter(|barrier| barrier.since == NOW)?;
        let names = &member.pg.loaded.names;
        let loaded = names.text == barrier.names && member.file.names == *names;
        let over = loaded && member.pg.senders.iter().all(|sender| sender.names == *names);
        over.then_some(|member| {
            if let Some(barrier) = &mut Arc::make_mut(&mut member.memory).barrier {
                barrier.since = LONG_AGO;
            }
        })
    },
];

/// Serial numbers of `sync` tell something only where a member may be shown an older record than it has seen; and there
/// only how they compare.
fn number_changes(state: &mut State, goes_back: bool) {
    let told = goes_back || state.members.iter().any(|member| member.relapse.is_some());
    let mut least = u64::MAX;
    each_change(state, &mut |_, sync| {
        least = least.min(sync.serial);
        None
    });
    each_change(state, &mut |under_way, sync| {
        let serial = if told { sync.serial - least } else { u64::from(under_way) };
        (serial != sync.serial).then(|| SyncRecord { serial, ..sync.clone() })
    });
}

/// Shows every `sync` record that somebody knows, or that is on its way, and replaces those for which something is returned.
fn each_change(state: &mut State, change: &mut impl FnMut(bool, &SyncRecord) -> Option<SyncRecord>) {
    let known = &mut |sync: &SyncRecord| change(false, sync);
    change_records(&mut state.records, known);
    state.saved.iter_mut().for_each(|saved| change_records(saved, known));
    for member in &mut state.members {
        if member.view.is_none() && member.relapse.is_none() && member.newest.is_none() {
            continue;
        }
        let member = member.edit();
        member.view.iter_mut().chain(&mut member.relapse).for_each(|records| change_records(records, known));
        if let Some(newest) = &mut member.newest
            && let Some(next) = known(newest)
        {
            *newest = Arc::new(next);
        }
    }
    for request in &mut state.flight {
        let writes = |effect: &Effect| matches!(effect, Effect::Sync(_));
        if !request.writes.iter().any(writes) {
            continue;
        }
        for effect in &mut Arc::make_mut(request).writes {
            if let Effect::Sync(sync) = effect
                && let Some(next) = change(true, sync)
            {
                *sync = Arc::new(next);
            }
        }
    }
}

fn change_records(records: &mut Shared<Records>, change: &mut impl FnMut(&SyncRecord) -> Option<SyncRecord>) {
    let Some(next) = records.sync.as_ref().and_then(|sync| change(&sync.value)) else { return };
    if let Some(sync) = &mut records.edit().sync {
        sync.value = Arc::new(next);
    }
}

/// The memory without what the next turn drops before it looks at it; none when there is nothing to drop.
fn settled(member: &Member, pledge: Option<&Versioned<Pledge>>, records: &Records, goes_back: bool) -> Option<Memory> {
    if goes_back || member.view.is_some() || member.relapse.is_some() {
        return None;
    }
    let memory = &member.memory;
    let sync = records.sync.as_ref()?;
    let revision = Some(sync.revision);
    let stale =
        |proposed: &Option<Proposed>| proposed.as_ref().is_some_and(|proposed| Some(proposed.revision) != revision);
    let (proposed, announced) = (stale(&memory.proposed), stale(&memory.announced));
    let known = memory.pledging;
    let void = match (known.epoch, known.doubt) {
        (Some(seen), _) if seen < sync.value.epoch => true,
        (Some(seen), Doubt::Sent(compared)) if seen == sync.value.epoch => {
            pledge.is_some_and(|own| own.value.epoch == seen && own.value.withdrawn && Some(own.revision) != compared)
        }
        _ => false,
    };
    let void = void && (known.epoch, known.doubt) != (Some(sync.value.epoch), Doubt::Clear);
    let rewound = memory.rewound.is_some_and(|epoch| epoch < sync.value.epoch);
    if !proposed && !announced && !void && !rewound {
        return None;
    }
    let mut memory = Memory::clone(memory);
    memory.proposed.take_if(|_| proposed);
    memory.announced.take_if(|_| announced);
    memory.rewound.take_if(|_| rewound);
    if void {
        memory.pledging.epoch = Some(sync.value.epoch);
        memory.pledging.doubt = Doubt::Clear;
    }
    Some(memory)
}

/// Pledges against an earlier epoch than their own store shows say nothing but where they stand.
fn outdated_pledges(records: &Records) -> bool {
    let Some(epoch) = records.sync.as_ref().map(|sync| sync.value.epoch) else { return false };
    let outdated = |pledge: &Pledge| pledge.epoch < epoch && (pledge.epoch != 0 || pledge.withdrawn);
    records.pledges.iter().flatten().any(|pledge| outdated(&pledge.value))
}

fn without_outdated_pledges(records: &Records) -> Records {
    let mut records = records.clone();
    let epoch = records.sync.as_ref().map_or(0, |sync| sync.value.epoch);
    for pledge in records.pledges.iter_mut().flatten().filter(|pledge| pledge.value.epoch < epoch) {
        pledge.value.epoch = 0;
        pledge.value.withdrawn = false;
    }
    records
}

/// Revision of a key.
pub fn revision(records: &Records, key: Key) -> Option<u64> {
    match key {
        Key::Initialize => records.initialize,
        Key::Leader => records.leader.as_ref().map(|leader| leader.revision),
        Key::Sync => records.sync.as_ref().map(|sync| sync.revision),
        Key::Failover => records.failover.as_ref().map(|failover| failover.revision),
        Key::Pledge(id) => records.pledges[id as usize].as_ref().map(|pledge| pledge.revision),
        Key::Lease => None,
    }
}
