//! A throw-away PostgreSQL, for tests of the kit itself and of anything that needs just one server.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::Signal;

use crate::dir::TestDir;
use crate::ports::Port;
use crate::postgres::Installation;
use crate::process::Running;
use crate::user;

/// A primary without replicas: superuser `postgres`, trust authentication, on 127.0.0.1, without fsync. It ends with its
/// handle.
#[derive(Debug)]
pub struct Server {
    bins: PathBuf,
    data: PathBuf,
    port: Port,
    process: Option<Running>,
}

impl Server {
    /// initdb in `dir/name`, then start. `settings` are lines for `postgresql.conf`.
    pub async fn create(installation: &Installation, dir: &TestDir, name: &str, settings: &str) -> Result<Server> {
        Server::create_with(installation, dir, name, settings, &[]).await
    }

    /// The same with further arguments for initdb.
    pub async fn create_with(
        installation: &Installation,
        dir: &TestDir,
        name: &str,
        settings: &str,
        arguments: &[&str],
    ) -> Result<Server> {
        let data = dir.join(name);
        let mut initdb = user::command(installation.bins.join("initdb"));
        initdb.current_dir(dir.path()).arg("-D").arg(&data);
        initdb.args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]);
        initdb.args(arguments);
        let output = initdb.output().context("running initdb")?;
        if !output.status.success() {
            bail!("initdb failed: {}", String::from_utf8_lossy(&output.stderr));
        }
        let port = Port::reserve();
        let mut conf = std::fs::File::options().append(true).open(data.join("postgresql.conf"))?;
        writeln!(conf, "listen_addresses = '127.0.0.1'\nport = {port}\nunix_socket_directories = ''")?;
        writeln!(conf, "fsync = off\nshared_buffers = 16MB\n{settings}")?;
        let mut server = Server { bins: installation.bins.clone(), data, port, process: None };
        server.start().await?;
        Ok(server)
    }

    /// Starts a data directory that somebody else made, such as a restore, on a port of its own. `settings` are lines for
    /// `postgresql.conf`.
    pub async fn of(installation: &Installation, data: &Path, settings: &str) -> Result<Server> {
        let port = Port::reserve();
        let mut conf = std::fs::File::options().append(true).open(data.join("postgresql.conf"))?;
        writeln!(conf, "port = {port}\n{settings}")?;
        let mut server = Server { bins: installation.bins.clone(), data: data.to_owned(), port, process: None };
        server.start().await?;
        Ok(server)
    }

    /// Starts the postmaster and waits until it answers.
    pub async fn start(&mut self) -> Result<()> {
        let mut command = user::command(self.bins.join("postgres"));
        command.current_dir(&self.data).arg("-D").arg(&self.data);
        let mut process = Running::start(command, &self.data.with_extension("log"))?;
        let ready = async {
            while tokio_postgres::connect(&self.dsn(), tokio_postgres::NoTls).await.is_err() {
                if process.ended().is_some() {
                    bail!("PostgreSQL ended while starting:\n{}", process.log());
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Ok(())
        };
        tokio::time::timeout(Duration::from_secs(60), ready).await.context("PostgreSQL did not start in 60 s")??;
        self.process = Some(process);
        Ok(())
    }

    /// Stops it: `INT` is fast, `QUIT` immediate, `KILL` a crash of the postmaster.
    pub fn stop(&mut self, signal: Signal) {
        if let Some(mut process) = self.process.take() {
            process.signal(signal);
            process.wait(Duration::from_secs(60));
        }
    }

    pub fn data(&self) -> &Path {
        &self.data
    }

    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// Its connection string as superuser.
    pub fn dsn(&self) -> String {
        format!("host=127.0.0.1 port={} user=postgres dbname=postgres", self.port)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop(Signal::QUIT);
    }
}
