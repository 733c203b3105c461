//! Random schedules: a cluster, faults, and what must hold in between and at the end.

use std::fmt;
use std::str::FromStr;

use matriarch_core::decide::{CrashPolicy, Millis, Synchronous};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::event::Event;
use crate::fault::Fault;
use crate::mutation::Mutation;
use crate::node::NodeId;
use crate::world::{Setup, World};

/// A primary must run again this long after the last fault has ended.
const PRIMARY_WITHIN: Millis = 30_000;
/// Every member must be well again this long after the last fault has ended.
const HEALTHY_WITHIN: Millis = 120_000;

/// Which faults come, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// One fault at a time, and everything must heal by itself after each.
    Single,
    /// Faults overlap; only safety is checked.
    Overlapping,
    /// Leaders die one after the other while a disk is slow: for bugs that need that.
    Cascade,
    /// Leaders freeze for about as long as their lease lasts.
    Freezing,
    /// Data directories are lost and restored.
    DataLoss,
}

/// All of them.
pub const PROFILES: [Profile; 5] =
    [Profile::Single, Profile::Overlapping, Profile::Cascade, Profile::Freezing, Profile::DataLoss];

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Profile::Single => "single",
            Profile::Overlapping => "overlapping",
            Profile::Cascade => "cascade",
            Profile::Freezing => "freezing",
            Profile::DataLoss => "dataloss",
        })
    }
}

impl FromStr for Profile {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = || PROFILES.map(|profile| profile.to_string()).join(", ");
        PROFILES
            .into_iter()
            .find(|profile| profile.to_string() == text)
            .ok_or_else(|| format!("unknown profile '{text}'; there are {}", known()))
    }
}

/// How a run ended.
#[derive(Debug)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// The profile.
    pub profile: Profile,
    /// What was found wrong.
    pub violation: Option<String>,
    /// Commits acknowledged.
    pub acknowledged: u64,
    /// Milliseconds of virtual time.
    pub time: Millis,
    /// The trace, when asked for.
    pub lines: Vec<String>,
    /// Fingerprint of the trace, when asked for.
    pub hash: u64,
}

/// One run.
pub fn run(seed: u64, profile: Profile, mutation: Option<Mutation>, trace: bool) -> Outcome {
    let mut rng = SmallRng::seed_from_u64(seed ^ 0x6d61_7472_6961_7263);
    let setup = Setup { mutation, ..random_setup(&mut rng, profile) };
    let mut world = World::new(seed, setup, trace);
    world.note(|| format!("seed {seed}, {profile:?}"));
    let text = format!("{:?}", world.setup);
    world.note(|| text);
    play(&mut world, &mut rng, profile);
    Outcome {
        seed,
        profile,
        violation: world.checker.violation.take(),
        acknowledged: world.checker.acknowledged,
        time: world.now,
        hash: world.trace.hash,
        lines: world.trace.lines,
    }
}

fn random_setup(rng: &mut SmallRng, profile: Profile) -> Setup {
    let count = *pick(rng, &[1, 2, 2, 3, 3, 3, 3, 3, 4, 5]);
    let count = if profile == Profile::Single { count } else { count.max(3) };
    let members: Vec<String> = ["a", "b", "c", "d", "e"][..count].iter().map(|name| (*name).to_owned()).collect();
    let needed = match rng.random_range(0..10) {
        0 if profile == Profile::Single => 0,
        1..=2 if count >= 3 => 2,
        _ => 1,
    };
    let synchronous =
        Synchronous { needed, strict: rng.random_range(0..8) == 0, from_members: *pick(rng, &[3, 3, 3, 0]) };
    let nofailover = (count >= 4 && rng.random_range(0..3) == 0).then(|| members[count - 1].clone());
    Setup {
        nofailover: nofailover.into_iter().collect(),
        members,
        ttl: *pick(rng, &[5000, 5000, 3000, 10_000]),
        synchronous,
        shrink_delay: *pick(rng, &[2000, 500, 5000]),
        crash: if rng.random_range(0..5) == 0 { CrashPolicy::Restart } else { CrashPolicy::Failover },
        use_rewind: rng.random_range(0..8) != 0,
        stream_timeout: *pick(rng, &[3, 10, 60]),
        clients: 2,
        flaky: if rng.random_range(0..4) == 0 { 5 } else { 0 },
        mutation: None,
    }
}

fn pick<'a, T>(rng: &mut SmallRng, choices: &'a [T]) -> &'a T {
    &choices[rng.random_range(0..choices.len())]
}

