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
    /// PgBouncer's settings, as the user gave them; none of those that are ours.
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
}
