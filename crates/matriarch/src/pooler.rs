//! Poolers beside the proxy: PgBouncers of our own, and registered ones that others run.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use matriarch_core::record::{RouterKind, RouterRecord};
use matriarch_dcs::Store;
use matriarch_pooler::{Admin, Outlook, Own, Pooler, PoolerConfig, Report, Secrets, Server, Serves, settings};
use matriarch_postgres::{Owner, owner};
use matriarch_proxy::{Backend, Routes};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::cluster::{self, Which};
use crate::router;
use crate::routes::News;

/// Title in the help.
const POOLER: &str = "PgBouncer";

/// PgBouncer, as `proxy` runs or pauses it.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = POOLER)]
pub struct PoolerArgs {
    /// Run a PgBouncer whose clients reach the primary here; may be given several times, with one port
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub pooler: Vec<SocketAddr>,
    /// Run a PgBouncer whose clients reach a replica here
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub pooler_read_only: Vec<SocketAddr>,
    /// Where its files are [default: the directory of a cluster made by `matriarch up`]
    #[arg(long, value_name = "DIR")]
    pub pooler_dir: Option<PathBuf>,
    /// A setting of PgBouncer; may be given several times
    #[arg(long, value_name = "NAME=VALUE")]
    pub pooler_set: Vec<String>,
    /// PgBouncer's program [default: the one installed]
    #[arg(long, value_name = "FILE")]
    pub pooler_program: Option<PathBuf>,
    /// The system's user it runs as, when this is root [default: postgres, else matriarch]
    #[arg(long, value_name = "NAME")]
    pub pooler_user: Option<String>,
    /// Role that asks PostgreSQL for the roles' secrets [default: the superuser of a cluster made by `matriarch up`]
    #[arg(long, value_name = "ROLE", requires = "pooler_role_password_file")]
    pub pooler_role: Option<String>,
    /// File with that role's password
    #[arg(long, value_name = "FILE", requires = "pooler_role")]
    pub pooler_role_password_file: Option<PathBuf>,
    /// File of roles and secrets that you keep yourself, in PgBouncer's format, instead of asking PostgreSQL
    #[arg(long, value_name = "FILE", conflicts_with = "pooler_role")]
    pub pooler_auth_file: Option<PathBuf>,
    /// A PgBouncer that others run, to be paused during switchovers; may be given several times
    #[arg(long, value_name = "HOST:PORT[/DATABASE,…]", requires = "pooler_admin")]
    pub pooler_address: Vec<Registered>,
    /// Its admin user
    #[arg(long, value_name = "NAME", requires = "pooler_address")]
    pub pooler_admin: Option<String>,
    /// File with the admin user's password
    #[arg(long, value_name = "FILE", requires = "pooler_admin")]
    pub pooler_admin_password_file: Option<PathBuf>,
}

/// `HOST:PORT` of a PgBouncer, with the databases to pause there; all when there are none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registered {
    host: String,
    port: u16,
    databases: Vec<String>,
}

impl std::str::FromStr for Registered {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (place, databases) = text.split_once('/').unwrap_or((text, ""));
        let wrong = || format!("'{text}' is no address of a PgBouncer; write HOST:PORT or HOST:PORT/DATABASE");
        let (host, port) = place.rsplit_once(':').ok_or_else(wrong)?;
        let port = port.parse().map_err(|_| wrong())?;
        let host = host.trim_matches(['[', ']']);
        if host.is_empty() {
            return Err(wrong());
        }
        let databases = databases.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect();
        Ok(Registered { host: host.to_owned(), port, databases })
    }
}

/// Poolers that are ready to run.
#[derive(Default)]
pub struct Poolers {
    own: Vec<Own>,
    registered: Vec<(Admin, Vec<String>)>,
}

impl PoolerArgs {
    /// Nothing is asked for.
    pub fn is_empty(&self) -> bool {
        self.pooler.is_empty() && self.pooler_read_only.is_empty() && self.pooler_address.is_empty()
    }

