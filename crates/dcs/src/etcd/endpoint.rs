//! Where etcd's servers are: given as addresses, or found by SRV records each time somebody connects.

use std::fmt;
use std::path::Path;

use super::srv;

/// One server.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    /// Name or number of the host, IPv6 without brackets.
    pub host: String,
    /// Its client port.
    pub port: u16,
    /// Whether it speaks TLS.
    pub tls: bool,
}

/// How servers are found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Servers {
    /// These.
    Listed(Vec<Endpoint>),
    /// Those that the records `_etcd-client-ssl._tcp.<domain>` and `_etcd-client._tcp.<domain>` name.
    Srv {
        /// The domain.
        domain: String,
        /// Follows the service's name after a dash, for several etcd clusters in one domain.
        suffix: Option<String>,
    },
}

impl Endpoint {
    pub(super) fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.authority())
    }
}

impl fmt::Display for Servers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listed(endpoints) => {
                f.write_str(&endpoints.iter().map(Endpoint::authority).collect::<Vec<_>>().join(","))
            }
            Self::Srv { domain, suffix } => {
                write!(f, "srv:{domain}{}", suffix.as_ref().map(|suffix| format!("/{suffix}")).unwrap_or_default())
            }
        }
    }
}

impl Servers {
    /// The servers as they are known now, never empty.
    pub(super) async fn find(&self, resolv_conf: &Path) -> Result<Vec<Endpoint>, String> {
        let (domain, suffix) = match self {
            Self::Listed(endpoints) if endpoints.is_empty() => return Err("no server is named".to_owned()),
            Self::Listed(endpoints) => return Ok(endpoints.clone()),
            Self::Srv { domain, suffix } => (domain, suffix),
        };
        let suffix = suffix.as_ref().map(|suffix| format!("-{suffix}")).unwrap_or_default();
        let mut found = Vec::new();
        for (service, tls) in [("_etcd-client-ssl", true), ("_etcd-client", false)] {
            let name = format!("{service}{suffix}._tcp.{domain}");
            let records =
                srv::lookup(resolv_conf, &name).await.map_err(|error| format!("looking up {name}: {error}"))?;
            found.extend(records.into_iter().map(|record| Endpoint { host: record.target, port: record.port, tls }));
            // One of the two is what the cluster offers; TLS wins.
            if !found.is_empty() {
                return Ok(found);
            }
        }
        Err(format!(
            "the domain {domain} has no SRV records _etcd-client-ssl{suffix}._tcp or _etcd-client{suffix}._tcp"
        ))
    }
}
