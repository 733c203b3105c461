//! A real server that archives by a helper process, a client that remembers what was acknowledged, and restores of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use matriarch_archive::archive::{Archive, Incarnation};
use matriarch_archive::base::{self, BackupError, Summary};
use matriarch_archive::door::Door;
use matriarch_archive::progress::Progress;
use matriarch_archive::restore::{self, AtTarget, Plan, RestoreError, Target, Wanted};
use matriarch_archive::wal::{self, Segment, WalName};
use matriarch_core::Lsn;
use matriarch_testkit::dir::TestDir;
use matriarch_testkit::postgres::Installation;
use matriarch_testkit::server::Server;
use matriarch_testkit::user;
use rustix::process::Signal;
use tokio_postgres::{Client, NoTls};

use super::{Described, PATIENT};

/// What the helper process is told.
const HAND: &str = "MATRIARCH_TEST_HAND";

/// `archive_command` or `restore_command`: this very test program, as one of its ignored tests.
pub fn command(what: &str, description: &Path, rest: &str) -> String {
    let program = std::env::current_exe().unwrap();
    let hand = format!("{what} {} {rest}", description.display());
    format!("{HAND}=\"{hand}\" {} --exact hand --ignored --nocapture", program.display())
}

/// The same as a process of its own, begun by the test.
pub fn begin(what: &str, description: &Path, rest: &str) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "hand", "--ignored", "--nocapture"]);
    command.env(HAND, format!("{what} {} {rest}", description.display())).spawn().unwrap()
}

/// The words of a helper that was begun for this.
pub fn told(what: &str) -> Option<[String; 3]> {
    let told = std::env::var(HAND).ok()?;
    let words: Vec<String> = told.strip_prefix(&format!("{what} "))?.split(' ').map(str::to_owned).collect();
    words.try_into().ok()
}

/// The helper's work; ends the process with the code that PostgreSQL is to see.
pub async fn hand() {
    let told = std::env::var(HAND).expect("only PostgreSQL starts this");
    let words: Vec<&str> = told.split(' ').collect();
    let [what, description, path, name] = words[..] else { panic!("{told}") };
    let description = std::fs::read(description).unwrap();
    if what == "door" {
        let foreign = serde_json::from_slice(&description).unwrap();
        let door = Door::open(&foreign, PATIENT).await.unwrap();
        let fetched = door.fetch(&name.parse().unwrap(), Path::new(path)).await;
        let code = fetched.map_or_else(|error| error.exit_code(), |()| 0);
        std::process::exit(i32::from(code));
    }
    let described: Described = serde_json::from_slice(&description).unwrap();
    let archive = [described.open().await];
    let code = match what {
        "push" => match wal::push(&archive, Path::new(path), &name.parse().unwrap()).await {
            Ok(()) => 0,
            Err(error) => {
                eprintln!("{name} is not archived: {error}");
                1
            }
        },
        _ => match wal::fetch(&archive, &name.parse().unwrap(), Path::new(path)).await {
            Ok(()) => 0,
            Err(error) => {
                eprintln!("{name} is not fetched: {error}");
                error.exit_code()
            }
        },
    };
    std::process::exit(i32::from(code));
}

/// A server and its archive.
pub struct Database {
    pub server: Server,
    pub archive: Archive,
    pub described: Described,
    description: PathBuf,
    installation: Installation,
}

impl Database {
    /// initdb with checksums, then archiving on.
    pub async fn start(installation: &Installation, dir: &TestDir, described: Described, settings: &str) -> Database {
        Database::start_with(installation, dir, described, settings, &[]).await
    }

