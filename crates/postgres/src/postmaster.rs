//! Starting, adopting and watching the postmaster.
//!
//! It is our child in a process group of its own and its output goes to a file, so that it outlives a crashed agent;
//! the next agent adopts it by `postmaster.pid`. A pidfd tells its exit either way.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use rustix::fs::inotify;
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};
use tokio::io::unix::AsyncFd;

use crate::conf;
use crate::control::{self, ControlError};
use crate::files::{Context, FileError};
use crate::history;
use crate::include;
use crate::instance::{Instance, RunDirError};
use crate::process;
use crate::readiness::register;
use crate::sql::{Sql, SqlError};
use crate::tool;

mod log;
pub use log::{LogMark, explain_log};

/// As what an instance starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartAs {
    /// Without `standby.signal`. Refused for a directory that last ran as a standby.
    Primary,
    /// With `standby.signal`.
    Standby,
}

/// A PostgreSQL that did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Processes of this data directory are there: adopt the postmaster, or kill the orphans with
    /// [`process::kill_tree`].
    #[error("PostgreSQL processes {pids:?} already work in {dir}; adopt or stop them first", dir = dir.display())]
    Occupied {
        /// The data directory.
        dir: PathBuf,
        /// Which.
        pids: Vec<u32>,
    },
    /// It would write on a timeline that is somebody else's.
    #[error("{dir} was last a standby; start it as a standby and promote it instead of starting it as a primary", dir = dir.display())]
    WasStandby {
        /// The data directory.
        dir: PathBuf,
    },
    /// `matriarch restore` made it, and it has not been started by itself since.
    #[error(
        "{dir} was restored and its recovery is not over; start PostgreSQL there by hand (pg_ctl -D {dir} start), wait until it \
         takes writes, stop it (pg_ctl -D {dir} stop), and start this member again", dir = dir.display()
    )]
    RestoreUnfinished {
        /// The data directory.
        dir: PathBuf,
    },
    /// Our include file is missing, so it would start on PostgreSQL's default port.
    #[error("{file} is missing; write the settings before starting", file = file.display())]
    NotConfigured {
        /// The missing file.
        file: PathBuf,
    },
    /// It started and ended before it was ready.
    #[error("PostgreSQL in {dir} ended while starting ({ended}){remedy}; its last messages:\n{log}", dir = dir.display())]
    Exited {
        /// The data directory.
        dir: PathBuf,
        /// How.
        ended: String,
        /// What to do, when the messages tell; empty or starting with `: `.
        remedy: String,
        /// The last lines of its log.
        log: String,
    },
    /// It could not be executed.
    #[error("could not start {program}: {source}", program = program.display())]
    Spawn {
        /// Which program.
        program: PathBuf,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// It is up and the superuser cannot connect.
    #[error(transparent)]
    Connect(#[from] SqlError),
    /// The control file.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The run directory.
    #[error(transparent)]
    RunDir(#[from] RunDirError),
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
}

/// What `postmaster.pid` says about how far the server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerStatus {
    /// Starting, or a standby that is not consistent yet; it takes no connections.
    Starting,
    /// It takes connections.
    Ready,
    /// It is going down.
    Stopping,
}

/// A running (or just ended) postmaster.
#[derive(Debug)]
pub struct Postmaster {
    pid: u32,
    pidfd: AsyncFd<OwnedFd>,
    child: Mutex<Option<Child>>,
    exit: Mutex<Option<ExitStatus>>,
    data_dir: PathBuf,
    log: LogMark,
}

/// Starts PostgreSQL and returns as soon as it runs; [`Postmaster::wait_ready`] tells when it serves. Its messages are
/// appended to `log_file`. The settings and rules must have been written ([`conf::write`], [`crate::hba::write`]).
/// Must be called within a tokio runtime.
pub async fn start(instance: &Instance, start_as: StartAs, log_file: &Path) -> Result<Postmaster, StartError> {
    let pids = process::tree_async(&instance.data_dir).await;
    if !pids.is_empty() {
        return Err(StartError::Occupied { dir: instance.data_dir.clone(), pids });
    }
    for file in [conf::FILE, crate::hba::FILE, crate::hba::IDENT_FILE].map(|name| instance.data(name)) {
        if !file.exists() {
            return Err(StartError::NotConfigured { file });
        }
    }
    // As a standby it would replay past the target, and as a primary it would not replay at all.
    if instance.data(conf::RECOVERY_SIGNAL).exists() && instance.data(conf::RESTORE_SOURCE).exists() {
        return Err(StartError::RestoreUnfinished { dir: instance.data_dir.clone() });
    }
    if start_as == StartAs::Primary {
        refuse_standby(instance).await?;
    }
    prepare(instance, start_as)?;
    spawn(instance, log_file, [])
}

/// The files that PostgreSQL must find, and must not find, when it starts. Not on another thread: when its caller is
/// dropped, no signal file may appear or go behind the back of the next start.
fn prepare(instance: &Instance, start_as: StartAs) -> Result<(), StartError> {
    instance.prepare_run_dir()?;
    remove_stale_locks(instance)?;
    include::ensure(instance)?;
    history::forget_reserved(instance)?;
    for name in conf::strip_auto_conf(instance)? {
        tracing::warn!(setting = name, "removed from postgresql.auto.conf: Matriarch owns this setting");
    }
    match start_as {
        StartAs::Primary => conf::remove_signals(instance)?,
        StartAs::Standby => conf::set_standby(instance)?,
    }
    Ok(())
}

async fn refuse_standby(instance: &Instance) -> Result<(), StartError> {
    let control = control::read(instance).await?;
    // A fresh clone still says what its source was, but has the label.
    if control.state.is_standby() || instance.data("backup_label").exists() {
        return Err(StartError::WasStandby { dir: instance.data_dir.clone() });
    }
    Ok(())
}

/// A crash leaves `postmaster.pid` and the socket with its lock file, and PostgreSQL refuses to start when a process
/// has that number by now, or when the dead postmaster is a zombie that nobody reaps. Nobody works in the data directory
/// (the caller looked) and the run directory is ours alone, so such files are stale.
pub(crate) fn remove_stale_locks(instance: &Instance) -> Result<(), FileError> {
    if let Some(pid) = PidFile::read(&instance.data_dir).map(|file| file.pid)
        && Path::new(&format!("/proc/{pid}")).exists()
        && !process::belongs(pid, &instance.data_dir)
    {
        crate::files::remove_durably(&instance.data("postmaster.pid"))?;
    }
    let mut lock = instance.socket_path().into_os_string();
    lock.push(".lock");
    for stale in [lock.into(), instance.socket_path()] {
        crate::files::remove_durably(&stale)?;
    }
    Ok(())
}

/// Runs the program on the data directory as it is, with further arguments.
pub(crate) fn spawn(
    instance: &Instance,
    log_file: &Path,
    arguments: impl IntoIterator<Item = String>,
) -> Result<Postmaster, StartError> {
    let (log, output) = LogMark::open(log_file, instance.owner.as_ref())?;
    let errors = output.try_clone().doing("open", log_file)?;
    let program = instance.binaries.program("postgres");
    let mut command = Command::new(&program);
    command.arg("-D").arg(&instance.data_dir).args(arguments);
    // In the data directory from the first moment, so that `process::tree` cannot miss it.
    command.current_dir(&instance.data_dir).process_group(0);
    command.stdin(Stdio::null()).stdout(output).stderr(errors);
    command.env_clear().envs(tool::environment(instance));
    if let Some(owner) = &instance.owner {
        command.uid(owner.uid).gid(owner.gid).env("HOME", &owner.home);
    }
    let child = command.spawn().map_err(|source| StartError::Spawn { program, source })?;
    let pid = child.id();
    // The number is our child's until we reap it, so this cannot be somebody else's.
    let pidfd = process::open(pid)
        .map_err(Into::into)
        .and_then(register)
        .doing("watch the postmaster of", &instance.data_dir)?;
    Ok(Postmaster {
        pid,
        pidfd,
        child: Mutex::new(Some(child)),
        exit: Mutex::new(None),
        data_dir: instance.data_dir.clone(),
        log,
    })
}

/// Takes over a postmaster that an earlier agent started; `None` when none runs. Orphans without a postmaster do not
/// count: see [`process::tree`]. Must be called within a tokio runtime.
pub fn adopt(instance: &Instance, log_file: &Path) -> Result<Option<Postmaster>, FileError> {
    let dir = &instance.data_dir;
    let Some(pid) = PidFile::read(dir).map(|file| file.pid).or_else(|| root_of(&process::tree(dir))) else {
        return Ok(None);
    };
    let Ok(fd) = process::open(pid) else { return Ok(None) };
    // Checked after the descriptor was opened, so it is about the same process.
    if !process::belongs(pid, dir) || root_of(&process::tree(dir)) != Some(pid) {
        return Ok(None);
    }
    let pidfd = register(fd).doing("watch the postmaster of", dir)?;
    let log = LogMark::at_end(log_file);
    let (child, exit) = (Mutex::new(None), Mutex::new(None));
    Ok(Some(Postmaster { pid, pidfd, child, exit, data_dir: dir.clone(), log }))
}

/// The one process that has a child among the others, or is alone; orphans have no such root.
fn root_of(pids: &[u32]) -> Option<u32> {
    let parents: Vec<Option<u32>> = pids.iter().map(|pid| parent_of(*pid)).collect();
    let is_parent = |pid: &u32| parents.contains(&Some(*pid));
    pids.iter().copied().find(|pid| is_parent(pid)).or(match pids {
        [only] => Some(*only),
        _ => None,
    })
}

fn parent_of(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may itself contain spaces and parentheses.
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

impl Postmaster {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether it has not exited yet.
    pub fn is_alive(&self) -> bool {
        !process::has_exited(self.pidfd.get_ref(), Duration::ZERO)
    }

    /// How far the server is; `None` when it has no `postmaster.pid` (not yet, or deleted).
    pub fn status(&self) -> Option<ServerStatus> {
        PidFile::read(&self.data_dir).filter(|file| file.pid == self.pid).and_then(|file| file.status)
    }

    /// Waits for its exit; may be dropped and called again, by several callers. The status is known only of a child
    /// of this process, not of an adopted postmaster.
    pub async fn wait_exit(&self) -> Option<ExitStatus> {
        // The descriptor stays readable, and errors cannot come from a pidfd that is open.
        let _ = self.pidfd.readable().await;
        let mut exit = self.exit.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let mut child = self.child.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(status) = child.take().and_then(|mut child| child.wait().ok()) {
            *exit = Some(status);
        } else if exit.is_none() {
            // A child all the same when an upgraded agent adopted it in the same process: else it stays as a zombie.
            let _ = waitid(WaitId::PidFd(self.pidfd.get_ref().as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
        }
        *exit
    }

    /// Sends a signal; nothing happens when it has exited.
    pub fn signal(&self, signal: Signal) -> std::io::Result<()> {
        match pidfd_send_signal(self.pidfd.get_ref(), signal) {
            Err(rustix::io::Errno::SRCH) => Ok(()),
            sent => Ok(sent?),
        }
    }

    /// Waits until it serves and connects as the superuser; fails when it exits instead. There is no limit: a standby
    /// may need WAL from its leader before it is consistent, so the caller says how long to wait, by dropping this.
    pub async fn wait_ready(&self, instance: &Instance) -> Result<Sql, StartError> {
        let flags = inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC;
        let watch = inotify::init(flags).doing("watch", &self.data_dir)?;
        let changes = inotify::WatchFlags::CREATE | inotify::WatchFlags::MODIFY | inotify::WatchFlags::MOVED_TO;
        inotify::add_watch(&watch, &self.data_dir, changes).doing("watch", &self.data_dir)?;
        let watch = register(watch).doing("watch", &self.data_dir)?;
        // Looked at after the watch was set, so that no change falls in between.
        while self.status() != Some(ServerStatus::Ready) {
            tokio::select! {
                biased;
                ended = self.wait_exit() => return Err(self.exited(ended)),
                changed = watch.readable() => drain(changed.doing("watch", &self.data_dir)?),
            }
        }
        match Sql::connect(instance).await {
            Ok(sql) => Ok(sql),
            Err(_) if !self.is_alive() => Err(self.exited(self.wait_exit().await)),
            Err(error) => Err(error.into()),
        }
    }

    pub(crate) fn exited(&self, ended: Option<ExitStatus>) -> StartError {
        let log = self.log.tail();
        StartError::Exited {
            dir: self.data_dir.clone(),
            ended: ended.map_or("status unknown".into(), |status| status.to_string()),
            remedy: explain_log(&log).map(|text| format!(": {text}")).unwrap_or_default(),
            log,
        }
    }

    /// The last lines it logged since it was started or adopted.
    pub fn log_tail(&self) -> String {
        self.log.tail()
    }
}

fn drain(mut guard: tokio::io::unix::AsyncFdReadyGuard<'_, OwnedFd>) {
    let mut buffer = [0u8; 4096];
    while rustix::io::read(guard.get_inner(), &mut buffer[..]).is_ok_and(|read| read > 0) {}
    guard.clear_ready();
}

/// Where the server of this directory has its socket, says `postmaster.pid`; none when there is none.
pub fn socket_dir(data_dir: &Path) -> Option<PathBuf> {
    let dir = PidFile::read(data_dir)?.socket_dir.filter(|dir| !dir.is_empty())?;
    // It may be relative to the directory that the server works in.
    Some(data_dir.join(dir))
}

struct PidFile {
    pid: u32,
    socket_dir: Option<String>,
    status: Option<ServerStatus>,
}

impl PidFile {
    fn read(data_dir: &Path) -> Option<Self> {
        Self::parse(&fs::read_to_string(data_dir.join("postmaster.pid")).ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        // A single-user server writes its number with a minus.
        let pid = lines.next()?.trim().parse().ok()?;
        let socket_dir = lines.nth(3).map(|dir| dir.trim().to_owned());
        let status = match lines.nth(2).map(str::trim) {
            Some("ready") => Some(ServerStatus::Ready),
            Some("stopping") => Some(ServerStatus::Stopping),
            Some(_) => Some(ServerStatus::Starting),
            None => None,
        };
        Some(PidFile { pid, socket_dir, status })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_pid_file() {
        let head = "4242\n/data\n1763733600\n5433\n/run/x\n127.0.0.1\n  5433001  131072\n";
        let of = |text: &str| PidFile::parse(text).map(|file| (file.pid, file.status));
        assert_eq!(of(&format!("{head}ready   \n")), Some((4242, Some(ServerStatus::Ready))));
        assert_eq!(of(&format!("{head}standby \n")), Some((4242, Some(ServerStatus::Starting))));
        let socket = PidFile::parse(&format!("{head}ready   \n")).and_then(|file| file.socket_dir);
        assert_eq!(socket.as_deref(), Some("/run/x"));
        assert_eq!(of("4242\n/data\n"), Some((4242, None)));
        assert_eq!(of("-4242\n/data\n"), None);
        assert_eq!(of(""), None);
    }
}
