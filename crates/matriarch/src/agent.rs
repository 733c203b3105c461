//! `matriarch agent`: one member, from its configuration file.

use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use clap::Args;
use matriarch_agent::restored::{Order, Whence};
use matriarch_agent::{AgentBackend, Ending, Heartbeats, Options, Shared, Shell, dumped, virtual_ip};
use matriarch_archive::door::{Chosen, Foreign};
use matriarch_archive::restore::Wanted;
use matriarch_config::{
    Archive, BootstrapRestore, DynamicConfig, LocalConfig, LogFormat as FileFormat, PostgresLog, Role,
};
use matriarch_postgres::bootstrap::InitdbOptions;
use matriarch_postgres::conf::ServerTls;
use matriarch_postgres::{Binaries, Credentials, Instance, Owner, owner};
use matriarch_tls::VerifyClient;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::api_tls;
use crate::credentials::ApiCredentials;
use crate::logging::{self, LogFormat};
use crate::proxy::{beside_agent, follow_beside_agent, stop_asked};
use crate::routing::Routing;
use crate::service;
use crate::store::{self, StoreAddress};
use crate::upgrade::{self, Asked, Estate};

/// `agent`.
#[derive(Args, Clone, Debug)]
#[command(after_long_help = "Examples:\n  matriarch config check host.yaml\n  matriarch agent --config host.yaml")]
pub struct AgentArgs {
    /// Form of the log; the configuration file's unless given
    #[arg(long, value_enum)]
    pub log_format: Option<LogFormat>,
    /// End when the standard input ends: whoever started this process is gone
    #[arg(long, hide = true)]
    pub supervised: bool,
}

impl AgentArgs {
    /// Recognises `agent [--supervised] --config FILE` among a program's arguments (without its name), which is how `up`
    /// and systemd start agents: the parser of all verbs would stay in the memory of a process that runs for months.
    pub fn from_arguments(arguments: impl Iterator<Item = OsString>) -> Option<(AgentArgs, PathBuf)> {
        let words: Vec<OsString> = arguments.take(5).collect();
        let (supervised, config) = match words.as_slice() {
            [verb, supervised, flag, file] if verb == "agent" && supervised == "--supervised" && flag == "--config" => {
                (true, file)
            }
            [verb, flag, file] if verb == "agent" && flag == "--config" => (false, file),
            _ => return None,
        };
        Some((AgentArgs { log_format: None, supervised }, config.into()))
    }
}

impl AgentArgs {
    /// Whether something will start this process again: `up`, or systemd whose main process it is (its children inherit
    /// the variable, and the number is not theirs).
    fn is_supervised(&self) -> bool {
        let by_systemd = std::env::var("SYSTEMD_EXEC_PID").is_ok_and(|pid| pid == std::process::id().to_string());
        self.supervised || by_systemd
    }
}

