//! Who may be routed to, and what a running session depends on.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::config::ProxyConfig;
use crate::spread::Spread;

/// One PostgreSQL instance that sessions can be sent to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backend {
    /// Member name, unique within the cluster.
    pub name: String,
    /// `host:port`, where the host may be a name, an IPv4 or a bracketed IPv6 address.
    pub tcp: String,
    /// Full path of `.s.PGSQL.<port>`; set only when the member is local and its `local` authentication
    /// rules are as strict as those for TCP.
    pub unix_socket: Option<PathBuf>,
    /// How far a replica is behind the primary, in bytes of WAL; `None` when unknown.
    pub lag_bytes: Option<u64>,
    /// Whether the member answers SSLRequest with yes.
    pub tls: bool,
}

/// A snapshot of the cluster as the proxy needs it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Routes {
    /// Epoch of the leader. Together with the primary's name it identifies a reign.
    pub generation: u64,
    /// The promoted, writable member, if there is one.
    pub primary: Option<Backend>,
    /// Members that follow the primary.
    pub replicas: Vec<Backend>,
    /// A planned switchover is under way: running sessions go on, new ones on the read-write port wait.
    pub hold: bool,
    /// Why these may be out of date, or are missing; for those who wait in vain.
    pub problem: Option<String>,
}

/// The two kinds of listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Port {
    /// Sessions reach the primary.
    ReadWrite,
    /// Sessions reach replicas.
    ReadOnly,
}

impl Port {
    /// What this port looks for, as a noun for messages.
    pub(crate) fn wants(self) -> &'static str {
        match self {
            Port::ReadWrite => "primary",
            Port::ReadOnly => "replica",
        }
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Port::ReadWrite => "read-write",
            Port::ReadOnly => "read-only",
        })
    }
}

/// The route a session was opened under; the session lives as long as it holds.
#[derive(Debug, Clone)]
pub(crate) struct Binding {
    pub port: Port,
    pub backend: Arc<Backend>,
    /// The reign, when the member serves as primary; `None` when it serves as a replica.
    pub reign: Option<u64>,
}

impl Binding {
    /// Whether a session under this route may go on, and whether it shall end by itself between two statements: its
    /// primary is about to stop, and a statement under way then would be cut off.
    pub fn stands(&self, routes: &Routes) -> (bool, bool) {
        (self.holds(routes), routes.hold && self.reign.is_some())
    }

    /// Whether a session under this route may go on.
    pub fn holds(&self, routes: &Routes) -> bool {
        let is_primary = routes.primary.as_ref().is_some_and(|p| p.name == self.backend.name);
        match self.reign {
            Some(generation) => is_primary && routes.generation == generation,
            None => !is_primary && routes.replicas.iter().any(|r| r.name == self.backend.name),
        }
    }
}

/// Chooses the member for a new session, leaving out those named in `failed`.
///
/// Read-only sessions go to the replica within the lag limit that has the fewest of them; a replica of
/// unknown lag is used only when no other is within the limit.
pub(crate) fn choose(
    routes: &Routes,
    port: Port,
    failed: &[String],
    config: &ProxyConfig,
    spread: &Spread,
) -> Option<Binding> {
    match port {
        Port::ReadWrite => primary(routes, port, failed),
        Port::ReadOnly => replica(routes, failed, config, spread)
            .or_else(|| config.read_only_falls_back_to_primary.then(|| primary(routes, port, failed)).flatten()),
    }
}

fn primary(routes: &Routes, port: Port, failed: &[String]) -> Option<Binding> {
    let backend = routes.primary.as_ref().filter(|p| !routes.hold && !failed.contains(&p.name))?;
    Some(Binding { port, backend: Arc::new(backend.clone()), reign: Some(routes.generation) })
}

