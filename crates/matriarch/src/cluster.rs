//! Finds the cluster that a command is about: by `--dir`, by `--store`, by an agent's configuration, or the only one that
//! runs here.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use matriarch_cli::{Connection, Endpoint, Failure, Target, code};
use matriarch_config::LocalConfig;
use matriarch_dcs::consul::ConsulOptions;
use matriarch_dcs::etcd::EtcdOptions;
use matriarch_tls::PeerTls;
use serde::{Deserialize, Serialize};

use crate::api_tls::ApiAccess;
use crate::credentials::ApiCredentials;
use crate::store::{self, StoreAccess, StoreAddress};

/// Title in the help, so that these stand apart from a verb's own options.
pub const WHICH: &str = "Which cluster";

/// Which cluster.
#[derive(Args, Clone, Debug, Default)]
pub struct Which {
    /// Directory of a cluster made by `matriarch up` (default: ./.matriarch, or the only one running here)
    #[arg(long, global = true, value_name = "DIR", env = "MATRIARCH_DIR", help_heading = WHICH)]
    pub dir: Option<PathBuf>,
    /// Configuration file of an agent of the cluster: its store, its scope and its credentials are used
    #[arg(long, global = true, value_name = "FILE", env = "MATRIARCH_CONFIG", help_heading = WHICH)]
    pub config: Option<PathBuf>,
    /// Store of the cluster, with --scope: etcd:HOST:PORT[,HOST:PORT…], etcds:… with TLS, or sqlite:PATH
    #[arg(long, global = true, value_name = "STORE", env = "MATRIARCH_STORE", help_heading = WHICH)]
    pub store: Option<StoreAddress>,
    #[command(flatten)]
    pub access: StoreAccess,
    /// Name of the cluster in the store: `scope` of its configuration files
    #[arg(long, global = true, value_name = "NAME", env = "MATRIARCH_SCOPE", help_heading = WHICH)]
    pub scope: Option<String>,
    /// Where clusters live in the store: `namespace` of their configuration files (default: /service)
    #[arg(long, global = true, value_name = "PATH", env = "MATRIARCH_NAMESPACE", help_heading = WHICH)]
    pub namespace: Option<String>,
    #[command(flatten)]
    pub api: ApiAccess,
    /// Token for commands, when the cluster was not made by `matriarch up`
    #[arg(
        long,
        global = true,
        value_name = "TOKEN",
        env = "MATRIARCH_TOKEN",
        hide_env_values = true,
        help_heading = WHICH
    )]
    pub token: Option<String>,
}

/// Where clusters live unless somebody says otherwise.
const NAMESPACE: &str = "/service";

/// A cluster in a store, as the command line or an agent's configuration names it.
struct Named {
    address: StoreAddress,
    scope: String,
    namespace: String,
    authorization: Option<String>,
    peers: PeerTls,
}

impl Named {
    /// What the cluster's keys begin with.
    fn prefix(&self) -> String {
        prefix(&self.namespace, &self.scope)
    }
}

fn prefix(namespace: &str, scope: &str) -> String {
    format!("/{}/{scope}/", namespace.trim_matches('/'))
}

impl Which {
    /// The cluster, if it is named by its store: what the command line says wins over the configuration file.
    fn named(&self) -> anyhow::Result<Option<Named>> {
        if self.dir.is_some() || (self.store.is_none() && self.config.is_none()) {
            return Ok(None);
        }
        let config = self.config.as_ref().map(LocalConfig::load).transpose()?;
        let configured = config.as_ref().map(|config| StoreAddress::from(&config.store));
        let address = match (&self.store, configured) {
            // The same kind of store: who we are to it is in the file.
            (Some(StoreAddress::Etcd(named)), Some(StoreAddress::Etcd(configured))) => {
                StoreAddress::Etcd(Box::new(EtcdOptions { servers: named.servers.clone(), ..*configured }))
            }
            (Some(StoreAddress::Consul(named)), Some(StoreAddress::Consul(configured))) => {
                let tls = named.tls.as_ref().map(|_| configured.tls.clone().unwrap_or_default());
                let endpoints = named.endpoints.clone();
                StoreAddress::Consul(Box::new(ConsulOptions { endpoints, tls, ..*configured }))
            }
            (Some(named), _) => named.clone(),
            (None, Some(configured)) => configured,
            (None, None) => return Ok(None),
        };
        let scope = self.scope.clone().or(config.as_ref().map(|config| config.scope.clone()));
        let namespace = self.namespace.clone().or(config.as_ref().map(|config| config.namespace.clone()));
        Ok(Some(Named {
            address: address.with(&self.access),
            scope: scope.context("--store needs --scope, the name of the cluster in it")?,
            namespace: namespace.unwrap_or_else(|| NAMESPACE.to_owned()),
            authorization: match (&self.token, &config) {
                (Some(token), _) => matriarch_api::authorization(Some(token), None),
                (None, Some(config)) => ApiCredentials::readable(config)?.header(),
                (None, None) => None,
            },
            peers: self.api.peers(config.as_ref()),
        }))
    }
}

