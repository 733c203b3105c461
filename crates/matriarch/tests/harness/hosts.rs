//! A cluster on hosts of its own ([`matriarch_testkit::lab`]): an agent a host, as systemd would keep it, and a proxy on
//! another one, and a real etcd on three more. Clients, verbs and the observer are outside; the observer asks members through their Unix sockets, so that
//! it sees those that are cut off from everyone.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use matriarch_testkit::dir::TestDir;
use matriarch_testkit::faults::Process;
use matriarch_testkit::janitor::Janitor;
use matriarch_testkit::lab::{Clock, Lab, Node};
use matriarch_testkit::process::Running;
use matriarch_testkit::{etcd, postgres, user, volume};
use serde_json::{Value, json};

use super::slots::Slot;
use super::storage::{Disk, Disks};
use super::verb::{self, Outcome};
use super::{PATIENCE, Subject, health};

const POSTGRES: u16 = 5432;
const API: u16 = 8008;
const READ_WRITE: u16 = 5000;
/// etcd's ports.
const CLIENT: u16 = 2379;
const PEER: u16 = 2380;
/// Gives programs another wall clock (Debian: libfaketime); below a folder of `/usr/lib`.
const FAKETIME: &str = "faketime/libfaketimeMT.so.1";
const PASSWORD: &str = "secret";
const TOKEN: &str = "token";
/// Starts a program again until a file says that it is to stop, as a service manager does.
const KEEP: &str = r#"while [ ! -e "$0" ]; do "$@"; sleep 0.2; done"#;

/// Where the records are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Store {
    /// etcd on three hosts of its own: cuts and clocks reach it.
    Etcd,
    /// One file that all hosts see, whatever is cut between them.
    File,
}

const STORE_NODES: usize = 3;

/// Kinds of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

/// What to start.
#[derive(Debug)]
pub struct Plan {
    pub store: Store,
    pub name: &'static str,
    pub members: u8,
    pub bins: PathBuf,
    /// The cluster's configuration at its beginning (`bootstrap.dcs`).
    pub dynamic: Value,
    /// The clock of each member's host, in order; those not named have the machine's.
    pub clocks: Vec<Clock>,
    /// What the members' folders lie on.
    pub disks: Disks,
    /// An address of this kind follows the primary ([`Hosts::virtual_ip`]), and there is one more host for a client of it.
    pub virtual_ip: Option<Family>,
    /// It is started however many clusters run already.
    pub crowded: bool,
    /// What lets the wall clocks of the members' hosts be set ([`Hosts::set_wall_clock`]).
    pub wall_clocks: Option<PathBuf>,
}

impl Plan {
    /// Three members of the oldest PostgreSQL there is.
    pub fn new(name: &'static str) -> Plan {
        let bins = postgres::any().bins.clone();
        let (store, dynamic, disks) = (Store::Etcd, json!({}), Disks::Plain);
        Plan {
            store,
            name,
            members: 3,
            bins,
            dynamic,
            clocks: Vec::new(),
            disks,
            virtual_ip: None,
            crowded: false,
            wall_clocks: None,
        }
    }

    /// The newest PostgreSQL there is instead.
    pub fn newest(self) -> Plan {
        let newest = postgres::all_majors().last().unwrap_or_else(|| postgres::any());
        Plan { bins: newest.bins.clone(), ..self }
    }

    /// With wall clocks that can be set. `None`, and a line that says why, when that cannot be had here.
    pub fn with_wall_clocks(self) -> Option<Plan> {
        let folders = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten();
        let library = folders.map(|folder| folder.path().join(FAKETIME)).find(|path| path.exists());
        if library.is_none() {
            matriarch_testkit::skipped(format!(
                "no {FAKETIME} (Debian: libfaketime); scripts/install-deps --test installs it"
            ));
        }
        Some(Plan { wall_clocks: Some(library?), ..self })
    }

    /// Makes the hosts; nothing runs on them yet. `None` when this machine has no namespaces for us.
    pub fn prepare(self) -> Option<Hosts> {
        let lab = Lab::build().expect("a lab can be built")?;
        Some(Hosts::make(self, lab))
    }

