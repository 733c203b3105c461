//! The cluster that a command is about, as the caller found it.

use std::path::PathBuf;
use std::time::Duration;

use matriarch_api::{Client, ClientError};
use matriarch_tls::PeerTls;

/// A cluster and how to reach it.
#[derive(Clone, Debug, Default)]
pub struct Target {
    /// Name of the cluster.
    pub cluster: String,
    /// Agents that are known beforehand. Members that only the cluster knows of are found through these.
    pub members: Vec<Endpoint>,
    /// Value of the `Authorization` header for commands ([`matriarch_api::authorization`]).
    pub authorization: Option<String>,
    /// Who is trusted, and what is shown, where agents speak TLS.
    pub tls: PeerTls,
    /// How to reach PostgreSQL.
    pub connection: Connection,
}

/// The agent of one member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoint {
    /// Name of the member.
    pub name: String,
    /// `http://host:port` or `https://host:port`, with or without a path.
    pub api_url: String,
}

/// How to reach PostgreSQL.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Connection {
    /// `host:port` that always leads to the primary.
    pub read_write: Option<String>,
    /// `host:port` that leads to replicas.
    pub read_only: Option<String>,
    /// Role for administration.
    pub superuser: String,
    /// Database to open; `postgres` when empty.
    pub database: String,
    /// Password file in PostgreSQL's format.
    pub passfile: Option<PathBuf>,
    /// The psql program; `psql` on the search path when absent.
    pub psql: Option<PathBuf>,
}

/// A dead host must not make a person wait; an agent on a live one answers within a few milliseconds.
const CONNECT: Duration = Duration::from_millis(300);
/// The same for an agent that is stopped: its kernel still accepts.
const READ: Duration = Duration::from_millis(650);
/// Second try, when nobody answered the first: the whole machine may be slow.
const PATIENT: Duration = Duration::from_secs(5);

impl Target {
    /// A client for one agent with the target's credentials and short deadlines for reading.
    pub fn client(&self, api_url: &str) -> Result<Client, ClientError> {
        Ok(self.reach(api_url)?.with_timeouts(CONNECT, READ))
    }

    /// The same with a long deadline for the answer: for agents that are known to be awake.
    pub fn asking_client(&self, api_url: &str) -> Result<Client, ClientError> {
        Ok(self.reach(api_url)?.with_timeouts(CONNECT, PATIENT))
    }

    /// The same with long deadlines.
    pub fn patient_client(&self, api_url: &str) -> Result<Client, ClientError> {
        Ok(self.reach(api_url)?.with_timeouts(CONNECT * 4, PATIENT))
    }

    fn reach(&self, api_url: &str) -> Result<Client, ClientError> {
        Ok(Client::new(api_url, self.authorization.clone())?.with_tls(self.tls.clone()))
    }
}