/// Directory of a cluster that was not given one.
pub const DEFAULT_DIR: &str = ".matriarch";

/// Name of the file in a cluster's directory that says what it consists of.
pub const FILE: &str = "cluster.json";

/// A cluster made by `matriarch up`, as its directory tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalCluster {
    /// Its name.
    pub scope: String,
    /// Its directory, absolute.
    pub dir: PathBuf,
    /// Its members.
    pub members: Vec<LocalMember>,
    /// Port that leads to the primary.
    pub read_write: u16,
    /// Port that leads to replicas.
    pub read_only: u16,
    /// Role for administration.
    pub superuser: String,
    /// Directory of PostgreSQL's programs.
    pub bin_dir: PathBuf,
    /// Token for commands.
    pub token: String,
    /// Section of the agents' configurations that names the store, when it is not the file in the directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<serde_json::Value>,
    /// It was made with a repository beside its data.
    #[serde(default)]
    pub archive: bool,
}

/// One member of a [`LocalCluster`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalMember {
    /// Its name.
    pub name: String,
    /// Port of its PostgreSQL.
    pub postgres: u16,
    /// Port of its API.
    pub api: u16,
}

/// A store and the prefix of a cluster's keys in it.
pub struct Place {
    /// The store.
    pub address: StoreAddress,
    /// `/service/<scope>/`.
    pub prefix: String,
}

/// A cluster that was found.
pub enum Found {
    /// By its directory.
    Local(Box<LocalCluster>),
    /// By its store.
    Remote(Box<Target>),
}

impl LocalCluster {
    /// The store's file, unless the cluster uses another store.
    pub fn store_file(&self) -> PathBuf {
        self.dir.join("store.db")
    }

    /// The directory that WAL and backups go to, if it was made with one.
    pub fn repository(&self) -> PathBuf {
        self.dir.join("archive")
    }

    /// The configuration file of a member's agent.
    pub fn agent_config(&self, name: &str) -> PathBuf {
        self.member_dir(name).join("agent.yaml")
    }

    /// Its store.
    pub fn address(&self) -> anyhow::Result<StoreAddress> {
        if self.store.is_none() {
            return Ok(StoreAddress::Sqlite(self.store_file()));
        }
        let first = self.members.first().context("a cluster has members")?;
        Ok(StoreAddress::from(&LocalConfig::load(self.agent_config(&first.name))?.store))
    }

    /// The password file for psql.
    pub fn passfile(&self) -> PathBuf {
        self.dir.join("pgpass")
    }

