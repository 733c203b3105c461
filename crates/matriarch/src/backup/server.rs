//! Which server a backup is taken of: a member of a cluster, or any server on this machine.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use matriarch_archive::configured::Identity;
use matriarch_cli::{Failure, code};
use matriarch_config::LocalConfig;
use tokio_postgres::{Client, Config, NoTls};

use crate::cluster::{self, Which};

/// Which server.
#[derive(Args, Clone, Debug)]
pub struct ServerArgs {
    /// Data directory of the server; the member's own (--config) unless given
    #[arg(long, value_name = "DIR", requires = "dsn", help_heading = "Which server")]
    data_dir: Option<PathBuf>,
    /// Connection string for the server, as superuser or with the rights of pg_backup_start and pg_read_server_files
    #[arg(long, value_name = "DSN", requires = "data_dir", help_heading = "Which server")]
    dsn: Option<String>,
    /// Member of a cluster made by 'matriarch up'; the primary unless given
    #[arg(long, value_name = "NAME", conflicts_with = "dsn", help_heading = "Which server")]
    member: Option<String>,
}

/// The server that is backed up.
pub struct Server {
    pub data: PathBuf,
    pub config: Config,
    pub identity: Identity,
}

impl Server {
    /// The one that is meant.
    pub async fn find(args: &ServerArgs, which: &Which) -> anyhow::Result<Server> {
        if let (Some(data), Some(dsn)) = (&args.data_dir, &args.dsn) {
            let config = dsn.parse::<Config>().map_err(|error| {
                Failure::new(
                    code::USAGE,
                    format!("--dsn is no connection string: {error}; write host=/run/postgresql user=postgres"),
                )
            })?;
            return Server::at(std::path::absolute(data)?, config).await;
        }
        if let Some(file) = &which.config {
            return Server::of(&LocalConfig::load(file)?).await;
        }
        let text =
            "which server? Name the member's configuration with --config, or the server with --data-dir and --dsn";
        let cluster = cluster::local(which).context(text)?;
        let members = cluster.members.iter().map(|member| member.name.as_str());
        let mut failure = None;
        for name in members.filter(|name| args.member.as_deref().is_none_or(|wanted| wanted == *name)) {
            match Server::of(&LocalConfig::load(cluster.agent_config(name))?).await {
                Ok(server) if args.member.is_some() || !server.is_standby().await? => return Ok(server),
                Ok(_) => {}
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.unwrap_or_else(|| match &args.member {
            Some(name) => Failure::new(code::USAGE, format!("cluster {} has no member '{name}'", cluster.scope)).into(),
            None => Failure::new(code::UNAVAILABLE, "no member is primary at the moment").into(),
        }))
    }

    async fn of(local: &LocalConfig) -> anyhow::Result<Server> {
        Server::at(std::path::absolute(&local.postgresql.data_dir)?, session(local)?).await
    }

    async fn at(data: PathBuf, mut config: Config) -> anyhow::Result<Server> {
        config.application_name("matriarch backup").connect_timeout(Duration::from_secs(10));
        if config.get_dbname().is_none() {
            config.dbname("postgres");
        }
        let client = connect(&config).await?;
        same_server(&client, &data).await?;
        let query = "select current_setting('server_version_num')::int / 10000, \
            (select system_identifier::text from pg_control_system()), \
            (select setting::bigint from pg_settings where name = 'wal_segment_size')";
        let row = client.query_one(query, &[]).await.context("asking the server what it is")?;
        let system: String = row.get(1);
        let identity = Identity {
            system_identifier: system.parse().context("the server's system identifier is no number")?,
            major: u32::try_from(row.get::<_, i32>(0))?,
            segment_size: u64::try_from(row.get::<_, i64>(2))?,
        };
        Ok(Server { data, config, identity })
    }

    async fn is_standby(&self) -> anyhow::Result<bool> {
        Ok(connect(&self.config).await?.query_one("select pg_is_in_recovery()", &[]).await?.get(0))
    }
}

/// How a member's own PostgreSQL is reached on its host.
pub fn session(local: &LocalConfig) -> anyhow::Result<Config> {
    let (postgresql, superuser) = (&local.postgresql, &local.postgresql.authentication.superuser);
    let mut config = Config::new();
    config.host_path(std::path::absolute(postgresql.run_dir())?).port(postgresql.listen.port);
    config.user(&superuser.username).dbname("postgres");
    if let Some(password) = &superuser.password {
        config.password(password.reveal());
    }
    Ok(config)
}

/// The files must be those of the server that is put into backup mode.
async fn same_server(client: &Client, data: &Path) -> anyhow::Result<()> {
    let path = data.join("postmaster.pid");
    let here = std::fs::read_to_string(&path).with_context(|| {
        format!(
            "{} cannot be read: is this the data directory of a running server, and may this user read it?",
            path.display()
        )
    })?;
    let row = client.query_one("select pg_read_file('postmaster.pid')", &[]).await;
    let there: String = row.context("the session needs the rights of pg_read_server_files")?.get(0);
    // The last lines change while a server runs.
    let head = |text: &str| text.lines().take(3).map(str::to_owned).collect::<Vec<_>>();
    if head(&here) == head(&there) {
        return Ok(());
    }
    let text = format!("{} is the data directory of another server than the one that --dsn leads to", data.display());
    Err(Failure::new(code::USAGE, text).into())
}

/// A session of its own.
pub async fn connect(config: &Config) -> anyhow::Result<Client> {
    let connected = config.connect(NoTls).await;
    let (client, connection) = connected.map_err(|error| {
        let mut text = format!("could not connect to PostgreSQL: {error}");
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            text.push_str(&format!(": {cause}"));
            source = cause.source();
        }
        Failure::new(code::UNAVAILABLE, text)
    })?;
    tokio::spawn(connection);
    Ok(client)
}
