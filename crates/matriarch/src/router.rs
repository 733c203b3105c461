//! Tells the cluster that a proxy or a pooler is there, and whether it holds new work: `routers/<id>`, leased.
//!
//! A leader that hands over waits for each of them. One whose record cannot be written is not waited for.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use matriarch_core::record::{RouterKind, RouterRecord, key};
use matriarch_dcs::{LeaseId, Store, StoreError, Txn};
use matriarch_proxy::Stats;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::routes::Handover;

/// How long the record of a router that is gone still counts.
const TTL: Duration = Duration::from_secs(4);
/// How long the record of a router that goes on in another program may stay as it is: it is renewed each third of its life.
pub const UNHEARD: Duration = Duration::from_secs(2);
const RETRY: Duration = Duration::from_secs(1);
/// How long sessions that are being opened are waited for; a client may sit before a password prompt.
const OPENING: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(2);

/// Name of this host as others may know it.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Where clients reach a listener: its address, or this host's name when it listens on all.
pub fn address(listen: SocketAddr) -> String {
    if listen.ip().is_unspecified() { format!("{}:{}", host_name(), listen.port()) } else { listen.to_string() }
}

/// Announces a proxy until `stop`: it holds as soon as its routes say so, and says it when the sessions that it has begun to
/// open are through, so that none is cut while it authenticates.
pub fn announce_proxy(
    store: Arc<dyn Store>,
    listen: SocketAddr,
    stats: Arc<Stats>,
    mut handover: watch::Receiver<Handover>,
    stop: CancellationToken,
) -> JoinHandle<()> {
    let address = address(listen);
    let record = move |holds| RouterRecord {
        kind: RouterKind::Proxy,
        address: address.clone(),
        network: matriarch_agent::network::id(),
        holds,
        problem: None,
    };
    let (sender, receiver) = watch::channel(record(None));
    tokio::spawn(async move {
        loop {
            let holds = handover.borrow_and_update().proxies;
            if holds.is_some() {
                let opened = timeout(OPENING, async {
                    while stats.opening() > 0 {
                        sleep(LOOK).await;
                    }
                });
                tokio::select! {
                    _ = opened => {}
                    Ok(()) = handover.changed() => continue,
                }
            }
            sender.send_replace(record(holds));
            if handover.changed().await.is_err() {
                return;
            }
        }
    });
    tokio::spawn(announce(store, format!("{}-{}", host_name(), listen.port()), receiver, stop))
}

/// Keeps a router's record in the store alive and up to date, until `stop` or the record's owner is gone.
pub async fn announce(
    store: Arc<dyn Store>,
    id: String,
    mut record: watch::Receiver<RouterRecord>,
    stop: CancellationToken,
) {
    let key = key::router(&id);
    let mut lease = None;
    let mut complained = false;
    let mut renewal = Instant::now();
    record.mark_changed();
    loop {
        let changed = tokio::select! {
            () = stop.cancelled() => break,
            changed = record.changed() => match changed {
                Ok(()) => true,
                Err(_) => break,
            },
            () = sleep_until(renewal) => false,
        };
        let current = record.borrow_and_update().clone();
        match tell(&*store, &key, &current, &mut lease, changed).await {
            Ok(()) => {
                complained = false;
                renewal = Instant::now() + TTL / 3;
            }
            Err(error) => {
                if !std::mem::replace(&mut complained, true) {
                    tracing::warn!("cannot announce this router, so that switchovers do not wait for it: {error}");
                }
                lease = None;
                renewal = Instant::now() + RETRY;
            }
        }
    }
    if let Some(lease) = lease {
        // A store that does not answer ends it by itself.
        let _ = timeout(RETRY, store.revoke(lease)).await;
    }
}

/// The record may be gone although its lease lives: somebody wiped the store.
async fn renew(store: &dyn Store, key: &str, held: LeaseId, put: impl Fn(LeaseId) -> Txn) -> Result<(), StoreError> {
    store.keep_alive(held).await?;
    if store.is_under(key, held).await? { Ok(()) } else { store.commit(put(held)).await.map(drop) }
}

async fn tell(
    store: &dyn Store,
    key: &str,
    record: &RouterRecord,
    lease: &mut Option<LeaseId>,
    changed: bool,
) -> Result<(), StoreError> {
    let put = |lease| {
        let text = serde_json::to_string(record).expect("a record is plain data");
        Txn::new().put_leased(key, text, lease)
    };
    if let Some(held) = *lease {
        let done = match changed {
            true => store.commit(put(held)).await.map(drop),
            false => renew(store, key, held, put).await,
        };
        match done {
            Err(StoreError::LeaseGone { .. }) => *lease = None,
            other => return other,
        }
    }
    let new = store.grant(TTL).await?;
    *lease = Some(new);
    store.commit(put(new)).await.map(drop)
}
