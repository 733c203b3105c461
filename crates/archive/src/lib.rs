//! The archive: what a cluster keeps outside its own disks, and how it comes back.
//!
//! Owns: repositories in a directory or an object store ([`repository`]), the form of the objects in them ([`mod@format`]) and
//! where they lie ([`layout`]), one cluster's incarnation there ([`archive`]), its WAL ([`wal`]) and the part of it that has not filled a
//! segment yet ([`tail`]), base backups ([`base`]), restores ([`restore`]), reading them for damage ([`verify`]), whether keys open them ([`keys`]), removing
//! what nobody needs any more ([`retention`]), logical dumps ([`dump`]), other tools' repositories in ([`door`]) and out ([`export`]), and what a cluster's configuration means for all that ([`configured`]).
//! Must not: run or configure a PostgreSQL server, decide anything about a cluster, or take a store's list or its silence for a
//! proof: only an object that was asked for by its name, in a repository that answers for itself, is absent.
//! Start at [`archive::Archive`]. `docs/archive-format.md` says what lies in a repository, byte by byte.

pub mod archive;
pub mod base;
pub mod configured;
pub mod door;
pub mod dump;
pub mod export;
pub mod format;
pub mod keys;
pub mod layout;
mod manifest;
mod packs;
mod place_file;
pub mod progress;
pub mod repository;
pub mod restore;
pub mod retention;
pub mod tail;
pub mod verify;
pub mod wal;
