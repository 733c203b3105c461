//! Timers of an agent: at every turn each of those that it may run is over, or has only begun.
//!
//! So they are no part of a state. That admits more than there is (a wait may be over at the first look), never less, and
//! no rule may rest on one wait being longer than another. That an agent has only just started makes it wait where it would
//! else take over: that is the same as taking no turn, and left out.

use matriarch_core::decide::Memory;

use crate::agent::{LONG_AGO, NOW};
use crate::setup::member_name;
use crate::state::{Id, Member, Process, Records, State};

/// A wait that a decision may depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Timer {
    /// Nobody has led for long.
    Leaderless,
    /// Others are better placed and have not acted.
    Outranked,
    /// No stream though the leader is ready.
    NotStreaming,
    /// A leader that is ready has not said where a timeline ended.
    History,
    /// PostgreSQL does not answer.
    Unready,
    /// A voter does not stream.
    Missing(Id),
    /// A job has failed.
    Failed,
    /// A switchover is being prepared.
    Switching,
}

/// Those that a decision by this view may depend on.
fn running(member: &Member, me: Id, view: &Records) -> Vec<Timer> {
    let mut timers = Vec::new();
    match view.leader.as_ref().map(|leader| leader.name) {
        Some(leader) if leader == me => {
            if member.pg.process == Process::Stopping {
                timers.push(Timer::Unready);
            }
            let voters = view.sync.iter().flat_map(|sync| sync.value.rule.voters.keys());
            let streams = |id: &Id| member.pg.senders.iter().any(|sender| sender.to == *id);
            let missing = voters.map(|voter| crate::state::id(voter.as_str())).filter(|id| !streams(id));
            if member.pg.process == Process::Primary {
                timers.extend(missing.map(Timer::Missing));
            }
        }
        leader => {
            if leader.is_some() {
                timers.push(if member.pg.process == Process::Stopped { Timer::History } else { Timer::NotStreaming });
            }
            if leader.is_none() || member.suspects {
                timers.extend([Timer::Leaderless, Timer::Outranked]);
            }
        }
    }
    if member.memory.failures.is_some() {
        timers.push(Timer::Failed);
    }
    if member.memory.switching.is_some() {
        timers.push(Timer::Switching);
    }
    timers
}

/// In how many ways they may stand.
pub fn ways(state: &State, me: Id, view: &Records) -> u8 {
    1 << running(state.at(me), me, view).len()
}

/// Has the chosen ones be over, and all others begin now.
pub fn end(member: &Member, me: Id, view: &Records, over: u8, memory: &mut Memory) {
    for (place, timer) in running(member, me, view).into_iter().enumerate() {
        let since = if over >> place & 1 == 1 { LONG_AGO } else { NOW };
        match timer {
            Timer::Leaderless => memory.leaderless_since = Some(since),
            Timer::Outranked => memory.outranked_since = Some(since),
            Timer::NotStreaming => memory.not_streaming_since = Some(since),
            Timer::History => memory.history_awaited = Some(since),
            Timer::Unready => memory.unready_since = Some(since),
            Timer::Missing(id) => {
                memory.missing_since.insert(member_name(id), since);
            }
            Timer::Switching => memory.switching.iter_mut().for_each(|switching| {
                (switching.since, switching.phase_since) = (since, since);
            }),
            Timer::Failed => memory.failures.iter_mut().for_each(|failures| failures.last = since),
        }
    }
}

/// What matters of the memory: no timers, and no counters that only space out retries.
pub fn forget(mut memory: Memory) -> Memory {
    memory.accounted = None;
    memory.starts = 0;
    for timer in [
        &mut memory.leaderless_since,
        &mut memory.outranked_since,
        &mut memory.not_streaming_since,
        &mut memory.history_awaited,
        &mut memory.unready_since,
    ] {
        *timer = None;
    }
    memory.missing_since.clear();
    if let Some(switching) = &mut memory.switching {
        (switching.since, switching.phase_since) = (NOW, NOW);
    }
    if let Some(failures) = &mut memory.failures {
        failures.last = NOW;
        // A third failure in a row is the last that changes anything; starts are the exception, see `Job::StartPrimary`.
        failures.count = failures.count.min(3);
        failures.message.clear();
    }
    memory
}
