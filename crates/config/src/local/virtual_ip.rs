//! The address that follows the primary: `virtual_ip`.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::address::Listen;
use crate::check::join;
use crate::problem::Problems;

/// An address that one host has at a time: the primary's.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct VirtualIp {
    /// The address.
    pub address: InterfaceAddress,
    /// The interface that it is added to.
    pub interface: String,
    /// Its label (IPv4 only), which begins with the interface's name and a colon.
    pub label: Option<String>,
}

/// An address as interfaces have it, with the length of its network's prefix: `10.0.0.5/24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct InterfaceAddress {
    /// The address; one that a single host can have.
    pub ip: IpAddr,
    /// Bits that all addresses of its network share.
    pub prefix: u8,
}

impl fmt::Display for InterfaceAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.ip, self.prefix)
    }
}

impl FromStr for InterfaceAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<InterfaceAddress, String> {
        let (ip, prefix) = text
            .split_once('/')
            .ok_or("the length of the network's prefix is missing, as in 10.0.0.5/24 or 2001:db8::5/64")?;
        let ip: IpAddr = ip.parse().map_err(|_| "what stands before '/' must be an IP address, not a name")?;
        let most = if ip.is_ipv4() { 32 } else { 128 };
        let digits = (1..=3).contains(&prefix.len()) && prefix.bytes().all(|byte| byte.is_ascii_digit());
        let prefix: Option<u8> = digits.then(|| prefix.parse().ok()).flatten();
        let prefix = prefix
            .filter(|prefix| (1..=most).contains(prefix))
            .ok_or_else(|| format!("what stands after '/' must be a number from 1 to {most}"))?;
        if shared(ip) {
            return Err("it must be an address that one host of the network can have".to_owned());
        }
        Ok(InterfaceAddress { ip, prefix })
    }
}

/// Not one host's, or not the network's.
fn shared(ip: IpAddr) -> bool {
    let special = match ip {
        IpAddr::V4(ip) => ip.is_broadcast() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local() || ip.to_ipv4_mapped().is_some() || ip == Ipv6Addr::LOCALHOST,
    };
    special || ip.is_unspecified() || ip.is_loopback() || ip.is_multicast()
}

impl TryFrom<String> for InterfaceAddress {
    type Error = String;

    fn try_from(text: String) -> Result<InterfaceAddress, String> {
        text.parse()
    }
}

/// The kernel keeps 16 bytes for a name, the last of them zero.
pub(super) fn interface_name(text: &str) -> Result<(), String> {
    let fits = |c: char| c.is_ascii_graphic() && !"/:".contains(c);
    if text.is_empty() || text.len() > 15 || text.starts_with('-') || !text.chars().all(fits) || text.starts_with('.') {
        return Err("it must be the name of an interface as `ip link` shows it: 1 to 15 characters".to_owned());
    }
    Ok(())
}

/// Within the section.
pub(crate) fn rule(virtual_ip: &Map<String, Value>, path: &str, problems: &mut Problems) {
    let text = |key: &str| virtual_ip.get(key).and_then(Value::as_str);
    let Some(label) = text("label") else { return };
    let path = join(path, "label");
    if text("address")
        .and_then(|text| text.parse::<InterfaceAddress>().ok())
        .is_some_and(|address| address.ip.is_ipv6())
    {
        problems.add(path, "addresses of IPv6 have no labels", "remove it");
    } else if let Some(interface) = text("interface") {
        let end = label.strip_prefix(interface).and_then(|rest| rest.strip_prefix(':'));
        if label.len() > 15 || end.is_none_or(str::is_empty) {
            let what = format!("it must begin with '{interface}:' and have at most 15 characters");
            problems.add(path, what, "change it, as in `label: eth0:pg`, or remove it");
        }
    }
}

/// With the other sections: somebody must answer on the address, and members must not be announced by it.
pub(super) fn whole(config: &Map<String, Value>, problems: &mut Problems) {
    let Some(virtual_ip) = config.get("virtual_ip").and_then(Value::as_object) else { return };
    let address = virtual_ip.get("address").and_then(Value::as_str);
    let Some(address) = address.and_then(|text| text.parse::<InterfaceAddress>().ok()) else { return };
    let of = |section: &str, key: &str| config.get(section)?.get(key)?.as_str();
    let listens = [("postgresql", "listen"), ("proxy", "read_write")];
    let pooler = || config.get("proxy")?.get("pooler")?.get("read_write")?.as_str();
    let listens = listens.iter().map(|(section, key)| of(section, key)).chain([pooler()]);
    let listens: Vec<Listen> = listens.filter_map(|text| text?.parse().ok()).collect();
    let every = if address.ip.is_ipv4() { ["*", "0.0.0.0"] } else { ["*", "::"] };
    if !listens.is_empty()
        && !listens.iter().any(|listen| listen.hosts.iter().any(|host| every.contains(&host.as_str())))
    {
        let ip = address.ip;
        problems.add(
            "postgresql.listen",
            format!("{ip} (virtual_ip.address) comes when this member leads, and PostgreSQL would not listen on it"),
            "write `listen: '*:5432'` and this host's own address in `connect_address`",
        );
    }
    for (section, key) in [("postgresql", "connect_address"), ("restapi", "connect_address"), ("restapi", "listen")] {
        let host = of(section, key).and_then(|text| text.parse::<Listen>().ok());
        if host.is_some_and(|listen| listen.hosts.iter().any(|host| host.parse() == Ok(address.ip))) {
            let what = "it is virtual_ip.address, which is another member's as soon as that leads";
            problems.add(format!("{section}.{key}"), what, "give this host's own address");
        }
    }
}
