//! The server that is dumped, or restored into.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use matriarch_archive::configured::{Identity, Own};
use matriarch_cli::{Failure, code};
use matriarch_config::LocalConfig;
use matriarch_postgres::Binaries;
use matriarch_postgres::dump::Access;
use tokio_postgres::Config;

use crate::backup::fail::failed;
use crate::backup::server::{MemberArgs, Side, connect, session};
use crate::cluster::Which;

/// Which server.
#[derive(Args, Clone, Debug, Default)]
pub struct ServerArgs {
    /// Connection string for the server, as superuser; the member's own (--config) unless given
    #[arg(long, value_name = "DSN", help_heading = "Which server")]
    dsn: Option<String>,
    #[command(flatten)]
    one: MemberArgs,
    /// Directory of PostgreSQL's programs; the member's own, or those of the server's version, unless given
    #[arg(long, value_name = "DIR", help_heading = "Which server")]
    bin_dir: Option<PathBuf>,
}

impl ServerArgs {
    /// Finds it: the primary unless `from` says otherwise.
    pub async fn find(&self, from: Option<Side>, which: &Which) -> anyhow::Result<Access> {
        if let Some(dsn) = &self.dsn {
            let config = dsn.parse::<Config>().map_err(|error| {
                let text = format!("--dsn is no connection string: {error}; write host=/run/postgresql user=postgres");
                Failure::new(code::USAGE, text)
            })?;
            let major = major(&config).await?;
            let wanted = self.bin_dir.is_none().then_some(major);
            return Ok(Access::new(Binaries::find(self.bin_dir.as_deref(), wanted)?, config));
        }
        let text = "which server? Name the member's configuration with --config, or the server with --dsn";
        self.of(&self.one.find(from, which, text).await?)
    }

    fn of(&self, local: &LocalConfig) -> anyhow::Result<Access> {
        let dir = self.bin_dir.as_deref().or(local.postgresql.bin_dir.as_deref());
        Ok(Access::new(Binaries::find(dir, None)?, session(local)?))
    }
}

async fn major(config: &Config) -> anyhow::Result<u32> {
    let mut config = config.clone();
    if config.get_dbname().is_none() {
        config.dbname("postgres");
    }
    let row = connect(&config).await?.query_one("select current_setting('server_version_num')::int / 10000", &[]).await;
    Ok(row.context("asking the server for its version")?.get::<_, i32>(0).unsigned_abs())
}

/// The incarnation that a server's data belongs to, as it says itself.
pub async fn own(access: &Access) -> anyhow::Result<Own> {
    let client = access.connect("postgres").await.map_err(failed)?;
    let query = "select current_setting('server_version_num')::int / 10000, \
        (select system_identifier::text from pg_control_system()), \
        (select setting::bigint from pg_settings where name = 'wal_segment_size'), \
        pg_read_file('matriarch_archive.json', 0, 1000000, true)";
    let row = client.query_one(query, &[]).await;
    let row = row.context("asking the server what it is (the session needs the rights of pg_read_server_files)")?;
    let system: String = row.get(1);
    let identity = Identity {
        system_identifier: system.parse().context("the server's system identifier is no number")?,
        major: row.get::<_, i32>(0).unsigned_abs(),
        segment_size: row.get::<_, i64>(2).unsigned_abs(),
    };
    let origin: Option<String> = row.get(3);
    Own::told(origin.as_deref(), identity).map_err(failed)
}
