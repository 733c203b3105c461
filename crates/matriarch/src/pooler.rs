//! Poolers beside the proxy: PgBouncers of our own, and registered ones that others run.

mod args;
pub mod file;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use matriarch_config::PoolerAddress;
use matriarch_core::record::{RouterKind, RouterRecord};
use matriarch_dcs::Store;
use matriarch_pooler::{Admin, Outlook, Own, Pooler, PoolerConfig, Report, Secrets, Server, Serves};
use matriarch_postgres::{Owner, owner};
use matriarch_proxy::{Backend, Routes};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use self::args::PoolerArgs;
use crate::router;
use crate::routes::News;

/// Poolers that are ready to run.
#[derive(Default)]
pub struct Poolers {
    own: Vec<Own>,
    registered: Vec<(Admin, Vec<String>)>,
}

/// What our own PgBouncers have in common, whoever asked for them.
struct Wanted {
    program: PathBuf,
    /// Absolute; each has a folder named after its port in it.
    dir: PathBuf,
    /// Checked.
    settings: BTreeMap<String, String>,
    secrets: Secrets,
    owner: Option<Owner>,
}

impl Poolers {
    fn run_own(&mut self, wanted: Wanted, listen: Vec<SocketAddr>, serves: Serves) -> anyhow::Result<()> {
        let Wanted { program, dir, settings, secrets, owner } = wanted;
        std::fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let dir = dir.join(listen.first().map_or(0, SocketAddr::port).to_string());
        if let Some(owner) = &owner {
            owner::check_reachable(&dir, owner)?;
        }
        self.own.push(Own::prepare(PoolerConfig { program, dir, listen, serves, settings, secrets, owner })?);
        Ok(())
    }

    fn register(&mut self, places: &[PoolerAddress], user: &str, password: &str) {
        self.registered.extend(places.iter().map(|place| {
            let admin = Admin {
                host: place.address.host.clone(),
                port: place.address.port,
                socket: None,
                user: user.to_owned(),
                password: password.to_owned(),
            };
            (admin, place.databases.clone())
        }));
    }
}

impl Poolers {
    /// Runs them until `stop`; each that leads to the primary has a say in switchovers.
    /// What was known of one that goes on (`resumed`) stays in the store until more is known.
    pub fn run(
        self,
        store: &Arc<dyn Store>,
        news: &News,
        stop: &CancellationToken,
        drain: Duration,
        resumed: bool,
    ) -> JoinSet<()> {
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
                tasks.spawn(announce(store.clone(), id, address, report, stop.clone(), resumed));
            }
            let pooler = Pooler::own(own, outlook.clone(), sender);
            tasks.spawn(matriarch_pooler::attend(pooler, stop.clone(), drain));
        }
        for (admin, databases) in self.registered {
            let (sender, report) = watch::channel(Report::default());
            let address = format!("{}:{}", admin.host, admin.port);
            // Several proxies may know of the same one.
            let id = format!("{}-{}-{address}", router::host_name(), std::process::id());
            tasks.spawn(announce(store.clone(), id, address, report, stop.clone(), resumed));
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
    resumed: bool,
) {
    if resumed {
        let _ = tokio::time::timeout(router::UNHEARD, report.changed()).await;
    }
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
