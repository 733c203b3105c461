//! Proxies with a pooler, PgBouncers of others, and pgbench.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use matriarch_testkit::ports::Port;
use matriarch_testkit::process::Running;
use matriarch_testkit::{faults, postgres, user};
use rustix::process::Signal;

use crate::harness::{Cluster, PATIENCE, verb, wire};

/// A process that is there and no zombie.
pub fn alive(pid: i32) -> bool {
    faults::Process::read(pid).is_some_and(|process| process.state != 'Z')
}

/// Waits until something is there.
///
/// # Panics
/// When it has not come after a generous while.
pub async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "not after {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// `matriarch proxy` with a PgBouncer.
pub struct Proxy {
    process: Option<Running>,
    port: Port,
    log: PathBuf,
    dir: PathBuf,
    arguments: Vec<String>,
}

impl Proxy {
    /// One that runs a PgBouncer.
    pub async fn start(cluster: &Cluster, more: &[&str]) -> Proxy {
        let port = Port::reserve();
        let arguments = ["proxy", "--pooler", &format!("127.0.0.1:{}", port.number()), "--drain-timeout", "1"];
        let mut proxy = Proxy::new(cluster, port, &[&arguments, more].concat());
        proxy.again(cluster);
        proxy.pid().await;
        proxy
    }

    /// One that pauses somebody else's PgBouncer.
    pub fn registering(cluster: &Cluster, foreign: &Foreign, password: &str) -> Proxy {
        let file = cluster.root().join(format!("admin-{password}"));
        std::fs::write(&file, format!("{password}\n")).expect("the folder is ours");
        let address = format!("127.0.0.1:{}", foreign.port());
        let file = file.display().to_string();
        let arguments = ["proxy", "--pooler-address", &address, "--pooler-admin", "admin"];
        let mut proxy =
            Proxy::new(cluster, Port::reserve(), &[&arguments[..], &["--pooler-admin-password-file", &file]].concat());
        proxy.again(cluster);
        proxy
    }

    /// One without a PgBouncer, that finds its cluster by these arguments; it is started and not waited for.
    pub fn plain(cluster: &Cluster, which: &[&str]) -> Proxy {
        let port = Port::reserve();
        let listen = format!("127.0.0.1:{}", port.number());
        let mut proxy = Proxy::new(cluster, port, &[&["proxy", "--read-write", &listen], which].concat());
        proxy.process = Some(proxy.command(cluster));
        proxy
    }

    fn command(&self, cluster: &Cluster) -> Running {
        let mut command = Command::new(verb::program());
        command.args(&self.arguments).current_dir(cluster.root());
        Running::start(command, &self.log).expect("the binary runs")
    }

    fn new(cluster: &Cluster, port: Port, arguments: &[&str]) -> Proxy {
        let log = cluster.root().join(format!("proxy-{}.log", port.number()));
        let dir = cluster.path().join("pooler").join(port.number().to_string());
        let arguments = arguments.iter().map(|text| (*text).to_owned()).collect();
        Proxy { process: None, port, log, dir, arguments }
    }

    /// Starts it, also after it was killed.
    pub fn again(&mut self, cluster: &Cluster) {
        if let Some(mut killed) = self.process.take() {
            killed.wait(PATIENCE);
        }
        let mut command = Command::new(verb::program());
        command.arg("--dir").arg(cluster.path()).args(&self.arguments).current_dir(cluster.root());
        self.process = Some(Running::start(command, &self.log).expect("the binary runs"));
    }

    pub fn arguments(&self) -> Vec<String> {
        self.arguments.clone()
    }

    pub fn process(&mut self) -> &mut Running {
        self.process.as_mut().expect("it was started")
    }