    /// The same with further arguments for initdb.
    pub async fn start_with(
        installation: &Installation,
        dir: &TestDir,
        described: Described,
        settings: &str,
        arguments: &[&str],
    ) -> Database {
        let description = dir.join("archive.json");
        described.save(&description);
        let settings =
            format!("wal_level = replica\narchive_mode = on\nmax_wal_size = 128MB\nautovacuum = off\n{settings}");
        let mut server = Server::create_with(installation, dir, "data", &settings, arguments).await.unwrap();
        let client = connect(&server).await;
        let on: String = one(&client, "select current_setting('data_checksums')").await;
        if on == "off" {
            drop(client);
            server.stop(Signal::INT);
            let mut enable = user::command(installation.bins.join("pg_checksums"));
            let done =
                enable.current_dir(dir.path()).args(["--enable", "-N", "-D"]).arg(server.data()).output().unwrap();
            assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
            server.start().await.unwrap();
        }
        let client = connect(&server).await;
        let incarnation = Incarnation {
            format: 1,
            system_identifier: one(&client, "select system_identifier::text from pg_control_system()").await,
            major: installation.major,
            segment_size: one::<i64>(&client, "select setting::bigint from pg_settings where name = 'wal_segment_size'")
                .await as u64,
            created: jiff::Timestamp::now(),
            parent: None,
        };
        let archive = described.begin(incarnation).await;
        // Only now: after three failures the archiver pauses for a minute.
        let push = command("push", &description, "%p %f");
        client.batch_execute(&format!("alter system set archive_command = '{push}'")).await.unwrap();
        client.batch_execute("select pg_reload_conf()").await.unwrap();
        Database { server, archive, described, description, installation: installation.clone() }
    }

    pub async fn client(&self) -> Client {
        connect(&self.server).await
    }

    pub async fn backup(&self, name: &str) -> Result<Summary, BackupError> {
        self.backup_to(&self.archive, name).await
    }

    /// A backup of another server of the same database.
    pub async fn backup_of(&self, server: &Server, name: &str) -> Result<Summary, BackupError> {
        let client = connect(server).await;
        let (data, progress) = (server.data().to_owned(), Progress::default());
        let options =
            base::Options { data, incremental: false, workers: 2, fast: true, wal_patience: PATIENT, progress };
        base::backup(&self.archive, &client, name, &options).await
    }

    pub async fn backup_to(&self, archive: &Archive, name: &str) -> Result<Summary, BackupError> {
        self.take(archive, name, false).await
    }

    /// A backup of what has changed since the one before it.
    pub async fn increment(&self, name: &str) -> Result<Summary, BackupError> {
        self.take(&self.archive, name, true).await
    }

    async fn take(&self, archive: &Archive, name: &str, incremental: bool) -> Result<Summary, BackupError> {
        let client = self.client().await;
        let options = base::Options {
            data: self.server.data().to_owned(),
            incremental,
            workers: 2,
            fast: true,
            wal_patience: PATIENT,
            progress: Progress::default(),
        };
        base::backup(archive, &client, name, &options).await
    }

    /// Ends the segment and waits until all before it is in the archive.
    pub async fn archive_all(&self) {
        self.archive_all_of(1).await;
    }

