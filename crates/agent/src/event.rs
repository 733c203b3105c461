//! Everything that can wake the agent.

use matriarch_api::{BlowBody, RestartRequest};
use matriarch_core::decide::Finished;
use matriarch_core::record::RouterRecord;
use matriarch_dcs::StoreError;
use matriarch_postgres::files::FileError;
use tokio::sync::oneshot;

use crate::instance::{DataReport, JobReport, Sighting};
use crate::storage::{CommitDone, Held, ReadResult};

/// One event; the loop takes them in order.
pub enum Event {
    /// The store was read.
    StoreRead(ReadResult),
    /// A change of the store ended.
    Committed(CommitDone),
    /// The leader lease was renewed, or not.
    Renewed {
        /// As it is if the renewal succeeded.
        lease: Held,
        /// Whether it did.
        result: Result<(), StoreError>,
    },
    /// Our member record was written, or not.
    MemberWritten {
        /// The membership lease.
        lease: Result<Held, StoreError>,
    },
    /// The membership lease was renewed, or not.
    MemberRenewed {
        /// The membership lease.
        lease: Result<Held, StoreError>,
    },
    /// A job ended.
    JobDone(Box<(Finished, JobReport)>),
    /// PostgreSQL was asked how it is.
    Seen(Box<Sighting>),
    /// The postmaster is gone and so is every process under it.
    ServerGone,
    /// The postmaster has answered somebody who came in, or was not waited for any longer.
    Greeted,
    /// The data directory was looked at.
    DataSeen(Box<DataReport>),
    /// A standby does not replay because these settings are lower than its primary's.
    LimitsTooLow(Vec<String>),
    /// Nothing listens where a router said to be, whose record was this.
    RouterGone(String, Box<RouterRecord>),
    /// Settings were written and loaded, or not.
    Configured {
        /// They have it receive WAL from somebody.
        upstream: bool,
        /// Why not.
        failure: Option<String>,
    },
    /// PostgreSQL may have loaded them by now.
    MayBeLoaded,
    /// What must outlive a restart was written, or not.
    Saved(Result<(), FileError>),
    /// Somebody asks for something through the API.
    Command(Request, Reply),
    /// The agent is asked to make way for another program in the same process.
    Upgrade,
    /// The agent is asked to stop.
    Stop,
}

/// What people ask of one agent and only its loop can do. Requests that only change the store do not pass here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Restart PostgreSQL in its role, now or later.
    Restart(RestartRequest),
    /// Forget a restart that was asked for later.
    CancelRestart,
    /// Load the configuration again.
    Reload,
    /// Make this replica's data anew from the leader's.
    Reinitialize {
        /// End the job under way.
        force: bool,
    },
    /// End PostgreSQL as a crash would.
    Blow(BlowBody),
    /// Stop PostgreSQL and the agent.
    Stop,
}

/// Whom to tell how a request ended.
#[derive(Debug)]
pub struct Reply(oneshot::Sender<Result<String, String>>);

impl Reply {
    /// A reply and where it arrives: what was done, or why not.
    pub fn new() -> (Reply, oneshot::Receiver<Result<String, String>>) {
        let (sender, receiver) = oneshot::channel();
        (Reply(sender), receiver)
    }

    /// Tells; whoever asked may have gone away.
    pub fn done(self, failure: Option<String>, success: &str) {
        let _ = self.0.send(match failure {
            Some(failure) => Err(failure),
            None => Ok(success.to_owned()),
        });
    }
}
