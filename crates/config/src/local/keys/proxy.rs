//! Keys of `proxy`.

use super::checks::bind_address;
use super::pooler::POOLER;
use crate::local::rules;
use crate::schema::{Key, Kind, Rule, key};

pub(super) const PROXY: &[Key] = &[
    key(
        "read_write",
        Kind::Text { what: "an address", check: bind_address },
        "Address and port whose sessions reach the primary.",
    )
    .env("MATRIARCH_PROXY_READ_WRITE"),
    key(
        "read_only",
        Kind::Text { what: "an address", check: bind_address },
        "Address and port whose sessions reach the replicas.",
    )
    .env("MATRIARCH_PROXY_READ_ONLY"),
    key("max_connections", Kind::Integer { min: 1, max: 1_000_000 }, "Most sessions on both ports together.")
        .default("10000"),
    key(
        "hold_timeout",
        Kind::Seconds { min: 0.0, max: 3600.0 },
        "How long a new session waits while there is no member for it, before it is refused.",
    )
    .default("30"),
    key("hold_limit", Kind::Integer { min: 0, max: 1_000_000 }, "Most sessions that wait at the same time.")
        .default("10000"),
    key(
        "maximum_lag",
        Kind::Bytes { min: 0, max: 1 << 62 },
        "A replica that is further behind gets no new read-only sessions.",
    )
    .default("67108864"),
    key("read_only_falls_back", Kind::Bool, "The read-only port uses the primary while no replica will do.")
        .default("false"),
    key("connect_timeout", Kind::Seconds { min: 0.05, max: 300.0 }, "Limit for one connect to a member.").default("2"),
    key("startup_timeout", Kind::Seconds { min: 0.1, max: 300.0 }, "Limit for a client to send its startup packet.")
        .default("10"),
    key(
        "drain_timeout",
        Kind::Seconds { min: 0.0, max: 3600.0 },
        "How long open sessions may go on while the proxy stops.",
    )
    .default("10"),
    key(
        "accept_proxy_protocol",
        Kind::Bool,
        "Each connection must begin with a PROXY protocol header from a balancer in front.",
    )
    .default("false"),
    key(
        "send_proxy_protocol",
        Kind::Bool,
        "Send a PROXY protocol header (version 2) to the member; poolers may want it.",
    )
    .default("false"),
    key(
        "pooler",
        Kind::Section { keys: POOLER, rule: Some(rules::pooler as Rule) },
        "PgBouncer beside the proxy: run by this agent, or run by others and only paused. Left out: none.",
    )
    .default("null"),
];