/// Runs until it is told to stop; PostgreSQL is stopped with it.
pub async fn run(args: AgentArgs, file: &Path) -> anyhow::Result<()> {
    let asked = Asked::listen()?;
    let config = LocalConfig::load(file)?;
    start_logging(&config, args.log_format);
    let Estate { api: left_api, handover, proxy: left } = upgrade::inherited();
    let api_down = CancellationToken::new();
    // First of all: connections may stand still.
    let routing = match &config.proxy {
        Some(proxy) => Some(beside_agent(proxy, left, handover, api_down.clone()).await?),
        None => {
            let count = left.map_or(0, |left| left.connections());
            if count > 0 {
                tracing::warn!(count, "connections end: there is no section proxy in {} any more", file.display());
            }
            None
        }
    };
    let movable = routing.as_ref().map(Routing::movable);
    if let Some(settings) = &config.virtual_ip {
        virtual_ip::check(settings).await?;
    }
    let store = store::open(&StoreAddress::from(&config.store), &config.prefix(), true).await?;
    let options = Arc::new(Options { supervised: args.is_supervised(), ..options(&config, file)? });
    let credentials = ApiCredentials::read(&config)?;
    let tls = options.api_tls.clone();
    let certified = tls.as_ref().is_some_and(|tls| tls.verify() != VerifyClient::None);
    let auth = if certified { credentials.auth().with_certificates() } else { credentials.auth() };
    let peers = api_tls::peers(&config);
    let heartbeats = Heartbeats::new(config.scope.clone(), config.name.clone(), credentials.header(), peers);
    let shared = Shared::new(store.clone(), heartbeats);

    let listener = listen(&config, left_api).await?;
    let (program, next_api) = (asked.program().to_owned(), listener.as_fd().try_clone_to_owned());
    let router = matriarch_api::router(Arc::new(AgentBackend::new(shared.clone())), auth);
    let api = tokio::spawn(matriarch_api::serve(listener, router, tls, api_down.clone().cancelled_owned()));

    let told = shared.clone();
    tokio::spawn(async move {
        stop_asked(args.supervised).await;
        told.stop();
    });
    tokio::spawn(reload_on_hangup(shared.clone()));
    tokio::spawn(upgrade_on_signal(asked, shared.clone(), file.to_owned()));
    tracing::info!(
        "agent of member {} of cluster {}, PostgreSQL {} in {}",
        config.name,
        config.scope,
        options.instance.binaries.version().text,
        options.instance.data_dir.display()
    );
    let proxy = match (routing, &config.proxy) {
        (Some(routing), Some(proxy)) => Some(follow_beside_agent(routing, &config, proxy, store.clone())?),
        _ => None,
    };
    let service = service::start(&config, &shared);
    let result = Shell::new(options, store, shared).run().await;
    if let Ok(Ending::Upgrade) = result {
        let left = match &movable {
            Some(movable) => movable.leave().await,
            None => Estate::default(),
        };
        let exec = || upgrade::exec(&program, Estate { api: next_api.ok(), ..left });
        return Err(if config.virtual_ip.is_some() { virtual_ip::handing_down(exec) } else { exec() });
    }
    if let Some((stop, task)) = service {
        drop(stop);
        let _ = task.await;
    }
    api_down.cancel();
    if let Some(proxy) = proxy {
        let _ = proxy.await;
    }
    let _ = tokio::time::timeout(std::time::Duration::from_secs(2), api).await;
    result.map(|_| ())
}

/// As the agent's file says, unless somebody says otherwise.
pub fn start_logging(config: &LocalConfig, format: Option<LogFormat>) {
    let format = format.unwrap_or(match config.log.format {
        FileFormat::Text => LogFormat::Text,
        FileFormat::Json => LogFormat::Json,
    });
    logging::start(format, &format!("{:?}", config.log.level).to_lowercase());
}

/// Makes way on SIGUSR2, once the program that takes over has proved to work.
async fn upgrade_on_signal(mut asked: Asked, shared: Arc<Shared>, config: PathBuf) {
    let check = [OsString::from("config"), "check".into(), config.as_os_str().to_owned()];
    loop {
        asked.for_working(&check).await;
        // The next program would not start either, with PostgreSQL left to the guard.
        let tls = LocalConfig::load(config.as_path()).ok().map(|local| api_tls::server(&local));
        match tls {
            Some(Err(error)) => tracing::error!("the program is not exchanged: {error:#}"),
            // A file that the next program alone understands is its own business: it has proved to.
            Some(Ok(_)) | None => shared.upgrade(),
        }
    }
}

/// The habit of every daemon: SIGHUP loads the configuration again.
async fn reload_on_hangup(shared: Arc<Shared>) {
    let mut hangup = signal(SignalKind::hangup()).expect("SIGHUP can be handled");
    while hangup.recv().await.is_some() {
        shared.reload().await;
    }
}

