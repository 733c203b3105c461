//! A session for physical replication, and its commands.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use matriarch_core::Timeline;
use postgres_protocol::message::frontend;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use super::answer::{self, Identity, SlotPosition};
use super::error::{ReplicationError, about_slot};
use super::login;
use super::message::{Message, ServerSaid};
use super::wire::{Socket, Wire};
use crate::conninfo::Source;
use crate::history::History;
use crate::instance::{Credentials, Instance};

/// Whom to connect to, as whom, and how patient to be.
#[derive(Clone, Debug)]
pub struct Target {
    /// Host and port, or the folder of a Unix socket and its port. Of the options only `sslmode` counts: what asks for
    /// TLS is refused.
    pub source: Source,
    /// A role with REPLICATION.
    pub user: Credentials,
    /// The name that `pg_stat_replication` shows, and that `synchronous_standby_names` may list.
    pub application_name: String,
    /// How long connecting and logging in may take together.
    pub connect_limit: Duration,
    /// How long a command may take.
    pub answer_limit: Duration,
    /// How long a stream may be without any sign of life of the server. At half of it the server is asked for one.
    pub silence_limit: Duration,
    /// How often our positions are sent when nothing else is the occasion for it. Must stay below the server's
    /// `wal_sender_timeout`.
    pub status_interval: Duration,
}

impl Target {
    /// With limits that suit a server in the same network: 5 s to connect, 10 s for an answer and of silence, our
    /// positions every second.
    pub fn new(source: Source, user: Credentials, application_name: impl Into<String>) -> Target {
        Target {
            source,
            user,
            application_name: application_name.into(),
            connect_limit: Duration::from_secs(5),
            answer_limit: Duration::from_secs(10),
            silence_limit: Duration::from_secs(10),
            status_interval: Duration::from_secs(1),
        }
    }

    /// The instance on this host through its socket, as its replication user.
    pub fn local(instance: &Instance, application_name: impl Into<String>) -> Target {
        let source = Source::new(instance.reached_in().to_string_lossy(), instance.port);
        Target::new(source, instance.replication.clone(), application_name)
    }

    /// The Unix socket, if it is one.
    fn socket(&self) -> Option<PathBuf> {
        let folder = self.source.host.strip_prefix('/')?;
        Some(PathBuf::from(format!("/{folder}/.s.PGSQL.{}", self.source.port)))
    }

    /// For messages.
    pub(super) fn address(&self) -> String {
        match self.socket() {
            Some(socket) => socket.display().to_string(),
            None => format!("{}:{}", self.source.host, self.source.port),
        }
    }

    async fn dial(&self) -> std::io::Result<Box<dyn Socket>> {
        if let Some(socket) = self.socket() {
            return Ok(Box::new(UnixStream::connect(socket).await?));
        }
        let stream = TcpStream::connect((self.source.host.as_str(), self.source.port)).await?;
        stream.set_nodelay(true)?;
        Ok(Box::new(stream))
    }
}

/// A session of a walsender that waits for commands. A command whose future is dropped before its end leaves the session
/// useless: every later one then fails.
pub struct Replication {
    pub(super) wire: Wire,
    pub(super) target: Target,
    major: u32,
    /// Whether a command was begun and its end was not seen.
    unfinished: bool,
}

impl std::fmt::Debug for Replication {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replication").field("target", &self.target).field("major", &self.major).finish_non_exhaustive()
    }
}

/// The rows of an answer.
type Rows = Vec<Vec<Option<Bytes>>>;

/// No command that is sent here has more rows in its answer.
const MOST_ROWS: usize = 16;

