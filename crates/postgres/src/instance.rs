//! What this crate must know about the instance it controls.

use std::fmt;
use std::path::{Path, PathBuf};

use matriarch_core::MemberName;

use crate::binaries::Binaries;
use crate::files::{self, FileError};
use crate::owner::Owner;
use crate::postmaster;

/// A PostgreSQL user and its password. `Debug` hides the password.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Role name.
    pub username: String,
    /// Password in clear text; it never goes on a command line.
    pub password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("username", &self.username).finish_non_exhaustive()
    }
}

/// One PostgreSQL instance on this host.
#[derive(Clone, Debug)]
pub struct Instance {
    /// The programs to run.
    pub binaries: Binaries,
    /// The data directory, absolute. It must not be a mount point: clones are renamed into its place.
    pub data_dir: PathBuf,
    /// A directory of mode 0700 for the socket and password files, absolute.
    pub run_dir: PathBuf,
    /// The TCP port, which also names the socket.
    pub port: u16,
    /// Addresses to listen on; none means only the socket.
    pub listen_addresses: Vec<String>,
    /// Who PostgreSQL runs as; `None` means ourselves.
    pub owner: Option<Owner>,
    /// The password file for streaming, if not in the run directory.
    pub passfile: Option<PathBuf>,
    /// The member that owns this instance.
    pub name: MemberName,
    /// The database superuser.
    pub superuser: Credentials,
    /// The user that replicas stream as.
    pub replication: Credentials,
    /// The user that pg_rewind connects as.
    pub rewind: Credentials,
    /// The user that poolers learn the roles' passwords as, if there is to be one.
    pub pooler: Option<Credentials>,
}

/// `sun_path` has 108 bytes with its terminator.
const SOCKET_PATH_MAX: usize = 107;

/// A run directory that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RunDirError {
    /// The socket's path would be longer than the system allows.
    #[error(
        "the socket {socket} would have {length} bytes in its path and the system allows {SOCKET_PATH_MAX}; \
         choose a shorter run directory", socket = socket.display()
    )]
    TooLong {
        /// The path.
        socket: PathBuf,
        /// Its length in bytes.
        length: usize,
    },
    /// It could not be made.
    #[error(transparent)]
    File(#[from] FileError),
}

impl Instance {
    /// The Unix socket that clients connect to, of a server that we have started.
    pub fn socket_path(&self) -> PathBuf {
        self.run_dir.join(self.socket_name())
    }

    /// Where the socket of the running server is: in [`Instance::run_dir`], unless another program has started that server.
    ///
    /// Does not touch the data directory for a server of ours, since its volume may hang.
    pub fn reached_in(&self) -> PathBuf {
        if self.socket_path().exists() {
            return self.run_dir.clone();
        }
        let elsewhere = postmaster::socket_dir(&self.data_dir).filter(|dir| dir.join(self.socket_name()).exists());
        elsewhere.unwrap_or_else(|| self.run_dir.clone())
    }

    pub(crate) fn socket_name(&self) -> String {
        format!(".s.PGSQL.{}", self.port)
    }

    /// The password file that `primary_conninfo` names.
    pub fn passfile(&self) -> PathBuf {
        self.passfile.clone().unwrap_or_else(|| self.run_dir.join("replication.pgpass"))
    }

    /// A file in the data directory.
    pub fn data(&self, name: &str) -> PathBuf {
        self.data_dir.join(name)
    }

    /// Makes the run directory (mode 0700, of the owner) and the password file for streaming.
    pub fn prepare_run_dir(&self) -> Result<(), RunDirError> {
        let socket = self.socket_path();
        let length = socket.as_os_str().len();
        if length > SOCKET_PATH_MAX {
            return Err(RunDirError::TooLong { socket, length });
        }
        files::make_dir(&self.run_dir, 0o700, self.owner.as_ref())?;
        files::write_atomic(&self.passfile(), pgpass(&self.replication).as_bytes(), 0o600, self.owner.as_ref())?;
        Ok(())
    }

    pub(crate) fn write_data(&self, name: &str, content: &[u8]) -> Result<bool, FileError> {
        self.write_in(&self.data_dir, name, content)
    }

    pub(crate) fn write_in(&self, dir: &Path, name: &str, content: &[u8]) -> Result<bool, FileError> {
        files::write_atomic(&dir.join(name), content, 0o600, self.owner.as_ref())
    }
}

/// One line of libpq's password file that fits any host, port and database.
fn pgpass(user: &Credentials) -> String {
    let escape = |text: &str| text.replace('\\', "\\\\").replace(':', "\\:");
    format!("*:*:*:{}:{}\n", escape(&user.username), escape(&user.password))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_stay_out_of_debug_and_are_escaped_in_files() {
        let user = Credentials { username: "re:pl".into(), password: r"a:b\c".into() };
        assert!(!format!("{user:?}").contains(r"a:b"), "{user:?}");
        assert_eq!(pgpass(&user), "*:*:*:re\\:pl:a\\:b\\\\c\n");
    }
}