    /// Finds the program, makes the directories and reads the passwords.
    pub fn prepare(&self, which: &Which) -> anyhow::Result<Poolers> {
        let mut poolers = Poolers { registered: self.registered()?, ..Poolers::default() };
        let listens = [(&self.pooler, Serves::Primary), (&self.pooler_read_only, Serves::Replica)];
        let listens = listens.into_iter().filter(|(listen, _)| !listen.is_empty());
        for (listen, serves) in listens {
            poolers.own.push(Own::prepare(self.config(which, listen, serves)?)?);
        }
        Ok(poolers)
    }

    fn config(&self, which: &Which, listen: &[SocketAddr], serves: Serves) -> anyhow::Result<PoolerConfig> {
        let port = listen.first().map_or(0, SocketAddr::port);
        let dir = match &self.pooler_dir {
            Some(dir) => dir.clone(),
            None if which.store.is_some() => {
                anyhow::bail!("a pooler needs a directory for its files: give --pooler-dir DIR")
            }
            None => cluster::local(which)?.dir.join("pooler"),
        };
        let owner = Owner::choose(self.pooler_user.as_deref())?;
        let dir = std::path::absolute(&dir)?.join(port.to_string());
        if let Some(above) = dir.parent() {
            std::fs::create_dir_all(above).with_context(|| format!("cannot create {}", above.display()))?;
        }
        if let Some(owner) = &owner {
            owner::check_reachable(&dir, owner)?;
        }
        let pair = |text: &String| {
            let (name, value) =
                text.split_once('=').with_context(|| format!("--pooler-set {text} is not NAME=VALUE"))?;
            settings::check_setting(name, value).map_err(|error| anyhow::anyhow!("--pooler-set {text}: {error}"))?;
            anyhow::Ok((name.to_owned(), value.to_owned()))
        };
        Ok(PoolerConfig {
            program: matriarch_pooler::find_program(self.pooler_program.as_deref()).context("--pooler")?,
            dir,
            listen: listen.to_vec(),
            serves,
            settings: self.pooler_set.iter().map(pair).collect::<anyhow::Result<_>>()?,
            secrets: self.secrets(which)?,
            owner,
        })
    }

    fn secrets(&self, which: &Which) -> anyhow::Result<Secrets> {
        if let Some(file) = &self.pooler_auth_file {
            return Ok(Secrets::File(std::path::absolute(file)?));
        }
        if let (Some(user), Some(file)) = (&self.pooler_role, &self.pooler_role_password_file) {
            return Ok(Secrets::Query { user: user.clone(), password: password(file)? });
        }
        anyhow::ensure!(
            which.store.is_none(),
            "a pooler must know the roles' passwords: give --pooler-role and --pooler-role-password-file, or \
             --pooler-auth-file"
        );
        let cluster = cluster::local(which)?;
        let password = crate::up::superuser_password(&cluster.dir)?;
        Ok(Secrets::Query { user: cluster.superuser, password })
    }

    fn registered(&self) -> anyhow::Result<Vec<(Admin, Vec<String>)>> {
        let Some(user) = &self.pooler_admin else { return Ok(Vec::new()) };
        let password = self.pooler_admin_password_file.as_deref().map(password).transpose()?.unwrap_or_default();
        let admin = |registered: &Registered| Admin {
            host: registered.host.clone(),
            port: registered.port,
            socket: None,
            user: user.clone(),
            password: password.clone(),
        };
        Ok(self.pooler_address.iter().map(|registered| (admin(registered), registered.databases.clone())).collect())
    }
}

fn password(file: &Path) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("the password file {} cannot be read", file.display()))?;
    Ok(text.trim_end_matches(['\n', '\r']).to_owned())
}

