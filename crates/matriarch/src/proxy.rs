//! `matriarch proxy`: routes sessions, following the store.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use matriarch_config::{Listen, LocalConfig};
use matriarch_dcs::Store;
use matriarch_proxy::{Proxy, ProxyConfig, Stats};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::cluster::{self, Which};
use crate::logging::{self, LogFormat};
use crate::pooler::PoolerArgs;
use crate::routes::{Feed, News};
use crate::{pooler, router, routes, store};

/// Between two looks for a store that is not there yet.
const STORE_AGAIN: Duration = Duration::from_millis(500);

/// `proxy`.
#[derive(Args, Clone, Debug)]
#[command(
    after_long_help = "Examples:\n  matriarch proxy --store sqlite:/srv/demo/store.db --scope demo --read-write 127.0.0.1:5432\n  \
    matriarch proxy --dir ./.matriarch --read-write 0.0.0.0:6432 --read-only 0.0.0.0:6433\n  \
    matriarch proxy --dir ./.matriarch --pooler 0.0.0.0:6432"
)]
pub struct ProxyArgs {
    /// Where sessions reach the primary; may be given several times
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub read_write: Vec<SocketAddr>,
    /// Where sessions reach the replicas; may be given several times
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub read_only: Vec<SocketAddr>,
    /// Seconds that a new session waits for a primary
    #[arg(long, default_value_t = 30.0, value_name = "SECONDS")]
    pub hold_timeout: f64,
    /// Most sessions that wait at the same time
    #[arg(long, default_value_t = 10_000, value_name = "NUMBER")]
    pub hold_limit: usize,
    /// Most sessions on both ports together
    #[arg(long, default_value_t = 10_000, value_name = "NUMBER")]
    pub max_connections: usize,
    /// Bytes a replica may be behind and still get new sessions
    #[arg(long, default_value_t = 64 * 1024 * 1024, value_name = "BYTES")]
    pub maximum_lag: u64,
    /// The read-only port uses the primary while no replica will do
    #[arg(long)]
    pub read_only_falls_back: bool,
    /// Seconds that open sessions may go on while the proxy stops
    #[arg(long, default_value_t = 10.0, value_name = "SECONDS")]
    pub drain_timeout: f64,
    /// Connections begin with a PROXY protocol header (1 or 2)
    #[arg(long)]
    pub accept_proxy_protocol: bool,
    #[command(flatten)]
    pub pooler: PoolerArgs,
    /// Form of the log
    #[arg(long, value_enum, default_value_t)]
    pub log_format: LogFormat,
    /// Least severity that is logged: error, warn, info, debug or trace
    #[arg(long, default_value = "info", value_name = "LEVEL")]
    pub log_level: String,
    /// End when the standard input ends: whoever started this process is gone
    #[arg(long, hide = true)]
    pub supervised: bool,
}

/// Runs until it is told to stop, then drains.
pub async fn run(args: ProxyArgs, which: Which) -> anyhow::Result<()> {
    logging::start(args.log_format, &args.log_level);
    anyhow::ensure!(
        !args.read_write.is_empty() || !args.read_only.is_empty() || !args.pooler.is_empty(),
        "a proxy needs a port: give --read-write ADDRESS:PORT, --read-only ADDRESS:PORT or both, or a PgBouncer with --pooler \
         or --pooler-address"
    );
    let place = cluster::find_store(&which).await?;
    let config = config(&args)?;
    let drain = config.drain_timeout;
    let routes = !args.read_write.is_empty() || !args.read_only.is_empty();
    let proxy = if routes { Some(Proxy::bind(config).await?) } else { None };
    let poolers = args.pooler.prepare(&which)?;
    let stop = CancellationToken::new();
    let told = stop.clone();
    tokio::spawn(async move {
        stop_asked(args.supervised).await;
        told.cancel();
    });
    let (news, feed) = routes::news();
    let (seen, told) = (news.routes.clone(), stop.clone());
    let listen = proxy.as_ref().and_then(|proxy| Some((*proxy.addresses().read_write.first()?, proxy.stats())));
    let followed = async {
        let Some(store) = told.run_until_cancelled(wait_for_store(&place, &feed)).await else { return };
        tracing::info!("routing for {} from {}", store.describe(), addresses(&args));
        let announced = listen.map(|(listen, opened)| announce(listen, opened, &store, &news, &told));
        let poolers = poolers.run(&store, &news, &told, drain);
        feed.follow(store);
        told.cancelled().await;
        if let Some(announced) = announced {
            let _ = announced.await;
        }
        poolers.join_all().await;
    };
    let served = async {
        let Some(proxy) = proxy else { return Ok(()) };
        let ended = proxy.run(seen, stop.clone()).await;
        stop.cancel();
        ended
    };
    let ((), served) = tokio::join!(followed, served);
    Ok(served?)
}

