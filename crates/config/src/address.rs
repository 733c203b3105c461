//! Host and port, as people write them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// One host and port: `db1:5432`, `10.0.0.1:5432`, `[::1]:5432`. As a listen address the host may be `*`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Address {
    /// Name or number of the host, IPv6 without brackets.
    pub host: String,
    /// Port, never 0.
    pub port: u16,
}

/// Hosts to listen on and one port, as in `127.0.0.1,10.0.0.1:5432` (PostgreSQL's `listen_addresses` and `port`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Listen {
    /// At least one; `*` is every address.
    pub hosts: Vec<String>,
    /// Port, never 0.
    pub port: u16,
}

/// A PgBouncer that others run: `HOST:PORT`, or `HOST:PORT/DATABASE,…` when only some of its databases are meant.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct PoolerAddress {
    /// Where its console is.
    pub address: Address,
    /// The databases; all when there are none.
    pub databases: Vec<String>,
}

impl FromStr for PoolerAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (place, databases) = text.split_once('/').unwrap_or((text, ""));
        let address: Address = place.parse().map_err(|bad: BadAddress| {
            format!("'{text}' is no address of a PgBouncer ({}); write HOST:PORT or HOST:PORT/DATABASE", bad.why())
        })?;
        if address.is_wildcard() {
            return Err(format!(
                "'{text}' is no address of a PgBouncer: nobody can connect to a wildcard; name its host"
            ));
        }
        let databases = databases.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect();
        Ok(PoolerAddress { address, databases })
    }
}

impl TryFrom<String> for PoolerAddress {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// Text that is no address, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is not an address: {why}")]
pub struct BadAddress {
    text: String,
    why: &'static str,
}

impl BadAddress {
    /// The reason alone.
    pub fn why(&self) -> &'static str {
        self.why
    }
}

impl Address {
    /// The host stands for every address of this host (`*`, `0.0.0.0`, `::`), so nobody can connect *to* it.
    pub fn is_wildcard(&self) -> bool {
        is_wildcard(&self.host)
    }
}

impl Listen {
    /// The first listen address that others can use as it is: not a wildcard.
    pub fn reachable(&self) -> Option<Address> {
        let host = self.hosts.iter().find(|host| !is_wildcard(host))?;
        Some(Address { host: host.clone(), port: self.port })
    }

    /// A name under which this host itself reaches the port over TCP.
    pub fn local(&self) -> Address {
        let loopback = |host: &&String| ["127.0.0.1", "localhost", "::1"].contains(&host.as_str());
        let host = match self.hosts.iter().find(loopback) {
            Some(host) => host.clone(),
            None if self.hosts.iter().any(|host| host == "::") => "::1".to_owned(),
            None => self.reachable().map_or_else(|| "127.0.0.1".to_owned(), |address| address.host),
        };
        Address { host, port: self.port }
    }

    /// Socket addresses to bind: `*` is every IPv4 address, `localhost` is 127.0.0.1. Empty when a host is a name,
    /// which the checks of the local configuration have refused for the ports that Matriarch itself listens on.
    pub fn socket_addrs(&self) -> Vec<SocketAddr> {
        let addresses: Option<Vec<SocketAddr>> =
            self.hosts.iter().map(|host| Some(SocketAddr::new(number(host)?, self.port))).collect();
        addresses.unwrap_or_default()
    }

    /// The value of `listen_addresses`.
    pub fn listen_addresses(&self) -> String {
        self.hosts.join(",")
    }
}

fn number(host: &str) -> Option<IpAddr> {
    match host {
        "*" => Some(Ipv4Addr::UNSPECIFIED.into()),
        "localhost" => Some(Ipv4Addr::LOCALHOST.into()),
        other => other.parse().ok(),
    }
}

fn is_wildcard(host: &str) -> bool {
    ["*", "0.0.0.0", "::"].contains(&host)
}

/// The host part (brackets still on) and the port.
fn host_and_port(text: &str) -> Result<(&str, u16), &'static str> {
    let (host, port) = text.rsplit_once(':').ok_or("the port is missing, as in 127.0.0.1:5432")?;
    let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    let port = digits.then(|| port.parse::<u16>().ok()).flatten().filter(|port| *port != 0);
    Ok((host, port.ok_or("the port must be a number from 1 to 65535")?))
}