    pub fn port(&self) -> u16 {
        self.port.number()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// PgBouncer's process, as its file says and as it is.
    pub async fn pid(&self) -> i32 {
        until("PgBouncer runs", async || {
            let text = std::fs::read_to_string(self.dir.join("pgbouncer.pid")).ok()?;
            text.trim().parse().ok().filter(|pid| alive(*pid))
        })
        .await
    }

    pub fn dsn(&self, database: &str) -> String {
        format!("host=127.0.0.1 port={} user=app password=hush dbname={database}", self.port())
    }

    pub async fn ask(&self, database: &str, statement: &str) -> anyhow::Result<String> {
        wire::ask(&self.dsn(database), statement).await
    }

    /// Stops it, and with it PgBouncer.
    pub fn stop(mut self) {
        let mut process = self.process.take().expect("it was started");
        process.signal(Signal::TERM);
        let status = process.wait(PATIENCE);
        assert!(status.success(), "the proxy ended with {status}:\n{}", self.log());
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        drop(self.process.take());
        let pid = std::fs::read_to_string(self.dir.join("pgbouncer.pid")).unwrap_or_default();
        let Ok(pid) = pid.trim().parse::<i32>() else { return };
        let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        if line.contains(&self.dir.display().to_string()) {
            faults::kill(&[pid]);
        }
    }
}

/// A PgBouncer that Matriarch does not run, in front of Matriarch's own proxy.
pub struct Foreign {
    _process: Running,
    port: Port,
}

impl Foreign {
    pub fn start(cluster: &Cluster) -> Foreign {
        let port = Port::reserve();
        let dir = cluster.root().join("foreign");
        std::fs::create_dir(&dir).expect("the folder is ours");
        std::fs::write(dir.join("users.txt"), "\"app\" \"hush\"\n\"admin\" \"secret\"\n").expect("the folder is ours");
        let ini = format!(
            "[databases]\n* = host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {}\n\
             unix_socket_dir =\nauth_type = scram-sha-256\nauth_file = {}/users.txt\nadmin_users = admin\n\
             pool_mode = transaction\nmax_client_conn = 200\nserver_login_retry = 0.1\n",
            cluster.read_write(),
            port.number(),
            dir.display()
        );
        std::fs::write(dir.join("pgbouncer.ini"), ini).expect("the folder is ours");
        let mut command = user::command("/usr/sbin/pgbouncer");
        command.arg(dir.join("pgbouncer.ini"));
        let process = Running::start(command, &dir.join("log")).expect("PgBouncer is installed");
        Foreign { _process: process, port }
    }

    pub fn port(&self) -> u16 {
        self.port.number()
    }

    pub async fn ask(&self, statement: &str) -> anyhow::Result<String> {
        wire::ask(&format!("host=127.0.0.1 port={} user=app password=hush dbname=app", self.port()), statement).await
    }
}

/// pgbench, until it is told to conclude.
pub struct Bench {
    process: Running,
    log: PathBuf,
    database: String,
}

fn pgbench() -> PathBuf {
    let mut all = postgres::all_majors().iter().map(|found| found.bins.join("pgbench"));
    all.find(|program| program.exists()).expect("some PostgreSQL comes with pgbench")
}

fn arguments(command: &mut Command, port: u16) {
    let port = port.to_string();
    command.args(["--host", "127.0.0.1", "--port", &port, "--username", "app", "app"]);
    command.env("PGPASSWORD", "hush").stdin(Stdio::null());
}

impl Bench {
    /// Makes its tables.
    pub fn tables(cluster: &Cluster, port: u16) {
        let mut command = Command::new(pgbench());
        command.args(["--initialize", "--quiet"]);
        arguments(&mut command, port);
        let made = command.current_dir(cluster.root()).output().expect("pgbench runs");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }

    pub fn start(cluster: &Cluster, port: u16, clients: u32) -> Bench {
        let log = cluster.root().join(format!("pgbench-{port}.log"));
        let mut command = Command::new(pgbench());
        let clients = clients.to_string();
        command.args(["--no-vacuum", "--jobs", "2", "--time", "3600", "--progress", "1", "--client", &clients]);
        arguments(&mut command, port);
        command.current_dir(cluster.root());
        let database = format!("host=127.0.0.1 port={port} user=app password=hush dbname=app");
        Bench { process: Running::start(command, &log).expect("pgbench runs"), log, database }
    }

    async fn transactions(&self) -> i64 {
        let count = wire::ask(&self.database, "SELECT count(*) FROM pgbench_history").await.expect("the pooler serves");
        count.parse().expect("a number")
    }

    /// Waits until its clients have done more work.
    pub async fn works(&self) {
        let before = self.transactions().await;
        until("pgbench works", async || (self.transactions().await > before + 200).then_some(())).await;
    }

    /// No client saw an error: pgbench says so, and aborts those that do.
    pub fn conclude(mut self) {
        assert!(self.process.ended().is_none(), "pgbench ended:\n{}", self.said());
        self.process.signal(Signal::TERM);
        self.process.wait(PATIENCE);
        let said = self.said();
        for word in ["error", "aborted", "fatal", "terminat"] {
            assert!(!said.to_lowercase().contains(word), "pgbench says '{word}':\n{said}");
        }
        assert!(said.contains("0 failed"), "pgbench told no progress:\n{said}");
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}
