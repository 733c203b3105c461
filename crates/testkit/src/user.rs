//! The unprivileged user that PostgreSQL runs as when the tests run as root (PostgreSQL refuses root).

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

/// An account of this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
}

/// The account to run PostgreSQL as: `None` when the tests are not root, else `postgres`, else `nobody`.
pub fn unprivileged() -> Option<User> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    account(&passwd, "postgres").or_else(|| account(&passwd, "nobody")).or(Some(User { uid: 65534, gid: 65534 }))
}

fn account(passwd: &str, name: &str) -> Option<User> {
    passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        (fields.len() >= 4 && fields[0] == name)
            .then(|| Some(User { uid: fields[2].parse().ok()?, gid: fields[3].parse().ok()? }))
            .flatten()
    })
}

/// A command that runs as the unprivileged user when the caller is root, and as the caller otherwise.
pub fn command(program: impl AsRef<Path>) -> Command {
    let mut command = Command::new(program.as_ref());
    if let Some(user) = unprivileged() {
        command.uid(user.uid).gid(user.gid);
    }
    command
}

/// Gives one file or folder to the unprivileged user; nothing to do when the caller is not root.
pub fn give(path: &Path) -> Result<()> {
    if let Some(user) = unprivileged() {
        std::os::unix::fs::chown(path, Some(user.uid), Some(user.gid))
            .with_context(|| format!("giving {} to uid {}", path.display(), user.uid))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_account_table() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nbroken\npostgres:x:101:104::/var/lib/postgresql:/bin/bash\n";
        assert_eq!(account(passwd, "postgres"), Some(User { uid: 101, gid: 104 }));
        assert_eq!(account(passwd, "nobody"), None);
    }
}
