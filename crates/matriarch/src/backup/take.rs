//! Taking a base backup of a server on this machine.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use clap::{Args, ValueEnum};
use matriarch_archive::archive::Archive;
use matriarch_archive::base::{self, Summary};
use matriarch_archive::configured::{Identity, Own};
use matriarch_archive::progress::Progress;
use matriarch_archive::retention::{self, Policy};
use matriarch_cli::{Failure, Part, Tone, Ui, code, units};
use matriarch_config::LocalConfig;
use tokio_postgres::{Client, Config, NoTls};

use super::archives::Found;
use super::fail::failed;
use super::list::Line;
use super::meter::{Meter, interrupted};
use super::span;
use crate::cluster::{self, Which};

/// What a backup is taken of, and how.
#[derive(Args, Clone, Debug)]
pub struct TakeArgs {
    /// Data directory of the server; the member's own (--config) unless given
    #[arg(long, value_name = "DIR", requires = "dsn", help_heading = "Which server")]
    data_dir: Option<PathBuf>,
    /// Connection string for the server, as superuser or with the rights of pg_backup_start and pg_read_server_files
    #[arg(long, value_name = "DSN", requires = "data_dir", help_heading = "Which server")]
    dsn: Option<String>,
    /// Member of a cluster made by 'matriarch up'; the primary unless given
    #[arg(long, value_name = "NAME", conflicts_with = "dsn", help_heading = "Which server")]
    member: Option<String>,
    /// What the checkpoint at the beginning does: `fast` is done at once, `spread` spares the disks for some minutes
    #[arg(long, value_enum, default_value_t)]
    checkpoint: Checkpoint,
    /// Threads that read, compress and encrypt; as many as there are processors, up to 4, unless given
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=64))]
    jobs: Option<u16>,
    /// How long to wait for WAL that another server must archive
    #[arg(long, value_name = "TIME", default_value = "10min", value_parser = span)]
    wal_timeout: Duration,
    /// As the agents begin it: only if one is due by the schedule and nobody takes it yet
    #[arg(long, hide = true, conflicts_with_all = ["dsn", "member"])]
    pub scheduled: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Checkpoint {
    #[default]
    Fast,
    Spread,
}

/// A backup that was taken.
pub struct Taken {
    pub name: String,
    /// One for each repository.
    pub lines: Vec<Line>,
    /// Which pages of the server were damaged, and what to do.
    pub damage: Option<String>,
}

/// `backup`.
pub async fn take(args: TakeArgs, which: &Which, found: &Found, ui: &mut Ui) -> anyhow::Result<()> {
    let Some(Taken { name, lines, damage }) = into_all(&args, which, found, interrupted()?).await? else {
        return Err(Failure::new(code::TEMPORARY, "interrupted: there is no backup").into());
    };
    lines.iter().for_each(|line| ui.note(&format!("backup {name} is in {}", line.repository)));
    if let Some(text) = damage {
        return Err(Failure::new(code::DATA, text).into());
    }
    ui.show(&lines, || {
        let stored = lines.iter().map(|line| format!("{} stored in {}", units::bytes(line.stored), line.repository));
        let size = lines.first().map_or(0, |line| line.size);
        let text = format!("Backup {name}: {}, {}", units::bytes(size), stored.collect::<Vec<_>>().join(", "));
        vec![Part::Line(Tone::Strong, text)]
    })
}

/// Takes a backup into every repository that is meant, one after the other. None: `stop` ended first.
pub async fn into_all(
    args: &TakeArgs,
    which: &Which,
    found: &Found,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<Option<Taken>> {
    let server = Server::find(args, which).await?;
    let own = Own::of(&server.data, server.identity).map_err(failed)?;
    let mut taken = Taken { name: new_name(), lines: Vec::new(), damage: None };
    tokio::pin!(stop);
    for repository in found.repositories().await? {
        let archive = found.configured.begin(&repository, &own).await.map_err(failed)?;
        let Some(summary) = one(args, &server, &archive, &taken.name, stop.as_mut()).await? else { return Ok(None) };
        taken.lines.push(Line::new(&archive, &summary, None, Default::default()));
        if !summary.damaged.is_empty() {
            let first = summary.damaged.iter().take(10).map(|page| format!("{} block {}", page.path, page.block));
            taken.damage = Some(format!(
                "backup {} is complete, but {} pages of the server were damaged before it began, which no restore mends: {}; \
                 look at the disk, and restore these relations from an older backup",
                taken.name,
                summary.damaged.len(),
                first.collect::<Vec<_>>().join(", ")
            ));
        }
    }
    Ok(Some(taken))
}

async fn one(
    args: &TakeArgs,
    server: &Server,
    archive: &Archive,
    name: &str,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<Option<Summary>> {
    let processors = std::thread::available_parallelism().map_or(1, usize::from).min(4);
    let options = base::Options {
        data: server.data.clone(),
        workers: args.jobs.map_or(processors, usize::from),
        fast: args.checkpoint == Checkpoint::Fast,
        wal_patience: args.wal_timeout,
        progress: Progress::default(),
    };
    // Nobody looks, and it would fill the agent's log.
    let meter = (!args.scheduled).then(|| Meter::start("backup", &options.progress));
    // A session of its own: when it ends, so does backup mode.
    let client = connect(&server.config).await?;
    let taken = tokio::select! {
        taken = base::backup(archive, &client, name, &options) => Some(taken),
        () = stop => None,
    };
    drop(meter);
    match taken {
        Some(Ok(summary)) => Ok(Some(summary)),
        Some(Err(error)) => {
            clear_away(archive, name).await;
            Err(failed(error))
        }
        None => {
            drop(client);
            clear_away(archive, name).await;
            Ok(None)
        }
    }
}

/// What has been written is of no use to anybody; if it cannot be removed now, 'backup expire' does it later.
async fn clear_away(archive: &Archive, name: &str) {
    let policy = Policy { grace: Duration::ZERO, ..Policy::new(None, None) };
    let clear = async {
        let plan = retention::plan(archive, &policy, Some(name), jiff::Timestamp::now()).await?;
        retention::run(archive, &plan, |_| {}).await
    };
    let _ = tokio::time::timeout(Duration::from_secs(20), clear).await;
}

/// By the time it began, so that people can tell them apart; nothing is ever decided by it.
pub fn new_name() -> String {
    let suffix: u16 = rand::random();
    format!("{}-{suffix:04x}", jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ"))
}

/// The server that is backed up.
struct Server {
    data: PathBuf,
    config: Config,
    identity: Identity,
}

impl Server {
    async fn find(args: &TakeArgs, which: &Which) -> anyhow::Result<Server> {
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