fn play(world: &mut World, rng: &mut SmallRng, profile: Profile) {
    for node in 0..world.nodes.len() {
        world.start_agent(node);
    }
    if !settle(world, "the beginning") {
        return;
    }
    let rounds = rng.random_range(2..=5);
    for _ in 0..rounds {
        if !world.run_for(rng.random_range(100..2000)) {
            return;
        }
        let fine = match profile {
            Profile::Single => {
                let fault = random_fault(world, rng);
                let lasts = duration(world, rng, &fault);
                world.inject(fault.clone());
                world.after(lasts, Event::Heal(fault.clone()));
                world.run_for(lasts + 1) && settle(world, &format!("{fault:?}"))
            }
            _ => overlap(world, rng, profile),
        };
        if !fine {
            return;
        }
    }
}

/// Waits for the cluster to heal; false when something is wrong.
fn settle(world: &mut World, after: &str) -> bool {
    let started = world.now;
    let primary = world.run_until(PRIMARY_WITHIN, |world| world.primary().is_some());
    if world.checker.violation.is_some() {
        return false;
    }
    if !primary {
        let whys: Vec<String> = (0..world.nodes.len()).map(|node| why(world, node)).collect();
        world.violate(format!("no primary {PRIMARY_WITHIN} ms after {after}: {}", whys.join("; ")));
        return false;
    }
    let acknowledged = world.checker.acknowledged;
    let healthy = world.run_until(HEALTHY_WITHIN - (world.now - started), |world| {
        world.checker.acknowledged > acknowledged && world.trouble().is_none()
    });
    if world.checker.violation.is_some() {
        return false;
    }
    if !healthy {
        let trouble = world.trouble().unwrap_or_else(|| "no commit is acknowledged".to_owned());
        let whys: Vec<String> = (0..world.nodes.len()).map(|node| why(world, node)).collect();
        world.violate(format!("not healthy {HEALTHY_WITHIN} ms after {after}: {trouble}; {}", whys.join("; ")));
    }
    healthy
}

fn why(world: &World, node: NodeId) -> String {
    let this = &world.nodes[node];
    let why = this.agent.why.as_ref().map_or("-", |why| why.text.as_str());
    format!("{} ({}): {why}", this.name, if this.agent.alive { "alive" } else { "dead" })
}

fn random_fault(world: &mut World, rng: &mut SmallRng) -> Fault {
    let count = world.nodes.len();
    let node = match world.primary() {
        Some(primary) if rng.random_bool(0.5) => primary,
        _ => rng.random_range(0..count),
    };
    let other = rng.random_range(0..count);
    match rng.random_range(0..24) {
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
        23 if rng.random_bool(0.5) => Fault::StopAll,
        _ => Fault::PowerCutAll,
    }
}

fn duration(world: &World, rng: &mut SmallRng, fault: &Fault) -> Millis {
    let ttl = world.setup.ttl;
    match fault {
        // About as long as the lease: the old leader wakes while others take over.
        Fault::Freeze(_) | Fault::FreezeAgent(_) if rng.random_bool(0.7) => rng.random_range(ttl - 1500..ttl + 1500),
        Fault::KillPostmaster(_) | Fault::Wipe(_) | Fault::Garbage(_) | Fault::Reinit(_) => 1,
        _ => rng.random_range(50..2 * ttl + 4000),
    }
}

/// Several faults at once; safety alone is asserted, by the checker.
fn overlap(world: &mut World, rng: &mut SmallRng, profile: Profile) -> bool {
    let mut last = 0;
    for (delay, fault) in faults_of(world, rng, profile) {
        let lasts = duration(world, rng, &fault);
        world.after(delay, Event::Inject(fault.clone()));
        world.after(delay + lasts, Event::Heal(fault));
        last = last.max(delay + lasts);
    }
    if !world.run_for(last + 1) {
        return false;
    }
    world.run_until(60_000, |world| world.trouble().is_none());
    world.checker.violation.is_none()
}

fn faults_of(world: &mut World, rng: &mut SmallRng, profile: Profile) -> Vec<(Millis, Fault)> {
    let count = world.nodes.len();
    let primary = world.primary().unwrap_or(0);
    let other = (primary + rng.random_range(1..count)) % count;
    let third = (0..count).find(|node| *node != primary && *node != other).unwrap_or(other);
    let soon = rng.random_range(0..2500);
    match profile {
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
