//! From SQLite's result codes to the errors of the trait.

use rusqlite::{ErrorCode, ffi};

use super::file::Place;
use super::holder;
use crate::error::StoreError;

/// How far an operation had come when SQLite failed: it decides whether the write may have happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Open,
    BeforeCommit,
    Commit,
}

/// The error of the trait for what SQLite said.
pub(super) fn store_error(place: &Place, stage: Stage, error: &rusqlite::Error) -> StoreError {
    let path = place.path.clone();
    let code = error.sqlite_error_code();
    let extended = error.sqlite_error().map_or(0, |error| error.extended_code);
    match code {
        Some(ErrorCode::NotADatabase) if stage == Stage::Open => {
            StoreError::NotOurs { path, found: "it is not an SQLite database".to_owned() }
        }
        // A store of ours is always in WAL mode: only somebody else's waits for a rollback.
        Some(ErrorCode::ReadOnly) if extended == ffi::SQLITE_READONLY_ROLLBACK => {
            StoreError::NotOurs { path, found: "an SQLite database with an unfinished transaction".to_owned() }
        }
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
            StoreError::Corrupt { path, detail: error.to_string() }
        }
        Some(ErrorCode::DiskFull) => StoreError::NoSpace { place: place.to_string() },
        Some(ErrorCode::SystemIoFailure) if extended == ffi::SQLITE_IOERR_SHMSIZE => {
            StoreError::NoSpace { place: place.to_string() }
        }
        // The log may have reached the disk whole even though the kernel reported a failure.
        Some(ErrorCode::SystemIoFailure) if stage == Stage::Commit => StoreError::Indeterminate {
            place: place.to_string(),
            reason: format!("{error} (code {extended}); check the disk and the kernel's log"),
        },
        Some(ErrorCode::SystemIoFailure) => {
            unavailable(place, format!("{error} (code {extended}); check the disk and the kernel's log"))
        }
        Some(ErrorCode::PermissionDenied | ErrorCode::ReadOnly | ErrorCode::CannotOpen) => {
            let reason = format!("{error}; this user needs to write the file and to create files beside it");
            StoreError::Permission { path, reason }
        }
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::FileLockingProtocolFailed) => {
            let who = holder::in_words(&place.path).unwrap_or_else(|| "other processes keep it locked".to_owned());
            unavailable(place, format!("no turn to write within {:?}: {who}", super::schema::LOCK_WAIT))
        }
        _ => unavailable(place, error.to_string()),
    }
}

/// Nothing was applied, for this reason.
pub(super) fn unavailable(place: &Place, reason: String) -> StoreError {
    StoreError::Unavailable { place: place.to_string(), reason }
}
