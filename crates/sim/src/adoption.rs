//! Schedules in which a cluster that another program kept is taken over, and those in which a member has the directory of another
//! cluster.
//!
//! What they leave out, since no record tells of it, or since the rule leaves it to people on purpose: that program dies
//! between making a primary and telling the store of that, and no agent runs that could know; a replica is made a primary by hand while
//! the agent of the right one is away; that program comes back once the cluster is ours.

use matriarch_core::decide::Millis;
use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;

use crate::directed::Timed;
use crate::disk::{Dir, Disk};
use crate::fault::Fault;
use crate::node::NodeId;
use crate::others::Act;
use crate::profile::pick;
use crate::script::random_trap;
use crate::world::World;

/// Who has what in these stories: the primary of the other program, and two replicas.
const PRIMARY: NodeId = 0;

/// That the program does something.
fn act(at: Millis, act: Act) -> Timed {
    (at, 1, Fault::Others(act))
}

/// Nothing of ours has run there yet: this starts it.
fn joins(at: Millis, node: NodeId) -> Timed {
    (at, 1, Fault::KillAgent(node))
}

/// How a cluster of another program becomes ours; in later rounds, how it loses its first leader, or the record that tells it
/// is ours.
pub(crate) fn adoption(world: &mut World, rng: &mut SmallRng) -> Vec<Timed> {
    if world.store.view().cluster.sync.is_some() {
        let leader = world.primary().unwrap_or(PRIMARY);
        if rng.random_bool(0.2) {
            // Once its leader key has ended it looks as if another program had kept it.
            let lasts = world.setup.ttl + 6000;
            let stopped = rng.random_range(500..2000);
            return vec![(0, stopped, Fault::LoseRecord(leader)), (0, lasts, Fault::UnsteadyBeats)];
        }
        let death = if rng.random_bool(0.5) { Fault::PowerCut(leader) } else { Fault::KillNode(leader) };
        return vec![(rng.random_range(0..2000), rng.random_range(500..12_000), death)];
    }
    let paused = rng.random_bool(0.5);
    let (other, third) = if rng.random_bool(0.5) { (1, 2) } else { (2, 1) };
    let story = rng.random_range(0..10);
    let (mut faults, paused) = match story {
        0 => (rolling(rng, &[PRIMARY, other, third]), paused),
        1 | 2 => (failed_over(rng, other, third), false),
        3 => (cold_copy(world, rng, other, third), paused),
        4 => (two_primaries(rng, other, third), true),
        5 | 6 => (strange_data(world, rng, other, third), paused),
        7 => (died_untold(rng, other, third), false),
        8 => (returned(rng, other, third), paused),
        _ => (outlasted(rng, other, third), false),
    };
    world.set_paused(paused);
    // Nobody takes a step before the founding. Where the agents' records are all that tells of a primary they have to stay.
    if !matches!(story, 4 | 7) && rng.random_bool(0.4) {
        world.trap = Some(random_trap(world, rng));
    }
    let last = faults.iter().map(|(at, lasts, _)| at + lasts).max().unwrap_or(0);
    // Once nothing of that program is left, whatever is refused then is refused until a person has seen to it.
    faults.push(act(last + 1000, Act::Amend));
    faults.push(act(last + 9000, Act::Amend));
    faults.push(act(last + 20_000, Act::Amend));
    if paused {
        faults.push((last + 20_500, 1, Fault::Pause));
    }
    faults
}

/// That program ends on a member, one way or the other.
fn end(rng: &mut SmallRng, at: Millis, node: NodeId) -> Timed {
    act(at, if rng.random_bool(0.5) { Act::Stop(node) } else { Act::Die(node) })
}

/// It ends on these, in any order, and our agents start there, sooner or later.
fn rolling(rng: &mut SmallRng, nodes: &[NodeId]) -> Vec<Timed> {
    let mut nodes = nodes.to_vec();
    nodes.shuffle(rng);
    let mut faults = Vec::new();
    let mut time = 0;
    for node in nodes {
        time += rng.random_range(0..4000);
        faults.push(end(rng, time, node));
        faults.push(joins(time + rng.random_range(0..6000), node));
    }
    for _ in 0..rng.random_range(0..3) {
        faults.push(trouble(rng, time));
    }
    faults
}

