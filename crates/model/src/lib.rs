//! An exhaustive search of small clusters around the real `decide`.
//!
//! Owns: a store, PostgreSQL, and the agent's shell, each reduced to what can be counted ([`state`]); every step and fault
//! that may come next ([`step`]); the invariants of the design as properties ([`check`]); and the rules taken away one at a
//! time, each of which the search must notice ([`mutation`]).
//! Must not: be linked into the product, know time beyond "now", "long ago" and ticks, or use randomness. What the
//! simulator tries by chance over long runs, the search tries completely over short ones. Start reading at [`step`], then
//! [`agent`].

pub mod agent;
pub mod canonical;
pub mod check;
pub mod decided;
pub mod lease;
pub mod model;
pub mod mutation;
pub mod postgres;
pub mod promotion;
pub mod reduce;
pub mod scene;
pub mod setup;
pub mod shared;
pub mod state;
pub mod step;
pub mod store;
pub mod timers;
