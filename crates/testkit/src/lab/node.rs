//! One host of a lab.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use super::cgroup::Cgroup;
use super::net::{Cut, DEVICE, Silence, ruleset};
use super::{finish, run};
use crate::janitor::Janitor;
use crate::user;

/// How a host's clocks differ from the machine's, in seconds: as a host that was booted earlier or later.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Clock {
    /// Added to the boot clock (`CLOCK_BOOTTIME`, `/proc/uptime`).
    pub boot: i64,
    /// Added to the monotonic clock.
    pub monotonic: i64,
}

/// Where a host stands.
#[derive(Debug)]
pub(super) struct Place {
    pub lab: u8,
    pub host: u8,
    pub bridge: String,
    pub address: String,
}

/// Joins the control group, then the namespaces, then becomes the program; the pid stays the same all along.
const ENTER: &str = r#"echo $$ >"$1" && shift && exec "$@""#;
/// Lives as long as our end of its pipe: holds the namespaces. Its identity differs from every other host's, else
/// programs on different hosts would take themselves for neighbours and use Unix sockets.
const HOLD: &str =
    r#"mount --bind "$1" /etc/machine-id && hostname "$2" && ip link set lo up && echo ready && exec cat >/dev/null"#;

/// A host: a network with one address, a name, a machine identity, a control group, and perhaps clocks of its own. The file
/// systems are the machine's.
#[derive(Debug)]
pub struct Node {
    name: String,
    place: Place,
    clocked: bool,
    holder: Child,
    /// The holder ends when this closes.
    _pipe: ChildStdin,
    _identity: tempfile::NamedTempFile,
    cgroup: Cgroup,
    cuts: RefCell<BTreeSet<Cut>>,
}

impl Node {
    pub(super) fn raise(name: &str, place: Place, clock: Clock, janitor: &Janitor) -> Result<Node> {
        let cgroup = Cgroup::create(&format!("matriarch-lab{}-{name}", place.lab), janitor)?;
        let mut identity = tempfile::NamedTempFile::new().context("a file for the machine's identity")?;
        writeln!(identity, "{:032x}", rand::random::<u128>())?;
        identity.as_file().set_permissions(std::fs::Permissions::from_mode(0o644))?;
        let clocked = clock != Clock::default();
        let mut unshare = Command::new("unshare");
        unshare.args(["--net", "--uts", "--mount", "--propagation", "slave"]);
        if clocked {
            unshare.arg("--time");
            unshare.args(["--boottime", &clock.boot.to_string(), "--monotonic", &clock.monotonic.to_string()]);
        }
        unshare.args(["--", "sh", "-c", HOLD, "sh"]).arg(identity.path()).arg(name);
        let mut holder = unshare.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("running unshare")?;
        let pipe = holder.stdin.take().context("it has a standard input")?;
        let mut said = String::new();
        BufReader::new(holder.stdout.take().context("it has a standard output")?).read_line(&mut said)?;
        ensure!(said == "ready\n", "its namespaces could not be made; the message is above");
        let node = Node {
            name: name.to_owned(),
            place,
            clocked,
            holder,
            _pipe: pipe,
            _identity: identity,
            cgroup,
            cuts: RefCell::default(),
        };
        node.check_apart()?;
        node.connect(janitor)?;
        Ok(node)
    }

    /// A rule or an address that lands in the machine's own network would harm others.
    fn check_apart(&self) -> Result<()> {
        for kind in ["net", "uts", "mnt"] {
            let ours = std::fs::read_link(format!("/proc/self/ns/{kind}"))?;
            let theirs = std::fs::read_link(format!("/proc/{}/ns/{kind}", self.holder.id()))?;
            ensure!(ours != theirs, "the host {} has no {kind} namespace of its own", self.name);
        }
        Ok(())
    }

    fn connect(&self, janitor: &Janitor) -> Result<()> {
        let Place { lab, host, bridge, address } = &self.place;
        let ours = format!("mtv{lab}-{host}");
        // It would go with the namespace, but only some time later, and the next lab takes the same name.
        janitor.later(&format!("ip link delete {ours} 2>/dev/null"))?;
        let pid = self.holder.id().to_string();
        run("ip", &["link", "add", &ours, "type", "veth", "peer", "name", DEVICE, "netns", &pid])?;
        run("ip", &["link", "set", &ours, "master", bridge, "up"])?;
        for line in [vec!["address", "add", &format!("{address}/24"), "dev", DEVICE], vec!["link", "set", DEVICE, "up"]]
        {
            finish(self.inside("ip").args(line))?;
        }
        Ok(())
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its address on the bridge.
    pub fn address(&self) -> &str {
        &self.place.address
    }

    /// A command in its namespaces, as root, outside its control group: for what the test itself does there.
    pub fn inside(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(self.entry()).arg("--").arg(program);
        command
    }

    /// A command that runs on this host as the unprivileged user: it is frozen and killed with the host.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        self.command_with(program, &[])
    }

