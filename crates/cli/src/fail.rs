//! Errors with an exit code. The codes are sysexits(3), so that scripts can tell a mistake from an outage.

use std::io;

use matriarch_api::ClientError;

/// Exit codes of sysexits(3).
pub mod code {
    /// The command was used wrongly.
    pub const USAGE: u8 = 64;
    /// What was given is not right.
    pub const DATA: u8 = 65;
    /// Nobody answers.
    pub const UNAVAILABLE: u8 = 69;
    /// A defect of ours.
    pub const SOFTWARE: u8 = 70;
    /// A file or stream failed.
    pub const IO: u8 = 74;
    /// Not now; try again.
    pub const TEMPORARY: u8 = 75;
    /// Not allowed.
    pub const PERMISSION: u8 = 77;
    /// A configuration is wrong.
    pub const CONFIG: u8 = 78;
}

/// An error that knows its exit code. The text says what to do next.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Failure {
    /// One of [`code`].
    pub code: u8,
    /// What is wrong, and what to do.
    pub text: String,
}

impl Failure {
    /// An error with one of the codes.
    pub fn new(code: u8, text: impl Into<String>) -> Self {
        Failure { code, text: text.into() }
    }
}

/// The exit code for an error of [`crate::run`].
pub fn exit_code(error: &anyhow::Error) -> u8 {
    for cause in error.chain() {
        if let Some(failure) = cause.downcast_ref::<Failure>() {
            return failure.code;
        }
        if let Some(failure) = cause.downcast_ref::<ClientError>() {
            return of_client(failure);
        }
        if let Some(failure) = cause.downcast_ref::<io::Error>() {
            return if failure.kind() == io::ErrorKind::PermissionDenied { code::PERMISSION } else { code::IO };
        }
    }
    code::SOFTWARE
}

fn of_client(error: &ClientError) -> u8 {
    match error {
        ClientError::BadAddress { .. } => code::CONFIG,
        ClientError::Unreachable { .. } | ClientError::Timeout { .. } => code::UNAVAILABLE,
        ClientError::Unauthorized { .. } | ClientError::Tls { .. } => code::PERMISSION,
        ClientError::Refused { status: 400 | 404 | 413 | 422, .. } => code::DATA,
        ClientError::Refused { .. } => code::TEMPORARY,
        ClientError::BadAnswer { .. } => code::SOFTWARE,
    }
}

/// Whether the reader of our output has gone away (`| head`): that is no error.
pub fn reader_has_gone(error: &anyhow::Error) -> bool {
    let gone = |cause: &(dyn std::error::Error + 'static)| {
        cause.downcast_ref::<io::Error>().is_some_and(|failure| failure.kind() == io::ErrorKind::BrokenPipe)
    };
    error.chain().any(gone) && error.chain().all(|cause| cause.downcast_ref::<ClientError>().is_none())
}
