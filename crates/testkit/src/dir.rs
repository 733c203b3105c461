//! A folder for one test: everything the test starts lives in it, and ends with it.

use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::{faults, story, user};

/// A temporary folder that the unprivileged user owns and can reach.
///
/// When dropped it ends every process that lives in it ([`faults::processes_of`]) and removes itself. If the test is
/// panicking, it tells what the `*.log` files say ([`story`]) and keeps them. `MATRIARCH_KEEP=1` keeps all files.
#[derive(Debug)]
pub struct TestDir {
    path: PathBuf,
}

impl TestDir {
    /// Creates `/tmp/matriarch-<name>-<random>` (or the same below `TMPDIR`).
    ///
    /// # Panics
    /// When it cannot be created.
    pub fn new(name: &str) -> TestDir {
        let path = tempfile::Builder::new()
            .prefix(&format!("matriarch-{name}-"))
            .tempdir()
            .expect("the folder for temporary files is writable")
            .keep();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("we own the folder");
        user::give(&path).expect("root may give its folder away");
        TestDir { path }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of something in the folder; nothing is created.
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(name)
    }

    /// Creates a folder inside, owned by the unprivileged user.
    ///
    /// # Panics
    /// When it cannot be created.
    pub fn create(&self, name: impl AsRef<Path>) -> PathBuf {
        let path = self.path.join(name);
        std::fs::create_dir_all(&path).expect("a folder can be created in our own");
        user::give(&path).expect("root may give its folder away");
        path
    }

    fn show_logs(&self) {
        eprintln!("{}", story::of(&self.path));
        match story::keep(&self.path) {
            Ok(kept) => eprintln!("all logs are in {}", kept.display()),
            Err(error) => eprintln!("the logs could not be kept: {error}"),
        }
    }
}

impl Drop for TestDir {
    fn drop(&mut self) {
        faults::end_all(|| faults::processes_of(&self.path));
        if std::thread::panicking() {
            self.show_logs();
        }
        if std::env::var_os("MATRIARCH_KEEP").is_some() {
            eprintln!("kept: {}", self.path.display());
        } else if let Err(error) = std::fs::remove_dir_all(&self.path) {
            eprintln!("could not remove {}: {error}", self.path.display());
        }
    }
}

/// The last `limit` bytes of a file as text; an unreadable file says so.
pub fn tail(path: &Path, limit: u64) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = std::fs::File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(limit)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    read().unwrap_or_else(|error| format!("(unreadable: {error})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_what_lives_inside_and_removes_itself() {
        let dir = TestDir::new("dir");
        let path = dir.path().to_owned();
        let mut sleeper = user::command("/bin/sleep").arg("600").current_dir(&path).spawn().unwrap();
        drop(dir);
        let status = sleeper.wait().unwrap();
        assert!(!status.success(), "the sleeper was killed");
        assert!(!path.exists());
    }
}
