//! The agent's own superuser connection through the Unix socket.

use std::future::poll_fn;
use std::path::PathBuf;
use std::time::Duration;

use matriarch_core::Lsn;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_postgres::error::SqlState;
use tokio_postgres::tls::NoTlsStream;
use tokio_postgres::{AsyncMessage, Client, Config, Connection, NoTls, SimpleQueryMessage, Socket, Statement};

use crate::instance::{Credentials, Instance};
use crate::probe::{self, Probe};
use crate::roles::quote_literal;

mod queries;
mod slots;
pub use queries::{ConfigurationError, PendingRestart};
pub use slots::LogicalSlot;

/// A connection or query that failed.
#[derive(Debug, thiserror::Error)]
pub enum SqlError {
    /// Nobody answers on the socket.
    #[error("could not connect to PostgreSQL through {socket}: {reason}", socket = socket.display())]
    Connect {
        /// The socket.
        socket: PathBuf,
        /// What was said.
        reason: String,
        /// The five characters of the SQLSTATE, when it was PostgreSQL that said it.
        code: Option<String>,
    },
    /// The password is wrong.
    #[error(
        "PostgreSQL at {socket} does not accept the password of user '{user}'; correct the password in the \
         configuration, or set it in the database with: ALTER ROLE \"{user}\" PASSWORD '...'", socket = socket.display()
    )]
    WrongPassword {
        /// The socket.
        socket: PathBuf,
        /// The user.
        user: String,
    },
    /// No answer in time. The connection is of no further use: connect again.
    #[error("PostgreSQL did not answer within {limit:?} when asked to {what}")]
    Timeout {
        /// What was asked.
        what: &'static str,
        /// How long we waited.
        limit: Duration,
    },
    /// The connection is gone: connect again.
    #[error("the connection to PostgreSQL was lost while it was asked to {what}: {reason}")]
    Lost {
        /// What was asked.
        what: &'static str,
        /// What was said.
        reason: String,
    },
    /// PostgreSQL refused.
    #[error("PostgreSQL refused to {what}: {message} (SQLSTATE {code})")]
    Refused {
        /// What was asked.
        what: &'static str,
        /// Its message, with detail and hint.
        message: String,
        /// The five characters of the SQLSTATE.
        code: String,
    },
    /// The answer was not what we expect of this version.
    #[error("could not make sense of PostgreSQL's answer when asked to {what}: {reason}")]
    Answer {
        /// What was asked.
        what: &'static str,
        /// What was odd.
        reason: String,
    },
}

impl SqlError {
    /// Whether PostgreSQL says that its files are damaged: a page or an index is corrupted, or a file is missing.
    pub fn is_damage(&self) -> bool {
        let code = match self {
            SqlError::Connect { code, .. } => code.as_deref(),
            SqlError::Refused { code, .. } => Some(code.as_str()),
            _ => None,
        };
        matches!(code, Some("XX001" | "XX002" | "58P01"))
    }
}

/// Facts of the server that stay the same while it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// `150004` for 15.4.
    pub version_num: u32,
    /// Identity of the cluster.
    pub system_identifier: u64,
}

/// One superuser connection. Statements run one after the other; each has a time limit.
pub struct Sql {
    client: Client,
    driver: JoinHandle<()>,
    link: watch::Receiver<Link>,
    probe: Statement,
    server: Server,
    config: Config,
    socket: PathBuf,
}

/// For statements that only read state.
pub const QUICK: Duration = Duration::from_secs(3);

/// Settings of our session: our own writes must not wait for replicas or stumble over limits meant for others.
const OPTIONS: &str = "-c synchronous_commit=local -c statement_timeout=0 -c lock_timeout=0 \
    -c idle_in_transaction_session_timeout=0 -c default_transaction_read_only=off -c search_path=pg_catalog \
    -c log_statement=none -c log_duration=off -c log_min_duration_statement=-1 -c client_min_messages=warning";

impl Sql {
    /// Connects as the superuser, within [`QUICK`].
    pub async fn connect(instance: &Instance) -> Result<Sql, SqlError> {
        Self::connect_to(instance, "postgres").await
    }

