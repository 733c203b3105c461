//! Which faults a kind of random schedule is made of, and when they come.

use matriarch_core::decide::Millis;
use rand::Rng;
use rand::rngs::SmallRng;

use crate::fault::Fault;
use crate::node::NodeId;
use crate::profile::{Profile, pick};
use crate::trap::Trap;
use crate::world::World;

pub(crate) fn random_fault(world: &mut World, rng: &mut SmallRng) -> Fault {
    let count = world.nodes.len();
    let node = match world.primary() {
        Some(primary) if rng.random_bool(0.5) => primary,
        _ => rng.random_range(0..count),
    };
    let other = rng.random_range(0..count);
    match rng.random_range(0..28) {
        0 | 1 => Fault::KillPostmaster(node),
        2 => Fault::KillAgent(node),
        3 | 4 => Fault::KillNode(node),
        5 | 6 => Fault::PowerCut(node),
        7 | 8 => Fault::Freeze(node),
        9 => Fault::FreezeAgent(node),
        10 if count > 1 => Fault::Wipe(node),
        11 if count > 1 => Fault::Garbage(node),
        12 if count > 1 => Fault::Restore(node),
        13 => Fault::StoreDown,
        14 => Fault::CutOff(node),
        15 => Fault::LostAnswers,
        16 => Fault::DelayedRequests,
        17 => Fault::SlowDisk(node, rng.random_range(20..1500)),
        18 => Fault::Flaky,
        19 => Fault::Switchover(rng.random_bool(0.5).then_some(other)),
        20 if other != node => Fault::Cut(node, other),
        21 => Fault::Reinit(node),
        22 => Fault::RestartAgent(node),
        23 if other != node => Fault::Silence(node, other),
        24 => Fault::UnsteadyBeats,
        25 => Fault::CutFromMembers(node),
        26 => Fault::CutFromAll(node),
        27 if rng.random_bool(0.5) => Fault::StopAll,
        _ => Fault::PowerCutAll,
    }
}

pub(crate) fn duration(world: &World, rng: &mut SmallRng, fault: &Fault) -> Millis {
    let ttl = world.setup.ttl;
    match fault {
        // About as long as the lease: the old leader wakes while others take over.
        Fault::Freeze(_) | Fault::FreezeAgent(_) if rng.random_bool(0.7) => rng.random_range(ttl - 1500..ttl + 1500),
        // Mostly about as long as it takes to suspect and to pledge.
        Fault::Silence(..) if rng.random_bool(0.7) => rng.random_range(1000..1600),
        // Longer than anybody's patience.
        Fault::CutOff(_) | Fault::StoreDown if rng.random_bool(0.4) => rng.random_range(2 * ttl..5 * ttl + 6000),
        Fault::WipeStore | Fault::RestoreStore(_) => 1,
        Fault::KillPostmaster(_) | Fault::Wipe(_) | Fault::Garbage(_) | Fault::Reinit(_) => 1,
        _ => rng.random_range(50..2 * ttl + 4000),
    }
}