/// Listens for the REST API, on the socket that the program before this one left if it is for the same address.
async fn listen(config: &LocalConfig, left: Option<OwnedFd>) -> anyhow::Result<TcpListener> {
    let addresses = config.restapi.listen.socket_addrs();
    let left = left.map(std::net::TcpListener::from);
    if let Some(listener) = left.filter(|left| left.local_addr().is_ok_and(|at| addresses.contains(&at))) {
        return Ok(TcpListener::from_std(listener)?);
    }
    TcpListener::bind(&addresses[..]).await.with_context(|| {
        format!(
            "the REST API cannot listen on {} (restapi.listen): is another agent running there? choose another port \
             or stop it",
            addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
        )
    })
}

fn options(config: &LocalConfig, file: &Path) -> anyhow::Result<Options> {
    let local = &config.postgresql;
    let binaries = Binaries::find(local.bin_dir.as_deref(), None)?;
    let owner = Owner::choose(local.user.as_deref())?;
    let data_dir = absolute(&local.data_dir)?;
    if let Some(parent) = data_dir.parent() {
        std::fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
        if let Some(owner) = &owner {
            owner::check_reachable(parent, owner)?;
        }
    }
    let credentials = |role: &Role| Credentials {
        username: role.username.clone(),
        password: role.password.as_ref().map(|password| password.reveal().to_owned()).unwrap_or_default(),
    };
    let run_dir = absolute(&local.run_dir())?;
    let guard_socket = beside(&run_dir, ".guard");
    let archive_socket = beside(&run_dir, ".archive");
    let postgres_log = match &config.log.postgresql {
        PostgresLog::File(path) => absolute(path)?,
        PostgresLog::Stream => beside(&data_dir, ".log"),
    };
    let authentication = &local.authentication;
    Ok(Options {
        scope: config.scope.clone(),
        instance: Instance {
            binaries,
            data_dir,
            run_dir,
            port: local.listen.port,
            listen_addresses: local.listen.hosts.clone(),
            owner,
            passfile: local.pgpass.as_deref().map(absolute).transpose()?,
            name: config.name.clone(),
            superuser: credentials(&authentication.superuser),
            replication: credentials(&authentication.replication),
            rewind: credentials(authentication.rewind()),
            pooler: authentication.pooler.as_ref().map(|role| Credentials {
                username: role.username.clone(),
                password: role.password.reveal().to_owned(),
            }),
        },
        postgres_address: local.connect_address.to_string(),
        api_url: config.restapi.url(),
        api_tls: api_tls::server(config)?,
        postgres_log,
        stream_postgres_log: config.log.postgresql == PostgresLog::Stream,
        libpq: local.libpq(&authentication.replication),
        rewind_libpq: local.libpq(authentication.rewind()),
        parameters: local.parameters.clone(),
        pg_hba: local.pg_hba.clone(),
        pg_ident: local.pg_ident.clone(),
        tls: local.tls.as_ref().map(|tls| ServerTls {
            cert_file: tls.cert_file.clone(),
            key_file: tls.key_file.clone(),
            ca_file: tls.ca_file.clone(),
        }),
        tags: config.tags.to_json().into_iter().collect(),
        initdb: initdb(config),
        restore: restore(config)?.map(Arc::new),
        dump: dump(config)?.map(Arc::new),
        bootstrap_config: config.bootstrap.dcs.is_object().then(|| config.bootstrap.dcs.clone()),
        program: upgrade::program().context("cannot find our own program, which is the guard's too")?,
        guard_socket,
        archive_socket,
        host_id: crate::host::id(),
        virtual_ip: config.virtual_ip.clone(),
        watchdog: config.watchdog.clone(),
        require_tls: local.tls.as_ref().is_some_and(|tls| tls.require),
        supervised: false,
        config_file: Some(absolute(file)?),
    })
}

/// The backup that a new cluster is made from, if one is named.
fn restore(config: &LocalConfig) -> anyhow::Result<Option<Order>> {
    let Some(restore) = &config.bootstrap.restore else { return Ok(None) };
    let place = |text: &String| text.split_once('=').map(|(name, path)| (name.to_owned(), PathBuf::from(path)));
    Ok(Some(Order {
        whence: whence(config, restore)?,
        wanted: Wanted {
            target: restore.to.clone(),
            timeline: restore.timeline,
            backup: restore.backup.clone(),
            tail: !restore.no_tail,
        },
        tablespaces: restore.tablespace.iter().filter_map(place).collect(),
    }))
}