    /// As [`Sql::connect`], to another database: logical slots can be made only there.
    pub async fn connect_to(instance: &Instance, database: &str) -> Result<Sql, SqlError> {
        let (dir, mut config) = (instance.reached_in(), Config::new());
        config.host_path(&dir).port(instance.port).dbname(database);
        config.user(&instance.superuser.username).password(&instance.superuser.password);
        config.application_name("matriarch").connect_timeout(QUICK);
        let later = if instance.binaries.version().major >= 14 { " -c idle_session_timeout=0" } else { "" };
        config.options(format!("{OPTIONS}{later}"));
        let socket = dir.join(instance.socket_name());
        match tokio::time::timeout(QUICK, Self::open(config, socket.clone())).await {
            Ok(opened) => opened,
            Err(_) => Err(SqlError::Timeout { what: "accept a connection", limit: QUICK }),
        }
    }

    /// Whether PostgreSQL does not take this user's password; false when something else keeps it from telling.
    pub async fn refuses_password(instance: &Instance, user: &Credentials) -> bool {
        let (dir, mut config) = (instance.reached_in(), Config::new());
        config.host_path(&dir).port(instance.port).dbname("postgres");
        config.user(&user.username).password(&user.password).application_name("matriarch").connect_timeout(QUICK);
        let tried = tokio::time::timeout(QUICK, dial(&config, &dir.join(instance.socket_name()))).await;
        let Ok(Ok((_client, driver, _link))) = tried else {
            return matches!(tried, Ok(Err(SqlError::WrongPassword { .. })));
        };
        driver.abort();
        false
    }

    async fn open(config: Config, socket: PathBuf) -> Result<Sql, SqlError> {
        let (client, driver, link) = dial(&config, &socket).await?;
        let what = "describe itself";
        let lost = |error| refused(what, &error);
        let query = "SELECT current_setting('server_version_num'), system_identifier::text FROM pg_control_system()";
        let row = first_row(client.simple_query(query).await.map_err(lost)?);
        let number = |index: usize| row.as_ref().and_then(|row| row.get(index)).unwrap_or_default().to_owned();
        let bad = |error: std::num::ParseIntError| SqlError::Answer { what, reason: error.to_string() };
        let server =
            Server { version_num: number(0).parse().map_err(bad)?, system_identifier: number(1).parse().map_err(bad)? };
        let probe = client.prepare(probe::QUERY).await.map_err(lost)?;
        Ok(Sql { client, driver, link, probe, server, config, socket })
    }

    /// Facts about the server.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// Whether the connection is gone.
    pub fn is_closed(&self) -> bool {
        self.link.borrow().closed || self.client.is_closed()
    }

    /// Waits until the connection is gone: a sign of a crash or a stop that comes before the postmaster's exit.
    pub async fn closed(&self) {
        let mut link = self.link.clone();
        // An error means that the driver, which sends this, is gone.
        let _ = link.wait_for(|link| link.closed).await;
    }

    /// Everything about the instance's role, WAL and replication in one round trip.
    pub async fn probe(&self, limit: Duration) -> Result<Probe, SqlError> {
        let what = "report its state";
        let row = self.timed(what, limit, self.client.query_one(&self.probe, &[])).await?;
        let text: &str = row.get(0);
        serde_json::from_str(text).map_err(|error| SqlError::Answer { what, reason: error.to_string() })
    }

    /// Runs statements and ignores their results, within [`QUICK`].
    pub async fn execute(&self, what: &'static str, script: &str) -> Result<(), SqlError> {
        self.timed(what, QUICK, self.client.batch_execute(script)).await
    }

