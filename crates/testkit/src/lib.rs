//! What tests and benchmarks need around the product: real PostgreSQL, faults, and witnesses.
//!
//! Owns: finding PostgreSQL of several majors ([`postgres`]), throw-away servers ([`server`], [`etcd`], [`consul`], [`s3`], [`gcs`], [`azure`], [`pgbackrest`]) and
//! their certificates ([`certificates`]), folders and ports that parallel tests do not fight over ([`dir`], [`ports`]),
//! handles of started programs ([`process`]), what comes in wheels ([`wheels`]), tests that cannot run here ([`mod@skipped`]), programs made for a test ([`executable`]), faults of processes and files ([`faults`], [`disk`]), disks that fill, freeze
//! ([`volume`]), fail and forget ([`faulty`]), hosts that can be cut off, frozen and switched off ([`lab`]), a network and a store that
//! fail at any request ([`middleman`]), what gives out credentials in the clouds ([`identity`]), a proxy ([`tunnel`]), the clients that
//! remember what was acknowledged ([`ledger`]) and every answer ([`history`]), and the observer that would see two
//! primaries ([`observer`]).
//! Must not: be a dependency of anything but tests and benchmarks, know Matriarch's own types, or touch a process
//! that does not belong to the test at hand.
//! Start at [`dir::TestDir`]: everything a test starts lives in one, and ends with it.

pub mod azure;
mod built;
pub mod certificates;
pub mod consul;
pub mod dir;
pub mod disk;
pub mod etcd;
pub mod executable;
pub mod faults;
pub mod faulty;
pub mod gcs;
pub mod history;
pub mod identity;
pub mod janitor;
pub mod lab;
pub mod ledger;
mod listening;
pub mod middleman;
pub mod observer;
pub mod pgbackrest;
pub mod ports;
pub mod postgres;
pub mod process;
pub mod s3;
pub mod server;
pub mod skipped;
pub mod story;
pub mod tunnel;
pub mod user;
pub mod volume;
pub mod wheels;

pub use listening::Tls;
pub use skipped::skipped;
