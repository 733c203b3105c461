//! A real emulator of Azure Blob Storage for tests (Azurite), with one account and one container, that can be stopped, frozen and
//! started again.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use rustix::process::Signal;

use crate::built;
use crate::dir::TestDir;
use crate::middleman::wire;
use crate::ports::Port;
use crate::process::Running;
use crate::user;

/// How long it may take to start, on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);
/// The storage account.
pub const ACCOUNT: &str = "matriarch";
/// Its access key.
pub const KEY: &str = "bm90LWEtc2VjcmV0LW5vdC1hLXNlY3JldC1ub3QtYS1zZWNyZXQ=";
/// The container that is made.
pub const CONTAINER: &str = "archive";
/// Of the service's interface.
const VERSION: &str = "2021-08-06";

/// One server with its container. It ends with its handle; its data stay in the test's folder.
#[derive(Debug)]
pub struct AzureServer {
    folder: PathBuf,
    port: Port,
    process: Option<Running>,
}

impl AzureServer {
    /// Starts it in `dir/azure` and waits until the container is there.
    pub fn start(dir: &TestDir) -> Result<AzureServer> {
        let mut server = AzureServer { folder: dir.create("azure"), port: Port::reserve(), process: None };
        server.run()?;
        Ok(server)
    }

    /// Starts it again after a stop.
    pub fn run(&mut self) -> Result<()> {
        let mut command = user::command(built::folder("azurite").join("azurite-blob"));
        command.env("AZURITE_ACCOUNTS", format!("{ACCOUNT}:{KEY}")).current_dir(&self.folder);
        command.args(["--location", ".", "--blobPort", &self.port.to_string(), "--silent", "--disableTelemetry"]);
        // Clients newer than it ask for a newer interface, of which they use nothing.
        command.arg("--skipApiVersionCheck");
        // 409: the container is there from the last start.
        let is_ready = || self.make_container().is_ok_and(|status| status == 201 || status == 409);
        self.process = Some(Running::start_serving(command, &self.folder.join("azurite.log"), LIMIT, is_ready)?);
        Ok(())
    }

    /// Stops it; its port stays reserved, so connections are refused. It writes its index down first, which it does a moment
    /// after each change otherwise.
    pub fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.signal(Signal::TERM);
            process.wait(LIMIT);
        }
    }

    /// `http://127.0.0.1:port`.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// A signature for the container that allows `permissions` (`racwdl`: everything) until then.
    pub fn signature(&self, permissions: &str, until: Timestamp) -> String {
        let until = until.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let resource = format!("/blob/{ACCOUNT}/{CONTAINER}");
        // Permissions, start, end, resource, policy, address, protocol, version, kind, snapshot, scope, and five headers.
        let signed =
            [permissions, "", &until, &resource, "", "", "", VERSION, "c", "", "", "", "", "", "", ""].join("\n");
        let signature = sign(&signed).replace('+', "%2B").replace('/', "%2F").replace('=', "%3D");
        format!("sv={VERSION}&sr=c&sp={permissions}&se={}&sig={signature}", until.replace(':', "%3A"))
    }

    fn make_container(&self) -> Result<u16> {
        let date = Timestamp::now().strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
        let headers = format!("x-ms-date:{date}\nx-ms-version:{VERSION}");
        // The account stands in the path of the emulator, and once more before it.
        let resource = format!("/{ACCOUNT}/{ACCOUNT}/{CONTAINER}\nrestype:container");
        let signature = sign(&format!("PUT{}{headers}\n{resource}", "\n".repeat(12)));
        let place = format!("/{ACCOUNT}/{CONTAINER}?restype=container");
        let authorization = format!("SharedKey {ACCOUNT}:{signature}");
        let headers =
            [("x-ms-date", date.as_str()), ("x-ms-version", VERSION), ("Authorization", authorization.as_str())];
        wire::status(self.port.number(), "PUT", &place, &headers)
    }
}

fn sign(text: &str) -> String {
    let key = STANDARD.decode(KEY).expect("it is base64");
    STANDARD.encode(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), text.as_bytes()))
}
