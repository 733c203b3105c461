//! Plays a scenario.

use matriarch_core::decide::Millis;

use crate::node::NodeId;
use crate::scenario::condition::{Before, identities};
use crate::scenario::{Condition, Scenario, Step};
use crate::world::World;

/// Plays a scenario with one seed.
///
/// # Errors
/// The line that did not come true and why, after the trace.
pub fn run(scenario: &Scenario, seed: u64) -> Result<(), String> {
    let mut world = World::new(seed, scenario.setup.clone(), true);
    let mut before = Before::default();
    for (line, step) in &scenario.steps {
        world.note(|| format!("line {line}"));
        let outcome = play(&mut world, &mut before, step);
        let outcome = outcome.and_then(|()| world.checker.violation.clone().map_or(Ok(()), Err));
        if let Err(why) = outcome {
            let from = world.trace.lines.len().saturating_sub(60);
            return Err(format!("{}\nseed {seed}, line {line}: {why}", world.trace.lines[from..].join("\n")));
        }
    }
    Ok(())
}

fn play(world: &mut World, before: &mut Before, step: &Step) -> Result<(), String> {
    if !matches!(step, Step::Reach(..) | Step::Hold(..)) {
        before.data = identities(world);
    }
    before.acknowledged = world.checker.acknowledged;
    match step {
        Step::Start(nodes) => nodes.iter().for_each(|node| start(world, *node)),
        Step::Stop(nodes) => nodes.iter().for_each(|node| world.stop_agent(*node)),
        Step::Begin(fault) => world.inject(fault.clone()),
        Step::End(fault) => world.heal(fault),
        Step::Run(time) => drop(world.run_for(*time)),
        Step::Reach(conditions, limit) => return reach(world, before, conditions, *limit),
        Step::Hold(conditions, time) => return hold(world, before, conditions, *time),
    }
    Ok(())
}

fn start(world: &mut World, node: NodeId) {
    world.nodes[node].powered = true;
    world.start_agent(node);
}

fn missing(world: &mut World, before: &Before, conditions: &[Condition]) -> Option<String> {
    conditions.iter().find_map(|condition| condition.missing(world, before))
}

fn reach(world: &mut World, before: &Before, conditions: &[Condition], limit: Millis) -> Result<(), String> {
    if world.run_until(limit, |world| missing(world, before, conditions).is_none()) {
        return Ok(());
    }
    Err(missing(world, before, conditions).unwrap_or_else(|| "it came too late".to_owned()))
}

fn hold(world: &mut World, before: &Before, conditions: &[Condition], time: Millis) -> Result<(), String> {
    let mut broken = None;
    world.run_until(time, |world| {
        broken = missing(world, before, conditions);
        broken.is_some()
    });
    broken.map_or(Ok(()), Err)
}
