//! Faults that strike a member right after one of its own steps, so that every step gets its turn of being the last.

use matriarch_core::decide::Millis;

use crate::event::Event;
use crate::fault::Fault;
use crate::node::NodeId;
use crate::world::World;

/// A fault that waits for a step.
#[derive(Clone, Debug)]
pub struct Trap {
    /// Steps (jobs, settings, changes of the store) until it strikes whoever takes the last one.
    pub steps: u32,
    /// What strikes: the kind counts, the member in it does not.
    pub fault: fn(NodeId) -> Fault,
    /// How long it lasts.
    pub lasts: Millis,
}

impl World {
    /// A member has taken a step.
    pub(crate) fn step_taken(&mut self, node: NodeId) {
        let Some(trap) = &mut self.trap else { return };
        trap.steps -= 1;
        if trap.steps > 0 {
            return;
        }
        let (fault, lasts) = ((trap.fault)(node), trap.lasts);
        self.trap = None;
        // Some of it may still get through.
        let delay = self.random(0, 12);
        self.after(delay, Event::Inject(fault.clone()));
        self.after(delay + lasts, Event::Heal(fault));
        self.trapped_until = self.now + delay + lasts;
    }
}