impl Poolers {
    /// Runs them until `stop`; each that leads to the primary has a say in switchovers.
    pub fn run(self, store: &Arc<dyn Store>, news: &News, stop: &CancellationToken, drain: Duration) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        if self.own.is_empty() && self.registered.is_empty() {
            return tasks;
        }
        let outlook = outlook(news);
        for own in self.own {
            let (sender, report) = watch::channel(Report::default());
            if own.serves() == Serves::Primary {
                let address = router::address(own.listen());
                let id = format!("{}-{}", router::host_name(), own.listen().port());
                tasks.spawn(announce(store.clone(), id, address, report, stop.clone()));
            }
            let pooler = Pooler::own(own, outlook.clone(), sender);
            tasks.spawn(matriarch_pooler::attend(pooler, stop.clone(), drain));
        }
        for (admin, databases) in self.registered {
            let (sender, report) = watch::channel(Report::default());
            let address = format!("{}:{}", admin.host, admin.port);
            // Several proxies may know of the same one.
            let id = format!("{}-{}-{address}", router::host_name(), std::process::id());
            tasks.spawn(announce(store.clone(), id, address, report, stop.clone()));
            let pooler = Pooler::registered(admin, databases, outlook.clone(), sender);
            tasks.spawn(matriarch_pooler::attend(pooler, stop.clone(), drain));
        }
        tasks
    }
}

async fn announce(
    store: Arc<dyn Store>,
    id: String,
    address: String,
    mut report: watch::Receiver<Report>,
    stop: CancellationToken,
) {
    let network = matriarch_agent::network::id();
    let record = |report: &Report| RouterRecord {
        kind: RouterKind::Pooler,
        address: address.clone(),
        network: network.clone(),
        holds: report.holds,
        problem: report.problem.clone(),
    };
    let (sender, receiver) = watch::channel(record(&report.borrow_and_update()));
    let follow = async {
        while report.changed().await.is_ok() {
            sender.send_replace(record(&report.borrow_and_update()));
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = follow => {}
        () = router::announce(store, id, receiver, stop) => {}
    }
}

/// Routes and announced switchovers as poolers want them.
fn outlook(news: &News) -> watch::Receiver<Outlook> {
    let (mut routes, mut handover) = (news.routes.clone(), news.handover.clone());
    let (sender, receiver) = watch::channel(Outlook::default());
    tokio::spawn(async move {
        loop {
            let announced = handover.borrow_and_update().poolers;
            let next = from_routes(&routes.borrow_and_update(), announced);
            sender.send_if_modified(|current| {
                let changed = *current != next;
                *current = next;
                changed
            });
            let ended = tokio::select! {
                changed = routes.changed() => changed.is_err(),
                changed = handover.changed() => changed.is_err(),
            };
            if ended || sender.is_closed() {
                return;
            }
        }
    });
    receiver
}

fn from_routes(routes: &Routes, handover: Option<u64>) -> Outlook {
    Outlook {
        generation: routes.generation,
        primary: routes.primary.as_ref().and_then(server),
        replicas: routes.replicas.iter().filter_map(server).collect(),
        handover,
    }
}

fn server(backend: &Backend) -> Option<Server> {
    let (host, port) = backend.tcp.rsplit_once(':')?;
    let host = host.trim_matches(['[', ']']).to_owned();
    Some(Server { host, port: port.parse().ok()?, socket: backend.unix_socket.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_poolers() {
        let read = |text: &str| text.parse::<Registered>();
        let plain = read("pool:6432").expect("it is one");
        assert_eq!((plain.host.as_str(), plain.port, plain.databases.len()), ("pool", 6432, 0));
        assert_eq!(read("[::1]:6432/a,b").expect("it is one").databases, ["a", "b"]);
        for wrong in ["pool", ":1", "pool:x", "pool:70000"] {
            assert!(read(wrong).is_err_and(|error| error.contains("HOST:PORT")), "{wrong}");
        }
    }
}