impl Replication {
    /// Connects and logs in.
    ///
    /// # Errors
    /// [`ReplicationError::Connect`] when nobody answers, [`ReplicationError::WrongPassword`],
    /// [`ReplicationError::NotAdmitted`] and [`ReplicationError::NotReplicationRole`] when the server does not want us,
    /// [`ReplicationError::Timeout`] when it takes longer than `connect_limit`.
    pub async fn connect(target: &Target) -> Result<Replication, ReplicationError> {
        if let Some(mode) = target.source.options.get("sslmode").filter(|mode| asks_for_tls(mode)) {
            return Err(ReplicationError::NoTls { mode: mode.clone() });
        }
        let open = async {
            let refused = |error: std::io::Error| ReplicationError::Connect {
                address: target.address(),
                reason: error.to_string(),
            };
            let mut wire = Wire::new(target.dial().await.map_err(refused)?);
            let reported = login::log_in(&mut wire, target).await?;
            let major = major_of(&reported.version).ok_or_else(|| ReplicationError::Protocol {
                what: "tell its version",
                reason: format!("its version is '{}'", reported.version),
            })?;
            Ok(Replication { wire, target: target.clone(), major, unfinished: false })
        };
        let limit = target.connect_limit;
        let late = |_| ReplicationError::Timeout { what: "accept a replication connection", limit };
        timeout(limit, open).await.map_err(late)?
    }

    /// Whom it is connected to.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// The server's major version.
    pub fn major(&self) -> u32 {
        self.major
    }

    /// Which cluster this is, and where its WAL ends.
    pub async fn identify(&mut self) -> Result<Identity, ReplicationError> {
        let what = "identify its cluster";
        let rows = self.run(what, "IDENTIFY_SYSTEM").await?.map_err(|said| ReplicationError::refused(what, said))?;
        answer::identity(what, &rows)
    }

    /// The value of a setting, as SHOW prints it.
    pub async fn show(&mut self, setting: &str) -> Result<String, ReplicationError> {
        let what = "show a setting";
        let rows = self.run(what, &format!("SHOW {}", quote_name(setting))).await?;
        answer::single(what, &rows.map_err(|said| ReplicationError::refused(what, said))?)
    }

    /// The size of a segment of WAL in bytes: a power of two from 1 MiB to 1 GiB.
    pub async fn wal_segment_size(&mut self) -> Result<u64, ReplicationError> {
        answer::segment_size(&self.show("wal_segment_size").await?)
    }

    /// The history of a timeline. Timeline 1 has none, and the server is not asked.
    pub async fn history(&mut self, timeline: Timeline) -> Result<History, ReplicationError> {
        if timeline <= 1 {
            return Ok(History::root(timeline));
        }
        let file = self.history_file(timeline).await?;
        History::parse(timeline, &String::from_utf8_lossy(&file)).map_err(|error| ReplicationError::Protocol {
            what: "give the history of a timeline",
            reason: error.to_string(),
        })
    }

    /// The history file of a timeline, byte for byte as it is on the server.
    ///
    /// # Errors
    /// [`ReplicationError::NoHistory`] when the server has no such file; timeline 1 has none.
    pub async fn history_file(&mut self, timeline: Timeline) -> Result<Bytes, ReplicationError> {
        let what = "give the history of a timeline";
        let rows = self.run(what, &format!("TIMELINE_HISTORY {timeline}")).await?;
        let rows = rows.map_err(|said| match said.code.as_str() {
            "58P01" => ReplicationError::NoHistory { timeline, said },
            _ => ReplicationError::refused(what, said),
        })?;
        answer::history_file(what, timeline, &rows)
    }

    /// Where a physical slot holds WAL from; `None` when there is no slot of that name. PostgreSQL 15 and later.
    pub async fn read_slot(&mut self, slot: &str) -> Result<Option<SlotPosition>, ReplicationError> {
        let (what, command) = ("read a replication slot", "READ_REPLICATION_SLOT");
        if self.major < 15 {
            return Err(ReplicationError::TooOld { major: self.major, command, needed: 15 });
        }
        let rows = self.run(what, &format!("{command} {}", quote_name(slot))).await?;
        answer::slot(what, &rows.map_err(|said| about_slot(what, slot, said))?)
    }

    /// Makes a physical slot. With `reserve_wal` it holds WAL from now on (from the last checkpoint), else from its first
    /// use.
    ///
    /// # Errors
    /// [`ReplicationError::SlotExists`] when the name is taken, by a slot of whatever kind.
    pub async fn create_slot(&mut self, slot: &str, reserve_wal: bool) -> Result<(), ReplicationError> {
        let what = "create a replication slot";
        let reserve = if reserve_wal { " RESERVE_WAL" } else { "" };
        let command = format!("CREATE_REPLICATION_SLOT {} PHYSICAL{reserve}", quote_name(slot));
        self.run(what, &command).await?.map(drop).map_err(|said| about_slot(what, slot, said))
    }

