//! Which server a backup is taken of: a member of a cluster, or any server on this machine.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use clap::{Args, ValueEnum};
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
    #[command(flatten)]
    one: MemberArgs,
    /// The primary, or the first by name of the standbys that are not tagged `nobackup`
    #[arg(long, value_name = "ROLE", value_enum, conflicts_with_all = ["dsn", "member"], help_heading = "Which server")]
    from: Option<Side>,
}

/// Which member.
#[derive(Args, Clone, Debug, Default)]
pub struct MemberArgs {
    /// Member of a cluster made by 'matriarch up'; the primary unless given
    #[arg(long, value_name = "NAME", conflicts_with = "dsn", help_heading = "Which server")]
    member: Option<String>,
}

/// What a member is at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Side {
    /// Takes writes.
    Primary,
    /// Follows it.
    Standby,
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
        let text =
            "which server? Name the member's configuration with --config, or the server with --data-dir and --dsn";
        Server::of(&args.one.find(args.from, which, text).await?).await
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
}

impl MemberArgs {
    /// The configuration of the member that is meant: of the file that is named, or of a cluster made by `up`. `hint`: what to
    /// name when there is neither.
    pub async fn find(&self, from: Option<Side>, which: &Which, hint: &'static str) -> anyhow::Result<LocalConfig> {
        if let Some(file) = &which.config {
            let local = LocalConfig::load(file)?;
            if let Some(side) = from {
                side.must_be(&local).await?;
            }
            return Ok(local);
        }
        let cluster = cluster::local(which).context(hint)?;
        let load = |name: &str| LocalConfig::load(cluster.agent_config(name));
        let mut members = cluster.members.iter().map(|member| member.name.as_str());
        if let Some(wanted) = &self.member {
            let text = || format!("cluster {} has no member '{wanted}'", cluster.scope);
            let name = members.find(|name| name == wanted).ok_or_else(|| Failure::new(code::USAGE, text()))?;
            return Ok(load(name)?);
        }
        let side = from.unwrap_or(Side::Primary);
        let (mut passed, mut failure) = (Vec::new(), None);
        for name in members {
            let local = load(name)?;
            match Side::of(&local).await {
                Ok(found) if found != side => {}
                Ok(Side::Standby) if local.tags.nobackup => passed.push(name),
                Ok(_) => return Ok(local),
                Err(error) => failure = Some(error),
            }
        }
        Err(side.nobody(&passed, failure))
    }
}

impl Side {
    async fn of(local: &LocalConfig) -> anyhow::Result<Side> {
        let client = connect(&session(local)?).await?;
        let row = client.query_one("select pg_is_in_recovery()", &[]).await.context("asking the server what it is")?;
        Ok(if row.get(0) { Side::Standby } else { Side::Primary })
    }

    fn name(self) -> &'static str {
        match self {
            Side::Primary => "primary",
            Side::Standby => "standby",
        }
    }

    /// A person has named one member, and what it must be.
    async fn must_be(self, local: &LocalConfig) -> anyhow::Result<()> {
        let found = Side::of(local).await?;
        let text = match found {
            found if found != self => {
                format!("{} is {}; name another member's configuration", local.name, found.name())
            }
            Side::Standby if local.tags.nobackup => {
                format!("{} is tagged `nobackup`; leave --from out to take it all the same", local.name)
            }
            _ => return Ok(()),
        };
        Err(Failure::new(code::UNAVAILABLE, text).into())
    }

    /// Why there is none. What could not be asked may be one.
    fn nobody(self, passed: &[&str], failure: Option<anyhow::Error>) -> anyhow::Error {
        let text = match passed {
            [] => format!("no member is {} at the moment", self.name()),
            [first, others @ ..] => format!(
                "{} {} tagged `nobackup`, and there is no other standby; --member {first} takes it all the same",
                passed.join(", "),
                if others.is_empty() { "is" } else { "are" }
            ),
        };
        match failure {
            Some(error) if passed.is_empty() => error,
            Some(error) => {
                let text = format!("{text}. Another member could not be asked: {error:#}");
                Failure::new(code::UNAVAILABLE, text).into()
            }
            None => Failure::new(code::UNAVAILABLE, text).into(),
        }
    }
}

/// How a member's own PostgreSQL is reached on its host.
pub fn session(local: &LocalConfig) -> anyhow::Result<Config> {
    let (postgresql, superuser) = (&local.postgresql, &local.postgresql.authentication.superuser);
    let mut config = Config::new();
    let data_dir = std::path::absolute(&postgresql.data_dir)?;
    let elsewhere = matriarch_postgres::postmaster::socket_dir(&data_dir);
    config
        .host_path(elsewhere.map_or_else(|| std::path::absolute(postgresql.run_dir()), Ok)?)
        .port(postgresql.listen.port);
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