/// What may strike our agents and PostgreSQL meanwhile.
fn trouble(rng: &mut SmallRng, ended: Millis) -> Timed {
    let at = rng.random_range(0..12_000);
    let node = rng.random_range(0..3);
    let fault = match rng.random_range(0..8) {
        0 | 1 => Fault::KillAgent(node),
        2 => Fault::FreezeAgent(node),
        3 => Fault::CutOff(node),
        4 => Fault::DelayedRequests,
        5 => Fault::LostAnswers,
        6 => Fault::RestartAgent(node),
        _ => {
            let kinds = [Fault::KillPostmaster, Fault::KillPostmaster, Fault::PowerCut, Fault::KillNode, Fault::Freeze];
            // By then nothing of that program is left there, whatever it had to tell first.
            let at = ended + 6000 + rng.random_range(0..6000);
            return (at, rng.random_range(100..8000), pick(rng, &kinds)(node));
        }
    };
    (at, rng.random_range(50..5000), fault)
}

/// It fails over, or switches over, before it ends: an older primary is left, stopped, crashed or running.
fn failed_over(rng: &mut SmallRng, other: NodeId, third: NodeId) -> Vec<Timed> {
    let mut faults = Vec::new();
    match rng.random_range(0..3) {
        0 => faults.push(act(0, Act::Stop(PRIMARY))),
        1 => faults.extend([act(0, Act::Die(PRIMARY)), (rng.random_range(1..3000), 1, Fault::KillPostmaster(PRIMARY))]),
        _ => {
            faults.push(act(0, Act::Die(PRIMARY)));
            let cut = rng.random_range(3000..15_000);
            faults.push((rng.random_range(0..3000), cut, Fault::Cut(PRIMARY, *pick(rng, &[other, third]))));
        }
    }
    faults.push(joins(rng.random_range(100..10_000), PRIMARY));
    let ends = rng.random_range(8000..10_000);
    let rest = rolling(rng, &[other, third]);
    faults.extend(rest.into_iter().map(|(at, lasts, fault)| (at + ends, lasts, fault)));
    faults
}

/// One member has what a copy of the stopped primary once left there.
fn cold_copy(world: &mut World, rng: &mut SmallRng, other: NodeId, third: NodeId) -> Vec<Timed> {
    if let Some(mut dir) = world.nodes[PRIMARY].disk.dir().cloned() {
        let end = dir.wal.flushed;
        dir.wal.truncate(end);
        let copy = Dir {
            checkpoint: (dir.wal.timeline(end), dir.wal.end(end.saturating_sub(1))),
            clean: true,
            standby: false,
            ..dir
        };
        world.leave_out(third, Disk::Ready(Box::new(copy)));
    }
    let starts = rng.random_range(2000..4000);
    let mut faults = vec![joins(rng.random_range(500..14_000), third)];
    let rest = rolling(rng, &[PRIMARY, other]);
    faults.extend(rest.into_iter().map(|(at, lasts, fault)| (at + starts, lasts, fault)));
    faults
}

/// Somebody has made a replica a primary by hand while the cluster was paused. Every agent runs before the leader key has ended.
fn two_primaries(rng: &mut SmallRng, other: NodeId, third: NodeId) -> Vec<Timed> {
    let ends = rng.random_range(3000..4000);
    vec![
        act(rng.random_range(200..1500), Act::Promote(other)),
        act(rng.random_range(1500..2500), Act::Die(other)),
        act(rng.random_range(0..2500), Act::Die(third)),
        act(ends, Act::Die(PRIMARY)),
        joins(rng.random_range(2500..4000), other),
        joins(rng.random_range(2500..9000), third),
        joins(ends + rng.random_range(50..1500), PRIMARY),
    ]
}

