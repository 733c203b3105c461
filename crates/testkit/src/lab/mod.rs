//! Hosts made of namespaces: several on one bridge, each with a network, a host name, a machine identity and a control
//! group of its own, so that a whole host can be cut off, frozen or lose its power.
//!
//! Owns: the bridge and its addresses ([`Lab`]), a host and what runs on it ([`node`]), who can hear whom ([`net`]), the
//! control group that freezes and kills all of a host at one moment ([`cgroup`]).
//! Must not: touch the machine's own interfaces, rules or clock. Every command that changes a network runs inside a
//! namespace that was checked not to be the caller's.
//! Start at [`Lab::build`].

pub mod cgroup;
pub mod net;
pub mod node;

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::janitor::Janitor;
pub use net::{Cut, Silence};
pub use node::{Clock, Node};

/// Labs that may exist at the same time on one machine: one subnet each.
const LABS: u8 = 250;

/// A bridge with hosts on it. The caller's own namespace has the first address of the subnet, and is the place of clients.
/// Everything goes when it is dropped, or when the test process dies.
#[derive(Debug)]
pub struct Lab {
    number: u8,
    hosts: u8,
    janitor: Janitor,
    _lock: File,
}

impl Lab {
    /// Makes the bridge. `Ok(None)`, and a line that says why, when this machine does not let us: that takes root.
    pub fn build() -> Result<Option<Lab>> {
        if !rustix::process::geteuid().is_root() {
            crate::skipped("network namespaces and mounts need root");
            return Ok(None);
        }
        for (program, package) in [("ip", "iproute2"), ("nft", "nftables"), ("nsenter", "util-linux")] {
            if !on_path(program) {
                crate::skipped(format!(
                    "{program} is not installed (Debian: {package}); scripts/install-deps --test installs it"
                ));
                return Ok(None);
            }
        }
        let (number, lock) = reserve().context("no free subnet for a lab between 10.213.1 and 10.213.250")?;
        let janitor = Janitor::hire()?;
        let bridge = bridge(number);
        janitor.later(&format!("ip link delete {bridge} 2>/dev/null"))?;
        run("ip", &["link", "add", &bridge, "type", "bridge"])?;
        run("ip", &["address", "add", &format!("{}/24", address(number, 1)), "dev", &bridge])?;
        run("ip", &["link", "set", &bridge, "up"])?;
        Ok(Some(Lab { number, hosts: 0, janitor, _lock: lock }))
    }

    /// The address of the caller's side: of everything that does not run on a host of the lab.
    pub fn gateway(&self) -> String {
        address(self.number, 1)
    }

    /// An address of its network that no host has of its own.
    pub fn spare_address(&self) -> String {
        address(self.number, 200)
    }

    /// Adds a host. `clock` is how its boot and monotonic clocks differ from the machine's.
    pub fn host(&mut self, name: &str, clock: Clock) -> Result<Node> {
        self.hosts += 1;
        let place = node::Place {
            lab: self.number,
            host: self.hosts,
            bridge: bridge(self.number),
            address: address(self.number, 10 + self.hosts),
        };
        Node::raise(name, place, clock, &self.janitor).with_context(|| format!("making the host {name}"))
    }
}

fn bridge(number: u8) -> String {
    format!("mtlab{number}")
}

fn address(number: u8, host: u8) -> String {
    format!("10.213.{number}.{host}")
}

fn reserve() -> Option<(u8, File)> {
    (1..=LABS).find_map(|number| {
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).write(true).mode(0o666);
        let file = options.open(registry().join(format!("lab-{number}"))).ok()?;
        file.try_lock().ok()?;
        Some((number, file))
    })
}

fn registry() -> PathBuf {
    let dir = PathBuf::from("/tmp/matriarch-labs");
    let _ = std::fs::create_dir(&dir);
    dir
}

pub(crate) fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).exists())
}

/// Runs a program to its end.
pub(crate) fn run(program: &str, arguments: &[&str]) -> Result<String> {
    finish(Command::new(program).args(arguments))
}

pub(crate) fn finish(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("running {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
