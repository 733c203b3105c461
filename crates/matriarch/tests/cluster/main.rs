//! End-to-end tests: real clusters of `matriarch up` with real PostgreSQL, used, broken and fed with rubbish.

#[path = "../harness/mod.rs"]
mod harness;

mod api_tls;
mod backup;
mod bad_input;
mod config;
mod consul;
mod data_loss;
mod doors;
mod drills;
mod etcd;
mod faults;
mod foreign;
mod from_patroni;
mod in_place;
mod majors;
mod noticing;
mod patronictl;
mod requests;
mod sizes;
mod store_troubles;
mod strict;
mod tags;
mod two_repositories;
mod up;
mod verbs;