/// One member has the directory of another cluster, or what is left of a cluster that an agent of ours has begun to make there.
fn strange_data(world: &mut World, rng: &mut SmallRng, other: NodeId, third: NodeId) -> Vec<Timed> {
    let kind = rng.random_range(0..4);
    let disk = if kind == 1 { world.unclaimed() } else { world.stray(kind == 0) };
    world.leave_out(third, disk);
    if kind == 2 {
        world.start_by_others(third, None);
    }
    if rng.random_bool(0.5) {
        world.keep_no_status();
    }
    let mut faults = vec![joins(rng.random_range(0..16_000), third)];
    faults.extend(rolling(rng, &[PRIMARY, other]));
    faults
}

/// It makes another primary, since it is gone beside the first, and dies before it has told anybody. See `succeed_doomed`.
fn died_untold(rng: &mut SmallRng, other: NodeId, third: NodeId) -> Vec<Timed> {
    let cut = rng.random_range(300..500);
    let lasts = rng.random_range(18_000..22_000);
    vec![
        act(0, Act::Doom),
        act(rng.random_range(0..300), Act::Die(third)),
        (cut, lasts, Fault::Cut(PRIMARY, other)),
        (cut, lasts, Fault::Cut(PRIMARY, third)),
        act(rng.random_range(500..1000), Act::Die(PRIMARY)),
        joins(rng.random_range(1000..6000), PRIMARY),
    ]
}

/// It is gone everywhere, and what asks for the lead is late. Then it comes back, makes another primary, and is gone again.
fn returned(rng: &mut SmallRng, other: NodeId, third: NodeId) -> Vec<Timed> {
    let ends = rng.random_range(500..1000);
    let returns = ends + rng.random_range(5000..8500);
    let again = returns + rng.random_range(1200..4000);
    let late = if rng.random_bool(0.7) { Fault::LateStore } else { Fault::DelayedRequests };
    vec![
        act(rng.random_range(0..500), Act::Die(other)),
        act(rng.random_range(0..500), Act::Die(third)),
        act(ends, Act::Die(PRIMARY)),
        joins(rng.random_range(1000..4000), PRIMARY),
        joins(rng.random_range(500..14_000), third),
        (ends + 4000, rng.random_range(5000..9000), late),
        act(returns, Act::Return(other)),
        end(rng, again, other),
        joins(again + rng.random_range(200..5000), other),
    ]
}

/// On one member it runs for much longer than elsewhere, and the first primary dies meanwhile.
fn outlasted(rng: &mut SmallRng, other: NodeId, third: NodeId) -> Vec<Timed> {
    let ends = rng.random_range(18_000..22_000);
    vec![
        act(rng.random_range(0..500), Act::Die(PRIMARY)),
        act(rng.random_range(0..500), Act::Die(other)),
        joins(rng.random_range(500..4000), PRIMARY),
        joins(rng.random_range(500..20_000), other),
        (rng.random_range(6500..10_000), rng.random_range(5000..9000), Fault::KillNode(PRIMARY)),
        end(rng, ends, third),
        joins(ends + rng.random_range(50..3000), third),
    ]
}

/// The directory of another cluster comes to be where that of a member was, and the leader dies.
pub(crate) fn strays(rng: &mut SmallRng, ttl: Millis, [primary, other, third]: [NodeId; 3]) -> Vec<Timed> {
    let stray = *pick(rng, &[primary, other, third, third]);
    let comes = rng.random_range(0..2000);
    let mut faults = vec![(comes, rng.random_range(20_000..40_000), Fault::Foreign(stray))];
    if stray != primary && rng.random_bool(0.8) {
        let kinds = [Fault::PowerCut, Fault::KillNode, Fault::KillAgent, Fault::Freeze, Fault::CutFromAll];
        let dies = rng.random_range(0..12_000);
        faults.push((dies, rng.random_range(500..3 * ttl), pick(rng, &kinds)(primary)));
    }
    faults
}
