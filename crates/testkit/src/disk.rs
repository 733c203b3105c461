//! Faults on files: a full disk, garbage, a small file system.

use std::fs::File;
use std::io::{ErrorKind, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use rand::rngs::SmallRng;
use rand::{Rng, RngCore, SeedableRng};

use crate::user;

/// A small memory file system mounted on a folder until dropped: a disk that can be filled without harm.
#[derive(Debug)]
pub struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    /// Mounts `mebibytes` of tmpfs on `path` (created when missing) for the unprivileged user. `Ok(None)` when this
    /// machine does not let us mount: the test says so and skips.
    pub fn mount(path: &Path, mebibytes: u32) -> Result<Option<SmallDisk>> {
        std::fs::create_dir_all(path).with_context(|| format!("creating {}", path.display()))?;
        let owner = user::unprivileged()
            .unwrap_or(user::User { uid: rustix::process::getuid().as_raw(), gid: rustix::process::getgid().as_raw() });
        let options = format!("size={mebibytes}m,mode=0755,uid={},gid={}", owner.uid, owner.gid);
        let output = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(path).output()?;
        if !output.status.success() {
            crate::skipped(format!("cannot mount here: {}", String::from_utf8_lossy(&output.stderr).trim()));
            return Ok(None);
        }
        Ok(Some(SmallDisk { path: path.to_owned() }))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        crate::faults::end_all(|| crate::faults::processes_of(&self.path));
        // Lazily: a file that some process still has open must not keep the mount for ever.
        let _ = Command::new("umount").arg("-l").arg(&self.path).status();
    }
}

/// A file that takes all free space of its file system until dropped.
#[derive(Debug)]
pub struct Ballast {
    path: PathBuf,
}

impl Ballast {
    /// Fills the file system of `dir`.
    ///
    /// # Errors
    /// When it has more than `limit` bytes free, so that a wrong path cannot fill the machine's own disk.
    pub fn fill(dir: &Path, limit: u64) -> Result<Ballast> {
        let (ballast, mut file, _) = Ballast::begin(dir, limit)?;
        // Large pieces first, then single bytes' worth, so that not even a small write fits.
        for size in [1 << 20, 4096, 512] {
            loop {
                match file.write(&vec![0_u8; size]) {
                    Ok(_) => {}
                    Err(error) if matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => break,
                    Err(error) => return Err(error).context("filling the disk"),
                }
            }
        }
        Ok(ballast)
    }

    /// Takes all space but so many bytes.
    ///
    /// # Errors
    /// As [`Ballast::fill`].
    pub fn leave(dir: &Path, bytes: u64, limit: u64) -> Result<Ballast> {
        let (ballast, file, free) = Ballast::begin(dir, limit)?;
        let taken = free.saturating_sub(bytes);
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, taken).context("filling the disk")?;
        Ok(ballast)
    }

    /// The file, and the bytes that are free.
    fn begin(dir: &Path, limit: u64) -> Result<(Ballast, File, u64)> {
        let space = rustix::fs::statvfs(dir).with_context(|| format!("asking the free space of {}", dir.display()))?;
        let free = space.f_bfree * space.f_frsize;
        if free > limit {
            bail!("{} has {free} bytes free, more than the {limit} that may be filled", dir.display());
        }
        let path = dir.join("ballast");
        let file = File::create(&path).with_context(|| format!("creating {}", path.display()))?;
        Ok((Ballast { path }, file, free))
    }
}

impl Drop for Ballast {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Overwrites pieces of every regular file below `dir` with bytes drawn from `seed`, in place: sizes, names and owners
/// stay. Returns how many files were hit. `keep` names files (by their name) that stay whole.
pub fn scribble(dir: &Path, seed: u64, keep: &[&str]) -> Result<usize> {
    let mut random = SmallRng::seed_from_u64(seed);
    let mut files = Vec::new();
    collect_files(dir, &mut files)?;
    files.sort();
    files.retain(|path| !path.file_name().is_some_and(|name| keep.iter().any(|kept| name == *kept)));
    for path in &files {
        scribble_file(path, &mut random).with_context(|| format!("scribbling over {}", path.display()))?;
    }
    Ok(files.len())
}

fn scribble_file(path: &Path, random: &mut SmallRng) -> Result<()> {
    let length = std::fs::metadata(path)?.len();
    let mut file = File::options().write(true).open(path)?;
    for _ in 0..4 {
        let mut garbage = vec![0_u8; usize::try_from(length.min(4096)).expect("at most 4096")];
        random.fill_bytes(&mut garbage);
        file.seek(SeekFrom::Start(random.random_range(0..=length - garbage.len() as u64)))?;
        file.write_all(&garbage)?;
    }
    Ok(())
}

fn collect_files(dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            collect_files(&entry.path(), files)?;
        } else if kind.is_file() {
            files.push(entry.path());
        }
    }
    Ok(())
}

/// Bytes that are no protocol's greeting, for throwing at ports.
pub fn garbage(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    SmallRng::seed_from_u64(seed).fill_bytes(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dir::TestDir;

    #[test]
    fn scribbling_changes_contents_and_not_sizes() {
        let dir = TestDir::new("scribble");
        let inner = dir.create("inner");
        std::fs::write(inner.join("a"), vec![7; 10_000]).unwrap();
        std::fs::write(inner.join("kept"), "whole").unwrap();
        std::fs::write(dir.join("empty"), "").unwrap();
        assert_eq!(scribble(dir.path(), 1, &["kept"]).unwrap(), 2);
        let after = std::fs::read(inner.join("a")).unwrap();
        assert!(after.len() == 10_000 && after.iter().any(|byte| *byte != 7));
        assert_eq!(std::fs::read_to_string(inner.join("kept")).unwrap(), "whole");
    }

    #[test]
    fn a_full_disk_takes_nothing_and_is_free_again() {
        let dir = TestDir::new("disk");
        let Some(disk) = SmallDisk::mount(&dir.join("small"), 4).unwrap() else { return };
        let ballast = Ballast::fill(disk.path(), 8 << 20).unwrap();
        let error = std::fs::write(disk.path().join("x"), vec![0; 8192]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::StorageFull);
        drop(ballast);
        std::fs::write(disk.path().join("x"), vec![0; 8192]).unwrap();
        assert!(Ballast::fill(Path::new("/"), 1).is_err(), "a limit protects the machine");
    }
}
