//! Configuration of a cluster and of its members: what may be said, what it means, and what is wrong with it.
//!
//! Owns: the dynamic configuration in the store ([`DynamicConfig`]), the local YAML file of each agent
//! ([`LocalConfig`]), their validation, merge patches, and the reference in `docs/configuration.md`.
//! Must not: be async, talk to the store or to PostgreSQL, panic on any input, or show a secret.
//!
//! Start at the tables in `dynamic/keys.rs` and `local/keys.rs`: each key is defined there once, and validation,
//! suggestions, defaults and the reference all come from that. `check.rs` walks a value along a table; a new kind of
//! value is a variant in `schema.rs`. To add a key: add its row, add the field to the struct in `dynamic/mod.rs` or
//! `local/mod.rs`, and run `MATRIARCH_BLESS=1 cargo test -p matriarch-config`.

mod address;
mod check;
#[cfg(test)]
mod consumers;
mod cron;
mod dynamic;
mod hba;
mod limits;
mod local;
mod nearest;
mod parameters;
mod patch;
mod pooler;
mod problem;
mod reference;
mod report;
mod schema;
mod secret;
mod target;
mod units;
mod yaml;

pub use address::{Address, BadAddress, Listen, PoolerAddress};
pub use cron::{Cron, Zone};
pub use dynamic::archive::{
    Archive, ArchiveLocation, ArchiveRepository, CloneMembers, Compression, CreateBy, Durability, Encryption,
    Retention, Schedule, ServerSideEncryption,
};
pub use dynamic::dumps::{DumpFormat, Dumps};
pub use dynamic::{
    Crash, DynamicConfig, SharedPostgres, Slot, SlotKind, SlotMatch, SynchronousMode, SynchronousZones, validate,
};
pub use limits::{HOT_STANDBY_LIMITS, RestartOrder, restart_order};
pub use local::load::ConfigError;
pub use local::{
    Authentication, Bootstrap, BootstrapDump, BootstrapRestore, Consul, ConsulConsistency, Credentials, Ctl, Etcd,
    InitdbOption, InterfaceAddress, LocalConfig, LocalPostgres, Log, LogFormat, LogLevel, Pooler, PostgresLog, Proxy,
    RestApi, RestoreFrom, Role, Store, Tags, Tls, VerifyClient, VirtualIp, Watchdog, WatchdogMode,
};
pub use patch::{patch, set_path};
pub use pooler::check_pooler_setting;
pub use problem::{Origin, Problem, Problems};
pub use reference::reference;
pub use report::{FileKind, Report, check_file};
pub use secret::Secret;
pub use target::{RestoreTarget, moment};
pub use yaml::{Document, YamlError, to_yaml};
