//! Commits that wait for the archive's tail (`archive.durability`), beside the voters of the rule.
//!
//! Decisions never see any of it: they are told the rule without the tail, and the names they ask for are rendered with it
//! ([`names`]). Which tails commits wait for, and when one is done without, is [`Seats`]'.

pub mod names;
mod seats;

pub use seats::{Seats, Seen, Tail, Terms};
