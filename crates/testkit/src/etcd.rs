//! Real etcd servers for tests: one or three, with TLS or users, killed, frozen, restored at will.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::built;
use crate::certificates::Authority;
use crate::dir::TestDir;
use crate::faults;
use crate::ports::Port;
use crate::process::Running;
use crate::user;

/// How long a server may take to answer, on a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(60);
/// A key of nobody.
const FILLER: &str = "/filler";

/// An installed etcd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installation {
    /// The server's program.
    pub server: PathBuf,
    /// As it names itself: `3.6.16`.
    pub version: String,
}

/// The current etcd that `scripts/build-server etcd` has built.
///
/// # Panics
/// When it has not been built; the message says how to.
pub fn current() -> &'static Installation {
    static FOUND: OnceLock<Installation> = OnceLock::new();
    FOUND.get_or_init(|| installation(&built::folder("etcd").join("etcd")).expect("what was built runs"))
}

/// The etcd of the distribution, if it is installed: an older one, as many clusters run it.
pub fn distribution() -> Option<&'static Installation> {
    static FOUND: OnceLock<Option<Installation>> = OnceLock::new();
    FOUND.get_or_init(|| installation(Path::new("/usr/bin/etcd"))).as_ref()
}

fn installation(server: &Path) -> Option<Installation> {
    let output = Command::new(server).arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = text.lines().next()?.strip_prefix("etcd Version: ")?.to_owned();
    Some(Installation { server: server.to_owned(), version })
}

/// What to start.
#[derive(Clone, Debug)]
pub struct Plan {
    installation: Installation,
    nodes: usize,
    tls: bool,
    arguments: Vec<String>,
}

impl Plan {
    /// One node without TLS.
    pub fn new(installation: &Installation) -> Plan {
        Plan { installation: installation.clone(), nodes: 1, tls: false, arguments: Vec::new() }
    }

    pub fn nodes(self, nodes: usize) -> Plan {
        Plan { nodes, ..self }
    }

    /// Clients need TLS and a certificate of the cluster's authority ([`EtcdCluster::authority`]).
    pub fn tls(self) -> Plan {
        Plan { tls: true, ..self }
    }

    /// One more argument for every server.
    pub fn argument(mut self, argument: &str) -> Plan {
        self.arguments.push(argument.to_owned());
        self
    }

    /// Starts it in `dir` and waits until it serves.
    pub fn start(self, dir: &TestDir) -> EtcdCluster {
        let name =
            (0..).map(|n| format!("etcd{n}")).find(|name| !dir.join(name).exists()).expect("there are many numbers");
        let home = dir.create(name);
        let authority = self.tls.then(|| Authority::new(&home));
        if let Some(authority) = &authority {
            authority.issue("server", Duration::from_secs(86_400));
            authority.issue("client", Duration::from_secs(86_400));
        }
        let ports = || (0..self.nodes).map(|_| Port::reserve()).collect();
        let mut cluster = EtcdCluster {
            running: (0..self.nodes).map(|_| None).collect(),
            clients: ports(),
            peers: ports(),
            plan: self,
            home,
            authority,
        };
        cluster.start_all();
        cluster
    }
}

/// Some servers that are one etcd. They end with this handle.
#[derive(Debug)]
pub struct EtcdCluster {
    plan: Plan,
    home: PathBuf,
    authority: Option<Authority>,
    clients: Vec<Port>,
    peers: Vec<Port>,
    running: Vec<Option<Running>>,
}

impl EtcdCluster {
    /// Client ports on 127.0.0.1, one for each node.
    pub fn ports(&self) -> Vec<u16> {
        self.clients.iter().map(Port::number).collect()
    }

    /// `127.0.0.1:1,127.0.0.1:2`, as configurations list them.
    pub fn hosts(&self) -> String {
        self.clients.iter().map(|port| format!("127.0.0.1:{port}")).collect::<Vec<_>>().join(",")
    }

    /// Number of nodes.
    pub fn nodes(&self) -> usize {
        self.running.len()
    }