    /// Runs one query, all values as text, within `limit`.
    pub async fn query(
        &self,
        what: &'static str,
        query: &str,
        limit: Duration,
    ) -> Result<Vec<Vec<Option<String>>>, SqlError> {
        let messages = self.timed(what, limit, self.client.simple_query(query)).await?;
        let rows = messages.into_iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => {
                Some((0..row.len()).map(|index| row.get(index).map(str::to_owned)).collect())
            }
            _ => None,
        });
        Ok(rows.collect())
    }

    /// Writes a WAL record under the synchronous rule in force and waits until it is acknowledged under it; returns a
    /// position that it has passed. On a connection of its own, which a timeout ends without harm.
    pub async fn barrier(&self, limit: Duration) -> Result<Lsn, SqlError> {
        let what = "acknowledge a record under the synchronous rule";
        let barrier = async {
            let (client, driver, link) = dial(&self.config, &self.socket).await?;
            let _driver = AbortOnDrop(driver);
            let script = "BEGIN; SET LOCAL synchronous_commit = 'on'; \
                          SELECT pg_logical_emit_message(true, 'matriarch', 'barrier'); COMMIT; \
                          SELECT pg_current_wal_flush_lsn()";
            let messages = client.simple_query(script).await.map_err(|error| refused(what, &error))?;
            // A wait that somebody cancels ends with a warning and commits all the same.
            if link.borrow().warned {
                return Err(SqlError::Answer { what, reason: "the wait was cancelled".into() });
            }
            last_value(messages).ok_or_else(|| SqlError::Answer { what, reason: "no position".into() })
        };
        let text = match tokio::time::timeout(limit, barrier).await {
            Ok(done) => done?,
            Err(_) => return Err(SqlError::Timeout { what, limit }),
        };
        text.parse().map_err(|error: matriarch_core::lsn::BadLsn| SqlError::Answer { what, reason: error.to_string() })
    }

    async fn timed<T>(
        &self,
        what: &'static str,
        limit: Duration,
        work: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, SqlError> {
        match tokio::time::timeout(limit, work).await {
            Ok(done) => done.map_err(|error| refused(what, &error)),
            Err(_) => {
                // Later statements would queue behind this one.
                self.driver.abort();
                Err(SqlError::Timeout { what, limit })
            }
        }
    }
}

impl Drop for Sql {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn dial(
    config: &Config,
    socket: &std::path::Path,
) -> Result<(Client, JoinHandle<()>, watch::Receiver<Link>), SqlError> {
    let (client, connection) = config.connect(NoTls).await.map_err(|error| unreachable(config, socket, &error))?;
    let (sender, link) = watch::channel(Link::default());
    Ok((client, tokio::spawn(drive(connection, sender)), link))
}

/// What the connection's task has seen.
#[derive(Clone, Copy, Debug, Default)]
struct Link {
    closed: bool,
    warned: bool,
}

async fn drive(mut connection: Connection<Socket, NoTlsStream>, link: watch::Sender<Link>) {
    // The error that ends the connection reaches the caller through its pending statement.
    while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
        if matches!(&message, AsyncMessage::Notice(notice) if notice.severity() == "WARNING") {
            link.send_modify(|link| link.warned = true);
        }
    }
    link.send_modify(|link| link.closed = true);
}

fn unreachable(config: &Config, socket: &std::path::Path, error: &tokio_postgres::Error) -> SqlError {
    let socket = socket.to_owned();
    if error.code() == Some(&SqlState::INVALID_PASSWORD) {
        return SqlError::WrongPassword { socket, user: config.get_user().unwrap_or_default().to_owned() };
    }
    SqlError::Connect { socket, reason: describe(error), code: error.code().map(|code| code.code().to_owned()) }
}

fn refused(what: &'static str, error: &tokio_postgres::Error) -> SqlError {
    let Some(db) = error.as_db_error() else { return SqlError::Lost { what, reason: describe(error) } };
    // Class 57P: the server is going down or our session was ended.
    if db.code().code().starts_with("57P") {
        return SqlError::Lost { what, reason: describe(error) };
    }
    SqlError::Refused { what, message: describe(error), code: db.code().code().to_owned() }
}

fn describe(error: &tokio_postgres::Error) -> String {
    use std::error::Error as _;
    match error.as_db_error() {
        Some(db) => {
            let more = [db.detail(), db.hint()].into_iter().flatten();
            more.fold(db.message().to_owned(), |text, part| format!("{text}; {part}"))
        }
        None => error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {source}")),
    }
}

fn first_row(messages: Vec<SimpleQueryMessage>) -> Option<tokio_postgres::SimpleQueryRow> {
    messages.into_iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    })
}

fn last_value(messages: Vec<SimpleQueryMessage>) -> Option<String> {
    messages.into_iter().rev().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    })
}

/// The literal of a log position.
fn lsn_literal(lsn: Lsn) -> String {
    quote_literal(&lsn.to_string())
}
