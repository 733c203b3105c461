//! PgBouncer's configuration file.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::SocketAddr;
use std::path::PathBuf;

use matriarch_postgres::Owner;

use crate::control::{Outlook, Server};
use crate::secrets::Secrets;

/// Role of PgBouncer's own console that we use; it exists in no database.
pub(crate) const ADMIN: &str = "matriarch_pooler_admin";

/// Settings that are ours, and what to do instead of giving them.
const OWNED: &[(&str, &str)] = &[
    ("listen_addr", "give the address that the pooler listens on"),
    ("listen_port", "give the address that the pooler listens on"),
    ("unix_socket_dir", "its socket is in the pooler's directory"),
    ("unix_socket_mode", "its socket is for Matriarch and local users of the pooler's directory"),
    ("auth_file", "give a file of your own as the pooler's auth file"),
    ("auth_user", "Matriarch keeps the passwords up to date itself"),
    ("auth_query", "Matriarch keeps the passwords up to date itself"),
    ("admin_users", "use stats_users for people who look; Matriarch's own user pauses and resumes"),
    ("logfile", "its log is pgbouncer.log in the pooler's directory"),
    ("pidfile", "it is in the pooler's directory"),
    ("user", "choose the system's user with the pooler's `user`"),
    ("conffile", "it is in the pooler's directory"),
    ("so_reuseport", "run a second pooler with a port of its own"),
    ("peer_id", "run a second pooler with a port of its own"),
];

/// What we set unless the user sets it. A failed connect is tried again at once: PgBouncer's 15 s would outlast every failover.
const DEFAULTS: &[(&str, &str)] = &[
    ("pool_mode", "transaction"),
    ("max_client_conn", "1000"),
    ("default_pool_size", "20"),
    ("server_login_retry", "0.1"),
    ("server_connect_timeout", "2"),
    ("server_tls_sslmode", "prefer"),
    ("query_wait_timeout", "120"),
    ("ignore_startup_parameters", "extra_float_digits,options"),
    ("log_connections", "0"),
    ("log_disconnections", "0"),
];

/// Whose sessions it pools.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Serves {
    /// The primary's.
    Primary,
    /// A replica's; the primary's while there is none.
    Replica,
}

/// A PgBouncer of our own.
#[derive(Clone, Debug)]
pub struct PoolerConfig {
    /// PgBouncer's program.
    pub program: PathBuf,
    /// Directory of its files; absolute.
    pub dir: PathBuf,
    /// Where clients reach it; all with the same port.
    pub listen: Vec<SocketAddr>,
    /// Whose sessions it pools.
    pub serves: Serves,
    /// PgBouncer's settings, as the user gave them; checked by [`check_setting`].
    pub settings: BTreeMap<String, String>,
    /// Where the roles' passwords come from.
    pub secrets: Secrets,
    /// The user it runs as, when we are root.
    pub owner: Option<Owner>,
}

impl PoolerConfig {
    pub(crate) fn port(&self) -> u16 {
        self.listen.first().map_or(0, SocketAddr::port)
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// PgBouncer's own Unix socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.file(&format!(".s.PGSQL.{}", self.port()))
    }

