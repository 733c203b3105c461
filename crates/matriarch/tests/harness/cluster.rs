//! A cluster made by `matriarch up`, from its start to its end.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use matriarch_config::Document;
use matriarch_testkit::dir::TestDir;
use matriarch_testkit::executable;
use matriarch_testkit::ports::Port;
use matriarch_testkit::postgres::{self, Installation};
use matriarch_testkit::process::Running;
use rustix::process::Signal;
use serde_json::Value;

use super::slots::Slot;
use super::verb::{self, Outcome};
use super::{PATIENCE, Subject, health};

/// What to start.
#[derive(Debug)]
pub struct Plan {
    name: &'static str,
    members: u8,
    bins: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(&'static str, &'static str)>,
    slot: bool,
    archive: bool,
}

impl Plan {
    /// Three members of whatever PostgreSQL there is; `name` is part of the folder's name.
    pub fn new(name: &'static str) -> Plan {
        let bins = postgres::any().bins.clone();
        Plan { name, members: 3, bins, arguments: Vec::new(), environment: Vec::new(), slot: true, archive: false }
    }

    pub fn members(self, members: u8) -> Plan {
        Plan { members, ..self }
    }

    /// With a repository beside its data, as people get it.
    pub fn archive(self) -> Plan {
        Plan { archive: true, ..self }
    }

    pub fn bins(self, bins: PathBuf) -> Plan {
        Plan { bins, ..self }
    }

    /// More arguments for `up`.
    pub fn argument(mut self, argument: &str) -> Plan {
        self.arguments.push(argument.to_owned());
        self
    }

    /// A variable in the environment of `up` and so of its agents.
    pub fn variable(mut self, name: &'static str, value: &'static str) -> Plan {
        self.environment.push((name, value));
        self
    }

    /// A companion of another cluster, too small to count.
    pub fn beside(self) -> Plan {
        Plan { slot: false, members: 1, ..self }
    }

    /// Starts it and waits until it is ready.
    pub async fn start(self) -> Cluster {
        let mut cluster = self.prepare();
        cluster.up().await;
        cluster
    }

    /// Reserves what it needs; nothing runs yet.
    pub fn prepare(self) -> Cluster {
        let slot = self.slot.then(Slot::take);
        let dir = TestDir::new(self.name);
        let tmp = dir.create("tmp");
        let ports = Port::reserve_run(2 + 2 * u16::from(self.members));
        Cluster { up: None, program: verb::program(), tmp, dir, ports, plan: self, _slot: slot }
    }
}

/// A cluster with everything it is made of. Dropping it stops it as Ctrl-C does, then ends what is left.
#[derive(Debug)]
pub struct Cluster {
    up: Option<Running>,
    program: PathBuf,
    /// Where it leaves its note that it runs, instead of the machine's folder.
    pub tmp: PathBuf,
    dir: TestDir,
    ports: Vec<Port>,
    plan: Plan,
    _slot: Option<Slot>,
}

impl Cluster {
    /// Three members, ready.
    pub async fn start(name: &'static str) -> Cluster {
        Plan::new(name).start().await
    }

    /// Makes it run with a program of its own, which the test may change; where that is.
    pub fn run_copy(&mut self) -> PathBuf {
        self.program = self.dir.create("bin").join("matriarch");
        executable::copy(&verb::program(), &self.program);
        self.program.clone()
    }

    /// The command line of `up`.
    pub fn up_arguments(&self) -> Vec<String> {
        let first = self.ports[0].number();
        let member = self.ports[2].number();
        let fixed = [
            ("--dir", self.path().display().to_string()),
            ("--members", self.plan.members.to_string()),
            ("--port", first.to_string()),
            ("--member-port", member.to_string()),
            ("--api-port", (member + u16::from(self.plan.members)).to_string()),
            ("--bin-dir", self.plan.bins.display().to_string()),
        ];
        let fixed = fixed.into_iter().flat_map(|(name, value)| [name.to_owned(), value]);
        let archive = (!self.plan.archive).then(|| "--no-archive".to_owned());
        std::iter::once("up".to_owned()).chain(fixed).chain(archive).chain(self.plan.arguments.clone()).collect()
    }

    /// `matriarch up`, until it says that it is ready and every member is well.
    pub async fn up(&mut self) {
        self.spawn();
        self.ready().await;
    }

    /// Waits until `up` says that it is ready and every member is well.
    pub async fn ready(&mut self) {
        let begun = Instant::now();
        loop {
            let up = self.up.as_mut().expect("it was just started");
            if let Some(status) = up.ended() {
                panic!("`up` ended with {status}:\n{}", up.log());
            }
            if self.said().contains("ready after") {
                break;
            }
            assert!(begun.elapsed() < PATIENCE, "not ready after {PATIENCE:?}:\n{}", self.said());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        health::well(self, PATIENCE).await;
    }

    /// Gives planned moves and restarts as long as they take on a busy machine, instead of having them called off, and a
    /// primary whose disk is busy with other tests its lead. How long either may take is what few tests are about.
    pub async fn be_patient(&self) {
        self.verb(&["config", "set", "switchover_hold_timeout=30", "write_probe_timeout=30"]).await.ok();
    }

    /// `matriarch up`, without waiting for anything. Its output starts anew.
    pub fn spawn(&mut self) {
        let log = self.up_log();
        if log.exists() {
            let _ = std::fs::rename(&log, log.with_extension("before.log"));
        }
        let mut command = Command::new(&self.program);
        command.args(self.up_arguments()).current_dir(self.dir.path()).env("TMPDIR", &self.tmp);
        command.envs(self.plan.environment.iter().copied());
        self.up = Some(Running::start(command, &log).expect("the binary runs"));
    }

    /// What `up` has printed since its start.
    pub fn said(&self) -> String {
        std::fs::read_to_string(self.up_log()).unwrap_or_default()
    }

    fn up_log(&self) -> PathBuf {
        self.dir.join("up.log")
    }

    /// The running `up`.
    pub fn process(&mut self) -> &mut Running {
        self.up.as_mut().expect("`up` was started")
    }

    /// Ctrl-C, and the end of `up`.
    pub fn stop(&mut self) {
        let mut up = self.up.take().expect("`up` runs");
        up.signal(Signal::INT);
        let status = up.wait(PATIENCE);
        assert!(status.success(), "`up` ended with {status}:\n{}", up.log());
    }

    /// The programs that it runs.
    pub fn installation(&self) -> &'static Installation {
        let own = postgres::all_majors().iter().find(|known| known.bins == self.plan.bins);
        own.expect("a plan names one that is known")
    }