fn host(text: &str) -> Result<String, &'static str> {
    if let Some(inner) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return inner
            .parse::<std::net::Ipv6Addr>()
            .map(|_| inner.to_owned())
            .map_err(|_| "what stands in brackets must be an IPv6 address");
    }
    if text.is_empty() {
        return Err("the host is missing, as in 127.0.0.1:5432");
    }
    if text.contains(':') {
        return Err("an IPv6 address must stand in brackets, as in [::1]:5432");
    }
    let fits = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if text != "*" && (text.len() > 253 || !text.chars().all(fits) || text.starts_with('-')) {
        return Err("the host may have only letters, digits, '.', '_' and '-'");
    }
    Ok(text.to_owned())
}

impl FromStr for Address {
    type Err = BadAddress;

    fn from_str(text: &str) -> Result<Self, BadAddress> {
        let parse = || {
            let (name, port) = host_and_port(text)?;
            Ok(Address { host: host(name)?, port })
        };
        parse().map_err(|why| BadAddress { text: text.to_owned(), why })
    }
}

impl FromStr for Listen {
    type Err = BadAddress;

    fn from_str(text: &str) -> Result<Self, BadAddress> {
        let parse = || {
            let (names, port) = host_and_port(text)?;
            let hosts = names.split(',').map(|name| host(name.trim())).collect::<Result<_, _>>()?;
            Ok(Listen { hosts, port })
        };
        parse().map_err(|why| BadAddress { text: text.to_owned(), why })
    }
}

fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", bracketed(&self.host), self.port)
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hosts: Vec<String> = self.hosts.iter().map(|host| bracketed(host)).collect();
        write!(f, "{}:{}", hosts.join(","), self.port)
    }
}

macro_rules! as_text {
    ($type:ty) => {
        impl TryFrom<String> for $type {
            type Error = BadAddress;
            fn try_from(text: String) -> Result<Self, BadAddress> {
                text.parse()
            }
        }
        impl From<$type> for String {
            fn from(address: $type) -> String {
                address.to_string()
            }
        }
    };
}
as_text!(Address);
as_text!(Listen);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes_addresses() {
        for text in ["db1:5432", "10.0.0.1:1", "[::1]:65535", "*:5432", "a-b.example.com:80"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
            assert_eq!(text.parse::<Listen>().unwrap().to_string(), text);
        }
        let both: Listen = "127.0.0.1, [::1]:5432".parse().unwrap();
        assert_eq!(both.hosts, ["127.0.0.1", "::1"]);
        assert_eq!(both.to_string(), "127.0.0.1,[::1]:5432");
    }

    #[test]
    fn refuses_what_is_no_address() {
        for text in [
            "", ":", "a", "a:", ":1", "a:0", "a:65536", "a:+1", "::1:5432", "[::1:5", "[x]:5", "a b:5", "a:b:5", "-x:1",
        ] {
            assert!(text.parse::<Address>().is_err(), "{text:?} was accepted");
            assert!(text.parse::<Listen>().is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn addresses_of_poolers() {
        let read = |text: &str| text.parse::<PoolerAddress>();
        let plain = read("pool:6432").unwrap();
        assert_eq!((plain.address.to_string().as_str(), plain.databases.len()), ("pool:6432", 0));
        assert_eq!(read("[::1]:6432/a,b").unwrap().databases, ["a", "b"]);
        for wrong in ["pool", ":1", "pool:x", "pool:70000", "pool:/a"] {
            assert!(read(wrong).is_err_and(|error| error.contains("HOST:PORT")), "{wrong}");
        }
        assert!(read("*:6432").is_err_and(|error| error.contains("name its host")));
    }

    #[test]
    fn knows_what_others_can_reach() {
        let reachable = |text: &str| text.parse::<Listen>().unwrap().reachable().map(|a| a.to_string());
        assert_eq!(reachable("*:5432"), None);
        assert_eq!(reachable("0.0.0.0,10.0.0.1:5432").as_deref(), Some("10.0.0.1:5432"));
        let local = |text: &str| text.parse::<Listen>().unwrap().local().to_string();
        assert_eq!(local("*:5432"), "127.0.0.1:5432");
        assert_eq!(local("[::]:5432"), "[::1]:5432");
        assert_eq!(local("10.0.0.1,127.0.0.1:5432"), "127.0.0.1:5432");
        assert_eq!(local("10.0.0.1:5432"), "10.0.0.1:5432");
    }
}
