//! The REST interface of a member: what it shows, what it can be asked to do, and a client for both.
//!
//! Owns: the JSON shapes ([`types`]), the routes with Patroni's paths and status codes ([`router`]), who may use them
//! ([`Auth`]), the metrics text ([`metrics`]), the OpenAPI document ([`openapi`]), the listener with its limits
//! ([`serve`]) and the [`Client`].
//! Must not: talk to PostgreSQL or to the store, or decide anything. What it shows and does is the [`Backend`]'s,
//! which the agent implements. Start reading at [`Backend`], then `routes`.

mod answer;
mod auth;
mod backend;
mod base64;
mod body;
pub mod client;
mod commands;
pub mod health;
pub mod heartbeat;
pub mod metrics;
mod nearest;
pub mod openapi;
mod routes;
mod schedule;
mod server;
pub mod types;

pub use auth::{Auth, Certified, Reads, authorization};
pub use backend::{Backend, Command, CommandDone, CommandError, Live, Outcome};
pub use client::{Client, ClientError, Reply};
pub use routes::{OTHER_PATHS, router, router_with};
pub use server::{Limits, serve, serve_with};
pub use types::*;