    /// Who signs this cluster's certificates, with TLS. `server` and `client` have been issued.
    ///
    /// # Panics
    /// Without TLS.
    pub fn authority(&self) -> &Authority {
        self.authority.as_ref().expect("the plan says tls()")
    }

    fn url(&self, port: &Port) -> String {
        format!("{}://127.0.0.1:{port}", if self.plan.tls { "https" } else { "http" })
    }

    fn initial_cluster(&self) -> String {
        let peers = self.peers.iter().enumerate().map(|(node, port)| format!("n{node}=http://127.0.0.1:{port}"));
        peers.collect::<Vec<_>>().join(",")
    }

    fn data(&self, node: usize) -> PathBuf {
        self.home.join(format!("n{node}"))
    }

    /// Starts one node, without waiting for anything.
    pub fn spawn(&mut self, node: usize) {
        let mut command = user::command(&self.plan.installation.server);
        let (client, peer) = (self.url(&self.clients[node]), format!("http://127.0.0.1:{}", self.peers[node]));
        command.current_dir(&self.home).arg("--data-dir").arg(self.data(node));
        command.args(["--name", &format!("n{node}"), "--initial-cluster", &self.initial_cluster()]);
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--logger", "zap", "--log-level", "warn"]).args(&self.plan.arguments);
        if let Some(authority) = &self.authority {
            command.arg("--cert-file").arg(authority.cert("server")).arg("--key-file").arg(authority.key("server"));
            command.arg("--client-cert-auth").arg("--trusted-ca-file").arg(authority.ca());
        }
        let log = self.home.join(format!("n{node}.log"));
        self.running[node] = Some(Running::start(command, &log).expect("etcd runs"));
    }

    /// Starts every node that does not run and waits until all serve.
    pub fn start_all(&mut self) {
        for node in 0..self.nodes() {
            if self.running[node].is_none() {
                self.spawn(node);
            }
        }
        for node in 0..self.nodes() {
            self.wait_serving(node);
        }
    }

    /// Starts one node and waits until it serves.
    pub fn start(&mut self, node: usize) {
        self.spawn(node);
        self.wait_serving(node);
    }

