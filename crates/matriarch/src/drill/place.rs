//! The temporary directory of one drill, and what drills that were killed have left.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use matriarch_cli::{Failure, code};
use matriarch_postgres::{Owner, files, owner, process};
use rustix::fs::{FlockOperation, OFlags, flock};

const PREFIX: &str = "matriarch-drill-";
const LOCK: &str = "lock";
const END: Duration = Duration::from_secs(30);

/// A directory of ours alone. Dropped, it is removed; [`Place::clear`] also says when that fails.
#[derive(Debug)]
pub struct Place {
    top: PathBuf,
    /// Held for as long as the drill lives, and given back by the kernel when it dies.
    _lock: File,
    cleared: bool,
}

impl Place {
    /// Makes one in a folder, which must be there.
    pub fn make(within: &Path, owner: Option<&Owner>) -> anyhow::Result<Place> {
        let doing = || {
            format!("the temporary directory cannot be made in {} (--scratch names another place)", within.display())
        };
        if let Some(owner) = owner {
            owner::check_reachable(&within.join("x"), owner)?;
        }
        let id: u32 = rand::random();
        // Under its name only once it is locked: else another drill might take it for one that was left.
        let making = within.join(format!(".{PREFIX}{id:08x}"));
        DirBuilder::new().mode(0o711).create(&making).with_context(doing)?;
        let ready = || -> io::Result<(PathBuf, File)> {
            // PostgreSQL's user passes through; what is inside is closed to others.
            fs::set_permissions(&making, fs::Permissions::from_mode(0o711))?;
            let lock = File::options().write(true).create_new(true).mode(0o600).open(making.join(LOCK))?;
            flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
            let top = within.join(format!("{PREFIX}{id:08x}"));
            fs::rename(&making, &top)?;
            Ok((top, lock))
        };
        let made = ready().inspect_err(|_| drop(fs::remove_dir_all(&making)));
        let (top, lock) = made.with_context(doing)?;
        let place = Place { top, _lock: lock, cleared: false };
        for folder in [place.data(), place.spaces()] {
            files::make_dir(&folder, 0o700, owner)?;
        }
        Ok(place)
    }

    pub fn top(&self) -> &Path {
        &self.top
    }

    pub fn data(&self) -> PathBuf {
        self.top.join("data")
    }

    /// Of the socket; short, since the system allows few bytes.
    pub fn run(&self) -> PathBuf {
        self.top.join("s")
    }

    pub fn log(&self) -> PathBuf {
        self.top.join("log")
    }

    /// The folder of all tablespaces.
    pub fn spaces(&self) -> PathBuf {
        self.top.join("spaces")
    }

    /// Ends what still works there, and removes it.
    pub async fn clear(mut self) -> anyhow::Result<()> {
        let top = self.top.clone();
        let cleared = tokio::task::spawn_blocking(move || remove(&top)).await?;
        self.cleared = true;
        cleared.map_err(|error| {
            let text = format!("{} could not be removed: {error:#}; remove it", self.top.display());
            Failure::new(code::IO, text).into()
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.cleared {
            // Nobody is left to hear of it; a later drill tries again.
            let _ = remove(&self.top);
        }
    }
}

/// What was cut off may still write for a moment.
fn remove(top: &Path) -> anyhow::Result<()> {
    let until = Instant::now() + END;
    loop {
        process::kill_tree(&top.join("data"), END)?;
        match files::remove_tree(top) {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() > until => return Err(error.into()),
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}

/// Removes what killed drills have left in a folder, with a server that may still run there. Only what is ours: anybody may
/// write into a temporary folder.
pub fn sweep(within: &Path) -> Vec<PathBuf> {
    let me = rustix::process::geteuid().as_raw();
    let mut swept = Vec::new();
    for entry in fs::read_dir(within).into_iter().flatten().flatten() {
        let path = entry.path();
        let named = entry.file_name().to_string_lossy().starts_with(PREFIX);
        let ours = fs::symlink_metadata(&path).is_ok_and(|found| found.is_dir() && found.uid() == me);
        if named && ours && is_left(&path) && remove(&path).is_ok() {
            swept.push(path);
        }
    }
    swept
}

fn is_left(top: &Path) -> bool {
    let flags = OFlags::NOFOLLOW.bits().cast_signed();
    let lock = File::options().write(true).custom_flags(flags).open(top.join(LOCK));
    lock.is_ok_and(|lock| flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_nobody_holds_is_swept() {
        let within = std::env::temp_dir().join(format!("place-test-{:08x}", rand::random::<u32>()));
        fs::create_dir(&within).unwrap();
        let held = Place::make(&within, None).unwrap();
        let left = within.join(format!("{PREFIX}left"));
        fs::create_dir_all(left.join("data/base")).unwrap();
        fs::write(left.join(LOCK), "").unwrap();
        let other = within.join(format!("{PREFIX}without-a-lock"));
        fs::create_dir(&other).unwrap();
        assert_eq!(sweep(&within), std::slice::from_ref(&left));
        assert!(held.top().exists() && other.exists() && !left.exists());
        let top = held.top().to_owned();
        drop(held);
        assert!(!top.exists());
        fs::remove_dir_all(&within).unwrap();
    }
}