    /// A member's directory.
    pub fn member_dir(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Reads the file in a cluster's directory.
    pub fn read(dir: &Path) -> anyhow::Result<LocalCluster> {
        let path = dir.join(FILE);
        let text = std::fs::read_to_string(&path).map_err(|error| {
            let text = match error.kind() {
                std::io::ErrorKind::NotFound => {
                    format!(
                        "{} is not a cluster's directory: it has no {FILE}; start one with `matriarch up --dir {}`",
                        dir.display(),
                        dir.display()
                    )
                }
                _ => format!("{} cannot be read: {error}; use the user that runs `matriarch up`", path.display()),
            };
            Failure::new(code::UNAVAILABLE, text)
        })?;
        let cluster: LocalCluster = serde_json::from_str(&text).map_err(|error| {
            let text = format!(
                "{} is damaged ({error}); `matriarch up --dir {}` writes it again",
                path.display(),
                dir.display()
            );
            Failure::new(code::DATA, text)
        })?;
        Ok(LocalCluster { dir: std::path::absolute(dir)?, ..cluster })
    }
}

impl Found {
    /// For the verbs.
    pub fn target(self) -> Target {
        match self {
            Found::Remote(target) => *target,
            Found::Local(cluster) => Target {
                cluster: cluster.scope.clone(),
                members: cluster
                    .members
                    .iter()
                    .map(|member| Endpoint {
                        name: member.name.clone(),
                        api_url: format!("http://127.0.0.1:{}", member.api),
                    })
                    .collect(),
                authorization: matriarch_api::authorization(Some(&cluster.token), None),
                tls: PeerTls::default(),
                connection: Connection {
                    read_write: Some(format!("127.0.0.1:{}", cluster.read_write)),
                    read_only: Some(format!("127.0.0.1:{}", cluster.read_only)),
                    superuser: cluster.superuser.clone(),
                    database: "postgres".to_owned(),
                    passfile: Some(cluster.passfile()),
                    psql: Some(cluster.bin_dir.join("psql")),
                },
            },
        }
    }
}

/// Finds the cluster.
pub async fn find(which: &Which) -> anyhow::Result<Found> {
    match which.named()? {
        Some(named) => Ok(Found::Remote(Box::new(from_store(&named).await?))),
        None => Ok(Found::Local(Box::new(find_local(which)?))),
    }
}

/// Finds the cluster's store.
pub async fn find_store(which: &Which) -> anyhow::Result<Place> {
    if let Some(named) = which.named()? {
        return Ok(Place { prefix: named.prefix(), address: named.address });
    }
    let cluster = find_local(which)?;
    let namespace = which.namespace.as_deref().unwrap_or(NAMESPACE);
    Ok(Place { address: cluster.address()?, prefix: prefix(namespace, &cluster.scope) })
}

/// The cluster made by `matriarch up` that is meant.
pub fn local(which: &Which) -> anyhow::Result<LocalCluster> {
    find_local(which)
}

fn find_local(which: &Which) -> anyhow::Result<LocalCluster> {
    if let Some(dir) = &which.dir {
        return LocalCluster::read(dir);
    }
    let here = Path::new(DEFAULT_DIR);
    if here.join(FILE).exists() {
        return LocalCluster::read(here);
    }
    let running = running();
    match running.as_slice() {
        [only] => LocalCluster::read(only),
        [] => Err(Failure::new(
            code::UNAVAILABLE,
            "no cluster runs on this machine; start one with `matriarch up`, or name one with --dir, --config or --store",
        )
        .into()),
        several => {
            let list: Vec<String> = several.iter().map(|dir| format!("  --dir {}", dir.display())).collect();
            let text = format!("several clusters run on this machine; say which:\n{}", list.join("\n"));
            Err(Failure::new(code::USAGE, text).into())
        }
    }
}

async fn from_store(named: &Named) -> anyhow::Result<Target> {
    let scope = &named.scope;
    let store = store::open(&named.address, &named.prefix(), false).await?;
    let reading = matriarch_agent::view::read(&store.read().await?, None, jiff::Timestamp::now());
    let members: Vec<Endpoint> = reading
        .view
        .members
        .iter()
        .map(|(name, member)| Endpoint {
            name: name.to_string(),
            api_url: member.api_url.trim_end_matches("/patroni").to_owned(),
        })
        .collect();
    if members.is_empty() {
        let text = format!(
            "{} knows no living member of cluster '{scope}'; is --scope right, and do its agents run?",
            store.describe()
        );
        return Err(Failure::new(code::UNAVAILABLE, text).into());
    }
    Ok(Target {
        cluster: scope.clone(),
        members,
        authorization: named.authorization.clone(),
        tls: named.peers.clone(),
        connection: Connection { superuser: "postgres".to_owned(), ..Connection::default() },
    })
}

/// Where running clusters of this user leave a note.
fn notes() -> PathBuf {
    let user = rustix::process::getuid().as_raw();
    std::env::temp_dir().join(format!("matriarch-{user}"))
}

/// Leaves a note that a cluster runs here; it is gone when the value is dropped.
pub struct RunningNote(PathBuf);

impl RunningNote {
    /// Leaves the note.
    pub fn leave(dir: &Path) -> anyhow::Result<RunningNote> {
        let notes = notes();
        std::fs::create_dir_all(&notes).with_context(|| format!("cannot create {}", notes.display()))?;
        let path = notes.join(format!("{}.running", std::process::id()));
        std::fs::write(&path, dir.as_os_str().as_encoded_bytes())
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(RunningNote(path))
    }
}

impl Drop for RunningNote {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn running() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(notes()).into_iter().flatten().flatten() {
        let path = entry.path();
        let pid = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse::<u32>().ok());
        let alive = pid.is_some_and(|pid| Path::new(&format!("/proc/{pid}")).exists());
        match std::fs::read_to_string(&path) {
            Ok(dir) if alive => found.push(PathBuf::from(dir)),
            _ => {
                let _ = std::fs::remove_file(&path);
            }
        }
    }
    found.sort();
    found.dedup();
    found
}
