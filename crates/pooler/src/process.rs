//! PgBouncer's process: found, started, adopted after a crash of ours, ended. There is never a second one.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use matriarch_postgres::files::{self, FileError};
use matriarch_postgres::readiness::register;
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::unix::AsyncFd;
use tokio::sync::{Notify, watch};

use crate::console::Admin;
use crate::control::{Outlook, Server};
use crate::secrets::{self, Secrets};
use crate::settings::{ADMIN, PoolerConfig, Serves};

/// The first release that is known to work.
const OLDEST: (u32, u32) = (1, 18);
/// Longest path of a Unix socket.
const SOCKET_PATH: usize = 107;

/// A pooler that cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum PoolerError {
    /// No program.
    #[error(
        "PgBouncer is not installed: there is no pgbouncer in {looked}; install it (Debian: apt-get install pgbouncer) or \
         name the program"
    )]
    NotFound {
        /// Where we looked.
        looked: String,
    },
    /// A program that is too old, or none that we know.
    #[error("{program} is {said}, and PgBouncer 1.18 or newer is needed; install a newer one or name another program", program = program.display())]
    TooOld {
        /// The program.
        program: PathBuf,
        /// What it said.
        said: String,
    },
    /// It listens on one port only.
    #[error("a pooler has one port, and {0} was given beside {1}; run a second pooler for it")]
    TwoPorts(u16, u16),
    /// Its socket's path.
    #[error(
        "the path of the pooler's socket {0} is too long for a Unix socket; choose a directory with a shorter path"
    )]
    SocketPath(String),
    /// Somebody else runs it.
    #[error("another process of Matriarch runs a pooler in {0}; stop that one, or choose another directory")]
    Occupied(String),
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// The system.
    #[error("could not {action}: {source}")]
    System {
        /// What we wanted to do.
        action: String,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
}

fn system(action: impl Into<String>) -> impl FnOnce(std::io::Error) -> PoolerError {
    let action = action.into();
    move |source| PoolerError::System { action, source }
}

/// PgBouncer's program: the one given, or the one installed.
///
/// # Errors
/// When there is none, or it is too old.
pub fn find_program(given: Option<&Path>) -> Result<PathBuf, PoolerError> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places: Vec<PathBuf> = std::env::split_paths(&path).collect();
    // Where Debian has it, and a user's PATH mostly not.
    places.extend(["/usr/sbin", "/usr/local/sbin", "/usr/local/bin"].map(PathBuf::from));
    let program = match given {
        Some(program) => Some(program.to_owned()).filter(|program| program.is_file()),
        None => places.iter().map(|place| place.join("pgbouncer")).find(|program| program.is_file()),
    };
    let Some(program) = program else {
        let looked = given.map_or_else(|| "PATH, /usr/sbin and /usr/local".to_owned(), |p| p.display().to_string());
        return Err(PoolerError::NotFound { looked });
    };
    let output = Command::new(&program)
        .arg("--version")
        .stdin(Stdio::null())
        .output()
        .map_err(system(format!("run {} --version", program.display())))?;
    let said = String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or("no PgBouncer").to_owned();
    if version(&said).is_none_or(|version| version < OLDEST) {
        return Err(PoolerError::TooOld { program, said });
    }
    Ok(program)
}