    /// The same, of a server that is on another timeline.
    pub async fn archive_all_of(&self, timeline: u32) {
        let client = self.client().await;
        let size = self.archive.incarnation().segment_size;
        // A restore needs something to stop at, and a switch does nothing where nothing was written.
        client.batch_execute("select txid_current()").await.unwrap();
        let end: Lsn = one::<String>(&client, "select pg_switch_wal()::text").await.parse().unwrap();
        let last = WalName::Segment(Segment::before(timeline, end, size));
        // After three failures the archiver pauses for a minute.
        let deadline = Instant::now() + PATIENT * 3;
        while self.archive.repository().size(&self.archive.place().wal(&last)).await.is_err() {
            assert!(Instant::now() < deadline, "{last} was not archived");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub async fn plan(&self, target: &Target) -> Result<Plan, RestoreError> {
        restore::plan(&self.archive, &Wanted::new(target.clone())).await
    }

    pub fn options(&self, data: &Path) -> restore::Options {
        restore::Options {
            data: data.to_owned(),
            tablespaces: BTreeMap::new(),
            restore_command: command("fetch", &self.description, "%p %f"),
            place_wal: false,
            files: Vec::new(),
            at_target: AtTarget::Promote,
            owner: user::unprivileged().map(|user| (user.uid, user.gid)),
            workers: 2,
            progress: Progress::default(),
        }
    }

    /// Restores into `dir/name`, with every tablespace beside it, and starts it; returns once it takes writes.
    pub async fn restored(&self, dir: &TestDir, name: &str, target: &Target) -> Server {
        let plan = self.plan(target).await.unwrap();
        let mut options = self.options(&dir.join(name));
        for tablespace in &plan.summary.tablespaces {
            options.tablespaces.insert(tablespace.oid, dir.join(format!("{name}-{}", tablespace.name)));
        }
        restore::restore(&self.archive, &plan, &options).await.unwrap();
        self.start_restored(&options.data).await
    }

    /// Looks through the page checksums of a directory that nobody uses.
    pub fn check_pages(&self, data: &Path) {
        let mut check = user::command(self.installation.bins.join("pg_checksums"));
        let done = check.current_dir("/").args(["--check", "-D"]).arg(data).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }

    pub async fn start_restored(&self, data: &Path) -> Server {
        self.start_restored_with(data, "archive_mode = off").await
    }

    /// Starts a directory that stays a standby.
    pub async fn follow(&self, data: &Path, settings: &str) -> Server {
        Server::of(&self.installation, data, settings).await.unwrap()
    }

    /// Starts a restored directory; returns once it takes writes.
    pub async fn start_restored_with(&self, data: &Path, settings: &str) -> Server {
        recovered(&self.installation, data, settings).await
    }
}

/// Starts a restored directory; returns once it takes writes.
pub async fn recovered(installation: &Installation, data: &Path, settings: &str) -> Server {
    let server = Server::of(installation, data, settings).await.unwrap();
    let client = connect(&server).await;
    let deadline = Instant::now() + PATIENT;
    while one::<bool>(&client, "select pg_is_in_recovery()").await {
        assert!(Instant::now() < deadline, "recovery did not end");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    server
}

pub async fn connect(server: &Server) -> Client {
    let (client, connection) = tokio_postgres::connect(&server.dsn(), NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

pub async fn one<T: for<'a> tokio_postgres::types::FromSql<'a>>(client: &Client, query: &str) -> T {
    client.query_one(query, &[]).await.unwrap().get(0)
}

/// Inserts 1, 2, 3 … into `marks`, and knows what was acknowledged.
pub struct Writer {
    acknowledged: Arc<AtomicI64>,
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<()>,
}

impl Writer {
    pub async fn start(database: &Database) -> Writer {
        let client = database.client().await;
        let next: i64 = one(&client, "select coalesce(max(id), 0) from marks").await;
        let (acknowledged, stop) = (Arc::new(AtomicI64::new(next)), Arc::new(AtomicBool::new(false)));
        let (counter, ended) = (Arc::clone(&acknowledged), Arc::clone(&stop));
        let task = tokio::spawn(async move {
            while !ended.load(Ordering::Relaxed) {
                let id = counter.load(Ordering::Relaxed) + 1;
                client.execute("insert into marks values ($1)", &[&id]).await.unwrap();
                counter.store(id, Ordering::Relaxed);
            }
        });
        Writer { acknowledged, stop, task }
    }

    pub fn acknowledged(&self) -> i64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    pub async fn more(&self, rows: i64) {
        let wanted = self.acknowledged() + rows;
        while self.acknowledged() < wanted {
            assert!(!self.task.is_finished(), "the writer failed");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Stops it; how many rows were acknowledged.
    pub async fn stop(self) -> i64 {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap();
        self.acknowledged.load(Ordering::Relaxed)
    }
}
