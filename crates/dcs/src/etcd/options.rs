//! What a handle on etcd is given.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::endpoint::Servers;
use matriarch_tls::TlsFiles;

/// How etcd is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdOptions {
    /// Its servers.
    pub servers: Servers,
    /// Names the name servers that SRV records are asked of: the system's `/etc/resolv.conf`.
    pub resolv_conf: PathBuf,
    /// For those that speak TLS.
    pub tls: TlsFiles,
    /// Whom to log in as; nobody, or whom the client certificate names, when none.
    pub user: Option<User>,
    /// Limit for connecting to one server, until its process has answered.
    pub connect_timeout: Duration,
    /// Limit for one server to answer a question that can be asked again elsewhere.
    pub attempt_timeout: Duration,
    /// Limit for a whole call.
    pub request_timeout: Duration,
    /// How often a quiet connection is asked for a sign of life; a server that owes one for as long is left.
    pub heartbeat: Duration,
}

/// A user of etcd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Its name.
    pub name: String,
    /// Its password.
    pub password: Password,
}

/// A password, or the file that holds it, which is read at each login.
#[derive(Clone, PartialEq, Eq)]
pub enum Password {
    /// As it is.
    Text(String),
    /// In this file, less white space at its end.
    File(PathBuf),
}

impl EtcdOptions {
    /// The given servers without TLS, as nobody in particular.
    pub fn new(servers: Servers) -> EtcdOptions {
        EtcdOptions {
            servers,
            resolv_conf: "/etc/resolv.conf".into(),
            tls: TlsFiles::default(),
            user: None,
            connect_timeout: Duration::from_secs(1),
            attempt_timeout: Duration::from_secs(1),
            request_timeout: Duration::from_millis(2500),
            heartbeat: Duration::from_millis(1750),
        }
    }
}

impl Password {
    pub(crate) fn read(&self) -> Result<String, String> {
        match self {
            Self::Text(text) => Ok(text.clone()),
            Self::File(path) => std::fs::read_to_string(path)
                .map(|text| text.trim_end().to_owned())
                .map_err(|error| format!("the password file {} cannot be read: {error}", path.display())),
        }
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(_) => f.write_str("(hidden)"),
            Self::File(path) => path.fmt(f),
        }
    }
}