fn whence(config: &LocalConfig, restore: &BootstrapRestore) -> anyhow::Result<Whence> {
    if let Some(from) = &restore.from {
        let tool =
            from.tool.parse().map_err(|error: String| anyhow::anyhow!("bootstrap.restore.from.tool: {error}"))?;
        let (name, key_file) = (from.stanza.clone(), from.key_file.clone());
        let foreign = Foreign { tool, repository: from.repository(), name, chosen: Chosen::default(), key_file };
        return Ok(Whence::Foreign(Box::new(foreign)));
    }
    let section = source(config, restore.archive.as_ref(), restore.identity.as_ref());
    let section = section.context("bootstrap.restore: it names no archive")?;
    let cluster = restore.scope.clone().unwrap_or_else(|| config.scope.clone());
    let (own, incarnation) = (cluster == config.scope, restore.incarnation.clone());
    Ok(Whence::Archive { section: Box::new(section), cluster, own, incarnation })
}

/// The dump that a new cluster is filled with, if one is named.
fn dump(config: &LocalConfig) -> anyhow::Result<Option<dumped::Order>> {
    let Some(dump) = &config.bootstrap.dump else { return Ok(None) };
    let section = source(config, dump.archive.as_ref(), dump.identity.as_ref());
    Ok(Some(dumped::Order {
        section: section.context("bootstrap.dump: it names no archive")?,
        cluster: dump.scope.clone().unwrap_or_else(|| config.scope.clone()),
        incarnation: dump.incarnation.clone(),
        name: dump.name.clone(),
        databases: dump.databases.clone(),
        no_tablespaces: dump.no_tablespaces,
        jobs: dump.jobs,
    }))
}

/// The archive that a new cluster is made from: the one that is named, else its own.
fn source(config: &LocalConfig, named: Option<&Archive>, identity: Option<&PathBuf>) -> Option<Archive> {
    let own = || DynamicConfig::from_json(&config.bootstrap.dcs).ok()?.archive;
    let mut section = named.cloned().or_else(own)?;
    if let Some(identity) = identity {
        section.encryption.identity_file = Some(identity.clone());
    }
    Some(section)
}

fn initdb(config: &LocalConfig) -> InitdbOptions {
    let mut options = InitdbOptions::default();
    for option in &config.bootstrap.initdb {
        match (option.name.as_str(), &option.value) {
            ("encoding", Some(value)) => options.encoding = value.clone(),
            ("locale", Some(value)) => options.locale = value.clone(),
            ("data-checksums", None) => options.data_checksums = true,
            ("no-data-checksums", None) => options.data_checksums = false,
            (name, Some(value)) => options.extra.push(format!("--{name}={value}")),
            (name, None) => options.extra.push(format!("--{name}")),
        }
    }
    options
}

fn absolute(path: &Path) -> anyhow::Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("cannot make {} absolute", path.display()))
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use clap::Parser;

    use super::AgentArgs;
    use crate::cluster::Which;

    #[derive(Parser)]
    struct Whole {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        args: AgentArgs,
    }

    #[test]
    fn the_short_way_reads_what_the_whole_parser_reads() {
        let short = |words: &[&str]| AgentArgs::from_arguments(words.iter().map(OsString::from));
        for words in [&["agent", "--config", "a b.yaml"][..], &["agent", "--supervised", "--config", "x"]] {
            let ((args, config), whole) = (short(words).expect("it is the usual form"), Whole::parse_from(words));
            assert_eq!((Some(config), args.supervised), (whole.which.config, whole.args.supervised));
        }
        for words in [&["agent"][..], &["agent", "--help"], &["agent", "--config"], &["agent", "--config", "x", "y"]] {
            assert!(short(words).is_none(), "{words:?}");
        }
    }
}