pub(crate) fn faults_of(world: &mut World, rng: &mut SmallRng, profile: Profile) -> Vec<(Millis, Fault)> {
    let count = world.nodes.len();
    let primary = world.primary().unwrap_or(0);
    let other = (primary + rng.random_range(1..count.max(2))) % count;
    let third = (0..count).find(|node| *node != primary && *node != other).unwrap_or(other);
    let soon = rng.random_range(0..2500);
    match profile {
        Profile::Storm => {
            let faults = rng.random_range(3..=6);
            (0..faults).map(|_| (rng.random_range(0..6000), random_fault(world, rng))).collect()
        }
        Profile::Unguarded => {
            let second = match rng.random_range(0..4) {
                0 => Fault::SlowDisk(third, rng.random_range(50..1500)),
                1 => Fault::Cut(primary, third),
                2 => Fault::FreezeAgent(other),
                _ => random_fault(world, rng),
            };
            vec![(soon, Fault::FreezeAgent(primary)), (rng.random_range(0..4000), second)]
        }
        Profile::RuleChanges => {
            let mut faults = vec![(0, if rng.random_bool(0.6) { Fault::DelayedRequests } else { Fault::LostAnswers })];
            for node in [other, third] {
                faults.push((rng.random_range(0..3000), Fault::Cut(primary, node)));
            }
            match rng.random_range(0..4) {
                0 => faults.push((rng.random_range(2000..8000), Fault::KillAgent(primary))),
                1 => faults.push((rng.random_range(2000..8000), Fault::Freeze(primary))),
                2 => faults.push((rng.random_range(2000..8000), Fault::Wipe(other))),
                _ => {}
            }
            faults
        }
        Profile::Outage => {
            let away = match rng.random_range(0..6) {
                0 | 1 => vec![Fault::StoreDown],
                2 => vec![Fault::CutOff(primary), Fault::CutOff(other)],
                3 => vec![Fault::CutOff(primary), Fault::Silence(other, primary)],
                _ => vec![Fault::CutOff(primary)],
            };
            let mut faults: Vec<_> = away.into_iter().map(|fault| (rng.random_range(0..1500), fault)).collect();
            let soon = rng.random_range(0..9000);
            match rng.random_range(0..10) {
                0 => faults.push((soon, Fault::Freeze(other))),
                1 => faults.push((soon, Fault::KillAgent(other))),
                2 => faults.push((soon, Fault::KillNode(other))),
                3 => faults.push((soon, Fault::Freeze(primary))),
                4 => faults.push((soon, Fault::KillPostmaster(primary))),
                5 => faults.push((0, Fault::UnsteadyBeats)),
                6 => faults.push((soon, Fault::CutFromMembers(primary))),
                _ => {}
            }
            faults
        }
        Profile::StoreLoss => {
            let ago = rng.random_range(0..20_000);
            let loss = if rng.random_bool(0.4) { Fault::WipeStore } else { Fault::RestoreStore(ago) };
            let mut faults = vec![(soon, loss)];
            let around = rng.random_range(0..5000);
            match rng.random_range(0..8) {
                0 => faults.push((around, Fault::KillAgent(other))),
                1 => faults.push((around, Fault::Silence(primary, other))),
                2 => faults.push((around, Fault::KillNode(primary))),
                3 => faults.push((around, Fault::Freeze(other))),
                4 => faults.push((around, Fault::Cut(primary, other))),
                5 => faults.push((around, Fault::KillNode(other))),
                _ => {}
            }
            faults
        }
        Profile::Suspicion if rng.random_bool(0.2) => {
            // A pledge is late, its maker streams again and confirms alone; then the leader dies.
            let dies = rng.random_range(4000..9000);
            let behind = if rng.random_bool(0.5) { Fault::Cut(primary, third) } else { Fault::SlowDisk(third, 2000) };
            vec![
                (0, Fault::DelayedRequests),
                (soon / 4, Fault::Silence(primary, other)),
                (rng.random_range(0..4000), behind),
                (dies, Fault::PowerCut(primary)),
                (dies, Fault::Silence(primary, other)),
            ]
        }
        Profile::Suspicion => suspicions(world, rng, primary, other),
        Profile::Clocks => {
            let mut faults = vec![(soon, Fault::Freeze(if rng.random_bool(0.7) { primary } else { other }))];
            let around = rng.random_range(0..6000);
            match rng.random_range(0..8) {
                0 | 1 => faults.push((around, Fault::CutOff(primary))),
                2 => faults.push((around, Fault::StoreDown)),
                3 => faults.push((around, Fault::PowerCut(other))),
                4 => faults.push((around, Fault::CutFromMembers(primary))),
                5 => faults.push((0, Fault::UnsteadyBeats)),
                6 => faults.push((around, Fault::FreezeAgent(primary))),
                _ => {}
            }
            faults
        }
        Profile::Gray => {
            let node = if rng.random_bool(0.7) { primary } else { other };
            let gray = match rng.random_range(0..5) {
                0 | 1 => Fault::StallDisk(node),
                2 => Fault::FillDisk(node),
                3 => Fault::FailDisk(node),
                _ => Fault::HangPostmaster(node),
            };
            let mut faults = vec![(soon, gray)];
            if rng.random_bool(0.5) {
                faults.push((rng.random_range(0..8000), random_fault(world, rng)));
            }
            faults
        }
        Profile::Newcomers
        | Profile::AcceptedLoss
        | Profile::HeldUp
        | Profile::SlowSettings
        | Profile::LateChanges
        | Profile::OldPrimaries
        | Profile::OldPledges
        | Profile::CutPromotions
        | Profile::Neighbours
        | Profile::Watchdogs
        | Profile::Laggards
        | Profile::Reboots
        | Profile::Returners
        | Profile::Forgetters
        | Profile::Lonely
        | Profile::Pairs
        | Profile::Halves
        | Profile::Adoptions
        | Profile::Strays => Vec::new(),
        Profile::Paused => vec![(rng.random_range(0..3000), random_fault(world, rng))],
        Profile::Steps => vec![(0, random_fault(world, rng))],
        Profile::Single | Profile::Overlapping => {
            let first = random_fault(world, rng);
            let second = random_fault(world, rng);
            vec![(0, first), (soon, second)]
        }
        Profile::Cascade => {
            let ttl = world.setup.ttl;
            let kill = if rng.random_bool(0.5) { Fault::PowerCut(primary) } else { Fault::KillPostmaster(primary) };
            let released = matches!(kill, Fault::KillPostmaster(_));
            let next =
                if released { rng.random_range(50..600) } else { ttl * 2 / 3 + rng.random_range(0..ttl / 3 + 600) };
            let behind = if rng.random_bool(0.5) {
                Fault::SlowDisk(third, rng.random_range(200..3000))
            } else {
                Fault::Cut(primary, third)
            };
            vec![(soon.saturating_sub(500), behind), (soon, kill), (soon + next, Fault::PowerCut(other))]
        }
        Profile::Freezing => {
            let mut faults = vec![(soon, Fault::Freeze(primary))];
            if rng.random_bool(0.5) {
                faults.push((0, Fault::SlowDisk(third, rng.random_range(50..1500))));
            } else if rng.random_bool(0.7) {
                faults.push((soon + 500, Fault::Cut(primary, other)));
            }
            faults
        }
        Profile::DataLoss => {
            let mut faults =
                vec![(soon, Fault::Restore(other)), (soon + rng.random_range(0..3000), Fault::PowerCut(primary))];
            if rng.random_bool(0.6) {
                faults.push((0, Fault::SlowDisk(third, rng.random_range(200..3000))));
            }
            faults
        }
    }
}

