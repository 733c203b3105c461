//! A disk that fails as disks do: I/O errors at will, stalls, and a power cut after which what was not synchronised is gone.
//!
//! It is a FUSE file system over an ordinary folder. Writes go straight to the folder; what they overwrote is remembered until
//! the next `fsync` of that file, and put back at a power cut. Names behave as on ext4: creations, renames and deletions
//! happen in order, and any `fsync` makes all that came before it last.
//!
//! Owns: the mount and its switches ([`FaultyDisk`]), answering the kernel ([`mount`]), the folder and what would be undone
//! ([`files`]).
//! Must not: know what is kept on it.
//! Start at [`FaultyDisk::mount`].

mod files;
mod mount;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use fuser::{BackgroundSession, Config, MountOption, SessionACL};
use rustix::io::Errno;

use crate::janitor::{Janitor, quoted};
use crate::{faults, user};
use files::Files;
use mount::Mounted;

/// How long files may stay open after their processes were killed.
const BUSY: Duration = Duration::from_secs(30);

/// What can go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Call {
    Read,
    Write,
    Sync,
}

/// What a power cut takes away of what was not synchronised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// Everything.
    All,
    /// Each page or not, by coins drawn from a seed: the kernel had written some of it.
    Some(u64),
}

/// Whose calls fail.
#[derive(Debug)]
struct Broken {
    text: String,
    /// The files whose path holds the text are those that are spared.
    spared: bool,
    answer: Errno,
}

impl Broken {
    fn hits(&self, path: &str) -> bool {
        path.contains(&self.text) != self.spared
    }
}

/// What is wrong at the moment.
#[derive(Default)]
struct Switches {
    broken: BTreeMap<Call, Broken>,
    /// Writes and syncs of files whose path holds a text wait here for the end of the stall; `None` while there is none.
    waiting: Option<(String, Vec<mount::Job>)>,
}

impl std::fmt::Debug for Switches {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let waiting = self.waiting.as_ref().map(|(_, jobs)| jobs.len());
        f.debug_struct("Switches").field("broken", &self.broken).field("waiting", &waiting).finish()
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The disk, mounted until dropped.
#[derive(Debug)]
pub struct FaultyDisk {
    path: PathBuf,
    files: Arc<Mutex<Files>>,
    switches: Arc<Mutex<Switches>>,
    session: Option<BackgroundSession>,
    _janitor: Janitor,
}

impl FaultyDisk {
    /// Mounts it on `path`, over the folder `<path>.disk`. `Ok(None)`, and a line that says why, when this machine does not
    /// let us.
    pub fn mount(path: &Path) -> Result<Option<FaultyDisk>> {
        if !rustix::process::geteuid().is_root() || !Path::new("/dev/fuse").exists() {
            crate::skipped("mounting a FUSE file system for others needs root and /dev/fuse");
            return Ok(None);
        }
        let backing = path.with_extension("disk");
        for folder in [path, &backing] {
            std::fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
            user::give(folder)?;
        }
        let janitor = Janitor::hire()?;
        let word = quoted(&path.display().to_string());
        janitor.later(&format!("umount {word} 2>/dev/null || umount -l {word} 2>/dev/null"))?;
        let files = Arc::new(Mutex::new(Files::open(&backing)?));
        let mut disk =
            FaultyDisk { path: path.to_owned(), files, switches: Arc::default(), session: None, _janitor: janitor };
        disk.attach()?;
        Ok(Some(disk))
    }

    fn attach(&mut self) -> Result<()> {
        let mut config = Config::default();
        let name = MountOption::FSName("matriarch-faulty".to_owned());
        config.mount_options = vec![name, MountOption::DefaultPermissions, MountOption::NoAtime];
        config.acl = SessionACL::All;
        let mounted = Mounted { files: self.files.clone(), switches: self.switches.clone() };
        let session = fuser::spawn_mount(mounted, &self.path, &config);
        self.session = Some(session.with_context(|| format!("mounting {}", self.path.display()))?);
        Ok(())
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// From now on this call fails so on files whose path (below the mount) holds `text`; all files hold the empty one.
    pub fn fail(&self, call: Call, text: &str, answer: Errno) {
        locked(&self.switches).broken.insert(call, Broken { text: text.to_owned(), spared: false, answer });
    }

    /// The same on all files but those whose path holds `text`.
    pub fn fail_but(&self, call: Call, text: &str, answer: Errno) {
        locked(&self.switches).broken.insert(call, Broken { text: text.to_owned(), spared: true, answer });
    }

    /// All calls work again.
    pub fn mend(&self) {
        locked(&self.switches).broken.clear();
    }

    /// Writes and syncs of files whose path holds `text` are not answered until [`FaultyDisk::go_on`]. Who waits for one
    /// cannot be killed meanwhile.
    pub fn stall(&self, text: &str) {
        locked(&self.switches).waiting.get_or_insert_with(|| (text.to_owned(), Vec::new()));
    }

    /// Answers what waited, in order.
    pub fn go_on(&self) {
        let waiting = locked(&self.switches).waiting.take();
        for job in waiting.into_iter().flat_map(|(_, jobs)| jobs) {
            job();
        }
    }

    /// The power goes and comes back: whoever works on the disk is killed, and what was not synchronised is lost. Returns how
    /// many files and names it changed.
    pub fn power_cut(&mut self, loss: Loss) -> Result<usize> {
        self.detach()?;
        let lost = locked(&self.files).power_cut(loss).context("undoing what was not synchronised")?;
        *locked(&self.files) = Files::open(&self.path.with_extension("disk"))?;
        self.attach()?;
        Ok(lost)
    }

    fn detach(&mut self) -> Result<()> {
        self.go_on();
        self.mend();
        faults::end_all(|| faults::processes_of(&self.path));
        match self.session.take() {
            Some(session) => {
                let ended = if unmount(&self.path) { session.join() } else { session.umount_and_join() };
                ended.with_context(|| format!("unmounting {}", self.path.display()))
            }
            None => Ok(()),
        }
    }
}

/// Unmounts once nobody has a file there open: the last thread of a killed program, and a child that another test forks
/// while we read a file, may have one a moment longer. What is still busy after that is for the caller to report.
fn unmount(path: &Path) -> bool {
    let deadline = Instant::now() + BUSY;
    loop {
        let status = Command::new("umount").arg(path).stderr(Stdio::null()).status();
        if status.is_ok_and(|status| status.success()) {
            return true;
        }
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

impl Drop for FaultyDisk {
    fn drop(&mut self) {
        if let Err(error) = self.detach() {
            eprintln!("{error:#}");
        }
    }
}

#[cfg(test)]
mod tests;
