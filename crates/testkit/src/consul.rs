//! Real Consul servers for tests: one or three, with the options that matter, and what can happen to them.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::dir::TestDir;
use crate::ports::Port;
use crate::process::Running;
use crate::user;

/// How long servers may take to start and to agree, on a busy machine.
const LIMIT: Duration = Duration::from_secs(90);

/// The Consul program that `scripts/build-server consul` has built.
///
/// # Panics
/// When it is not built; the message says how to.
pub fn program() -> PathBuf {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/build-server");
    let output = Command::new(script).args(["--print", "consul"]).output().expect("scripts/build-server can be run");
    let folder = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    assert!(output.status.success(), "no Consul to test with: {}", String::from_utf8_lossy(&output.stderr));
    Path::new(&folder).join("consul")
}

/// What the servers of a cluster are told beyond the usual.
#[derive(Clone, Debug, Default)]
pub struct ConsulSettings {
    /// `session_ttl_min`, such as `500ms`; Consul's own floor of 10 s if not set.
    pub session_ttl_min: Option<String>,
    /// ACLs are on, and nothing is allowed without a token; this one may do everything.
    pub initial_token: Option<String>,
    /// More of the configuration file, merged over the rest.
    pub more: Option<Value>,
}

/// One server.
#[derive(Debug)]
pub struct ConsulNode {
    program: PathBuf,
    folder: PathBuf,
    config: PathBuf,
    token: Option<String>,
    http: Port,
    https: Port,
    _rpc: Port,
    _serf: Port,
    process: Option<Running>,
}

/// Servers that form one cluster. They end with their handle, and their logs lie in the test's folder.
#[derive(Debug)]
pub struct ConsulCluster {
    /// The servers.
    pub nodes: Vec<ConsulNode>,
}

impl ConsulCluster {
    /// Starts `count` servers in `dir` and waits until they have a leader.
    pub fn start(dir: &TestDir, count: usize, settings: &ConsulSettings) -> Result<ConsulCluster> {
        let program = program();
        let ports: Vec<[Port; 4]> = (0..count).map(|_| Port::reserve_many()).collect();
        let join: Vec<String> = ports.iter().map(|[_, _, _, serf]| format!("127.0.0.1:{serf}")).collect();
        let mut nodes = Vec::new();
        for (number, [http, https, rpc, serf]) in ports.into_iter().enumerate() {
            let folder = dir.create(format!("consul{number}"));
            let config = folder.join("consul.json");
            let socket = folder.join("http.sock");
            let mut text = json!({
                "node_name": format!("consul{number}"), "server": true, "bootstrap_expect": count,
                "data_dir": folder.join("data"), "bind_addr": "127.0.0.1", "client_addr": "127.0.0.1",
                "addresses": { "http": format!("127.0.0.1 unix://{}", socket.display()) },
                "ports": {
                    "http": http.number(), "https": -1, "server": rpc.number(), "serf_lan": serf.number(),
                    "serf_wan": -1, "dns": -1, "grpc": -1, "grpc_tls": -1,
                },
                "retry_join": if count > 1 { json!(join) } else { json!([]) },
                "retry_interval": "1s",
                // A killed server must stay a member: it comes back.
                "autopilot": { "cleanup_dead_servers": false },
                "performance": { "raft_multiplier": 1 }, "disable_update_check": true, "log_level": "WARN",
            });
            if let Some(floor) = &settings.session_ttl_min {
                text["session_ttl_min"] = json!(floor);
            }
            if let Some(token) = &settings.initial_token {
                text["acl"] = json!({
                    "enabled": true, "default_policy": "deny", "enable_token_persistence": false,
                    "tokens": { "initial_management": token, "agent": token },
                });
            }
            if let Some(more) = &settings.more {
                merge(&mut text, more, https.number());
            }
            std::fs::write(&config, text.to_string()).context("writing Consul's configuration")?;
            user::give(&config)?;
            nodes.push(ConsulNode {
                program: program.clone(),
                folder,
                config,
                token: settings.initial_token.clone(),
                http,
                https,
                _rpc: rpc,
                _serf: serf,
                process: None,
            });
        }
        let mut cluster = ConsulCluster { nodes };
        for node in &mut cluster.nodes {
            node.start()?;
        }
        cluster.wait_ready()?;
        Ok(cluster)
    }

