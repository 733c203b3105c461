//! The server's log file: where this run began, its last lines, and what they mean.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::{OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use crate::files::{Context, FileError};
use crate::owner::Owner;
use crate::server_log::readable;

const TAIL_BYTES: u64 = 8 * 1024;
const TAIL_LINES: usize = 15;

/// A place in the log file.
#[derive(Clone, Debug)]
pub struct LogMark {
    path: PathBuf,
    from: u64,
}

impl LogMark {
    /// Opens the log for appending (made with mode 0600 and given to the owner if it is new) and marks its end.
    pub(crate) fn open(path: &Path, owner: Option<&Owner>) -> Result<(Self, File), FileError> {
        let mut options = OpenOptions::new();
        // The owner may be able to put a link here, which root must not follow.
        options.append(true).create(true).mode(0o600).custom_flags(OFlags::NOFOLLOW.bits() as i32);
        let file = options.open(path).doing("open the log", path)?;
        if let Some(owner) = owner {
            fchown(&file, Some(owner.uid), Some(owner.gid)).doing("change the owner of", path)?;
        }
        Ok((Self::at_end(path), file))
    }

    /// Marks the end of the log as it is now.
    pub fn at_end(path: &Path) -> Self {
        LogMark { path: path.to_owned(), from: std::fs::metadata(path).map_or(0, |found| found.len()) }
    }

    /// The last lines written since the mark; empty when there are none.
    pub fn tail(&self) -> String {
        self.read().unwrap_or_default()
    }

    fn read(&self) -> std::io::Result<String> {
        let mut file = File::open(&self.path)?;
        let length = file.metadata()?.len();
        // A log that was truncated meanwhile starts again.
        let from = if length < self.from { 0 } else { self.from };
        file.seek(SeekFrom::Start(from.max(length.saturating_sub(TAIL_BYTES))))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = text.lines().collect();
        Ok(readable(&lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")))
    }
}

/// Texts in the log and what to do about them.
const REMEDIES: [(&str, &str); 13] = [
    ("Address already in use", "the port is in use by another program; stop that or choose another port"),
    ("could not create any TCP/IP sockets", "no listen address can be used; check listen_addresses"),
    ("No space left on device", "the file system is full; free space on it"),
    ("pre-existing shared memory block", "processes of an earlier run are still there; end them"),
    ("lock file \"", "another server owns that lock file; stop it or choose another port or directory"),
    ("could not load server certificate", "the certificate cannot be used; check the file and who may read it"),
    ("private key file", "the private key cannot be used; it must belong to PostgreSQL's user with mode 0600"),
    ("has invalid permissions", "set the mode of the data directory to 0700"),
    ("has wrong ownership", "give the data directory to the user PostgreSQL runs as"),
    ("insufficient parameter settings", "a limit is lower than on the leader; raise it to the leader's value"),
    ("could not load matriarch_hba.conf", "a rule is wrong; see the line named below and correct pg_hba"),
    ("could not map anonymous shared memory", "not enough memory; lower shared_buffers or max_connections"),
    ("contains errors", "a setting is wrong; see the line named below and correct the cluster configuration"),
];

/// What the messages of a failed start say should be done, if it is one of the known ones.
pub fn explain_log(log: &str) -> Option<&'static str> {
    if log.contains("matriarch_hba.conf") && log.contains("could not load") {
        return Some("a rule is wrong; see the line named below and correct pg_hba");
    }
    REMEDIES.iter().find(|(text, _)| log.contains(text)).map(|(_, remedy)| *remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lines_of_this_run() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        std::fs::write(&path, "old\n").unwrap();
        let (mark, mut file) = LogMark::open(&path, None).unwrap();
        assert_eq!(mark.tail(), "");
        use std::io::Write;
        for line in 0..20 {
            writeln!(file, "line {line}").unwrap();
        }
        let tail = mark.tail();
        assert!(tail.starts_with("line 5\n") && tail.ends_with("line 19"), "{tail}");
    }

    #[test]
    fn known_messages_have_a_remedy() {
        let log = "LOG:  could not bind IPv4 address \"127.0.0.1\": Address already in use";
        assert!(explain_log(log).unwrap().contains("port"));
        assert_eq!(explain_log("FATAL: something new"), None);
    }
}
