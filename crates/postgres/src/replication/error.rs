//! What may go wrong on a replication connection, as far as a caller may want to tell it apart.

use std::time::Duration;

use matriarch_core::{Lsn, Timeline};

use super::message::ServerSaid;
use super::wire::WireError;

/// A replication connection that could not be made, a command that was refused, a stream that ended.
#[derive(Debug, thiserror::Error)]
pub enum ReplicationError {
    /// Nobody answers there.
    #[error("could not connect to PostgreSQL at {address}: {reason}")]
    Connect {
        /// The socket, or host and port.
        address: String,
        /// What was said.
        reason: String,
    },
    /// The source asks for TLS, which this client does not speak.
    #[error(
        "sslmode={mode} asks for TLS, and WAL is received over Unix sockets and plain TCP only; stream from the \
         instance on this host through its Unix socket"
    )]
    NoTls {
        /// The `sslmode` asked for.
        mode: String,
    },
    /// The password is wrong, or there is none, or no such role.
    #[error(
        "PostgreSQL does not accept the password of user '{user}' for replication: {said}; correct the password in the \
         configuration, or set it in the database with: ALTER ROLE \"{user}\" PASSWORD '...'"
    )]
    WrongPassword {
        /// The user.
        user: String,
        /// What PostgreSQL said.
        said: Box<ServerSaid>,
    },
    /// No rule of `pg_hba.conf` lets the user in, or the role does not exist.
    #[error("PostgreSQL does not let user '{user}' in for replication: {said}")]
    NotAdmitted {
        /// The user.
        user: String,
        /// What PostgreSQL said.
        said: Box<ServerSaid>,
    },
    /// The role has no REPLICATION attribute.
    #[error("user '{user}' may not replicate: {said}; give it the right with: ALTER ROLE \"{user}\" REPLICATION")]
    NotReplicationRole {
        /// The user.
        user: String,
        /// What PostgreSQL said.
        said: Box<ServerSaid>,
    },
    /// The server wants to be convinced in a way that this client does not know.
    #[error(
        "PostgreSQL asks user '{user}' for {method}, which is not supported for replication; use scram-sha-256 in \
         pg_hba.conf"
    )]
    UnsupportedAuthentication {
        /// The user.
        user: String,
        /// The method.
        method: String,
    },
    /// The server did not prove that it knows the password: it is not the one it pretends to be.
    #[error("the server at {address} did not prove that it knows the password of user '{user}': {reason}")]
    Impostor {
        /// The socket, or host and port.
        address: String,
        /// The user.
        user: String,
        /// What was wrong.
        reason: String,
    },
    /// The WAL asked for is gone: nothing but an archive or a new copy helps.
    #[error("the WAL from {from} on timeline {timeline} is not on the server any more: {said}")]
    WalRemoved {
        /// The first position that is missing.
        from: Lsn,
        /// Its timeline.
        timeline: Timeline,
        /// What PostgreSQL said.
        said: Box<ServerSaid>,
    },
    /// The timeline, or the position on it, is not in the server's history: the two have diverged.
    #[error("position {from} on timeline {timeline} is not in the server's history: {said}")]
    NotInHistory {
        /// Where the stream was to begin.
        from: Lsn,
        /// Its timeline.
        timeline: Timeline,
        /// What PostgreSQL said.
        said: Box<ServerSaid>,
    },
    /// The server has not got that far.
    #[error("the server has no WAL at {from} on timeline {timeline} yet: {said}")]
    AheadOfServer {
        /// Where the stream was to begin.
        from: Lsn,
        /// Its timeline.
        timeline: Timeline,
        /// What PostgreSQL said.
        said: Box<ServerSaid>,
    },
    /// The server has no history file of that timeline.
    #[error("the server has no history of timeline {timeline}: {said}")]
    NoHistory {
        /// Which.
        timeline: Timeline,
        /// What PostgreSQL said.
        said: Box<ServerSaid>,
    },
    /// Another connection uses the slot.
    #[error("replication slot '{slot}' is in use: {said}")]
    SlotInUse {
        /// Which.
        slot: String,
        /// What PostgreSQL said.
        said: Box<ServerSaid>,
    },
    /// There is no such slot.
    #[error("there is no replication slot '{slot}' on the server")]
    NoSlot {
        /// Which.
        slot: String,
    },
    /// There is one of that name already.
    #[error("there is a replication slot '{slot}' on the server already")]
    SlotExists {
        /// Which.
        slot: String,
    },
    /// The slot is a logical one, or PostgreSQL has given it up because it held too much WAL.
    #[error("replication slot '{slot}' cannot be used: {said}")]
    SlotUnusable {
        /// Which.
        slot: String,
        /// What PostgreSQL said.
        said: Box<ServerSaid>,
    },
    /// The server is too old for the command.
    #[error("PostgreSQL {major} does not know {command}; it takes {needed} or later")]
    TooOld {
        /// The server's major version.
        major: u32,
        /// The command.
        command: &'static str,
        /// The first major that knows it.
        needed: u32,
    },
    /// PostgreSQL refused for another reason.
    #[error("PostgreSQL refused to {what}: {said}")]
    Refused {
        /// What was asked.
        what: &'static str,
        /// What PostgreSQL said.
        said: Box<ServerSaid>,
    },
    /// No answer in time. The connection is of no further use.
    #[error("PostgreSQL did not answer within {limit:?} when asked to {what}")]
    Timeout {
        /// What was asked.
        what: &'static str,
        /// How long we waited.
        limit: Duration,
    },
    /// A stream without a sign of life, though one was asked for. The connection is of no further use.
    #[error("PostgreSQL gave no sign of life for {limit:?} while it was to {what}")]
    Silent {
        /// What it was to do.
        what: &'static str,
        /// How long we waited.
        limit: Duration,
    },
    /// The connection is gone.
    #[error("the replication connection was lost while PostgreSQL was to {what}: {reason}")]
    Lost {
        /// What was asked.
        what: &'static str,
        /// What was said.
        reason: String,
    },
    /// What came is not the replication protocol, or leaves WAL out. The connection is of no further use.
    #[error("the server does not keep to the replication protocol while it was to {what}: {reason}")]
    Protocol {
        /// What was asked.
        what: &'static str,
        /// What was odd.
        reason: String,
    },
}

