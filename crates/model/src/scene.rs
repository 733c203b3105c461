//! A state about to become the next one, and the story of how.

use crate::setup::Setup;
use crate::state::State;

/// One step under way.
pub struct Scene<'a> {
    /// The search.
    pub setup: &'a Setup,
    /// What it becomes.
    pub state: State,
    /// What follows is beyond what can be held against anybody.
    pub beyond: bool,
    /// What is to be told; nothing is told while searching.
    pub notes: Option<Vec<String>>,
}

impl<'a> Scene<'a> {
    /// Begins a step that nobody tells of.
    pub fn new(setup: &'a Setup, state: &State) -> Self {
        Scene { setup, state: state.clone(), beyond: false, notes: None }
    }

    /// Tells something.
    pub fn note(&mut self, text: impl FnOnce() -> String) {
        if let Some(notes) = &mut self.notes {
            notes.push(text());
        }
    }
}
