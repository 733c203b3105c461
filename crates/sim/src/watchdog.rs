//! The watchdog of a machine: it resets the machine when even the guard cannot act any more. It is kept as in
//! `crates/agent/src/guard/watchdog.rs`; it counts on while the machine stands still.

use matriarch_core::decide::Millis;

use crate::event::Event;
use crate::fault::Fault;
use crate::mutation::Mutation;
use crate::node::NodeId;
use crate::world::World;

/// How long before the deadline a reset must come.
const MARGIN: Millis = 1000;

/// One device and the guard's hand on it.
#[derive(Clone, Debug, Default)]
pub struct Watchdog {
    /// Another process has it: it cannot be opened.
    pub taken: bool,
    /// When it was last kicked, on the machine's clock, while it counts.
    pub kicked: Option<Millis>,
    /// Number of the newest kick.
    kicks: u64,
    /// The deadline that the guard had when it last ended PostgreSQL.
    pub ended: Millis,
}

impl World {
    /// Half of what a lease leaves beside the margin.
    fn watchdog_timeout(&self) -> Millis {
        (self.setup.ttl - MARGIN) / 2
    }

    /// Opens, kicks or closes it, as the deadline asks for.
    pub(crate) fn keep_watchdog(&mut self, node: NodeId) {
        if !self.setup.watchdogs {
            return;
        }
        let (now, timeout) = (self.clock(node), self.watchdog_timeout());
        let to_the_end = self.setup.mutation == Some(Mutation::WatchdogKickedToTheEnd);
        let this = &mut self.nodes[node];
        let Some(deadline) = this.deadline else {
            this.watchdog.kicked = None;
            return;
        };
        let due = this.watchdog.kicked.map_or(!this.watchdog.taken, |kicked| now >= kicked + timeout / 4);
        if !due || now + timeout + MARGIN > deadline && !to_the_end {
            return;
        }
        this.watchdog.kicked = Some(now);
        this.watchdog.kicks += 1;
        let kicks = this.watchdog.kicks;
        for wake in [timeout / 4, timeout / 2] {
            let delay = self.nodes[node].clock.wait(wake);
            self.after(delay, Event::Guard(node));
        }
        self.after(timeout, Event::WatchdogEnds(node, kicks));
    }

    /// When PostgreSQL has to end, given the deadline: early enough for a reset not to be needed.
    pub(crate) fn ends_by(&self, node: NodeId, deadline: Millis) -> Millis {
        let kicked = self.nodes[node].watchdog.kicked;
        kicked.map_or(deadline, |kicked| deadline.min(kicked + self.watchdog_timeout() / 2))
    }

    /// It was not kicked again in time.
    pub(crate) fn watchdog_ends(&mut self, node: NodeId, kicks: u64) {
        let watchdog = &self.nodes[node].watchdog;
        if watchdog.kicked.is_none() || watchdog.kicks != kicks {
            return;
        }
        if self.setup.mutation == Some(Mutation::WatchdogMissing) {
            return;
        }
        self.note(|| format!("{node}: the watchdog resets the machine"));
        self.power_cut(node);
        let boots = self.random(1000, 4000);
        self.after(boots, Event::Heal(Fault::PowerCut(node)));
    }

    /// A guard that has fired ends whatever starts, until it has a later deadline or is let go.
    pub(crate) fn fired_early(&mut self, node: NodeId) -> bool {
        let ends = self.setup.watchdogs && self.nodes[node].fired && !self.mutes_guard();
        if ends {
            self.note(|| format!("{node}: the guard, which has fired, kills PostgreSQL"));
            self.kill_postgres(node);
        }
        ends
    }

    /// What the agent is told of it, where it must not lead without.
    pub(crate) fn lacks_watchdog(&self, node: NodeId) -> Option<String> {
        let watchdog = &self.nodes[node].watchdog;
        let fails = watchdog.taken && watchdog.kicked.is_none();
        let told = fails && self.setup.mutation != Some(Mutation::WatchdogNotRequired);
        told.then(|| "it is in use".to_owned())
    }
}