    /// Drops a slot that nobody uses.
    pub async fn drop_slot(&mut self, slot: &str) -> Result<(), ReplicationError> {
        let what = "drop a replication slot";
        let command = format!("DROP_REPLICATION_SLOT {}", quote_name(slot));
        self.run(what, &command).await?.map(drop).map_err(|said| about_slot(what, slot, said))
    }

    /// Says good-bye. Dropping the connection has the same effect, with a line in the server's log.
    pub async fn close(mut self) {
        frontend::terminate(self.wire.output());
        let parting = async {
            // It is over either way.
            let _ = self.wire.send().await;
            self.wire.shut_down().await;
        };
        let _ = timeout(Duration::from_secs(1), parting).await;
    }

    /// Begins a command.
    pub(super) fn begin(&mut self, what: &'static str, command: &str) -> Result<(), ReplicationError> {
        if self.unfinished {
            let reason = "an earlier command was given up before its end".to_owned();
            return Err(ReplicationError::Lost { what, reason });
        }
        self.unfinished = true;
        frontend::query(command, self.wire.output())
            .map_err(|error| ReplicationError::Protocol { what, reason: error.to_string() })
    }

    /// To be called when the server waits for commands again.
    pub(super) fn finish(&mut self) {
        self.unfinished = false;
    }

    /// Runs a command to its end. The inner result is the server's own refusal.
    async fn run(
        &mut self,
        what: &'static str,
        command: &str,
    ) -> Result<Result<Rows, Box<ServerSaid>>, ReplicationError> {
        self.begin(what, command)?;
        let limit = self.target.answer_limit;
        let late = |_| ReplicationError::Timeout { what, limit };
        let answer = timeout(limit, self.read_answer(what)).await.map_err(late)??;
        self.finish();
        Ok(answer)
    }

    async fn read_answer(&mut self, what: &'static str) -> Result<Result<Rows, Box<ServerSaid>>, ReplicationError> {
        let (mut rows, mut refusal) = (Vec::new(), None);
        loop {
            match self.wire.next().await.map_err(|error| ReplicationError::from_wire(what, error))? {
                Message::Row(row) if rows.len() < MOST_ROWS => rows.push(row),
                Message::Columns | Message::Complete(_) | Message::Parameter { .. } | Message::Notice(_) => {}
                // After a fatal one no other frame comes.
                Message::Error(said) if said.severity != "ERROR" => {
                    return Err(ReplicationError::Lost { what, reason: said.to_string() });
                }
                Message::Error(said) => refusal = Some(said),
                Message::Ready => return Ok(refusal.map_or(Ok(rows), Err)),
                other => {
                    return Err(ReplicationError::Protocol { what, reason: format!("unexpectedly {}", other.name()) });
                }
            }
        }
    }
}

fn asks_for_tls(mode: &str) -> bool {
    !matches!(mode, "disable" | "allow" | "prefer")
}

/// `15` of `15.4 (Debian 15.4-1)` and of `18beta1`.
fn major_of(version: &str) -> Option<u32> {
    let end = version.find(|c: char| !c.is_ascii_digit()).unwrap_or(version.len());
    version[..end].parse().ok()
}

/// A name as replication commands take it.
pub(super) fn quote_name(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(host: &str) -> Target {
        let user = Credentials { username: "replicator".into(), password: "secret".into() };
        Target::new(Source::new(host, 5432), user, "test")
    }

    #[test]
    fn names_its_address() {
        assert_eq!(target("/run/pg").address(), "/run/pg/.s.PGSQL.5432");
        assert_eq!(target("db1").address(), "db1:5432");
        assert_eq!(quote_name("a\"b"), "\"a\"\"b\"");
        assert_eq!((major_of("15.4 (Debian)"), major_of("18beta1"), major_of("x")), (Some(15), Some(18), None));
    }

    #[tokio::test]
    async fn does_not_stream_in_the_clear_what_is_to_be_encrypted() {
        let mut target = target("127.0.0.1");
        target.source.options.insert("sslmode".into(), "verify-full".into());
        let error = Replication::connect(&target).await.unwrap_err();
        assert!(matches!(&error, ReplicationError::NoTls { mode } if mode == "verify-full"), "{error}");
    }
}
