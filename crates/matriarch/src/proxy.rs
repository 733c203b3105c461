//! `matriarch proxy`: routes sessions, following the store.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use matriarch_config::{Listen, LocalConfig};
use matriarch_dcs::Store;
use matriarch_proxy::{Luggage, ProxyConfig};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::cluster::{self, Which};
use crate::logging::{self, LogFormat};
use crate::pooler::PoolerArgs;
use crate::routes::Handover;
use crate::routing::Routing;
use crate::upgrade::{self, Asked, Estate};
use crate::{pooler, store};

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
    /// Only say whether these arguments can be used
    #[arg(long, hide = true)]
    pub check: bool,
}

/// Runs until it is told to stop, then drains; or until another program takes its process over.
pub async fn run(args: ProxyArgs, which: Which) -> anyhow::Result<()> {
    let mut asked = Asked::listen()?;
    anyhow::ensure!(
        !args.read_write.is_empty() || !args.read_only.is_empty() || !args.pooler.is_empty(),
        "a proxy needs a port: give --read-write ADDRESS:PORT, --read-only ADDRESS:PORT or both, or a PgBouncer with --pooler \
         or --pooler-address"
    );
    let place = cluster::find_store(&which).await?;
    let config = config(&args)?;
    if args.check {
        return Ok(());
    }
    logging::start(args.log_format, &args.log_level);
    let Estate { handover, proxy: left, .. } = upgrade::inherited();
    let drain = config.drain_timeout;
    let routes = !args.read_write.is_empty() || !args.read_only.is_empty();
    let stop = CancellationToken::new();
    let routing = Routing::start(routes.then_some(config), drain, left, handover, stop.clone()).await?;
    let movable = routing.movable();
    let poolers = args.pooler.prepare(&which)?;
    let told = stop.clone();
    tokio::spawn(async move {
        stop_asked(args.supervised).await;
        told.cancel();
    });
    let served = async {
        let followed = match stop.run_until_cancelled(wait_for_store(&place, &routing)).await {
            Some(store) => {
                tracing::info!("routing for {} from {}", store.describe(), addresses(&args));
                routing.follow(store, poolers)
            }
            None => routing.unfollowed(),
        };
        let ended = followed.served.await;
        stop.cancel();
        followed.others.await?;
        anyhow::Ok(ended??)
    };
    let again: Vec<OsString> = std::env::args_os().skip(1).chain(["--check".into()]).collect();
    let taken_over = async {
        asked.for_working(&again).await;
        tracing::info!("making way for another program");
        (movable.leave().await, asked.program())
    };
    tokio::select! {
        // First: with its connections given away, the proxy ends.
        biased;
        (estate, program) = taken_over => Err(upgrade::exec(program, estate)),
        ended = served => ended,
    }
}

/// A proxy may be started before its cluster is.
async fn wait_for_store(place: &cluster::Place, routing: &Routing) -> Arc<dyn Store> {
    let mut said = None;
    loop {
        match store::open(&place.address, &place.prefix, false).await {
            Ok(store) => return store,
            Err(error) => {
                let text = format!("{error:#}");
                if said.as_ref() != Some(&text) {
                    tracing::warn!("waiting for the cluster's store: {text}");
                    routing.stalled(format!("the cluster's store is not there: {text}"));
                    said = Some(text);
                }
            }
        }
        tokio::time::sleep(STORE_AGAIN).await;
    }
}

/// The proxy of an agent, by its local configuration: listens and serves from now on, until `stop`, and then drains.
pub async fn beside_agent(
    config: &matriarch_config::Proxy,
    left: Option<Luggage>,
    handover: Handover,
    stop: CancellationToken,
) -> anyhow::Result<Routing> {
    let routes = config.read_write.is_some() || config.read_only.is_some();
    let proxy = routes.then(|| from_file(config));
    Ok(Routing::start(proxy, config.drain_timeout, left, handover, stop).await?)
}

/// Lets an agent's proxy follow the store, and runs its poolers. Ends when it has drained.
pub fn follow_beside_agent(
    routing: Routing,
    local: &LocalConfig,
    config: &matriarch_config::Proxy,
    store: Arc<dyn Store>,
) -> anyhow::Result<JoinHandle<()>> {
    let poolers = config.pooler.as_ref().map(|pooler| pooler::file::prepare(local, pooler)).transpose()?;
    let followed = routing.follow(store, poolers.unwrap_or_default());
    Ok(tokio::spawn(async move {
        if let Ok(Err(error)) = followed.served.await {
            tracing::error!("the proxy has ended: {error}");
        }
        let _ = followed.others.await;
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
