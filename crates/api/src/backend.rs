//! What the interface needs from the agent.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;

use crate::heartbeat::{HeartbeatStream, Hello, NotAdmitted};
use crate::types::{
    ArchiveStatus, BlowBody, ClusterStatus, DrillLog, DrillRecord, HistoryLine, MemberStatus, RestartRequest,
};

/// The agent behind the interface. The reading methods return the newest snapshot and never wait, so a health check is
/// answered even while the agent's loop is stuck.
#[async_trait]
pub trait Backend: Send + Sync + 'static {
    /// This member.
    fn status(&self) -> Arc<MemberStatus>;

    /// The cluster as this member last read it.
    fn cluster(&self) -> Arc<ClusterStatus>;

    /// What must be true at this very moment, not when the snapshot was taken.
    fn live(&self) -> Live;

    /// Dynamic configuration; none before bootstrap or while the store was never read.
    fn config(&self) -> Option<Value>;

    /// Past timelines, oldest first.
    fn history(&self) -> Vec<HistoryLine>;

    /// Drills that were done.
    fn drills(&self) -> Arc<DrillLog> {
        Arc::default()
    }

    /// How this member stands to the archive.
    fn archive(&self) -> Arc<ArchiveStatus> {
        Arc::default()
    }

    /// The members that failsafe mode asks, by name, with the address of their `/patroni`; none when it is off.
    fn failsafe(&self) -> Option<BTreeMap<String, String>> {
        None
    }

    /// Does what somebody asked for and returns when it is done, refused or scheduled. The interface gives up waiting
    /// after [`crate::Limits::command`] by dropping the future; what was begun goes on.
    async fn command(&self, command: Command) -> Result<CommandDone, CommandError>;

    /// Whether another member may speak with this one; asked before the connection is handed over.
    fn admit(&self, _hello: &Hello) -> Result<(), NotAdmitted> {
        Err(NotAdmitted {
            error: "this member takes no heartbeats".to_owned(),
            remedy: "nothing needs to be done: failover waits for the lease then".to_owned(),
        })
    }

    /// Speaks with an admitted member until either side ends the connection.
    async fn heartbeat(&self, _hello: Hello, _stream: HeartbeatStream) {}
}

/// What a stuck agent would get wrong if it were part of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Live {
    /// Time since the agent's loop last finished a round.
    pub loop_age: Duration,
    /// Time until the guard would stop PostgreSQL; none on members that do not lead.
    pub lease_remaining: Option<Duration>,
}

/// Something to do, checked as far as that needs no knowledge of PostgreSQL or the store.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Merge into the dynamic configuration (RFC 7396: null removes a key). `Done` carries the new configuration.
    /// Pausing is `{"pause": true}`.
    PatchConfig(Value),
    /// Replace the dynamic configuration. `Done` carries the new configuration.
    PutConfig(Value),
    /// Read the local configuration again and reload PostgreSQL.
    Reload,
    /// Restart this member's PostgreSQL.
    Restart(RestartRequest),
    /// Forget a scheduled restart.
    CancelRestart,
    /// Throw this member's data away and copy it anew.
    Reinitialize {
        /// Cancel what the member is doing now.
        force: bool,
        /// Copy from the leader, whatever `clonefrom` says.
        from_leader: bool,
    },
    /// Move the primary, keeping everything.
    Switchover {
        /// The leader to move away from; it led when the request was checked.
        leader: String,
        /// The member to move to.
        candidate: Option<String>,
        /// When to do it; at once when absent.
        scheduled_at: Option<jiff::Timestamp>,
    },
    /// Make this member primary although the leader may be gone.
    Failover {
        /// The member to promote.
        candidate: String,
        /// Although acknowledged commits may be lost; nobody led when the request was checked.
        accept_data_loss: bool,
    },
    /// Forget a scheduled switchover.
    CancelSwitchover,
    /// Forget a member that is away for good.
    Forget {
        /// Whom; it is known and its record has expired.
        member: String,
    },
    /// End this member's PostgreSQL as a crash would, if it leads and can be spared.
    Blow(BlowBody),
    /// Keep the result of a drill.
    KeepDrill(Box<DrillRecord>),
    /// A round trip with every repository of the archive. `Done` carries a list of [`crate::ArchiveCheckRow`].
    CheckArchive,
    /// Make repositories of the archive's places that are none yet. `Done` carries the same.
    InitArchive,
    /// Stop PostgreSQL and the agent, as on SIGTERM.
    Stop,
}

/// A command that was carried out.
#[derive(Clone, Debug, PartialEq)]
pub struct CommandDone {
    /// How far it went.
    pub outcome: Outcome,
    /// In words, as Patroni says it (`Successfully switched over to "b"`).
    pub message: String,
    /// The new configuration, after [`Command::PatchConfig`] and [`Command::PutConfig`]; rows, after
    /// [`Command::CheckArchive`] and [`Command::InitArchive`].
    pub body: Option<Value>,
}

/// How far a command went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Finished, or (reinitialize) begun: 200.
    Done,
    /// Will be done later: 202.
    Scheduled,
}

impl CommandDone {
    /// Finished.
    pub fn done(message: impl Into<String>) -> Self {
        CommandDone { outcome: Outcome::Done, message: message.into(), body: None }
    }

    /// Will be done later.
    pub fn scheduled(message: impl Into<String>) -> Self {
        CommandDone { outcome: Outcome::Scheduled, message: message.into(), body: None }
    }

    /// Finished, with the new configuration.
    pub fn config(config: Value) -> Self {
        CommandDone { outcome: Outcome::Done, message: String::new(), body: Some(config) }
    }
}

/// Why a command was not carried out; each text says what to do. The variant chooses the status code.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// The request makes no sense (400).
    #[error("{0}")]
    Invalid(String),
    /// What it is about does not exist (404).
    #[error("{0}")]
    Absent(String),
    /// Somebody else was faster, or something of the kind is under way (409).
    #[error("{0}")]
    Conflict(String),
    /// The state of the cluster forbids it (412).
    #[error("{0}")]
    Impossible(String),
    /// Well formed but not acceptable, such as a time in the past or a bad configuration value (422).
    #[error("{0}")]
    Unacceptable(String),
    /// It was tried and did not work (503).
    #[error("{0}")]
    Failed(String),
    /// The store does not answer (503).
    #[error("{0}")]
    StoreAway(String),
}

impl CommandError {
    /// Patroni's status code for it.
    pub fn status(&self) -> u16 {
        match self {
            CommandError::Invalid(_) => 400,
            CommandError::Absent(_) => 404,
            CommandError::Conflict(_) => 409,
            CommandError::Impossible(_) => 412,
            CommandError::Unacceptable(_) => 422,
            CommandError::Failed(_) | CommandError::StoreAway(_) => 503,
        }
    }
}
