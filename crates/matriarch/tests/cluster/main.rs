//! End-to-end tests: real clusters of `matriarch up` with real PostgreSQL, used, broken and fed with rubbish.

#[path = "../harness/mod.rs"]
mod harness;

mod faults;
mod majors;
mod up;