    /// Starts it and waits until all is well.
    pub async fn start(self) -> Option<Hosts> {
        let mut hosts = self.prepare()?;
        hosts.start_all();
        health::well(&hosts, PATIENCE).await;
        Some(hosts)
    }
}

/// One member's host.
#[derive(Debug)]
pub struct Host {
    pub node: Node,
    /// Keeps the agent running while the host has power.
    keeper: Option<Running>,
}

/// A cluster with its hosts. Everything ends when it is dropped.
// The order counts: what runs ends before the files go.
#[derive(Debug)]
pub struct Hosts {
    hosts: Vec<Host>,
    router: Host,
    store_nodes: Vec<Host>,
    client: Option<Node>,
    disks: BTreeMap<String, Disk>,
    /// Lets the hosts see what is mounted after they were made.
    _shared: Option<Janitor>,
    sweeper: Option<Janitor>,
    dir: TestDir,
    lab: Lab,
    plan: Plan,
    _slot: Option<Slot>,
}

impl Hosts {
    fn make(plan: Plan, mut lab: Lab) -> Hosts {
        let slot = (!plan.crowded).then(Slot::take);
        let dir = TestDir::new(plan.name);
        for folder in ["etc", "log", "run", "store", "tmp"] {
            dir.create(folder);
        }
        let shared = (plan.disks != Disks::Plain).then(|| volume::share(dir.path()).expect("a mount can be shared"));
        let sweeper = plan.wall_clocks.as_ref().map(|_| Janitor::hire().expect("bash can be started"));
        let clock = |index: u8| plan.clocks.get(usize::from(index)).copied().unwrap_or_default();
        let hosts = (0..plan.members).map(|index| {
            let node = lab.host(&name_of(index), clock(index)).expect("a host can be made");
            dir.create(node.name());
            Host { node, keeper: None }
        });
        let hosts: Vec<Host> = hosts.collect();
        let disk = |host: &Host| {
            let name = host.node.name();
            (name.to_owned(), Disk::mount(plan.disks, &dir.join(name)))
        };
        let disks = hosts.iter().map(disk).collect();
        let router = Host { node: lab.host("router", Clock::default()).expect("a host can be made"), keeper: None };
        let nodes = if plan.store == Store::Etcd { 0..STORE_NODES } else { 0..0 };
        let nodes = nodes.map(|number| {
            let node = lab.host(&format!("s{}", number + 1), Clock::default()).expect("a host can be made");
            Host { node, keeper: None }
        });
        let store_nodes = nodes.collect();
        let client = plan.virtual_ip.map(|_| lab.host("client", Clock::default()).expect("a host can be made"));
        let hosts =
            Hosts { hosts, router, store_nodes, client, disks, _shared: shared, sweeper, dir, lab, plan, _slot: slot };
        for name in hosts.names().into_iter().chain(["router".to_owned()]) {
            hosts.set_wall_clock(&name, 0);
        }
        for name in hosts.names() {
            hosts.write_config(&name);
        }
        hosts
    }

    /// Starts the store, every agent and the proxy.
    pub fn start_all(&mut self) {
        for number in 0..self.store_nodes.len() {
            self.boot_store(number);
        }
        for name in self.names() {
            self.boot(&name);
        }
        let store = self.store();
        let address = format!("{}:{READ_WRITE}", self.router.node.address());
        let words = ["proxy", "--store", &store, "--scope", "main", "--read-write", &address, "--drain-timeout", "1"];
        let keeper = self.keep(&self.router.node, &words, &[]);
        self.router.keeper = Some(keeper);
    }

    /// Gives a host its network and its programs (back), as after a start of the machine.
    pub fn boot(&mut self, name: &str) {
        let config = self.config(name).display().to_string();
        self.node(name).heal().expect("the network can be had");
        let capabilities: &[&str] = if self.plan.virtual_ip.is_some() { &["net_admin", "net_raw"] } else { &[] };
        let keeper = self.keep(self.node(name), &["agent", "--config", &config], capabilities);
        let index = self.index(name);
        self.hosts[index].keeper = Some(keeper);
    }

