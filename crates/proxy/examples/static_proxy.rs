//! A proxy with fixed routes, for measuring and for trying things out.
//!
//! `static_proxy --read-write 127.0.0.1:6000 --primary 127.0.0.1:5432 [--socket /tmp/.s.PGSQL.5432]
//! [--read-only 127.0.0.1:6001 --replica 127.0.0.1:5433]... [--tls] [--threads N]`

use std::sync::Arc;

use matriarch_proxy::{Backend, Proxy, ProxyConfig, Routes};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

type Anyhow = Box<dyn std::error::Error>;

fn backend(name: &str, tcp: String) -> Backend {
    Backend { name: name.to_owned(), tcp, unix_socket: None, lag_bytes: None, tls: false }
}

fn settings() -> Result<(ProxyConfig, Routes), Anyhow> {
    let mut config = ProxyConfig::default();
    let mut routes = Routes { generation: 1, ..Routes::default() };
    let (mut socket, mut tls) = (None, false);
    let mut args = std::env::args().skip(1);
    while let Some(flag) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{flag} needs a value"));
        match flag.as_str() {
            "--read-write" => config.read_write = Some(vec![value()?.parse()?]),
            "--read-only" => config.read_only = Some(vec![value()?.parse()?]),
            "--primary" => routes.primary = Some(backend("primary", value()?)),
            "--replica" => {
                let name = format!("replica{}", routes.replicas.len());
                routes.replicas.push(backend(&name, value()?));
            }
            "--socket" => socket = Some(value()?.into()),
            "--threads" => config.relay_threads = value()?.parse()?,
            "--tls" => tls = true,
            other => return Err(format!("unknown flag {other}").into()),
        }
    }
    if let Some(primary) = &mut routes.primary {
        primary.unix_socket = socket;
    }
    routes.primary.iter_mut().chain(&mut routes.replicas).for_each(|b| b.tls = tls);
    Ok((config, routes))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Anyhow> {
    let (config, routes) = settings()?;
    let (_feeder, routes) = watch::channel(Arc::new(routes));
    let proxy = Proxy::bind(config).await?;
    println!("listening on {:?}", proxy.addresses());
    let stop = CancellationToken::new();
    let on_signal = stop.clone();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            on_signal.cancel();
        }
    });
    proxy.run(routes, stop).await?;
    Ok(())
}
