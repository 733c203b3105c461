//! What went wrong with an archive, as an exit code.

use std::fmt::Display;

use matriarch_archive::archive::ArchiveError;
use matriarch_archive::base::BackupError;
use matriarch_archive::configured::ConfiguredError;
use matriarch_archive::dump::DumpError;
use matriarch_archive::export::ExportError;
use matriarch_archive::repository::RepositoryError;
use matriarch_archive::restore::RestoreError;
use matriarch_archive::retention::RetentionError;
use matriarch_cli::{Failure, code};
use matriarch_postgres::dump as server;

/// An error that knows which of sysexits(3) it is.
pub trait Code: Display {
    /// The code.
    fn code(&self) -> u8;
}

/// For `map_err`.
pub fn failed(error: impl Code) -> anyhow::Error {
    Failure::new(error.code(), error.to_string()).into()
}

impl Code for RepositoryError {
    fn code(&self) -> u8 {
        match self {
            RepositoryError::Absent { .. } | RepositoryError::Corrupt { .. } | RepositoryError::Conflict { .. } => {
                code::DATA
            }
            RepositoryError::Unreachable { .. } => code::UNAVAILABLE,
            RepositoryError::Refused { .. } | RepositoryError::NoKey { .. } => code::PERMISSION,
            RepositoryError::NoConditionalCreate { .. }
            | RepositoryError::NotARepository { .. }
            | RepositoryError::Settings { .. } => code::CONFIG,
        }
    }
}

impl Code for ArchiveError {
    fn code(&self) -> u8 {
        match self {
            ArchiveError::Repository(error) => error.code(),
            ArchiveError::Name(_) | ArchiveError::Foreign { .. } => code::CONFIG,
        }
    }
}

impl Code for Box<ConfiguredError> {
    fn code(&self) -> u8 {
        match self.as_ref() {
            ConfiguredError::Archive(error) => error.code(),
            ConfiguredError::Origin { .. } => code::DATA,
            _ => code::CONFIG,
        }
    }
}

impl Code for BackupError {
    fn code(&self) -> u8 {
        match self {
            BackupError::Repository(error) => error.code(),
            BackupError::Sql(_) | BackupError::WalMissing { .. } => code::UNAVAILABLE,
            BackupError::Unsupported(_) | BackupError::Foreign { .. } => code::CONFIG,
            BackupError::Tail(_) => code::DATA,
            BackupError::TimelineChanged { .. }
            | BackupError::Forgotten { .. }
            | BackupError::ClearedAway { .. }
            | BackupError::ParentGone { .. } => code::TEMPORARY,
            BackupError::History(error) => error.code(),
            BackupError::Read { .. } | BackupError::Scan(_) | BackupError::Push(_) => code::IO,
            BackupError::Worker(_) | BackupError::UploadEnded => code::SOFTWARE,
        }
    }
}

impl Code for RestoreError {
    fn code(&self) -> u8 {
        match self {
            RestoreError::Archive(error) => error.code(),
            RestoreError::Incomplete { source, .. } => source.code(),
            RestoreError::Write { .. } => code::IO,
            RestoreError::Busy { .. } => code::TEMPORARY,
            RestoreError::Worker(_) => code::SOFTWARE,
            _ => code::DATA,
        }
    }
}

impl Code for ExportError {
    fn code(&self) -> u8 {
        match self {
            ExportError::Restore(error) => error.code(),
            ExportError::Repository(error) => error.code(),
            ExportError::Name(_) => code::USAGE,
            ExportError::Taken { .. } | ExportError::Foreign { .. } | ExportError::Differs { .. } => code::DATA,
            ExportError::Worker(_) | ExportError::Ended => code::SOFTWARE,
        }
    }
}

impl Code for RetentionError {
    fn code(&self) -> u8 {
        match self {
            RetentionError::Repository(error) => error.code(),
            RetentionError::Restore(error) => error.code(),
            RetentionError::UnderWay(_) => code::TEMPORARY,
            _ => code::DATA,
        }
    }
}

impl Code for DumpError {
    fn code(&self) -> u8 {
        match self {
            DumpError::Server(error) => error.code(),
            DumpError::Repository(error) => error.code(),
            DumpError::Foreign { .. } => code::CONFIG,
            DumpError::Refused(_) | DumpError::NoDump(_) | DumpError::Removed { .. } => code::DATA,
            DumpError::File { .. } | DumpError::Stream(_) => code::IO,
            DumpError::Worker(_) => code::SOFTWARE,
            DumpError::Forgotten(_) | DumpError::UnderWay(_) => code::TEMPORARY,
        }
    }
}

impl Code for server::DumpError {
    fn code(&self) -> u8 {
        match self {
            server::DumpError::NoProgram { .. } => code::CONFIG,
            server::DumpError::Connect { .. } => code::UNAVAILABLE,
            server::DumpError::Tool(_) | server::DumpError::Refused { .. } => code::DATA,
        }
    }
}