impl ReplicationError {
    /// The SQLSTATE, when it was PostgreSQL that said something.
    pub fn code(&self) -> Option<&str> {
        use ReplicationError as E;
        match self {
            E::WrongPassword { said, .. }
            | E::NotAdmitted { said, .. }
            | E::NotReplicationRole { said, .. }
            | E::WalRemoved { said, .. }
            | E::NotInHistory { said, .. }
            | E::AheadOfServer { said, .. }
            | E::NoHistory { said, .. }
            | E::SlotInUse { said, .. }
            | E::SlotUnusable { said, .. }
            | E::Refused { said, .. } => Some(&said.code),
            _ => None,
        }
    }

    pub(super) fn from_wire(what: &'static str, error: WireError) -> ReplicationError {
        match error {
            WireError::Lost(reason) => ReplicationError::Lost { what, reason },
            WireError::Malformed(malformed) => ReplicationError::Protocol { what, reason: malformed.0 },
        }
    }

    /// An error of a command. Class 57P says that the server goes down or has ended our session.
    pub(super) fn refused(what: &'static str, said: Box<ServerSaid>) -> ReplicationError {
        if said.code.starts_with("57P") {
            return ReplicationError::Lost { what, reason: said.to_string() };
        }
        ReplicationError::Refused { what, said }
    }
}

/// An error of the start of a session.
pub(super) fn at_login(user: &str, said: Box<ServerSaid>) -> ReplicationError {
    let user = user.to_owned();
    match said.code.as_str() {
        "28P01" => ReplicationError::WrongPassword { user, said },
        "28000" => ReplicationError::NotAdmitted { user, said },
        "42501" => ReplicationError::NotReplicationRole { user, said },
        _ => ReplicationError::Refused { what: "accept a replication connection", said },
    }
}

/// An error of a command about a slot.
pub(super) fn about_slot(what: &'static str, slot: &str, said: Box<ServerSaid>) -> ReplicationError {
    let slot = slot.to_owned();
    match said.code.as_str() {
        "55006" => ReplicationError::SlotInUse { slot, said },
        "42704" => ReplicationError::NoSlot { slot },
        "42710" => ReplicationError::SlotExists { slot },
        "55000" => ReplicationError::SlotUnusable { slot, said },
        _ => ReplicationError::refused(what, said),
    }
}

/// An error at the start of a stream or in it. Texts may be translated: SQLSTATE, the place in the source and the
/// presence of a detail are not.
pub(super) fn of_stream(
    what: &'static str,
    slot: Option<&str>,
    timeline: Timeline,
    from: Lsn,
    said: Box<ServerSaid>,
) -> ReplicationError {
    let in_source = |routine: &str| said.code == "XX000" && said.routine == routine;
    if said.code == "58P01" {
        return ReplicationError::WalRemoved { from, timeline, said };
    }
    // One of its two complaints about a start has a detail: where the histories part.
    if in_source("tliSwitchPoint") || (in_source("StartReplication") && said.detail.is_some()) {
        return ReplicationError::NotInHistory { from, timeline, said };
    }
    if in_source("StartReplication") {
        return ReplicationError::AheadOfServer { from, timeline, said };
    }
    match slot {
        Some(slot) => about_slot(what, slot, said),
        None => ReplicationError::refused(what, said),
    }
}