fn suspicions(world: &World, rng: &mut SmallRng, primary: NodeId, other: NodeId) -> Vec<(Millis, Fault)> {
    let count = world.nodes.len();
    let mut faults = Vec::new();
    match rng.random_range(0..6) {
        // Some hear the leader no more, all of them or not, once or again and again.
        0..=3 => {
            for node in (0..count).filter(|node| *node != primary) {
                for time in 0..rng.random_range(0..4) {
                    faults.push((rng.random_range(0..700) + 1800 * time, Fault::Silence(primary, node)));
                }
            }
        }
        4 => faults.push((0, Fault::CutFromMembers(primary))),
        _ => faults.push((0, Fault::Silence(primary, other))),
    }
    let soon = rng.random_range(0..4000);
    match rng.random_range(0..8) {
        0 | 1 => faults.push((0, Fault::DelayedRequests)),
        2 => faults.push((0, Fault::LostAnswers)),
        3 => faults.push((soon, Fault::KillAgent(other))),
        4 => faults.push((soon, Fault::CutOff(primary))),
        5 => faults.push((0, Fault::UnsteadyBeats)),
        6 => faults.push((soon, Fault::Freeze(if rng.random_bool(0.5) { primary } else { other }))),
        _ => {}
    }
    faults
}

/// What strikes a member right after one of its steps.
pub(crate) fn random_trap(world: &World, rng: &mut SmallRng) -> Trap {
    let kinds: [fn(NodeId) -> Fault; 7] = [
        Fault::KillAgent,
        Fault::KillAgent,
        Fault::KillNode,
        Fault::PowerCut,
        Fault::Freeze,
        Fault::FreezeAgent,
        Fault::KillPostmaster,
    ];
    let fault = *pick(rng, &kinds);
    let ttl = world.setup.ttl;
    let lasts = if rng.random_bool(0.5) { rng.random_range(5..1000) } else { rng.random_range(1000..2 * ttl) };
    Trap { steps: rng.random_range(1..=25), fault, lasts }
}
