//! A server that speaks as Google Cloud Storage does, for tests: fake-gcs-server behind the XML API (`servers/gcs`), with one bucket and
//! one service account, that can be stopped, frozen and started again.

use std::net::TcpStream;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use rustix::process::Signal;

use crate::built;
use crate::dir::TestDir;
use crate::ports::Port;
use crate::process::Running;
use crate::user;

/// How long it may take to start, on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);
/// The bucket that is made.
pub const BUCKET: &str = "archive";

/// One server with its bucket. It ends with its handle; its data stay in the test's folder.
#[derive(Debug)]
pub struct GcsServer {
    folder: PathBuf,
    port: Port,
    process: Option<Running>,
}

impl GcsServer {
    /// Starts it in `dir/gcs` and waits until it answers.
    pub fn start(dir: &TestDir) -> Result<GcsServer> {
        let mut server = GcsServer { folder: dir.create("gcs"), port: Port::reserve(), process: None };
        server.run()?;
        Ok(server)
    }

    /// Starts it again after a stop.
    pub fn run(&mut self) -> Result<()> {
        let mut command = user::command(built::folder("gcs").join("gcs"));
        command.current_dir(&self.folder).args(["-root", "data", "-bucket", BUCKET, "-account", "account.json"]);
        // Small, so that lists have more than one.
        command.args(["-page", "20", "-listen", &format!("127.0.0.1:{}", self.port)]);
        let is_ready = || TcpStream::connect(("127.0.0.1", self.port.number())).is_ok();
        self.process = Some(Running::start_serving(command, &self.folder.join("gcs.log"), LIMIT, is_ready)?);
        Ok(())
    }

    /// Stops it; its port stays reserved, so connections are refused.
    pub fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.signal(Signal::KILL);
            process.wait(LIMIT);
        }
    }

    /// `http://127.0.0.1:port`.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The JSON file of the account that may do everything, whose key this server made.
    pub fn account(&self) -> PathBuf {
        self.folder.join("account.json")
    }
}