/// A proxy may be started before its cluster is.
async fn wait_for_store(place: &cluster::Place, feed: &Feed) -> Arc<dyn Store> {
    let mut said = None;
    loop {
        match store::open(&place.address, &place.prefix, false).await {
            Ok(store) => return store,
            Err(error) => {
                let text = format!("{error:#}");
                if said.as_ref() != Some(&text) {
                    tracing::warn!("waiting for the cluster's store: {text}");
                    feed.stalled(format!("the cluster's store is not there: {text}"));
                    said = Some(text);
                }
            }
        }
        tokio::time::sleep(STORE_AGAIN).await;
    }
}

/// The proxy and the poolers of an agent, by its local configuration: listens now, runs until `stop`, then drains.
pub async fn beside_agent(
    local: &LocalConfig,
    config: &matriarch_config::Proxy,
    store: Arc<dyn Store>,
    stop: CancellationToken,
) -> anyhow::Result<JoinHandle<()>> {
    let routes = config.read_write.is_some() || config.read_only.is_some();
    let proxy = if routes { Some(Proxy::bind(from_file(config)).await?) } else { None };
    let poolers = config.pooler.as_ref().map(|pooler| pooler::file::prepare(local, pooler)).transpose()?;
    let news = routes::follow(store.clone());
    let listen = proxy.as_ref().and_then(|proxy| Some((*proxy.addresses().read_write.first()?, proxy.stats())));
    let announced = listen.map(|(listen, opened)| announce(listen, opened, &store, &news, &stop));
    let poolers = poolers.unwrap_or_default().run(&store, &news, &stop, config.drain_timeout);
    Ok(tokio::spawn(async move {
        let served = async {
            let Some(proxy) = proxy else { return };
            if let Err(error) = proxy.run(news.routes, stop).await {
                tracing::error!("the proxy has ended: {error}");
            }
        };
        let announced = async {
            if let Some(announced) = announced {
                let _ = announced.await;
            }
        };
        tokio::join!(served, announced, poolers.join_all());
    }))
}

fn from_file(config: &matriarch_config::Proxy) -> ProxyConfig {
    let addresses = |listen: &Option<Listen>| listen.as_ref().map(Listen::socket_addrs);
    ProxyConfig {
        read_write: addresses(&config.read_write),
        read_only: addresses(&config.read_only),
        hold_timeout: config.hold_timeout,
        hold_limit: config.hold_limit,
        max_connections: config.max_connections,
        max_replica_lag_bytes: Some(config.maximum_lag),
        read_only_falls_back_to_primary: config.read_only_falls_back,
        connect_timeout: config.connect_timeout,
        startup_timeout: config.startup_timeout,
        drain_timeout: config.drain_timeout,
        accept_proxy_protocol: config.accept_proxy_protocol,
        send_proxy_protocol: config.send_proxy_protocol,
        ..ProxyConfig::default()
    }
}

/// A proxy that leads to the primary has a say in switchovers.
fn announce(
    listen: SocketAddr,
    stats: Arc<Stats>,
    store: &Arc<dyn Store>,
    news: &News,
    stop: &CancellationToken,
) -> JoinHandle<()> {
    router::announce_proxy(store.clone(), listen, stats, news.handover.clone(), stop.clone())
}

fn config(args: &ProxyArgs) -> anyhow::Result<ProxyConfig> {
    let seconds = |name: &str, value: f64| {
        Duration::try_from_secs_f64(value).with_context(|| format!("--{name} {value} is not a number of seconds"))
    };
    Ok(ProxyConfig {
        read_write: (!args.read_write.is_empty()).then(|| args.read_write.clone()),
        read_only: (!args.read_only.is_empty()).then(|| args.read_only.clone()),
        hold_timeout: seconds("hold-timeout", args.hold_timeout)?,
        hold_limit: args.hold_limit,
        max_connections: args.max_connections,
        max_replica_lag_bytes: Some(args.maximum_lag),
        read_only_falls_back_to_primary: args.read_only_falls_back,
        drain_timeout: seconds("drain-timeout", args.drain_timeout)?,
        accept_proxy_protocol: args.accept_proxy_protocol,
        ..ProxyConfig::default()
    })
}

fn addresses(args: &ProxyArgs) -> String {
    let pooler = &args.pooler;
    let all = args.read_write.iter().chain(&args.read_only).chain(&pooler.pooler).chain(&pooler.pooler_read_only);
    all.map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// SIGTERM, SIGINT, or the end of whoever started us.
pub async fn stop_asked(supervised: bool) {
    let mut terminate = signal(SignalKind::terminate()).expect("SIGTERM can be handled");
    let mut interrupt = signal(SignalKind::interrupt()).expect("SIGINT can be handled");
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = input_ended(), if supervised => {}
    }
}

async fn input_ended() {
    use tokio::io::AsyncReadExt;
    // A pipe read without a helper thread, which would keep the process from ending.
    let Ok(mut input) = tokio::net::unix::pipe::OpenOptions::new().open_receiver("/dev/stdin") else { return };
    let mut buffer = [0u8; 64];
    while input.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
}