    fn wait_serving(&mut self, node: usize) {
        let deadline = Instant::now() + PATIENCE;
        // Whether it has a leader and applies what was written.
        while !self.ctl_at(&[node], &["endpoint", "health", "--command-timeout=1s"]).status.success() {
            let running = self.running[node].as_mut().expect("it was started");
            assert!(running.ended().is_none(), "etcd ended:\n{}", running.log());
            assert!(Instant::now() < deadline, "etcd does not serve after {PATIENCE:?}:\n{}", running.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// A node's process.
    ///
    /// # Panics
    /// When it does not run.
    pub fn pid(&self, node: usize) -> i32 {
        self.running[node].as_ref().expect("the node runs").pid()
    }

    /// SIGKILL.
    pub fn kill(&mut self, node: usize) {
        self.end(node, Signal::KILL);
    }

    /// SIGKILL to all that run.
    pub fn kill_all(&mut self) {
        (0..self.nodes()).for_each(|node| self.kill(node));
    }

    /// SIGTERM.
    pub fn stop(&mut self, node: usize) {
        self.end(node, Signal::TERM);
    }

    fn end(&mut self, node: usize, signal: Signal) {
        if let Some(mut running) = self.running[node].take() {
            running.signal(signal);
            running.wait(PATIENCE);
        }
    }

    /// SIGSTOP: its ports still take connections, and nothing answers.
    pub fn freeze(&self, node: usize) {
        faults::freeze(&[self.pid(node)]);
    }

    /// SIGCONT.
    pub fn thaw(&self, node: usize) {
        faults::thaw(&[self.pid(node)]);
    }

    /// The node that leads.
    ///
    /// # Panics
    /// When nobody does for long.
    pub fn leader(&self) -> usize {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let leads = |node: &usize| {
                let said = self.ctl_at(&[*node], &["endpoint", "status", "--write-out=fields", "--command-timeout=1s"]);
                let said = String::from_utf8_lossy(&said.stdout).into_owned();
                let field = |name: &str| Some(said.lines().find_map(|line| line.strip_prefix(name))?.trim().to_owned());
                field("\"Leader\" :").is_some_and(|leader| leader != "0" && Some(leader) == field("\"MemberID\" :"))
            };
            if let Some(leader) = (0..self.nodes()).filter(|node| self.running[*node].is_some()).find(leads) {
                return leader;
            }
            assert!(Instant::now() < deadline, "nobody leads after {PATIENCE:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Runs etcdctl against all nodes.
    pub fn ctl(&self, arguments: &[&str]) -> Output {
        self.ctl_at(&(0..self.nodes()).collect::<Vec<_>>(), arguments)
    }

    /// Runs etcdctl; gives what it prints.
    ///
    /// # Panics
    /// When it fails.
    pub fn must(&self, arguments: &[&str]) -> String {
        let output = self.ctl(arguments);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "etcdctl {arguments:?}: {said}{}", String::from_utf8_lossy(&output.stderr));
        said
    }

    fn ctl_at(&self, nodes: &[usize], arguments: &[&str]) -> Output {
        self.ctl_command(nodes, arguments).output().expect("etcdctl runs")
    }

    /// Writes until its quota is used up (give it a small one: `--quota-backend-bytes`).
    ///
    /// # Panics
    /// When that does not come.
    pub fn fill(&self) {
        let value = "x".repeat(1 << 20);
        for _ in 0..64 {
            let mut command = self.ctl_command(&[0], &["put", FILLER]);
            command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
            let mut child = command.spawn().expect("etcdctl runs");
            child.stdin.take().expect("it was asked for").write_all(value.as_bytes()).expect("it reads");
            let output = child.wait_with_output().expect("it ends");
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            if said.contains("database space exceeded") {
                return;
            }
            assert!(output.status.success(), "etcdctl put: {said}");
        }
        panic!("64 MiB do not fill it");
    }

    /// Makes room again, as its documentation says.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn make_room(&self) {
        self.must(&["del", FILLER]);
        let status = self.must(&["endpoint", "status", "--write-out=fields"]);
        let revision = status.lines().find_map(|line| line.strip_prefix("\"Revision\" :"));
        self.must(&["compact", revision.expect("it tells its revision").trim()]);
        self.must(&["defrag"]);
        self.must(&["alarm", "disarm"]);
    }

    fn ctl_command(&self, nodes: &[usize], arguments: &[&str]) -> Command {
        let urls: Vec<String> = nodes.iter().map(|node| self.url(&self.clients[*node])).collect();
        let mut command = Command::new(current().server.with_file_name("etcdctl"));
        command.arg("--endpoints").arg(urls.join(","));
        // Its own limits are those of an idle machine; what is among the arguments counts more.
        command.args(["--dial-timeout=30s", "--command-timeout=60s"]);
        if let Some(authority) = &self.authority {
            command.arg("--cacert").arg(authority.ca());
            command.arg("--cert").arg(authority.cert("client")).arg("--key").arg(authority.key("client"));
        }
        command.args(arguments);
        command
    }

    /// Saves what the first node holds now.
    pub fn save(&self, file: &Path) {
        let output = self.ctl_at(&[0], &["snapshot", "save", &file.display().to_string()]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        std::fs::set_permissions(file, std::os::unix::fs::PermissionsExt::from_mode(0o644)).expect("it is ours");
    }

    /// Ends all nodes and starts them with what was saved, as after a disaster; without a file, with nothing.
    pub fn restore(&mut self, file: Option<&Path>) {
        self.kill_all();
        for node in 0..self.nodes() {
            std::fs::remove_dir_all(self.data(node)).expect("the data is ours");
            let Some(file) = file else { continue };
            let mut command = user::command(current().server.with_file_name("etcdutl"));
            command.args(["snapshot", "restore"]).arg(file).arg("--data-dir").arg(self.data(node));
            command.args(["--name", &format!("n{node}"), "--initial-cluster", &self.initial_cluster()]);
            command.args(["--initial-advertise-peer-urls", &format!("http://127.0.0.1:{}", self.peers[node])]);
            let output = command.current_dir(&self.home).output().expect("etcdutl runs");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        self.start_all();
    }
}
