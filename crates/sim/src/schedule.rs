//! Random schedules: a cluster, faults, and what must hold in between and at the end.

use std::collections::BTreeSet;

use matriarch_core::decide::Millis;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::directed::directed_faults;
use crate::event::Event;
use crate::fault::Fault;
use crate::mutation::Mutation;
use crate::node::NodeId;
use crate::profile::random_setup;
pub use crate::profile::{DIRECTED, PROFILES, Profile};
use crate::script::{duration, faults_of, random_fault, random_trap};
use crate::world::{Setup, World};

/// A primary must run again this long after the last fault has ended.
const PRIMARY_WITHIN: Millis = 30_000;
/// Every member must be well again this long after the last fault has ended.
const HEALTHY_WITHIN: Millis = 120_000;

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

fn play(world: &mut World, rng: &mut SmallRng, profile: Profile) {
    if profile == Profile::Steps {
        world.trap = Some(random_trap(world, rng));
    }
    if profile == Profile::LateChanges {
        world.inject(Fault::DelayedRequests);
    }
    // Its first member is alone until others join in the course of the faults; or nobody of ours is there until then.
    let alone = matches!(profile, Profile::Newcomers | Profile::Adoptions);
    let first = match profile {
        Profile::Newcomers => 1,
        Profile::Adoptions => 0,
        _ => world.nodes.len(),
    };
    if profile == Profile::Adoptions {
        world.keep_by_others();
    }
    for node in 0..first {
        world.start_agent(node);
    }
    if !spring(world, 2000) || !(alone || settle(world, "the beginning")) {
        return;
    }
    let rounds = match profile {
        Profile::Newcomers => 1,
        Profile::Adoptions => 2,
        _ => rng.random_range(2..=5),
    };
    for _ in 0..rounds {
        if !world.run_for(rng.random_range(100..2000)) {
            return;
        }
        let fine = match profile {
            Profile::Single => {
                // What the fault before has set off may show only after it has healed.
                if world.trouble().is_some() && !settle(world, "the fault before") {
                    return;
                }
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
    if world.ended() {
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
    if world.ended() {
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

fn epoch(world: &mut World) -> Option<u64> {
    world.store.view().cluster.sync.as_ref().map(|sync| sync.value.epoch)
}

/// Several faults at once; then everything must heal, unless too much was lost.
fn overlap(world: &mut World, rng: &mut SmallRng, profile: Profile) -> bool {
    let mut last = 0;
    let mut lost = BTreeSet::new();
    let mut names = Vec::new();
    if profile == Profile::Steps {
        world.trap = Some(random_trap(world, rng));
    }
    let faults = if DIRECTED.contains(&profile) {
        directed_faults(world, rng, profile)
    } else {
        let begin = faults_of(world, rng, profile);
        begin.into_iter().map(|(delay, fault)| (delay, duration(world, rng, &fault), fault)).collect()
    };
    let before = epoch(world);
    let outage_alone = faults.iter().all(|(_, _, fault)| *fault == Fault::StoreDown);
    for (delay, lasts, fault) in faults {
        lost.extend(fault.loses_data_of());
        names.push(format!("{fault:?}"));
        world.after(delay, Event::Inject(fault.clone()));
        world.after(delay + lasts, Event::Heal(fault));
        last = last.max(delay + lasts);
    }
    if profile == Profile::Paused {
        let lasts = rng.random_range(1000..last + 10_000);
        world.inject(Fault::Pause);
        world.after(lasts, Event::Heal(Fault::Pause));
        last = last.max(lasts);
    }
    if !spring(world, last + 1) {
        return false;
    }
    // The leader and the only voter that had everything may both be among them: that is for people to mend.
    let several = matches!(profile, Profile::Storm | Profile::Unguarded);
    let waits = several && world.setup.synchronous.strict && !lost.is_empty();
    // The only copy may have gone while the others were being rewound: then it takes a backup.
    let gone = !lost.is_empty() && world.nobody_has_data();
    if lost.len() > 1 || gone || waits {
        return world.run_until(60_000, |world| world.trouble().is_none());
    }
    // Voters stand by their leader, and members of an asynchronous cluster promise not to take over.
    if outage_alone && profile == Profile::Outage && epoch(world) != before {
        world.violate("an outage of the store, and nothing else, moved the lead".to_owned());
        return false;
    }
    if world.waits_for_a_person() {
        return false;
    }
    settle(world, &names.join(" and "))
}

/// Lets time pass, and then until the fault of a trap that was sprung meanwhile has ended; false after a violation.
fn spring(world: &mut World, time: Millis) -> bool {
    if !world.run_for(time) {
        return false;
    }
    world.trap = None;
    let rest = (world.trapped_until + 1).saturating_sub(world.now);
    world.run_for(rest)
}
