//! The proxy between real clients and real (or deliberately odd) servers.

#![allow(clippy::unwrap_used, reason = "a test's helpers may fail as the test does")]

mod bounds;
mod cutting;
mod holding;
mod moving;
mod opening;
mod router;
mod sessions;
mod streams;
mod tls;
mod wire;