    /// Whom its sessions are sent to.
    pub(crate) fn target<'a>(&self, outlook: &'a Outlook) -> Option<&'a Server> {
        match self.serves {
            Serves::Primary => outlook.primary.as_ref(),
            // Each host's pooler takes the nearest; the order is the cluster's.
            Serves::Replica => {
                let near = outlook.replicas.iter().find(|replica| replica.socket.is_some());
                near.or(outlook.replicas.first()).or(outlook.primary.as_ref())
            }
        }
    }

    /// The configuration file.
    pub(crate) fn ini(&self, target: Option<&Server>, md5: bool) -> String {
        let auth_type = if md5 { "md5" } else { "scram-sha-256" };
        let addresses: Vec<String> = self.listen.iter().map(|address| address.ip().to_string()).collect();
        let own = [
            ("listen_addr", addresses.join(",")),
            ("listen_port", self.port().to_string()),
            ("unix_socket_dir", self.dir.display().to_string()),
            ("unix_socket_mode", "0700".to_owned()),
            ("auth_file", self.file("users.txt").display().to_string()),
            ("admin_users", ADMIN.to_owned()),
            ("pidfile", self.file("pgbouncer.pid").display().to_string()),
        ];
        let mut text = String::from("; Written by Matriarch: changes are overwritten.\n[databases]\n");
        let place = target.map_or_else(nowhere, |server| self.place(server));
        let line = |text: &mut String, name: &str, value: &str| {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{name} = {value}");
        };
        line(&mut text, "*", &place);
        text.push_str("\n[pgbouncer]\n");
        own.iter().for_each(|(name, value)| line(&mut text, name, value));
        let mut rest: BTreeMap<&str, &str> = DEFAULTS.iter().copied().collect();
        rest.insert("auth_type", auth_type);
        rest.extend(self.settings.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        rest.iter().for_each(|(name, value)| line(&mut text, name, value));
        text
    }

    fn place(&self, server: &Server) -> String {
        match self.usable_socket(server).and_then(|socket| socket.parent()) {
            Some(dir) => format!("host={} port={}", quote(&dir.display().to_string()), server.port),
            None => format!("host={} port={}", quote(&server.host), server.port),
        }
    }

    /// The server's socket, if PgBouncer's user can reach it.
    pub(crate) fn usable_socket<'a>(&self, server: &'a Server) -> Option<&'a PathBuf> {
        let socket = server.socket.as_ref()?;
        let Some(owner) = &self.owner else { return Some(socket) };
        matriarch_postgres::owner::check_reachable(socket, owner).is_ok().then_some(socket)
    }
}

/// Nobody listens there, and PgBouncer is paused while this holds.
fn nowhere() -> String {
    "host=127.0.0.1 port=1".to_owned()
}

fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// Checks a setting that a user gives.
///
/// # Errors
/// In words, with what to do instead.
pub fn check_setting(name: &str, value: &str) -> Result<(), String> {
    if let Some((_, instead)) = OWNED.iter().find(|(owned, _)| name.eq_ignore_ascii_case(owned)) {
        return Err(format!("PgBouncer's {name} belongs to Matriarch; {instead}"));
    }
    let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
    if name.is_empty() || !name.bytes().all(word) {
        return Err(format!("'{name}' is no name of a PgBouncer setting; write it as in `default_pool_size`"));
    }
    if value.contains(['\n', '\r', '\0']) {
        return Err(format!("the value of {name} must be one line"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> PoolerConfig {
        PoolerConfig {
            program: "/usr/sbin/pgbouncer".into(),
            dir: "/srv/p".into(),
            listen: vec!["127.0.0.1:6432".parse().expect("an address")],
            serves: Serves::Primary,
            settings: BTreeMap::from([("default_pool_size".to_owned(), "7".to_owned())]),
            secrets: Secrets::File("/srv/users".into()),
            owner: None,
        }
    }

    #[test]
    fn the_file_points_at_the_server_and_keeps_the_users_settings() {
        let mut server = Server { host: "10.0.0.1".into(), port: 5432, socket: None };
        let text = config().ini(Some(&server), false);
        assert!(text.contains("* = host='10.0.0.1' port=5432\n"), "{text}");
        assert!(text.contains("default_pool_size = 7\n") && !text.contains("default_pool_size = 20"), "{text}");
        assert!(
            text.contains("auth_file = /srv/p/users.txt\n") && text.contains("auth_type = scram-sha-256\n"),
            "{text}"
        );
        server.socket = Some("/run/o'hara/.s.PGSQL.5432".into());
        let text = config().ini(Some(&server), true);
        assert!(text.contains("* = host='/run/o''hara' port=5432\n") && text.contains("auth_type = md5\n"), "{text}");
    }

    #[test]
    fn owned_settings_are_refused_by_name() {
        let error = check_setting("auth_file", "/x").expect_err("it is ours");
        assert!(error.contains("auth_file belongs to Matriarch; give a file"), "{error}");
        assert!(check_setting("Pool Mode", "x").is_err() && check_setting("pool_mode", "a\nb").is_err());
        check_setting("client_tls_sslmode", "require").expect("it is the user's");
    }
}