/// `PgBouncer 1.18.0` is 1.18.
fn version(said: &str) -> Option<(u32, u32)> {
    let mut numbers = said.strip_prefix("PgBouncer ")?.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// A PgBouncer of our own: its files and its process.
pub struct Own {
    pub(crate) config: PoolerConfig,
    password: String,
    _lock: File,
    /// What is new about the roles' file.
    pub(crate) users: Users,
}

/// The roles' file as the one who keeps it sees it.
#[derive(Default)]
pub(crate) struct Users {
    /// Something below has changed.
    pub news: Notify,
    /// PgBouncer has not loaded the newest file.
    pub stale: AtomicBool,
    /// Why it cannot be kept up to date.
    pub problem: Mutex<Option<String>>,
}

impl Users {
    pub fn problem(&self) -> Option<String> {
        self.problem.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_problem(&self, problem: Option<String>) {
        let mut current = self.problem.lock().unwrap_or_else(PoisonError::into_inner);
        if *current != problem {
            if let Some(text) = &problem {
                tracing::warn!("{text}");
            }
            *current = problem;
            self.news.notify_one();
        }
    }
}

impl Own {
    /// Makes the directory and takes possession of it. Nothing runs yet.
    ///
    /// # Errors
    /// When the directory cannot be used, or another process uses it.
    pub fn prepare(config: PoolerConfig) -> Result<Own, PoolerError> {
        let port = config.port();
        if let Some(other) = config.listen.iter().find(|address| address.port() != port) {
            return Err(PoolerError::TwoPorts(other.port(), port));
        }
        let socket = config.socket();
        if socket.as_os_str().len() > SOCKET_PATH {
            return Err(PoolerError::SocketPath(socket.display().to_string()));
        }
        files::make_dir(&config.dir, 0o700, config.owner.as_ref())?;
        let lock = config.file("lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock)
            .map_err(system(format!("open {}", lock.display())))?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(PoolerError::Occupied(config.dir.display().to_string()));
        }
        let before = fs::read_to_string(config.file("users.txt")).unwrap_or_default();
        let password = secrets::admin_password(&before).unwrap_or_else(|| format!("{:032x}", rand::random::<u128>()));
        let own = Own { config, password, _lock: lock, users: Users::default() };
        if !own.config.file("users.txt").exists() {
            own.write_users(&BTreeMap::new())?;
        }
        Ok(own)
    }

    /// Whose sessions it pools.
    pub fn serves(&self) -> Serves {
        self.config.serves
    }

    /// Where clients reach it.
    pub fn listen(&self) -> SocketAddr {
        self.config.listen.first().copied().unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    pub(crate) fn admin(&self) -> Admin {
        let config = &self.config;
        Admin {
            host: config.listen.first().map(|address| address.ip().to_string()).unwrap_or_default(),
            port: config.port(),
            socket: Some(config.dir.clone()),
            user: ADMIN.to_owned(),
            password: self.password.clone(),
        }
    }

    /// Writes the roles; true when that changed something.
    pub(crate) fn write_users(&self, roles: &BTreeMap<String, String>) -> Result<bool, PoolerError> {
        let (asker, mut text) = match &self.config.secrets {
            Secrets::Query { user, password } => (Some((user.as_str(), password.as_str())), String::new()),
            Secrets::File(path) => {
                let action = format!("read the pooler's auth file {}", path.display());
                (None, fs::read_to_string(path).map_err(system(action))?)
            }
        };
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        text.push_str(&secrets::file(&self.password, asker, roles));
        Ok(files::write_atomic(&self.config.file("users.txt"), text.as_bytes(), 0o600, self.config.owner.as_ref())?)
    }

    /// Keeps the roles as PostgreSQL has them, while a primary serves; for ever.
    pub(crate) async fn keep_users(&self, outlook: watch::Receiver<Outlook>) {
        let mut failed = 0;
        loop {
            let serves = {
                let outlook = outlook.borrow();
                outlook.primary.is_some() && outlook.handover.is_none()
            };
            if serves {
                let done = self.refresh_users().await;
                failed = if done.is_err() { failed + 1 } else { 0 };
                // While the primary moves, one or two may fail.
                if let Some(problem) = Some(done.err()).filter(|problem| problem.is_none() || failed > 2) {
                    self.users.set_problem(problem);
                }
            }
            let soon = serves && failed == 0;
            tokio::time::sleep(if soon { secrets::REFRESH } else { secrets::REFRESH / 10 }).await;
        }
    }

    async fn refresh_users(&self) -> Result<(), String> {
        let roles = match &self.config.secrets {
            Secrets::Query { user, password } => {
                let asked = secrets::ask(&self.admin(), user, password).await;
                asked.map_err(|error| {
                    format!(
                        "the pooler cannot learn the roles' passwords as '{user}': {error}; the primary makes this role when \
                         postgresql.authentication.pooler names it, with the same password in the file of every member"
                    )
                })?
            }
            Secrets::File(_) => BTreeMap::new(),
        };
        if self.write_users(&roles).map_err(|error| error.to_string())? {
            self.users.stale.store(true, Ordering::Relaxed);
            self.users.news.notify_one();
        }
        Ok(())
    }

    /// Writes the configuration; true when that changed something. Clients wait for it, and [`Own::run`] writes it before PgBouncer
    /// reads it for the first time, so nobody waits for the disk.
    pub(crate) fn write_ini(&self, target: Option<&Server>) -> Result<bool, PoolerError> {
        let users = fs::read_to_string(self.config.file("users.txt")).unwrap_or_default();
        let text = self.config.ini(target, secrets::has_md5(&users));
        let path = self.config.file("pgbouncer.ini");
        Ok(files::write_passing(&path, text.as_bytes(), 0o600, self.config.owner.as_ref())?)
    }

    /// The PgBouncer that an earlier process of ours left running, or a new one.
    pub(crate) async fn run(&self) -> Result<Process, PoolerError> {
        if let Some(process) = self.left_running()? {
            if self.listens_the_same() {
                tracing::info!(pid = process.pid, "adopted the PgBouncer that was running");
                return Ok(process);
            }
            process.end(Duration::ZERO).await;
        }
        self.write_ini(None)?;
        self.start()
    }

    fn left_running(&self) -> Result<Option<Process>, PoolerError> {
        let text = fs::read_to_string(self.config.file("pgbouncer.pid")).unwrap_or_default();
        let Ok(pid) = text.trim().parse::<u32>() else { return Ok(None) };
        let ini = self.config.file("pgbouncer.ini");
        let is_ours = || {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let mut words = line.split(|byte| *byte == 0);
            words.any(|word| word == ini.as_os_str().as_encoded_bytes())
        };
        if !is_ours() {
            return Ok(None);
        }
        let process = Process::of(pid, None).map_err(system(format!("watch PgBouncer, process {pid}")))?;
        // The number may have become somebody else's before we held on to it.
        Ok(Some(process).filter(|_| is_ours()))
    }

    /// What a reload cannot change is as it was.
    fn listens_the_same(&self) -> bool {
        let before = fs::read_to_string(self.config.file("pgbouncer.ini")).unwrap_or_default();
        let now = self.config.ini(None, false);
        let listens = |text: &str| {
            let own = text.lines().filter(|line| line.starts_with("listen_") || line.starts_with("unix_socket_"));
            own.map(str::to_owned).collect::<Vec<_>>()
        };
        listens(&before) == listens(&now)
    }

    fn start(&self) -> Result<Process, PoolerError> {
        let log = self.config.file("pgbouncer.log");
        let output = OpenOptions::new().create(true).append(true).open(&log);
        let output = output.map_err(system(format!("open {}", log.display())))?;
        let mut command = Command::new(&self.config.program);
        command.arg(self.config.file("pgbouncer.ini")).current_dir(&self.config.dir).process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(output);
        if let Some(owner) = &self.config.owner {
            command.uid(owner.uid).gid(owner.gid).env("HOME", &owner.home);
        }
        let program = self.config.program.display();
        let child = command.spawn().map_err(system(format!("start {program}")))?;
        let pid = child.id();
        tracing::info!(pid, port = self.config.port(), "started PgBouncer");
        Process::of(pid, Some(child)).map_err(system(format!("watch PgBouncer, process {pid}")))
    }

    /// The end of PgBouncer's log, for the message that it has ended.
    pub(crate) fn last_words(&self) -> String {
        let log = fs::read(self.config.file("pgbouncer.log")).unwrap_or_default();
        let text = String::from_utf8_lossy(&log[log.len().saturating_sub(2000)..]).into_owned();
        let lines: Vec<&str> = text.lines().rev().filter(|line| !line.trim().is_empty()).take(3).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join(" | ")
    }
}

/// A PgBouncer that runs, or just ended.
pub(crate) struct Process {
    pub pid: u32,
    pidfd: AsyncFd<OwnedFd>,
    child: Mutex<Option<Child>>,
}

impl Process {
    fn of(pid: u32, child: Option<Child>) -> std::io::Result<Process> {
        let number = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(std::io::ErrorKind::NotFound)?;
        let pidfd = pidfd_open(number, PidfdFlags::empty())?;
        Ok(Process { pid, pidfd: register(pidfd)?, child: Mutex::new(child) })
    }

    /// It has ended; how, if it was our child.
    pub async fn exited(&self) -> String {
        // A pidfd is readable from the exit on.
        let _ = self.pidfd.readable().await;
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        match child.as_mut().map(Child::wait) {
            Some(Ok(status)) => status.to_string(),
            _ => "it was started by an earlier process of ours".to_owned(),
        }
    }

    fn signal(&self, signal: Signal) {
        // It may be gone already.
        let _ = pidfd_send_signal(self.pidfd.get_ref(), signal);
    }

    /// Lets transactions end for a while, then ends it.
    pub async fn end(&self, patience: Duration) {
        let steps = [(Signal::INT, patience), (Signal::TERM, Duration::from_secs(2)), (Signal::KILL, Duration::MAX)];
        for (signal, limit) in steps.into_iter().filter(|(_, limit)| !limit.is_zero()) {
            self.signal(signal);
            if tokio::time::timeout(limit, self.exited()).await.is_ok() {
                return;
            }
        }
    }
}