    /// Starts the server of one store node, and connects its cable.
    pub fn boot_store(&mut self, number: usize) {
        let node = &self.store_nodes[number].node;
        node.heal().expect("the network can be had");
        let url = |node: &Node, port: u16| format!("http://{}:{port}", node.address());
        let peers = self.store_nodes.iter().map(|host| format!("{}={}", host.node.name(), url(&host.node, PEER)));
        let mut command = node.command("/bin/sh");
        command.arg("-c").arg(KEEP).arg(self.stop_file(node.name())).arg(&etcd::current().server);
        command.args(["--name", node.name(), "--initial-cluster", &peers.collect::<Vec<_>>().join(",")]);
        command.arg("--data-dir").arg(self.dir.join("store").join(node.name()));
        let (client, peer) = (url(node, CLIENT), url(node, PEER));
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--logger", "zap", "--log-level", "warn"]).current_dir("/");
        let keeper = Running::start(command, &self.log_file(node.name())).expect("a shell runs");
        self.store_nodes[number].keeper = Some(keeper);
    }

    /// Kills the server of one store node, for [`Hosts::boot_store`] to start again.
    pub fn kill_store(&mut self, number: usize) {
        self.store_nodes[number].node.kill().expect("it can be killed");
        self.store_nodes[number].keeper = None;
    }

