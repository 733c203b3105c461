//! A small disk of its own for a data directory: an ext4 file system in a file, which can be filled and frozen.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::disk::Ballast;
use crate::janitor::{Janitor, quoted};
use crate::lab::{finish, run};
use crate::{faults, user};

/// An ext4 file system mounted on a folder until dropped. What still works in it then is killed.
#[derive(Debug)]
pub struct Volume {
    path: PathBuf,
    size: u64,
    _janitor: Janitor,
}

impl Volume {
    /// Makes a file system of `mebibytes` in `<path>.img` and mounts it on `path` for the unprivileged user. `Ok(None)`, and a
    /// line that says why, when this machine does not let us.
    pub fn mount(path: &Path, mebibytes: u64) -> Result<Option<Volume>> {
        if !rustix::process::geteuid().is_root() {
            crate::skipped("mounting a file system needs root");
            return Ok(None);
        }
        std::fs::create_dir_all(path).with_context(|| format!("creating {}", path.display()))?;
        let image = path.with_extension("img");
        let file = std::fs::File::create(&image).with_context(|| format!("creating {}", image.display()))?;
        file.set_len(mebibytes << 20)?;
        finish(Command::new("mkfs.ext4").args(["-q", "-m", "0"]).arg(&image))?;
        let janitor = Janitor::hire()?;
        janitor.later(&unmount(path))?;
        finish(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(path))?;
        user::give(path)?;
        // Else initdb finds a folder in what is to be empty.
        std::fs::remove_dir(path.join("lost+found")).context("removing lost+found")?;
        Ok(Some(Volume { path: path.to_owned(), size: mebibytes << 20, _janitor: janitor }))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whoever writes to it, or asks that something be written, waits until [`Volume::thaw`], and cannot be killed meanwhile.
    pub fn freeze(&self) -> Result<()> {
        run("fsfreeze", &["-f", &self.path.display().to_string()]).map(drop)
    }

    pub fn thaw(&self) -> Result<()> {
        run("fsfreeze", &["-u", &self.path.display().to_string()]).map(drop)
    }

    /// Takes all space that is left, until the result is dropped.
    pub fn fill(&self) -> Result<Ballast> {
        Ballast::fill(&self.path, self.size)
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        // The dead cannot leave while it is frozen.
        let _ = self.thaw();
        faults::end_all(|| faults::processes_of(&self.path));
    }
}

/// The line that takes a mount away whatever state it is in: thawed, then lazily, since a process in another namespace may
/// still hold it.
fn unmount(path: &Path) -> String {
    let word = quoted(&path.display().to_string());
    format!("fsfreeze -u {word} 2>/dev/null; umount {word} 2>/dev/null || umount -l {word} 2>/dev/null")
}

/// Makes a folder a mount of its own that shares what is mounted in it later with the hosts of a lab that is built
/// afterwards. Undone when the result is dropped.
pub fn share(path: &Path) -> Result<Janitor> {
    let janitor = Janitor::hire()?;
    let word = path.display().to_string();
    janitor.later(&format!("umount -l {} 2>/dev/null", quoted(&word)))?;
    run("mount", &["--bind", &word, &word])?;
    run("mount", &["--make-shared", &word])?;
    Ok(janitor)
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::time::Duration;

    use super::*;
    use crate::dir::TestDir;
    use crate::process::eventually;

    #[test]
    fn a_volume_fills_freezes_and_goes() {
        let dir = TestDir::new("volume");
        let Some(volume) = Volume::mount(&dir.join("disk"), 16).unwrap() else { return };
        let file = volume.path().join("file");
        let ballast = volume.fill().unwrap();
        assert_eq!(std::fs::write(&file, vec![1; 65536]).unwrap_err().kind(), ErrorKind::StorageFull);
        drop(ballast);
        std::fs::write(&file, vec![1; 65536]).unwrap();
        user::give(&file).unwrap();

        volume.freeze().unwrap();
        let script = "echo more >>file; echo done >../done";
        let mut writer = user::command("/bin/sh").args(["-c", script]).current_dir(volume.path()).spawn().unwrap();
        let pid = i32::try_from(writer.id()).unwrap();
        let state = || faults::Process::read(pid).map(|process| process.state);
        eventually("the writer hangs in the kernel", Duration::from_secs(30), || state() == Some('D'));
        faults::kill(&[pid]);
        volume.thaw().unwrap();
        assert!(!writer.wait().unwrap().success());

        let path = volume.path().to_owned();
        drop(volume);
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        assert!(!mounts.contains(&path.display().to_string()), "{mounts}");
    }
}