    /// The cluster's directory.
    pub fn path(&self) -> PathBuf {
        self.dir.join("cluster")
    }

    /// The folder that everything of this test lives in, the cluster's directory included.
    pub fn root(&self) -> &Path {
        self.dir.path()
    }

    /// A member's directory.
    pub fn member(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// A member's data directory.
    pub fn data(&self, name: &str) -> PathBuf {
        self.member(name).join("data")
    }

    /// `a`, `b`, `c`.
    pub fn names(&self) -> Vec<String> {
        (0..self.plan.members).map(|index| char::from(b'a' + index).to_string()).collect()
    }

    /// Port that leads to the primary.
    pub fn read_write(&self) -> u16 {
        self.ports[0].number()
    }

    /// Port that leads to replicas.
    pub fn read_only(&self) -> u16 {
        self.ports[1].number()
    }

    fn index(&self, name: &str) -> usize {
        self.names().iter().position(|known| known == name).unwrap_or_else(|| panic!("no member {name}"))
    }

    /// A member's PostgreSQL port.
    pub fn postgres_port(&self, name: &str) -> u16 {
        self.ports[2 + self.index(name)].number()
    }

    /// A member's API port.
    pub fn api_port(&self, name: &str) -> u16 {
        self.ports[2 + usize::from(self.plan.members) + self.index(name)].number()
    }

    /// The superuser's password.
    pub fn password(&self) -> String {
        self.file_value("secrets.json", "superuser")
    }

    /// The token for unsafe requests.
    pub fn token(&self) -> String {
        self.file_value("cluster.json", "token")
    }

    fn file_value(&self, file: &str, name: &str) -> String {
        let text = std::fs::read_to_string(self.path().join(file)).expect("`up` has written it");
        let value: Value = serde_json::from_str(&text).expect("it is JSON");
        value[name].as_str().expect("it holds the value").to_owned()
    }

    /// A connection string for one port, as superuser.
    pub fn dsn(&self, port: u16) -> String {
        format!("host=127.0.0.1 port={port} user=postgres dbname=postgres password={}", self.password())
    }

    /// Runs a verb on this cluster.
    pub async fn verb(&self, arguments: &[&str]) -> Outcome {
        self.verb_with(arguments, &[]).await
    }

    /// Runs a verb on this cluster with environment variables.
    pub async fn verb_with(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Outcome {
        let path = self.path().display().to_string();
        // First, since the last argument of `psql` takes all that follows.
        let all: Vec<&str> = ["--dir", &path].into_iter().chain(arguments.iter().copied()).collect();
        verb::run(self.dir.path(), &self.tmp, &all, environment).await
    }

    /// Gives a member other tags, in its file, and has it read.
    pub async fn tag(&self, name: &str, tags: Value) {
        self.edit(name, |local| local["tags"] = tags).await;
    }

    /// Changes a member's file, and has it read.
    pub async fn edit(&self, name: &str, change: impl FnOnce(&mut Value)) {
        self.rewrite(name, change);
        self.verb(&["reload", name]).await.ok();
    }

    /// Changes a member's file; nobody reads it yet.
    pub fn rewrite(&self, name: &str, change: impl FnOnce(&mut Value)) {
        let file = self.member(name).join("agent.yaml");
        let text = std::fs::read_to_string(&file).expect("it is ours");
        let mut local = Document::parse(&text).expect("it is YAML").value;
        change(&mut local);
        std::fs::write(&file, local.to_string()).expect("it is ours");
    }

    /// Runs one statement through a port and gives back the first value.
    pub async fn ask(&self, port: u16, statement: &str) -> anyhow::Result<String> {
        super::wire::ask(&self.dsn(port), statement).await
    }
}

impl Subject for Cluster {
    fn names(&self) -> Vec<String> {
        Cluster::names(self)
    }

    fn writes(&self) -> String {
        self.dsn(self.read_write())
    }

    fn direct(&self, name: &str) -> String {
        self.dsn(self.postgres_port(name))
    }

    async fn verb(&self, arguments: &[&str]) -> Outcome {
        Cluster::verb(self, arguments).await
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // Leave everything as it was found: the logs are shown next.
            return;
        }
        if let Some(up) = &mut self.up {
            up.signal(Signal::INT);
            let deadline = Instant::now() + Duration::from_secs(30);
            while up.ended().is_none() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}
