//! The interface, through `ip` of iproute2. Also the guard's, so nothing here that blocks needs a runtime.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use matriarch_config::{InterfaceAddress, VirtualIp};
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::LinkAddr;

use super::privilege::handing_down;

/// Where `ip` is looked for: not on the PATH, since it runs with privileges.
const PROGRAMS: [&str; 5] = ["/usr/sbin/ip", "/sbin/ip", "/usr/bin/ip", "/bin/ip", "/run/current-system/sw/bin/ip"];
const LIMIT: Duration = Duration::from_secs(5);

/// An address and the interface that it comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub address: InterfaceAddress,
    pub interface: String,
    label: Option<String>,
}

impl Place {
    pub fn new(settings: &VirtualIp) -> Place {
        Place { address: settings.address, interface: settings.interface.clone(), label: settings.label.clone() }
    }

    /// Reads what [`Place`] is written as for the guard: `10.0.0.5/24 eth0`.
    pub fn parse(address: &str, interface: &str) -> Option<Place> {
        let fits = !interface.is_empty() && !interface.starts_with('-');
        let address = address.parse().ok().filter(|_| fits)?;
        Some(Place { address, interface: interface.to_owned(), label: None })
    }

    /// Whether this host has the address.
    pub fn is_here(&self) -> bool {
        addresses().any(|(name, address)| self.names(&name) && address == Some(self.address.ip))
    }

    /// The C library gives a labelled address the label as its interface's name.
    fn names(&self, name: &str) -> bool {
        name.strip_prefix(self.interface.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
    }

    /// The interface's own address on its network: Ethernet's.
    pub fn link(&self) -> anyhow::Result<LinkAddr> {
        let all = getifaddrs().context("the interfaces of this host cannot be listed")?;
        let links = all.filter(|found| found.interface_name == self.interface);
        let link = links.filter_map(|found| found.address?.as_link_addr().copied()).next();
        link.with_context(|| self.missing())
    }

    fn missing(&self) -> String {
        let mut known: Vec<String> = addresses().map(|(name, _)| name).filter(|name| !name.contains(':')).collect();
        known.sort();
        known.dedup();
        format!("virtual_ip.interface: this host has no interface {}; name one of {}", self.interface, known.join(", "))
    }

    /// Whether it can be done at all.
    pub async fn check(&self) -> anyhow::Result<()> {
        let program = program()?;
        self.link()?;
        // What it says without any privilege; it also shows that the program runs.
        self.run(&program, &["link", "show", "dev", &self.interface]).await.map(drop)
    }

    /// Adds the address; nothing happens when it is there.
    pub async fn add(&self) -> anyhow::Result<()> {
        let address = self.address.to_string();
        let mut words = vec!["address", "replace", &address, "dev", &self.interface];
        match (&self.label, self.address.ip) {
            (Some(label), _) => words.extend(["label", label]),
            // Usable at once, and never the sender of connections that begin here.
            (None, IpAddr::V6(_)) => words.extend(["nodad", "preferred_lft", "0"]),
            (None, IpAddr::V4(_)) => {}
        }
        let done = self.run(&program()?, &words).await;
        done.with_context(|| format!("{address} (virtual_ip) cannot be added to {}", self.interface)).map(drop)
    }

    /// Takes the address away.
    pub async fn remove(&self) -> anyhow::Result<()> {
        let done = self.run(&program()?, &self.removal().each_ref().map(String::as_str)).await;
        match done {
            Err(error) if self.is_here() => Err(error).with_context(|| {
                format!(
                    "{} (virtual_ip) cannot be taken off {}, and this member does not lead: clients may reach a host \
                     that is not the primary; take it away by hand: ip address del {} dev {}",
                    self.address, self.interface, self.address, self.interface
                )
            }),
            _ => Ok(()),
        }
    }

    fn removal(&self) -> [String; 5] {
        ["address", "del", &self.address.to_string(), "dev", &self.interface].map(ToOwned::to_owned)
    }

    /// Begins to take the address away, without a runtime.
    pub fn begin_removal(&self) -> anyhow::Result<Child> {
        let mut command = std::process::Command::new(program()?);
        command.args(self.removal()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(command.spawn()?)
    }

    async fn run(&self, program: &Path, words: &[&str]) -> anyhow::Result<Output> {
        let mut command = tokio::process::Command::new(program);
        command.args(words).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let what = || format!("`{} {}`", program.display(), words.join(" "));
        let child = handing_down(|| command.spawn()).with_context(what)?;
        let output = tokio::time::timeout(LIMIT, child.wait_with_output()).await;
        let output = output.with_context(|| format!("{} has not ended after {LIMIT:?}", what()))?.with_context(what)?;
        if !output.status.success() {
            bail!("{}: {}", what(), String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(output)
    }

    /// Another host has it, too.
    pub fn contested(&self, other: &str) -> String {
        format!(
            "{} (virtual_ip) is also answered for by {other} on {}: two hosts have it, and clients may reach either; find \
             the host with that hardware address (`ip link` shows it) and take the address from it, or choose another",
            self.address.ip, self.interface
        )
    }
}

fn addresses() -> impl Iterator<Item = (String, Option<IpAddr>)> {
    let all = getifaddrs().into_iter().flatten();
    all.map(|found| {
        let address = found.address.as_ref();
        let v4 = address.and_then(|address| Some(IpAddr::V4(address.as_sockaddr_in()?.ip())));
        let ip = v4.or_else(|| Some(IpAddr::V6(address?.as_sockaddr_in6()?.ip())));
        (found.interface_name, ip)
    })
}

fn program() -> anyhow::Result<PathBuf> {
    let found = PROGRAMS.iter().map(PathBuf::from).find(|path| path.is_file());
    found.with_context(|| {
        format!(
            "virtual_ip needs the program `ip`, which is in none of {}; install iproute2, or remove the section",
            PROGRAMS.join(", ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_found_and_what_is_not_there_is_named() {
        let place = |ip: [u8; 4], interface: &str| Place {
            address: InterfaceAddress { ip: ip.into(), prefix: 8 },
            interface: interface.to_owned(),
            label: None,
        };
        assert!(place([127, 0, 0, 1], "lo").is_here());
        assert!(!place([127, 0, 0, 1], "l").is_here());
        assert!(!place([192, 0, 2, 77], "lo").is_here());
        let error = place([10, 0, 0, 5], "nowhere0").link().unwrap_err().to_string();
        assert!(error.contains("no interface nowhere0") && error.contains("lo"), "{error}");
    }
}