    /// Deletes every record of the cluster from the store, as somebody who does not know what they are for.
    pub fn wipe_store(&self) {
        let mut etcdctl = Command::new(etcd::current().server.with_file_name("etcdctl"));
        etcdctl.args(["--dial-timeout=30s", "--command-timeout=60s"]);
        etcdctl.args(["del", "--prefix", "/service/main/", "--endpoints", &self.store_addresses().join(",")]);
        let output = etcdctl.output().expect("etcdctl runs");
        assert!(output.status.success(), "etcdctl: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Kills all that runs on a member's host, for [`Hosts::boot`] to start again. Its kernel lives.
    pub fn kill(&mut self, name: &str) {
        self.node(name).kill().expect("it can be killed");
        let index = self.index(name);
        self.hosts[index].keeper = None;
    }

    /// The hosts of the store; none when it is a file.
    pub fn store_nodes(&self) -> Vec<&Node> {
        self.store_nodes.iter().map(|host| &host.node).collect()
    }

    /// Every host.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.hosts.iter().chain([&self.router]).chain(&self.store_nodes).map(|host| &host.node)
    }

    fn keep(&self, node: &Node, words: &[&str], capabilities: &[&str]) -> Running {
        let mut command = node.command_with("/usr/bin/env", capabilities);
        if let Some(library) = &self.plan.wall_clocks {
            // Not before the user is the right one. Boot and monotonic clocks stay what they are, as with an administrator or
            // NTP that sets the time.
            let text = |path: &Path| path.display().to_string();
            command.arg(format!("LD_PRELOAD={}", text(library))).arg("FAKETIME_DONT_FAKE_MONOTONIC=1");
            command.args(["FAKETIME_NO_CACHE=1"]);
            command.arg(format!("FAKETIME_TIMESTAMP_FILE={}", text(&self.wall_clock(node.name()))));
        }
        command.args(["/bin/sh", "-c"]).arg(KEEP).arg(self.stop_file(node.name())).arg(verb::program()).args(words);
        command.env("TMPDIR", self.dir.join("tmp")).env_remove("MATRIARCH_STORE").current_dir("/");
        let running = Running::start(command, &self.log_file(node.name())).expect("a shell runs");
        if let Some(janitor) = &self.sweeper {
            // What the library leaves behind when its process is killed; the pid is the same through all of the above.
            let pid = running.pid();
            let line = format!("rm -f /dev/shm/sem.faketime_sem_{pid} /dev/shm/faketime_shm_{pid}");
            janitor.later(&line).expect("the janitor waits");
        }
        running
    }

    /// Sets the wall clock of a member's host so many seconds off the machine's.
    pub fn set_wall_clock(&self, name: &str, seconds: i64) {
        let path = self.wall_clock(name);
        // Whoever reads it meanwhile finds one or the other.
        let next = path.with_extension("next");
        std::fs::write(&next, format!("{seconds:+}\n")).expect("our own folder is writable");
        user::give(&next).expect("root may give its file away");
        std::fs::rename(&next, &path).expect("our own folder is writable");
    }

    fn wall_clock(&self, name: &str) -> PathBuf {
        self.dir.join("etc").join(format!("{name}.clock"))
    }

    /// SIGTERM to an agent that shall not be started again.
    pub fn stop_file(&self, name: &str) -> PathBuf {
        self.dir.join("etc").join(format!("{name}.stop"))
    }

    /// Takes the power of hosts: all their processes at one moment, their network, and what their disks had not written if
    /// they are such. `seed` chooses what that is.
    pub fn power_cut(&mut self, names: &[String], seed: u64) {
        for name in names {
            self.node(name).power_cut().expect("the power can be cut");
        }
        for name in names {
            let index = self.index(name);
            self.hosts[index].keeper = None;
            self.disk(name).power_cut(seed);
        }
    }

    /// The disk of a member's host.
    pub fn disk(&mut self, name: &str) -> &mut Disk {
        self.disks.get_mut(name).unwrap_or_else(|| panic!("no member {name}"))
    }

    /// What the disks are.
    pub fn disks(&self) -> Disks {
        self.plan.disks
    }

    /// A member's agent, while it runs.
    pub fn agent(&self, name: &str) -> Option<i32> {
        let all = self.node(name).processes().into_iter().filter_map(Process::read);
        let mut agents = all.filter(|process| process.arguments.get(1).is_some_and(|word| word == "agent"));
        agents.next().map(|process| process.pid)
    }

    /// The log of an agent, or of the `router`.
    pub fn log(&self, name: &str) -> String {
        matriarch_testkit::dir::tail(&self.log_file(name), u64::MAX)
    }

    fn log_file(&self, name: &str) -> PathBuf {
        self.dir.join("log").join(format!("{name}.log"))
    }

    /// What a member's PostgreSQL has logged.
    pub fn postgres_log(&self, name: &str) -> String {
        matriarch_testkit::dir::tail(&self.postgres_log_file(name), u64::MAX)
    }

    fn postgres_log_file(&self, name: &str) -> PathBuf {
        self.dir.join("log").join(format!("{name}-postgresql.log"))
    }

    fn index(&self, name: &str) -> usize {
        let known = self.hosts.iter().position(|host| host.node.name() == name);
        known.unwrap_or_else(|| panic!("no member {name}"))
    }

    /// The host of a member.
    pub fn node(&self, name: &str) -> &Node {
        &self.hosts[self.index(name)].node
    }

    /// The host of a client of the virtual address.
    pub fn client(&self) -> &Node {
        self.client.as_ref().expect("the plan has a virtual address")
    }

    /// The address that follows the primary.
    pub fn virtual_ip(&self) -> String {
        match self.plan.virtual_ip {
            Some(Family::V6) => "fd00:213::c8".to_owned(),
            _ => self.lab.spare_address(),
        }
    }

    /// How long a member may take to get well by itself: longer where clusters crowd the machine.
    pub fn patience(&self) -> Duration {
        if self.plan.crowded { 3 * PATIENCE } else { PATIENCE }
    }

    /// Where PostgreSQL's programs are.
    pub fn bins(&self) -> &Path {
        &self.plan.bins
    }

    /// The host of the proxy.
    pub fn router(&self) -> &Node {
        &self.router.node
    }

    /// The other members.
    pub fn others(&self, name: &str) -> Vec<String> {
        self.names().into_iter().filter(|other| other != name).collect()
    }

    /// A member's folder: its data directory is `data` in it.
    pub fn member(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    pub fn data(&self, name: &str) -> PathBuf {
        self.member(name).join("data")
    }

    pub fn dir(&self) -> &TestDir {
        &self.dir
    }

    fn store(&self) -> String {
        match self.plan.store {
            Store::File => format!("sqlite:{}", self.store_file().display()),
            Store::Etcd => format!("etcd:{}", self.store_addresses().join(",")),
        }
    }

    fn store_file(&self) -> PathBuf {
        self.dir.join("store/store.db")
    }

    fn store_addresses(&self) -> Vec<String> {
        self.store_nodes.iter().map(|host| format!("{}:{CLIENT}", host.node.address())).collect()
    }

    /// Whether members reach the store over their network, so that a cut can take it from them.
    pub fn store_by_network(&self) -> bool {
        self.plan.store == Store::Etcd
    }

    /// The configuration of a member's agent.
    pub fn config(&self, name: &str) -> PathBuf {
        self.dir.join("etc").join(format!("{name}.yaml"))
    }

    fn write_config(&self, name: &str) {
        let role = |name: &str| json!({"username": name, "password": PASSWORD});
        let address = self.node(name).address();
        let initdb = [json!({"encoding": "UTF8"}), json!("data-checksums")];
        let (engine, store) = match self.plan.store {
            Store::File => ("sqlite", json!({"path": self.store_file()})),
            Store::Etcd => ("etcd3", json!({"hosts": self.store_addresses()})),
        };
        let ip = self.virtual_ip();
        let (host, virtual_ip) = match self.plan.virtual_ip {
            Some(Family::V4) => {
                ("*", json!({"address": format!("{ip}/24"), "interface": "host0", "label": "host0:pg"}))
            }
            Some(Family::V6) => ("*", json!({"address": format!("{ip}/64"), "interface": "host0"})),
            None => (address, Value::Null),
        };
        let config = json!({
            "scope": "main",
            "virtual_ip": virtual_ip,
            "name": name,
            "log": {"postgresql": self.postgres_log_file(name)},
            "restapi": {"listen": format!("{address}:{API}"), "token": TOKEN},
            engine: store,
            "bootstrap": {"dcs": self.plan.dynamic, "initdb": initdb},
            "postgresql": {
                "listen": format!("{host}:{POSTGRES}"),
                "connect_address": format!("{address}:{POSTGRES}"),
                "data_dir": self.data(name),
                "run_dir": self.dir.join("run").join(name),
                "bin_dir": self.plan.bins,
                "authentication": {
                    "superuser": role("postgres"), "replication": role("replicator"), "rewind": role("rewinder"),
                },
            },
        });
        let path = self.config(name);
        std::fs::write(&path, config.to_string()).expect("our own folder is writable");
        user::give(&path).expect("root may give its file away");
    }

    /// Where a member's own SQL connections go: around every network.
    pub fn socket(&self, name: &str) -> String {
        dsn(&self.dir.join("run").join(name).display().to_string(), POSTGRES)
    }

    /// Runs one statement through the read-write port and gives back the first value.
    pub async fn ask(&self, statement: &str) -> anyhow::Result<String> {
        super::wire::ask(&self.writes(), statement).await
    }
}

fn name_of(index: u8) -> String {
    char::from(b'a' + index).to_string()
}

fn dsn(host: &str, port: u16) -> String {
    format!("host={host} port={port} user=postgres dbname=postgres password={PASSWORD}")
}

impl Subject for Hosts {
    fn names(&self) -> Vec<String> {
        self.hosts.iter().map(|host| host.node.name().to_owned()).collect()
    }

    fn writes(&self) -> String {
        dsn(self.router.node.address(), READ_WRITE)
    }

    fn direct(&self, name: &str) -> String {
        self.socket(name)
    }

    async fn verb(&self, arguments: &[&str]) -> Outcome {
        let store = self.store();
        let all: Vec<&str> =
            ["--store", &store, "--scope", "main"].into_iter().chain(arguments.iter().copied()).collect();
        verb::run(self.dir.path(), &self.dir.join("tmp"), &all, &[("MATRIARCH_TOKEN", TOKEN)]).await
    }
}
