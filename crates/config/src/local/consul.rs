//! The section `consul`: what it becomes, and what must hold within it.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::keys::consul::{PORT, address, has_port, parse_url};
use crate::address::Address;
use crate::check::join;
use crate::problem::Problems;
use crate::secret::Secret;
use crate::units::as_seconds;

type Section = Map<String, Value>;

/// How Consul is reached, and what it is told.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Consul {
    /// Its agents; empty if `socket` is given.
    pub hosts: Vec<Address>,
    /// The Unix socket of its agent.
    pub socket: Option<PathBuf>,
    /// Whether `hosts` speak TLS.
    pub tls: bool,
    /// ACL token,
    pub token: Option<Secret>,
    /// or the file that holds it.
    pub token_file: Option<PathBuf>,
    /// Authorities that are trusted, if given.
    pub cacert: Option<PathBuf>,
    /// Client certificate.
    pub cert: Option<PathBuf>,
    /// Its key, if it is not in the same file.
    pub key: Option<PathBuf>,
    /// Datacenter.
    pub dc: Option<String>,
    /// Namespace (Enterprise).
    pub namespace: Option<String>,
    /// Admin partition (Enterprise).
    pub partition: Option<String>,
    /// Of the watch.
    pub consistency: ConsulConsistency,
    /// Health checks that end leases.
    pub checks: Vec<String>,
    /// Whether the member is a service in the catalogue.
    pub register_service: bool,
    /// Its further tags.
    pub service_tags: Vec<String>,
    /// How often it is checked.
    #[serde(with = "as_seconds")]
    pub service_check_interval: Duration,
    /// What its certificate is to say.
    pub service_check_tls_server_name: Option<String>,
}

/// How news of changes are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ConsulConsistency {
    /// Of the leader.
    Default,
    /// Of the leader, after a majority has confirmed it.
    Consistent,
    /// Of any server.
    Stale,
}

/// Where the agent is, how it is spoken to, and as whom.
pub(super) fn rule(consul: &Section, path: &str, problems: &mut Problems) {
    let given = |key: &&str| consul.get(*key).is_some_and(|value| !value.is_null());
    let text = |key: &str| consul.get(key).and_then(Value::as_str);
    let named: Vec<&str> = ["host", "hosts", "url", "socket"].into_iter().filter(|key| given(key)).collect();
    if let [first, second, ..] = named.as_slice() {
        problems.add(join(path, second), format!("`{first}` is given too"), "keep one of them");
    }
    if given(&"port") {
        if let Some(other) = ["hosts", "url", "socket"].into_iter().find(|key| given(key)) {
            problems.add(join(path, "port"), format!("`{other}` says where the agent is"), "remove it");
        } else if text("host").is_some_and(has_port) {
            problems.add(join(path, "port"), "`host` has a port too", "keep one of them");
        }
    }
    let by_url = text("url").and_then(|url| parse_url(url).ok()).map(|(_, tls)| if tls { "https" } else { "http" });
    let scheme = text("scheme");
    if let (Some(scheme), Some(by_url)) = (scheme, by_url)
        && scheme != by_url
    {
        problems.add(join(path, "scheme"), format!("the URL says {by_url}"), "make them the same");
    }
    if scheme == Some("https") && given(&"socket") {
        problems.add(join(path, "scheme"), "a socket is spoken to without TLS", "remove one of them");
    }
    let certificate = ["cacert", "cert", "key"].into_iter().find(|key| given(key));
    if let Some(certificate) = certificate.filter(|_| by_url.or(scheme).unwrap_or("http") == "http") {
        problems.add(
            join(path, certificate),
            "the agent is spoken to without TLS",
            "add `scheme: https`, or remove it",
        );
    }
    if given(&"key") && !given(&"cert") {
        problems.add(join(path, "key"), "there is no `cert`", "add the client certificate, or remove it");
    }
    if given(&"token") && given(&"token_file") {
        problems.add(join(path, "token_file"), "`token` is given too", "keep one of them");
    }
}

/// Makes one list of the ways to name the agent.
pub(super) fn normalize(consul: &mut Section) {
    let url = consul.remove("url").as_ref().and_then(Value::as_str).and_then(|url| parse_url(url).ok());
    let tls = url.as_ref().map_or(consul.get("scheme").is_some_and(|scheme| scheme == "https"), |(_, tls)| *tls);
    let port = consul.remove("port").as_ref().and_then(Value::as_u64).and_then(|port| u16::try_from(port).ok());
    let host = consul.remove("host").as_ref().and_then(Value::as_str).map(str::to_owned);
    let given = |key: &str| consul.get(key).is_some_and(|value| !value.is_null());
    let one = match (url, host) {
        (Some((address, _)), _) => Some(address),
        (None, None) if given("hosts") || given("socket") => None,
        (None, host) => {
            let host = host.unwrap_or_else(|| "127.0.0.1".to_owned());
            let text = if has_port(&host) { host } else { format!("{host}:{}", port.unwrap_or(PORT)) };
            address(&text).ok()
        }
    };
    if let Some(one) = one {
        consul.insert("hosts".to_owned(), Value::Array(vec![one.to_string().into()]));
    } else if !given("hosts") {
        consul.insert("hosts".to_owned(), Value::Array(Vec::new()));
    }
    consul.insert("tls".to_owned(), tls.into());
}