    /// Waits until every running server knows the leader and writes are taken.
    pub fn wait_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        for node in self.nodes.iter_mut().filter(|node| node.process.is_some()) {
            while !node.is_ready() {
                if let Some(process) = &mut node.process
                    && process.ended().is_some()
                {
                    bail!("{} ended:\n{}", node.folder.display(), process.log());
                }
                ensure!(Instant::now() < deadline, "{} was not ready in {LIMIT:?}", node.folder.display());
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        Ok(())
    }

    /// The number of the server that leads.
    ///
    /// # Panics
    /// When none does for a long time.
    pub fn leader(&self) -> usize {
        let deadline = Instant::now() + LIMIT;
        loop {
            let leads = |node: &ConsulNode| {
                node.process.is_some()
                    && node.http("GET", "/v1/agent/self", "").is_ok_and(|(_, body)| {
                        let told: Value = serde_json::from_str(&body).unwrap_or_default();
                        told["Stats"]["consul"]["leader"] == "true"
                    })
            };
            if let Some(number) = self.nodes.iter().position(leads) {
                return number;
            }
            assert!(Instant::now() < deadline, "no Consul server leads");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl ConsulNode {
    /// Starts it; it is not ready yet.
    pub fn start(&mut self) -> Result<()> {
        let mut command = user::command(&self.program);
        command.current_dir(&self.folder).arg("agent").arg("-config-file").arg(&self.config);
        // Each server would otherwise use every core for its garbage collection.
        command.env("GOMAXPROCS", "2");
        self.process = Some(Running::start(command, &self.folder.join("consul.log"))?);
        Ok(())
    }

    /// Port of the plain HTTP interface, on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.http.number()
    }

    /// Port of the HTTPS interface, if the settings have switched it on (`"ports": {"https": true}`).
    pub fn https_port(&self) -> u16 {
        self.https.number()
    }

    /// Path of the Unix socket on which it serves HTTP too.
    pub fn socket(&self) -> PathBuf {
        self.folder.join("http.sock")
    }

    /// Kills it, as a crash does.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.signal(Signal::KILL);
            process.wait(LIMIT);
        }
    }

    /// Stops it in its tracks: its address still accepts connections and says nothing.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets a frozen one go on.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// Throws away everything a stopped server knows.
    pub fn wipe(&self) -> Result<()> {
        ensure!(self.process.is_none(), "{} still runs", self.folder.display());
        std::fs::remove_dir_all(self.folder.join("data")).context("removing Consul's data")
    }

    /// Runs the `consul` program against this server with the management token; gives its standard output.
    pub fn consul(&self, arguments: &[&str]) -> Result<String> {
        let mut command = user::command(&self.program);
        command.current_dir(&self.folder).args(arguments);
        command.env("CONSUL_HTTP_ADDR", format!("127.0.0.1:{}", self.http));
        if let Some(token) = &self.token {
            command.env("CONSUL_HTTP_TOKEN", token);
        }
        let output = command.output().context("running consul")?;
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "consul {arguments:?}: {out}{err}");
        Ok(out.into_owned())
    }

    /// One HTTP request with the management token: status and body.
    pub fn http(&self, method: &str, path: &str, body: &str) -> Result<(u16, String)> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.http.number()))?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        let token = self.token.as_deref().map_or(String::new(), |token| format!("X-Consul-Token: {token}\r\n"));
        let length = body.len();
        write!(stream, "{method} {path} HTTP/1.0\r\nHost: localhost\r\n{token}Content-Length: {length}\r\n\r\n{body}")?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        let answer = String::from_utf8_lossy(&answer);
        let (head, body) = answer.split_once("\r\n\r\n").context("an answer without a head")?;
        let status = head.split_whitespace().nth(1).and_then(|status| status.parse().ok());
        Ok((status.context("an answer without a status")?, body.to_owned()))
    }

    fn is_ready(&self) -> bool {
        // A write through this server: it knows the leader, and the leader takes writes. The answer is in no prefix
        // that a test uses.
        self.http("PUT", "/v1/kv/ready", "yes").is_ok_and(|(status, _)| status == 200)
            && self.http("GET", "/v1/kv/ready?consistent", "").is_ok_and(|(status, _)| status == 200)
    }

    fn signal(&self, signal: Signal) {
        if let Some(process) = &self.process {
            process.signal(signal);
        }
    }
}

/// Merges objects deeply; `true` in the place of the HTTPS port is that of this server.
fn merge(into: &mut Value, more: &Value, https: u16) {
    match (into, more) {
        (Value::Object(into), Value::Object(more)) => {
            for (key, value) in more {
                let value = if key == "https" && value == true { json!(https) } else { value.clone() };
                merge(into.entry(key).or_insert(Value::Null), &value, https);
            }
        }
        (into, more) => *into = more.clone(),
    }
}
