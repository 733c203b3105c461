//! The cluster as stateright searches it.

use stateright::{Checker, HasDiscoveries, Model, Property};

use crate::canonical::canonical;
use crate::check::VIOLATIONS;
use crate::scene::Scene;
use crate::setup::Setup;
use crate::state::State;
use crate::step::{Step, candidates};

impl Model for Setup {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![started(self)]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        if state.violation.is_none() {
            candidates(state, self.clocked, steps);
        }
    }

    fn next_state(&self, before: &State, step: Step) -> Option<State> {
        let mut scene = Scene::new(self, before);
        if !scene.take(step) || scene.beyond {
            return None;
        }
        canonical(&mut scene.state, before.records.leads(), self);
        // What costs something and changes nothing is no step.
        let left = std::mem::replace(&mut scene.state.left, before.left);
        let changed = scene.state != *before;
        scene.state.left = left;
        changed.then_some(scene.state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        // Stateright takes functions, not closures, so that each property needs one of its own.
        macro_rules! never {
            ($($place:literal)*) => {
                vec![$(Property::always(VIOLATIONS[$place].1, |_: &Setup, state: &State| {
                    state.violation != Some(VIOLATIONS[$place].0)
                })),*]
            };
        }
        let mut properties = never!(0 1 2 3 4 5 6 7 8 9);
        properties.push(Property::sometimes(GOES_ON, |_, state: &State| acknowledged_later(state)));
        properties
    }
}

/// How a search ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Different states seen.
    pub states: usize,
    /// States generated, the same ones again included.
    pub generated: usize,
    /// Steps from the start to the farthest of them.
    pub depth: usize,
    /// Nothing was left to look at.
    pub finished: bool,
    /// Some state shows a commit that was acknowledged by a leader promoted in the search.
    pub goes_on: bool,
    /// A property that does not hold, and the way there.
    pub counterexample: Option<(String, Vec<String>)>,
}

/// Searches breadth first, up to a depth and a number of states; one thread finds the shortest counterexample.
pub fn search(setup: &Setup, depth: usize, states: usize, threads: usize) -> Outcome {
    let checker = setup
        .clone()
        .checker()
        .threads(threads)
        .target_max_depth(depth)
        .target_state_count(states)
        .finish_when(HasDiscoveries::AnyFailures)
        .spawn_bfs()
        .join();
    let mut discoveries = checker.discoveries();
    let goes_on = discoveries.remove(GOES_ON).is_some();
    let counterexample = discoveries.into_iter().next().map(|(property, path)| {
        let steps: Vec<Step> = path.into_actions();
        (property.to_owned(), story(setup, &steps))
    });
    Outcome {
        states: checker.unique_state_count(),
        generated: checker.state_count(),
        depth: checker.max_depth(),
        finished: checker.max_depth() < depth && checker.state_count() < states,
        goes_on,
        counterexample,
    }
}

/// A search that never gets so far proves little.
const GOES_ON: &str = "a later leader acknowledges a commit";

fn acknowledged_later(state: &State) -> bool {
    let mut records = state.members.iter().flat_map(|member| &member.dir).flat_map(|dir| &dir.wal);
    records.any(|record| record.timeline > 1 && state.ledger.acknowledged & !1 & (1 << record.commit) != 0)
}

fn started(setup: &Setup) -> State {
    let mut state = setup.start();
    let led = state.records.leads();
    canonical(&mut state, led, setup);
    state
}

/// The same steps once more, told.
pub fn story(setup: &Setup, steps: &[Step]) -> Vec<String> {
    let mut state = started(setup);
    let mut lines = Vec::new();
    for (number, step) in steps.iter().enumerate() {
        let mut scene = Scene::new(setup, &state);
        scene.notes = Some(Vec::new());
        scene.take(*step);
        let notes = scene.notes.take().unwrap_or_default();
        lines.push(format!("{:2}. {step}", number + 1));
        lines.extend(notes.into_iter().map(|note| format!("      {note}")));
        canonical(&mut scene.state, state.records.leads(), setup);
        state = scene.state;
    }
    lines
}