    /// The same with capabilities, written as `setpriv` does (`net_admin`); they are ambient, as systemd gives them.
    pub fn command_with(&self, program: impl AsRef<Path>, capabilities: &[&str]) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", ENTER, "sh"]).arg(self.cgroup.entrance()).arg("nsenter").args(self.entry()).arg("--");
        if let Some(user) = user::unprivileged() {
            command.args(["setpriv", "--clear-groups"]);
            command.arg(format!("--reuid={}", user.uid)).arg(format!("--regid={}", user.gid));
            if !capabilities.is_empty() {
                let list = capabilities.iter().map(|name| format!("+{name}")).collect::<Vec<_>>().join(",");
                command.arg(format!("--inh-caps={list}")).arg(format!("--ambient-caps={list}"));
            }
        }
        command.arg(program.as_ref());
        command
    }

    fn entry(&self) -> Vec<String> {
        let space = |option: &str, file: &str| format!("--{option}=/proc/{}/ns/{file}", self.holder.id());
        let mut entry = vec![space("net", "net"), space("uts", "uts"), space("mount", "mnt")];
        if self.clocked {
            // `unshare` itself stays in the old time namespace, only its children would be in the new one.
            entry.push(space("time", "time_for_children"));
        }
        entry
    }

    /// Everything that runs on it.
    pub fn processes(&self) -> Vec<i32> {
        self.cgroup.processes()
    }

    /// Stops all of it at one moment. Its kernel goes on answering: connections stay open and can even be opened.
    pub fn freeze(&self) -> Result<()> {
        self.cgroup.freeze()
    }

    pub fn thaw(&self) -> Result<()> {
        self.cgroup.thaw()
    }

    /// Takes its power: everything is killed at one moment, and its network says nothing more, not even "refused" to those
    /// who were connected. [`Node::heal`] gives the network back.
    pub fn power_cut(&self) -> Result<()> {
        // First the network, else the kernel would close the connections of the dead with a reset.
        self.isolate(Silence::Dropped)?;
        finish(self.inside("ip").args(["link", "set", DEVICE, "down"]))?;
        self.cgroup.kill()
    }

    /// Kills all its processes; its kernel lives and resets their connections.
    pub fn kill(&self) -> Result<()> {
        self.cgroup.kill()
    }

    /// It receives nothing more from `address`. One way only: what it sends still goes out.
    pub fn deafen(&self, address: &str) -> Result<()> {
        self.add([Cut::From(address.to_owned())])
    }

    /// It neither hears `address` nor reaches it.
    pub fn cut(&self, address: &str, silence: Silence) -> Result<()> {
        match silence {
            Silence::Dropped => self.add([Cut::From(address.to_owned()), Cut::To(address.to_owned())]),
            Silence::Unreachable => self.add([Cut::From(address.to_owned()), Cut::Refused(address.to_owned())]),
        }
    }

    /// Nothing that it sends reaches `address`. One way only: it still hears.
    pub fn mute(&self, address: &str) -> Result<()> {
        self.add([Cut::To(address.to_owned())])
    }

    /// It hears nobody and reaches nobody.
    pub fn isolate(&self, silence: Silence) -> Result<()> {
        match silence {
            Silence::Dropped => self.add([Cut::FromAll, Cut::ToAll]),
            Silence::Unreachable => self.add([Cut::FromAll, Cut::AllRefused]),
        }
    }

    /// Takes all cuts back, and connects the cable.
    pub fn heal(&self) -> Result<()> {
        self.cuts.borrow_mut().clear();
        self.apply()?;
        finish(self.inside("ip").args(["link", "set", DEVICE, "up"])).map(drop)
    }

    fn add(&self, cuts: impl IntoIterator<Item = Cut>) -> Result<()> {
        self.cuts.borrow_mut().extend(cuts);
        self.apply()
    }

    fn apply(&self) -> Result<()> {
        let mut nft = self.inside("nft");
        let mut child =
            nft.args(["-f", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().context("running nft")?;
        let mut pipe = child.stdin.take().context("it has a standard input")?;
        pipe.write_all(ruleset(&self.cuts.borrow()).as_bytes())?;
        drop(pipe);
        let output = child.wait_with_output()?;
        if !output.status.success() {
            bail!("nft on {}: {}", self.name, String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.cgroup.kill();
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
