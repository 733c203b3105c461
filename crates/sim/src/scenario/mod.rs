//! Failover scenarios written as text, one step a line. The files are in `crates/core/testdata/failover/`; the language
//! is explained there, in `README.md`.

mod condition;
mod parse;
mod run;

pub use condition::Condition;
pub use parse::{Bad, Scenario, Step, parse};
pub use run::run;