fn replica(routes: &Routes, failed: &[String], config: &ProxyConfig, spread: &Spread) -> Option<Binding> {
    let primary = routes.primary.as_ref().map(|p| p.name.as_str());
    let usable = || {
        routes.replicas.iter().filter(|r| Some(r.name.as_str()) != primary && !failed.contains(&r.name)).filter(|r| {
            match (r.lag_bytes, config.max_replica_lag_bytes) {
                (Some(lag), Some(limit)) => lag <= limit,
                _ => true,
            }
        })
    };
    let known = usable().any(|r| r.lag_bytes.is_some());
    let candidates = usable().filter(|r| !known || r.lag_bytes.is_some()).map(|r| r.name.as_str());
    let name = spread.least_used(candidates)?;
    let backend = routes.replicas.iter().find(|r| r.name == name)?;
    Some(Binding { port: Port::ReadOnly, backend: Arc::new(backend.clone()), reign: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backend(name: &str, lag: Option<u64>) -> Backend {
        Backend { name: name.into(), tcp: "127.0.0.1:1".into(), unix_socket: None, lag_bytes: lag, tls: false }
    }

    fn routes() -> Routes {
        Routes {
            generation: 7,
            primary: Some(backend("a", None)),
            replicas: vec![backend("b", Some(0)), backend("c", Some(10)), backend("d", None)],
            hold: false,
            problem: None,
        }
    }

    fn pick(routes: &Routes, port: Port, failed: &[&str], config: &ProxyConfig) -> Option<String> {
        let failed: Vec<String> = failed.iter().map(|s| s.to_string()).collect();
        choose(routes, port, &failed, config, &Spread::default()).map(|b| b.backend.name.clone())
    }

    #[test]
    fn read_write_wants_the_primary_and_waits_during_a_switchover() {
        let config = ProxyConfig::default();
        let mut r = routes();
        assert_eq!(pick(&r, Port::ReadWrite, &[], &config).as_deref(), Some("a"));
        assert_eq!(pick(&r, Port::ReadWrite, &["a"], &config), None);
        r.hold = true;
        assert_eq!(pick(&r, Port::ReadWrite, &[], &config), None);
        assert!(pick(&r, Port::ReadOnly, &[], &config).is_some());
    }

    #[test]
    fn read_only_heeds_lag_and_falls_back_only_when_told() {
        let mut config = ProxyConfig { max_replica_lag_bytes: Some(5), ..ProxyConfig::default() };
        let r = routes();
        assert_eq!(pick(&r, Port::ReadOnly, &[], &config).as_deref(), Some("b"));
        assert_eq!(pick(&r, Port::ReadOnly, &["b"], &config).as_deref(), Some("d"));
        assert_eq!(pick(&r, Port::ReadOnly, &["b", "d"], &config), None);
        config.read_only_falls_back_to_primary = true;
        assert_eq!(pick(&r, Port::ReadOnly, &["b", "d"], &config).as_deref(), Some("a"));
    }

    #[test]
    fn read_only_spreads() {
        let (config, spread, r) = (ProxyConfig::default(), Arc::new(Spread::default()), routes());
        let mut seats = Vec::new();
        for _ in 0..10 {
            let b = choose(&r, Port::ReadOnly, &[], &config, &spread).unwrap();
            seats.push(spread.take(&b.backend.name));
        }
        let on_b = seats.iter().filter(|s| s.name() == "b").count();
        assert_eq!((on_b, seats.len()), (5, 10));
    }

    #[test]
    fn a_session_ends_with_its_reign_or_role_but_not_with_lag() {
        let mut r = routes();
        let config = ProxyConfig::default();
        let spread = Spread::default();
        let rw = choose(&r, Port::ReadWrite, &[], &config, &spread).unwrap();
        let ro = choose(&r, Port::ReadOnly, &["b".into(), "d".into()], &config, &spread).unwrap();
        assert!(rw.holds(&r) && ro.holds(&r));
        r.hold = true;
        r.replicas[1].lag_bytes = Some(u64::MAX);
        assert!(rw.holds(&r) && ro.holds(&r));
        r.generation = 8;
        assert!(!rw.holds(&r) && ro.holds(&r));
        r.primary = None;
        assert!(!rw.holds(&r) && ro.holds(&r));
        r.primary = Some(backend("c", None));
        assert!(!ro.holds(&r), "a replica that became primary");
        r.primary = None;
        r.replicas.clear();
        assert!(!ro.holds(&r));
    }
}
