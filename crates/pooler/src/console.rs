//! PgBouncer's admin console: it looks like a database named `pgbouncer` and takes simple queries only.

use std::path::PathBuf;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage};

/// For commands that are done at once.
const QUICK: Duration = Duration::from_secs(5);

/// Where a console is and who may use it.
#[derive(Clone)]
pub struct Admin {
    /// `host:port` for people; the place of the socket is in `socket`.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Directory of the Unix socket, instead of `host`.
    pub socket: Option<PathBuf>,
    /// Name of an admin user.
    pub user: String,
    /// Its password.
    pub password: String,
}

/// Why a command did not work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConsoleError {
    /// Nothing listens there.
    #[error("nothing listens at {0}")]
    Down(String),
    /// The admin user or its password is wrong.
    #[error(
        "PgBouncer at {place} refuses its admin user '{user}': {reason}; the user must be in PgBouncer's admin_users, and \
         its password in PgBouncer's auth_file"
    )]
    Refused {
        /// Where.
        place: String,
        /// Who.
        user: String,
        /// PgBouncer's words.
        reason: String,
    },
    /// Anything else.
    #[error("PgBouncer at {place} does not do {what}: {reason}")]
    Failed {
        /// Where.
        place: String,
        /// Which command.
        what: String,
        /// PgBouncer's words.
        reason: String,
    },
}

/// One open console. Dropping it closes the connection.
pub(crate) struct Console {
    client: Client,
    driver: JoinHandle<()>,
    admin: Admin,
}

impl Drop for Console {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Admin {
    pub(crate) fn place(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    pub(crate) async fn connect(&self) -> Result<Console, ConsoleError> {
        self.connect_to("pgbouncer").await
    }

    /// A session on a database behind the pooler, as the admin.
    pub(crate) async fn connect_to(&self, database: &str) -> Result<Console, ConsoleError> {
        let mut config = Config::new();
        config.user(&self.user).password(&self.password).dbname(database).connect_timeout(QUICK).port(self.port);
        match &self.socket {
            Some(dir) => config.host_path(dir),
            None => config.host(&self.host),
        };
        let connected = tokio::time::timeout(QUICK, config.connect(NoTls)).await;
        let (client, connection) = match connected {
            Ok(Ok(pair)) => pair,
            Ok(Err(error)) => return Err(self.refusal(&error)),
            Err(_) => return Err(self.failed("answer", format!("no answer within {QUICK:?}"))),
        };
        let driver = tokio::spawn(async move { drop(connection.await) });
        Ok(Console { client, driver, admin: self.clone() })
    }

    fn refusal(&self, error: &tokio_postgres::Error) -> ConsoleError {
        if let Some(said) = error.as_db_error() {
            return ConsoleError::Refused {
                place: self.place(),
                user: self.user.clone(),
                reason: said.message().to_owned(),
            };
        }
        let io = std::error::Error::source(error).and_then(|source| source.downcast_ref::<std::io::Error>());
        match io.map(std::io::Error::kind) {
            Some(std::io::ErrorKind::ConnectionRefused | std::io::ErrorKind::NotFound) => {
                ConsoleError::Down(self.place())
            }
            _ => self.failed("answer", error.to_string()),
        }
    }

    fn failed(&self, what: &str, reason: String) -> ConsoleError {
        ConsoleError::Failed { place: self.place(), what: what.to_owned(), reason }
    }
}

impl Console {
    /// Runs a command that is done at once.
    pub async fn run(&self, command: &str) -> Result<Vec<SimpleQueryMessage>, ConsoleError> {
        match tokio::time::timeout(QUICK, self.unbounded(command)).await {
            Ok(done) => done,
            Err(_) => Err(self.admin.failed(command, format!("no answer within {QUICK:?}"))),
        }
    }

    /// Runs a command that takes as long as it takes: PAUSE ends when no server is in use.
    pub async fn unbounded(&self, command: &str) -> Result<Vec<SimpleQueryMessage>, ConsoleError> {
        self.client.simple_query(command).await.map_err(|error| match error.as_db_error() {
            Some(said) if said.message().contains("admin access needed") => ConsoleError::Refused {
                place: self.admin.place(),
                user: self.admin.user.clone(),
                reason: said.message().to_owned(),
            },
            Some(said) => self.admin.failed(command, said.message().to_owned()),
            None => self.admin.failed(command, error.to_string()),
        })
    }

    /// PgBouncer or somebody else has closed the connection.
    pub fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// How many servers work for clients or are being opened.
    pub async fn servers_in_use(&self) -> Result<u64, ConsoleError> {
        let rows = self.run("SHOW POOLS").await?;
        let number = |row: &tokio_postgres::SimpleQueryRow, name: &str| {
            let index = row.columns().iter().position(|column| column.name() == name);
            index.and_then(|index| row.get(index)).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0)
        };
        let used = rows.iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => {
                Some(["sv_active", "sv_idle", "sv_used", "sv_tested", "sv_login"].map(|name| number(row, name)))
            }
            _ => None,
        });
        Ok(used.flatten().sum())
    }
}

impl ConsoleError {
    /// It is what PgBouncer says when there is nothing to do.
    pub fn says(&self, words: &str) -> bool {
        matches!(self, ConsoleError::Failed { reason, .. } if reason.contains(words))
    }
}
